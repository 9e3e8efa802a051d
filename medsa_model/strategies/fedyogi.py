"""FedYogi: FedAdam whose second moment forgets slowly, so that rare large changes slow it longer.

Reddi et al. 2021, "Adaptive federated optimization", arXiv:2003.00295, algorithm 2 (FedYogi):

    second = second - (1 - beta2) * change^2 * sign(second - change^2)

with tau^2 before the first round, the least that the algorithm allows.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.mean import Mean
from medsa_model.strategies.moments import adaptive_step
from medsa_model.strategies.rules import Rule
from medsa_model.strategies.update import Memory, Update


class FedYogi(Section):
    """Yogi on the server."""

    kind: Literal["fedyogi"] = "fedyogi"
    rate: float = Field(0.01, gt=0, le=1e6)
    """Learning rate of the server."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """How slowly the second moment follows the squared change."""
    tau: float = Field(1e-3, ge=1e-12, le=1e6)
    """Added to the root of the second moment: how adaptive the step is."""
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
        """The next global state and the moments, kept as `first/NAME` and `second/NAME`."""
        combined = self.rule.combine(current, updates, self.weighting)

        def second_moment(second: Tensor, change: Tensor) -> Tensor:
            square = change**2
            return second - (1 - self.beta2) * square * (second - square).sign()

        return adaptive_step(
            current, combined, memory, second_moment,
            start=self.tau**2, rate=self.rate, beta1=self.beta1, tau=self.tau,
        )  # fmt: skip
