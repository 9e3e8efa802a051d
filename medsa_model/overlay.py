"""Pictures with the outlines of masks: an image at the size it is looked at, masks fitted to it.

All drawing is done at the picture's size, so that lines are as thin on a small image as on a large
one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Tile = NDArray[np.uint8]
"""(height, width, 3)."""


def fit(picture: Image.Image, side: int, pixel: Sequence[float] = (1.0, 1.0)) -> Tile:
    """Shrunk or grown so that the longer side has `side` pixels.

    `pixel` is the height and width of the picture's pixels: a tile has the proportions of the body.
    """
    height, width = picture.height * pixel[0], picture.width * pixel[1]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(picture.resize(size))


def fit_mask(
    mask: NDArray[np.bool_], side: int, pixel: Sequence[float] = (1.0, 1.0)
) -> NDArray[np.bool_]:
    """A mask (H, W) as `fit` does it with its picture."""
    return fit(Image.fromarray(255 * mask.astype(np.uint8)), side, pixel) > 127


def outlined(
    image: Tile, mask: NDArray[np.bool_], colour: tuple[int, int, int], width: int = 1
) -> Tile:
    """The outermost `width` pixels of `mask` in `colour`."""
    edge = mask & ~ndimage.binary_erosion(mask, iterations=width)
    return np.where(edge[..., None], np.array(colour, np.uint8), image)
