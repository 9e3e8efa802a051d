"""The resident worker: which bundles it refuses, and messages that never come."""

import io
import json
import logging
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

import client.worker
from client.flower_private import APP, Task
from client.reached import SuperNode, check_owner, reach
from client.worker import FAREWELL, answer, check_bundle, deliver, serve, take, told
from medsa_model.errors import ConnectionProblem
from medsa_model.refusals import Reason, Refused
from server.flower_private import bundle
from sim.grid import InProcessGrid

OURS = bundle({"run": "small"})


NODE = SuperNode(Path("supernode.json"), b"")


def message(kind: str = "query") -> Message:
    """A message as it arrives at a site."""
    InProcessGrid(ClientApp(), ["a"])  # who the sender is
    sent = Message(RecordDict({"c": ConfigRecord({})}), dst_node_id=2, message_type="query")
    sent.metadata.__dict__["_message_id"] = f"id of {kind}"
    sent.metadata.__dict__["_message_type"] = kind  # whatever a coordinator sends
    return sent


def task(content: bytes = OURS, app: str = APP, intact: bool = True) -> Task:
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    unused: Any = SimpleNamespace()
    return Task(unused, unused, message(), unused, context, app, content, intact)


def with_file(name: str) -> bytes:
    """Our bundle with one more file."""
    packed = io.BytesIO(OURS)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, "import os")
    return packed.getvalue()


REFUSED = {
    "altered": (task(intact=False), "another hash"),
    "another app": (task(app="flwrlabs/quickstart"), "'flwrlabs/quickstart'"),
    "code": (task(with_file("client/app.py")), "'client/app.py'"),
    "no code but more than settings": (task(with_file("notes.md")), "'notes.md'"),
    "no bundle": (task(b"#!/bin/sh"), "not a zip"),
}


@pytest.mark.parametrize(("bad", "word"), REFUSED.values(), ids=REFUSED)
def test_bundles_that_are_refused(bad, word):
    with pytest.raises(Refused, match=word) as caught:
        check_bundle(bad)
    assert caught.value.reason is Reason.BUNDLE


def test_our_bundle_is_taken():
    check_bundle(task())


@pytest.fixture
def supernode(monkeypatch):
    """What the SuperNode hands out: tokens, and the messages of those that arrive."""
    state = SimpleNamespace(
        tokens=[], messages={}, dropped=[], pushed=[], answered_for=[], given_up=[], left=[]
    )

    def acquire(queue: object) -> str | None:
        token = state.tokens.pop(0) if state.tokens else None
        if token == "away":
            raise httpx.ConnectError("away")
        return token

    def open_task(address: str, token: str) -> SimpleNamespace:
        return SimpleNamespace(
            token=token, app=APP, content=OURS, intact=True, context=task().context,
            announced=message(),
        )  # fmt: skip

    def pull(task: Any, seconds: float) -> Message | None:
        found = state.messages.get(task.token)
        if isinstance(found, Exception):
            raise found
        return found

    replaced = {
        "acquire": acquire,
        "open_task": open_task,
        "reach": lambda supernode: None,
        "check_owner": lambda address: None,
        "pull": pull,
        "give_up": lambda task: state.given_up.append(task.token),
        "leave": lambda task: state.left.append(task.token),
        "drop": lambda task: state.dropped.append(task.token),
        "push": lambda task, reply: state.pushed.append((task.token, reply)),
        "answer_for": lambda address, memory: state.answered_for.append(memory),
    }
    for name, function in replaced.items():
        monkeypatch.setattr(client.worker, name, function)
    for name in ("PAUSE", "AWAY", "DELIVERY"):
        monkeypatch.setattr(client.worker, name, 0.0)
    return state


@pytest.mark.fault
def test_a_message_that_never_comes_gives_way_to_the_next(supernode):
    """As after the end of a run: its last message was handed out and is gone."""
    supernode.tokens = ["old", "new"]
    supernode.messages = {"new": message()}
    taken = take(NODE)
    assert taken is not None and taken[2] == "new" and taken[1] is supernode.messages["new"]
    assert supernode.dropped == ["old"]


