"""Case and Sample: what every data set gives, and nothing more."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One image with its structures, in the image's own pixels.

    `image (3, H, W) float32 in [0, 255]`; `mask (K, H, W) bool`, one channel for each structure
    that a prompt can ask for; `spacing_mm` (row, column) or `None` when the file does not say.
    """

    image: Tensor
    mask: Tensor
    case: str
    patient: str
    spacing_mm: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Case:
    """One case of an opened data set; its pixels are read when `load` is called.

    `patient` groups cases that must stay on one side of a split. `site` is where the case comes
    from, `None` when the data set does not say. `part` is the official part ("train", "val",
    "test"), `None` when the layout has none. `load` raises `DataError` naming the case.
    """

    case: str
    patient: str
    site: str | None
    part: str | None
    load: Callable[[], Sample]
