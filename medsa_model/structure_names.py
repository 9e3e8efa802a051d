"""Names of structures: words in labels, tables, commands and messages, which they must not break.

A leaf module: it imports nothing of the project, so that sections of data may use it too.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

LONGEST = 100  # characters


def checked(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as they are; raises `ValueError` unless each is given once and can be shown."""
    if len(set(names)) < len(names):
        raise ValueError("a structure is named twice; expected each name once")
    for name in names:
        shown = name.isprintable() and name == name.strip() and not set(name) & {"/", "\\"}
        if not (shown and 0 < len(name) <= LONGEST):
            raise ValueError(
                f"{name[:LONGEST]!r} is no name of a structure; expected 1 to {LONGEST} printable "
                "characters without / and \\, and no blank at the ends, such as portal_vein or "
                "optic disc"
            )
    return names


Structures = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(checked)]
"""Some names, each once, in the order of the mask channels."""
