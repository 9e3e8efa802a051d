"""Progress is what the run directories say."""

import io

from rich.console import Console

from sim.compare import plans
from sim.config import SimulatedRun
from sim.progress import count, progress_of

CONFIG = SimulatedRun.model_validate(
    {"name": "x", "rounds": 3, "data": {"kind": "synthetic"}, "sim": {"rows": [], "references": []}}
)


def test_rounds_and_finished_federations_are_counted(tmp_path):
    everything = plans(CONFIG, tmp_path, {"a": 2, "b": 2})
    assert count(everything) == (0, 0)
    for number in range(3):
        folder = tmp_path / "rounds" / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / "round.json").write_text("{}")
    assert count(everything) == (2, 0)
    (tmp_path / "final").symlink_to("rounds/0002")
    assert count(everything) == (3, 1)


def test_the_bar_ends_with_the_last_state(tmp_path):
    everything = plans(CONFIG, tmp_path, {"a": 2, "b": 2})
    screen = io.StringIO()
    with progress_of(everything, Console(file=screen, force_terminal=True, width=120)):
        (tmp_path / "rounds" / "0000").mkdir(parents=True)
        (tmp_path / "final").symlink_to("rounds/0000")
    assert "1 of 2 federations" in screen.getvalue()


def test_nothing_is_shown_where_there_is_no_terminal(tmp_path):
    screen = io.StringIO()
    with progress_of(plans(CONFIG, tmp_path, {"a": 2}), Console(file=screen)):
        pass
    assert screen.getvalue() == ""
