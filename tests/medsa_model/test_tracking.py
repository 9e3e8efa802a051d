"""Follow metrics.jsonl while it is written, whatever happens to the file, the run or a sink."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medsa_model import tracking
from medsa_model.errors import ConfigError
from medsa_model.logs import append_metrics
from medsa_model.tracking import check_sinks, tracked

WRITER = """
import sys, time
with open(sys.argv[1], "a") as file:
    for text in sys.argv[2:]:
        file.write(text)
        file.flush()
        time.sleep(0.03)
"""


class Recorder:
    """A sink that keeps everything, and that can break."""

    def __init__(self, breaks_after: int = 10**9) -> None:
        self.points, self.notes, self.closed = [], [], []
        self.writes, self.breaks_after = 0, breaks_after

    def write(self, row, points, notes) -> None:
        self.writes += 1
        if self.writes > self.breaks_after:
            raise OSError("no space at https://me:secret@server/")
        self.points += [(row, *point[:3]) for point in points]
        self.notes += [(row, *note[:3]) for note in notes]

    def close(self, complete) -> None:
        self.closed.append(complete)


@pytest.fixture(autouse=True)
def log(caplog, monkeypatch):
    monkeypatch.setattr(tracking.logger, "propagate", True)  # set_up() turns it off
    monkeypatch.setattr(tracking, "INTERVAL", 0.01)
    return caplog


@pytest.fixture
def sink(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(tracking, "open_sink", lambda name, run: recorder)
    return recorder


def wait_for(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def losses(sink: Recorder, row: str = "federated") -> list[tuple[int, float]]:
    return [point[2:] for point in sink.points if point[:2] == (row, "train/loss/a")]


def write_round(run: Path, number: int, loss: float) -> None:
    append_metrics(run, "train", round=number, site="a", loss=loss)
    append_metrics(run, "round", round=number, sites=["a"], missing=[], seconds=1.5)


def test_points_come_while_the_run_goes_on(tmp_path, sink):
    """A round when it is over, of rows whose directories appear later too."""
    with tracked(tmp_path, ["tensorboard"]):
        write_round(tmp_path, 1, 0.5)
        wait_for(lambda: losses(sink) == [(1, 0.5)])
        append_metrics(tmp_path, "train", round=2, site="a", loss=0.25)
        row = tmp_path / "rows" / "local" / "b"
        row.mkdir(parents=True)
        write_round(row, 1, 0.75)
        wait_for(lambda: losses(sink, "local/b") == [(1, 0.75)])
        assert losses(sink) == [(1, 0.5)]
        (row / "final").touch()
        append_metrics(tmp_path, "round", round=2, sites=["a"], missing=[], seconds=1.5)
    assert losses(sink) == [(1, 0.5), (2, 0.25)]
    assert sink.closed == [["local/b"]]


def test_a_half_written_line_of_another_process_is_neither_lost_nor_doubled(tmp_path, sink):
    """The pieces end within a line, a number and a letter; the last line has no line feed."""
    lines = [
        json.dumps({"time": "2026-01-01T00:00:00+00:00", "event": event, "round": n, **facts})
        for n in range(1, 9)
        for event, facts in (("train", {"site": "a", "loss": n / 8}), ("round", {"seconds": 1}))
    ]
    text = "\n".join(lines)
    pieces = [text[start : start + 217] for start in range(0, len(text), 217)]
    with tracked(tmp_path, ["tensorboard"]):
        path = str(tmp_path / "metrics.jsonl")
        subprocess.run([sys.executable, "-S", "-c", WRITER, path, *pieces], check=True)
        wait_for(lambda: len(losses(sink)) == 7)  # the eighth is over with the last line
        assert losses(sink)[-1] == (7, 7 / 8)
    assert losses(sink) == [(n, n / 8) for n in range(1, 9)]


def test_a_line_torn_by_a_crash_is_left_out(tmp_path, sink):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"event": "train", "round": 1, "lo')
    with tracked(tmp_path, ["tensorboard"]):
        write_round(tmp_path, 1, 0.5)
    assert losses(sink) == [(1, 0.5)]


def test_a_long_file_is_read_in_pieces(tmp_path, monkeypatch):
    """Each piece goes on before the next one is read; lines are whole, also one of several."""
    monkeypatch.setattr(tracking, "PIECE", 500)
    for number in range(1, 40):
        write_round(tmp_path, number, number / 64)
    append_metrics(tmp_path, "rejected", round=40, site="a", reason="x" * 2000, what="update")
    write_round(tmp_path, 40, 40 / 64)
    events = tracking.events_of
    most, sink = [], Recorder()
    monkeypatch.setattr(
        tracking, "events_of", lambda lines: most.append(len(b"".join(lines))) or events(lines)
    )
    follower = tracking.Follower(tmp_path)
    follower.pass_on("federated", sink, ended=False)
    assert losses(sink) == [(n, n / 64) for n in range(1, 41)] and len(sink.notes) == 1
    assert sink.writes > 10 and sorted(most)[-2] <= 1000
    follower.pass_on("federated", sink, ended=True)
    assert len(losses(sink)) == 40


@pytest.mark.parametrize("ended", [False, True])
def test_test_scores_wait_for_the_end_of_the_run(ended, tmp_path):
    """Those of a run that was interrupted while it scored may be others in the end."""
    sink, follower = Recorder(), tracking.Follower(tmp_path)
    scores = {"round": 2, "part": "test", "prompt": "click", "cases": 1}
    append_metrics(tmp_path, "evaluate", site="a", dice=0.25, **scores)
    follower.pass_on("federated", sink, ended)
    assert sink.points == []
    append_metrics(tmp_path, "evaluate", site="a", dice=0.5, **scores)
    (tmp_path / "final").touch()
    follower.pass_on("federated", sink, ended)
    assert ("federated", "test/dice/click/a", 2, 0.5) in sink.points
    assert {point[3] for point in sink.points} == {0.5}


def test_a_sink_that_breaks_in_mid_run_is_dropped_with_one_warning(tmp_path, monkeypatch, log):
    """The run and the other sink do not notice."""
    sinks = {"tensorboard": Recorder(breaks_after=1), "mlflow": Recorder()}
    monkeypatch.setattr(tracking, "open_sink", lambda name, run: sinks[name])
    with tracked(tmp_path, ["tensorboard", "mlflow"]):
        for number in range(1, 5):
            write_round(tmp_path, number, 0.5)
            wait_for(lambda number=number: len(losses(sinks["mlflow"])) == number)
    assert len(losses(sinks["tensorboard"])) == 1
    (warning,) = log.records
    assert warning.levelname == "WARNING"
    text = warning.getMessage()
    assert "--track tensorboard has ended: OSError: no space at https://server/" in text
    assert "metrics.jsonl" in text


def test_a_sink_that_hangs_does_not_keep_the_run(tmp_path, monkeypatch, log):
    let_go = threading.Event()
    monkeypatch.setattr(tracking, "open_sink", lambda name, run: let_go.wait() or Recorder())
    monkeypatch.setattr(tracking, "LONGEST_END", 0.02)
    with tracked(tmp_path, ["mlflow"]):
        pass
    assert "--track mlflow is still not done" in log.text
    let_go.set()


def test_an_error_of_the_run_goes_its_way_and_what_was_written_is_passed_on(tmp_path, sink):
    def interrupted() -> None:
        with tracked(tmp_path, ["mlflow"]):
            write_round(tmp_path, 1, 0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert losses(sink) == [(1, 0.5)] and sink.closed == [[]]


def test_sinks_are_checked_before_the_run(monkeypatch):
    """All problems at once, with what to install."""
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    check_sinks([])
    with pytest.raises(ConfigError, match=r'pip install -c constraints.txt -e "\.\[mlflow\]"'):
        check_sinks(["mlflow"])
    with pytest.raises(ConfigError, match=r"\[tensorboard,mlflow\]"):
        check_sinks(["mlflow", "tensorboard"])
    with pytest.raises(ConfigError, match="wandb: no such tracker, expected tensorboard or mlflow"):
        check_sinks(["wandb", "mlflow"])
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    check_sinks(["mlflow", "tensorboard"])


def test_without_sinks_no_thread_is_started(tmp_path):
    before = threading.active_count()
    with tracked(tmp_path, []):
        write_round(tmp_path, 1, 0.5)
        assert threading.active_count() == before


@pytest.mark.thorough
def test_without_sinks_nothing_is_imported(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom medsa_model.tracking import tracked\n"
        f"with tracked(Path({str(tmp_path)!r}), []): pass\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('mlflow', 'tensorboard')"
        " or n.startswith('torch.utils.tensorboard')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
