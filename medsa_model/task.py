"""Task: what a trained adapter was made for, beside its model and adapter sections.

It stands in `adapter_config.json` of every round directory, so that the two files of an adapter are
enough to segment new images with it. These files come from elsewhere: nothing is taken on trust.
"""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from medsa_model.evaluate_volumes import Volume
from medsa_model.section import Section
from medsa_model.structure_names import Structures

LOWEST, HIGHEST = -2000, 10_000  # CT numbers (HU) of a window, as in data/btcv.py


class Task(Section):
    """Structures, prompts, and how images become pictures for the model."""

    structures: Structures
    """Names of the mask channels, in their order."""
    named: int = Field(0, ge=0)
    """Structures that can be asked for by their names; 0: none, else all."""
    prompts: tuple[Literal["click", "clicks", "box", "class", "none"], ...] = Field(min_length=1)
    """Kinds of prompt in training."""
    volumes: bool = False
    """Whether it was trained on volumes, else on images."""
    window: tuple[float, float] | None = None
    """Lowest and highest CT number (HU) that can be told apart; of images none."""
    volume: Volume = Volume()
    """How volumes are cut for the model."""
    precision: str = Field("auto", pattern="^(auto|float32|bfloat16)$")
    """Of the computation, as `train.precision`."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the run. Random weights and frozen parts of adapters are a function of it."""

    @field_validator("window")
    @classmethod
    def _is_a_window(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window and not LOWEST <= window[0] < window[1] <= HIGHEST:  # also refuses NaN
            raise ValueError(
                f"found {window[0]:g} {window[1]:g}; expected two CT numbers from {LOWEST} to "
                f"{HIGHEST} HU, the lower first, such as -175 250"
            )
        return window

    @model_validator(mode="after")
    def _all_or_none_is_named(self) -> Self:
        if self.named not in (0, len(self.structures)):
            raise ValueError(
                f"named is {self.named}, but there are {len(self.structures)} structures; expected "
                "0 or all of them"
            )
        if "class" in self.prompts and not self.named:
            raise ValueError("prompts has class, but named is 0: no name was learnt")
        return self
