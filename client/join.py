"""The life of a site: SuperNode and worker, supervised until the federation is over.

::

    client/run.py (this process)
     ├─ flower-supernode  dials out to the coordinator; its own port is on loopback
     └─ client.worker     holds backbone and GPU; executes the installed ClientApp alone
"""

import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from client.config import SiteConfig
from client.connection import FinalProblem, check_connection, open_client, read_key
from client.flower_private import deactivate
from client.worker import READY, write_secret
from medsa_model.checkpoint import write_json
from medsa_model.child import start, stop
from medsa_model.errors import ConnectionProblem, FederationError
from medsa_model.locked import Lock
from medsa_model.logs import logger
from medsa_model.loopback import free_port

LOOK = 0.2  # seconds between looks at the children
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between tries to reach the coordinator
CRASHES, WITHIN = 5, 900.0  # most crashes of the worker within so many seconds
NODE = re.compile(rb"SuperNode ID: (\d+)")
LARGEST_LOG = 20 * 2**20  # bytes; the log of the start before is kept beside


@dataclass
class Site:
    """What runs at a site. `crashes` are the times (`time.monotonic()`) of the worker's ends."""

    config: SiteConfig
    file: Path
    overrides: tuple[str, ...]
    port: int
    health: str
    secret_file: Path
    supernode: "subprocess.Popen[bytes] | None" = None
    worker: "subprocess.Popen[bytes] | None" = None
    crashes: list[float] = field(default_factory=list)


def join(config: SiteConfig, file: Path, overrides: tuple[str, ...]) -> int:
    """Take part until the farewell; returns 0, or 1 when the worker says that it cannot.

    Raises `FinalProblem` when coordinator and site cannot come together, `ConfigError` when the
    state folder is in use, `FederationError` when the worker crashes again and again.
    """
    lock = Lock(config.state / "lock", "client/run.py")
    secret_file = config.state / "secret"
    write_secret(secret_file, secrets.token_hex(32))
    health = config.health or f"127.0.0.1:{free_port()}"
    site = Site(config, file, overrides, free_port(), health, secret_file)
    running = config.state / "running.json"
    write_json(running, {"pid": os.getpid(), "health": health})
    try:
        wait_for_coordinator(config)
        end_earlier_node(config)
        (config.state / READY).unlink(missing_ok=True)
        site.worker = start_worker(site)
        while True:
            time.sleep(LOOK)
            if site.supernode is None and (config.state / READY).exists():
                # not before: who is connected is expected to answer
                site.supernode = start_supernode(site)
                where = config.coordinator.address
                logger.info("%s takes part at %s; logs in %s", config.site, where, config.state)
            note_node(config.state)
            code = site.worker.poll()
            if code in (0, 1):
                if code == 0:
                    logger.info("the federation is over")
                return int(code)
            if code is not None:
                restart_worker(site, code)
            if site.supernode and site.supernode.poll() is not None:
                logger.warning(
                    "flower-supernode ended (%s) and is started again; when this repeats, another "
                    "process takes part with this site's key (end that one, or tell the "
                    "coordinator): see %s", site.supernode.returncode,
                    config.state / "supernode.log",
                )  # fmt: skip
                wait_for_coordinator(config)
                end_earlier_node(config)
                site.supernode = start_supernode(site)
    finally:
        for child in (site.worker, site.supernode):
            if child:
                stop(child)
        running.unlink(missing_ok=True)
        lock.release()


def wait_for_coordinator(config: SiteConfig) -> None:
    """Return when the coordinator can be reached; raises `FinalProblem` when waiting is useless."""
    wait = FIRST_WAIT
    while True:
        try:
            check_connection(config)
            return
        except FinalProblem:
            raise
        except ConnectionProblem as problem:
            logger.warning("%s; next try in %.0f s", problem, wait)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def start_supernode(site: Site) -> "subprocess.Popen[bytes]":
    """Start Flower's client side; its output goes to `supernode.log`."""
    config = site.config
    command = [
        str(Path(sys.executable).parent / "flower-supernode"),
        "--superlink", config.coordinator.address,
        "--auth-supernode-private-key", str(config.key),
        "--isolation", "process", "--host", "127.0.0.1", "--port", str(site.port),
        "--superexec-auth-secret-file", str(site.secret_file),
        "--health-server-address", site.health,
    ]  # fmt: skip
    if config.coordinator.ca:
        command += ["--root-certificates", str(config.coordinator.ca)]
    log = config.state / "supernode.log"
    if log.exists() and log.stat().st_size > LARGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
    return start(command, log, {"FLWR_HOME": str(config.state / "flower"), "NO_COLOR": "1"})


def start_worker(site: Site) -> "subprocess.Popen[bytes]":
    """Start the process that works; it writes to this terminal."""
    command = [
        sys.executable, "-m", "client.worker", "--config", str(site.file),
        "--address", f"127.0.0.1:{site.port}", "--secret-file", str(site.secret_file),
        *site.overrides,
    ]  # fmt: skip
    path = os.pathsep.join(
        [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    home = str(site.config.state / "flower")
    return start(command, None, {"PYTHONPATH": path.rstrip(os.pathsep), "FLWR_HOME": home})


def restart_worker(site: Site, code: int) -> None:
    """Start the worker again; raises `FederationError` when it crashes again and again."""
    now = time.monotonic()
    site.crashes = [*(at for at in site.crashes if now - at < WITHIN), now]
    if len(site.crashes) > CRASHES:
        raise FederationError(
            f"the worker crashed {len(site.crashes)} times within {WITHIN / 60:.0f} minutes (last "
            f"exit code {code}): is there enough memory on the device? The command was "
            f"{shlex.join(['client/run.py', '--config', str(site.file)])}"
        )
    logger.warning("the worker ended (%d); it is started again", code)
    site.worker = start_worker(site)


def note_node(state: Path) -> None:
    """Keep the node id that Flower gave this site, from the SuperNode's log."""
    log, place = state / "supernode.log", state / "node"
    try:
        if place.exists() and place.stat().st_mtime >= log.stat().st_mtime:
            return
        found = NODE.findall(log.read_bytes())
    except OSError:
        return
    if found:
        place.write_text(found[-1].decode())


def end_earlier_node(config: SiteConfig) -> None:
    """Tell the coordinator that a process of this site that was killed is no longer there.

    Else it would count as connected for a minute, in which the new one is not let in.
    """
    place = config.state / "node"
    try:
        node_id = int(place.read_text())
    except (OSError, ValueError):
        return
    with open_client(config) as client:
        try:
            deactivate(client, read_key(config.key), node_id)
        except httpx.HTTPError as error:
            logger.debug("no farewell for the earlier node: %s", error)
