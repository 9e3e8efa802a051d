"""The resident worker: which bundles it refuses, and messages that never come."""

import io
import zipfile
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import client.worker
from client.flower_private import APP, Task
from client.worker import FAREWELL, check_bundle, serve, take
from medsa_model.refusals import Reason, Refused
from server.flower_private import bundle
from sim.grid import InProcessGrid

OURS = bundle({"run": "small"})


def task(content: bytes = OURS, app: str = APP, intact: bool = True) -> Task:
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    unused: Any = SimpleNamespace()
    return Task(unused, unused, unused, context, app, content, intact)


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


def message(kind: str = "query") -> Message:
    """A message as it arrives at a site."""
    InProcessGrid(ClientApp(), ["a"])  # who the sender is
    sent = Message(RecordDict({"c": ConfigRecord({})}), dst_node_id=2, message_type=kind)
    sent.metadata.__dict__["_message_id"] = f"id of {kind}"
    return sent


@pytest.fixture
def supernode(monkeypatch):
    """What the SuperNode hands out: tokens, and the messages of those that arrive."""
    state = SimpleNamespace(tokens=[], messages={}, dropped=[], pushed=[], answered_for=[])

    def acquire(address: str, secret: bytes) -> str | None:
        token = state.tokens.pop(0) if state.tokens else None
        if token == "away":
            raise httpx.ConnectError("away")
        return token

    def open_task(address: str, token: str) -> SimpleNamespace:
        return SimpleNamespace(
            token=token, app=APP, content=OURS, intact=True, context=task().context
        )

    replaced = {
        "acquire": acquire,
        "open_task": open_task,
        "pull": lambda task, seconds: state.messages.get(task.token),
        "drop": lambda task: state.dropped.append(task.token),
        "push": lambda task, reply: state.pushed.append((task.token, reply)),
        "answer_for": lambda address, memory: state.answered_for.append(memory),
    }
    for name, function in replaced.items():
        monkeypatch.setattr(client.worker, name, function)
    for name in ("PAUSE", "AWAY", "DELIVERY"):
        monkeypatch.setattr(client.worker, name, 0.0)
    return state


def test_a_message_that_never_comes_gives_way_to_the_next(supernode):
    """As after the end of a run: its last message was handed out and is gone."""
    supernode.tokens = ["old", "new"]
    supernode.messages = {"new": message()}
    taken = take("", b"")
    assert taken is not None and taken[2] == "new" and taken[1] is supernode.messages["new"]
    assert supernode.dropped == ["old"]


def test_without_a_message_there_is_nothing_to_take(supernode):
    assert take("", b"") is None


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
    serve(app, "", b"", tmp_path / "token")
    assert [token for token, _ in supernode.pushed] == ["one", "two"]
    assert not any(reply.has_error() for _, reply in supernode.pushed)
    assert supernode.tokens == ["never"] and not (tmp_path / "token").exists()


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
        serve(app, "", b"", tmp_path / "token")
    assert supernode.pushed == []
    app = ClientApp()

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    serve(app, "", b"", tmp_path / "token")
    (memory,) = supernode.answered_for
    assert memory.startswith("one ")
