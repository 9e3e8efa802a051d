"""What a site says of the cost of a training with differential privacy."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, ValidationError

from medsa_model.config import RunConfig
from medsa_model.records import NONCE
from medsa_model.rejections import Code, Rejected
from medsa_model.section import Section


class Cost(Section):
    """Computed by the site from its ledger: all its runs so far, those of others too."""

    epsilon: float = Field(ge=0, allow_inf_nan=False)
    """By `accountant`, at `delta`."""
    accountant: Literal["prv", "rdp"]
    epsilon_rdp: float = Field(ge=0, allow_inf_nan=False)
    """The upper bound that is held against the limits."""
    delta: float = Field(gt=0, lt=1)
    unit: Literal["patient", "image", "volume"]
    noise_multiplier: float = Field(gt=0, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=1)
    """Of this round."""
    clip_norm: float = Field(gt=0, allow_inf_nan=False)


def read_cost(facts: Mapping[str, object] | None, config: RunConfig) -> Cost:
    """The record `privacy` of an answer; raises `Rejected` when it is not of this run."""
    try:
        told = {name: value for name, value in (facts or {}).items() if name != NONCE}
        cost = Cost.model_validate(told)
    except ValidationError as error:
        keys = sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})
        raise Rejected(
            Code.COST, "it does not say what its training cost its patients "
            f"({', '.join(keys)[:200]} missing or wrong); does the site run another version?",
        ) from error  # fmt: skip
    assert config.privacy is not None
    steps = config.steps_for(1)
    asked = {
        "steps": steps, "noise_multiplier": config.privacy.noise(config.rounds * steps),
        "sampling_rate": config.privacy.sampling_rate, "clip_norm": config.privacy.clip_norm,
    }  # fmt: skip
    for name, expected in asked.items():
        if (found := getattr(cost, name)) != expected:
            raise Rejected(
                Code.COST, f"it was trained with {name} {found}, the run asks for {expected}"
            )
    return cost
