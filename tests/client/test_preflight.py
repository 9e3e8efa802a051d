"""What `client/run.py --check` says about the limits."""

from client.config import SiteConfig
from client.preflight import limits, preflight


def config(**given: object) -> SiteConfig:
    content = {"site": "a", "coordinator": {"address": "a:1"}, "data": {"kind": "synthetic"},
               "limits": given}  # fmt: skip
    return SiteConfig.model_validate(content)


def test_without_a_list_every_run_is_accepted():
    assert limits(config()) == (
        "every run is accepted (limits.runs is empty); rounds any; steps any; images any; "
        "megabytes any; least_training_cases 1; least_evaluated_cases 1"
    )


def test_what_is_limited_is_listed():
    said = limits(config(runs=["ab12", "cd34"], rounds=20, images=5000, least_evaluated_cases=10))
    assert said.startswith("runs ab12, cd34; rounds 20; steps any; images 5000; ")
    assert said.endswith("least_evaluated_cases 10")


def test_an_empty_list_accepts_none():
    assert limits(config(runs=[])).startswith("no run is accepted (limits.runs is [])")


def test_the_limits_are_one_of_the_findings(monkeypatch):
    for name in ("versions", "device", "checkpoint", "data", "disk", "key", "coordinator",
                 "process"):  # fmt: skip
        monkeypatch.setattr(f"client.preflight.{name}", lambda _: "")
    (finding,) = [each for each in preflight(config()) if each.what == "limits"]
    assert finding.good and finding.text.startswith("every run")
