"""The door on its port: a uvicorn server in a thread of its own."""

import socket
import ssl
from dataclasses import dataclass
from threading import Thread

import uvicorn

from medsa_model.errors import FederationError
from server.config import Federation
from server.connections import Connection, Listener, Server
from server.door import Door

CONNECTIONS = 1000  # most connections at once
PER_ADDRESS = 64  # most of one address; a site has three, and some that broke and do not know it
HEAD = 10.0  # seconds for TLS to be agreed on, and again for the head of a request


@dataclass
class Serving:
    """A door that is open."""

    door: Door
    server: uvicorn.Server
    thread: Thread

    def close(self) -> None:
        """Stop listening."""
        self.server.should_exit = True
        self.thread.join(5)


def open_door(
    door: Door, federation: Federation, head: float = HEAD, per_address: int = PER_ADDRESS
) -> Serving:
    """Serve `door` at the federation's address; raises `FederationError`.

    Behind a reverse proxy all connections come from its address, so that they are not counted.
    """
    address, folder = federation.address, federation.folder
    port = address.listen_port or address.port
    certificate, key = folder / "server.crt", folder / "server.key"
    config = uvicorn.Config(
        app=door, host=address.listen, port=port, log_level="critical", access_log=False,
        lifespan="on", loop="asyncio", http=type("Door", (Connection,), {"seconds": head}),
        ws="none", server_header=False,
        limit_concurrency=CONNECTIONS, timeout_keep_alive=30, timeout_graceful_shutdown=1,
        ssl_certfile=str(certificate) if address.tls else None,
        ssl_keyfile=str(key) if address.tls else None,
    )  # fmt: skip
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise FederationError(
            f"server.crt and server.key in {folder} cannot be used ({error}); do they belong "
            "together? Move both away and run `flower-server provision`"
        ) from error
    server = Server(config, head)
    try:
        family = socket.AF_INET6 if ":" in address.listen else socket.AF_INET
        listener = socket.create_server((address.listen, port), family=family, backlog=256)
        if address.tls:
            listener = Listener(listener, per_address)
    except OSError as error:
        raise FederationError(
            f"cannot listen at {address.listen}:{port}: {error.strerror}; choose another "
            "address.listen or address.listen_port, or end the program that uses it"
        ) from error
    thread = server.start(listener)
    if not server.started:
        raise FederationError(f"the door at {address.listen}:{port} did not open")
    return Serving(door, server, thread)
