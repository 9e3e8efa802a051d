"""The live page on its port: when it opens, what it says at the end, and what it cannot disturb."""

import socket
import sys
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from threading import Thread
from types import SimpleNamespace

import httpx
import pytest

from medsa_model.errors import FederationError
from medsa_model.logs import logger
from medsa_model.loopback import free_port
from server import coordinate, page_serving
from server.coordinate import QuorumMissed, RunFailed
from server.page_serving import open_page
from server.page_state import PageState
from tests.server.page_run import RecordedRun


@pytest.fixture
def run(tmp_path) -> RecordedRun:
    recorded = RecordedRun(tmp_path)
    recorded.state.begin(recorded.config, recorded.place)
    return recorded


def test_it_is_there_while_the_block_lasts(run):
    port = free_port()
    with open_page(run.state, ("127.0.0.1", port)):
        answer = httpx.get(f"http://127.0.0.1:{port}/")
        assert answer.status_code == 200 and "server" not in answer.headers
        run.state.asked = float("-inf")  # nobody waits for the last word
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/")


def test_by_default_it_is_not_there(run, monkeypatch):
    monkeypatch.setattr(page_serving, "listen", None)
    with open_page(run.state, None):
        pass


@pytest.mark.fault
def test_a_port_that_is_taken_is_told_before_anything_begins(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = rf"cannot listen at 127\.0\.0\.1:{port}: Address already in use.* choose another"
        with (
            pytest.raises(FederationError, match=told),
            open_page(run.state, ("127.0.0.1", port)),
        ):
            raise AssertionError("the run has begun")


LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="127.0.0.2 is an address of its own on Linux alone"
)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection; `False` when it has not in 30 seconds."""
    connection.settimeout(30)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@LINUX
def test_connections_of_one_address_are_few_and_others_still_get_the_page(run, monkeypatch):
    """The surplus is closed, and not kept open with an answer."""
    monkeypatch.setattr(page_serving, "HEAD", 60.0)
    monkeypatch.setattr(page_serving, "PER_ADDRESS", 3)
    address = ("127.0.0.1", free_port())
    with ExitStack() as opened:
        opened.enter_context(open_page(run.state, address))
        few = [opened.enter_context(socket.create_connection(address)) for _ in range(3)]
        more = [opened.enter_context(socket.create_connection(address)) for _ in range(4)]
        assert all(map(is_closed, more))
        url = f"http://127.0.0.1:{address[1]}/state.json"
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=elsewhere) as other:
            assert other.get(url).status_code == 200
        few.pop().close()
        assert one_of_more(lambda: httpx.get(url)).status_code == 200
        few[0].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert few[0].recv(12) == b"HTTP/1.1 200"
        run.state.asked = float("-inf")


def one_of_more(ask):
    """The first answer; that a connection was closed is noticed a moment later."""
    for _ in range(1500):
        with suppress(httpx.TransportError):
            return ask()
        time.sleep(0.02)
    raise AssertionError("no answer")


@LINUX
def test_connections_of_all_addresses_together_are_limited(run, monkeypatch):
    monkeypatch.setattr(page_serving, "HEAD", 60.0)
    monkeypatch.setattr(page_serving, "CONNECTIONS", 2)
    port = free_port()
    with ExitStack() as opened:
        opened.enter_context(open_page(run.state, ("127.0.0.1", port)))
        made = [
            opened.enter_context(
                socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{n}", 0))
            )
            for n in range(2, 6)
        ]
        assert all(map(is_closed, made[2:]))
        made[0].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert made[0].recv(12) == b"HTTP/1.1 200"
        run.state.asked = float("-inf")


def test_a_connection_without_a_request_is_closed(run, monkeypatch):
    monkeypatch.setattr(page_serving, "HEAD", 0.05)
    address = ("127.0.0.1", free_port())
    with open_page(run.state, address), socket.create_connection(address) as silent:
        assert is_closed(silent)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "The run was interrupted"),
        pytest.param(FederationError("x"), "The coordinator has ended", marks=pytest.mark.thorough),
    ],
)
def test_a_page_that_is_open_learns_how_it_ended(run, monkeypatch, error, words):
    """Also of an error that nobody thought of, whose text stays in the log."""
    monkeypatch.setattr(page_serving, "LAST_WORD", 0.3)
    port, seen = free_port(), []

    def watch() -> None:
        while not seen or not seen[-1]["over"]:
            seen.append(httpx.get(f"http://127.0.0.1:{port}/state.json").json())
            time.sleep(0.05)

    def go_on() -> None:
        with open_page(run.state, ("127.0.0.1", port)):
            reader.start()
            while not seen:
                time.sleep(0.01)
            raise error

    reader = Thread(target=watch)
    with pytest.raises(type(error)):
        go_on()
    reader.join(5)
    assert seen[-1]["words"].startswith(words) and not seen[0]["over"]


def test_an_address_for_others_is_warned_of(run, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(page_serving, "is_loopback", lambda host: False)
    with open_page(run.state, ("127.0.0.1", free_port())):
        assert "no login and no TLS" in caplog.text and "127.0.0.1, " in caplog.text


@pytest.mark.parametrize(
    ("outcome", "words", "well"),
    [
        (0, "The run is complete.", True),
        (1, "The run has ended with exit code 1: the log of the coordinator says why.", False),
        (QuorumMissed("2 of 3 sites connected"), "2 of 3 sites connected", False),
        (RunFailed("go on with --out /secret/run"), "The run's worker was ended again and", False),
        (KeyboardInterrupt(), "The run was interrupted; it can go on", False),
    ],
)
def test_the_coordinator_tells_how_its_run_ended(run, monkeypatch, outcome, words, well):
    """In words of its own: messages of errors may name folders."""
    shown: list[PageState] = []

    def run_one(*_: object) -> int:
        if isinstance(outcome, int):
            return outcome
        raise outcome

    @contextmanager
    def opened(state, address):
        assert address == ("127.0.0.1", 8080)
        shown.append(state)
        yield

    fake = SimpleNamespace(place=SimpleNamespace(link="link"))
    monkeypatch.setattr(coordinate, "Coordinator", lambda federation: nullcontext(fake))
    monkeypatch.setattr(coordinate, "run_one", run_one)
    monkeypatch.setattr(coordinate, "open_page", opened)
    with suppress(FederationError):
        coordinate.coordinate(run.federation, run.config, run.place, ("127.0.0.1", 8080))
    stage = shown[0].stage
    assert stage.end.startswith(words) and stage.well is well and "/secret" not in stage.end
