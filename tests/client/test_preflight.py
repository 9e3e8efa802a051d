"""What `client/run.py --check` says about the limits."""

import pytest
from pydantic import ValidationError

from client.config import Limits, SiteConfig
from client.preflight import data, limits, preflight


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
    for name in ("versions", "device", "checkpoint", "data", "disk", "key", "coordinator",
                 "process"):  # fmt: skip
        monkeypatch.setattr(f"client.preflight.{name}", lambda _: "")
    (finding,) = [each for each in preflight(config()) if each.what == "limits"]
    assert finding.good and finding.text.startswith("every run")


def test_scores_that_will_never_be_sent_are_told(tmp_path):
    """The site may wish so; that its study lead waits for them is another matter."""
    few = SiteConfig.model_validate(
        {
            "site": "site_a", "coordinator": {"address": "a:1"}, "state": tmp_path,
            "data": {"kind": "synthetic", "sites": 1, "cases_per_site": 8, "size": 64},
            "limits": {"least_evaluated_cases": 2},
        }
    )  # fmt: skip
    assert "scores of val are never sent" in data(few)
    assert "never sent" not in data(few.model_copy(update={"limits": Limits()}))
