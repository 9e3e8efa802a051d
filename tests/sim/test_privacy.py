"""A simulation with differential privacy: budgets hold over rounds, interruptions and rows."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from medsa_model.logs import read_metrics
from medsa_model.privacy.ledger import read_ledger
from sim.cli import main

SMALL = {
    "name": "private",
    "rounds": 3,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic", "sites": 2, "cases_per_site": 6, "size": 64},
    "train": {"steps": 1, "batch_size": 4, "prompts_per_image": 1},
    "privacy": {"epsilon": 5.0, "delta": 0.01, "sampling_rate": 0.5},
    "evaluate": {"every": 0},
    "sim": {"split": {"test": 0.34, "val": 0.17}, "examples": 0, "device": "cpu", "processes": 1,
            "rows": ["local"], "references": []},
}  # fmt: skip


def simulate(folder: Path, out: Path, *more: str) -> None:
    path = folder / "private.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert main(["--config", str(path), "--out", str(out), *more]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("private")
    simulate(folder, folder / "run")
    return folder / "run"


def test_the_summary_says_what_every_site_has_spent(run):
    privacy = json.loads((run / "summary.json").read_text())["privacy"]
    assert privacy["unit"] == "image" and set(privacy["per_site"]) == {"site_a", "site_b"}
    for site, cost in privacy["per_site"].items():
        assert 4.8 < cost["epsilon_rdp"] <= 5.0, site
        assert 0 < cost["epsilon"] <= cost["epsilon_rdp"]
        assert (cost["accountant"], cost["delta"], cost["steps"]) == ("prv", 0.01, 3)
        assert cost["sampling_rate"] == 0.5
    assert {"training loss", "number of cases", "scores"} <= set(privacy["told"])


def test_every_row_has_ledgers_of_its_own(run):
    for place, sites in ((run, ["site_a", "site_b"]), (run / "rows/local/site_a", ["site_a"])):
        for site in sites:
            rounds = [e.charge.round for e in read_ledger(place / f"ledgers/{site}.jsonl")]
            assert rounds == [0, 1, 2], (place, site)
    assert set(json.loads((run / "receipts.json").read_text())) == {"site_a", "site_b"}


def test_a_site_whose_ledger_is_gone_is_left_out(run, tmp_path):
    """Begun anew it would forget what its patients have lost."""
    again = tmp_path / "run"
    shutil.copytree(run, again, symlinks=True)
    for place in ("final", "best"):
        (again / place).unlink()
    shutil.rmtree(again / "rounds/0003")
    for place in (again / "ledgers").glob("site_a*"):
        place.unlink()
    simulate(tmp_path, again, "--resume")
    assert not (again / "ledgers/site_a.jsonl").exists()
    (last,) = [e for e in read_metrics(again) if e["event"] == "rejected"]
    assert last["site"] == "site_b" and "would be over 5" in str(last["reason"])


def test_a_round_that_is_trained_again_is_paid_again(run, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again, symlinks=True)
    for place in ("final", "best"):
        (again / place).unlink()
    shutil.rmtree(again / "rounds/0003")
    simulate(tmp_path, again, "--resume")
    rejected = [e for e in read_metrics(again) if e["event"] == "rejected"]
    assert {e["site"] for e in rejected} == {"site_a", "site_b"}
    assert all("their epsilon would be over 5" in str(e["reason"]) for e in rejected)
    assert len(read_ledger(again / "ledgers/site_a.jsonl")) == 3
    privacy = json.loads((again / "summary.json").read_text())["privacy"]
    assert privacy["per_site"]["site_a"]["epsilon_rdp"] <= 5.0


def test_two_runs_of_one_seed_have_other_noise(run, tmp_path):
    simulate(tmp_path, tmp_path / "run", "sim.rows=[]", "rounds=1")
    simulate(tmp_path, tmp_path / "other", "sim.rows=[]", "rounds=1")
    one, two = (
        load_file(tmp_path / name / "final/adapter_model.safetensors") for name in ("run", "other")
    )
    assert all(not bool((one[name] == two[name]).all()) for name in one)


def test_noise_at_the_coordinator_is_accounted_and_told(tmp_path):
    strategy = "strategy={kind: private_fedavg, noise_multiplier: 5.0, delta: 0.01}"
    simulate(tmp_path, tmp_path / "run", "privacy=null", strategy, "sim.rows=[]", "rounds=2")
    privacy = json.loads((tmp_path / "run/summary.json").read_text())["privacy"]
    assert privacy["site_level"]["unit"] == "site" and privacy["per_site"] == {}
    assert 0 < privacy["site_level"]["epsilon"] < 2
