"""FedAvg: the new global state is the weighted mean of the sites' states.

McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data".
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.mean import Memory, Update, weighted_mean


class FedAvg(Section):
    """Weighted mean of the sites' adapters."""

    kind: Literal["fedavg"] = "fedavg"
    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of a site: its number of training cases, or the same for all."""

    proximal: ClassVar[float] = 0.0
    """No pull towards the global state in local training."""

    def aggregate(
        self, current: AdapterState, updates: Sequence[Update], memory: Memory
    ) -> tuple[AdapterState, Memory]:
        """The next global state; `current` and `memory` are not used."""
        return weighted_mean(updates, self.weighting), memory
