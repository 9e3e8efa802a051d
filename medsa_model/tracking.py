"""Show a run in TensorBoard or MLflow while it goes on: `--track tensorboard --track mlflow`.

Both are extras and off by default. What happened stands in metrics.jsonl; a thread follows that
file, and in a simulation those of all rows, and passes its lines on. An error there is one
warning in the log, and never one of the run.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Protocol

from medsa_model.checkpoint import is_complete
from medsa_model.command_line import SINKS
from medsa_model.errors import ConfigError
from medsa_model.logs import logger
from medsa_model.report_values import Json
from medsa_model.shown import clean
from medsa_model.tracking_points import MAIN, Lines, Note, Point, note_of

ROWS = ("metrics.jsonl", "rows/*/metrics.jsonl", "rows/*/*/metrics.jsonl")
PIECE = 2**20  # bytes of a file that are read at once
INTERVAL = 1.0  # seconds between looks at the files
LONGEST_END = 60.0  # seconds that the end of a run waits for a sink, such as a server that hangs


class Sink(Protocol):
    """Where points go."""

    def write(self, row: str, points: Sequence[Point], notes: Sequence[Note]) -> None:
        """Take points of whole rounds of a row, each once, in order; and notes."""
        ...

    def close(self, complete: Sequence[str]) -> None:
        """Write what is left; `complete` are the rows that came to their end."""
        ...


def check_sinks(sinks: Sequence[str]) -> None:
    """Raise one `ConfigError` for what is unknown and for what is not installed."""
    if unknown := sorted({*sinks} - {*SINKS}):
        raise ConfigError(
            f"--track {', '.join(unknown)}: no such tracker, expected {' or '.join(SINKS)}"
        )
    if missing := [name for name in SINKS if name in sinks and find_spec(name) is None]:
        raise ConfigError(
            f"--track {', '.join(missing)}: not installed: "
            f'pip install -c constraints.txt -e ".[{",".join(missing)}]"'
        )


@contextmanager
def tracked(run: Path, sinks: Sequence[str]) -> Iterator[None]:
    """Pass on what the run in `run` writes while the context is open, and the rest at its end.

    A run that is resumed has no point twice. With no sinks nothing happens at all.
    """
    if not sinks:
        yield
        return
    stop = Event()
    threads = [
        Thread(target=_track, args=(run, name, stop), name=f"track {name}", daemon=True)
        for name in dict.fromkeys(sinks)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        end = monotonic() + LONGEST_END
        for thread, name in zip(threads, dict.fromkeys(sinks), strict=True):
            thread.join(max(0.0, end - monotonic()))
            if thread.is_alive():
                logger.warning(
                    "--track %s is still not done %.0f seconds after the run and is left alone; "
                    "add --resume to write the rest", name, LONGEST_END,
                )  # fmt: skip


def open_sink(name: str, run: Path) -> Sink:
    """The sink of that name; imports its library."""
    if name == "tensorboard":
        from medsa_model.tracking_tensorboard import TensorBoard

        return TensorBoard(run)
    from medsa_model.tracking_mlflow import Mlflow

    return Mlflow(run)


def _track(run: Path, name: str, stop: Event) -> None:
    """The life of a thread."""
    try:
        follow(run, open_sink(name, run), stop)
    except Exception as error:
        told = re.sub(r"//[^/@\s]*@", "//", clean(str(error)))  # a server without its password
        logger.warning(
            "--track %s has ended: %s: %s; the run is not affected, and everything stands in "
            "metrics.jsonl", name, type(error).__name__, told,
        )  # fmt: skip


@dataclass
class Follower:
    """One metrics.jsonl, and how much of it was read."""

    folder: Path
    read: int = 0  # bytes, to the end of a line
    lines: Lines = field(default_factory=Lines)

    def pieces(self, ended: bool) -> Iterator[list[Json]]:
        """What came since the last call, as much at once as `PIECE` bytes hold.

        These are complete lines, and with `ended` also a last one that has everything but its line
        feed.
        """
        with (self.folder / "metrics.jsonl").open("rb") as file:
            file.seek(self.read)
            rest = b""
            while piece := file.read(PIECE):
                *complete, rest = (rest + piece).split(b"\n")
                self.read = file.tell() - len(rest)
                yield events_of(complete)
        if ended and rest:
            yield events_of([rest])

    def pass_on(self, row: str, sink: Sink, ended: bool) -> None:
        """Give the sink what is new."""
        complete = is_complete(self.folder)  # before reading: then all test scores are there
        for events in self.pieces(ended):
            points = [point for event in events for point in self.lines.add(event)]
            notes = [note for event in events if (note := note_of(event))]
            if points or notes:
                sink.write(row, points, notes)
        if complete and (scores := self.lines.test_scores()):
            sink.write(row, scores, [])


def events_of(lines: Sequence[bytes]) -> list[Json]:
    """The events of lines; what a crash has torn is left out."""
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def follow(run: Path, sink: Sink, stop: Event) -> None:
    """Pass on what is written to the files of `run`, until `stop` is set and all was read."""
    rows: dict[str, Follower] = {}
    ended = False
    while not ended:
        ended = stop.wait(INTERVAL)
        for pattern in ROWS:
            for path in sorted(run.glob(pattern)):
                place = path.parent.relative_to(run)
                row = "/".join(place.parts[1:]) or MAIN
                rows.setdefault(row, Follower(path.parent)).pass_on(row, sink, ended)
    sink.close([row for row, follower in rows.items() if is_complete(follower.folder)])
