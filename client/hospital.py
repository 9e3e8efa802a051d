"""One hospital: its cases by part, its device, and what it answers to the coordinator."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from client.config import Limits
from medsa_model.build import Built, build
from medsa_model.config import RunConfig
from medsa_model.data.frames import Frames, Kept
from medsa_model.data.sample import Case
from medsa_model.errors import DataError
from medsa_model.evaluate import Evaluation, evaluate
from medsa_model.state import AdapterState, load_adapter_state
from medsa_model.train import FitResult, fit


@dataclass
class Site:
    """Opened once per process. `parts` are the cases of "train", "val" and "test".

    `checkpoint` is the site's own copy of the backbone's weights, `None` for the embedded one.
    `workers` are processes that prepare batches. Training frames are kept in memory, in `kept`.
    `classes` are the names of the structures in its masks, `None` when they are the run's own.
    `counted` is the file of `client/counted.py`; `None`, as in a simulation, counts nothing.
    """

    name: str
    parts: Mapping[str, Sequence[Case]]
    device: torch.device
    checkpoint: Path | None = None
    workers: int = 0
    kept: Kept = field(default_factory=dict, repr=False)
    classes: Sequence[str] | None = None
    limits: Limits = field(default_factory=Limits)
    counted: Path | None = None

    def built(self, config: RunConfig) -> Built:
        """The adapted model of this run on this site's device."""
        model = config.model.model_copy(update={"checkpoint": self.checkpoint})
        return build(model, config.adapter, config.seed, self.device)

    def frames(self, size: int) -> Frames:
        """The training cases in the model frame of `size` pixels."""
        return Frames(self.parts.get("train", ()), size, self.kept)


def train_site(site: Site, config: RunConfig, state: AdapterState, round_: int) -> FitResult:
    """Train from the global `state` in round `round_` (0 is the first)."""
    built = site.built(config)
    load_adapter_state(built.model, state)
    frames = site.frames(config.model.frame)
    if not frames:
        raise DataError(f"site {site.name}: there is no training case")
    return fit(
        built.model,
        frames,
        config.prompt.train,
        config.loss.build(),
        config.train,
        config.train.steps_for(len(frames)),
        round_ / config.rounds,
        (config.seed, zlib.crc32(site.name.encode()), round_),
        config.strategy.proximal,
        site.workers,
    )


def evaluate_site(site: Site, config: RunConfig, state: AdapterState, part: str) -> Evaluation:
    """Score the global `state` on the site's cases of `part`."""
    built = site.built(config)
    load_adapter_state(built.model, state)
    cases, kinds = site.parts.get(part, ()), config.prompt.evaluate
    return evaluate(built.model, cases, kinds, config.seed, config.train.precision)
