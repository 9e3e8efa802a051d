"""TensorBoard: RUN/tensorboard, one subdirectory for each row. Look with

tensorboard --logdir RUN/tensorboard

The files are written anew from the whole metrics.jsonl at every start, so that a run that is
resumed has no point twice. Values are float32, steps are rounds, times those of the events.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from medsa_model.tracking_points import MAIN, Note, Point

FOLDER = "tensorboard"
CONFIG = "config.yaml"


class TensorBoard:
    """Event files below RUN/tensorboard; a `Sink`, see tracking.py."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.writers: dict[str, SummaryWriter] = {}
        for old in (run / FOLDER).rglob("events.out.tfevents.*"):
            old.unlink()

    def write(self, row: str, points: Sequence[Point], notes: Sequence[Note]) -> None:
        """Write points as scalars, and notes as texts: every line of them as it stands."""
        if row not in self.writers:
            self.writers[row] = SummaryWriter(str(self.run / FOLDER / row))
            if row == MAIN and (self.run / CONFIG).exists():
                text = (self.run / CONFIG).read_text(encoding="utf-8")
                self.writers[row].add_text(CONFIG, as_it_stands(text), 0)
        writer = self.writers[row]
        # TensorBoard opens its file for every record: those of one moment share one
        for (step, time), several in groupby(sorted(points, key=moment), moment):
            values = [Summary.Value(tag=each.tag, simple_value=each.value) for each in several]
            record = Summary(value=values)
            writer.file_writer.add_summary(record, step, time)  # type: ignore[attr-defined]
        for kind, step, text, time in notes:
            writer.add_text(f"notes/{kind}", as_it_stands(text), step, time)
        writer.flush()

    def close(self, complete: Sequence[str]) -> None:
        """Close the files."""
        for writer in self.writers.values():
            writer.close()


def moment(point: Point) -> tuple[int, float]:
    """Round and time of a point."""
    return point.step, point.time


def as_it_stands(text: str) -> str:
    """Markdown that shows `text` letter by letter."""
    return "\n".join(f"    {line}" for line in text.splitlines())
