"""What `flower-server status` shows of a run's log and of a process that is not there."""

import json
import os
import time

import pytest

from medsa_model.errors import ConfigError
from server.config import Federation
from server.flower_private import NodeRow
from server.status import ago, row, running_facts

EVENTS: list[dict[str, object]] = [
    {"event": "train", "site": "a", "round": 1, "loss": 0.5, "up_bytes": 10**6, "down_bytes": 2},
    {"event": "train", "site": "b", "round": 1, "loss": 0.9, "up_bytes": 7, "down_bytes": 7},
    {"event": "evaluate", "site": "a", "round": 1, "dice": 0.25},
    {"event": "evaluate", "site": "a", "round": 2, "dice": 0.75},
    {"event": "train", "site": "a", "round": 2, "loss": 0.125, "up_bytes": 10**6, "down_bytes": 0},
]


def test_a_row_has_the_last_round_and_all_bytes():
    node = NodeRow(1, "a", b"", "online", "", "", time.time() + 50)
    assert row("a", node, EVENTS) == [
        "a",
        "yes",
        "10 s ago",
        "2",
        "0.125",
        "0.750",
        "2.0 MB",
        "0.0 MB",
    ]


def test_a_site_that_never_came():
    assert row("c", None, EVENTS) == ["c", "no", "never", "-", "-", "-", "0.0 MB", "0.0 MB"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s ago"), (150, "2 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")],
)
def test_times_are_told_to_the_unit_that_matters(seconds, text):
    assert ago(seconds) == text


@pytest.fixture
def federation(tmp_path) -> Federation:
    return Federation.model_validate(
        {"name": "f", "folder": tmp_path, "run": "run.yaml", "address": {"host": "h"},
         "sites": [{"name": "a"}, {"name": "b"}], "quorum": 2}
    )  # fmt: skip


def test_a_process_that_ended_without_a_word_is_not_running(federation, tmp_path):
    assert running_facts(federation) is None
    place = tmp_path / "running.json"
    place.write_text(json.dumps({"pid": os.getpid(), "run": ""}))
    assert running_facts(federation) == {"pid": str(os.getpid()), "run": ""}
    place.write_text(json.dumps({"pid": 2**22 + 1}))  # above the highest that Linux gives
    assert running_facts(federation) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"pid": "x"}'])
def test_a_damaged_note_is_said_to_be_one(federation, tmp_path, content):
    (tmp_path / "running.json").write_text(content)
    with pytest.raises(ConfigError, match=r"running.json cannot be read"):
        running_facts(federation)
