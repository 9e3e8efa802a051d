"""The table over seeds, against numbers computed by hand."""

import json

import pytest
import yaml

from sim.table import main, spread


def report(federated: float, local: float) -> dict[str, object]:
    def row(value: float) -> dict[str, object]:
        per_site = {"a": value - 0.1, "b": value + 0.1}
        return {
            "dice": {"mean": value, "worst_site": value - 0.1, "gap": 0.2, "per_site": per_site}
        }

    return {
        "prompts": {"click": {"rows": {"local": row(local), "federated": row(federated)}}},
        "references": {"otsu": {"click": row(0.5)}, "ellipse_in_box": {"box": row(0.6)}},
        "local_on_other_sites": {"click": 0.3},
    }


def finished(run, seed: int, federated: float = 0.8, local: float = 0.7, **more: object) -> str:
    run.mkdir()
    config = {"name": "x", "seed": seed, "train": {"steps": 5}, "data": {"root": f"/data/{seed}"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config | more))
    (run / "report.json").write_text(json.dumps(report(federated, local)))
    return str(run)


def test_mean_deviation_and_paired_margins(tmp_path, capsys):
    runs = [
        finished(tmp_path / str(number), number, federated, local)
        for number, (federated, local) in enumerate([(0.8, 0.7), (0.9, 0.95)])
    ]
    assert main(runs) == 0
    text = capsys.readouterr().out
    assert "| federated | 0.850 ± 0.071 | 0.750 ± 0.071 | 0.200 ± 0.000 | 0.750 | 0.950 |" in text
    assert "| otsu | 0.500 ± 0.000" in text
    assert "ellipse" not in text  # it has no click
    assert "by seed: +0.100, -0.050" in text


def test_one_run_has_no_deviation():
    assert spread([0.5]) == "0.500"


def refused(runs: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that is printed when the runs give no table."""
    assert main(runs) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_a_run_that_is_not_finished_is_named(tmp_path, capsys):
    runs = [finished(tmp_path / "one", 0), finished(tmp_path / "two", 1)]
    (tmp_path / "two" / "report.json").unlink()
    error = refused(runs, capsys)
    assert f"{runs[1]} has no report.json: the run is not finished; go on with it by" in error


def test_a_report_that_is_damaged_is_named(tmp_path, capsys):
    runs = [finished(tmp_path / "one", 0)]
    (tmp_path / "one" / "report.json").write_text("{")
    assert f"{runs[0]}/report.json cannot be read" in refused(runs, capsys)


def test_runs_with_other_settings_are_not_averaged(tmp_path, capsys):
    runs = [
        finished(tmp_path / "one", 0),
        finished(tmp_path / "two", 1, train={"steps": 6}, rounds=3),
    ]
    assert "they differ in rounds, train.steps; give" in refused(runs, capsys)


def test_the_same_seed_twice_is_no_second_run(tmp_path, capsys):
    runs = [finished(tmp_path / name, seed) for name, seed in [("a", 0), ("b", 1), ("c", 0)]]
    assert f"{runs[0]} and {runs[2]} have the same seed, 0" in refused(runs, capsys)


def test_the_same_folder_twice_is_no_second_run(tmp_path, capsys):
    run = finished(tmp_path / "one", 0)
    assert "same seed" in refused([run, run], capsys)


def test_a_reference_of_some_runs_says_of_how_many(tmp_path, capsys):
    runs = [finished(tmp_path / str(number), number) for number in (1, 2)]
    path = tmp_path / "1" / "report.json"
    content = json.loads(path.read_text())
    content["references"]["scratch"] = {"click": content["references"]["otsu"]["click"]}
    path.write_text(json.dumps(content))
    assert main(runs) == 0
    assert "| scratch (1 of 2 seeds) | 0.500 |" in capsys.readouterr().out


def test_what_is_no_run_of_a_simulation_is_told_apart(tmp_path, capsys):
    hospitals, empty, file = tmp_path / "real", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()
    finished(hospitals, 0)
    (hospitals / "report.json").unlink()
    (hospitals / "audit.jsonl").touch()  # which a run at hospitals has
    for path, told in (
        (hospitals, "is a run at hospitals; sim.table takes runs of medsa-sim"),
        (tmp_path / "wrong", "does not exist: no such folder"),
        (empty, "holds no run"),
        (file, "is a file; give directories of runs"),
    ):
        assert refused([str(path)], capsys).startswith(f"sim.table: {path} {told}")
