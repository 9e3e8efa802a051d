"""The contract with Flower's private names: raise the pin of flwr only when this passes."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    PullMessagesRequest,
    RegisterNodeFleetResponse,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.date import now
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _insert_message

from client import flower_private as flower
from client.flower_fleet import LARGEST, confine
from client.supernode import PROGRAM
from medsa_model.loopback import free_port

ROOT = Path(__file__).parents[2]
SECRET = b"0" * 64
RUN, SITE = 7, 2
BUNDLE = b"a bundle"


class Recording(ThreadingHTTPServer):
    """A server that notes what it was asked for; `replies` are by path: status, headers, body."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.replies: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.default: tuple[int, dict[str, str], bytes] = (200, {}, b"")
        super().__init__(("127.0.0.1", 0), Asked)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Asked(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self) -> None:
        server: Any = self.server
        self.rfile.read(int(self.headers.get("content-length", 0)))
        server.asked.append(self.path)
        status, headers, body = server.replies.get(self.path, server.default)
        self.send_response(status)
        known = {} if "transfer-encoding" in headers else {"content-length": str(len(body))}
        for name, value in {**known, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def recording() -> Iterator[Recording]:
    with Recording() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def inside() -> Iterator[Recording]:
    """A machine of the hospital's network."""
    with recording() as server:
        yield server


@pytest.fixture
def hostile(inside) -> Iterator[Recording]:
    """A coordinator that sends every request on to that machine."""
    with recording() as server:
        server.default = (307, {"location": f"http://{inside.address}/admin"}, b"")
        yield server


@pytest.fixture
def confined(monkeypatch) -> Callable[[], None]:
    """`confine` for the rest of the test."""
    monkeypatch.setattr(ProtobufClient, "__init__", ProtobufClient.__init__)
    return confine


def ask(address: str) -> None:
    """One question to the coordinator, as the SuperNode puts it."""
    with FleetHttpClient.from_server_address(address, True, None, []) as client:
        client.PullMessages(PullMessagesRequest())


def test_a_redirect_is_not_followed(hostile, inside, confined):
    """Flower follows it; when that changes, `confine` has less to do."""
    ask(hostile.address)
    assert inside.asked == ["/admin"]
    inside.asked.clear()
    confined()
    with pytest.raises(httpx.HTTPStatusError, match="307"):
        ask(hostile.address)
    assert inside.asked == [] and len(hostile.asked) == 2


def test_no_proxy_of_the_environment_is_asked(inside, confined, monkeypatch):
    """As of our own client, which looks whether the coordinator can be reached."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with recording() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        ask(inside.address)
        assert len(proxy.asked) == 1 and inside.asked == []
        confined()
        ask(inside.address)
        assert len(proxy.asked) == 1 and len(inside.asked) == 1


def test_what_is_verified_stays_verified(confined, monkeypatch):
    """With the authorities that are given, and else with those of the system."""
    made: list[object] = []
    plain = SimpleNamespace(close=lambda: None)
    confined()
    monkeypatch.setattr("client.flower_fleet.ssl.create_default_context", lambda: "the system's")
    monkeypatch.setattr(httpx, "Client", lambda **each: made.append(each["verify"]) or plain)
    for verify in (True, False, "a context"):
        ProtobufClient("https://127.0.0.1:1", verify=verify)
    assert made[1::2] == ["the system's", False, "a context"]


def start(address: str, tmp_path: Path) -> "subprocess.CompletedProcess[bytes]":
    """A SuperNode as `client/join.py` starts it, but without a key, which needs TLS."""
    command = [sys.executable, "-P", "-m", "client.supernode", "--superlink", address,
               "--insecure", "--isolation", "process", "--host", "127.0.0.1",
               "--port", str(free_port())]  # fmt: skip
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT), "FLWR_HOME": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
    )  # fmt: skip


def test_the_supernode_follows_no_redirect_and_ends(hostile, inside, tmp_path):
    """Also after it was let in: Flower's program would stay, without its connection."""
    done = start(hostile.address, tmp_path)
    assert done.returncode not in (0, None), done.stdout
    assert len(hostile.asked) == 1 and inside.asked == []
    hostile.replies = {
        "/v1/fleet/register-node": (200, {}, RegisterNodeFleetResponse().SerializeToString()),
        "/v1/fleet/activate-node": (200, {}, ActivateNodeResponse(node_id=3).SerializeToString()),
    }
    done = start(hostile.address, tmp_path)
    assert done.returncode not in (0, None), done.stdout
    assert b"SuperNode ID: 3" in done.stdout  # what client/join.py looks for
    assert "/v1/fleet/pull-messages" in hostile.asked and inside.asked == []


def test_flowers_program_has_the_arguments_that_it_is_given():
    (program,) = distribution("flwr").entry_points.select(group="console_scripts", name=PROGRAM)
    assert callable(program.load())
    words = ["--superlink", "a:1", "--auth-supernode-private-key", "k", "--isolation", "process",
             "--host", "127.0.0.1", "--port", "1", "--superexec-auth-secret-file", "s",
             "--health-server-address", "b:2", "--root-certificates", "c"]  # fmt: skip
    parsed = vars(_parse_args_run_supernode().parse_args(words))
    assert (parsed["superlink"], parsed["port"], parsed["insecure"]) == ("a:1", 1, False)


@contextmanager
def supernode_at(secret: bytes) -> Iterator[tuple[str, Any, Any]]:
    """Address, state and object store of the loopback side of a SuperNode."""
    objects = ObjectStoreFactory()
    factory = NodeStateFactory(objectstore_factory=objects)
    state: Any = factory.state()
    state.set_node_id(SITE)
    port = free_port()
    options: dict[str, Any] = {"ws": "none", "log_level": "error"}
    server = uvicorn.Server(
        uvicorn.Config(create_app(factory, secret), host="127.0.0.1", port=port, **options)
    )
    thread = Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        yield f"127.0.0.1:{port}", state, objects.store()
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def supernode() -> Iterator[tuple[str, Any, Any]]:
    with supernode_at(SECRET) as found:
        yield found


def send(state: Any, objects: Any, content: RecordDict | None = None) -> Message:
    """Let a message of our app arrive at the SuperNode, as a coordinator sent it."""
    if state.get_run(RUN) is None:
        run = Run.create_empty(RUN)
        run.fab_id, run.fab_hash = flower.APP, hashlib.sha256(BUNDLE).hexdigest()
        state.store_run(run)
        state.store_fab(Fab(run.fab_hash, BUNDLE, {}))
        state.set_run_series_context(
            run.series_id, Context(RUN, SITE, {"a": 1}, RecordDict(), {}, series_id=run.series_id)
        )
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
    message = Message(
        content or RecordDict({"c": ConfigRecord({"x": 1})}), dst_node_id=SITE,
        message_type="query", group_id="3",
    )  # fmt: skip
    assert state.create_task(TaskType.CLIENT_APP, RUN, fab_hash=state.get_run(RUN).fab_hash)
    _insert_message(message, state, objects)
    return message


def begin(address: str) -> tuple[str, flower.Task]:
    """Take the task that is there."""
    queue = flower.open_queue(address, SECRET)
    try:
        token = flower.acquire(queue)
        assert token is not None and flower.acquire(queue) is None
    finally:
        queue.close()
    return token, flower.open_task(address, token)


def replies(state: Any) -> list[Message]:
    """What the SuperNode would send to the coordinator; until there is one, it waits."""
    return [*state.get_messages_legacy(is_reply=True)]


def test_a_message_is_taken_and_answered(supernode):
    address, state, objects = supernode
    sent = send(state, objects)
    _, task = begin(address)
    assert (task.app, task.content, task.intact) == (flower.APP, BUNDLE, True)
    assert task.context.node_config == {"a": 1}
    found = flower.pull(task, 5)
    assert found is not None and found.content == sent.content
    assert found.metadata.message_id == sent.object_id == task.announced.metadata.message_id
    assert replies(state) == []
    flower.push(task, Message(RecordDict(), reply_to=found))
    (reply,) = replies(state)
    assert reply.metadata.reply_to_message_id == sent.object_id and not reply.has_error()
    assert reply.metadata.group_id == "3"


def test_a_task_that_is_given_up_lets_the_supernode_go_on(supernode):
    address, state, objects = supernode
    sent = send(state, objects)
    _, task = begin(address)
    flower.give_up(task)
    (reply,) = replies(state)
    assert reply.metadata.reply_to_message_id == sent.object_id
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED  # the coordinator sends it again
    assert not task.heartbeat.is_running


def test_a_task_that_is_dropped_ends_without_a_reply(supernode):
    """For which the SuperNode would wait for ever, so that only a lost message may be dropped."""
    address, state, objects = supernode
    send(state, objects)
    _, task = begin(address)
    flower.drop(task)
    assert not task.heartbeat.is_running and replies(state) == []
    assert state.task_token_store == {}  # and nothing expires any more


def test_a_task_without_heartbeats_is_answered_by_the_supernode(supernode):
    address, state, objects = supernode
    sent = send(state, objects)
    _, task = begin(address)
    flower.leave(task)
    assert not task.heartbeat.is_running and replies(state) == []
    (record,) = state.task_token_store.values()
    record.active_until = now() - timedelta(seconds=1)
    (reply,) = replies(state)
    assert reply.metadata.reply_to_message_id == sent.object_id
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED


def test_the_next_process_answers_for_one_that_was_killed(supernode):
    address, state, objects = supernode
    sent = send(state, objects)
    token, task = begin(address)
    found = flower.pull(task, 5)
    assert found is not None
    memory = flower.remember(found, token)
    flower.leave(task)
    flower.answer_for(address, memory)
    (reply,) = replies(state)
    assert reply.metadata.reply_to_message_id == sent.object_id
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED


def test_a_message_that_did_not_arrive_whole_is_waited_for_and_no_longer(supernode):
    address, state, objects = supernode
    sent = send(state, objects)
    objects.delete(sent.object_id)
    objects.preregister(RUN, flower.ObjectTree(object_id=sent.object_id))
    _, task = begin(address)
    try:
        assert flower.pull(task, 0.1) is None
    finally:
        flower.leave(task)


def test_heartbeats_end_and_connections_are_closed_whatever_happens(supernode, monkeypatch):
    address, state, objects = supernode

    def answer(task: flower.Task) -> None:
        flower.push(task, Message(RecordDict(), reply_to=task.announced))

    calls = {"push_message": answer, "push_task_output": flower.drop}
    for name, end in calls.items():
        send(state, objects)
        _, task = begin(address)

        def broken(*_: object, **__: object) -> None:
            raise httpx.ConnectError("away")

        with monkeypatch.context() as changed:
            changed.setattr(flower, name, broken)
            with pytest.raises(httpx.ConnectError):
                end(task)
        assert not task.heartbeat.is_running
        with pytest.raises(RuntimeError, match="closed"):
            task.client.PullMessages(flower.PullAppMessagesRequest())
        state.delete_messages(message_ids=[task.tree.object_id])


def test_another_secret_gets_no_message(supernode):
    address, state, objects = supernode
    send(state, objects)
    queue = flower.open_queue(address, b"1" * 64)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        flower.acquire(queue)
    queue.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": str(LARGEST + 1)},
        {"content-length": "4", "content-encoding": "gzip"},
        {"transfer-encoding": "chunked"},
    ],
)
def test_an_answer_that_may_fill_the_memory_is_not_read(inside, confined, headers):
    confined()
    inside.default = (200, headers, b"")
    with pytest.raises(httpx.RemoteProtocolError, match=f"expected at most {LARGEST} as they are"):
        ask(inside.address)


def test_a_bundle_is_never_unpacked(confined, monkeypatch):
    """Not even for the settings in it, which Flower's SuperNode would look for."""
    monkeypatch.setattr(
        start_client_internal, "get_fused_config_from_fab",
        start_client_internal.get_fused_config_from_fab,
    )  # fmt: skip
    confined()
    assert start_client_internal.get_fused_config_from_fab(b"a bomb", None) == {}
