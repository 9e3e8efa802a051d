"""Prompts from the numbers of a file to pixels of the image, and from these to the model frame.

A pixel is a square: number 3 covers 3 to 4 from the edge, its centre lies at 3.5. The image is
resized from edge to edge (align_corners=False), so a click moves with its centre, and a box with
its outer edges, both corners inside. Volumes are turned as `Geometry` turns their voxels, whatever
the file's axes.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from medsa_model.data.geometry import Geometry
from medsa_model.errors import DataError
from medsa_model.predict.asked import Given
from medsa_model.prompts import NEGATIVE, POSITIVE, Row

Rows = dict[int, dict[int, Row]]
"""Structure -> slice (of an image 0) -> its prompt, in pixels of the image or the slice."""


def image_rows(marks: Iterable[Given], size: tuple[int, int], case: str) -> Rows:
    """What is asked on an upright image of `size` (height, width).

    Raises `DataError` for numbers that lie outside of it.
    """
    height, width = size
    rows: Rows = {}
    for given in marks:
        xs, ys = given.numbers[0::2], given.numbers[1::2]
        if not _inside(xs, width) or not _inside(ys, height):
            raise DataError(
                f"case {case}: {given.told()} lies outside of the image, which is {width} x "
                f"{height} pixels (width x height): x goes from 0 to {width - 1}, y from 0 to "
                f"{height - 1}"
            )
        _join(rows.setdefault(given.structure, {}), 0, given, given.numbers)
    return rows


def volume_rows(marks: Iterable[Given], geometry: Geometry, case: str) -> Rows:
    """What is asked on the slices of a volume, from the voxel numbers of its file.

    A click is i, j, k. A box has the numbers along the two axes of the file that lie in the slices,
    in their order, and last the number along the axis of the slices, which is k in most files.
    Raises `DataError` for numbers that lie outside, for a slice with clicks off a structure alone,
    and for two boxes of a structure on one slice.
    """
    shape = geometry.shape[:3]
    turn, shift = _to_file(geometry)
    along = int(np.abs(turn[:, 0]).argmax())  # the file's axis that leads through the slices
    in_plane = [axis for axis in range(3) if axis != along]
    rows: Rows = {}
    for given in marks:
        corners = [given.numbers]
        if given.mark == "box":
            *plane, number_of_slice = given.numbers
            corners = []
            for pair in (plane[:2], plane[2:]):
                numbers = [number_of_slice] * 3
                for axis, number in zip(in_plane, pair, strict=True):
                    numbers[axis] = number
                corners.append(tuple(numbers))
        for voxel in corners:
            if not all(_inside([n], length) for n, length in zip(voxel, shape, strict=True)):
                sizes = " x ".join(map(str, shape))
                raise DataError(
                    f"case {case}: {given.told()} lies outside of the volume, which has {sizes} "
                    "voxels (i x j x k): numbers go from 0 to one less"
                )
        turned = [turn.T @ (np.array(voxel) - shift) for voxel in corners]  # slice, row, column
        place = int(np.rint(turned[0][0]))
        if turned[0][0] != place:
            raise DataError(
                f"case {case}: {given.told()} lies between two slices, which go along the file's "
                f"axis {'ijk'[along]}; expected a whole number there"
            )
        ys, xs = (sorted(float(each[axis]) for each in turned) for axis in (1, 2))
        placed = (xs[0], ys[0], xs[-1], ys[-1])[: 4 if given.mark == "box" else 2]
        slices = rows.setdefault(given.structure, {})
        if given.mark == "box" and place in slices and slices[place][2]:
            raise DataError(f"case {case}: two boxes of a structure on one slice; expected one")
        _join(slices, place, given, placed)
    for slices in rows.values():
        if any(box is None and POSITIVE not in labels for _, labels, box in slices.values()):
            raise DataError(
                f"case {case}: a slice has clicks off the structure alone; expected a click on it "
                "or a box on the same slice too"
            )
    return rows


def file_slice(place: int, geometry: Geometry) -> int:
    """The number that slice `place` of the frame has in the file, along its axis of slices."""
    turn, shift = _to_file(geometry)
    along = int(np.abs(turn[:, 0]).argmax())
    return int(turn[along, 0] * place + shift[along])


def in_model(row: Row, content: tuple[int, int], original: tuple[int, int]) -> Row:
    """A prompt in pixels of the model frame.

    `content` and `original` (height, width) of the image there and in its own pixels.
    """
    points, labels, box = row
    y, x = (new / old for new, old in zip(content, original, strict=True))
    moved = [((px + 0.5) * x - 0.5, (py + 0.5) * y - 0.5) for px, py in points]
    if box is None:
        return moved, labels, None
    left, right = _edges(box[0], box[2], x)
    top, bottom = _edges(box[1], box[3], y)
    return moved, labels, (left, top, right, bottom)


def slice_in_model(place: int, depth: int, slices: int) -> int:
    """The slice of the model frame, of `depth`, in which slice `place` of `slices` lies."""
    return int((place + 0.5) * depth / slices)


def slice_of_volume(place: int, depth: int, slices: int) -> int:
    """The one of `slices` from which slice `place` of the model frame, of `depth`, has its mask."""
    return int((place + 0.5) * slices / depth)


def _edges(first: float, last: float, scale: float) -> tuple[float, float]:
    """First and last pixel, both inside; of less than one pixel its middle."""
    low, high = first * scale, (last + 1) * scale - 1
    return (low, high) if low <= high else ((low + high) / 2, (low + high) / 2)


def _join(slices: dict[int, Row], place: int, given: Given, numbers: Sequence[float]) -> None:
    """Add a mark to the prompt of its slice."""
    points, labels, box = slices.get(place, ([], [], None))
    if given.mark == "box":
        x0, y0, x1, y1 = numbers
        slices[place] = (points, labels, (x0, y0, x1, y1))
        return
    label = POSITIVE if given.mark == "click" else NEGATIVE
    slices[place] = ([*points, (numbers[0], numbers[1])], [*labels, label], box)


def _inside(numbers: Sequence[float], length: int) -> bool:
    return all(0 <= number <= length - 1 for number in numbers)


def _to_file(geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`turn (3, 3)`, one 1 or -1 in each row, and `shift (3)`: voxel of the file = turn @ voxel of
    the frame + shift."""
    back = np.rint(np.linalg.solve(geometry.affine, geometry.in_frame().affine))
    return back[:3, :3], back[:3, 3]
