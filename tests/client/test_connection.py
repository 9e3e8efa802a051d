"""The way to the coordinator, over real TLS: what a hospital's engineer reads when it is barred."""

import shutil
import signal
import socket
import threading
import time
from base64 import b64decode, encodebytes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from client import connection, join
from client.cli import main
from client.config import SiteConfig, load_site
from client.connection import FinalProblem, check_connection, clock_skew, open_client, read_key
from client.contact import Contact
from client.flower_fleet import signed
from medsa_model.errors import ConnectionProblem, FederationError
from medsa_model.logs import logger
from medsa_model.loopback import free_port
from medsa_model.site_keys import make_key_pair, public_pem
from server.certificates import make_ca, make_server
from server.config import Federation
from server.door import Door, Keys
from server.serving import open_door

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=300)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    """A folder with the federation's authority and a good certificate of the coordinator."""
    folder = tmp_path_factory.mktemp("federation")
    make_ca(folder / "ca.crt", folder / "ca.key", "f", LONG_AGO)
    certify(folder, folder)
    return folder


def certify(
    authority: Path, folder: Path, names: tuple[str, ...] = ("127.0.0.1", "localhost"),
    days: int = 397, at: datetime = NOW,
) -> Path:  # fmt: skip
    """Make a coordinator's certificate in `folder`."""
    folder.mkdir(exist_ok=True)
    signer = authority / "ca.crt", authority / "ca.key"
    make_server(folder / "server.crt", folder / "server.key", signer, names, days, at)
    return folder


@contextmanager
def coordinator(folder: Path, app: Any, tls: bool = True) -> Iterator[str]:
    """The address of a door that is open, with the certificate in `folder`."""
    port = free_port()
    address = {"host": "127.0.0.1", "port": port, "listen": "127.0.0.1", "tls": tls}
    content = {"name": "f", "folder": folder, "run": "run.yaml", "quorum": 1,
               "sites": [{"name": "a"}], "address": address}  # fmt: skip
    serving = open_door(app, Federation.model_validate(content))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        serving.close()
        assert not serving.thread.is_alive()


def door(*admitted: Path, revoked: tuple[Path, ...] = ()) -> Door:
    """A door to a SuperLink that answers as Flower does to a question about no run."""

    def names(sites: tuple[Path, ...]) -> dict[bytes, str]:
        return {public_pem(read_key(site / "site.key").public_key()): site.name for site in sites}

    inner = httpx.AsyncClient(
        transport=httpx.MockTransport(lambda request: httpx.Response(401)), base_url="https://link"
    )
    return Door(inner, Keys(names(admitted), names(revoked)))


