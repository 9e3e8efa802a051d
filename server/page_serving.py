"""The live page on its port: a uvicorn server in a thread of the coordinator's process."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from medsa_model.errors import FederationError
from medsa_model.logs import logger
from server.config import is_loopback
from server.connections import Connection, Server
from server.page import known_hosts, make_app
from server.page_state import PageState
from server.page_words import INTERRUPTED

STARTS = 10.0  # seconds to begin listening
HEAD = 10.0  # seconds for the head of a request
CONNECTIONS = 100  # most connections at once
READERS = 10.0  # seconds after its last question that a page counts as open
LAST_WORD = 3.0  # seconds for open pages to ask once more, for the end; they ask every two


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
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise FederationError(
            f"--page: cannot listen at {shown}: {error.strerror or error}; choose another "
            "HOST:PORT, end the program that uses it, or start without --page"
        ) from error
    hosts = known_hosts(host, state.federation)
    config = uvicorn.Config(
        app=make_app(state, hosts), log_level="critical", access_log=False, lifespan="off",
        loop="asyncio", http=type("Page", (Connection,), {"seconds": HEAD}), ws="none",
        server_header=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=10,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = Server(config, HEAD)
    thread = Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + STARTS
    while thread.is_alive() and not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
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
