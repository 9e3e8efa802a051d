"""The painted abdomen: shapes of thirteen organs in a body, in mm, varied from case to case.

Coordinates (slice, row, column) in mm grow to superior, posterior and the patient's left, as the
frame of `Sample`; 0 is the middle of the body. An organ is a union of ellipsoids and bent tubes. A
case scales and shifts every organ a little and then bends the whole space smoothly, so neighbours
stay neighbours. Where organs would overlap, the later one of `SHAPES` covers the earlier.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsa_model.data.organs import NUMBERS, Organ

Array = NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ball:
    """An ellipsoid: `middle` and half axes `radii`."""

    middle: Point
    radii: Point


@dataclass(frozen=True)
class Tube:
    """All that is within `radius` of the line through `points`."""

    points: tuple[Point, ...]
    radius: float


SHAPES: dict[Organ, tuple[Ball | Tube, ...]] = {  # the later cover the earlier
    "liver": (Ball((38, -16, -72), (62, 72, 72)), Ball((50, -52, -8), (32, 34, 64))),
    "stomach": (
        Ball((66, -8, 54), (34, 36, 38)),
        Ball((28, -42, 48), (44, 28, 32)),
        Tube(((-2, -54, 44), (-10, -52, -10)), 17),
    ),
    "spleen": (Ball((46, 34, 108), (50, 44, 27)),),
    "right_kidney": (Ball((-28, 40, -72), (55, 25, 28)),),
    "left_kidney": (Ball((-8, 42, 70), (56, 25, 28)),),
    "pancreas": (Tube(((-16, -24, -32), (2, -34, -6), (16, -25, 25), (30, 8, 70)), 13),),
    "gallbladder": (Ball((-18, -60, -56), (26, 16, 16)),),
    "esophagus": (Tube(((140, 6, 0), (100, 2, 6), (70, -6, 28)), 10),),
    "inferior_vena_cava": (Tube(((-140, 14, -18), (30, 10, -18), (140, -6, -24)), 12),),
    "aorta": (Tube(((-140, 16, 6), (40, 13, 8), (140, 24, 16)), 11),),
    "portal_and_splenic_vein": (
        Tube(((40, 20, 80), (24, -6, 30), (14, -14, -8), (38, -24, -28), (50, -26, -46)), 7.5),
    ),
    "right_adrenal_gland": (Ball((38, 24, -42), (18, 12, 7)),),
    "left_adrenal_gland": (Ball((48, 22, 37), (18, 9, 10)),),
}
BODY: Point = (0, 110, 165)  # half axes of the outline; it has no end along the slices
TISSUES = {  # HU of what is no organ
    "air": -1000.0, "fat": -105.0, "muscle": 55.0, "bone": 220.0, "disc": 85.0, "lung": -840.0,
    "bowel": 25.0,
}  # fmt: skip


def paint(
    rng: np.random.Generator, grid: tuple[Array, Array, Array]
) -> tuple[NDArray[np.uint8], Array]:
    """Numbers of the organs (D, H, W), and HU of everything that is no organ.

    `grid` has the coordinates of the voxels, of shapes that broadcast to (D, H, W). What is drawn
    does not depend on them: another grid sees the same body.
    """
    place = _bend(rng, grid, rng.uniform((0.95, 0.9, 0.9), (1.05, 1.1, 1.1)))
    variations = {
        organ: (rng.uniform(-1, 1, 3) * (8, 5, 5), float(rng.uniform(0.88, 1.12)))
        for organ in SHAPES
    }
    rim = _outline(place, rng.uniform(0.78, 0.84))
    ground = _surroundings(rng, place, rim)
    numbers = np.zeros(ground.shape, np.uint8)
    cavity = rim <= 1
    for organ, parts in SHAPES.items():
        shift, scale = variations[organ]
        middle = np.mean([_middle(part) for part in parts], 0)
        own = tuple(
            (axis - np.float32(m + s)) / np.float32(scale) + np.float32(m)
            for axis, m, s in zip(place, middle, shift, strict=True)
        )
        for part in parts:
            numbers[(_distance(part, own) <= 1) & cavity] = NUMBERS[organ]
    for organ, parts in SHAPES.items():  # coarse voxels may miss a small organ: one is kept
        if not (numbers == NUMBERS[organ]).any():
            point = _middle(parts[0])
            away = sum(np.square(axis - m) for axis, m in zip(place, point, strict=True))
            numbers.flat[np.argmin(away)] = NUMBERS[organ]
    return numbers, ground


def _bend(
    rng: np.random.Generator, grid: tuple[Array, ...], scale: NDArray[np.float64]
) -> tuple[Array, ...]:
    """The coordinates of `grid` in the unbent body: displaced by some mm along long waves."""
    place = [axis / np.float32(factor) for axis, factor in zip(grid, scale, strict=True)]
    moved = list(place)
    for along in range(3):
        for _ in range(3):
            length, phase = rng.uniform(110, 240), rng.uniform(0, 2 * np.pi)
            course = rng.normal(size=3)
            course *= 2 * np.pi / length / np.linalg.norm(course)
            wave = sum(np.float32(step) * axis for step, axis in zip(course, place, strict=True))
            moved[along] = moved[along] + np.float32(rng.uniform(1, 3.5)) * np.sin(
                wave + np.float32(phase)
            )
    return tuple(moved)


def _outline(place: tuple[Array, ...], share: float) -> Array:
    """1 on the wall of the cavity, which is `share` of the body's outline; more outside."""
    squares = [np.abs(place[axis] / np.float32(share * BODY[axis])) ** 2.4 for axis in (1, 2)]
    return np.asarray(squares[0] + squares[1], np.float32) ** np.float32(1 / 2.4)


