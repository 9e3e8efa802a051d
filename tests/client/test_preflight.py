"""What `client/run.py --check` says about the limits."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from client.commands import check
from client.config import Limits, SiteConfig
from client.opened import Checked
from client.preflight import audit, data, limits, preflight, process
from medsa_model.audit_log import record
from medsa_model.errors import AuditError, ConfigError


def config(**given: object) -> SiteConfig:
    content = {"site": "a", "coordinator": {"address": "a:1"}, "data": {"kind": "synthetic"},
               "limits": given}  # fmt: skip
    return SiteConfig.model_validate(content)


def test_without_a_list_every_run_is_accepted():
    assert limits(config()) == (
        "every run is accepted (limits.runs is empty); rounds any; steps any; images any; "
        "megabytes any; epsilon any; delta any; least_training_cases 1; least_evaluated_cases 1"
    )


def test_what_is_limited_is_listed():
    said = limits(
        config(runs=["ab" * 32, "cd" * 32], rounds=20, images=5000, least_evaluated_cases=10)
    )
    assert said.startswith(f"runs {'ab' * 32}, {'cd' * 32}; rounds 20; steps any; images 5000; ")
    assert said.endswith("least_evaluated_cases 10")


def test_a_part_of_a_sha256_is_no_run():
    """It would be told to nobody, and every run refused."""
    with pytest.raises(ValidationError, match="runs"):
        config(runs=["dc26179"])


def test_an_empty_list_accepts_none():
    assert limits(config(runs=[])).startswith("no run is accepted (limits.runs is [])")


def test_the_limits_are_one_of_the_findings(monkeypatch):
    for name in ("versions", "device", "checkpoint", "data", "disk", "audit", "key", "coordinator",
                 "process"):  # fmt: skip
        monkeypatch.setattr(f"client.preflight.{name}", lambda _: "")
    (finding,) = [each for each in preflight(config()) if each.what == "limits"]
    assert finding.good and finding.text.startswith("every run")


def test_scores_that_will_never_be_sent_are_told(tmp_path, monkeypatch):
    """The site may wish so; that its study lead waits for them is another matter."""
    few = SiteConfig.model_validate(
        {
            "site": "site_a", "coordinator": {"address": "a:1"}, "state": tmp_path,
            "data": {"kind": "synthetic", "sites": 1, "cases_per_site": 8, "size": 64},
            "limits": {"least_evaluated_cases": 2},
        }
    )  # fmt: skip
    facts, warning = data(few)
    assert warning.startswith("scores of val (1 case) are never sent: each part needs 2 cases (li")
    assert "never sent" not in facts
    assert data(few.model_copy(update={"limits": Limits()})) == (facts, "")
    for name in ("versions", "device", "checkpoint", "disk", "audit", "key", "coordinator",
                 "process"):  # fmt: skip
        monkeypatch.setattr(f"client.preflight.{name}", lambda _: "")
    printed = io.StringIO()
    assert check(few, Console(file=printed, width=400)) == 0
    cells = [line.split("│")[1:4] for line in printed.getvalue().splitlines() if "│" in line]
    marks = [cell[0].strip() for cell in cells if cell[1].strip() == "data"]
    assert marks == ["ok", "!"]


def test_one_table_tells_all_that_is_wrong_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that cannot be read, masks that do not fit, and too few cases."""
    for name in ("versions", "device", "checkpoint", "disk", "audit", "key", "coordinator",
                 "process"):  # fmt: skip
        monkeypatch.setattr(f"client.preflight.{name}", lambda _: "")
    for number in range(30):
        for part in ("images", "masks"):
            (tmp_path / part).mkdir(exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
            levels = (pixels > 99) * np.uint8(255) if part == "masks" else pixels
            Image.fromarray(levels).save(tmp_path / part / f"p{number:02d}.png")
    for number in range(10):
        (tmp_path / "images" / f"p{number:02d}.png").write_bytes(b"x")
        small = Image.new("L", (7, 7))
        small.save(tmp_path / "masks" / f"p{number + 10}.png")
    site = SiteConfig.model_validate(
        {
            "site": "a", "coordinator": {"address": "a:1"}, "state": tmp_path / "state",
            "data": {"kind": "folder", "root": tmp_path}, "limits": {"least_training_cases": 99},
        }
    )  # fmt: skip
    printed = io.StringIO()
    assert check(site, Console(file=printed, width=400)) == 1
    rows = printed.getvalue()
    assert rows.count("site a") == 1 and "training cases, limits.least_training_cases is 99" in rows
    assert "20 problems in the data:" in rows
    assert sum(f"case p{number:02d}: the image file is empty, or no" in rows
               for number in range(10)) == 10  # fmt: skip
    assert (
        sum(f"case p{number}: the image is 8 x 8 pixels" in rows for number in range(10, 20)) == 10
    )
    assert str(tmp_path) not in rows


def test_what_was_counted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Checked(empty=2, odd=3, copies=4, alike=5)
    monkeypatch.setattr("client.preflight.examine", lambda site: found)
    site = SiteConfig.model_validate(
        {
            "site": "site_a", "coordinator": {"address": "a:1"}, "state": tmp_path,
            "data": {"kind": "synthetic", "sites": 1, "cases_per_site": 8, "size": 64},
        }
    )  # fmt: skip
    assert (
        "; 2 without any; 3 implausible, as logged; 4 copies of another in their part; "
        "5 pairs in two parts nearly alike"
    ) in data(site)[0]
    monkeypatch.setattr("client.preflight.examine", lambda site: Checked(0, 0, 0, 0))
    assert data(site)[0].endswith("structures nodule, body, core")


def test_an_altered_audit_log_is_one_of_the_findings(tmp_path: Path) -> None:
    site = config().model_copy(update={"state": tmp_path})
    assert audit(site) == "none yet"
    record(tmp_path / "audit.jsonl", "asked", what="train")
    assert audit(site) == "whole, 1 entries"
    log = tmp_path / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"train", b"drain"))
    with pytest.raises(AuditError, match="line 2"):
        audit(site)


