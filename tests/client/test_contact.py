"""What a site says while the coordinator goes away and comes back: once for each change."""

import logging
import re
import time
from collections.abc import Iterable

import pytest

from client import contact as module
from client import join
from client.config import SiteConfig
from client.connection import FinalProblem
from client.contact import Contact, ask
from medsa_model.errors import ConfigError, ConnectionProblem

REFUSED = ConnectionProblem("host:9092 cannot be reached (Connection refused)")
RESTARTING = ConnectionProblem("the coordinator at host:9092 is not ready (HTTP 503)")
TURNED_AWAY = FinalProblem("the coordinator turns this site away: revoked")
CONFIG = SiteConfig.model_validate(
    {"site": "a", "coordinator": {"address": "host:9092"}, "data": {"kind": "synthetic"}}
)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.Logger("site", logging.INFO)  # without the handlers of other tests
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(module, "logger", logger)
    monkeypatch.setattr(join, "logger", logger)


def answers(monkeypatch: pytest.MonkeyPatch, each: Iterable[Exception | None]) -> None:
    """Let questions to the coordinator come to these, one after the other."""
    left = iter(each)

    def check(_: SiteConfig) -> float:
        if problem := next(left):
            raise problem
        return 0.0

    monkeypatch.setattr(module, "check_connection", check)
    monkeypatch.setattr(join, "check_connection", check)


def heard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *each: Exception | None
) -> list[str]:
    """What is logged while the coordinator answers so."""
    answers(monkeypatch, each)
    contact = Contact()
    for _ in each:
        ask(CONFIG, contact)
    return caplog.messages


def test_loss_and_return_are_told_once_each(said, monkeypatch, caplog):
    monkeypatch.setattr(module.time, "time", lambda: 1000.5)
    since = time.strftime("%H:%M:%S", time.localtime(1000.5))
    away = f"the coordinator does not answer since {since}; trying again: {REFUSED}"
    answered = [None, REFUSED, REFUSED, REFUSED, RESTARTING, None, None, REFUSED, REFUSED]
    assert heard(monkeypatch, caplog, *answered) == [away, "the coordinator is back", away]


def test_one_question_that_is_lost_is_nothing(said, monkeypatch, caplog):
    assert heard(monkeypatch, caplog, None, REFUSED, None, REFUSED, None) == []


def test_that_a_site_is_turned_away_is_told_as_such_and_at_once(said, monkeypatch, caplog):
    told = heard(monkeypatch, caplog, None, TURNED_AWAY, TURNED_AWAY, None)
    assert told == [str(TURNED_AWAY), "the coordinator is back"]


def test_a_problem_of_the_site_is_not_laid_at_the_coordinator(said, monkeypatch, caplog):
    """Such as a key that cannot be read any more; and nothing ends the questions."""
    own = ConfigError("key site.key cannot be read")
    told = heard(monkeypatch, caplog, None, own, own, own, RecursionError("deep"), None)
    assert told == [str(own), "the coordinator is back"]


def test_before_the_first_contact_every_try_is_told_and_later_none(said, monkeypatch, caplog):
    monkeypatch.setattr(join.time, "sleep", lambda _: None)
    contact = Contact()
    answers(monkeypatch, [REFUSED, REFUSED, None])
    join.wait_for_coordinator(CONFIG, contact)
    assert [message.partition("; next try in ")[2] for message in caplog.messages] == [
        "1 s", "2 s", "",
    ]  # fmt: skip
    assert caplog.messages[-1] == "the coordinator answers"
    caplog.clear()
    answers(monkeypatch, [REFUSED, REFUSED, REFUSED, None])
    join.wait_for_coordinator(CONFIG, contact)
    away, back = caplog.messages
    assert re.fullmatch(r"the coordinator does not answer since [\d:]{8}; trying again: .*", away)
    assert back == "the coordinator is back"
