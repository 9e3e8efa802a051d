"""Zero-shot, local, federated and centralised on equal budgets: each row is a federation.

| row         | who trains                          | rounds |
|-------------|-------------------------------------|--------|
| zero_shot   | nobody                              | 0      |
| local       | one site alone, once for every site | all    |
| federated   | all sites                           | all    |
| centralized | one pooled site with all cases      | all    |

Every case is used for the same number of local steps in each row: with `train.steps` the pooled
site takes as many steps as all sites together, with `train.epochs` that follows by itself.
References are the federation with something changed: `scratch` trains every parameter from random
weights, `train_decoder` also trains and sends the mask decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsa_model.adapters import Full, Msa
from sim.config import SimulatedRun
from sim.sites import POOLED


@dataclass(frozen=True)
class Plan:
    """One federation of a comparison: which row it belongs to and where its run directory is."""

    row: str
    folder: Path
    config: SimulatedRun
    train_on: tuple[str, ...]


def plans(config: SimulatedRun, run: Path, sites: Sequence[str]) -> list[Plan]:
    """Every federation of the comparison, the main one in `run` itself."""
    everyone = tuple(sites)
    rows = run / "rows"
    untrained = config.model_copy(update={"rounds": 0})
    result = [Plan("zero_shot", rows / "zero_shot", untrained, everyone)]
    result.append(Plan("federated", run, config, everyone))
    if "local" in config.sim.rows:
        result += [Plan("local", rows / "local" / site, config, (site,)) for site in sites]
    if "centralized" in config.sim.rows:
        train = config.train
        if train.steps is not None:
            train = train.model_copy(update={"steps": train.steps * len(sites)})
        pooled = config.model_copy(update={"train": train})
        result.append(Plan("centralized", rows / "centralized", pooled, (POOLED,)))
    for name in config.sim.references:
        result.append(Plan(name, rows / name, reference(config, name), everyone))
    return result


def reference(config: SimulatedRun, name: str) -> SimulatedRun:
    """The configuration of a reference row."""
    if name == "scratch":
        model = config.model.model_copy(update={"weights": "random", "checkpoint": None})
        return config.model_copy(update={"model": model, "adapter": Full()})
    adapter = config.adapter if isinstance(config.adapter, Msa) else Msa()
    return config.model_copy(update={"adapter": adapter.model_copy(update={"train_decoder": True})})
