"""Zero-shot, local, federated and centralised on equal budgets: each row is a federation.

| row         | who trains                          | rounds |
|-------------|-------------------------------------|--------|
| zero_shot   | nobody                              | 0      |
| local       | one site alone, once for every site | all    |
| federated   | all sites                           | all    |
| centralized | one pooled site with all cases      | all    |

The rows take the same number of steps: the pooled site takes as many as all sites together. With
`train.epochs` every case is used about equally often in all rows (steps are rounded); with
`train.steps` the cases of small sites are used more often where sites train by themselves. `local`
and `centralized` are plain training: whatever the strategy, one site's mean is its own state.
References are the federation with something changed: `scratch` trains every parameter from random
weights at `sim.scratch_rate`, `train_decoder` also trains and sends the mask decoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsa_model.adapters import Full, Msa
from medsa_model.strategies import FedAvg
from sim.config import SimulatedRun
from sim.sites import POOLED


@dataclass(frozen=True)
class Plan:
    """One federation of a comparison: which row it belongs to and where its run directory is."""

    row: str
    folder: Path
    config: SimulatedRun
    train_on: tuple[str, ...]


def plans(
    config: SimulatedRun, run: Path, sites: Mapping[str, int], attackers: Sequence[str] = ()
) -> list[Plan]:
    """Every federation of the comparison, the main one in `run` itself.

    `sites` are the numbers of training cases by site; `attackers` train in the main one besides.
    """
    everyone = tuple(sites)
    plain = config.model_copy(update={"strategy": FedAvg()})
    rows = run / "rows"
    untrained = config.model_copy(update={"rounds": 0})
    result = [Plan("zero_shot", rows / "zero_shot", untrained, everyone)]
    result.append(Plan("federated", run, config, (*everyone, *attackers)))
    if "local" in config.sim.rows:
        result += [Plan("local", rows / "local" / site, plain, (site,)) for site in sites]
    if "centralized" in config.sim.rows:
        steps = sum(config.steps_for(cases) for cases in sites.values())
        if config.privacy:  # a step is on a share of all patients, wherever they are
            steps = config.steps_for(1)
        train = config.train.model_copy(update={"steps": steps, "epochs": None})
        everybodys = config.prompt.model_copy(
            update={"train": config.prompt.trained, "by_site": {}}
        )
        pooled = plain.model_copy(update={"train": train, "prompt": everybodys})
        result.append(Plan("centralized", rows / "centralized", pooled, (POOLED,)))
    for name in config.sim.references:
        result.append(Plan(name, rows / name, reference(config, name), everyone))
    return result


def reference(config: SimulatedRun, name: str) -> SimulatedRun:
    """The configuration of a reference row."""
    if name == "scratch":
        model = config.model.model_copy(update={"weights": "random", "checkpoint": None})
        train = config.train.model_copy(update={"rate": config.sim.scratch_rate})
        return config.model_copy(update={"model": model, "adapter": Full(), "train": train})
    adapter = config.adapter if isinstance(config.adapter, Msa) else Msa()
    return config.model_copy(update={"adapter": adapter.model_copy(update={"train_decoder": True})})