def _surroundings(rng: np.random.Generator, place: tuple[Array, ...], rim: Array) -> Array:
    """HU of a body without organs; `rim` is 1 on the wall of its cavity."""
    slice_, row, column = place
    muscle = 1 + rng.uniform(0.07, 0.12)  # where the muscles of the wall end, in units of `rim`
    skin = muscle + rng.uniform(0.05, 0.2)
    ground = np.full(rim.shape, TISSUES["air"], np.float32)
    ground[rim <= skin] = TISSUES["fat"]
    ground[rim <= muscle] = TISSUES["muscle"]
    ground[rim <= 1] = TISSUES["fat"]
    for side in (-1, 1):  # above the domes of the diaphragm
        lung = _distance(Ball((178, 6, side * 74), (96, 84, 66)), place) <= 1
        ground[lung & (rim <= 1)] = TISSUES["lung"]
    for side in (-1, 1):  # beside the spine, and psoas below the kidneys' middle
        back = Tube(((-140, 66, side * 34), (140, 66, side * 30)), 20)
        psoas = Tube(((-140, 40, side * 46), (0, 42, side * 30)), 17)
        for part in (back, psoas):
            ground[(_distance(part, place) <= 1) & (rim <= muscle)] = TISSUES["muscle"]
    for _ in range(int(rng.integers(5, 10))):  # loops of bowel, which nobody annotates
        middle = rng.uniform((-140, -60, -95), (-20, 0, 95))
        loop = Ball((middle[0], middle[1], middle[2]), (22, 17, 26))
        filled = (_distance(loop, place) <= 1) & (rim <= 1)
        gas = filled & (row < middle[1] - 6) & (rng.random() < 0.4)
        ground[filled] = TISSUES["bowel"] + rng.normal(0, 15)
        ground[gas] = TISSUES["air"]
    spine = np.hypot(row - 47, column * np.float32(0.85)) <= 19
    arch = (np.abs(column) <= 5) & (row > 64) & (row < 96)
    discs = (slice_ + np.float32(rng.uniform(0, 34))) % 34 < 8
    ground[np.broadcast_to(spine | arch, rim.shape)] = TISSUES["bone"] + rng.normal(0, 25)
    ground[np.broadcast_to(spine & discs, rim.shape)] = TISSUES["disc"]
    return ground


def _distance(part: Ball | Tube, place: tuple[Array, ...]) -> Array:
    """At most 1 inside `part`."""
    if isinstance(part, Ball):
        squares = (
            np.square((axis - np.float32(middle)) / np.float32(radius))
            for axis, middle, radius in zip(place, part.middle, part.radii, strict=True)
        )
        return np.asarray(sum(squares), np.float32)
    nearest: Array | None = None
    for start, end in zip(part.points, part.points[1:], strict=False):
        leg = np.subtract(end, start).astype(np.float32)
        offsets = [axis - np.float32(s) for axis, s in zip(place, start, strict=True)]
        along = sum(step * offset for step, offset in zip(leg, offsets, strict=True))
        along = np.clip(along / np.float32(leg @ leg), 0, 1)
        squares = (np.square(o - along * step) for o, step in zip(offsets, leg, strict=True))
        away = np.asarray(sum(squares), np.float32)
        nearest = away if nearest is None else np.minimum(nearest, away)
    assert nearest is not None
    return nearest / np.float32(part.radius**2)


def _middle(part: Ball | Tube) -> NDArray[np.float64]:
    return np.asarray(np.mean([part.middle] if isinstance(part, Ball) else part.points, 0))
