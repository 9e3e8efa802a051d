"""`--resume` of a comparison: it ends as if nobody had pressed Ctrl-C."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import client.app
from medsa_model.build import build
from medsa_model.checkpoint import latest_round
from sim.cli import main
from sim.sites import POOLED, open_sites

SMALL = {
    "name": "small",
    "rounds": 2,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic", "sites": 2, "cases_per_site": 4, "size": 64},
    "train": {"steps": 1, "batch_size": 2, "prompts_per_image": 1},
    "sim": {"split": {"test": 0.34, "val": 0.17}, "examples": 0, "device": "cpu",
            "rows": ["centralized"], "references": []},
}  # fmt: skip
PLACES = (".", "rows/zero_shot", "rows/centralized")


def simulate(config: Path, out: Path, *more: str) -> int:
    """The command, as a new process would run it."""
    build.cache_clear()
    open_sites.cache_clear()
    return main(["--config", str(config), "--out", str(out), "sim.processes=1", *more])


def without_seconds(content: object) -> object:
    """JSON without what a clock decides."""
    if isinstance(content, dict):
        return {key: without_seconds(v) for key, v in content.items() if key != "seconds"}
    return content


def summary(run: Path) -> object:
    return without_seconds(json.loads((run / "summary.json").read_text()))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert simulate(config, run) == 0
    return run


@pytest.mark.fault
def test_a_comparison_that_was_interrupted_in_a_later_row_ends_the_same(
    config, whole, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    works = client.app.train_site

    def interrupted(site, settings, state, round_, charge):
        if site.name == POOLED and round_ == 1:
            raise KeyboardInterrupt
        return works(site, settings, state, round_, charge)

    with monkeypatch.context() as patch:
        patch.setattr(client.app, "train_site", interrupted)
        assert simulate(config, run) == 130
    assert "--resume" in capsys.readouterr().err
    assert (run / "final").exists()  # the rows before are complete
    assert latest_round(run / "rows" / "centralized") == 1  # in the middle of this one
    assert not (run / "summary.json").exists()
    before = (run / "metrics.jsonl").read_text()

    assert simulate(config, run, "--resume") == 0
    assert summary(run) == summary(whole)
    assert (run / "metrics.jsonl").read_text() == before  # a finished row is not run again
    for place in PLACES:
        file = Path(place) / "final" / "adapter_model.safetensors"
        one, two = load_file(run / file), load_file(whole / file)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_with_several_processes_too_the_result_is_equal_bit_for_bit(config, tmp_path):
    command = [sys.executable, "-m", "sim", "--config", str(config), "sim.processes=2", "rounds=60"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    subprocess.run([*command, "--out", str(whole)], check=True)
    with subprocess.Popen([*command, "--out", str(run)]) as program:
        while not (run / "rounds" / "0003").exists() and program.poll() is None:
            time.sleep(0.05)
        program.kill()
    assert 3 <= (latest_round(run) or 0) < 60  # in the middle
    subprocess.run([*command, "--out", str(run), "--resume"], check=True)
    assert summary(run) == summary(whole)
    for place in PLACES:
        file = Path(place) / "final" / "adapter_model.safetensors"
        one, two = load_file(run / file), load_file(whole / file)
        assert all(torch.equal(one[name], two[name]) for name in two)


def test_other_settings_are_not_resumed(config, whole, capsys):
    before = (whole / "summary.json").read_text()
    assert simulate(config, whole, "--resume", "train.steps=2") == 1
    assert "other settings" in capsys.readouterr().err
    assert (whole / "summary.json").read_text() == before
