"""Runs that wait for a coordinator with `serve: true`: files in a folder, oldest first."""

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


def waiting_runs(folder: Path) -> list[Path]:
    """The waiting runs, oldest first."""
    return sorted((folder / "queue").glob("*.yaml"))


def move_run(place: Path, where: str) -> None:
    """Take a run out of the queue, into its folder `where`."""
    (place.parent / where).mkdir(mode=0o700, exist_ok=True)
    place.replace(place.parent / where / place.name)
