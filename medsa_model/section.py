"""Section: the frozen pydantic base of every configuration section.

A leaf module: it imports nothing of the project, so that any plug-in file may use it.
"""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One configuration section. Unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )
