"""The run directory of a federation: a new one, or an interrupted one to go on with."""

import platform
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from medsa_model import __version__
from medsa_model.checkpoint import latest_round, write_json
from medsa_model.config import RunConfig, load_run
from medsa_model.differences import differences
from medsa_model.errors import ConfigError

PACKAGES = ("flwr", "torch", "segment-anything", "monai", "numpy", "pydantic")


def choose_directory(config: RunConfig, runs: Path, out: Path | None, resume: bool) -> Path:
    """`out`, or a folder below `runs` named by run and time; with `resume` the latest there.

    The latest is one that has begun, if any has: a start that no site came to leaves a folder too.
    Raises `ConfigError` when there is nothing to resume, when it had other settings, or when a
    new run would meet an old one.
    """
    if out is None and resume:
        earlier = sorted(place.parent for place in (runs / config.name).glob("*/config.yaml"))
        if not earlier:
            raise ConfigError(f"--resume: there is no run in {runs / config.name}")
        begun = [place for place in earlier if latest_round(place) is not None]
        out = (begun or earlier)[-1]
    elif out is None:
        out = runs / config.name / datetime.now().strftime("%Y%m%d-%H%M%S")
    written = out / "config.yaml"
    if resume:
        if not written.exists():
            raise ConfigError(f"--resume: {out} holds no run; check --out")
        before = load_run(written)
        if before.sha256 != config.sha256:
            changed = differences(before.model_dump(mode="json"), config.model_dump(mode="json"))
            listed = "\n".join(f"  {key}: {old}, now {new}" for key, (old, new) in changed.items())
            raise ConfigError(
                f"--resume: {out} was started with other settings:\n{listed}\n"
                "repeat them as they were, or start a new run"
            )
        return out
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            f"{out} is not empty: add --resume to go on with a run, or choose another --out"
        )
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    versions = {"fed-medsa": __version__, "python": platform.python_version()}
    write_json(out / "versions.json", versions | {name: version(name) for name in PACKAGES})
    draft = out / ".config.yaml.draft"
    draft.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    draft.replace(written)
    return out