def test_without_a_message_there_is_nothing_to_take(supernode):
    assert take(NODE) is None


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), RuntimeError("closed")])
def test_a_message_that_cannot_be_fetched_is_given_up(supernode, error):
    """Never dropped: the SuperNode would wait for its answer for ever."""
    supernode.tokens, supernode.messages = ["one"], {"one": error}
    with pytest.raises(type(error)):
        take(NODE)
    assert (supernode.given_up, supernode.dropped, supernode.pushed) == (["one"], [], [])


@pytest.mark.parametrize("error", [KeyError("DOE^JOHN"), ValueError("DOE^JOHN")])
def test_a_message_that_cannot_be_read_is_answered(supernode, error):
    """Whatever the coordinator sent: no crash, and nothing but the kind of the error."""
    supernode.tokens, supernode.messages = ["one"], {"one": error}
    assert take(NODE) is None
    ((token, reply),) = supernode.pushed
    assert token == "one" and reply.error.code == Reason.FAILED
    assert reply.error.reason == f"{type(error).__name__} (details in the site's log)"
    assert supernode.given_up == supernode.dropped == []


def test_nothing_is_said_to_a_program_of_another_account(supernode, monkeypatch):
    def other(address: object) -> None:
        raise ConnectionProblem("another account")

    supernode.tokens, supernode.messages = ["one"], {"one": message()}
    taken = take(NODE)
    assert taken is not None
    monkeypatch.setattr(client.worker, "check_owner", other)
    with pytest.raises(ConnectionProblem):
        deliver(taken[0], taken[1], "127.0.0.1:1")
    assert supernode.pushed == [] and supernode.left == ["one"]


@pytest.mark.parametrize("kind", ["train.more", "train", "query.fare_well"])
def test_a_type_of_message_that_the_app_does_not_have_is_answered(kind):
    reply = answer(ClientApp(), task(), message(kind))
    assert reply.error.code == Reason.FAILED
    assert reply.error.reason == "ValueError (details in the site's log)"


def test_a_worker_lives_on_after_an_unknown_action_and_an_unexpected_error(supernode, tmp_path):
    app = ClientApp()

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    supernode.tokens = ["odd", "unread", "last"]
    supernode.messages = {
        "odd": message("train.more"), "unread": TypeError(), "last": message(FAREWELL)
    }  # fmt: skip
    serve(app, NODE, tmp_path / "token")
    codes = [reply.error.code if reply.has_error() else 0 for _, reply in supernode.pushed]
    assert codes == [Reason.FAILED, Reason.FAILED, 0]


@pytest.mark.parametrize("delivered", [True, False])
def test_the_log_says_what_became_of_an_answer(supernode, tmp_path, monkeypatch, caplog, delivered):
    logger = logging.Logger("worker", logging.INFO)  # without the handlers of other tests
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(client.worker, "logger", logger)
    app = ClientApp()

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    def push(task: Any, reply: Message) -> None:
        assert "answered" not in caplog.text  # not before
        if not delivered:
            raise httpx.ConnectError("away")

    monkeypatch.setattr(client.worker, "push", push)
    supernode.tokens, supernode.messages = ["one"], {"one": message(FAREWELL)}
    serve(app, NODE, tmp_path / "token")
    (line,) = [each for each in caplog.messages if "answered" in each]
    assert line.endswith("answered") == delivered
    assert ("answered, but not delivered (ConnectError)" in line) != delivered


