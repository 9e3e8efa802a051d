"""The picture of a case for a person who judges its mask: outlines, prompts, and a legend.

Of a volume the slices with the largest area of each structure and those with prompts are shown, in
the proportions of mm, as radiologists see them: from the feet, the patient's right on the left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from medsa_model.overlay import fit, fit_mask, outlined
from medsa_model.predict.legend import (
    BLACK,
    WHITE,
    Colour,
    beside,
    colour_of,
    draw_legend,
    font,
    headed,
    stacked,
)
from medsa_model.predict.places import Rows
from medsa_model.prompts import POSITIVE, Row

SMALLEST, LARGEST = 512, 1024  # pixels of a picture's longer side
MOST_TILES = 4
TOO_SMALL = 3  # pixels of a part of a mask that nobody would see
DASH, NUMBER = 8, 12  # pixels: a dash of a box; from the middle of a number to its edge


@dataclass(frozen=True)
class Plane:
    """One picture to draw on: `picture (H, W, 3) uint8`, `numbers (H, W)` of structures from 1.

    `rows` are prompts by structure (from 0) in its pixels, `pixel` their height and width, `words`
    stand above it.
    """

    picture: NDArray[np.uint8]
    numbers: NDArray[np.uint8]
    rows: Mapping[int, Row]
    pixel: tuple[float, float] = (1.0, 1.0)
    words: str = ""


def image_plane(image: Tensor, numbers: Tensor, rows: Rows) -> Plane:
    """An `image (3, H, W)` in [0, 255] with its answer (H, W)."""
    picture = image.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return Plane(picture, numbers.numpy(), {n: slices[0] for n, slices in rows.items()})


def volume_planes(
    grey: Tensor, numbers: Tensor, rows: Rows, spacing_mm: Sequence[float],
    in_file: Mapping[int, str],
) -> list[Plane]:  # fmt: skip
    """Some slices of a volume `grey (D, H, W)` in [0, 255] with its answer (D, H, W).

    `in_file` says of a slice how the file counts it. Where nothing was found and nothing is drawn,
    the slice in the middle.
    """
    planes = []
    for place in shown_slices(numbers, rows):
        picture = grey[place].round().clamp(0, 255).byte().numpy()
        drawn = {n: slices[place] for n, slices in rows.items() if place in slices}
        words = f"slice {in_file[place]}"
        pixel = (spacing_mm[1], spacing_mm[2])
        coloured = np.repeat(picture[..., None], 3, axis=2)
        planes.append(Plane(coloured, numbers[place].numpy(), drawn, pixel, words))
    return planes


def shown_slices(numbers: Tensor, rows: Rows) -> list[int]:
    """The slices of `numbers (D, H, W)` to look at, in order."""
    chosen = [
        place for structure in range(1, int(numbers.max()) + 1)
        if (place := largest_slice(numbers, structure)) is not None
    ]  # fmt: skip
    for slices in rows.values():  # of a mask on many slices the one in the middle
        places = sorted(slices)
        chosen += [places[len(places) // 2]] if len(places) > MOST_TILES else places
    several = list(dict.fromkeys(chosen or [len(numbers) // 2]))
    return sorted(several[:MOST_TILES])


def largest_slice(numbers: Tensor, structure: int) -> int | None:
    """The slice of `numbers (D, H, W)` with most of `structure`; `None` where there is none."""
    areas = (numbers == structure).flatten(1).sum(1)
    return int(areas.argmax()) if int(areas.max()) else None


def draw_overlay(planes: Sequence[Plane], names: Mapping[int, str], words: str) -> Image.Image:
    """The planes in rows of two, over a legend of `names` (structure -> name) and `words`.

    Several structures have their numbers of the mask on them: colours alone are not enough for
    everybody, and come again after seven. A single plane has `SMALLEST` to `LARGEST` pixels on its
    longer side.
    """
    side = SMALLEST
    if len(planes) == 1:
        side = min(max(SMALLEST, *planes[0].picture.shape[:2]), LARGEST)
    tiles = [_tile(plane, side, len(names) > 1) for plane in planes]
    grid = [tiles[first : first + 2] for first in range(0, len(tiles), 2)]
    pictures = stacked([beside(each) for each in grid])
    # of a narrow picture the words would be a column of letters
    return stacked([pictures, draw_legend(names, words, max(pictures.width, SMALLEST))])


def _tile(plane: Plane, side: int, numbered: bool) -> Image.Image:
    """A plane with outlines and prompts, and with the structures' numbers, its words above it."""
    picture = fit(Image.fromarray(plane.picture), side, plane.pixel)
    width = max(2, round(side / 350))
    deepest: dict[int, tuple[int, int]] = {}
    for number in np.unique(plane.numbers):
        if number:
            mask = fitted(plane.numbers == number, side, plane.pixel)
            deepest[int(number)] = _place_of_number(mask)
            # on any ground: a black line on both sides of the coloured one
            picture = outlined(picture, ndimage.binary_dilation(mask), BLACK, width + 2)
            picture = outlined(picture, mask, colour_of(int(number) - 1), width)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    scale = (image.width / plane.picture.shape[1], image.height / plane.picture.shape[0])
    for structure, row in plane.rows.items():
        _prompt(draw, row, scale, colour_of(structure))
    for number, place in deepest.items() if numbered else ():
        draw.text(place, str(number), WHITE, font(), "mm", stroke_width=2, stroke_fill=BLACK)
    return headed(image, plane.words) if plane.words else image


