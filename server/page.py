"""The live page: what the coordinator is at, for a browser. It can only be read.

::

    GET /             the page, whole also without a script
    GET /state.json   the same as data, which the page asks for every two seconds

There is no login: by default it is not there at all, and then at loopback. Other web sites learn
nothing through a visitor's browser: whoever asks by another host name (DNS rebinding) is refused,
and nothing may be embedded or read from elsewhere. The page itself loads nothing from anywhere.
"""

import base64
import hashlib
import ipaddress
import json
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import medsa_model
from medsa_model.errors import ConfigError
from medsa_model.logs import logger
from medsa_model.report_values import Json
from server.config import Federation, is_loopback
from server.page_state import PageState

TEMPLATES = Path(__file__).parent / "templates"
REPORT_STYLE = Path(medsa_model.__file__).parent / "templates" / "report.css"
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]+)(:\d+)?")
"""What a browser asks for: a name or an address, and perhaps a port."""
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
UNKNOWN = "the coordinator cannot tell what it is at; its log says why, and its run goes on"


def read_address(text: str) -> tuple[str, int]:
    """Host and port to listen at, from `HOST:PORT` or `[IPV6]:PORT`; raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    good = colon and host and (":" in host) == bracketed and not set(host) & set("[]/@ ")
    if not (good and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigError(
            f"--page {text!r}: expected HOST:PORT with a port from 1 to 65535, such as "
            "127.0.0.1:8080 or [::1]:8080"
        )
    return host, int(port)


def known_hosts(host: str, federation: Federation) -> list[str]:
    """Names that a browser may ask for when the page listens at `host`, see `plain_host`."""
    names = {host, "localhost"}
    if is_loopback(host):
        names |= {"127.0.0.1", "::1"}
    else:
        names |= {federation.address.host, *federation.address.also, socket.gethostname()}
    return sorted({plain_host(name) for name in names})


def plain_host(name: str) -> str:
    """A host name in lower case, or an IP address as it is commonly written, IPv6 in brackets."""
    try:
        address = ipaddress.ip_address(name.strip("[]") if ":" in name else name)
    except ValueError:
        return name.lower()
    return f"[{address}]" if address.version == 6 else str(address)


def make_app(state: PageState, hosts: Sequence[str]) -> Starlette:
    """The ASGI application; `hosts` are the names that it answers to, see `plain_host`."""
    page = Page(state)
    routes = [Route("/", page.html), Route("/state.json", page.json)]
    middleware = [Middleware(SafetyHeaders), Middleware(HostNames, hosts=hosts)]
    app = Starlette(routes=routes, middleware=middleware)
    app.router.redirect_slashes = False
    return app


class HostNames:
    """Lets those through who ask for one of `hosts`; Starlette's own does not know IPv6."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400 to whoever asks for another host."""
        asked = HOST.fullmatch(Headers(scope=scope).get("host", ""))
        if asked and plain_host(asked[1]) in self.hosts:
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse("there is no such host here", 400)(scope, receive, send)


class SafetyHeaders:
    """Adds the headers of safety to every answer, refusals too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                more = HEADERS | {"content-security-policy": NOTHING}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in more.items()
                      if name.encode() not in there),
                ]  # fmt: skip
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Page:
    """The two answers. They are computed in threads of the server, not where it listens.

    However many ask, each is written once of a state, which `PageState` keeps for a short time.
    """

    def __init__(self, state: PageState) -> None:
        self.state = state
        self.lock = Lock()
        self.written: dict[Callable[[Json], bytes], tuple[Json, bytes]] = {}
        self.told: set[str] = set()
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self.template = environment.get_template("page.html.j2")
        styles = (REPORT_STYLE, TEMPLATES / "page.css")
        self.style = "\n".join(path.read_text("utf-8") for path in styles)
        self.script = (TEMPLATES / "page.js").read_text("utf-8")
        self.policy = (
            f"{NOTHING}; connect-src 'self'; style-src '{_sha256(self.style)}'; "
            f"script-src '{_sha256(self.script)}'"
        )

    def html(self, request: Request) -> Response:
        """The page as it is at this moment."""
        return self._answer(self._as_html, "text/html", self.policy)

    def json(self, request: Request) -> Response:
        """The state as data."""
        return self._answer(as_json, "application/json", NOTHING)

    def _answer(self, write: Callable[[Json], bytes], kind: str, policy: str) -> Response:
        try:
            state = self.state.state()
            with self.lock:
                before, content = self.written.get(write, (None, b""))
                if before is not state:
                    content = write(state)
                    self.written[write] = state, content
        except Exception as error:
            return self._unknown(error)
        return Response(content, headers={"content-security-policy": policy}, media_type=kind)

    def _as_html(self, state: Json) -> bytes:
        content = self.template.render(state=state, style=self.style, script=self.script)
        return content.encode("utf-8", "replace")

    def _unknown(self, error: Exception) -> Response:
        """Whatever goes wrong here concerns the page alone; each kind is logged once."""
        kind = f"{type(error).__name__}: {error}"
        if kind not in self.told:
            self.told.add(kind)
            logger.warning("the live page cannot be shown (%s); the run goes on", kind)
        return JSONResponse({"problem": UNKNOWN}, 500)


def as_json(state: Json) -> bytes:
    """ASCII, since a damaged line can hold a surrogate that UTF-8 does not know."""
    return json.dumps(state, allow_nan=False).encode("ascii")


def _sha256(text: str) -> str:
    """As a content security policy names a style or a script that stands in the page."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
