"""evaluate(): Dice, IoU and surface distances of every case, at its own resolution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou
from torch import Tensor

from medsa_model.data.frames import key_of
from medsa_model.data.sample import Case
from medsa_model.data.transforms import Framed, from_frame, to_frame
from medsa_model.device import autocast
from medsa_model.prefix_cache import PrefixCache
from medsa_model.prompts import PromptSection, Row, collate
from medsa_model.sam import MedSam
from medsa_model.surface import surface_scores

TOLERANCE_MM = 2.0  # of the surface Dice

Predict = Callable[[MedSam, Case, Sequence[PromptSection], int, str], "list[Prediction]"]


@dataclass(frozen=True)
class StructureScore:
    """How well one structure of one case was segmented, asked for with one kind of prompt.

    `hd95` (mm) and `nsd` are of volumes alone, see `surface`.
    """

    case: str
    prompt: str
    structure: int
    dice: float
    iou: float
    hd95: float | None = None
    nsd: float | None = None


METRICS = ("dice", "iou", "hd95", "nsd")
Means = dict[str, float]
"""Mean of each metric that there is, and `cases`, their number."""


@dataclass(frozen=True)
class Evaluation:
    """All rows; `empty` counts cases without a structure: neither prompted nor scored."""

    rows: tuple[StructureScore, ...]
    empty: int

    def summary(self) -> dict[str, Means]:
        """By prompt: means over cases, of a case over its structures first."""
        result: dict[str, Means] = {}
        for prompt in self.prompts():
            of_case: dict[str, list[StructureScore]] = {}
            for row in self.rows:
                if row.prompt == prompt:
                    of_case.setdefault(row.case, []).append(row)
            result[prompt] = _mean([_mean_scores(rows) for rows in of_case.values()])
        return result

    def by_structure(self) -> dict[str, dict[int, Means]]:
        """By prompt and number of the structure: means over the cases that have it."""
        result: dict[str, dict[int, Means]] = {}
        for prompt in self.prompts():
            rows = [row for row in self.rows if row.prompt == prompt]
            result[prompt] = {
                structure: _mean([_mean_scores([r]) for r in rows if r.structure == structure])
                for structure in sorted({row.structure for row in rows})
            }
        return result

    def with_at_least(self, cases: int) -> "Evaluation":
        """Without the rows of structures that fewer `cases` have: also in the means over structures
        they would tell of single patients."""
        found = self.by_structure()
        rows = (r for r in self.rows if found[r.prompt][r.structure]["cases"] >= cases)
        return Evaluation(tuple(rows), self.empty)

    def prompts(self) -> list[str]:
        """Kinds of prompt in the order of their evaluation."""
        return [*dict.fromkeys(row.prompt for row in self.rows)]


def _mean_scores(rows: Sequence[StructureScore]) -> Means:
    """Mean of every metric that the rows have."""
    found = {name: [getattr(row, name) for row in rows] for name in METRICS}
    return {name: fmean(each) for name, each in found.items() if None not in each}


def _mean(cases: Sequence[Means]) -> Means:
    """Mean over cases of every metric that all of them have, and how many they are."""
    shared = [name for name in cases[0] if all(name in case for case in cases)]
    means = {name: fmean(case[name] for case in cases) for name in shared}
    return {**means, "cases": float(len(cases))}


@dataclass(frozen=True)
class Prediction:
    """`found` and `truth (K, H, W)` or `(K, D, H, W) bool` in the case's own pixels for one kind of
    prompt; `structures` are their numbers, `spacing_mm` is that of a volume.
    """

    case: str
    prompt: str
    found: Tensor
    truth: Tensor
    structures: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None


@torch.no_grad()
def predict(
    model: MedSam, case: Case, kinds: Sequence[PromptSection], seed: int, precision: str = "auto",
    cache: PrefixCache | None = None,
) -> list[Prediction]:  # fmt: skip
    """Segment the structures of one case with each kind of prompt; `cache` as in `train.fit`."""
    sample = case.load()
    frame = to_frame(sample, model.image_size)
    present = present_structures(frame)
    if not present:
        return []
    device = model.sam.device
    predictions = []
    with autocast(device, precision):
        image = frame.image[None].float()
        if cache is None:
            embedding = model.encode(image.to(device))
        else:
            embedding = model.encode_from(cache.tokens(model, image, [key_of(case, 0)]))
        for kind in kinds:
            named = present if kind.by_class else ()
            rows = fixed_prompts(kind, frame, present, seed, case.case)
            found = answers(model, embedding, frame, rows, named) > 0
            truth = sample.mask[present]
            predictions.append(Prediction(case.case, kind.name, found.cpu(), truth, tuple(present)))
    return predictions


def answers(
    model: MedSam, embedding: Tensor, frame: Framed, rows: Sequence[Row], named: Sequence[int]
) -> Tensor:
    """Logits (N, H, W) float32 of one image in its own pixels, for N prompts of the model frame.

    `embedding (1, C, S/p, S/p)`; `named` are the structures that rows ask for by name, as in
    `prompts.collate`. The padding of a row depends on the others: give rows of one form together.
    """
    prompt = collate(rows, named).to(embedding.device)
    logits = model.decode(embedding.expand(len(rows), -1, -1, -1), prompt)[0]
    return from_frame(model.to_frame(logits)[:, 0], frame.content, frame.original)


def present_structures(frame: Framed) -> list[int]:
    """Channels of a case that have at least one pixel."""
    channels: list[int] = frame.mask.flatten(1).any(1).nonzero()[:, 0].tolist()
    return channels


def fixed_prompts(
    kind: PromptSection, frame: Framed, channels: Sequence[int], seed: int, case: str
) -> list[Row]:
    """The prompts of evaluation: a function of (seed, case, structure), whoever asks."""
    rows = []
    for channel in channels:
        rng = np.random.default_rng([seed, channel, *case.encode()])
        rows.append(kind.draw(frame.mask[channel].numpy(), rng))
    return rows


def evaluate(
    model: MedSam,
    cases: Sequence[Case],
    kinds: Sequence[PromptSection],
    seed: int,
    precision: str = "auto",
    volumes: Predict | None = None,
    cache: PrefixCache | None = None,
) -> Evaluation:
    """Score every case with every kind of prompt; a prompt is a function of (seed, case).

    `volumes` segments cases that are volumes. `cache` as in `train.fit`, for images alone.
    """
    model.eval()
    rows: list[StructureScore] = []
    empty = 0
    for case in cases:
        segment = volumes if case.volume and volumes else partial(predict, cache=cache)
        predictions = segment(model, case, kinds, seed, precision)
        rows += [row for prediction in predictions for row in score(prediction)]
        empty += not predictions
    return Evaluation(tuple(rows), empty)


def score(prediction: Prediction) -> list[StructureScore]:
    """Dice and IoU of every structure, threshold 0.5 on the probability; of volumes also HD95 and
    NSD with a tolerance of `TOLERANCE_MM`."""
    rows = []
    for number, structure in enumerate(prediction.structures):  # one by one, to save memory
        one, other = prediction.found[number], prediction.truth[number]
        pair = one[None, None].float(), other[None, None].float()
        surface: tuple[float, float] | tuple[None, None] = (None, None)
        if one.dim() == 3 and prediction.spacing_mm:
            surface = surface_scores(one, other, prediction.spacing_mm, TOLERANCE_MM)
        dice, iou = float(compute_dice(*pair)), float(compute_iou(*pair))
        rows.append(
            StructureScore(prediction.case, prediction.prompt, structure, dice, iou, *surface)
        )
    return rows
