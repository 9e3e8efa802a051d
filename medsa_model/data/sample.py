"""Case and Sample: what every data set gives, and nothing more."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One image or volume with its structures, in its own pixels or voxels.

    2D: `image (3, H, W) float32 in [0, 255]`; `mask (K, H, W) bool`, one channel for each structure
    that a prompt can ask for; `spacing_mm` (row, column) or `None` when the file does not say.

    Volume: `image (3, D, H, W) float32 in [0, 255]`, grey and so three times the same memory
    (`expand`); `mask (K, D, H, W) bool`; `spacing_mm` (slice, row, column). The frame is fixed,
    whatever the file's: slices go from inferior to superior, rows from anterior to posterior,
    columns from the patient's right to left, which are nibabel's axis codes S, P, L. The first
    slice is the lowest, and a slice is seen as radiologists do, from the feet.

    `labelled`: which channels of `mask` were annotated; of the others nothing is known, and their
    mask is empty. `None`: all were.

    `remarks`: what is implausible about the file, each fit for a warning. `blank`: every pixel of
    its picture has the same colour.
    """

    image: Tensor
    mask: Tensor
    case: str
    patient: str
    spacing_mm: tuple[float, ...] | None = None
    labelled: tuple[bool, ...] | None = None
    remarks: tuple[str, ...] = ()
    blank: bool = False


@dataclass(frozen=True)
class Case:
    """One case of an opened data set; its pixels are read when `load` is called.

    `patient` groups cases that must stay on one side of a split. `site` is where the case comes
    from, `None` when the data set does not say. `part` is the official part ("train", "val",
    "test"), `None` when the layout has none. `load` raises `DataError` naming the case.
    `volume`: whether samples have slices.
    """

    case: str
    patient: str
    site: str | None
    part: str | None
    load: Callable[[], Sample]
    volume: bool = False
