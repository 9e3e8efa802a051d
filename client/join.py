"""The life of a site: SuperNode and worker, supervised until the federation is over.

::

    client/run.py (this process)
     ├─ client.supernode  Flower's side: dials out to the coordinator; its own port is on loopback
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
from client.flower_fleet import deactivate
from client.reached import SUPERNODE
from client.worker import READY, write_secret
from medsa_model.audit_log import NAME as AUDIT
from medsa_model.audit_log import verify
from medsa_model.checkpoint import write_json
from medsa_model.child import start, stop
from medsa_model.errors import AuditError, ConnectionProblem, FederationError
from medsa_model.locked import Lock
from medsa_model.logs import logger
from medsa_model.loopback import free_port

LOOK = 0.2  # seconds between looks at the children
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between tries: to reach, to start again
STEADY = 60.0  # seconds after which a SuperNode that ends is started again after the first wait
CRASHES, WITHIN = 5, 900.0  # most crashes of the worker within so many seconds
NODE = re.compile(rb"SuperNode ID: (\d+)")
LARGEST_LOG = 20 * 2**20  # bytes; the log of the start before is kept beside


@dataclass
class Processes:
    """What runs at a site.

    `crashes` are the times (`time.monotonic()`) of the worker's ends, `began` is when the
    SuperNode was started and `wait` how long before that, in seconds, 0 for the first time.
    """

    config: SiteConfig
    file: Path
    overrides: tuple[str, ...]
    secret_file: Path
    supernode: "subprocess.Popen[bytes] | None" = None
    worker: "subprocess.Popen[bytes] | None" = None
    crashes: list[float] = field(default_factory=list)
    began: float = 0.0
    wait: float = 0.0


def join(config: SiteConfig, file: Path, overrides: tuple[str, ...]) -> int:
    """Take part until the farewell; returns 0, or 1 when the worker says that it cannot.

    Raises `FinalProblem` when coordinator and site cannot come together, `ConfigError` when the
    state folder is in use, `FederationError` when the worker crashes again and again.
    """
    lock = Lock(config.state / "lock", "client/run.py")
    secret_file = config.state / "secret"
    write_secret(secret_file, secrets.token_hex(32))
    site = Processes(config, file, overrides, secret_file)
    choose_health(config)
    try:
        warn_of_audit_log(config.state / AUDIT)
        wait_for_coordinator(config)
        end_earlier_node(config)
        for name in (READY, SUPERNODE):
            (config.state / name).unlink(missing_ok=True)
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
                restart_supernode(site, site.supernode.returncode)
    finally:
        children = [child for child in (site.worker, site.supernode) if child]
        for child in children:
            child.terminate()  # all at once, then one after the other is waited for
        for child in children:
            stop(child)
        (config.state / "running.json").unlink(missing_ok=True)
        lock.release()


def warn_of_audit_log(place: Path) -> None:
    """Say before anything is added that a log is not as it was written; it stops nothing."""
    try:
        if place.exists():
            verify(place)
    except AuditError as error:
        logger.error("%s", error)


def wait_for_coordinator(config: SiteConfig) -> None:
    """Return when the coordinator can be reached; raises `FinalProblem` when waiting is useless."""
    wait = FIRST_WAIT
    while True:
        try:
            check_connection(config)
            if wait > FIRST_WAIT:
                logger.info("the coordinator answers")
            return
        except FinalProblem:
            raise
        except ConnectionProblem as problem:
            logger.warning("%s; next try in %.0f s", problem, wait)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def choose_health(config: SiteConfig) -> str:
    """Where the SuperNode tells how it is; noted for `--check`, with this process."""
    health = config.health or f"127.0.0.1:{free_port()}"
    write_json(config.state / "running.json", {"pid": os.getpid(), "health": health})
    return health


def start_supernode(site: Processes) -> "subprocess.Popen[bytes]":
    """Start Flower's client side; its output goes to `supernode.log`.

    Its ports are chosen now, since any program of this machine may take a port that is free. The
    worker reads where it listens in the state folder.
    """
    config, port = site.config, free_port()
    command = [
        sys.executable, "-P", "-m", "client.supernode",
        "--superlink", config.coordinator.address,
        "--auth-supernode-private-key", str(config.key),
        "--isolation", "process", "--host", "127.0.0.1", "--port", str(port),
        "--superexec-auth-secret-file", str(site.secret_file),
        "--health-server-address", choose_health(config),
    ]  # fmt: skip
    if config.coordinator.ca:
        command += ["--root-certificates", str(config.coordinator.ca)]
    log = config.state / "supernode.log"
    if log.exists() and log.stat().st_size > LARGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
    write_json(config.state / SUPERNODE, {"address": f"127.0.0.1:{port}"})
    site.began = time.monotonic()
    return start(command, log, {**environment(config), "NO_COLOR": "1"})


def restart_supernode(site: Processes, code: int) -> None:
    """Start the SuperNode again, after longer and longer waits while it ends soon each time."""
    steady = time.monotonic() - site.began > STEADY
    site.wait = min(2 * site.wait, LONGEST_WAIT) if site.wait and not steady else FIRST_WAIT
    logger.warning(
        "the connection ended (flower-supernode: %s) and is opened again in %.0f s; when this "
        "repeats although the coordinator runs, another process takes part with this site's key "
        "(end that one, or tell the coordinator): see %s",
        code, site.wait, site.config.state / "supernode.log",
    )  # fmt: skip
    time.sleep(site.wait)
    wait_for_coordinator(site.config)
    end_earlier_node(site.config)
    site.supernode = start_supernode(site)


def start_worker(site: Processes) -> "subprocess.Popen[bytes]":
    """Start the process that works; it writes to this terminal."""
    command = [
        sys.executable, "-P", "-m", "client.worker", "--config", str(site.file),
        "--secret-file", str(site.secret_file), *site.overrides,
    ]  # fmt: skip
    return start(command, None, environment(site.config))


def environment(config: SiteConfig) -> dict[str, str]:
    """Variables of both children: these packages, and a folder for what Flower writes."""
    path = os.pathsep.join(
        [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    home = str(config.state / "flower")
    return {"PYTHONPATH": path.rstrip(os.pathsep), "FLWR_HOME": home}


def restart_worker(site: Processes, code: int) -> None:
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
