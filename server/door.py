"""The door: the only thing of the coordinator that hospitals can reach.

In Flower 1.41 the SuperLink serves the sites (Fleet), the operator (Control, without a login) and
the workers (Runtime) at one port. The door lets `/v1/fleet/*` through, and that only with a stamp
(time, signed with a key that is registered and not revoked) which is fresh and was not used before.
Whoever is turned away is told why in JSON (`{"code": ..., "detail": ...}`), as Flower does.

A site that asks for work and finds none would sleep for three seconds, and one that asks for an
array that is still being uploaded for one. The door holds such questions until there is an answer,
for a few seconds, so that a round does not wait for sleeping sites.
"""

import asyncio
import binascii
import datetime
import re
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from server.flower_private import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    nothing_yet,
)

FLEET = re.compile(r"/v1/fleet/[a-z-]+")  # no dots, no second encoding: it is passed on as it is
REFUSED = "x-medsa-door"  # header of an answer by the door itself
SITE = "x-medsa-site"  # header of an answer to a site: the name that its key was registered for
LARGEST = 64 * 2**20  # bytes of a request; Flower sends arrays in parts of 5 MiB
SLOWEST = 60.0  # seconds for a request to arrive
TOLERANCE = 300.0  # seconds between a stamp and this machine's clock; Flower's own
HOLD = 15.0  # seconds that a question for work is held; sites give up after 30
LOOK = 0.02  # seconds between looks whether anything changed at the SuperLink
LEAST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two questions for the same site
PATIENCE = 0.3  # seconds between tries to reach it
COMES_BACK = 10.0  # seconds that a request waits for a SuperLink that was restarted

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Refusal(Exception):
    """Why a request is not let in: HTTP status, code for programs, sentence for people."""

    def __init__(self, status: int, code: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


@dataclass
class Keys:
    """Who may come in: PEM public key -> site, and of the revoked ones too, to tell them so.

    Replaced as a whole while the door is open.
    """

    admitted: Mapping[bytes, str]
    revoked: Mapping[bytes, str] = field(default_factory=dict)


@dataclass
class Stamps:
    """Signatures seen, with the time (`time.monotonic()`) from which a clock alone refuses them.

    Of a signature (r, s) only r is kept: whoever has one can make (r, -s), which is valid too.
    """

    seen: dict[int, float] = field(default_factory=dict)

    def use(self, signature: bytes) -> bool:
        """Whether this signature (DER, valid) is new; it is used up now."""
        r, _ = decode_dss_signature(signature)
        now = time.monotonic()
        if len(self.seen) > 10_000:
            self.seen = {each: until for each, until in self.seen.items() if until > now}
        if self.seen.get(r, 0.0) > now:
            return False
        self.seen[r] = now + 2 * TOLERANCE + 60
        return True


def check_stamp(headers: Mapping[str, str], keys: Keys, stamps: Stamps) -> str:
    """The site that a request comes from; raises `Refusal`. Flower checks node ids after this."""
    try:
        public_key = b64decode(headers[PUBLIC_KEY_HEADER], validate=True)
        signature = b64decode(headers[SIGNATURE_HEADER], validate=True)
        stamp = headers[TIMESTAMP_HEADER]
        signed_at = datetime.datetime.fromisoformat(stamp)
        age = (datetime.datetime.now(datetime.UTC) - signed_at).total_seconds()
    except (KeyError, ValueError, TypeError, binascii.Error):
        raise Refusal(401, 9001, "the request is not signed with a site's key") from None
    if public_key in keys.revoked:
        raise Refusal(401, 9003, "this key was revoked by the coordinator")
    if public_key not in keys.admitted:
        raise Refusal(401, 9002, "this key is not registered at the coordinator")
    if abs(age) > TOLERANCE:
        raise Refusal(
            401, 9004, f"the stamp is {age:+.0f} seconds old by the coordinator's clock, at most "
            f"{TOLERANCE:.0f} are allowed: an old request, or a clock that is wrong",
        )  # fmt: skip
    try:
        key = serialization.load_pem_public_key(public_key)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("not on an elliptic curve")
        key.verify(signature, stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        raise Refusal(401, 9005, "the signature does not belong to this key and stamp") from None
    if not stamps.use(signature):
        raise Refusal(401, 9006, "this stamp was used before: the request is a copy")
    return keys.admitted[public_key]


class Door:
    """The ASGI application; `inner` reaches the SuperLink, `keys` may be replaced at any time.

    While what `changed` returns stays the same, there is no new work to ask for.
    """

    def __init__(
        self, inner: httpx.AsyncClient, keys: Keys, changed: Callable[[], object] = time.monotonic
    ) -> None:
        self.inner = inner
        self.keys = keys
        self.changed = changed
        self.stamps = Stamps()

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
        try:
            body = await asyncio.wait_for(_read(receive), SLOWEST)
        except TimeoutError:
            raise Refusal(408, 9008, "the request arrived too slowly") from None
        kept = {
            name: value for name, value in headers.items()
            if name in ("content-type", "accept") or name.startswith("flwr-")
        }  # fmt: skip
        response = await self._hold(path, body, kept, receive)
        if response is not None:
            response.headers[SITE] = site
        return response

    async def _hold(
        self, path: str, body: bytes, headers: dict[str, str], receive: Receive
    ) -> httpx.Response | None:
        """Ask until there is an answer, or the site hangs up, or it is time to say: nothing yet."""
        hung_up = asyncio.ensure_future(receive())
        await asyncio.sleep(0)  # who is gone already gets no work, which would be lost
        until = time.monotonic() + HOLD
        try:
            while not hung_up.done():
                before, asked = self.changed(), time.monotonic()
                response = await self._forward(path, body, headers)
                wait = response.status_code == 200 and nothing_yet(path, response.content)
                if not wait or time.monotonic() > until:
                    return response
                await asyncio.wait([hung_up], timeout=LEAST_PAUSE)
                while (
                    not hung_up.done()
                    and time.monotonic() - asked < LONGEST_PAUSE
                    and self.changed() == before
                ):
                    await asyncio.wait([hung_up], timeout=LOOK)
            return None
        finally:
            hung_up.cancel()

    async def _forward(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        until = time.monotonic() + COMES_BACK
        while True:
            try:
                return await self.inner.post(path, content=body, headers=headers)
            except httpx.ConnectError:  # nothing was sent, so that it may be sent again
                if time.monotonic() > until:
                    raise Refusal(503, 9010, "the SuperLink does not answer; try again") from None
                await asyncio.sleep(PATIENCE)
            except httpx.TransportError:
                raise Refusal(503, 9010, "the SuperLink broke off; try again") from None


async def _read(receive: Receive) -> bytes:
    """The body of a request; raises `Refusal` when it is too large."""
    parts, size, more = [], 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise Refusal(400, 9009, "the connection was closed")
        part = event.get("body", b"")
        size += len(part)
        if size > LARGEST:
            raise Refusal(413, 9007, f"the request is larger than {LARGEST} bytes")
        parts.append(part)
        more = event.get("more_body", False)
    return b"".join(parts)
