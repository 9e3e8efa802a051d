"""Tiles of an example: a picture, outlines, a prompt. All drawing is done at the tile's size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from medsa_model.overlay import Tile
from medsa_model.prompts import Row

TILE = 192  # pixels of a tile's longer side
TRUTH, FOUND, CLICK = (0, 158, 115), (230, 159, 0), (86, 180, 233)  # Okabe-Ito


@dataclass(frozen=True)
class Strip:
    """`tiles` from left to right; what was asked, in words; the Dice of each row."""

    tiles: Sequence[Tile]
    prompt: str
    dice: dict[str, float]

    def picture(self) -> Image.Image:
        """The tiles beside each other."""
        return Image.fromarray(np.concatenate([_framed(tile) for tile in self.tiles], axis=1))


def with_prompt(image: Tile, row: Row, frame: int) -> Tile:
    """Clicks as dots and the box as a frame; `frame` is the side S of the model frame.

    The longer side is S pixels there and TILE here.
    """
    points, _, box = row
    factor = TILE / frame
    height, width = image.shape[:2]
    mask = np.zeros((height, width), bool)
    y, x = np.mgrid[:height, :width]
    for px, py in points:
        mask |= np.hypot(x - (px + 0.5) * factor, y - (py + 0.5) * factor) < max(mask.shape) / 40
    if box is not None:
        x0, y0, x1, y1 = (v * factor for v in (box[0], box[1], box[2] + 1, box[3] + 1))
        whole = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        mask |= whole & ~ndimage.binary_erosion(whole)
    return np.where(mask[..., None], np.array(CLICK, np.uint8), image)


def with_words(image: Tile, words: str) -> Tile:
    """`words` in the upper left corner, on a dark ground."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(draw.textbbox((4, 4), words), fill="black")
    draw.text((4, 4), words, fill=CLICK)
    return np.asarray(picture)


def _framed(image: Tile) -> Tile:
    """In a white square a little larger than TILE."""
    square = Image.new("RGB", (TILE + 4, TILE + 4), "white")
    square.paste(Image.fromarray(image), (2, 2))
    return np.asarray(square)
