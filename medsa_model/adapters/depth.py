"""Which of the encoder's blocks are adapted.

Where the first blocks are left as they are, what they compute for a case never changes: it can be
kept (`prefix_cache`), and training neither computes nor backpropagates through them.
"""

import re
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator


def read_blocks(wish: object) -> str | tuple[int, ...]:
    """What a configuration says, checked for everything but the number of blocks that there are.

    Raises `ValueError`.
    """
    if isinstance(wish, str) and re.fullmatch(r"all|last-[1-9][0-9]?", wish):
        return wish
    numbers = tuple(wish) if isinstance(wish, list | tuple) else ()
    valid = all(type(number) is int and 0 <= number < 100 for number in numbers)
    if numbers and valid and len(set(numbers)) == len(numbers):
        return numbers
    raise ValueError(
        "expected all, last-N with N from 1, or a list of different block numbers from 0, for "
        "example last-3 or [3, 4, 5]"
    )


Blocks = Annotated[
    str | tuple[int, ...],
    PlainValidator(read_blocks),
    PlainSerializer(lambda blocks: blocks, return_type=Any),  # else it warns of every list
]
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
    return tuple(sorted(blocks))
