"""Coordinate-wise trimmed mean of the sites' updates.

Yin et al. 2018, "Byzantine-robust distributed learning: towards optimal statistical rates",
arXiv:1803.01498, definition 2, with a number of sites instead of a share.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.by_coordinate import by_coordinate
from medsa_model.strategies.update import Update, check_enough


class TrimmedMean(Section):
    """Every number is the mean without the `faulty` smallest and largest that the sites sent."""

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    faulty: int = Field(1, ge=1)
    """How many sites may send anything: so many are left out at either end."""

    @property
    def least_updates(self) -> int:
        """One has to be left."""
        return 2 * self.faulty + 1

    def combine(
        self, current: AdapterState, updates: Sequence[Update], weighting: str
    ) -> AdapterState:
        """The trimmed mean of the updates, float32; within the range of the honest ones.

        All sites count the same, whatever `weighting`: a weight that a site says itself would be a
        way around the rule. A row of `Update.rows` is combined over the sites that trained it when
        these are at least `least_updates`, else over all. Raises `ValueError` for fewer updates
        than `least_updates`.
        """
        check_enough(self.kind, updates, self.least_updates)
        return by_coordinate(
            current, updates, self.least_updates,
            lambda ordered: ordered[self.faulty : len(ordered) - self.faulty].double().mean(0),
        )  # fmt: skip
