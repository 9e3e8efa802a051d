"""The door on its port: what a stranger finds there, and when it cannot be opened."""

import http.client
import shutil
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from medsa_model.errors import FederationError
from medsa_model.loopback import free_port
from server.certificates import make_ca, make_server
from server.config import Federation
from server.door import Door, Keys
from server.serving import open_door


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
