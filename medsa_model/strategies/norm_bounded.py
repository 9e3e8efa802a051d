"""Mean of the sites' changes, of which none is longer than the median of their lengths.

Sun et al. 2019, "Can you really backdoor federated learning?", arXiv:1911.07963, section 4 (norm
thresholding of updates), with the median length of the round as threshold.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.by_coordinate import blocks
from medsa_model.strategies.distances import squared_distance
from medsa_model.strategies.update import Update, check_enough


class NormBounded(Section):
    """Longer changes are shortened: a site can pull as far as an honest one, in any direction."""

    kind: Literal["norm_bounded"] = "norm_bounded"
    faulty: int = Field(1, ge=1)
    """How many sites may send anything."""
    factor: float = Field(1.0, gt=0, le=1e6)
    """Longest change, in units of the median length of the round's changes."""

    @property
    def least_updates(self) -> int:
        """With fewer honest sites, others would set the median length."""
        return 2 * self.faulty + 1

    def combine(
        self, current: AdapterState, updates: Sequence[Update], weighting: str
    ) -> AdapterState:
        """`current` and the mean of the shortened changes, in float64, returned as float32.

        Lengths are over all tensors together. All sites count the same, whatever `weighting`: a
        weight that a site says itself would be a way around the rule. A row of `Update.rows` is
        the mean over the sites that trained it when these are at least `least_updates`, else over
        all; of k such sites each has 1 / k there, not 1 / n. Raises `ValueError` for fewer updates
        than `least_updates`.
        """
        check_enough(self.kind, updates, self.least_updates)
        norms = [math.sqrt(squared_distance(update.state, current)) for update in updates]
        bound = self.factor * statistics.median(norms)
        shares = [bound / norm if norm > bound else 1.0 for norm in norms]
        following = {}
        for name, value in current.items():
            flat = value.double().flatten()
            moved = flat.clone()
            for start, stop, voters in blocks(updates, name, value.shape, self.least_updates):
                for site in voters:
                    sent = updates[site].state[name].flatten()[start:stop].double()
                    moved[start:stop] += shares[site] / len(voters) * (sent - flat[start:stop])
            following[name] = moved.float().view(value.shape)
        return following
