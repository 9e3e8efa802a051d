"""Painting one generated structure: an irregular kernel with a faint halo around it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

TEXTURES = 12  # of each grain


@dataclass(frozen=True)
class Look:
    """Difference of a structure from its surroundings: `colour` RGB, `grain` of its texture."""

    colour: tuple[float, float, float]
    grain: float


LOOKS = (
    Look((-0.30, -0.36, -0.32), 0.03),  # dark
    Look((0.30, 0.28, 0.22), 0.03),  # pale
    Look((0.12, -0.34, -0.10), 0.03),  # tinted
    Look((-0.14, -0.06, -0.20), 0.13),  # granular
)


def paint_structure(
    rng: np.random.Generator,
    scene: Array,
    ground: Array,
    owner: NDArray[np.int8],
    number: int,
    centre: tuple[float, float],
    radius: float,
    look: Look,
    halo: float,
) -> None:
    """Paint a structure into `scene (H, W, 3)` and its `number` into `owner (H, W)`, in place.

    It covers what was there and stands on `ground (H, W, 3)`, to which its colour is added.
    `centre` (y, x) and `radius` in pixels; the radius is that of kernel and halo together, `halo`
    the share of it that the halo takes. `owner` gets the kernel and the halo.
    """
    reach = 1.6 * radius + 2
    top, left = (max(0, int(middle - reach)) for middle in centre)
    place = slice(top, int(centre[0] + reach) + 1), slice(left, int(centre[1] + reach) + 1)
    under = scene[place]
    y = np.arange(top, top + under.shape[0], dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(left, left + under.shape[1], dtype=np.float32)[None] - np.float32(centre[1])
    distance = _outline(rng, y, x) / np.float32(radius)

    soft = np.float32(max(1.0, rng.uniform(0.06, 0.12) * radius) / radius)
    level = np.float32(rng.uniform(0.42, 0.56) if halo else 0.0)
    kernel = _step(distance, 1 - halo, soft)[..., None]
    faint = _step(distance, 1 - 0.5 * soft, soft)[..., None]  # has faded at the border, 1
    amount = level * faint + (1 - level) * kernel
    colour = np.float32(rng.uniform(0.75, 1.15)) * np.array(look.colour, np.float32)
    height, width = distance.shape
    grain = texture(rng, height, width, max(scene.shape), fine=True)[..., None]
    covered = under + faint * (ground[place] - under)
    scene[place] = covered + amount * (colour + np.float32(look.grain) * grain)
    owner[place][distance < 1] = number


def _outline(rng: np.random.Generator, y: Array, x: Array) -> Array:
    """Distance (h, w) in pixels from (0, 0), corrected so that an irregular blob is a circle."""
    angle, flat = rng.uniform(0, np.pi), np.float32(rng.uniform(0.85, 1.2))
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (x * cosine + y * sine) * flat, (y * cosine - x * sine) / flat
    distance = np.hypot(u, v)
    direction = (u + 1j * v) / (distance + np.float32(1e-3))  # its powers are cos and sin of n t
    border, power = np.ones_like(distance), direction
    for order in range(2, 7):
        power = power * direction
        weights = 0.15 * rng.standard_normal(2).astype(np.float32) / order
        border += weights[0] * power.real + weights[1] * power.imag
    return np.asarray(distance / np.clip(border, 0.65, 1.35), np.float32)


def _step(distance: Array, border: float | np.floating, soft: np.floating) -> Array:
    """From 1 inside `border` to 0 outside, over about `soft`."""
    steepness = np.clip((distance - border) * (np.float32(4) / soft), -20, 20)
    return np.asarray(1 / (1 + np.exp(steepness)), np.float32)


def texture(rng: np.random.Generator, height: int, width: int, longest: int, fine: bool) -> Array:
    """A random texture (height, width) of zero mean for an image with that longest side."""
    bank = _bank(longest)
    y, x = (int(rng.integers(longest - side + 1)) for side in (height, width))
    chosen: Array = bank[int(rng.integers(TEXTURES)) + TEXTURES * fine]
    cut: Array = chosen[y : y + height, x : x + width]
    return cut[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]


@lru_cache(maxsize=1)
def _bank(side: int) -> Array:
    """Textures (2 * TEXTURES, side, side) of unit deviation: coarse ones, then fine ones."""
    rng = np.random.default_rng(7)
    bank = np.empty((2 * TEXTURES, side, side), np.float32)
    for number in range(2 * TEXTURES):
        cells = int(rng.integers(5, 20) if number < TEXTURES else rng.integers(40, 64))
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        wide = ndimage.zoom(noise, (side + 1) / cells, order=1)[:side, :side]
        bank[number] = (wide - wide.mean()) / wide.std()
    return bank
