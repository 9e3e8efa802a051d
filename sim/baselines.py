"""What needs no model: an ellipse drawn into the box, and Otsu's threshold at the prompt.

A trained model that scores below these has a bug. Both work in the model frame on the same
prompts that the models get.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medsa_model.data.sample import Case
from medsa_model.data.transforms import from_frame, to_frame
from medsa_model.data.volume_frames import from_volume_frame, to_volume_frame
from medsa_model.evaluate import (
    Evaluation,
    Prediction,
    StructureScore,
    fixed_prompts,
    present_structures,
    score,
)
from medsa_model.evaluate_volumes import Volume, ask, present_in_volume, prompts_of
from medsa_model.prompts import PromptSection, Row, inscribed_ellipse

Mask = NDArray[np.bool_]
Baseline = Callable[[NDArray[np.uint8], Row], Mask | None]


def ellipse_in_box(image: NDArray[np.uint8], prompt: Row) -> Mask | None:
    """The ellipse inscribed in the box of a prompt, without the image; `None` without a box."""
    if prompt[2] is None:
        return None
    return inscribed_ellipse(prompt[2], (image.shape[1], image.shape[2]))


def otsu(image: NDArray[np.uint8], prompt: Row) -> Mask | None:
    """The dark side of Otsu's threshold on the blue channel, at the prompt.

    With a box: what lies in it. With a click: the connected part under it, or nearest to it.
    Without a prompt: the part nearest to the middle. `image (3, H, W)`.
    """
    blue = ndimage.gaussian_filter(image[2].astype(np.float32), 1.0)
    dark = blue < otsu_threshold(blue)
    if prompt[2] is not None:
        x0, y0, x1, y1 = (round(v) for v in prompt[2])
        inside = np.zeros_like(dark)
        inside[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
        return np.asarray(dark & inside)
    x, y = prompt[0][0] if prompt[0] else (blue.shape[1] / 2, blue.shape[0] / 2)
    parts, count = ndimage.label(dark)
    if not count:
        return np.asarray(dark)
    rows, columns = np.nonzero(dark)
    nearest = np.argmin((rows - y) ** 2 + (columns - x) ** 2)
    part = parts == parts[rows[nearest], columns[nearest]]
    return np.asarray(ndimage.binary_fill_holes(part))


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """The grey value that separates two classes best (Otsu 1979, IEEE Trans. SMC 9:62-66)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.argmax(np.nan_to_num(between))])


def baselines_for(volumes: bool) -> dict[str, Baseline]:
    """The baselines that say something about such data, by name."""
    found: dict[str, Baseline] = {"ellipse_in_box": ellipse_in_box}
    if not volumes:  # in CT the threshold parts body from air, and no organ is on the dark side
        found["otsu"] = otsu
    return found


def evaluate_baseline(
    baseline: Baseline, cases: Sequence[Case], kinds: Sequence[PromptSection], size: int, seed: int,
    volume: Volume,
) -> Evaluation:  # fmt: skip
    """Scores of a baseline for every kind of prompt that it can use; of volumes slice by slice."""
    rows: list[StructureScore] = []
    for case in cases:
        for kind in kinds:
            if kind.by_class:
                continue
            segment = segment_volume if case.volume else segment_image
            if prediction := segment(baseline, case, kind, size, seed, volume):
                rows += score(prediction)
    return Evaluation(tuple(rows), 0)


def segment_image(
    baseline: Baseline, case: Case, kind: PromptSection, size: int, seed: int, _: Volume
) -> Prediction | None:
    """What a baseline makes of an image; `None` when it cannot use this kind of prompt."""
    sample = case.load()
    frame = to_frame(sample, size)
    channels = present_structures(frame)
    height, width = frame.content  # without the padding, which would move Otsu's threshold
    content = frame.image[:, :height, :width].numpy()
    prompts = fixed_prompts(kind, frame, channels, seed, case.case)
    masks = [baseline(content, prompt) for prompt in prompts]
    found = [torch.from_numpy(mask).float() for mask in masks if mask is not None]
    if not found:
        return None
    framed = F.pad(torch.stack(found) - 0.5, (0, size - width, 0, size - height))
    whole = from_frame(framed, frame.content, frame.original) > 0
    return Prediction(case.case, kind.name, whole, sample.mask[channels], tuple(channels))


def segment_volume(
    baseline: Baseline, case: Case, kind: PromptSection, size: int, seed: int, volume: Volume
) -> Prediction | None:
    """The same for a volume, with the prompts that a model gets."""
    sample = case.load()
    framed = to_volume_frame(sample, size, volume.slice_distance)
    height, width = framed.content
    usable = True

    def decode(places: Sequence[int], rows: Sequence[Row], _: int) -> Tensor:
        nonlocal usable
        answers = torch.full((len(rows), size, size), -0.5)
        for number, (place, prompt) in enumerate(zip(places, rows, strict=True)):
            content = framed.image[place, :height, :width].expand(3, -1, -1).numpy()
            mask = baseline(content, prompt)
            usable &= mask is not None
            if mask is not None:
                answers[number, :height, :width] += torch.from_numpy(mask).float()
        return answers

    structures = present_in_volume(sample, framed)
    found = []
    for structure in structures:
        rng = prompts_of(seed, structure, case.case)
        found.append(from_volume_frame(ask(kind, framed, structure, rng, decode), framed) > 0)
    if not found or not usable:
        return None
    return Prediction(case.case, kind.name, torch.stack(found), sample.mask[structures],
                      tuple(structures), sample.spacing_mm)  # fmt: skip
