"""`medsa-sim` as a user meets it: files, exit codes, messages."""

import json

import pytest
import yaml

from sim.run import main

SMALL = {
    "name": "small",
    "rounds": 1,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic", "sites": 2, "cases_per_site": 6, "size": 64},
    "train": {"steps": 1, "batch_size": 2, "prompts_per_image": 1},
    "sim": {"split": {"test": 0.34, "val": 0.17}, "examples": 1, "device": "cpu", "processes": 1,
            "references": ["scratch", "train_decoder"]},
}  # fmt: skip

ROW_KEYS = {"dice", "iou", "cases", "seconds"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(["--config", str(config), "--out", str(run)]) == 0
    return run


def test_summary_has_exactly_the_agreed_keys(run):
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary) == {
        "name", "seed", "rounds", "model", "rows", "cross_site", "communication", "privacy",
    }  # fmt: skip
    assert set(summary["model"]) == {
        "backbone", "base_sha256", "total_parameters", "trainable_parameters", "trainable_percent",
    }  # fmt: skip
    assert list(summary["rows"]) == ["zero_shot", "local", "federated", "centralized"]
    sites = {"site_a", "site_b"}
    for row in summary["rows"].values():
        assert set(row) == ROW_KEYS and row["cases"] == 4
        for metric in ("dice", "iou"):
            assert set(row[metric]) == {"mean", "worst_site", "gap", "per_site"}
            assert set(row[metric]["per_site"]) == sites
            assert row[metric]["worst_site"] == min(row[metric]["per_site"].values())
    assert set(summary["cross_site"]) == sites | {"federated"}
    assert set(summary["communication"]) == {
        "up_bytes_per_site_round", "down_bytes_per_site_round", "full_model_bytes",
    }  # fmt: skip
    assert summary["privacy"] is None


def test_local_is_each_model_on_its_own_cases(run):
    summary = json.loads((run / "summary.json").read_text())
    own = {site: summary["cross_site"][site][site] for site in ("site_a", "site_b")}
    assert summary["rows"]["local"]["dice"]["per_site"] == own


def test_the_report_prints_baselines_and_references_beside_the_model(run):
    report = json.loads((run / "report.json").read_text())
    assert {"ellipse_in_box", "otsu", "scratch", "train_decoder"} <= set(report["references"])
    assert "click" not in report["references"]["ellipse_in_box"]
    trained = {name: v["trainable_parameters"] for name, v in report["trained"].items()}
    assert trained["federated"] < trained["train_decoder"] < trained["scratch"]
    page = (run / "report.html").read_text()
    assert "ellipse" in page and "scratch" in page


def test_the_message_is_a_small_part_of_the_model(run):
    traffic = json.loads((run / "summary.json").read_text())["communication"]
    assert traffic["up_bytes_per_site_round"] < 0.085 * traffic["full_model_bytes"]


def test_examples_are_written_for_the_report(run):
    entries = json.loads((run / "examples" / "examples.json").read_text())
    assert {entry["site"] for entry in entries} == {"site_a", "site_b"}
    assert all((run / "examples" / entry["file"]).stat().st_size > 500 for entry in entries)


def test_a_finished_run_is_not_mixed_with_another(run, config, capsys):
    assert main(["--config", str(config), "--out", str(run)]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["--config", str(config), "--out", str(run), "--resume", "seed=9"]) == 1
    assert "other settings" in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(run, config):
    before = (run / "summary.json").read_text()
    assert main(["--config", str(config), "--out", str(run), "--resume"]) == 0
    assert (run / "summary.json").read_text() == before


def test_ctrl_c_says_how_to_go_on(config, tmp_path, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.federations.run_plan", interrupted)
    assert main(["--config", str(config), "--out", str(tmp_path / "run")]) == 130
    assert "--resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.stps=3"], "did you mean 'steps'"),
        (["data.kind=isic"], "data.root is empty"),
        (["model.backbone=vit_b"], "sam_vit_b_01ec64.pth"),
        (["--resume"], "--resume: there is no run"),
        (["sim.device=abacus"], "device 'abacus' cannot be used"),
    ],
)
def test_errors_are_one_message_without_a_traceback(
    arguments, message, config, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    plain = config.read_text()
    path = tmp_path / "c.yaml"
    if "data.kind=isic" in arguments:
        content = yaml.safe_load(plain)
        content["data"] = {"kind": "isic"}
        plain, arguments = yaml.safe_dump(content), []
    path.write_text(plain)
    assert main(["--config", str(path), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_overwriting_keeps_what_the_program_did_not_write(config, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr("sim.run.simulate", lambda *_: None)
    assert main(["--config", str(config), "--out", str(run)]) == 0
    (run / "20260101-000000").mkdir()
    (run / "summary.json").write_text("{}")
    assert main(["--config", str(config), "--out", str(run), "--overwrite", "seed=4"]) == 0
    assert (run / "20260101-000000").is_dir()
    assert not (run / "summary.json").exists()
    assert "seed: 4" in (run / "config.yaml").read_text()


def test_the_budget_of_a_row_is_in_the_report(run):
    images = json.loads((run / "report.json").read_text())["images"]
    assert images["zero_shot"] == 0
    assert images["local"] == images["federated"] == images["centralized"] == 4


def test_a_directory_with_other_files_is_left_alone(config, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("important")
    assert main(["--config", str(config), "--out", str(tmp_path), "--overwrite"]) == 1
    assert "not empty" in capsys.readouterr().err and (tmp_path / "thesis.tex").exists()