class Queue:
    """A connection that tells whether it was closed."""

    def __init__(self, address: str, secret: bytes) -> None:
        self.address, self.open = address, True

    def close(self) -> None:
        self.open = False


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The file that says where the SuperNode listens."""
    monkeypatch.setattr("client.reached.open_queue", Queue)
    return tmp_path / "supernode.json"


def test_one_connection_is_kept_until_the_supernode_has_another_port(place):
    node = SuperNode(place, b"")
    with pytest.raises(FileNotFoundError):
        reach(node)
    place.write_text(json.dumps({"address": "127.0.0.1:1"}))
    first: Any = reach(node)
    assert reach(node) is first and first.open and first.address == "127.0.0.1:1"
    place.write_text(json.dumps({"address": "127.0.0.1:2"}))
    second: Any = reach(node)
    assert second is not first and not first.open
    assert second.open and second.address == node.address == "127.0.0.1:2"


def test_a_port_of_another_account_is_not_spoken_to(place, monkeypatch):
    taken = {4242}
    monkeypatch.setattr("client.reached.listens_for_others", lambda port: port in taken)
    place.write_text(json.dumps({"address": "127.0.0.1:4242"}))
    node = SuperNode(place, b"")
    with pytest.raises(ConnectionProblem, match=r"another account .* at 127\.0\.0\.1:4242"):
        reach(node)
    assert node.queue is None
    with pytest.raises(ConnectionProblem):
        check_owner("127.0.0.1:4242")
    taken.clear()
    assert reach(node)
    taken.add(4242)
    assert reach(node)  # not looked up 30 times a second
    node.checked -= 2
    with pytest.raises(ConnectionProblem):
        reach(node)


def test_a_worker_serves_until_the_farewell_over_breaks(supernode, tmp_path):
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600  # noted while it works
        return Message(RecordDict(), reply_to=message)

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    supernode.tokens = ["away", "one", "away", "two", "never"]
    supernode.messages = {"one": message(), "two": message(FAREWELL)}
    serve(app, NODE, tmp_path / "token")
    assert [token for token, _ in supernode.pushed] == ["one", "two"]
    assert not any(reply.has_error() for _, reply in supernode.pushed)
    assert supernode.tokens == ["never"] and not (tmp_path / "token").exists()


@pytest.mark.fault
def test_the_next_worker_answers_for_one_that_was_killed(supernode, tmp_path):
    class Killed(BaseException):
        """What no handler sees."""

    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        raise Killed

    supernode.tokens = ["one", "two"]
    supernode.messages = {"one": message(), "two": message(FAREWELL)}
    with pytest.raises(Killed):
        serve(app, NODE, tmp_path / "token")
    assert supernode.pushed == []
    app = ClientApp()

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    serve(app, NODE, tmp_path / "token")
    (memory,) = supernode.answered_for
    assert memory.startswith("one ")


@pytest.mark.parametrize(
    ("kind", "metrics", "expected"),
    [
        ("train", {"loss": 0.4249, "num-examples": 9}, "round 10 of 20: trained, loss 0.425, 12 s"),
        ("train", {"num-examples": 9}, "round 10 of 20: trained, 12 s"),  # with privacy
        ("evaluate", {"num-examples": 4}, "round 10 of 20: 4 val cases scored, 12 s"),
        ("evaluate", {"num-examples": 1}, "round 10 of 20: 1 val case scored, 12 s"),
        ("query", {}, "the coordinator was told name, version and numbers of cases"),
        ("train", None, "train, round 10, 12 s: refused or failed"),
    ],
)
def test_a_round_is_one_line_of_the_log(kind, metrics, expected):
    asked = message(kind)
    asked.metadata.__dict__["_group_id"] = "10"
    run = json.dumps({"name": "small", "rounds": 20, "data": {"kind": "synthetic"}})
    asked.content["config"] = ConfigRecord({"run": run, "part": "val"})
    if metrics is None:
        reply = Message(Error(Reason.FAILED, "no"), reply_to=asked)
    else:
        reply = Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=asked)
    assert told(asked, reply, 12.04) == expected


def test_a_number_that_was_rounded_for_privacy_is_not_told_as_exact():
    asked = message("evaluate")
    asked.metadata.__dict__["_group_id"] = "1"
    private = {"epsilon": 8.0, "delta": 1e-3, "sampling_rate": 0.5}
    run = {"name": "small", "rounds": 2, "data": {"kind": "synthetic"}, "privacy": private}
    asked.content["config"] = ConfigRecord({"run": json.dumps(run), "part": "val"})
    reply = Message(RecordDict({"metrics": MetricRecord({"num-examples": 10})}), reply_to=asked)
    assert told(asked, reply, 3.0) == "round 1 of 2: about 10 val cases scored, 3.0 s"
