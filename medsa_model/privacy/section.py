"""The `privacy` section of a run YAML: patient-level differential privacy in local training."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from medsa_model.privacy.accounting import noise_for
from medsa_model.section import Section

ROUNDED_TO = 10  # training cases, in what a site says of itself


class Privacy(Section):
    """DP-SGD at every site (Abadi et al. 2016, "Deep learning with differential privacy",
    arXiv:1607.00133), for patients: what leaves a site depends little on any one of them."""

    epsilon: float | None = Field(None, gt=0, le=1000)
    """Most that a patient of a site may lose, over all rounds and all runs of its ledger. The noise
    is chosen so that the rounds of this run take it all. Give this or `noise_multiplier`."""
    noise_multiplier: float | None = Field(None, ge=0.01, le=1e4)
    """Standard deviation of the noise on a step's sum of gradients, in units of `clip_norm`."""
    delta: float = Field(1e-3, ge=1e-12, lt=1)
    """Has to be below one over the number of a site's patients."""
    clip_norm: float = Field(0.1, ge=1e-6, le=1e6)
    """Largest norm of one patient's gradient in a step, over all trained tensors."""
    sampling_rate: float = Field(0.1, ge=1e-4, le=1)
    """Probability of each patient to be in a step; the sampler's numbers have 24 bits."""
    views: int = Field(1, ge=1, le=64)
    """Images of a patient in a step, drawn at random and changed at random with `train.augment`:
    their mean loss is the patient's. Of volumes: runs of slices."""
    method: Literal["auto", "loop", "hooks"] = "auto"
    """How gradients of single patients come about: `loop`, one patient after the other, or `hooks`
    of Opacus, `train.batch_size` patients at once; `auto` is hooks for images, which is faster,
    and the loop for volumes, with `prompt.corrections`, and where hooks do not see all that is
    trained."""

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either privacy.epsilon or privacy.noise_multiplier")
        return self

    def noise(self, steps: int) -> float:
        """Noise multiplier of a run with `steps` steps at a site in all its rounds.

        Raises `ValueError` when no noise is enough.
        """
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.epsilon is not None  # one of the two is given
        return noise_for(self.epsilon, self.delta, self.sampling_rate, steps)


def rounded_up(cases: int) -> int:
    """A number of cases as a site tells it under differential privacy: up to the next ten."""
    return -(-cases // ROUNDED_TO) * ROUNDED_TO


def rounded(metrics: Mapping[str, float | int]) -> dict[str, float | int]:
    """Scores as a site tells them under differential privacy: to two decimals, cases in tens.

    They are of other patients than those trained on, and the guarantee says nothing of them.
    """
    return {name: _rounded(name, value) for name, value in metrics.items()}


def _rounded(name: str, value: float) -> float | int:
    if name in ("num-examples", "empty") or name.endswith("/cases"):
        return rounded_up(int(value))
    return round(value, 2)
