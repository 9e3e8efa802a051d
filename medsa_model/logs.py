"""Logging set-up and metrics.jsonl: one JSON object a line, appended as things happen."""

import json
import logging
import os
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

logger = logging.getLogger("medsa")
LINE = "%(asctime)s %(message)s"
LARGEST = 10 * 2**20  # bytes of a log file


def set_up(verbose: bool) -> None:
    """Log the project's messages to the error stream; Flower's only when they warn.

    On a terminal with colours and wrapped lines, elsewhere one line a message.
    """
    console = Console(stderr=True, markup=False, emoji=False)
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LINE))
    if console.is_terminal:
        handler = RichHandler(
            console=console, show_path=False, show_level=verbose, log_time_format="%H:%M:%S"
        )
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    logging.getLogger("flwr").setLevel(logging.WARNING)


def log_to_file(path: Path) -> None:
    """Log to a file too, which only this account can read; three old ones are kept."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    handler = RotatingFileHandler(path, maxBytes=LARGEST, backupCount=3, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LINE))
    logger.addHandler(handler)


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
