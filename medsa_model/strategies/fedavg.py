"""FedAvg: the new global state is the weighted mean of the sites' states, or what a rule makes.

McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data".
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.mean import Mean
from medsa_model.strategies.rules import Rule
from medsa_model.strategies.update import Memory, Update


class FedAvg(Section):
    """Weighted mean of the sites' adapters."""

    kind: Literal["fedavg"] = "fedavg"
    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of a site in the mean: its number of training cases, or the same for all."""
    rule: Rule = Mean()
    """How the sites' updates become one; all but `mean` hold against faulty sites."""

    proximal: ClassVar[float] = 0.0
    """No pull towards the global state in local training."""

    @property
    def least_updates(self) -> int:
        """With fewer updates the rule promises nothing, and `aggregate` raises `ValueError`."""
        return self.rule.least_updates

    def aggregate(
        self, current: AdapterState, updates: Sequence[Update], memory: Memory
    ) -> tuple[AdapterState, Memory]:
        """The next global state; `memory` is not used."""
        return self.rule.combine(current, updates, self.weighting), memory
