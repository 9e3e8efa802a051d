"""`medsa-sim` as a user meets it: files, exit codes, messages."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from medsa_model.logs import append_metrics, read_metrics
from sim.cli import main
from sim.config import load_simulation
from sim.sites import open_sites
from tests.sim.test_federation import configuration, prepare

SMALL = {
    "name": "small",
    "rounds": 1,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic", "sites": 2, "cases_per_site": 6, "size": 64},
    "train": {"steps": 1, "batch_size": 2, "prompts_per_image": 1},
    "sim": {"split": {"test": 0.34, "val": 0.17}, "examples": 1, "device": "cpu", "processes": 1,
            "references": ["scratch", "train_decoder"]},
}  # fmt: skip

ROW_KEYS = {"dice", "iou", "cases", "seconds", "structures", "per_class"}


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
        "name", "seed", "rounds", "data", "model", "rows", "foreground_mean", "cross_site",
        "communication", "privacy",
    }  # fmt: skip
    federated = summary["rows"]["federated"]
    assert summary["foreground_mean"] == {
        "Dice": federated["dice"]["mean"], "IoU": federated["iou"]["mean"],
    }  # fmt: skip
    assert summary["data"] == {
        "kind": "synthetic", "generated": True, "structures": ["nodule", "body", "core"],
        "volumes": False,
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
    assert "ellipse" in page and "scratch" in page and "synthetic (painted, no patients)" in page


def test_the_time_of_the_command_is_more_than_that_of_training(run):
    report = json.loads((run / "report.json").read_text())
    assert report["command"]["seconds"] > sum(report["seconds"].values()) > 0


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


@pytest.mark.parametrize(
    "changed",
    [(), ("sim.processes=2", "sim.memory_gigabytes=3", "sim.cache_megabytes=0")],
    ids=["the same", "settings of no influence"],
)
def test_resuming_a_finished_run_changes_nothing(changed, run, config, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again, symlinks=True)
    assert main(["--config", str(config), "--out", str(again), "--resume", *changed]) == 0
    assert (again / "summary.json").read_text() == (run / "summary.json").read_text()
    settings = load_simulation(again / "config.yaml").sim  # which the sites read
    assert settings.memory_gigabytes == (3 if changed else None)


def test_where_nothing_is_kept_sites_round_as_with_a_store(tmp_path):
    sim = {"split": {"test": 0.34, "val": 0.17}, "device": "cpu", "cache_megabytes": 0}
    prepare(configuration(sim=sim), tmp_path / "run")
    caches = [site.cache for site in open_sites(tmp_path / "run").values()]
    assert all(cache is not None and cache.most == 0 for cache in caches) and caches


def test_ctrl_c_says_how_to_go_on(config, tmp_path, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.federations.run_plan", interrupted)
    assert main(["--config", str(config), "--out", str(tmp_path / "run")]) == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.stps=3"], "did you mean 'steps'"),
        (["data.kind=isic"], "data.root is empty"),
        (["model.backbone=vit_b"], "sam_vit_b_01ec64.pth"),
        (["--resume"], "--resume: there is no run"),
        (["sim.device=abacus"], "device 'abacus' cannot be used"),
        (["model.image_size=36"], "vit_tiny needs a multiple of its patch, 8 pixels"),
        (["sim.rows=[local, local]"], "sim.rows  got ['local', 'local']: every row may be listed"),
        (["sim.references=[scratch, scratch]"], "every row may be listed once"),
        (["--out", "/proc/nope/x"], "/proc/nope: No such file or directory"),
        (["--out", "c.yaml"], "c.yaml: Not a directory"),
        (["--resume", "--out", "nothing"], "--resume: nothing holds no run; check --out"),
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


def start(config: Path, run: Path, *more: str) -> int:
    return main(["--config", str(config), "--out", str(run), *more])


def made(run: Path) -> Path:
    """A run directory as after its first round, with a file of somebody else's."""
    (run / "rounds" / "0000").mkdir(parents=True)
    (run / "rows" / "zero_shot" / "rounds").mkdir(parents=True)
    (run / "split.json").write_text("{}")
    (run / "notes.txt").write_text("mine")
    return run


@pytest.fixture
def idle(monkeypatch):
    """Starts prepare the run directory and compute nothing."""
    monkeypatch.setattr("sim.run.simulate", lambda *_: None)


@pytest.fixture
def unread(monkeypatch):
    """Reading the data set is a failure."""

    def read(*_: object) -> None:
        raise AssertionError("the data set was read")

    monkeypatch.setattr("sim.run.open_cases", read)


def test_a_mistyped_directory_is_not_resumed_as_a_new_run(config, tmp_path, capsys, idle):
    assert start(config, tmp_path / "typo", "--resume") == 1
    assert "leave --resume out to start one" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
    assert start(config, tmp_path / "run") == 0
    (tmp_path / "run" / "config.yaml").unlink()
    assert start(config, tmp_path / "run", "--resume") == 1
    assert "run holds no run; check --out" in capsys.readouterr().err


