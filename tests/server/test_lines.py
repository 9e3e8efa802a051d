"""What the terminal of a coordinator shows of a run, and a simulation's does not."""

import logging
import re
from pathlib import Path

import pytest

from medsa_model.logs import append_metrics
from server.lines import result_line, round_line
from tests.server.test_app_rules import World, configuration, run


def test_a_round_is_one_line():
    assert round_line(10, 20, 3, ["site_d"], 4.5678, 0.62149, "click") == (
        "round 10 of 20: 3 of 4 sites, 4.6 s, validation Dice 0.621 (click); missing: site_d"
    )
    assert round_line(1, 2, 3, [], 61.04, None, "box") == "round 1 of 2: 3 of 3 sites, 61.0 s"
    assert round_line(1, 2, 0, ["a", "b"], 9, None, "box") == (
        "round 1 of 2: skipped, 9.0 s; missing: a, b"
    )


def test_the_result_is_the_mean_over_cases_and_its_worst_site(tmp_path: Path) -> None:
    for site, dice, cases in (("b", 0.6, 30), ("c", 0.5, 10), ("a", 0.9, 20)):
        for part, prompt, less in (("test", "box", 0), ("val", "box", 0.3), ("test", "click", 0.2)):
            append_metrics(tmp_path, "evaluate", round=2, site=site, part=part, prompt=prompt,
                           dice=dice - less, iou=0.1, cases=cases)  # fmt: skip
    mean = (0.6 * 30 + 0.5 * 10 + 0.9 * 20) / 60
    assert result_line(tmp_path, "box") == (
        f"test Dice {mean:.3f} (box) on 60 cases of 3 sites; worst site: c, 0.500"
    )
    assert result_line(tmp_path, "centre") == "no site sent scores of its test cases"


def test_a_run_at_hospitals_tells_every_round_and_its_result_and_a_simulation_neither(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.Logger("app", logging.INFO)  # without the handlers of other tests
    logger.addHandler(caplog.handler)
    monkeypatch.setattr("server.app.logger", logger)
    config = configuration(rounds=1, evaluate={"every": 1})
    run(World(), tmp_path / "simulated", config)
    assert caplog.messages == []
    audit, sites = str(tmp_path / "audit.jsonl"), ("a", "b", "c", "never")
    run(World(), tmp_path / "real", config, audit=audit, sites=sites)
    told = [re.sub(r"\d+\.\d s", "T s", message) for message in caplog.messages]
    assert told == [
        "round 1 of 1: 3 of 4 sites, T s, validation Dice 0.500 (click); missing: never",
        "test Dice 0.500 (click) on 6 cases of 3 sites; worst site: a, 0.500",
    ]
