"""One case through the model, by the functions of evaluation: numbers of structures as the answer.

Where structures overlap the one with the higher probability has the pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medsa_model.data.sample import Sample
from medsa_model.data.transforms import to_frame
from medsa_model.data.volume_frames import FramedVolume, from_volume_frame, to_volume_frame
from medsa_model.device import autocast
from medsa_model.errors import DataError
from medsa_model.evaluate import answers
from medsa_model.evaluate_volumes import Volume, ask, decoder, follow_rows
from medsa_model.predict.places import Rows, in_model, slice_in_model
from medsa_model.prompts import Box, Row, tight_box
from medsa_model.sam import MedSam

NOTHING: Row = ([], [], None)


@torch.no_grad()
def segment_image(
    model: MedSam, sample: Sample, rows: Mapping[int, Row], structures: Sequence[int],
    named: bool, rough: Tensor | None, precision: str,
) -> Tensor:  # fmt: skip
    """Numbers (H, W) uint8: 0 background, 1 the first structure.

    `rows`, in pixels of the image, say what is asked of which structure; others of `structures` are
    asked for by name (`named`) or without any prompt. With `rough (K, H, W) bool` the prompts are
    the boxes around its structures.
    """
    frame = to_frame(sample if rough is None else replace(sample, mask=rough), model.image_size)
    prompts = {number: in_model(row, frame.content, frame.original) for number, row in rows.items()}
    if rough is not None:
        prompts = {n: ([], [], tight_box(frame.mask[n].numpy())) for n in structures}
    best = torch.zeros(frame.original)
    numbers = torch.zeros(frame.original, dtype=torch.uint8)
    with autocast(model.sam.device, precision):
        embedding = model.encode(frame.image[None].float().to(model.sam.device))
        for group in _of_one_form(structures, prompts):
            # padding would change answers: prompts of one form alone are answered together
            asked = [prompts.get(number, NOTHING) for number in group]
            by_name = group if named and group[0] not in prompts else ()
            logits = answers(model, embedding, frame, asked, by_name).cpu()
            for number, found in zip(group, logits, strict=True):
                _take(best, numbers, found, number)
    return numbers


@torch.no_grad()
def segment_volume(
    model: MedSam, sample: Sample, rows: Rows, structures: Sequence[int], named: bool,
    rough: Tensor | None, precision: str, volume: Volume,
) -> Tensor:  # fmt: skip
    """Numbers (D, H, W) uint8 in the frame of `sample`: 0 background, 1 the first structure.

    As `segment_image`; prompts on some slices are followed through the others, and a `rough (K, D,
    H, W) bool` mask prompts every slice on which it shows the structure.
    """
    given = sample if rough is None else replace(sample, mask=rough)
    framed = to_volume_frame(given, model.image_size, volume.slice_distance)
    best = torch.zeros(framed.original)
    numbers = torch.zeros(framed.original, dtype=torch.uint8)
    with autocast(model.sam.device, precision):
        decode = decoder(model, framed, volume)
        for structure in structures:
            if rough is not None:  # draws nothing at random: the tight box
                logits = ask(Box(), framed, structure, np.random.default_rng(0), decode)
            elif structure in rows:
                asked = _slices_in_model(rows[structure], framed, sample.case)
                logits = follow_rows(asked, framed.image.shape, decode)
            else:
                depth = len(framed.image)
                logits = decode(range(depth), [NOTHING] * depth, structure if named else -1)
            _take(best, numbers, from_volume_frame(logits, framed), structure)
    return numbers


def slices_of_mask(rough: Tensor, sample: Sample, slice_distance: float | None) -> Tensor:
    """(K, d) bool: which of the d slices of the model frame show each structure of `rough (K, D, H,
    W) bool`, where slices are resampled to `slice_distance` mm and some are left out."""
    shown = rough.flatten(2).any(2)[..., None, None]
    # one voxel a slice: which slices there are is the same for it, and costs nothing
    column = replace(sample, image=torch.zeros(1, *shown.shape[1:]), mask=shown)
    return to_volume_frame(column, 1, slice_distance).shown


def _take(best: Tensor, numbers: Tensor, found: Tensor, structure: int) -> None:
    """Give `structure` what it has more evidence for than all before, in place."""
    better = found > best
    best[better] = found[better]
    numbers[better] = structure + 1


def _of_one_form(structures: Sequence[int], prompts: Mapping[int, Row]) -> list[list[int]]:
    """The structures, those together whose prompts have as many clicks, and a box or none."""
    groups: dict[tuple[bool, int, bool], list[int]] = {}
    for number in structures:
        points, _, box = prompts.get(number, NOTHING)
        groups.setdefault((number in prompts, len(points), box is not None), []).append(number)
    return list(groups.values())


def _slices_in_model(slices: Mapping[int, Row], framed: FramedVolume, case: str) -> dict[int, Row]:
    """Prompts by slice of the model frame. Raises `DataError` when two slices become one there."""
    depth, (count, *plane) = len(framed.image), framed.original
    size = (plane[0], plane[1])
    found: dict[int, Row] = {}
    for place, row in slices.items():
        number = slice_in_model(place, depth, count)
        if number in found:
            raise DataError(
                f"case {case}: prompts on two slices that are one in the model frame, which has "
                f"{depth} slices for {count}; give those of one slice"
            )
        found[number] = in_model(row, framed.content, size)
    return found
