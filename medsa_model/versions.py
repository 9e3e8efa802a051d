"""Which versions run here, and whether they are the ones that were tried together."""

import platform
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path

from medsa_model import __version__
from medsa_model.errors import ConfigError

PACKAGES = ("client", "server", "sim", "medsa_model")


def check_versions() -> str:
    """Versions in words.

    Raises `ConfigError` when flwr is another version than the private names were tried with, and
    when another distribution owns one of the packages' names.
    """
    specs = [spec for name in PACKAGES if (spec := find_spec(name))]
    places = {Path(str(spec.origin)).resolve().parents[1] for spec in specs}
    if len(places) > 1:
        raise ConfigError(
            f"the packages {', '.join(PACKAGES)} come from {len(places)} places "
            f"({', '.join(map(str, sorted(places)))}): another distribution owns one of these "
            "names; install fed-medsa in an environment of its own"
        )
    requirements = distribution("fed-medsa").requires or []
    (pin,) = {each.partition(";")[0].strip() for each in requirements if each.startswith("flwr==")}
    wanted = pin.removeprefix("flwr==")
    if version("flwr") != wanted:
        raise ConfigError(f"flwr is {version('flwr')}, this version needs exactly {wanted}")
    python = platform.python_version()
    return f"fed-medsa {__version__}, flwr {wanted}, torch {version('torch')}, Python {python}"
