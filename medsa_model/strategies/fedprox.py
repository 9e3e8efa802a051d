"""FedProx: FedAvg with a pull towards the global state in every local step.

Li et al. 2020, "Federated optimization in heterogeneous networks", equation 2.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.mean import Mean
from medsa_model.strategies.rules import Rule
from medsa_model.strategies.update import Memory, Update


class FedProx(Section):
    """Weighted mean; local losses carry mu / 2 * |w - w_global|^2."""

    kind: Literal["fedprox"] = "fedprox"
    mu: float = Field(0.01, ge=0)
    """Factor of the proximal term; 0 is FedAvg."""
    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of a site in the mean: its number of training cases, or the same for all."""
    rule: Rule = Mean()
    """How the sites' updates become one; all but `mean` hold against faulty sites."""

    @property
    def proximal(self) -> float:
        """The factor that sites use in local training."""
        return self.mu

    @property
    def least_updates(self) -> int:
        """With fewer updates the rule promises nothing, and `aggregate` raises `ValueError`."""
        return self.rule.least_updates

    def aggregate(
        self, current: AdapterState, updates: Sequence[Update], memory: Memory
    ) -> tuple[AdapterState, Memory]:
        """The next global state; `memory` is not used."""
        return self.rule.combine(current, updates, self.weighting), memory
