"""A painted abdomen seen by several scanners, for demonstrations and tests. Not medical images.

A body of fat, muscle, spine and lungs holds the thirteen organs of BTCV at plausible places and
with plausible CT numbers (`phantom_anatomy`). Bodies differ smoothly; sites differ in the physics
of their scanner and in the time after injection of the contrast agent (`phantom_sites`). A site
may annotate only some of the organs, as hospitals do.

A case is a function of (seed, site, index) and is painted when it is loaded.
"""

from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from medsa_model.data.hounsfield import to_grey
from medsa_model.data.no_folder import NoFolder
from medsa_model.data.organs import NUMBERS, ORGANS, Organs
from medsa_model.data.phantom_anatomy import paint
from medsa_model.data.phantom_sites import SCANNERS, contrast, scan
from medsa_model.data.sample import Case, Sample
from medsa_model.section import Section


class Phantom(Section):
    """Painted abdominal volumes; nothing is read from disk."""

    kind: Literal["phantom"] = "phantom"
    root: NoFolder = None
    """Always empty: the volumes are painted."""
    sites: int = Field(3, ge=1, le=len(SCANNERS))
    """Number of sites: site_a, site_b, ..."""
    cases_per_site: int = Field(12, ge=1, le=100_000)
    """Volumes of each site."""
    size: int = Field(96, ge=32, le=512)
    """Rows and columns of a slice; the field of view stays, so voxels become smaller."""
    slices: int = Field(24, ge=8, le=512)
    """Slices of a volume; they always cover the same height."""
    classes: Organs = ORGANS
    """Organs to segment, in the order of the mask channels."""
    annotated_per_site: int | None = Field(None, ge=1)
    """Organs that each site annotates, drawn with the seed; all are annotated somewhere. Empty: all
    of them everywhere."""
    seed: int = Field(0, ge=0)
    """Another seed gives other bodies at the same sites."""

    @model_validator(mode="after")
    def _all_are_annotated(self) -> Self:
        each, organs = self.annotated_per_site, len(self.classes)
        if each is not None and not each <= organs <= each * self.sites:
            raise ValueError(
                f"annotated_per_site is {each}; expected {-(-organs // self.sites)} to {organs}, "
                f"for {self.sites} site(s) annotate {organs} organ(s) together"
            )
        return self

    def open(self, root: Path | None = None) -> list[Case]:
        """All cases by case id; `root` is ignored. Every case is a patient of its own."""
        cases = []
        for site in range(self.sites):
            name = f"site_{chr(ord('a') + site)}"
            labelled = self._labelled(site)
            for index in range(self.cases_per_site):
                case = f"{name}_{index:05d}"
                load = partial(
                    paint_case, self.seed, site, index, self.size, self.slices, self.classes,
                    labelled, case,
                )  # fmt: skip
                cases.append(Case(case, case, name, None, load, volume=True))
        return cases

    def _labelled(self, site: int) -> tuple[bool, ...] | None:
        """Which of the classes `site` annotates: the next few of a shuffled circle of them."""
        if self.annotated_per_site is None:
            return None
        circle = np.random.default_rng((self.seed, 1)).permutation(len(self.classes))
        first = site * self.annotated_per_site
        chosen = {
            int(circle[number % len(circle)])
            for number in range(first, first + self.annotated_per_site)
        }
        return tuple(channel in chosen for channel in range(len(self.classes)))


def paint_case(
    seed: int, site: int, index: int, size: int, slices: int, classes: Organs,
    labelled: tuple[bool, ...] | None, case: str,
) -> Sample:  # fmt: skip
    """Volume `index` of `site`, (3, slices, size, size); channels not `labelled` are empty."""
    scanner = SCANNERS[site]
    rng = np.random.default_rng((seed, site, index))
    extent = np.array((scanner.cover, scanner.field, scanner.field)) * rng.uniform(0.96, 1.04)
    middle = (scanner.offset + rng.normal(0, 6), rng.normal(0, 6), rng.normal(0, 6))
    spacing = extent / (slices, size, size)
    values = contrast(rng, scanner.phase)
    steps = [
        (np.arange(count) - (count - 1) / 2) * step + start
        for count, step, start in zip((slices, size, size), spacing, middle, strict=True)
    ]
    slice_, row, column = np.meshgrid(*(s.astype(np.float32) for s in steps), indexing="ij",
                                      sparse=True)  # fmt: skip
    numbers, ground = paint(rng, (slice_, row, column))
    body = np.where(numbers > 0, np.array([0, *values], np.float32)[numbers], ground)
    image = np.rint(scan(rng, body, scanner, spacing.astype(np.float32)))
    mask = np.stack([
        (numbers == NUMBERS[organ]) & (labelled is None or labelled[channel])
        for channel, organ in enumerate(classes)
    ])  # fmt: skip
    across, down, along = spacing.tolist()
    return Sample(
        to_grey(image), torch.from_numpy(mask), case, case, (across, down, along), labelled
    )
