"""Connections of strangers: how many one address may have, and how long each may say nothing.

Without this a few machines could keep all connections of the door to themselves.
"""

import asyncio
import functools
import ipaddress
import socket
import time
from threading import Thread
from typing import Any
from weakref import WeakKeyDictionary

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

STARTS = 10.0  # seconds for a server to begin listening


class Listener(socket.socket):
    """A socket to listen at that ends the connections of an address that has `most` already.

    They count from the first packet, before TLS. Of IPv6 the network (/64) counts as one address.
    """

    def __init__(self, listening: socket.socket, most: int) -> None:
        super().__init__(listening.family, listening.type, listening.proto, listening.detach())
        self.most = most
        self.peers: WeakKeyDictionary[socket.socket, bytes] = WeakKeyDictionary()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; raises `ConnectionAbortedError`, after which asyncio goes on."""
        connection, address = super().accept()
        packed = ipaddress.ip_address(address[0]).packed
        peer = packed if len(packed) == 4 else packed[:8]
        open_now = [each for each, of in self.peers.items() if of == peer and each.fileno() >= 0]
        if len(open_now) >= self.most:
            connection.close()
            raise ConnectionAbortedError
        self.peers[connection] = peer
        return connection, address


class Connection(H11Protocol):
    """HTTP over one connection; it ends when a request's head is not whole in time.

    After the first request uvicorn's own limit counts until the next one begins. When a request was
    answered before its body was there, as refused ones are, the body has the same time.
    """

    seconds: float
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time begins."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """It begins or ends."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """It begins when the body is still on its way, or a part of the next head is here."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It ends."""
        super().connection_lost(exc)
        self._end()

    def _watch(self) -> None:
        state = self.conn.their_state
        answered = self.cycle is not None and self.cycle.response_complete
        if state is not h11.IDLE and not (state is h11.SEND_BODY and answered):
            self._end()
        elif self.late is None:
            # close() would wait for a silent peer to say good-bye
            self.late = self.loop.call_later(self.seconds, self.transport.abort)

    def _end(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None


class Server(uvicorn.Server):
    """A uvicorn server that gives TLS `seconds` to be agreed on, and to end."""

    def __init__(self, config: uvicorn.Config, seconds: float) -> None:
        super().__init__(config)
        self.seconds = seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn has no setting for these times."""
        loop = asyncio.get_running_loop()
        if self.config.ssl is not None:
            loop.create_server = functools.partial(  # type: ignore[method-assign]
                loop.create_server, ssl_handshake_timeout=self.seconds,
                ssl_shutdown_timeout=self.seconds,
            )  # fmt: skip
        await super().startup(sockets)

    def start(self, listener: socket.socket) -> Thread:
        """Serve at `listener` in a thread; after at most `STARTS` seconds `started` says whether
        it listens."""
        thread = Thread(target=self.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + STARTS
        while thread.is_alive() and not self.started and time.monotonic() < deadline:
            time.sleep(0.02)
        return thread
