"""The section `message`: how updates cross. It travels with the run, sites follow it."""

from typing import Literal

from medsa_model.section import Section


class MessageSettings(Section):
    """What sites send."""

    update: Literal["lossless", "float16", "int8", "int4"] = "lossless"
    """How a site writes its change of the adapters: bit for bit, or rounded to so many bits."""
    error_feedback: bool = True
    """What rounding leaves out of an update is kept at the site and goes into the next one; of a
    lossless update nothing is left out."""
