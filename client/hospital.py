"""One hospital: its cases by part, its device, and what it answers to the coordinator."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch

from client.config import Limits
from medsa_model.build import Built, build
from medsa_model.config import RunConfig
from medsa_model.data.frames import Frames, Kept, TrainingBatches
from medsa_model.data.sample import Case
from medsa_model.data.transforms import to_frame
from medsa_model.data.volume_batches import VolumeBatches
from medsa_model.data.volume_frames import FramedVolume, to_volume_frame
from medsa_model.errors import DataError
from medsa_model.evaluate import Evaluation, evaluate
from medsa_model.evaluate_volumes import predict_volume
from medsa_model.logs import logger
from medsa_model.prefix_cache import PrefixCache, has_prefix
from medsa_model.privacy.accounting import NoisySteps
from medsa_model.privacy.fit import fit_privately
from medsa_model.privacy.patients import patients_of
from medsa_model.privacy.section import rounded_up
from medsa_model.state import AdapterState, load_adapter_state
from medsa_model.tensor_store import TensorStore
from medsa_model.train import FitResult, fit


@dataclass
class Site:
    """Opened once per process. `parts` are the cases of "train", "val" and "test".

    `checkpoint` is the site's own copy of the backbone's weights, `None` for the embedded one.
    `workers` are threads that prepare batches. Training frames are kept in memory, in `kept`,
    and what `cases_by_structure` has counted in them, in `counts`. `cache` keeps what the frozen
    first blocks of the encoder make of images; without one all is computed anew.
    `memory` is what training may take of the device in bytes, `None` for all there is.
    `classes` are the names of the structures in its masks, `None` when they are the run's own.
    `counted` is the file of `client/counted.py`; `None`, as in a simulation, counts nothing.
    `ledger` is that of differential privacy, without which the site takes part in no such run.
    `agreed` is the file with the settings of the run that the site agreed to.
    `audit` is the file of its audit log; `None`, as in a simulation, keeps none.
    `residues` is its folder for what rounding leaves out of updates; `None` keeps nothing of it.
    `results` is its folder for the adapters at the end of a run; `None` keeps none.
    """

    name: str
    parts: Mapping[str, Sequence[Case]]
    device: torch.device
    checkpoint: Path | None = None
    workers: int = 0
    kept: Kept = field(default_factory=dict, repr=False)
    kept_for: tuple[int, float | None] | None = None
    classes: Sequence[str] | None = None
    limits: Limits = field(default_factory=Limits)
    counted: Path | None = None
    ledger: Path | None = None
    audit: Path | None = None
    agreed: Path | None = None
    residues: Path | None = None
    results: Path | None = None
    cache: TensorStore | None = field(default=None, repr=False)
    memory: float | None = None
    counts: tuple[int, ...] | None = field(default=None, init=False, repr=False)

    @property
    def has_volumes(self) -> bool:
        """Whether its cases have slices."""
        return any(case.volume for cases in self.parts.values() for case in cases)

    def built(self, config: RunConfig) -> Built:
        """The adapted model of this run on this site's device."""
        model = config.model.model_copy(update={"checkpoint": self.checkpoint})
        return build(model, config.adapter, config.seed, self.device, config.named_classes)

    def batches(self, config: RunConfig, round_: int) -> TrainingBatches | VolumeBatches:
        """The training batches of a round (0 is the first); raises `DataError` without a case."""
        cases, size, train = self.parts.get("train", ()), config.model.frame, config.train
        distance = config.volume.slice_distance
        if self.kept_for not in (None, (size, distance)):
            self.kept.clear()  # frames of an earlier run with other settings
            self.counts = None
        self.kept_for = (size, distance)
        if not cases:
            raise DataError(f"site {self.name}: there is no training case")
        kinds, steps = config.prompt.train_at(self.name), config.steps_for(len(cases))
        seed = (config.seed, zlib.crc32(self.name.encode()), round_)
        if cases[0].volume:
            cut = partial(to_volume_frame, slice_distance=distance)
            return VolumeBatches(
                Frames(cases, size, cut, self.kept, self.workers), kinds, steps, train.batch_size,
                train.prompts_per_image, train.augment, config.volume.slices, seed,
            )  # fmt: skip
        return TrainingBatches(
            Frames(cases, size, to_frame, self.kept, self.workers), kinds, steps, train.batch_size,
            train.prompts_per_image, train.augment, seed,
        )  # fmt: skip

    def prefix_cache(self, config: RunConfig) -> PrefixCache | None:
        """What is kept of the frozen first blocks in this run; `None` when there is none."""
        built = self.built(config)
        if self.cache is None or not has_prefix(built.model):
            return None
        frames = (config.model.frame, config.volume.slice_distance)
        return PrefixCache(self.cache, built.manifest.base_sha256, frames)


