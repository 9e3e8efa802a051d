"""A whole federation of painted volumes: adapters across depth, names, sites that know a part."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import client.app
from medsa_model.build import build
from medsa_model.checkpoint import latest_round
from medsa_model.logs import read_metrics
from sim.cli import main
from sim.sites import open_sites

ORGANS = ["liver", "spleen", "aorta"]
VOLUMES = {
    "name": "volumes",
    "rounds": 2,
    "model": {"image_size": 32},
    "adapter": {"kind": "msa", "depth": True, "condition": "hyper"},
    "data": {"kind": "phantom", "sites": 2, "cases_per_site": 5, "size": 32, "slices": 8,
             "classes": ORGANS, "annotated_per_site": 2},
    "prompt": {
        "train": [{"kind": "click"}, {"kind": "class"}],
        "evaluate": [{"kind": "click"}, {"kind": "class"}],
        "by_site": {"site_b": [{"kind": "class"}]},
        "corrections": 1,
    },
    "volume": {"slices": 4, "overlap": 1},
    "evaluate": {"every": 0},
    "train": {"steps": 1, "batch_size": 2, "prompts_per_image": 1},
    "sim": {"split": {"test": 0.4, "val": 0.2}, "examples": 1, "device": "cpu", "processes": 1,
            "rows": ["local"], "references": []},
}  # fmt: skip
STATE = Path("final") / "adapter_model.safetensors"


def simulate(config: Path, out: Path, *more: str) -> int:
    """The command, as a new process would run it."""
    build.cache_clear()
    open_sites.cache_clear()
    return main(["--config", str(config), "--out", str(out), *more])


def without_seconds(content: object) -> object:
    """JSON without what a clock decides."""
    if isinstance(content, dict):
        return {k: without_seconds(v) for k, v in content.items() if k != "seconds"}
    return content


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "volumes.yaml"
    path.write_text(yaml.safe_dump(VOLUMES))
    return path


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert simulate(config, run) == 0
    return run


def test_rows_have_surface_distances_and_scores_by_structure(run):
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["rows"]) == ["zero_shot", "local", "federated"]
    for row in summary["rows"].values():
        assert set(row) == {
            "dice", "iou", "hd95", "nsd", "cases", "seconds", "per_class", "structures",
        }  # fmt: skip
        assert row["cases"] == 4 and set(row["per_class"]) <= set(ORGANS)
        assert 0 < row["dice"]["mean"] < 1 and 0 <= row["nsd"]["mean"] <= 1
        hd95 = row["hd95"]
        assert 0 < hd95["mean"] < math.inf
        assert hd95["worst_site"] == max(hd95["per_site"].values())
        for name, scores in row["structures"].items():
            assert row["per_class"][name] == scores["dice"]
            assert set(scores) == {"dice", "iou", "hd95", "nsd", "cases"}
    assert summary["data"] == {
        "kind": "phantom", "generated": True, "structures": ORGANS, "volumes": True,
    }  # fmt: skip
    report = json.loads((run / "report.json").read_text())
    assert list(report["prompts"]) == ["click", "class"]
    assert "otsu" not in report["references"] and "ellipse_in_box" in report["references"]
    page = (run / "report.html").read_text()
    assert "phantom (painted, no patients)" in page and "Structures, prompt: class" in page


def test_only_annotated_structures_are_scored(run):
    sites = open_sites(run)
    cases: dict[str, int] = dict.fromkeys(ORGANS, 0)
    for name in ("site_a", "site_b"):
        for case in sites[name].parts["test"]:
            shown = case.load().mask.flatten(1).any(1).tolist()
            for organ, there in zip(ORGANS, shown, strict=True):
                cases[organ] += there
    summary = json.loads((run / "summary.json").read_text())
    found = summary["rows"]["federated"]["structures"]
    assert {name: scores["cases"] for name, scores in found.items()} == cases
    assert sorted(cases.values()) == [2, 2, 4]  # two structures at one site alone


def test_the_report_shows_a_slice_of_every_site(run):
    entries = json.loads((run / "examples" / "examples.json").read_text())
    assert [entry["site"] for entry in entries] == ["site_a", "site_b"]
    page = (run / "report.html").read_text()
    for entry in entries:
        case = open_sites(run)[entry["site"]].parts["test"][0]
        assert entry["case"] == case.case
        areas = case.load().mask.sum((2, 3))
        first = int(areas.any(1).nonzero()[0])
        place = int(areas[first].argmax()) + 1
        assert entry["prompt"] == (
            f"click, {ORGANS[first]} on slice {place} of 8, Dice of all its slices"
        )
        assert list(entry["dice"]) == ["zero-shot", "local", "federated"]
        with Image.open(run / "examples" / entry["file"]) as strip:
            assert strip.size == (5 * 196, 196)  # prompt, truth, three rows
        assert entry["prompt"] in page


def test_every_site_trained_and_the_names_moved(run):
    events = [event for event in read_metrics(run) if event["event"] == "train"]
    assert sorted((event["round"], event["site"]) for event in events) == [
        (1, "site_a"), (1, "site_b"), (2, "site_a"), (2, "site_b"),
    ]  # fmt: skip
    trained, untrained = load_file(run / STATE), load_file(run / "rows" / "zero_shot" / STATE)
    names = [name for name in trained if "class_embedding" in name]
    assert len(names) == 1 and len(trained[names[0]]) == len(ORGANS)
    assert any("depth_adapter" in name for name in trained)
    moved = [name for name in trained if not torch.equal(trained[name], untrained[name])]
    assert names[0] in moved and any("depth_adapter" in name for name in moved)


def test_a_federation_of_volumes_that_was_interrupted_ends_the_same(
    config, run, tmp_path, monkeypatch
):
    resumed, works = tmp_path / "run", client.app.train_site

    def interrupted(site, settings, state, round_, charge):
        if site.name == "site_b" and round_ == 1:
            raise KeyboardInterrupt
        return works(site, settings, state, round_, charge)

    shorter = "sim.rows=[]"  # the other rows are the same work again
    with monkeypatch.context() as patch:
        patch.setattr(client.app, "train_site", interrupted)
        assert simulate(config, resumed, shorter) == 130
    assert latest_round(resumed) == 1  # in the middle
    assert simulate(config, resumed, shorter, "--resume") == 0
    one, two = (json.loads((each / "summary.json").read_text()) for each in (resumed, run))
    for name in ("zero_shot", "federated"):
        assert without_seconds(one["rows"][name]) == without_seconds(two["rows"][name])
    states = load_file(resumed / STATE), load_file(run / STATE)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_site_that_is_not_there_cannot_prompt_in_its_own_way(config, tmp_path, capsys):
    prompts = "prompt.by_site={site_x: [{kind: box}], site_a: [{kind: click}]}"
    assert simulate(config, tmp_path / "run", prompts) == 1
    error = capsys.readouterr().err
    assert error == "medsa-sim: prompt.by_site has site_x, expected some of site_a, site_b\n"
