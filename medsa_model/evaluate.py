"""evaluate(): Dice and IoU of every case, at the image's own resolution. Never raw images."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou
from torch import Tensor

from medsa_model.data.sample import Case
from medsa_model.data.transforms import Framed, from_frame, to_frame
from medsa_model.device import autocast
from medsa_model.prompts import PromptSection, Row, collate
from medsa_model.sam import MedSam


@dataclass(frozen=True)
class CaseScore:
    """Scores of one case under one kind of prompt: means over its structures."""

    case: str
    prompt: str
    dice: float
    iou: float


@dataclass(frozen=True)
class Evaluation:
    """All rows; `empty` counts cases without a structure: neither prompted nor scored."""

    rows: tuple[CaseScore, ...]
    empty: int

    def summary(self) -> dict[str, dict[str, float]]:
        """By prompt: mean Dice, mean IoU, number of cases."""
        result: dict[str, dict[str, float]] = {}
        for prompt in dict.fromkeys(row.prompt for row in self.rows):
            rows = [row for row in self.rows if row.prompt == prompt]
            result[prompt] = {
                "dice": fmean(row.dice for row in rows),
                "iou": fmean(row.iou for row in rows),
                "cases": float(len(rows)),
            }
        return result


@dataclass(frozen=True)
class Prediction:
    """`found` and `truth (K, H, W) bool` in the image's own pixels for one kind of prompt."""

    case: str
    prompt: str
    found: Tensor
    truth: Tensor


@torch.no_grad()
def predict(
    model: MedSam, case: Case, kinds: Sequence[PromptSection], seed: int, precision: str = "auto"
) -> list[Prediction]:
    """Segment the structures of one case with each kind of prompt."""
    sample = case.load()
    frame = to_frame(sample, model.image_size)
    present = present_structures(frame)
    if not present:
        return []
    device = model.sam.device
    predictions = []
    with autocast(device, precision):
        embedding = model.encode(frame.image[None].float().to(device))
        embedding = embedding.expand(len(present), -1, -1, -1)
        for kind in kinds:
            prompt = collate(fixed_prompts(kind, frame, present, seed, case.case)).to(device)
            logits = model.to_frame(model.decode(embedding, prompt)[0])[:, 0]
            found = from_frame(logits, frame.content, frame.original) > 0
            predictions.append(Prediction(case.case, kind.name, found.cpu(), sample.mask[present]))
    return predictions


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
) -> Evaluation:
    """Score every case with every kind of prompt; a prompt is a function of (seed, case)."""
    model.eval()
    rows: list[CaseScore] = []
    empty = 0
    for case in cases:
        predictions = predict(model, case, kinds, seed, precision)
        rows += [score(prediction) for prediction in predictions]
        empty += not predictions
    return Evaluation(tuple(rows), empty)


def score(prediction: Prediction) -> CaseScore:
    """Dice and IoU, threshold 0.5 on the probability, mean over the structures of the case."""
    found, truth = prediction.found[:, None].float(), prediction.truth[:, None].float()
    return CaseScore(
        prediction.case,
        prediction.prompt,
        float(compute_dice(found, truth).mean()),
        float(compute_iou(found, truth).mean()),
    )
