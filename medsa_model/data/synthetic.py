"""Generated images of several sites, for demonstrations and tests. Not medical images.

Each image holds several structures, and only the prompt says which one is meant: a body with a
core in it, one or more nodules, and distractors that nobody annotates. The sites share one
convention, which a generic model does not know: **the faint halo around a structure belongs to
it**. A generic model stops at the strong border inside. Sites see other cameras, artefacts,
sizes and mixes of looks (`synthetic_sites`): each sees mostly one look and a few of the others.

A case is a function of (seed, site, index) and is painted when it is loaded.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from medsa_model.data.no_folder import NoFolder
from medsa_model.data.sample import Case, Sample
from medsa_model.data.synthetic_painting import LOOKS, Array, Look, paint_structure, texture
from medsa_model.data.synthetic_sites import SITES, photograph
from medsa_model.section import Section

NAMES = ("nodule", "body", "core", "nodule_2", "nodule_3", "nodule_4")
BODY, CORE = NAMES.index("body"), NAMES.index("core")
NOBODY = len(NAMES)  # owns distractors and background
LEAST_SHARE = 0.015  # of the image's pixels, for every structure


class Synthetic(Section):
    """Generated images in which the prompt decides; nothing is read from disk."""

    kind: Literal["synthetic"] = "synthetic"
    root: NoFolder = None
    """Always empty: the images are generated."""
    sites: int = Field(4, ge=1, le=len(SITES))
    """Number of sites: site_a, site_b, ..."""
    cases_per_site: int = Field(60, ge=1, le=100_000)
    """Images of each site."""
    structures: int = Field(3, ge=1, le=len(NAMES))
    """Annotated structures in each image; each is one mask channel."""
    size: int = Field(160, ge=64, le=1024)
    """Longest side of an image in pixels."""
    own_look: float = Field(0.5, ge=0, le=1)
    """Share of structures that have the look most frequent at their site; the rest have any."""
    seed: int = Field(0, ge=0)
    """Another seed gives other images of the same sites."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the mask channels."""
        return NAMES[: self.structures]

    def open(self, root: Path | None = None) -> list[Case]:
        """All cases by case id; `root` is ignored. Every case is a patient of its own."""
        cases = []
        for site in range(self.sites):
            name = f"site_{chr(ord('a') + site)}"
            for index in range(self.cases_per_site):
                case = f"{name}_{index:05d}"
                load = partial(
                    paint_case, self.seed, site, index, self.structures, self.size, self.own_look,
                    case,
                )  # fmt: skip
                cases.append(Case(case, case, name, None, load))
        return cases


def paint_case(
    seed: int, site: int, index: int, structures: int, size: int, own_look: float, case: str
) -> Sample:
    """Image `index` of `site`, (3, H, W) with the longer side `size`, K = `structures`.

    A structure has its site's most frequent look with probability `own_look`, else any.
    """
    for attempt in range(100):
        rng = np.random.default_rng((seed, site, index, attempt))
        short = round(size * rng.uniform(0.75, 1.0))
        height, width = (short, size) if rng.random() < 0.7 else (size, short)
        scene, owner = _paint_scene(rng, height, width, site, max(1, structures - 2), own_look)
        mask = np.stack([owner == number for number in range(structures)])
        if (mask.mean((1, 2)) >= LEAST_SHARE).all():
            image = np.rint(photograph(rng, scene, SITES[site])).transpose(2, 0, 1)
            pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32))
            return Sample(pixels, torch.from_numpy(mask), case, case)
    raise RuntimeError(f"case {case}: no room for {structures} structures in 100 attempts")


def _paint_scene(
    rng: np.random.Generator, height: int, width: int, site: int, nodules: int, own_look: float
) -> tuple[Array, NDArray[np.int8]]:
    """Scene (H, W, 3) in about [0, 1], and (H, W): index in `NAMES` of the pixel's structure."""
    short, scale = min(height, width), SITES[site].scale
    owner = np.full((height, width), NOBODY, np.int8)
    scene = np.empty((height, width, 3), np.float32)
    scene[:] = np.array([0.56, 0.52, 0.5], np.float32) + rng.normal(0, 0.03, 3).astype(np.float32)
    tint = rng.uniform(0.02, 0.05, 3).astype(np.float32)
    scene += tint * texture(rng, height, width, max(height, width), fine=False)[..., None]

    ground = scene.copy()
    for _ in range(int(rng.integers(2, 6))):  # under the structures, sharp: distractors
        spot = rng.uniform(0, height), rng.uniform(0, width)
        radius = short * rng.uniform(0.04, 0.11)
        paint_structure(
            rng, scene, ground, owner, NOBODY, spot, radius, _look(rng, site, own_look), 0.0
        )

    least = 1.06 * _radius_of(LEAST_SHARE * height * width)
    channels = [BODY, *(n for n in range(nodules + 2) if n not in (BODY, CORE))]
    wished = [rng.uniform(0.2, 0.3) if n == BODY else rng.uniform(0.12, 0.19) for n in channels]
    discs = _places(rng, height, width, [short * scale * radius for radius in wished], least)
    for channel, (y, x, radius) in zip(channels, discs, strict=False):
        look, halo = _look(rng, site, own_look), rng.uniform(0.26, 0.4)
        paint_structure(rng, scene, ground, owner, channel, (y, x), radius, look, halo)
        if channel == BODY:
            turn, off = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.4, 0.55)
            inner = max(radius * rng.uniform(0.46, 0.56), least)
            spot = y + off * np.sin(turn), x + off * np.cos(turn)
            other, halo = _other_look(rng, look), rng.uniform(0.26, 0.4)
            paint_structure(rng, scene, scene.copy(), owner, CORE, spot, inner, other, halo)
    return scene, owner


def _look(rng: np.random.Generator, site: int, own_look: float) -> Look:
    usual = rng.random() < own_look
    return LOOKS[SITES[site].look if usual else int(rng.integers(len(LOOKS)))]


def _other_look(rng: np.random.Generator, look: Look) -> Look:
    return LOOKS[(LOOKS.index(look) + int(rng.integers(1, len(LOOKS)))) % len(LOOKS)]


def _radius_of(area: float) -> float:
    return float(np.sqrt(area / np.pi))


def _places(
    rng: np.random.Generator, height: int, width: int, radii: list[float], least: float
) -> list[tuple[float, float, float]]:
    """Discs (y, x, radius) that do not touch, in the order of `radii`.

    A radius shrinks, down to `least`, where there is no room; the list ends where even that
    does not help.
    """
    y, x = (grid.ravel() for grid in np.mgrid[0:height:3, 0:width:3].astype(np.float32))
    discs: list[tuple[float, float, float]] = []
    for wished in radii:
        radius = max(wished, least)
        while True:
            margin = 1.1 * radius
            free = (y > margin) & (y < height - margin) & (x > margin) & (x < width - margin)
            for other_y, other_x, other in discs:
                free &= np.hypot(y - other_y, x - other_x) > 1.1 * (radius + other)
            if free.any():
                spot = rng.choice(np.flatnonzero(free))
                discs.append((float(y[spot]), float(x[spot]), radius))
                break
            if radius <= least:
                return discs
            radius = max(0.9 * radius, least)
    return discs
