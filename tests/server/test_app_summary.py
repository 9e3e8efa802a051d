"""What is left of a run at real sites for programs and people: summary.json and report.html."""

import json
import logging
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from medsa_model.errors import FederationError
from medsa_model.report import write_report
from medsa_model.run_rows import row
from server.app import make_app, write_page
from server.rules import Rules
from tests.server.test_app_rules import World, configuration, run


def real(place: Path, world: World, **rules: object) -> Path:
    """A run with an audit log, as real ones have it; one site of the federation never came."""
    audit, sites = str(place / "audit.jsonl"), ("a", "b", "c", "never")
    return run(world, place, configuration(rounds=1), audit=audit, sites=sites, **rules)


def test_the_summary_holds_what_the_sites_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw_progress", "draw_sites", "draw_timeline"):  # they take a second
        monkeypatch.setattr(f"medsa_model.report.{name}", lambda *_: b"")
    place = real(tmp_path / "run", World())
    summary = json.loads((place / "summary.json").read_text())
    assert set(summary) == {
        "name", "seed", "rounds", "sites", "data", "model", "rows", "foreground_mean",
        "communication", "privacy",
    }  # fmt: skip
    assert summary["sites"] == ["a", "b", "c", "never"]
    assert list(summary["rows"]) == ["federated"]
    told = {"dice": 0.5, "iou": 0.4, "cases": 2}
    expected = row(dict.fromkeys("abc", told), 0.0)  # type: ignore[arg-type]
    found = summary["rows"]["federated"]
    assert found.pop("seconds") > 0 and expected.pop("seconds") == 0
    assert found == expected
    assert summary["foreground_mean"] == {"Dice": pytest.approx(0.5), "IoU": pytest.approx(0.4)}
    assert summary["rounds"] == 1 and summary["privacy"] is None
    assert summary["communication"]["total_up_bytes"] > 0
    model = summary["model"]
    assert 0 < model["trainable_parameters"] < model["total_parameters"]
    said = write_report(place).read_text("utf-8")
    assert "No test scores came from never." in said and "never: not connected" in said


def test_a_simulated_federation_leaves_the_summary_to_its_comparison(tmp_path: Path) -> None:
    place = run(World(), tmp_path / "run", configuration(rounds=1))
    write_page(place, Rules())
    assert not (place / "summary.json").exists() and not (place / "report.html").exists()


def test_a_page_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("medsa_model.report.write_report", lambda _: 1 / 0)
    monkeypatch.setattr(logging.getLogger("medsa"), "propagate", True)
    write_page(tmp_path, Rules(audit="audit.jsonl"))
    assert "the report cannot be written (division by zero)" in caplog.text
    assert f"flower-server report {tmp_path}" in caplog.text


def test_a_run_that_fails_has_a_page_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr("medsa_model.report.write_report", written.append)

    def fail(*_: object) -> None:
        raise FederationError("too few")

    monkeypatch.setattr("server.app.federate", fail)
    app = make_app(configuration(), tmp_path, Rules(audit="audit.jsonl"))
    grid = World().grid()
    context = Context(1, 0, {}, RecordDict(), {})
    with pytest.raises(FederationError, match="too few"):
        app(grid=grid, context=context)
    assert written == [tmp_path]