def train_site(
    site: Site, config: RunConfig, state: AdapterState, round_: int,
    charge: Callable[[], object] = lambda: None,
) -> FitResult:  # fmt: skip
    """Train from the global `state` in round `round_` (0 is the first).

    `charge` is called before the first noisy step of differential privacy.
    """
    built, prefixes = site.built(config), site.prefix_cache(config)
    load_adapter_state(built.model, state)
    if prefixes and site.has_volumes and config.train.augment:
        tell_of_no_use()
    if config.privacy:
        planned = planned_steps(config)
        return fit_privately(
            built.model,
            site.batches(config, round_),
            patients_of(site.parts["train"]),
            config.loss.build(),
            config.train,
            config.privacy,
            planned.noise_multiplier,
            planned.steps,
            round_ / config.rounds,
            config.strategy.proximal,
            config.prompt.corrections,
            charge,
            prefixes,
            site.memory,
        )
    return fit(
        built.model,
        site.batches(config, round_),
        config.loss.build(),
        config.train,
        round_ / config.rounds,
        config.strategy.proximal,
        site.workers,
        config.prompt.corrections,
        prefixes,
        site.memory,
    )


@cache
def tell_of_no_use() -> None:
    """Say once that nothing is kept of volumes whose brightness changes."""
    logger.info(
        "volumes are trained with changes of brightness and contrast, so that nothing of the "
        "frozen blocks is kept; with train.augment false it is"
    )


def planned_steps(config: RunConfig) -> NoisySteps:
    """The noisy steps of a round, the same at every site; of a run with differential privacy."""
    assert config.privacy is not None
    steps = config.steps_for(1)
    noise = config.privacy.noise(config.rounds * steps)
    return NoisySteps(noise, config.privacy.sampling_rate, steps)


def cases_by_structure(site: Site, config: RunConfig) -> list[int]:
    """How many training cases show each structure of the run, as far as they are annotated.

    Counted once for the settings that decide how frames look: `site.parts` must not have changed.
    """
    frames = site.batches(config, 0).frames  # forgets counts that are of other settings
    if site.counts is None:
        frames.read(range(len(frames)))
        shown = [
            frame.shown.any(1) if isinstance(frame, FramedVolume) else frame.mask.flatten(1).any(1)
            for frame in frames
        ]
        site.counts = tuple(torch.stack(shown).sum(0).tolist())
    return list(site.counts)


def cases_annotated(site: Site, config: RunConfig) -> list[int]:
    """Training cases, in tens, for each structure that is annotated in any of them; else 0.

    What weighs the names of structures under differential privacy: it says what the site annotates
    and nothing of what its patients have.
    """
    frames = site.batches(config, 0).frames
    frames.read(range(len(frames)))
    known = torch.zeros(len(config.data.classes), dtype=torch.bool)
    for frame in (frames[number] for number in range(len(frames))):
        known |= frame.labelled if isinstance(frame, FramedVolume) else True
    cases = rounded_up(len(site.parts["train"]))
    return [cases if annotated else 0 for annotated in known.tolist()]


def evaluate_site(site: Site, config: RunConfig, state: AdapterState, part: str) -> Evaluation:
    """Score the global `state` on the site's cases of `part`."""
    built = site.built(config)
    load_adapter_state(built.model, state)
    cases, kinds = site.parts.get(part, ()), config.prompt.evaluate
    volumes = partial(predict_volume, volume=config.volume)
    return evaluate(
        built.model, cases, kinds, config.seed, config.train.precision, volumes,
        site.prefix_cache(config),
    )  # fmt: skip
