"""Task: what a trained adapter was made for, beside its model and adapter sections.

It stands in `adapter_config.json` of every round directory, so that the two files of an adapter are
enough to segment new images with it.
"""

from pydantic import Field

from medsa_model.evaluate_volumes import Volume
from medsa_model.section import Section


class Task(Section):
    """Structures, prompts, and how images become pictures for the model."""

    structures: tuple[str, ...] = Field(min_length=1)
    """Names of the mask channels, in their order."""
    named: int = Field(0, ge=0)
    """Structures that can be asked for by their names; 0: none, else all."""
    prompts: tuple[str, ...] = Field(min_length=1)
    """Kinds of prompt in training: click, clicks, box, class, none."""
    volumes: bool = False
    """Whether it was trained on volumes, else on images."""
    window: tuple[float, float] | None = None
    """Lowest and highest CT number (HU) that can be told apart; of images none."""
    volume: Volume = Volume()
    """How volumes are cut for the model."""
    precision: str = "auto"
    """Of the computation, as `train.precision`."""
    seed: int = Field(0, ge=0)
    """Of the run. Random weights and frozen parts of adapters are a function of it."""