def test_a_start_that_failed_does_not_claim_its_directory(config, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert start(config, run, "sim.device=abacus") == 1
    assert (run / "split.json").exists()
    (run / "notes.txt").write_text("mine")
    monkeypatch.setattr("sim.run.simulate", lambda *_: None)
    assert start(config, run, "seed=4") == 0
    assert "seed: 4" in (run / "config.yaml").read_text()
    assert not (run / "split.json").exists() and (run / "notes.txt").exists()


@pytest.mark.parametrize("place", ["rounds", "rows/local/site_a/rounds"])
def test_a_saved_round_claims_its_directory(config, tmp_path, capsys, idle, place):
    run = tmp_path / "run"
    assert start(config, run) == 0
    (run / place).mkdir(parents=True)
    assert start(config, run) == 1
    assert "holds a run: add --resume" in capsys.readouterr().err
    assert (run / place).is_dir()
    assert start(config, run, "--resume") == 0


def test_resuming_the_latest_run_passes_over_starts_that_failed(
    config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    used = []
    monkeypatch.setattr("sim.run.simulate", lambda _, run, *__: used.append(run))
    begun, failed = (Path("runs/small") / name for name in ("20260101-000000", "20260102-000000"))
    assert start(config, begun) == start(config, failed, "seed=4") == 0
    assert main(["--config", str(config), "--resume"]) == 1
    assert "there is no run in runs/small" in capsys.readouterr().err
    (begun / "rounds").mkdir()
    assert main(["--config", str(config), "--resume"]) == 0
    assert used[-1] == begun


@pytest.mark.parametrize("versions", [None, "{}", "[", '["fed-medsa"]'])
@pytest.mark.parametrize("option", ["--overwrite", "--resume", "--verbose"])
def test_a_config_yaml_of_somebody_else_is_left_alone(
    config, tmp_path, capsys, idle, versions, option
):
    made(tmp_path)
    (tmp_path / "config.yaml").write_text("theirs: 1")
    if versions is not None:
        (tmp_path / "versions.json").write_text(versions)
    before = sorted(tmp_path.rglob("*"))
    assert start(config, tmp_path, option) == 1
    assert "holds no run" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "config.yaml").read_text() == "theirs: 1"


@pytest.mark.parametrize("name", ["split.json", "rounds", "config.yaml", "versions.json"])
def test_an_interrupted_removal_can_be_repeated(config, tmp_path, monkeypatch, capsys, idle, name):
    run = tmp_path / "run"
    assert start(config, run) == 0
    made(run)
    unlink, rmtree = Path.unlink, sys.modules["shutil"].rmtree

    def stop_at(place: Path) -> None:
        if place.name == name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda p, **more: stop_at(p) or unlink(p, **more))
        patched.setattr("sim.directory.shutil.rmtree", lambda p: stop_at(p) or rmtree(p))
        assert start(config, run, "--overwrite", "seed=4") == 130
    assert "Go on with" not in capsys.readouterr().err
    assert start(config, run, "--overwrite", "seed=4") == 0
    assert not (run / "rounds").exists() and not (run / "rows").exists()
    assert (run / "notes.txt").read_text() == "mine"
    assert "seed: 4" in (run / "config.yaml").read_text()


