"""Flower's SuperLink as a supervised child on loopback: started, probed, restarted."""

import os
import secrets
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from medsa_model.child import start
from medsa_model.errors import FederationError
from medsa_model.loopback import free_port
from server.certificates import make_loopback
from server.flower_private import SuperLink

STARTS = 60.0  # seconds for the SuperLink to answer


@dataclass(frozen=True)
class Place:
    """Where this start's SuperLink is: reached at `link`, probed at `health`, kept in `folder`."""

    folder: Path
    link: SuperLink
    key: Path
    secret_file: Path
    health: str

    def changed(self) -> object:
        """What is another value whenever the SuperLink has written to its database."""
        files = (self.folder / f"superlink.db{end}" for end in ("", "-wal"))
        stats = (file.stat() if file.exists() else None for file in files)
        return tuple((each.st_mtime_ns, each.st_size) if each else None for each in stats)


def prepare(folder: Path, health: str | None) -> Place:
    """A certificate, a secret and free ports for the SuperLink of this start."""
    running = folder / "running"
    running.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, key = make_loopback(running)
    secret = secrets.token_bytes(32)
    secret_file = running / "secret"
    secret_file.unlink(missing_ok=True)
    descriptor = os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    link = SuperLink(f"127.0.0.1:{free_port()}", certificate, secret)
    return Place(folder, link, key, secret_file, health or f"127.0.0.1:{free_port()}")


def launch(place: Place) -> "subprocess.Popen[bytes]":
    """Start the SuperLink and wait until it answers; raises `FederationError`."""
    host, port = place.link.address.split(":")
    certificate = str(place.link.certificate)
    command = [
        sys.executable, "-P", "-m", "server.flower_superlink",
        "--host", host, "--port", port, "--isolation", "process",
        "--ssl-certfile", certificate, "--ssl-keyfile", str(place.key),
        "--ssl-ca-certfile", certificate,
        "--enable-supernode-auth", "--database", str(place.folder / "superlink.db"),
        "--superexec-auth-secret-file", str(place.secret_file),
        "--health-server-address", place.health,
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    log = place.folder / "superlink.log"
    child = start(command, log, {"FLWR_HOME": str(place.folder / "flower")})
    deadline = time.monotonic() + STARTS
    context = ssl.create_default_context(cafile=certificate)
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise FederationError(f"flower-superlink ended at its start; see {log}")
        try:
            httpx.get(f"https://{place.link.address}/health", verify=context, timeout=2)
            return child
        except httpx.TransportError:
            time.sleep(0.1)
    child.kill()
    raise FederationError(f"flower-superlink did not answer within {STARTS:.0f} s; see {log}")
