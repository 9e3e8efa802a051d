"""How the twelve generated sites differ: camera tone, artefacts, structure size, mix of looks.

The table is fixed, so `site_a` is the same hospital in every run and at every seed. All sites
annotate by the same convention (see `synthetic`); only what they see differs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Colour = tuple[int, int, int]

GREY = np.array([0.3, 0.55, 0.15], np.float32)  # weight of red, green, blue in a grey level


@dataclass(frozen=True)
class Site:
    """One site.

    `dark` and `light` are what the camera makes of black and of white (a `dark` lighter than
    `light` inverts the picture); `saturation` 0 is grey. `scale` is the size of structures,
    `look` the index in `synthetic_painting.LOOKS` of its most frequent look. `blur` in 1/160 of the
    longest side, `noise` in shares of the range, `vignette` the loss of light in the corners,
    `hairs` their mean number (`light_hairs`: white ones), `ruler` whether there may be tick marks
    on an edge.
    """

    dark: Colour
    light: Colour
    saturation: float
    scale: float
    look: int
    blur: float
    noise: float
    vignette: float
    hairs: float = 0.0
    light_hairs: bool = False
    ruler: bool = False


SITES = (
    Site((60, 15, 15), (255, 205, 180), 1.0, 1.08, 0, 0.5, 0.015, 0.1, hairs=3),
    Site((235, 235, 235), (10, 10, 10), 0.0, 0.95, 1, 1.0, 0.040, 0.2),
    Site((0, 10, 35), (110, 190, 200), 0.8, 1.00, 2, 0.7, 0.025, 0.9, ruler=True),
    Site((140, 105, 60), (250, 240, 205), 0.6, 0.92, 3, 0.4, 0.025, 0.0, 2.5, True, True),
    Site((10, 0, 30), (190, 160, 255), 0.9, 1.10, 1, 1.2, 0.020, 0.5),
    Site((20, 20, 20), (200, 200, 200), 0.0, 1.10, 0, 0.3, 0.055, 0.0, ruler=True),
    Site((255, 240, 250), (90, 40, 110), 0.8, 0.95, 2, 0.4, 0.020, 0.0),
    Site((0, 40, 10), (220, 235, 120), 1.0, 0.90, 0, 0.8, 0.040, 0.7, hairs=4),
    Site((90, 60, 60), (210, 150, 140), 1.0, 1.00, 3, 0.6, 0.015, 0.3, 2, True),
    Site((0, 0, 0), (150, 150, 160), 0.1, 1.10, 2, 1.4, 0.050, 1.0),
    Site((255, 225, 170), (60, 25, 10), 0.7, 1.05, 1, 0.5, 0.035, 0.2, 4, False, True),
    Site((30, 50, 90), (255, 255, 255), 0.4, 0.90, 3, 1.0, 0.025, 0.4),
)


def photograph(rng: np.random.Generator, scene: Array, site: Site) -> Array:
    """What `site`'s camera makes of `scene (H, W, 3)`, 0 is black and 1 white; [0, 255]."""
    longest = max(scene.shape)
    contrast, light = np.float32(rng.uniform(0.75, 1.2)), np.float32(rng.normal(0, 0.04))
    image = np.clip(0.5 + contrast * (scene - 0.5) + light, 0, 1)
    grey = (image @ GREY)[..., None]
    image = grey + np.float32(site.saturation) * (image - grey)
    blur = site.blur * longest / 160 * rng.uniform(0.7, 1.3)
    image = ndimage.gaussian_filter(image, (blur, blur, 0), truncate=2.5)
    dark, bright = (rng.normal(colour, 12).astype(np.float32) for colour in (site.dark, site.light))
    image = dark + (bright - dark) * image
    for _ in range(rng.poisson(site.hairs)):
        _hair(rng, image, 235.0 if site.light_hairs else 25.0)
    if site.ruler and rng.random() < 0.5:
        _ruler(rng, image)
    height, width = image.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    image *= (1 - site.vignette * (((x + y) / 2) ** 1.5))[..., None]
    image += np.float32(255 * site.noise) * rng.standard_normal((height, width, 1), np.float32)
    image += np.float32(90 * site.noise) * rng.standard_normal(image.shape, np.float32)
    return np.asarray(np.clip(image, 0, 255), np.float32)


def _hair(rng: np.random.Generator, image: Array, shade: float) -> None:
    """A thin bent line across `image`, in place."""
    height, width = image.shape[:2]
    position = np.linspace(0, 1, 2 * max(height, width))
    ends = rng.uniform(-0.1, 1.1, (3, 2)) * (height, width)  # start, bend, end
    y, x = (
        (1 - position) ** 2 * ends[0, axis]
        + 2 * position * (1 - position) * ends[1, axis]
        + position**2 * ends[2, axis]
        for axis in (0, 1)
    )
    rows, columns = y.astype(int), x.astype(int)
    for thick in range(1 + max(height, width) // 150):
        inside = (rows >= 0) & (rows < height) & (columns >= thick) & (columns < width + thick)
        spots = rows[inside], columns[inside] - thick
        image[spots] = 0.4 * image[spots] + 0.6 * shade


def _ruler(rng: np.random.Generator, image: Array) -> None:
    """Tick marks along one edge of `image`, in place; every fifth is longer."""
    edge = np.rot90(image, int(rng.integers(4)))  # a view
    longest = max(image.shape)
    shade = 20.0 if edge.mean() > 110 else 235.0
    step, length = max(4, longest // 20), longest // 32
    for number, row in enumerate(range(int(rng.integers(step)), edge.shape[0], step)):
        thick = max(1, longest // 160)
        edge[row : row + thick, : 2 * length if number % 5 == 0 else length] = shade
