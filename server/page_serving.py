"""The live page on its port: a uvicorn server in a thread of the coordinator's process."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from medsa_model.errors import FederationError
from medsa_model.logs import logger
from server.config import is_loopback
from server.connections import Connection, Listener, Server
from server.page import known_hosts, make_app
from server.page_state import PageState
from server.page_words import INTERRUPTED

HEAD = 10.0  # seconds for the head of a request
PER_ADDRESS = 20  # most connections of one address; each further one is closed at once
CONNECTIONS = 100  # most of all addresses; so that the coordinator has descriptors for its work
READERS = 10.0  # seconds after its last question that a page counts as open
LAST_WORD = 3.0  # seconds for open pages to ask once more, for the end; they ask every two


class Reader(Connection):
    """A connection, which ends at once when there are enough: uvicorn would answer 503, and keep
    it open."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()


@contextmanager
def open_page(state: PageState, address: tuple[str, int] | None) -> Iterator[None]:
    """Show `state` at `address` (host, port) while the block lasts; `None` shows it nowhere.

    At the end pages that are open have a moment to learn how it ended. Raises `FederationError`
    when the port cannot be used; whatever goes wrong with the page later does not leave it.
    """
    if address is None:
        yield
        return
    server, thread = listen(state, *address)
    try:
        yield
    except KeyboardInterrupt:
        state.end(INTERRUPTED)
        raise
    finally:
        state.end()
        state.close()
        if thread.is_alive() and time.monotonic() - state.asked < READERS:
            thread.join(LAST_WORD)
        server.should_exit = True
        thread.join(5)


def listen(state: PageState, host: str, port: int) -> tuple[uvicorn.Server, Thread]:
    """The server and its thread, listening; raises `FederationError`."""
    shown = shown_address(host, port)
    listener = Listener(bound(host, port), PER_ADDRESS)
    hosts = known_hosts(host, state.federation)
    config = uvicorn.Config(
        app=make_app(state, hosts), log_level="critical", access_log=False, lifespan="off",
        loop="asyncio", http=type("Page", (Reader,), {"seconds": HEAD}), ws="none",
        server_header=False, timeout_keep_alive=10, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = Server(config, HEAD)
    thread = server.start(listener)
    if not server.started:
        listener.close()
        raise FederationError(f"--page: the live page at {shown} did not open")
    logger.info("live page: http://%s/", shown)
    if not is_loopback(host):
        logger.warning(
            "the live page at %s has no login and no TLS: whoever reaches that address can read "
            "it. It answers to the host names %s", shown, ", ".join(hosts),
        )  # fmt: skip
    return server, thread


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises `FederationError`."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise FederationError(
            f"--page: cannot listen at {shown_address(host, port)}: {error.strerror or error}; "
            "choose another HOST:PORT, end the program that uses it, or start without --page"
        ) from error


def check_address(host: str, port: int) -> None:
    """Raise `FederationError` when the page could not listen there."""
    bound(host, port).close()


def shown_address(host: str, port: int) -> str:
    """As it stands in an address bar."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