def answering(status: int) -> Callable[..., Any]:
    """Any web server, which is no coordinator."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return app


@dataclass
class Switch:
    """One server for many tests, which takes a while to close: `app` answers."""

    address: str = ""
    app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            return await self.app(scope, receive, send)
        for word in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{word}.complete"})


@pytest.fixture(scope="module")
def server(authority) -> Iterator[Switch]:
    switch = Switch()
    with coordinator(authority, switch) as switch.address:
        yield switch


@pytest.fixture
def reach(server) -> Callable[[Any], str]:
    """The address of a coordinator with a good certificate, where the given app answers."""

    def at(app: Any) -> str:
        server.app = app
        return server.address

    return at


@pytest.fixture
def site(tmp_path, authority) -> Path:
    """The unpacked kit of a hospital, without its site.yaml."""
    folder = tmp_path / "site_a"
    folder.mkdir()
    make_key_pair(folder / "site.key", folder / "site.pub", "site_a")
    shutil.copy(authority / "ca.crt", folder)
    return folder


def dial(site: Path, address: str) -> Path:
    """Write the site YAML."""
    content = {"site": "site_a", "coordinator": {"address": address}, "device": "cpu",
               "data": {"kind": "synthetic"}}  # fmt: skip
    (site / "site.yaml").write_text(yaml.safe_dump(content))
    return site / "site.yaml"


def config(site: Path, address: str) -> SiteConfig:
    return load_site(dial(site, address))


@pytest.fixture(autouse=True)
def contained(monkeypatch) -> Iterator[None]:
    """No child process, no waiting, and logging and signals as they were before."""

    def started(*_: object) -> None:
        raise FederationError("the site was started")

    def waits(seconds: float) -> None:
        raise AssertionError(f"waits for {seconds} s")

    monkeypatch.setattr(join, "start_worker", started)
    monkeypatch.setattr(join, "start_supernode", started)
    monkeypatch.setattr(join, "time", SimpleNamespace(sleep=waits, monotonic=time.monotonic))
    handlers, propagate, level = [*logger.handlers], logger.propagate, logger.level
    terminate = signal.getsignal(signal.SIGTERM)
    yield
    for handler in logger.handlers:
        if handler not in handlers:
            handler.close()
    logger.handlers[:] = handlers
    logger.propagate, logger.level = propagate, level
    signal.signal(signal.SIGTERM, terminate)


@pytest.fixture
def says(site, capsys) -> Callable[[str], str]:
    """The one line with which `python client/run.py --config site.yaml` ends with code 1."""

    def run(address: str) -> str:
        assert main(["--config", str(dial(site, address))]) == 1
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        assert err.startswith("client/run.py: ") and err.count("\n") == 1
        return err

    return run


def test_with_everything_right_the_site_starts(reach, site, says):
    address = reach(door(site))
    assert abs(check_connection(config(site, address))) < 60
    assert says(address) == "client/run.py: the site was started\n"
    check_connection(config(site, address.replace("127.0.0.1", "localhost")))


@pytest.mark.fault
def test_the_certificate_of_another_authority(tmp_path, authority, site, says):
    other = tmp_path / "other"
    other.mkdir()
    make_ca(other / "ca.crt", other / "ca.key", "f", LONG_AGO)  # of the same name, too
    with coordinator(certify(other, other), door(site)) as address:
        said = says(address)
    assert f"the certificate of {address} is not signed by this site's coordinator.ca" in said
    assert "nothing was sent" in said and "fingerprints by telephone" in said


@pytest.mark.fault
def test_a_certificate_that_has_expired(tmp_path, authority, site, says):
    expired = certify(authority, tmp_path / "f", days=20, at=NOW - timedelta(days=21))
    with coordinator(expired, door(site)) as address:
        said = says(address)
    assert f"the certificate of {address} has expired" in said
    assert "flower-server provision" in said and "clock" in said


@pytest.mark.fault
def test_a_certificate_that_is_not_valid_yet(tmp_path, authority, site, says):
    early = certify(authority, tmp_path / "f", at=NOW + timedelta(days=2))
    with coordinator(early, door(site)) as address:
        said = says(address)
    assert f"the certificate of {address} is not valid yet: this machine's clock is behind" in said


@pytest.mark.fault
def test_a_coordinator_without_tls(authority, site, says):
    """Nobody in between can talk a site into sending in the clear."""
    seen = door(site)
    with coordinator(authority, seen, tls=False) as address:
        said = says(address)
    assert f"{address} does not speak TLS" in said and "nothing was sent" in said
    assert seen.stamps.seen == {}  # no signed request arrived


@pytest.mark.fault
def test_a_key_that_is_not_registered(reach, site, says):
    said = says(reach(door()))
    assert "turns this site away: this key is not registered at the coordinator" in said
    assert "Ask the coordinator for a new kit, or send it your site.pub" in said


@pytest.mark.fault
def test_a_key_that_was_revoked(reach, site, says):
    said = says(reach(door(revoked=(site,))))
    assert "turns this site away: this key was revoked by the coordinator" in said
    assert "for good" in said and "has to be a new pair" in said


@pytest.mark.fault
def test_a_site_under_another_name_than_its_key(reach, site, says):
    """Else the coordinator would leave it out and nobody at the hospital would know."""
    (site.parent / "other").mkdir()
    kit = shutil.copytree(site, site.parent / "other" / "site_z")
    said = says(reach(door(Path(kit))))
    assert "site is 'site_a' in the site YAML" in said and "this key for 'site_z'" in said


@pytest.mark.fault
def test_a_copied_request(reach, site):
    """Of somebody who read what a site sent: it opens the door once."""
    with open_client(config(site, reach(door(site)))) as client:
        headers = signed(read_key(site / "site.key"))
        first, copy = (client.post("/v1/fleet/get-run", headers=headers) for _ in range(2))
        other = client.post("/v1/fleet/pull-messages", headers=headers)
        again = client.post("/v1/fleet/get-run", headers=signed(read_key(site / "site.key")))
    assert first.status_code == again.status_code == 401  # Flower's answer
    assert connection.DOOR not in first.headers and connection.DOOR not in again.headers
    for answer in (copy, other):
        assert answer.status_code == 401 and answer.headers[connection.DOOR] == "refused"
        assert answer.json() == {
            "code": 9006, "detail": "this stamp was used before: the request is a copy"
        }  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize(
    ("names", "dialled"),
    [(("coordinator.example.org",), "127.0.0.1"), (("127.0.0.1",), "localhost")],
)
def test_a_certificate_for_another_name(tmp_path, authority, site, says, names, dialled):
    with coordinator(certify(authority, tmp_path / "f", names), door(site)) as address:
        said = says(address.replace("127.0.0.1", dialled))
    assert f"is for another name than {dialled}" in said and "address.also" in said


@pytest.mark.fault
def test_a_clock_that_is_wrong(reach, site, says, monkeypatch):
    """It says by how much."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr("client.flower_fleet.datetime", Ahead)
    monkeypatch.setattr(connection, "datetime", Ahead)
    said = says(reach(door(site)))
    difference = float(said.split("clock differs by ")[1].split(" s:")[0])
    assert 3540 < difference < 3660 and "set it (NTP)" in said
    assert "a clock that is wrong" in said


