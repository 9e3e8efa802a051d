"""Which of the encoder's blocks are adapted.

Where the first blocks are left as they are, what they compute for a case never changes: it can be
kept (`prefix_cache`), and training neither computes nor backpropagates through them.
"""

from typing import Annotated, Literal

from pydantic import Field

Blocks = (
    Literal["all"]
    | Annotated[str, Field(pattern=r"^last-[1-9][0-9]?$")]
    | Annotated[tuple[Annotated[int, Field(ge=0, le=99)], ...], Field(min_length=1, max_length=64)]
)
"""`all`, `last-3` and the like, or a list of numbers, of which 0 is the first block."""


def chosen_blocks(blocks: Blocks, count: int) -> tuple[int, ...]:
    """The numbers of the adapted ones among `count` blocks, in order.

    Raises `ValueError` for numbers of blocks that there are not.
    """
    if blocks == "all":
        return tuple(range(count))
    if isinstance(blocks, str):
        last = int(blocks.removeprefix("last-"))
        if last > count:
            raise ValueError(
                f"{blocks} of an encoder with {count} blocks; expected {count} or less"
            )
        return tuple(range(count - last, count))
    if unknown := [number for number in blocks if number >= count]:
        raise ValueError(
            f"block {unknown[0]} of an encoder with {count} blocks; expected 0 to {count - 1}"
        )
    return tuple(sorted(set(blocks)))