def test_it_is_told_how_many_patients_there_are_and_how_that_is_known(tmp_path: Path) -> None:
    """Images of one patient in two parts flatter every score, and nobody would see it."""
    for number in range(12):
        for part in ("images", "masks"):
            (tmp_path / part).mkdir(exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
            levels = (pixels > 99) * np.uint8(255) if part == "masks" else pixels
            Image.fromarray(levels).save(tmp_path / part / f"p{number:02d}.png")
    site = SiteConfig.model_validate(
        {
            "site": "a", "coordinator": {"address": "a:1"}, "state": tmp_path / "state",
            "data": {"kind": "folder", "root": tmp_path},
        }
    )  # fmt: skip
    assert "; 12 images; no sites.csv: every image counts as a patient; struct" in data(site)[0]
    rows = [f"p{number:02d};a;patient {number // 4}\n" for number in range(12)]
    (tmp_path / "sites.csv").write_text("image_id;site;patient\n" + "".join(rows))
    assert "; 12 images of 3 patients (sites.csv); structures object" in data(site)[0]


def test_what_connects_the_site_is_called_by_what_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = config().model_copy(update={"state": tmp_path})
    (tmp_path / "running.json").write_text(json.dumps({"pid": os.getpid(), "health": "a:1"}))
    monkeypatch.setattr("client.preflight.probe", lambda _: "serving")
    told = f"process {os.getpid()} takes part and keeps the connection to the coordinator"
    assert process(site) == told
    monkeypatch.setattr("client.preflight.probe", lambda _: "does not answer (unavailable)")
    with pytest.raises(ConfigError, match="connection to the coordinator does not answer"):
        process(site)
