"""The `root` of data sets that are generated: there is none, and a given one is an error."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def _refuse(root: Path | None) -> None:
    if root is not None:
        raise ValueError(
            "images of this kind are generated, nothing is read from a folder; expected no root. "
            "Leave it out, or choose the kind of your data, such as data={kind: folder}"
        )


NoFolder = Annotated[Path | None, AfterValidator(_refuse)]
"""Always `None`; anything else is refused, for it would be ignored."""
