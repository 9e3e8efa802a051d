"""The door on its port: what a stranger finds there, and when it cannot be opened."""

import asyncio
import base64
import http.client
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from medsa_model.errors import FederationError
from medsa_model.loopback import free_port
from medsa_model.site_keys import public_pem
from server.certificates import make_ca, make_server
from server.config import Federation
from server.door import Door
from server.flower_private import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from server.serving import open_door
from server.stamps import Keys


@pytest.fixture(scope="module")
def certified(tmp_path_factory) -> Path:
    """A federation's folder with certificates."""
    folder = tmp_path_factory.mktemp("federation")
    now = datetime.now(UTC)
    make_ca(folder / "ca.crt", folder / "ca.key", "f", now)
    signer = folder / "ca.crt", folder / "ca.key"
    make_server(folder / "server.crt", folder / "server.key", signer, ["127.0.0.1"], 9, now)
    return folder


def federation(folder: Path, port: int, **address: object) -> Federation:
    address = {"host": "127.0.0.1", "port": port, "listen": "127.0.0.1", **address}
    content = {"name": "f", "folder": folder, "run": "run.yaml", "quorum": 1,
               "sites": [{"name": "a"}], "address": address}  # fmt: skip
    return Federation.model_validate(content)


def door(reached: list[httpx.Request]) -> Door:
    def inner(request: httpx.Request) -> httpx.Response:
        reached.append(request)
        return httpx.Response(200)

    client = httpx.AsyncClient(transport=httpx.MockTransport(inner), base_url="https://link")
    return Door(client, Keys({}))


def test_strangers_find_nothing_and_learn_nothing(certified):
    """As bytes on the wire: no client tidies these paths up."""
    reached: list[httpx.Request] = []
    opened, port = door(reached), free_port()
    serving = open_door(opened, federation(certified, port))
    context = ssl.create_default_context(cafile=str(certified / "ca.crt"))
    try:
        for path in (
            "/", "/docs", "/health", "/v1/control/list-nodes", "/v1/runtime/acquire-task",
            "/v1/fleet/../control/list-nodes", "/v1/fleet/%2e%2e/control/list-nodes",
            "/v1/fleet/%252e%252e/control/list-nodes", "//v1/fleet/pull-messages",
            "/v1/fleet/..%2fcontrol%2flist-nodes", "/v1/fleet%2f..%2fcontrol%2flist-nodes",
            "https://127.0.0.1/v1/control/list-nodes",
        ):  # fmt: skip
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
            connection.putrequest("POST", path, skip_accept_encoding=True)
            connection.putheader("content-length", "0")
            connection.endheaders()
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            assert answer.status == 404 and b"there is nothing here" in text, path
            assert answer.getheader("server") is None
        unsigned = httpx.post(
            f"https://127.0.0.1:{port}/v1/fleet/pull-messages", verify=context, trust_env=False
        )
        assert unsigned.status_code == 401 and unsigned.json()["code"] == 9001
        assert reached == []
    finally:
        serving.close()
    assert not serving.thread.is_alive() and opened.inner.is_closed
    with socket.create_server(("127.0.0.1", port)):
        pass  # the port is free again


def test_it_listens_where_it_is_told_to(certified):
    """Behind a proxy or in a container at another port than hospitals dial."""
    port = free_port()
    serving = open_door(door([]), federation(certified, 1, listen_port=port))
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    finally:
        serving.close()


def test_a_port_in_use_is_said(certified):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(FederationError, match=rf"cannot listen at 127\.0\.0\.1:{port}: Addr"):
            open_door(door([]), federation(certified, port))


def test_an_address_of_another_machine_is_said(certified):
    with pytest.raises(FederationError, match=r"cannot listen at 192\.0\.2\.1:\d+: Cannot assign"):
        open_door(door([]), federation(certified, free_port(), listen="192.0.2.1"))


@pytest.mark.parametrize("name", ["server.crt", "server.key"])
@pytest.mark.parametrize("spoilt", ["missing", "empty", "another"])
def test_certificates_that_cannot_be_used_are_said(tmp_path, certified, name, spoilt):
    """Before anything listens."""
    for each in ("server.crt", "server.key"):
        shutil.copy(certified / each, tmp_path)
    if spoilt == "missing":
        (tmp_path / name).unlink()
    elif spoilt == "empty":
        (tmp_path / name).write_bytes(b"")
    else:
        shutil.copy(certified / name.replace("server", "ca"), tmp_path / name)
    with pytest.raises(FederationError, match=r"server\.crt and server\.key in .* cannot be used"):
        open_door(door([]), federation(tmp_path, free_port()))