@pytest.mark.parametrize("status", [200, 302, 403, 404])
def test_a_server_that_is_no_coordinator(reach, site, says, status):
    address = reach(answering(status))
    said = says(address)
    assert f"{address} answers (HTTP {status}), but not as a fed-medsa coordinator" in said


def test_a_name_that_can_be_none(site, says):
    assert "a..b cannot be the name of a computer" in says("a..b:9092")


@contextmanager
def hanging_up() -> Iterator[str]:
    """A port at which every connection ends at once: a proxy whose coordinator is away."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                with listener.accept()[0] as connection:
                    connection.recv(65536)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


@contextmanager
def silent() -> Iterator[str]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def closed() -> Iterator[str]:
    yield f"127.0.0.1:{free_port()}"


@contextmanager
def unknown() -> Iterator[str]:
    yield "nowhere.invalid:9092"


TRIED_AGAIN = {
    "a closed port": (closed, "cannot be reached (Connection refused)", "outbound connection"),
    "a silent port": (silent, "cannot be reached (", "a firewall is in between"),
    "an unknown name": (unknown, "the name nowhere.invalid is not known here", "DNS"),
    "a port that hangs up": (
        hanging_up, "closed the connection before it began", "the coordinator is not running",
    ),
}  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize(("where", "found", "advice"), TRIED_AGAIN.values(), ids=TRIED_AGAIN)
def test_what_may_pass_is_tried_again(site, monkeypatch, capsys, where, found, advice):
    """With longer and longer waits; Ctrl-C ends it."""
    works, waits = socket.getaddrinfo, []

    def look_up(host: Any, *more: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid"):  # without a network
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return works(host, *more, **options)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(connection, "TIMEOUT", 0.05 if where is silent else 10.0)
    monkeypatch.setattr(join.time, "sleep", sleep)
    with where() as address:
        assert main(["--config", str(dial(site, address))]) == 0
    assert waits == [1, 2, 4]
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.count("next try in") == 3
    assert found in said and advice in said and "next try in 4 s" in said


def test_waits_grow_to_half_a_minute_and_no_further(site, monkeypatch):
    waits: list[float] = []
    problems = [ConnectionProblem("away")] * 8

    def check(_: SiteConfig) -> float:
        if problems:
            raise problems.pop()
        return 0.0

    monkeypatch.setattr(join, "check_connection", check)
    monkeypatch.setattr(join.time, "sleep", waits.append)
    join.wait_for_coordinator(config(site, "127.0.0.1:1"), Contact())
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.fault
@pytest.mark.parametrize("behind", ["door", "proxy"])
def test_a_superlink_that_restarts_may_pass(reach, site, monkeypatch, behind):
    """The site came together with the coordinator's restart: no reason to give up."""
    monkeypatch.setattr("server.door.COMES_BACK", 0.0)
    app: Any = answering(502)
    if behind == "door":
        app = door(site)

        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        app.inner = httpx.AsyncClient(
            transport=httpx.MockTransport(refuse), base_url="https://link"
        )
        monkeypatch.setattr("server.door.PATIENCE", 0.0)
    with pytest.raises(ConnectionProblem, match=r"is not ready \(HTTP 50[23]\)") as caught:
        check_connection(config(site, reach(app)))
    assert not isinstance(caught.value, FinalProblem)


