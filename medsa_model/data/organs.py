"""The thirteen abdominal organs of BTCV, in its numbering: the first is 1, background is 0."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

Organ = Literal[
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
]
ORGANS: tuple[Organ, ...] = get_args(Organ)
NUMBERS: dict[str, int] = {organ: number for number, organ in enumerate(ORGANS, 1)}


def _each_once(organs: tuple[Organ, ...]) -> tuple[Organ, ...]:
    if len(set(organs)) < len(organs):
        raise ValueError("an organ is named twice")
    return organs


Organs = Annotated[tuple[Organ, ...], Field(min_length=1), AfterValidator(_each_once)]
"""Some organs in any order, each once."""
