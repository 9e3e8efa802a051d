"""Reading one case of the input, and masks that belong to it, in the frame of `Sample`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medsa_model.data.ct_checks import implausible
from medsa_model.data.dicom import TOLERANCE, read_series
from medsa_model.data.geometry import Geometry
from medsa_model.data.hounsfield import WINDOW, to_grey
from medsa_model.data.images import UPRIGHT, is_blank, read_image, read_levels, read_mask
from medsa_model.data.nifti import read_labels, read_volume
from medsa_model.data.sample import Sample
from medsa_model.errors import DataError
from medsa_model.predict.inputs import NIFTI, Input
from medsa_model.task import Task


@dataclass(frozen=True)
class Opened:
    """A case that was read. `sample.mask (1, ...)` is empty: nothing is known of the truth.

    `orientation` is the EXIF orientation that was applied to a picture; volumes have a `geometry`.
    """

    source: Input
    sample: Sample
    orientation: int = UPRIGHT
    geometry: Geometry | None = None


def open_case(source: Input, task: Task) -> Opened:
    """Read a case whole, with remarks about what is implausible in it.

    Raises `DataError` for a file or a series that cannot be used.
    """
    case = source.case
    if source.kind == "picture":
        pixels, orientation = read_image(source.path, case)
        nothing = torch.zeros(1, *pixels.shape[1:], dtype=torch.bool)
        sample = Sample(pixels, nothing, case, case, blank=is_blank(pixels))
        return Opened(source, sample, orientation)
    read = read_series if source.kind == "series" else read_volume
    voxels, geometry = read(source.path, case)
    window, spacing = task.window or WINDOW, geometry.spacing_mm
    nothing = torch.zeros(1, *voxels.shape, dtype=torch.bool)
    remarks = implausible(voxels, spacing, window)
    sample = Sample(to_grey(voxels, window), nothing, case, case, spacing, None, remarks)
    return Opened(source, sample, geometry=geometry)


def read_numbers(path: Path, opened: Opened, structures: Sequence[str]) -> Tensor:
    """The mask file of a case as numbers of the structures, from 1: (H, W) or (D, H, W) uint8.

    A picture of a single structure has 0 and 255 (or 1), of several their numbers. Raises
    `DataError` for other values and for a mask that does not lie on the image.
    """
    case, volume = opened.source.case, opened.geometry
    if volume is not None:
        tolerance = TOLERANCE if opened.source.kind == "series" else None
        return torch.from_numpy(read_labels(path, case, volume, structures, tolerance))
    if path.name.lower().endswith(NIFTI):
        raise DataError(f"case {case}: a picture, but its mask {path.name} is a volume")
    height, width = opened.sample.image.shape[1:]
    if len(structures) == 1:
        return read_mask(path, case, (height, width), opened.orientation).byte()
    levels = read_levels(path, case, (height, width), opened.orientation)
    others = [int(value) for value in np.unique(levels) if value > len(structures)]
    if others:
        declared = ", ".join(f"{number} {name}" for number, name in enumerate(structures, 1))
        raise DataError(
            f"case {case}: the mask {path.name} has the values {', '.join(map(str, others[:5]))}; "
            f"expected 0 background, {declared}"
        )
    return torch.from_numpy(levels.copy())


def channels(numbers: Tensor, count: int) -> Tensor:
    """`numbers` of `count` structures as one mask for each: (K, ...) bool."""
    return torch.stack([numbers == number for number in range(1, count + 1)])
