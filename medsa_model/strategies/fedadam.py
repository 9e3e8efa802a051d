"""FedAdam: the mean change of the sites is a gradient for Adam on the server.

Reddi et al. 2021, "Adaptive federated optimization", algorithm 2 (FedAdam, no bias correction).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.mean import Memory, Update, weighted_mean


class FedAdam(Section):
    """Adam on the server."""

    kind: Literal["fedadam"] = "fedadam"
    rate: float = Field(0.01, gt=0)
    """Learning rate of the server."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment."""
    tau: float = Field(1e-3, gt=0)
    """Added to the root of the second moment: how adaptive the step is."""
    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of a site: its number of training cases, or the same for all."""

    proximal: ClassVar[float] = 0.0
    """No pull towards the global state in local training."""

    def aggregate(
        self, current: AdapterState, updates: Sequence[Update], memory: Memory
    ) -> tuple[AdapterState, Memory]:
        """The next global state and the moments, kept as `first/NAME` and `second/NAME`."""
        mean = weighted_mean(updates, self.weighting)
        following, moments = {}, {}
        for name, value in current.items():
            change = mean[name] - value
            first = memory.get(f"first/{name}", torch.zeros_like(value))
            second = memory.get(f"second/{name}", torch.zeros_like(value))
            first = self.beta1 * first + (1 - self.beta1) * change
            second = self.beta2 * second + (1 - self.beta2) * change**2
            following[name] = value + self.rate * first / (second.sqrt() + self.tau)
            moments[f"first/{name}"], moments[f"second/{name}"] = first, second
        return following, moments
