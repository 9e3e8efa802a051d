"""`medsa-bench` as a user meets it: what it prints and writes, exit codes, messages."""

import json
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

import sim.bench.figures
from medsa_model.errors import ConfigError, MedsaError
from sim.bench.cli import main
from sim.bench.figures import FIGURES, measure
from sim.bench.models import Settings
from sim.bench.plot import draw_ratios
from sim.bench.results import Row, Side
from sim.bench.server import check_space
from sim.bench.table import cells
from sim.bench.timing import in_turn

CPU = torch.device("cpu")
ROW = Row("one, float32", "CPU s", Side("plain", [4.0, 2.0, 3.0]), Side("ours", [1.0, 1.0, 2.0]),
          {"batch": 2})  # fmt: skip
ALONE = Row("two", "bytes", None, Side("ours", [3e6]))
COMPUTED = Row("three", "bytes", Side("computed: all", [9e6], computed=True), Side("ours", [3e6]))


def settings(out: Path, **more: object) -> Settings:
    return Settings(**{"device": CPU, "out": out, "repeats": 2, **more})


def test_ratios_are_of_minima_and_of_medians():
    assert ROW.ratio_of_minima == 2.0 and ROW.ratio_of_medians == 3.0
    assert ROW.spread == 1.0  # ours: 2 - 1 by a median of 1; plain: 4 - 2 by one of 3
    assert ALONE.ratio_of_minima is None and ALONE.ratio_of_medians is None
    assert cells(ROW) == ["one, float32", "CPU s", "2", "1", "2.00x", "3.00x", "100 %"]
    assert cells(ALONE) == ["two", "MB", "", "3.0", "", "", ""]
    assert cells(COMPUTED)[2:5] == ["9.0 (computed)", "3.0", "3.00x"]


def test_both_sides_are_measured_in_turn_after_a_warm_up():
    order: list[str] = []
    sides = {"plain": lambda: order.append("plain"), "ours": lambda: order.append("ours")}
    taken = in_turn(sides, 2, CPU)
    assert order == ["ours", "plain", "plain", "ours", "ours", "plain"]
    assert {name: len(samples) for name, samples in taken.items()} == {"plain": 2, "ours": 2}


def test_sleep_is_no_time_of_the_processor():
    (slept,) = in_turn({"sleep": lambda: time.sleep(0.2)}, 1, CPU, 0)["sleep"]
    assert slept < 0.1


def test_what_is_written(tmp_path, capsys):
    figures = {
        "one": ("what one is", lambda _: [ROW]),
        "broken": ("what fails", failing),
        "two": ("what two is", lambda _: [ALONE, COMPUTED]),
    }
    console = Console(width=200)
    assert measure([*figures], settings(tmp_path), console, figures) == ["broken"]
    found = json.loads((tmp_path / "bench.json").read_text())
    assert set(found) == {
        "version", "started", "finished", "machine", "seed", "repeats", "figures",
    }  # fmt: skip
    assert set(found["machine"]) == {
        "system", "architecture", "cores", "threads", "python", "torch", "cpu_capability", "device",
        "device_name", "precision",
    }  # fmt: skip
    one, broken, two = found["figures"]
    assert set(one) == {"name", "what", "seconds", "error", "rows"}
    assert one["rows"] == [{
        "name": "one, float32", "unit": "CPU s",
        "plain": {"label": "plain", "computed": False, "samples": [4, 2, 3], "minimum": 2,
                  "median": 3, "spread": pytest.approx(2 / 3)},
        "ours": {"label": "ours", "computed": False, "samples": [1, 1, 2], "minimum": 1,
                 "median": 1, "spread": 1},
        "ratio_of_minima": 2, "ratio_of_medians": 3, "spread": 1, "facts": {"batch": 2},
    }]  # fmt: skip
    assert broken["error"] == "no memory" and broken["rows"] == []
    assert two["rows"][0]["plain"] is None and two["rows"][0]["ratio_of_minima"] is None
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert two["rows"][1]["plain"]["computed"] and not two["rows"][1]["ours"]["computed"]
    drawn = (tmp_path / "bench.svg").read_text()
    assert "one, float32" in drawn and "two" not in drawn and "three" not in drawn
    captured = capsys.readouterr()
    assert "medsa-bench: broken: no memory" in captured.err and "2.00x" in captured.out


def failing(_: Settings) -> list[Row]:
    raise MedsaError("no memory")


def test_nothing_is_drawn_without_a_ratio(tmp_path):
    assert draw_ratios([ALONE, COMPUTED], tmp_path) == [] and not [*tmp_path.iterdir()]


def test_the_list_names_every_figure(capsys):
    assert main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [*FIGURES, "against"]


def test_figures_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sim.bench.figures.draw_ratios", lambda *_: [])  # has a test of its own
    monkeypatch.setattr("sim.bench.figures.give_back", lambda: None)  # takes time 13 times
    for name in FIGURES:
        figure = (name, lambda _, name=name: [Row(name, "s", None, Side("ours", [1.0]))])
        monkeypatch.setitem(sim.bench.figures.WITH_AGAINST, name, figure)
    assert main(["inference", "step_2d", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [figure["name"] for figure in found["figures"]] == ["inference", "step_2d"]
    assert found["machine"]["threads"] == 1
    assert main(["--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [figure["name"] for figure in found["figures"]] == [*FIGURES]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step_4d"], "no figure 'step_4d'; expected some of step_2d, "),
        (["step_2d", "--repeats", "0"], "--repeats"),
        (["step_2d", "--threads", "-1"], "--threads"),
        (["--answers", "x"], "--answers"),
    ],
)
def test_wrong_words(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_a_device_that_there_is_not(tmp_path, capsys):
    assert main(["step_2d", "--device", "nonsense", "--out", str(tmp_path)]) == 1
    assert "device 'nonsense' cannot be used" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["step_2d", "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"medsa-bench: {tmp_path / 'file'}")


def test_a_disk_without_room_is_told_before_anything_is_measured(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"which takes 15400\.0 GB, found .* free: choose"):
        check_space(tmp_path, 10**6, 14)
    words = ["step_2d", "server_memory", "--answers", "1000000", "--out", str(tmp_path)]
    assert main(words) == 1
    assert "--answers 1000000: a round keeps them in" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    def interrupted(_: Settings) -> list[Row]:
        raise KeyboardInterrupt

    monkeypatch.setitem(sim.bench.figures.WITH_AGAINST, "step_2d", ("", lambda _: [ROW]))
    monkeypatch.setitem(sim.bench.figures.WITH_AGAINST, "step_3d", ("", interrupted))
    assert main(["step_2d", "step_3d", "--out", str(tmp_path)]) == 130
    assert str(tmp_path / "bench.json") in capsys.readouterr().err
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [figure["name"] for figure in found["figures"]] == ["step_2d"]
