"""Generated scenes of many objects: what the embedded backbone `vit_tiny` is pre-trained on.

A scene is painted back to front: a textured background, then objects from large to small, each
with its own outline, colour, texture, blotches and edge softness; then what cameras and scanners
do to an image (blur, grey, low contrast, uneven light, thin occluding lines, noise). Nothing here
is a medical image or imitates one organ; the aim is that an outline is found from what is in the
picture, whatever its domain.

Every scene is a function of `(seed, index)`, so a run can be resumed and a held-out set is exact.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

SMALLEST_OBJECT = 0.012  # share of the image that must stay uncovered for an object to be prompted
LARGEST_PIECE = 0.9  # share of an object's visible pixels that must hang together to be prompted
LEAST_CONTRAST = 15.0  # grey levels between an object and its surroundings, below: not prompted
LEAST_PAINTED_CONTRAST = 0.25  # of the range, before low contrast and camera are applied
MOST_OBJECTS = 12


@dataclass(frozen=True)
class Scene:
    """`image (3, S, S) float32 in [0, 255]`, `objects (S, S) int16`, 0 = background."""

    image: Array
    objects: NDArray[np.int16]

    def prompted(self) -> list[int]:
        """Numbers of the objects that a prompt can ask for.

        They are large enough, can be told from their surroundings, and were not cut into pieces by
        objects in front of them: no click or box says which pieces belong together.
        """
        numbers, pixels = np.unique(self.objects, return_counts=True)
        large = (pixels > SMALLEST_OBJECT * self.objects.size) & (numbers > 0)
        candidates = [int(n) for n in numbers[large] if self._in_one_piece(int(n))]
        return [n for n in candidates if self._contrast(n) > LEAST_CONTRAST]

    def _in_one_piece(self, number: int) -> bool:
        """Whether nearly all visible pixels of an object hang together."""
        pieces, _ = ndimage.label(self.objects == number)
        sizes = np.bincount(pieces.ravel())[1:]
        return bool(sizes.max() >= LARGEST_PIECE * sizes.sum())

    def _contrast(self, number: int) -> float:
        """Grey levels (largest of the channels) between an object and a ring of 4 px around it."""
        inside = self.objects == number
        ring = ndimage.binary_dilation(inside, iterations=4) & ~inside
        if not ring.any():
            return 0.0
        difference = self.image[:, inside].mean(1) - self.image[:, ring].mean(1)
        return float(np.abs(difference).max())


@lru_cache(maxsize=1)
def _texture_bank() -> Array:
    """64 textures (64, 256, 256) of mean 0 and deviation 1: noise of several scales, waves."""
    rng = np.random.default_rng(20_240_101)
    y, x = np.mgrid[:256, :256].astype(np.float32)
    bank = []
    for number in range(64):
        texture = np.zeros((256, 256), np.float32)
        for _ in range(rng.integers(1, 4)):
            cells = int(2 ** rng.uniform(2, 7))
            noise = rng.standard_normal((cells, cells)).astype(np.float32)
            texture += rng.uniform(0.3, 1) * ndimage.zoom(noise, 256 / cells, order=1)[:256, :256]
        if number % 3 == 0:
            angle, frequency = rng.uniform(0, np.pi), rng.uniform(0.1, 1.2)
            texture += 1.5 * np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)))
        bank.append((texture - texture.mean()) / texture.std())
    return np.stack(bank).astype(np.float32)


def _texture(rng: np.random.Generator, height: int, width: int) -> Array:
    """A random cut-out (height, width) of the bank, randomly mirrored."""
    bank = _texture_bank()
    y = int(rng.integers(0, bank.shape[1] - height + 1))
    x = int(rng.integers(0, bank.shape[2] - width + 1))
    cut = bank[rng.integers(len(bank)), y : y + height, x : x + width]
    return cut[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


def _outline(
    rng: np.random.Generator, x: Array, y: Array, radius: float, irregularity: float
) -> Array:
    """Signed distance (pixels, negative inside) of a random closed shape centred at (0, 0)."""
    angle, flatness = rng.uniform(0, np.pi), rng.uniform(0.45, 1.0)
    u = x * np.cos(angle) + y * np.sin(angle)
    v = (-x * np.sin(angle) + y * np.cos(angle)) / flatness
    kind = rng.random()
    if kind < 0.6:  # a smooth irregular blob: Fourier series of the radius
        theta = np.arctan2(v, u)
        series = np.ones_like(theta)
        for order in range(2, 8):
            series += (
                irregularity
                * rng.standard_normal()
                / order
                * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
            )
        distance = np.hypot(u, v) - radius * np.maximum(series, 0.25)
    elif kind < 0.72:  # a rectangle
        distance = np.maximum(np.abs(u), np.abs(v)) - 0.85 * radius
    elif kind < 0.84:  # a bent tube
        bend = rng.uniform(-0.8, 0.8) / radius
        width = radius * rng.uniform(0.16, 0.4)
        distance = np.maximum(np.abs(v - bend * u * u) - width, np.abs(u) - 1.3 * radius)
    else:  # an ellipse
        distance = np.hypot(u, v) - radius
    return np.asarray(distance, np.float32)


def _paint(
    rng: np.random.Generator, image: Array, objects: NDArray[np.int16], number: int, radius: float
) -> None:
    """Paint object `number` at a random place into `image (S, S, 3) in [0, 1]` and `objects`."""
    size = image.shape[0]
    centre_y, centre_x = rng.uniform(0, size, 2)
    reach = int(1.9 * radius) + 3
    top, bottom = max(0, int(centre_y) - reach), min(size, int(centre_y) + reach)
    left, right = max(0, int(centre_x) - reach), min(size, int(centre_x) + reach)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(centre_y)
    x = np.arange(left, right, dtype=np.float32)[None] - np.float32(centre_x)
    height, width = bottom - top, right - left
    distance = _outline(rng, x, y, radius, irregularity=rng.uniform(0.05, 0.5))
    if rng.random() < 0.3:  # a ragged border
        distance = distance + rng.uniform(0, 0.08) * radius * _texture(rng, height, width)

    under = image[top:bottom, left:right]
    surroundings = under.mean((0, 1))
    colour = rng.uniform(0, 1, 3).astype(np.float32)
    while np.abs(colour - surroundings).max() < LEAST_PAINTED_CONTRAST:
        colour = rng.uniform(0, 1, 3).astype(np.float32)
    texture = _texture(rng, height, width)[..., None] * rng.uniform(0.3, 1, 3).astype(np.float32)
    painted = colour + np.float32(rng.uniform(0, 0.2)) * texture
    if rng.random() < 0.35:  # another shade towards the middle
        depth = np.clip(-distance / np.float32(radius), 0, 1)[..., None]
        painted = painted + rng.uniform(-0.4, 0.4, 3).astype(np.float32) * depth
    if rng.random() < 0.4 and radius > 0.1 * image.shape[0]:
        painted = _blotched(rng, painted, y, x, radius)
    if rng.random() < 0.3:  # shaded from one side to the other
        slope = rng.uniform(-0.35, 0.35, 2).astype(np.float32) / np.float32(radius)
        painted = painted + (slope[0] * x + slope[1] * y)[..., None]
    if rng.random() < 0.35:  # little contrast to what lies under it
        share = np.float32(rng.uniform(0.3, 0.6))
        painted = share * painted + (1 - share) * surroundings
    softness = np.float32(rng.uniform(0.5, 2.0))
    if rng.random() < 0.3:  # a wide, blurred border
        softness = max(softness, np.float32(rng.uniform(0.05, 0.3) * radius))
    opacity = 1 / (1 + np.exp(np.clip(2 * distance / softness, -20, 20)))
    opacity = (opacity * rng.uniform(0.8, 1.0) if rng.random() < 0.3 else opacity)[..., None]
    image[top:bottom, left:right] = under * (1 - opacity) + np.clip(painted, 0, 1) * opacity
    objects[top:bottom, left:right][distance < 0] = number


def _blotched(rng: np.random.Generator, painted: Array, y: Array, x: Array, radius: float) -> Array:
    """Blotches of other shades inside one object: they belong to it, its outline stays."""
    for _ in range(rng.integers(1, 6)):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.9) * radius
        size = rng.uniform(0.12, 0.5) * radius
        away = np.hypot(y - distance * np.sin(angle), x - distance * np.cos(angle))
        soft = 1 / (1 + np.exp(np.clip((away - size) / (0.15 * size + 0.5), -20, 20)))
        change = rng.uniform(-0.35, 0.35) + rng.uniform(-0.1, 0.1, 3)
        painted = painted + soft[..., None] * change.astype(np.float32)
    return painted


def _lines(rng: np.random.Generator, image: Array) -> None:
    """Thin curved lines that occlude but are no objects, painted into `image (S, S, 3)`."""
    size = image.shape[0]
    shade = rng.uniform(0, 1, 3).astype(np.float32)
    for _ in range(rng.integers(1, 12)):
        steps = np.arange(int(rng.uniform(0.2, 1.1) * size))
        angle = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.012) * steps
        y = (rng.uniform(0, size) + np.cumsum(np.sin(angle))).astype(int) % size
        x = (rng.uniform(0, size) + np.cumsum(np.cos(angle))).astype(int) % size
        image[y, x] = 0.3 * image[y, x] + 0.7 * shade


def _camera(rng: np.random.Generator, image: Array) -> Array:
    """What a camera or scanner adds to `image (S, S, 3) in [0, 1]`."""
    size = image.shape[0]
    if rng.random() < 0.2:
        _lines(rng, image)
    if rng.random() < 0.35:
        blur = rng.uniform(0.4, 1.6)
        image = ndimage.gaussian_filter(image, (blur, blur, 0), truncate=2.5)
    if rng.random() < 0.3:
        channels = rng.dirichlet((1.0, 1.0, 1.0)).astype(np.float32)
        image = np.repeat((image @ channels)[..., None], 3, 2)
    if rng.random() < 0.5:
        mean = image.mean((0, 1))
        image = mean + (image - mean) * np.float32(rng.uniform(0.35, 1.0))
    if rng.random() < 0.5:
        y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
        light = 1 + rng.uniform(-0.6, 0.6) * x + rng.uniform(-0.6, 0.6) * y
        image = image * light[..., None]
    if rng.random() < 0.15:
        y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
        image = (
            image
            * (1 - rng.uniform(0.2, 0.9) * np.clip(1.5 * np.hypot(x, y), 0, 1) ** 4)[..., None]
        )
    if rng.random() < 0.5:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        image = image + np.float32(rng.uniform(0, 0.05)) * noise
    return np.clip(image, 0, 1).astype(np.float32)


def generate_scene(seed: int, index: int, size: int, objects: int | None = None) -> Scene:
    """The scene number `index` of the stream `seed`, `size` x `size` pixels.

    `objects` is the number of objects painted; `None` draws 4 to 12, the held-out distribution.
    A scene in which nothing is large enough to be prompted is drawn again.
    """
    for attempt in range(100):
        rng = np.random.default_rng((seed, index, attempt))
        count = int(rng.integers(4, MOST_OBJECTS + 1)) if objects is None else objects
        image = np.empty((size, size, 3), np.float32)
        image[:] = rng.uniform(0, 1, 3)
        tint = rng.uniform(0.3, 1, 3).astype(np.float32)
        image += np.float32(rng.uniform(0, 0.2)) * _texture(rng, size, size)[..., None] * tint
        numbers = np.zeros((size, size), np.int16)
        radii = np.sort(np.exp(rng.uniform(np.log(0.06 * size), np.log(0.4 * size), count)))[::-1]
        for number, radius in enumerate(radii, start=1):
            _paint(rng, image, numbers, number, float(radius))
        scene = Scene(255 * _camera(rng, np.clip(image, 0, 1)).transpose(2, 0, 1), numbers)
        if scene.prompted():
            return scene
    raise RuntimeError(f"scene {index} of stream {seed}: nothing visible in 100 attempts")
