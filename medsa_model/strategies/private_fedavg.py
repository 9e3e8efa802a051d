"""FedAvg with differential privacy for whole sites: clipped changes, equal weights, noise.

McMahan et al. 2018, "Learning differentially private recurrent language models",
arXiv:1710.06963, algorithm 1, with every site in every round and the same weight for all.

Neighbouring federations differ by one site that is added or removed: that moves the sum of the
clipped changes by at most `clip_norm`, to which the noise is fitted. All sites take part in every
round, so nothing is gained by sampling: the sampling rate is 1. What is covered is the sequence of
global states. Who took part and how many, by which the sum is divided, is public; the sites' losses
and scores are not covered.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch.nn.utils import get_total_norm

from medsa_model.privacy.accounting import NoisySteps, epsilon, noise_for
from medsa_model.privacy.noise import secret_generator
from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.strategies.update import Memory, Update


class PrivateFedAvg(Section):
    """Mean of the sites' clipped changes with Gaussian noise, added by the coordinator."""

    kind: Literal["private_fedavg"] = "private_fedavg"
    clip_norm: float = Field(1.0, ge=1e-6, le=1e6)
    """Largest norm of a site's change in a round, over all tensors together; longer ones are
    shortened to it. Without this strategy a round changes adapters by about 0.3 to 10."""
    epsilon: float | None = Field(None, gt=0, le=1000)
    """What a site loses over all rounds of the run, to which the noise is fitted; a round that is
    repeated after a crash costs once more, and is counted. Give this or `noise_multiplier`."""
    noise_multiplier: float | None = Field(None, ge=1e-3, le=1e4)
    """Standard deviation of the noise on a round's sum of changes, in units of `clip_norm`."""
    delta: float = Field(1e-3, gt=0, lt=1)
    """Has to be below one over the number of sites."""

    proximal: ClassVar[float] = 0.0
    """No pull towards the global state in local training."""
    least_updates: ClassVar[int] = 1
    """The mean needs no more."""

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either strategy.epsilon or strategy.noise_multiplier")
        return self

    def prepared(self, rounds: int) -> Self:
        """This strategy with the noise multiplier with which `rounds` rounds cost `epsilon`.

        `aggregate`, `spent` and `warning` need it. Raises `ValueError` when no noise is enough.
        """
        if self.epsilon is None:
            return self
        try:
            noise = noise_for(self.epsilon, self.delta, 1.0, max(rounds, 1))
        except ValueError as error:
            raise ValueError(
                f"no noise keeps {rounds} rounds within strategy.epsilon {self.epsilon:g} at "
                f"strategy.delta {self.delta:g}; expected a larger epsilon or fewer rounds"
            ) from error
        return self.model_copy(update={"noise_multiplier": noise, "epsilon": None})

    def spent(self, rounds: int) -> float:
        """Epsilon of a site after `rounds` rounds with noise, at `delta`; accountant "rdp"."""
        return epsilon([NoisySteps(self._noise(), 1.0, rounds)], self.delta)

    def warning(self, rounds: int, sites: int, parameters: int) -> str:
        """What a run of `rounds` rounds with `sites` sites pays, and what it gets for that.

        The noise on the mean change of `parameters` numbers has a norm of about noise multiplier
        * clip_norm * sqrt(parameters) / sites.
        """
        times = self._noise() * math.sqrt(parameters) / sites
        text = (
            f"strategy private_fedavg: epsilon {self.spent(rounds):.3g} at delta {self.delta:g} "
            f"for each of {sites} sites over {rounds} rounds. The noise on a round's mean change "
            f"of {parameters:,} parameters is {times:,.{0 if times >= 10 else 2}f} times as long "
            "as the longest change that clipping lets through; far above 1, the model is "
            "destroyed: more sites or fewer parameters help. It protects a whole hospital against "
            "the other hospitals and readers of the model, not against the coordinator, who sees "
            "every update; losses and scores of the sites are not covered"
        )
        if self.delta * sites >= 1:
            text += f". delta {self.delta:g} is not below one in {sites} sites: it promises nothing"
        return text

    def aggregate(
        self, current: AdapterState, updates: Sequence[Update], memory: Memory
    ) -> tuple[AdapterState, Memory]:
        """The next global state; `memory` is not used.

        Nor are `Update.examples` and `Update.rows`: a weight that a site chooses by itself is
        another thing that would have to be bounded and hidden. A row that few sites trained is the
        mean over all of them.
        """
        deviation = self._noise() * self.clip_norm  # one site moves the sum by clip_norm at most
        generator = secret_generator(torch.device("cpu"))
        total = clipped_sum(current, updates, self.clip_norm)
        following = {}
        for name, value in current.items():
            noise = torch.randn(value.shape, dtype=torch.float64, generator=generator)
            mean = (total[name] + deviation * noise) / len(updates)
            following[name] = (value.double() + mean).float()
        return following, memory

    def _noise(self) -> float:
        if self.noise_multiplier is None:
            raise ValueError("the noise for epsilon depends on the rounds: call prepared(rounds)")
        return self.noise_multiplier


def clipped_sum(
    current: AdapterState, updates: Sequence[Update], clip_norm: float
) -> dict[str, torch.Tensor]:
    """Sum of the updates' changes from `current`, each at most `clip_norm` long; float64, by name.

    Lengths are over all tensors together. A change that is not finite counts as none: no factor
    would make it short.
    """
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in current.items()}
    for update in updates:
        change = {name: update.state[name].double() - current[name].double() for name in current}
        norm = float(get_total_norm(list(change.values())))
        if not math.isfinite(norm):
            continue
        factor = clip_norm / norm if norm > clip_norm else 1.0
        for name, value in change.items():
            total[name] += factor * value
    return total
