"""Krum: the update that is closest to most of the others, or the mean of the closest ones.

Blanchard et al. 2017, "Machine learning with adversaries: Byzantine tolerant gradient descent",
section 4. The score of an update is the sum of its squared distances to the n - faulty - 2 updates
that are closest to it. Multi-Krum averages the n - faulty - 2 best, the most that El Mhamdi et al.
2018, "The hidden vulnerability of distributed learning in Byzantium", arXiv:1802.07927, allow.

Krum selects whole updates, so rows that only some sites trained are taken as the selected sites
have them: with partial labels, a name may come from a site that never saw the structure.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.distances import squared_distances
from medsa_model.strategies.mean import weighted_mean
from medsa_model.strategies.update import Update, check_enough


class Krum(Section):
    """The update of the site that is closest to most of the others."""

    kind: Literal["krum"] = "krum"
    faulty: int = Field(1, ge=1)
    """How many sites may send anything."""

    @property
    def least_updates(self) -> int:
        """Blanchard et al. 2017, proposition 2."""
        return 2 * self.faulty + 3

    def combine(
        self, current: AdapterState, updates: Sequence[Update], weighting: str
    ) -> AdapterState:
        """The state with the best score; of equal ones, the first in the order of `updates`.

        All sites count the same, whatever `weighting`, and `Update.rows` are not used. Raises
        `ValueError` for fewer updates than `least_updates`.
        """
        check_enough(self.kind, updates, self.least_updates)
        return _mean_of(updates, _from_best(current, updates, self.faulty)[:1])


class MultiKrum(Section):
    """The mean of the n - faulty - 2 updates that are closest to most of the others."""

    kind: Literal["multi_krum"] = "multi_krum"
    faulty: int = Field(1, ge=1)
    """How many sites may send anything."""

    @property
    def least_updates(self) -> int:
        """Blanchard et al. 2017, proposition 2."""
        return 2 * self.faulty + 3

    def combine(
        self, current: AdapterState, updates: Sequence[Update], weighting: str
    ) -> AdapterState:
        """The mean of the best, accumulated in float64, returned as float32.

        All sites count the same, whatever `weighting`, and `Update.rows` are not used. Of equal
        scores the first in the order of `updates` is better. Raises `ValueError` for fewer updates
        than `least_updates`.
        """
        check_enough(self.kind, updates, self.least_updates)
        best = _from_best(current, updates, self.faulty)[: len(updates) - self.faulty - 2]
        return _mean_of(updates, sorted(best))  # sums in the order of the sites


def _from_best(current: AdapterState, updates: Sequence[Update], faulty: int) -> list[int]:
    """Positions of the updates, from the best score to the worst."""
    sizes = {name: value.numel() for name, value in current.items()}
    distances = squared_distances([update.state for update in updates], sizes)
    # the smallest of a row is the distance to itself, 0, which adds nothing
    scores = distances.sort(dim=1).values[:, : len(updates) - faulty - 1].sum(1).tolist()
    return sorted(range(len(updates)), key=scores.__getitem__)


def _mean_of(updates: Sequence[Update], selected: Sequence[int]) -> AdapterState:
    """The mean of whole updates, without weights and rows."""
    return weighted_mean([Update(updates[site].state, 1) for site in selected], "uniform")
