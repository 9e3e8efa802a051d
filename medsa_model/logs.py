"""Logging set-up and metrics.jsonl: one JSON object a line, appended as things happen."""

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

logger = logging.getLogger("medsa")


def set_up(verbose: bool) -> None:
    """Log the project's messages to the terminal's error stream; Flower's only when they warn."""
    handler = RichHandler(
        console=Console(stderr=True),
        show_path=False,
        show_level=verbose,
        log_time_format="%H:%M:%S",
    )
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    logging.getLogger("flwr").setLevel(logging.WARNING)


def append_metrics(run: Path, event: str, **values: object) -> None:
    """Add a line to the run's metrics.jsonl; a line torn by a crash before is ended first."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"time": now, "event": event, **values}) + "\n"
    with (run / "metrics.jsonl").open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())  # at the end of the file, wherever it was read


def read_metrics(run: Path) -> list[dict[str, object]]:
    """All complete lines of metrics.jsonl; a line cut off by a crash is left out."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events