def fitted(
    mask: NDArray[np.bool_], side: int, pixel: Sequence[float] = (1.0, 1.0)
) -> NDArray[np.bool_]:
    """`mask (H, W)` as `overlay.fit_mask` does it, with every part of it.

    A part of which the picture of `side` pixels would have `TOO_SMALL` pixels or fewer is a dot of
    3 x 3 there: a person has to see that there is something.
    """
    found = fit_mask(mask, side, pixel)
    if found.shape[0] >= mask.shape[0] and found.shape[1] >= mask.shape[1]:
        return found
    touched = np.zeros_like(found)
    places = np.argwhere(mask)
    scale = np.array(found.shape) / mask.shape
    y, x = ((places + 0.5) * scale).astype(int).T
    touched[y, x] = True
    parts, _ = ndimage.label(touched | found, np.ones((3, 3)))
    shown = np.bincount(parts[found], minlength=parts.max() + 1)[parts]
    lost = (parts > 0) & (shown <= TOO_SMALL)
    dots: NDArray[np.bool_] = ndimage.binary_dilation(lost, np.ones((3, 3)))
    return found | dots


def _place_of_number(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """x and y of the middle of a structure's number: deep inside, or beside it where it is so small
    that the number would hide it."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = (int(each) for each in np.unravel_index(int(inside.argmax()), mask.shape))
    if inside[y, x] >= NUMBER:
        return x, y
    height, width = mask.shape
    columns = np.flatnonzero(mask[max(0, y - NUMBER) : y + NUMBER].any(0))
    right, left = int(columns.max()) + NUMBER, int(columns.min()) - NUMBER
    if right < width - NUMBER:
        x = right
    elif left >= NUMBER:
        x = left
    return x, max(min(y, height - NUMBER), min(NUMBER, height // 2))


def _prompt(
    draw: ImageDraw.ImageDraw, row: Row, scale: tuple[float, float], colour: Colour
) -> None:
    """The box with dashes, clicks on the structure as discs with a plus, off it with a cross."""
    points, labels, box = row
    if box is not None:
        edges = np.array([box[0], box[1], box[2] + 1, box[3] + 1]) * (scale * 2)
        x0, y0, x1, y1 = (float(edge) for edge in edges)
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))
        for start, end in pairwise(corners):
            _dashes(draw, start, end, colour)
    for (px, py), label in zip(points, labels, strict=True):
        x, y = (px + 0.5) * scale[0], (py + 0.5) * scale[1]
        fill = colour if label == POSITIVE else WHITE
        draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=fill, outline=BLACK, width=2)
        arms = ((0, 5), (5, 0)) if label == POSITIVE else ((4, 4), (4, -4))
        for dx, dy in arms:
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=BLACK, width=2)


def _dashes(
    draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], colour: Colour
) -> None:
    """A line of black and coloured dashes, seen on any ground."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1.0)
    ends = [*np.arange(0, length, DASH), length]
    for number, (one, other) in enumerate(pairwise(ends)):
        places = [
            (start[0] + (end[0] - start[0]) * at / length,
             start[1] + (end[1] - start[1]) * at / length)
            for at in (one, other)
        ]  # fmt: skip
        draw.line(places, fill=BLACK if number % 2 else colour, width=3)
