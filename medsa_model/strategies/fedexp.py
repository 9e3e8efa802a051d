"""FedExP: FedAvg whose step is as long as the disagreement of the sites allows.

Jhunjhunwala et al. 2023, "FedExP: speeding up federated averaging via extrapolation", equation 5.
Where the sites' changes point apart, their mean is shorter than each of them and FedAvg slows
down; the step is then extrapolated by

    factor = max(1, sum_i w_i |change_i|^2 / (2 |mean change|^2))

but never by more than the number of sites. Equally long changes at right angles ask for half of it;
only changes that undo each other ask for more, without an end, and one site could arrange that.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.distances import squared_distance
from medsa_model.strategies.mean import weighted_mean, weights_of
from medsa_model.strategies.update import LARGEST_VALUE, Memory, Update


class FedExP(Section):
    """Weighted mean, extrapolated."""

    kind: Literal["fedexp"] = "fedexp"
    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of a site: its number of training cases, or the same for all."""

    proximal: ClassVar[float] = 0.0
    """No pull towards the global state in local training."""
    least_updates: ClassVar[int] = 1
    """The mean needs no more."""

    def aggregate(
        self, current: AdapterState, updates: Sequence[Update], memory: Memory
    ) -> tuple[AdapterState, Memory]:
        """The next global state; `memory` is not used.

        It keeps within what a site may send: the coordinator would refuse every site that trains
        on from a larger one.
        """
        mean = weighted_mean(updates, self.weighting)
        if len(updates) == 1:  # the factor is 1, and the mean is the site's state bit for bit
            return mean, memory
        weights = weights_of(updates, self.weighting)
        length = squared_distance(mean, current)
        lengths = (squared_distance(update.state, current) for update in updates)
        total = sum(weight * each for weight, each in zip(weights, lengths, strict=True))
        factor = max(1.0, total / sum(weights) / (2 * length)) if length else 1.0
        factor = min(factor, len(updates))
        following = {}
        for name, value in current.items():
            step = factor * (mean[name].double() - value.double())
            following[name] = (value.double() + step).clamp(-LARGEST_VALUE, LARGEST_VALUE).float()
        return following, memory
