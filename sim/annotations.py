"""Partial labels: each site annotates some of the structures alone, as hospitals do.

Training cases of a site show what it annotates; of the rest nothing is known, and nothing is asked
or learnt there. Validation and test cases keep all their structures: the comparison is about those.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from medsa_model.data.patients import generator
from medsa_model.data.sample import Case, Sample
from medsa_model.errors import ConfigError
from medsa_model.section import Section


class Annotations(Section):
    """Who annotates what: one of the two laws, or everything."""

    structures_per_site: int | None = Field(None, ge=1)
    """Structures that each site annotates: the next few of a shuffled circle of all."""
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    """For each structure shares of the sites are drawn from a symmetric Dirichlet law; those with
    at least half of the largest share annotate it. Small values: mostly one site. A site that is
    left with nothing annotates the structure of which it has most."""

    @model_validator(mode="after")
    def _one_law(self) -> Self:
        if self.structures_per_site is not None and self.alpha is not None:
            raise ValueError("structures_per_site and alpha are two laws; expected one of them")
        return self

    def draw(self, sites: Sequence[str], structures: int, seed: int) -> dict[str, tuple[bool, ...]]:
        """Site -> whether it annotates each structure; every structure is annotated somewhere.

        Raises `ConfigError` when `structures_per_site` is too small for that, or more than all.
        """
        many = structures if self.structures_per_site is None else self.structures_per_site
        if many > structures:
            raise ConfigError(
                f"sim.annotations.structures_per_site is {many}, but there are {structures} "
                "structures (data.classes); expected no more than these, or leave it out to "
                "annotate all"
            )
        if many * len(sites) < structures:
            raise ConfigError(
                f"sim.annotations.structures_per_site is {many}; expected "
                f"{-(-structures // len(sites))} or more, for {len(sites)} sites annotate "
                f"{structures} structures together"
            )
        random = generator(seed, "annotations")
        if self.alpha is not None:
            shares = random.dirichlet(np.full(len(sites), self.alpha), structures)
            known = shares >= shares.max(1, keepdims=True) / 2
            idle = np.flatnonzero(~known.any(0))
            known[shares[:, idle].argmax(0), idle] = True
        else:
            known = np.zeros((structures, len(sites)), bool)
            circle = random.permutation(structures)
            for number in range(len(sites)):
                mine = np.take(circle, range(number * many, (number + 1) * many), mode="wrap")
                known[mine, number] = True
        return {site: tuple(map(bool, known[:, n])) for n, site in enumerate(sites)}


def with_annotations(case: Case, known: tuple[bool, ...]) -> Case:
    """The case as a site has it that annotates the structures `known` alone."""
    return replace(case, load=partial(_load, case.load, known))


def _load(load: Callable[[], Sample], known: tuple[bool, ...]) -> Sample:
    sample = load()
    before = sample.labelled or (True,) * len(known)
    labelled = tuple(one and other for one, other in zip(known, before, strict=True))
    mask = sample.mask.clone()
    mask[[not each for each in labelled]] = False
    return replace(sample, mask=mask, labelled=labelled)
