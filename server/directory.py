"""The run directory of a federation: a new one, or an interrupted one to go on with."""

import platform
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from medsa_model import __version__
from medsa_model.checkpoint import write_json
from medsa_model.config import RunConfig, load_run
from medsa_model.errors import ConfigError

PACKAGES = ("flwr", "torch", "segment-anything", "monai", "numpy", "pydantic")


def choose_directory(config: RunConfig, runs: Path, out: Path | None, resume: bool) -> Path:
    """`out`, or a folder below `runs` named by run and time; with `resume` the latest there.

    Raises `ConfigError` when there is nothing to resume, when it had other settings, or when a
    new run would meet an old one.
    """
    if out is None and resume:
        earlier = sorted(place.parent for place in (runs / config.name).glob("*/config.yaml"))
        if not earlier:
            raise ConfigError(f"--resume: there is no run in {runs / config.name}")
        out = earlier[-1]
    elif out is None:
        out = runs / config.name / datetime.now().strftime("%Y%m%d-%H%M%S")
    written = out / "config.yaml"
    if resume:
        if not written.exists():
            raise ConfigError(f"--resume: {out} holds no run; check --out")
        if (before := load_run(written).sha256) != config.sha256:
            raise ConfigError(
                f"--resume: {out} was started with other settings (sha256 {before[:16]}, now "
                f"{config.sha256[:16]}); repeat them as they were, or start a new run"
            )
        if (out / "final").exists():
            raise ConfigError(f"--resume: the run in {out} is complete")
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