def of_another_kind() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def with_a_passphrase() -> bytes:
    """As `ssh-keygen` writes it when it is given one; what is encrypted are zeros here."""

    def text(content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + content

    def number(value: int) -> bytes:
        return value.to_bytes(4, "big")

    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    public = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    options = text(text(bytes(16)) + number(16))
    content = b"openssh-key-v1\0" + text(b"aes256-ctr") + text(b"bcrypt") + options
    content += number(1) + text(b64decode(public)) + text(bytes(256))
    name = b"OPENSSH PRIVATE KEY-----\n"
    return b"-----BEGIN " + name + encodebytes(content) + b"-----END " + name


NO_KEY = "is no OpenSSH private key without a passphrase"
KEYS: dict[str, tuple[Callable[[], bytes], str]] = {
    "something else": (lambda: b"key", NO_KEY),
    "nothing": (lambda: b"", NO_KEY),
    "with a passphrase": (with_a_passphrase, NO_KEY),
    "of another kind": (of_another_kind, "is not on an elliptic curve"),
}


@pytest.mark.parametrize(("content", "found"), KEYS.values(), ids=KEYS)
def test_a_key_that_cannot_be_used(site, says, content, found):
    (site / "site.key").write_bytes(content())
    said = says("127.0.0.1:1")
    assert f"key {site / 'site.key'} {found}" in said and "client/run.py keygen" in said


def test_a_key_that_is_missing(site, says):
    (site / "site.key").unlink()
    said = says("127.0.0.1:1")
    assert "cannot be read (No such file or directory)" in said and "take it from the kit" in said


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_can_read(site, says, mode):
    (site / "site.key").chmod(mode)
    said = says("127.0.0.1:1")
    assert f"can be read by others (mode {mode:o}" in said
    assert f"chmod 600 {site / 'site.key'}" in said


@pytest.mark.parametrize("content", [b"", b"certificate", None])
def test_a_ca_that_is_none(site, says, content):
    if content is None:
        (site / "ca.crt").unlink()
    else:
        (site / "ca.crt").write_bytes(content)
    said = says("127.0.0.1:1")
    assert f"coordinator.ca {site / 'ca.crt'} cannot be read as certificates" in said
    assert "take ca.crt from the kit" in said


def test_without_a_ca_the_systems_authorities_decide(reach, site):
    """And these do not know the federation's own."""
    settings = config(site, reach(door(site)))
    free = settings.coordinator.model_copy(update={"ca": None})
    with pytest.raises(FinalProblem, match="is not signed by"):
        check_connection(settings.model_copy(update={"coordinator": free}))


def test_no_proxy_of_the_environment_is_asked(reach, site, monkeypatch):
    """A site has one outbound connection, to its coordinator."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    check_connection(config(site, reach(door(site))))


def test_clocks_are_compared_by_the_coordinators_date():
    def answer(**headers: str) -> httpx.Response:
        return httpx.Response(401, headers=headers)

    later = datetime.now(UTC) + timedelta(hours=1)
    text = later.strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert 3540 < clock_skew(answer(date=text)) < 3660
    assert clock_skew(answer()) == clock_skew(answer(date="yesterday")) == 0
