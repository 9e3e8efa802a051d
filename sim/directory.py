"""The run directory of a simulation: which one a start uses, and what it may replace.

A directory is this program's when its versions.json says so, and a run once a federation of the
comparison has saved a round. Runs are never mixed, and nothing foreign is ever removed.
"""

import json
import platform
import shutil
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from medsa_model import __version__
from medsa_model.checkpoint import write_json
from medsa_model.differences import differences
from medsa_model.errors import ConfigError
from sim.config import SimulatedRun, load_simulation

DRAFTS = (".config.yaml.draft", ".versions.json.draft")
"""What a start that failed half-way may leave."""
WRITTEN = (
    "split.json", "metrics.jsonl", "summary.json", "report.json", "report.html", "progress.png",
    "rounds", "rows", "examples", "ledgers", "residues", "receipts.json", "best", "final",
    "tensorboard", "mlflow.json", ".mlflow.json.draft", *DRAFTS,
    "config.yaml", "versions.json",
)  # fmt: skip
"""In the order of removal: what tells a run directory goes last."""
LISTED = 10
"""Most differing keys in a message."""
PACKAGES = ("flwr", "torch", "segment-anything", "monai", "opacus", "numpy", "pydantic")


def choose_directory(config: SimulatedRun, out: Path | None, resume: bool, overwrite: bool) -> Path:
    """The run directory, made ready; an existing run is never mixed with another one.

    What a start left that failed before any round is no run: the next start takes its place.
    """
    if out is None:
        earlier = sorted(p.parent for p in (Path("runs") / config.name).glob("*/config.yaml"))
        begun = [place for place in earlier if is_ours(place) and has_begun(place)]
        if resume and begun:
            out = begun[-1]
        elif resume:
            raise ConfigError(f"--resume: there is no run in runs/{config.name}")
        else:
            out = Path("runs") / config.name / datetime.now().strftime("%Y%m%d-%H%M%S")
    ours = is_ours(out)
    if resume:
        if not ours or not (out / "config.yaml").exists():
            raise ConfigError(
                f"--resume: {out} holds no run; check --out, or leave --resume out to start one"
            )
        check_settings(config, out)
        write_settings(config, out)  # sites read theirs from it
        return out
    if ours:
        if has_begun(out) and not overwrite:
            raise ConfigError(f"{out} holds a run: add --resume to go on or --overwrite")
        remove_run(out)
    elif out.exists() and any(place.name not in DRAFTS for place in out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no run: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    versions = {"fed-medsa": __version__, "python": platform.python_version()}
    write_json(out / "versions.json", versions | {name: version(name) for name in PACKAGES})
    write_settings(config, out)
    return out


def write_settings(config: SimulatedRun, run: Path) -> None:
    """Write config.yaml of a run in one step."""
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    draft = run / ".config.yaml.draft"
    draft.write_text(settings, encoding="utf-8")
    draft.replace(run / "config.yaml")


def is_ours(run: Path) -> bool:
    """Whether this program made the directory: its versions.json says so, which is written first
    and removed last."""
    try:
        versions = json.loads((run / "versions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(versions, dict) and "fed-medsa" in versions


def has_begun(run: Path) -> bool:
    """Whether any federation of the comparison has saved a round."""
    return (run / "rounds").is_dir() or any((run / "rows").glob("**/rounds"))


def check_settings(config: SimulatedRun, run: Path) -> None:
    """Raise `ConfigError` with what differs when `run` was started with other settings."""
    before = load_simulation(run / "config.yaml").model_dump(mode="json")
    changed = differences(before, config.model_dump(mode="json"))
    # what a run that was short of memory has to change, and where a cluster is now
    for key in (
        "sim.processes", "sim.memory_gigabytes", "sim.cache_megabytes", "sim.ray_address",
    ):  # fmt: skip
        changed.pop(key, None)
    if changed:
        lines = [f"  {key}: {old}, now {new}" for key, (old, new) in changed.items()]
        if len(lines) > LISTED:
            lines[LISTED:] = [f"  and {len(lines) - LISTED} more"]
        listed = "\n".join(lines)
        raise ConfigError(
            f"{run} was started with other settings:\n{listed}\n"
            "repeat them as they were, or use --overwrite or another --out"
        )


def remove_run(run: Path) -> None:
    """Remove what this program writes, and nothing else that somebody keeps there."""
    for name in WRITTEN:
        place = run / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
