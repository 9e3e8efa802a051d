"""The page of a run at real sites: it says what the sites told, and names what they did not."""

import json
from pathlib import Path

import pytest

from medsa_model.logs import append_metrics
from medsa_model.privacy.summary import FACTS
from medsa_model.report import write_report
from medsa_model.report_curves import curves
from medsa_model.report_federation import federation_in_words, scores_by_site_table
from medsa_model.report_values import MISSING
from tests.medsa_model.made_up_run import REASON, SITES, real_summary, write_real_run
from tests.medsa_model.test_report import PICTURE, Page, write_json


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, into which somebody has put what belongs to a simulation."""
    run = write_real_run(tmp_path_factory.mktemp("real"))
    example = {"file": "one.png", "site": "lyon", "case": "patient-17", "prompt": "click"}
    write_json(run / "examples" / "examples.json", [example])
    (run / "examples" / "one.png").write_bytes(PICTURE)
    parts = {"train": ["patient-18"], "val": [], "test": ["patient-17"]}
    write_json(run / "split.json", {"kind": "site", "sites": {"lyon": parts}})
    write_report(run)
    return run


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text("utf-8"))


def test_the_worst_site_comes_first(page: Page) -> None:
    assert (
        "Worst site: lyon, Dice 0.713; mean 0.808; best site: rome, 0.900 "
        "(9 test cases of 3 sites, prompt click)."
    ) in page.text
    assert "No test scores came from oslo." in page.text
    assert "0.200 after round 1, 0.800 after round 4; the highest is 0.800" in page.text
    assert "what federation adds is not known" in page.text
    assert "Finished" in page.text and "Data isic: images, 1 structure" in page.text


def test_the_page_tells_who_took_part(page: Page) -> None:
    assert "Not every site delivered in all of 4 rounds: oslo in 0" in page.text
    assert "lyon: no answer in time; oslo: rejected; rome: refused" in page.cells
    assert "oslo was put in quarantine after round 3" in page.text
    assert f"1{MISSING}3" in page.cells and "over limit" in page.cells
    assert REASON in page.cells and page.count("sup") == 0
    assert page.count("img") == 3  # sites, curves, time line


def test_cases_and_images_that_somebody_put_there_are_not_shown(run: Path) -> None:
    text = (run / "report.html").read_text("utf-8")
    assert "patient-" not in text and "Examples" not in text and "data:image/png" not in text


def test_a_run_without_any_test_score_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw_progress", "draw_sites", "draw_timeline"):
        monkeypatch.setattr(f"medsa_model.report.{name}", lambda *_: PICTURE)
    run = write_real_run(tmp_path)
    kept = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "test" not in line]
    (run / "metrics.jsonl").write_text("\n".join(kept))
    write_json(run / "summary.json", real_summary() | {"rows": {}, "foreground_mean": None})
    page = Page(write_report(run).read_text("utf-8"))
    assert "No site sent test scores." in page.text and "Finished" in page.text
    assert "Cases of the sites" in page.text  # from the audit log


def test_scores_of_the_other_prompts_come_from_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw_progress", "draw_sites", "draw_timeline"):
        monkeypatch.setattr(f"medsa_model.report.{name}", lambda *_: PICTURE)
    run = write_real_run(tmp_path)
    event = {"event": "evaluate", "round": 4, "site": "rome", "part": "test", "prompt": "box",
             "dice": 0.4567, "iou": 0.3, "cases": 3}  # fmt: skip
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    page = Page(write_report(run).read_text("utf-8"))
    assert "prompt box" in page.text and "0.457" in page.cells


def test_the_table_has_the_worst_site_first_and_missing_ones_last() -> None:
    row = {"dice": {"per_site": {"a": 0.9, "b": 0.5}}, "iou": {"per_site": {"a": 0.8}}}
    validation = {"a": {2: 0.7, 4: 0.75}, "c": {2: 0.6}}
    table = scores_by_site_table("box", row, ["c", "a", "b"], validation)
    assert table.header == ["Site", "Test Dice", "Test IoU", "Validation Dice, round 4"]
    assert [[cell.text for cell in cells] for cells in table.rows] == [
        ["b", "0.500", MISSING, MISSING], ["a", "0.900", "0.800", "0.750"], ["c", *3 * [MISSING]],
    ]  # fmt: skip


def test_words_hold_without_scores_and_without_rounds() -> None:
    said = federation_in_words({}, SITES, {}, "", "")
    assert said[0] == "No site sent test scores." and "one run; repeat" in said[-1]
    broken = {"click": {"federated": {"dice": {"per_site": {"a": None}}}}}
    said = federation_in_words(broken, [], {1: 0.5}, "", "3")
    assert said[0] == f"Mean test Dice {MISSING} (prompt click)."


def test_privacy_that_an_unfinished_run_has_spent_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw_progress", "draw_sites", "draw_timeline"):
        monkeypatch.setattr(f"medsa_model.report.{name}", lambda *_: PICTURE)
    run = write_real_run(tmp_path)
    (run / "summary.json").unlink()
    cost = dict.fromkeys(FACTS, 1.0) | {"epsilon": 2.71828, "accountant": "rdp", "unit": "patient"}
    append_metrics(run, "privacy", round=1, site="lyon", steps=3, **cost)
    append_metrics(run, "privacy", round=1, site="rome")  # damaged
    page = Page(write_report(run).read_text("utf-8"))
    assert "not finished" in page.text and "2.718" in page.cells
    assert "No differential privacy was used" not in page.text


def test_sites_of_the_curves_are_in_order_whoever_answered_first() -> None:
    events = [{"round": 1, "site": site, "loss": 0.5} for site in ("b", "c", "a")]
    assert [*curves(events, "loss")] == ["a", "b", "c"]