def test_under_pytorchs_launcher_no_simulation_starts(config, tmp_path, monkeypatch, capsys, idle):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert start(config, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.startswith("medsa-sim: this is one of 2 copies that PyTorch's launcher started")
    assert all(key in error for key in ("sim.processes", "sim.engine=ray", "sim.device=cuda:1"))
    assert not (tmp_path / "run").exists()


def test_settings_that_differ_are_named_with_both_values(config, tmp_path, capsys, idle):
    run = tmp_path / "run"
    assert start(config, run) == 0
    made(run)
    assert start(config, run, "--resume", "seed=9", "train.steps=2", "sim.rows=[local]") == 1
    error = capsys.readouterr().err
    assert "  seed: 0, now 9\n  train.steps: 1, now 2\n  sim.rows: ['local', 'cent" in error
    assert error.count(", now ") == 3
    assert "repeat them as they were, or use --overwrite or another --out" in error
    many = ["seed=9", "rounds=2", "model.image_size=64", "loss.dice=2", "loss.cross_entropy=2"]
    many += [f"train.{key}=3" for key in ("steps", "batch_size", "rate", "clip_norm")]
    many += [f"sim.{key}=3" for key in ("workers", "examples", "processes")]
    assert start(config, run, "--resume", *many) == 1
    error = capsys.readouterr().err
    assert error.count(", now ") == 10 and "  and 1 more\n" in error


def test_a_full_disk_is_one_line_and_the_start_can_be_repeated(
    config, tmp_path, monkeypatch, capsys, idle
):
    run, write_text = tmp_path / "run", Path.write_text

    def half(path: Path, text: str, broken: str) -> None:
        write_text(path, text[:20] if broken in path.name else text)
        if broken in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("versions.json", "config.yaml"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", lambda p, t, broken=name, **_: half(p, t, broken))
            assert start(config, run) == 1
        assert capsys.readouterr().err == f"medsa-sim: {run}: No space left on device\n"
        assert not (run / "config.yaml").exists()
    assert start(config, run) == 0
    assert {place.name for place in run.iterdir()} == {"config.yaml", "versions.json"}


def test_an_error_of_the_operating_system_during_the_run_is_one_line(
    config, tmp_path, monkeypatch, capsys
):
    def fail(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "split.json")

    monkeypatch.setattr("sim.run.simulate", fail)
    assert start(config, tmp_path / "run") == 1
    assert capsys.readouterr().err == "medsa-sim: split.json: Permission denied\n"


@pytest.mark.parametrize("place", ["set_up", "load_simulation", "choose_directory"])
def test_ctrl_c_before_the_run_directory_is_known(config, tmp_path, monkeypatch, capsys, place):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"sim.run.{place}", interrupted)
    assert start(config, tmp_path / "run") == 130
    told = capsys.readouterr().err
    assert "Interrupted" in told and "Go on with" not in told


def test_a_missing_checkpoint_is_printed_with_all_other_problems(config, tmp_path, capsys):
    assert start(config, tmp_path / "run", "model.backbone=vit_b", "rounds=-1") == 1
    error = capsys.readouterr().err
    assert "(2 problems)" in error and "sam_vit_b_01ec64.pth" in error and "rounds" in error
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_not_there_is_found_before_the_data_is_read(
    config, tmp_path, capsys, unread
):
    assert start(config, tmp_path / "run", "model.checkpoint=lost.safetensors") == 1
    assert "lost.safetensors: No such file or directory" in capsys.readouterr().err


def test_a_missing_engine_is_found_before_the_data_is_read(
    config, tmp_path, monkeypatch, capsys, unread
):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert start(config, tmp_path / "run", "sim.engine=ray") == 1
    assert 'pip install -c constraints.txt -e ".[ray]"' in capsys.readouterr().err


@pytest.mark.parametrize("torn", ['{"event": "rou', '{"event": "first"}'])
def test_an_event_after_a_torn_line_is_not_lost(tmp_path, torn):
    append_metrics(tmp_path, "first")
    path = tmp_path / "metrics.jsonl"
    path.write_text(torn)
    append_metrics(tmp_path, "second")
    append_metrics(tmp_path, "third")
    whole = ["first"] if torn.endswith("}") else []
    assert [event["event"] for event in read_metrics(tmp_path)] == [*whole, "second", "third"]
    assert len(path.read_text().splitlines()) == 3


def test_all_broken_cases_are_named_before_any_training(config, tmp_path, capsys):
    from PIL import Image

    for number in range(12):
        for kind in ("images", "masks"):
            path = tmp_path / "data" / kind / f"c{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            gradient = Image.linear_gradient("L")  # of one colour there would be a warning
            binary = gradient.point(lambda grey: 255 * (grey > 99))
            (binary if kind == "masks" else gradient).save(path)
            if number in (3, 8) and kind == "images":
                path.write_bytes(b"no picture")
    data = f"data={{kind: folder, root: {tmp_path / 'data'}}}"
    sites = "sim.partition={kind: iid, sites: 2}"
    assert start(config, tmp_path / "run", data, sites) == 1
    first, *lines = capsys.readouterr().err.strip().splitlines()
    assert first == "medsa-sim: 2 problems in the data:"
    assert [line.split(":")[0] for line in lines if "case c" in line] == [
        "  case c03",
        "  case c08",
    ]
    assert not (tmp_path / "run" / "rows").exists()


def test_an_implausible_volume_is_warned_about_once(config, tmp_path, capsys, monkeypatch):
    import nibabel
    import numpy as np

    for number in range(6):
        for kind, low, high in (("img", -1000 if number != 4 else 24, 200), ("label", 0, 6)):
            path = tmp_path / "Training" / kind / f"{kind}{number:04d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.full((8, 8, 8), low, np.int16)
            voxels[2:6, 2:6, 2:6] = high
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    monkeypatch.setattr("sim.run.run_plans", lambda *_: sys.exit(7))
    data = f"data={{kind: btcv, root: {tmp_path}}}"
    with pytest.raises(SystemExit):
        start(config, tmp_path / "run", data, "sim.partition={kind: iid, sites: 2}")
    error = capsys.readouterr().err
    assert error.count("case img0004: no voxel is below -500 HU (the lowest is 24)") == 1
    assert "case img0003" not in error and "read and checked all cases" in error