HEAD = b"POST /v1/fleet/get-run HTTP/1.1\r\nhost: a\r\n"
WHOLE = HEAD + b"content-length: 0\r\n\r\n"


@contextmanager
def opened(folder: Path, tls: bool, **limits: float) -> Iterator[int]:
    """The port of a door at which only strangers knock."""
    port = free_port()
    serving = open_door(door([]), federation(folder, port, tls=tls), **limits)
    try:
        yield port
    finally:
        serving.close()


def connect(folder: Path, port: int, tls: bool) -> socket.socket:
    """A connection, with TLS agreed on."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side ends the connection within ten seconds, whatever it says before."""
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:  # without good-bye
        return True
    return True


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        (True, b""), (False, b""), (False, HEAD), (False, WHOLE + HEAD),
        (False, WHOLE + WHOLE + b"P"),
        (False, HEAD + b"content-length: 1000\r\n\r\n"),  # refused before its body is there
    ],
    ids=["TLS", "nothing", "half a head", "half a second one", "half a third one", "half a body"],
)  # fmt: skip
def test_who_does_not_finish_a_request_is_shown_out(certified, tls, said):
    """Else a thousand silent connections would shut the door to all."""
    head = 0.3 if tls else 0.1
    with opened(certified, tls, head=head) as port, connect(certified, port, tls) as connection:
        connection.sendall(said)
        assert is_ended(connection)


@pytest.mark.parametrize("first", [HEAD + b"x: ", HEAD + b"content-length: 1000\r\n\r\n"])
def test_byte_for_byte_is_not_faster(certified, first):
    """The time counts from the beginning, not from the last byte."""
    with opened(certified, False, head=0.1) as port, connect(certified, port, False) as connection:
        connection.settimeout(0.02)
        with suppress(OSError):
            connection.sendall(first)
            for _ in range(300):
                connection.sendall(b"x")
                with suppress(TimeoutError):
                    if not connection.recv(4096):
                        break
            else:
                pytest.fail("it may go on for ever")


def test_who_does_not_begin_tls_is_shown_out(certified):
    with opened(certified, True, head=0.1) as port, connect(certified, port, False) as connection:
        assert is_ended(connection)


def test_who_waits_for_an_answer_or_between_requests_may_stay(certified):
    """The time is for a request to arrive, not for the answer; then there is another limit."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem = public_pem(key.public_key())

    async def inner(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.2)
        return httpx.Response(200, content=b"answer")

    client = httpx.AsyncClient(transport=httpx.MockTransport(inner), base_url="https://link")
    port = free_port()
    place = federation(certified, port, tls=False)
    serving = open_door(Door(client, Keys({pem: "a"})), place, head=0.1)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.connect()
        own = connection.sock
        for _ in range(2):
            at = datetime.now(UTC).isoformat()
            signature = key.sign(at.encode(), ec.ECDSA(hashes.SHA256()))
            connection.request("POST", "/v1/fleet/get-run", b"body", {
                PUBLIC_KEY_HEADER: base64.b64encode(pem).decode(), TIMESTAMP_HEADER: at,
                SIGNATURE_HEADER: base64.b64encode(signature).decode(),
            })  # fmt: skip
            assert connection.getresponse().read() == b"answer"
            own.settimeout(0.15)
            with pytest.raises(TimeoutError):
                own.recv(1)
            own.settimeout(10)
        assert connection.sock is own
    finally:
        connection.close()
        serving.close()


def test_one_address_does_not_take_all_connections(certified):
    """Neither with TLS nor before it; who leaves makes room."""
    with opened(certified, True, per_address=3) as port:
        mine = [connect(certified, port, tls) for tls in (True, False, False)]
        for _ in range(2):
            with pytest.raises(OSError, match=r"reset|EOF"):
                connect(certified, port, True)
        for each in mine[:2]:
            each.close()
        for _ in range(1000):
            with suppress(OSError):
                mine.append(connect(certified, port, True))
                break
        mine[-1].sendall(WHOLE)
        assert mine[-1].recv(4096).startswith(b"HTTP/1.1 401")
        for each in mine:
            each.close()


def test_behind_a_proxy_all_come_from_one_address(certified):
    with opened(certified, False, per_address=1) as port:
        mine = [connect(certified, port, False) for _ in range(5)]
        for each in mine:
            each.sendall(WHOLE)
            assert each.recv(4096).startswith(b"HTTP/1.1 401")
            each.close()
