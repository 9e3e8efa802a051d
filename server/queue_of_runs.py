"""Runs that wait for a coordinator with `serve: true`: files in a folder, oldest first."""

import os
from datetime import UTC, datetime
from pathlib import Path

import yaml

from medsa_model.config import RunConfig


def submit(folder: Path, config: RunConfig) -> Path:
    """Put a run into the queue, whole or not at all."""
    queue = folder / "queue"
    queue.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    place = queue / f"{stamp}-{config.name}.yaml"
    draft = place.with_suffix(".draft")
    draft.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    draft.replace(place)
    return place


def next_run(folder: Path) -> Path | None:
    """The oldest waiting run, taken out of the queue; `None` when there is none."""
    waiting = sorted((folder / "queue").glob("*.yaml"))
    if not waiting:
        return None
    taken = folder / "queue" / "taken"
    taken.mkdir(exist_ok=True)
    os.replace(waiting[0], taken / waiting[0].name)
    return taken / waiting[0].name
