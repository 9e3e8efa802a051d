"""Coordinate-wise median of the sites' updates.

Yin et al. 2018, "Byzantine-robust distributed learning: towards optimal statistical rates",
arXiv:1803.01498, definition 1.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.by_coordinate import by_coordinate
from medsa_model.strategies.update import Update, check_enough


class Median(Section):
    """Every number is the median of what the sites sent; within the range of the honest ones."""

    kind: Literal["median"] = "median"
    faulty: int = Field(1, ge=1)
    """How many sites may send anything."""

    @property
    def least_updates(self) -> int:
        """More than half of the sites have to be honest."""
        return 2 * self.faulty + 1

    def combine(
        self, current: AdapterState, updates: Sequence[Update], weighting: str
    ) -> AdapterState:
        """The median of the updates, float32; of an even number the mean of the two in the middle.

        All sites count the same, whatever `weighting`: a weight that a site says itself would be a
        way around the rule. A row of `Update.rows` is the median over the sites that trained it
        when these are at least `least_updates`, else over all. Raises `ValueError` for fewer
        updates than `least_updates`.
        """
        check_enough(self.kind, updates, self.least_updates)
        return by_coordinate(current, updates, self.least_updates, middle)


def middle(ordered: torch.Tensor) -> torch.Tensor:
    """The median of (sites, numbers) sorted by value, float64; torch's own is the lower one."""
    count = len(ordered)
    return (ordered[(count - 1) // 2].double() + ordered[count // 2].double()) / 2
