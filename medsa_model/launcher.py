"""PyTorch's launcher (`torchrun`) starts copies of a program: here they would be the same site."""

import os
from collections.abc import Mapping

from medsa_model.errors import ConfigError


def refuse_launcher(advice: str, environment: Mapping[str, str] | None = None) -> None:
    """Raise `ConfigError` with `advice` when this process is one of several copies.

    The launcher says so by `WORLD_SIZE`, the number of copies. `environment` is that of the process
    unless it is given.
    """
    found = os.environ if environment is None else environment
    copies = found.get("WORLD_SIZE", "")
    if copies.isdecimal() and int(copies) > 1:
        raise ConfigError(
            f"this is one of {copies} copies that PyTorch's launcher started (WORLD_SIZE is "
            f"{copies}), expected one process: {advice}. Start it without torchrun, or unset "
            "WORLD_SIZE if no launcher did"
        )
