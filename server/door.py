"""The door: the only thing of the coordinator that hospitals can reach.

In Flower 1.41 the SuperLink serves the sites (Fleet), the operator (Control, without a login) and
the workers (Runtime) at one port. The door lets `/v1/fleet/*` through, and that only with a stamp
(time, signed with a key that is registered and not revoked) which is fresh and was not used before.
Whoever is turned away is told why in JSON (`{"code": ..., "detail": ...}`), as Flower does.

A site that asks for work and finds none would sleep for three seconds, and one that asks for an
array that is still being uploaded for one. The door holds such questions until there is an answer,
for a few seconds, so that a round does not wait for sleeping sites. Work that did not arrive, since
the connection broke, is given again.

Flower compares the key with the node that a request names, but not with the messages within: the
door lets a site send nothing but answers of its own.
"""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from server.flower_fleet import HEARTBEAT, PULL, PUSH, PUSH_OBJECT, is_own_reply, nothing_yet
from server.flower_private import PUBLIC_KEY_HEADER
from server.limits import Load
from server.stamps import Keys as Keys
from server.stamps import Refusal, Stamps, check_stamp

FLEET = re.compile(r"/v1/fleet/[a-z-]+")  # no dots, no second encoding: it is passed on as it is
GET_RUN = "/v1/fleet/get-run"
WITHOUT_WORK = (PULL, HEARTBEAT)  # what a site asks whose work did not arrive
REFUSED = "x-medsa-door"  # header of an answer by the door itself
SITE = "x-medsa-site"  # header of an answer to a site: the name that its key was registered for
LARGEST = 64 * 2**20  # bytes of a request; Flower sends arrays in parts of 5 MiB
FEW_PARTS, SMALLEST_PART = 64, 2**20  # of an answer: names and numbers; bytes of one of an array
SLOWEST = 60.0  # seconds for a request to arrive
TRIES = 3  # of a request at which the SuperLink fails
HOLD = 15.0  # seconds that a question for work is held; sites give up after 30
LOOK = 0.02  # seconds between looks whether anything changed at the SuperLink
LEAST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two questions for the same site
QUESTIONS = 20  # most looks for work a second, of all waiting sites together: a change wakes all
PATIENCE = 0.3  # seconds between tries to reach it
COMES_BACK = 10.0  # seconds that a request waits for a SuperLink that was restarted

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass
class Handed:
    """The work that a key was given last, until another request shows that it arrived.

    The SuperLink gives each message once. A SuperNode asks for more when a connection broke before
    the answer came; when it did come, it asks first for the run or for an array of the message.
    """

    question: bytes = b""
    answer: httpx.Response | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Door:
    """The ASGI application; `inner` reaches the SuperLink, `keys` may be replaced at any time.

    While what `changed` returns stays the same, there is no new work to ask for. An answer of a
    site has at most `largest_answer` bytes.
    """

    def __init__(
        self, inner: httpx.AsyncClient, keys: Keys, changed: Callable[[], object] = time.monotonic,
        largest_answer: int = 256 * 10**6,
    ) -> None:  # fmt: skip
        self.inner = inner
        self.largest_answer = largest_answer
        self.keys = keys
        self.changed = changed
        self.stamps = Stamps()
        self.load = Load()
        self.waiting = 0
        self.handed: defaultdict[str, Handed] = defaultdict(Handed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        try:
            response = await self._answer(scope, receive)
        except Refusal as refusal:
            content = {"code": refusal.code, "detail": refusal.detail}
            response = httpx.Response(refusal.status, json=content, headers={REFUSED: "refused"})
        if response is None:
            return
        headers = [
            (name.encode(), value.encode()) for name, value in response.headers.items()
            if name in ("content-type", REFUSED, SITE) or name.startswith("flwr-")
        ]  # fmt: skip
        headers.append((b"content-length", str(len(response.content)).encode()))
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": headers}
        )
        await send({"type": "http.response.body", "body": response.content})

    async def _live(self, receive: Receive, send: Send) -> None:
        """From the server's start to its end, at which the way to the SuperLink is closed."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.inner.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive) -> httpx.Response | None:
        """The SuperLink's answer, `None` when the site hung up while it was held."""
        path = str(scope["path"])
        if not FLEET.fullmatch(path) or scope["method"] != "POST":
            raise Refusal(404, 9000, "there is nothing here")
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        site = check_stamp(headers, self.keys, self.stamps)
        with self.load.request(site) as add:
            try:
                body = await asyncio.wait_for(_read(receive, add), SLOWEST)
            except TimeoutError:
                raise Refusal(408, 9008, "the request arrived too slowly") from None
            if path == PUSH:
                _check_reply(body, FEW_PARTS + self.largest_answer // SMALLEST_PART)
                self.load.begin_answer(site)
            elif path == PUSH_OBJECT:
                self.load.add_part(site, len(body), self.largest_answer)
            handed = self.handed[headers[PUBLIC_KEY_HEADER]]
            # a question about no run is the site's own, whether this door is open
            if path not in WITHOUT_WORK and not (path == GET_RUN and not body):
                handed.answer = None
            kept = {
                name: value for name, value in headers.items()
                if name in ("content-type", "accept") or name.startswith("flwr-")
            }  # fmt: skip

            async def look() -> httpx.Response:
                if path != PULL:
                    return await self._forward(path, body, kept)
                return await self._pull(body, kept, handed)

            response = await self._hold(path, look, receive)
        if response is not None:
            response.headers[SITE] = site
        return response

    async def _hold(
        self, path: str, look: Callable[[], Awaitable[httpx.Response]], receive: Receive
    ) -> httpx.Response | None:
        """Look until there is an answer, the site hangs up, or it is time to say: nothing yet."""
        hung_up = asyncio.ensure_future(receive())
        await asyncio.sleep(0)  # for who is gone already no work is fetched
        until = time.monotonic() + HOLD
        self.waiting += path == PULL
        try:
            while not hung_up.done():
                before, asked = self.changed(), time.monotonic()
                response = await look()
                wait = response.status_code == 200 and nothing_yet(path, response.content)
                if not wait or time.monotonic() > until:
                    return response
                others = self.waiting - 1 if path == PULL else 0
                least = max(LEAST_PAUSE, others / QUESTIONS)
                longest = max(LONGEST_PAUSE, 2 * least)
                await asyncio.wait([hung_up], timeout=least)
                while (
                    not hung_up.done()
                    and time.monotonic() - asked < longest
                    and self.changed() == before
                ):
                    await asyncio.wait([hung_up], timeout=LOOK)
            return None
        finally:
            self.waiting -= path == PULL
            hung_up.cancel()

    async def _pull(self, body: bytes, headers: dict[str, str], handed: Handed) -> httpx.Response:
        """Work, the same again when it did not arrive; one look of a key after the other."""
        async with handed.lock:
            if handed.answer is not None and handed.question == body:
                return handed.answer
            response = await self._forward(PULL, body, headers)
            if response.status_code == 200 and not nothing_yet(PULL, response.content):
                handed.question, handed.answer = body, response
            return response

    async def _forward(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        until, left = time.monotonic() + COMES_BACK, TRIES
        while True:
            try:
                response = await self.inner.post(path, content=body, headers=headers)
                left -= 1
                if path == PULL or response.status_code != 500 or not left:
                    return response
                await asyncio.sleep(PATIENCE)  # such as a locked database: nothing was changed
            except httpx.ConnectError:  # nothing was sent, so that it may be sent again
                if time.monotonic() > until:
                    raise Refusal(503, 9010, "the SuperLink does not answer; try again") from None
                await asyncio.sleep(PATIENCE)
            except httpx.TransportError:
                raise Refusal(503, 9010, "the SuperLink broke off; try again") from None


def _check_reply(body: bytes, most_parts: int) -> None:
    """Raise `Refusal` unless a site answers in its own name: Flower looks at `node` alone."""
    try:
        own = is_own_reply(body, most_parts)
    except ValueError:
        raise Refusal(400, 9012, "the request is not what Flower sends to this path") from None
    if not own:
        raise Refusal(
            403, 9011, "a site may send one answer at a time, in its own name, to the coordinator "
            f"and in at most {most_parts} parts; this request brings something else",
        )  # fmt: skip


async def _read(receive: Receive, add: Callable[[int], None]) -> bytes:
    """The body of a request, whose bytes are given to `add`; raises `Refusal` if too large."""
    parts, size, more = [], 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise Refusal(400, 9009, "the connection was closed")
        part = event.get("body", b"")
        size += len(part)
        if size > LARGEST:
            raise Refusal(413, 9007, f"the request is larger than {LARGEST} bytes")
        add(len(part))
        parts.append(part)
        more = event.get("more_body", False)
    return b"".join(parts)
