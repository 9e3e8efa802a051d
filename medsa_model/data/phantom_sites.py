"""How the six scanners of the phantom differ: field of view, noise, sharpness, contrast phase.

The table is fixed, so `site_a` is the same hospital in every run and at every seed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsa_model.data.organs import ORGANS

Array = NDArray[np.float32]

# HU of the organs in their order; an injected contrast agent reaches them at different times
PHASES: dict[str, tuple[float, ...]] = {
    #           spleen kidneys gall eso liver sto aorta IVC portal pancreas adrenals
    "native": (48, 34, 34, 10, 38, 58, 32, 42, 40, 42, 40, 24, 24),
    "arterial": (112, 135, 135, 10, 55, 72, 52, 290, 70, 95, 105, 80, 80),
    "portal": (122, 185, 185, 10, 52, 112, 50, 155, 138, 168, 98, 72, 72),
    "delayed": (98, 170, 170, 14, 50, 92, 46, 112, 110, 112, 78, 56, 56),
}


@dataclass(frozen=True)
class Scanner:
    """One site's scanner and protocol.

    `field` (mm) is the width of a slice, `cover` (mm) the height of all slices; `offset` (mm) how
    far they are above the middle of the abdomen. `blur` (mm) is the standard deviation of the
    kernel within a slice, `thick` that across slices in slices; `noise` (HU) a standard
    deviation, `grain` (mm) its correlation. `gain` and `bias` (HU) are what calibration leaves.
    """

    phase: str
    field: float
    cover: float
    offset: float
    blur: float
    thick: float
    noise: float
    grain: float
    gain: float = 1.0
    bias: float = 0.0


SCANNERS = (
    Scanner("portal", 380, 216, 10, 1.8, 0.30, 11, 1.5),
    Scanner("arterial", 420, 240, 4, 2.6, 0.45, 16, 2.5, 1.02, -4),
    Scanner("portal", 360, 192, 18, 1.2, 0.25, 26, 0.8, 0.99, 3),
    Scanner("delayed", 450, 264, 0, 3.2, 0.60, 9, 3.5, 1.0, 6),
    Scanner("native", 400, 228, 8, 2.0, 0.35, 14, 2.0, 0.98, -2),
    Scanner("portal", 500, 240, 6, 3.8, 0.50, 20, 3.0, 1.03, -6),
)


def contrast(rng: np.random.Generator, phase: str) -> NDArray[np.float64]:
    """HU of each organ in a case: what the phase adds varies by a factor, and each organ a bit."""
    native, given = np.array(PHASES["native"], float), np.array(PHASES[phase], float)
    values = native + rng.uniform(0.75, 1.2) * (given - native)
    return np.asarray(values + rng.normal(0, 5, len(ORGANS)))


def scan(rng: np.random.Generator, body: Array, scanner: Scanner, spacing: Array) -> Array:
    """What `scanner` makes of `body (D, H, W)` in HU; `spacing` (slice, row, column) in mm."""
    within = float(spacing[1])
    kernel = (scanner.thick, scanner.blur / within, scanner.blur / within)
    image = ndimage.gaussian_filter(body, kernel, mode="nearest", truncate=3)
    noise = rng.standard_normal(body.shape, np.float32)
    grain = scanner.grain / within
    noise = ndimage.gaussian_filter(noise, (0, grain, grain), mode="wrap", truncate=3)
    noise *= np.float32(scanner.noise * rng.uniform(0.8, 1.25) / noise.std())
    image = np.float32(scanner.gain) * image + noise + np.float32(scanner.bias)
    return np.asarray(image, np.float32)
