"""Segmenting a volume: prompts slice by slice or from one slice outwards, at the file's voxels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from medsa_model.data.sample import Case, Sample
from medsa_model.data.volume_frames import FramedVolume, from_volume_frame, to_volume_frame
from medsa_model.device import autocast
from medsa_model.evaluate import Prediction
from medsa_model.prompts import PromptSection, Row, collate, tight_box
from medsa_model.sam import MedSam
from medsa_model.section import Section
from medsa_model.volume_chunks import encode_in_chunks


class Volume(Section):
    """How volumes are cut for the model. Ignored for images."""

    slices: int = Field(8, ge=1, le=512)
    """Neighbouring slices that are encoded together, in training and in evaluation: what attention
    across depth sees, and what memory has to hold."""
    overlap: int = Field(2, ge=0)
    """Slices that two neighbouring chunks share in evaluation, where their features are blended.
    Only an adapter across depth (`adapter.depth`) needs it; without one nothing is shared."""
    slice_distance: float | None = Field(None, ge=0.1, allow_inf_nan=False)
    """Distance in mm to which slices are resampled; empty: the volume's own."""

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.overlap >= self.slices:
            raise ValueError(
                f"volume.overlap is {self.overlap}, expected less than volume.slices "
                f"({self.slices})"
            )
        return self


NOTHING = -10.0  # logit of slices that nobody asked about
TOGETHER = 32  # most slices that are decoded at once
SMALLEST = 4  # pixels of the frame; a smaller answer ends the way through a volume

Decode = Callable[[Sequence[int], Sequence[Row], int], Tensor]


@torch.no_grad()
def predict_volume(
    model: MedSam,
    case: Case,
    kinds: Sequence[PromptSection],
    seed: int,
    precision: str,
    volume: Volume,
) -> list[Prediction]:
    """Segment the annotated structures that one volume has, with each kind of prompt.

    A structure that is not there is neither prompted nor scored.
    """
    sample = case.load()
    framed = to_volume_frame(sample, model.image_size, volume.slice_distance)
    structures = present_in_volume(sample, framed)
    if not structures:
        return []
    predictions = []
    with autocast(model.sam.device, precision):
        decode = decoder(model, framed, volume)
        for kind in kinds:
            found = []
            for structure in structures:
                rng = prompts_of(seed, structure, case.case)
                logits = ask(kind, framed, structure, rng, decode)
                found.append(from_volume_frame(logits, framed) > 0)
            truth = sample.mask[structures]
            predictions.append(
                Prediction(case.case, kind.name, torch.stack(found), truth, tuple(structures),
                           sample.spacing_mm)
            )  # fmt: skip
    return predictions


def decoder(model: MedSam, framed: FramedVolume, volume: Volume) -> Decode:
    """What answers prompts on the slices of one volume, which is encoded here, once.

    It gives logits (N, S, S) of N slices with a row each, on the processor; the number is that of
    the structure when rows ask for it by name, else -1.
    """
    device = model.sam.device
    image = framed.image.to(device).float().expand(3, -1, -1, -1)
    embedding = encode_in_chunks(model, image, volume.slices, volume.overlap)

    def decode(places: Sequence[int], rows: Sequence[Row], structure: int) -> Tensor:
        logits = []
        for first in range(0, len(places), TOGETHER):
            part = slice(first, first + TOGETHER)
            prompt = collate(rows[part], [structure] * len(rows[part])).to(device)
            found = model.decode(embedding[list(places[part])], prompt)[0]
            logits.append(model.to_frame(found)[:, 0].cpu())
        return torch.cat(logits)

    return decode


def present_in_volume(sample: Sample, framed: FramedVolume) -> list[int]:
    """Annotated structures with at least one voxel, on disk and in the model frame."""
    shown = sample.mask.flatten(1).any(1) & framed.shown.any(1) & framed.labelled
    structures: list[int] = shown.nonzero()[:, 0].tolist()
    return structures


def prompts_of(seed: int, structure: int, case: str) -> np.random.Generator:
    """Where the prompts of evaluation come from: a function of (seed, structure, case)."""
    return np.random.default_rng([seed, structure, *case.encode()])


def ask(
    kind: PromptSection, framed: FramedVolume, structure: int, generator: np.random.Generator,
    decode: Decode,
) -> Tensor:  # fmt: skip
    """Logits (D, S, S) of one structure with one kind of prompt."""
    planes = framed.mask(structure)
    depth = len(planes)
    if kind.everywhere:
        rows = [kind.draw(plane.numpy(), generator) for plane in planes]
        return decode(range(depth), rows, structure if kind.by_class else -1)
    if kind.followed:
        return follow(kind, planes, generator, decode)
    logits = torch.full(planes.shape, NOTHING)
    shown = framed.shown[structure].nonzero()[:, 0].tolist()
    rows = [kind.draw(planes[place].numpy(), generator) for place in shown]
    logits[shown] = decode(shown, rows, -1)
    return logits


def follow(
    kind: PromptSection, planes: Tensor, generator: np.random.Generator, decode: Decode
) -> Tensor:
    """From one prompt on the slice with the largest area through the volume, both ways.

    The box around what was found on a slice is the prompt of the next one, until nothing is found.
    """
    middle = int(planes.flatten(1).sum(1).argmax())
    return follow_rows({middle: kind.draw(planes[middle].numpy(), generator)}, planes.shape, decode)


def follow_rows(rows: Mapping[int, Row], shape: Sequence[int], decode: Decode) -> Tensor:
    """Logits of `shape` (D, S, S) from prompts on some slices (slice -> row) through the volume.

    A slice between two of them is reached from the nearer one, of two that are as near from the
    lower one.
    """
    logits = torch.full(tuple(shape), NOTHING)
    asked = sorted(rows)
    for place in asked:
        logits[place] = decode([place], [rows[place]], -1)[0]
    for number, start in enumerate(asked):
        below = asked[number - 1] if number else None
        above = asked[number + 1] if number + 1 < len(asked) else None
        last = shape[0] - 1 if above is None else (start + above) // 2
        first = 0 if below is None else (below + start) // 2 + 1
        for places in (range(start + 1, last + 1), range(start - 1, first - 1, -1)):
            before = logits[start]
            for place in places:
                found = (before > 0).numpy()
                if found.sum() < SMALLEST:
                    break
                before = decode([place], [([], [], tight_box(found))], -1)[0]
                logits[place] = before
    return logits
