"""The life of a site: SuperNode and worker, supervised until the federation is over.

::

    client/run.py (this process)
     ├─ client.supernode  Flower's side: dials out to the coordinator; its own port is on loopback
     └─ client.worker     holds backbone and GPU; executes the installed ClientApp alone
"""

import logging
import os
import secrets
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from client.config import SiteConfig
from client.connection import FinalProblem, check_connection
from client.contact import Contact, answered, failed, watch
from client.node import end_earlier_node, has_node, note_node
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
LARGEST_LOG = 20 * 2**20  # bytes; the log of the start before is kept beside


@dataclass
class Processes:
    """What runs at a site.

    `crashes` are the times (`time.monotonic()`) of the worker's ends, `began` is when the
    SuperNode was started and `wait` how long before that, in seconds, 0 for the first time. What
    it writes into its log begins at byte `log_start`; `connected` is whether it has said so there.
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
    log_start: int = 0
    connected: bool = False
    contact: Contact = field(default_factory=Contact)


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
    ended = Event()
    try:
        warn_of_audit_log(config.state / AUDIT)
        wait_for_coordinator(config, site.contact)
        end_earlier_node(config)
        for name in (READY, SUPERNODE):
            (config.state / name).unlink(missing_ok=True)
        site.worker = start_worker(site)
        while True:
            time.sleep(LOOK)
            if site.supernode is None and (config.state / READY).exists():
                # not before: who is connected is expected to answer
                where = config.coordinator.address
                logger.info("%s connects to %s; logs in %s", config.site, where, config.state)
                site.supernode = start_supernode(site)
                Thread(target=watch, args=(config, site.contact, ended), daemon=True).start()
            note_node(config.state)
            if site.supernode and not site.connected and has_node(config.state, site.log_start):
                site.connected = True
                logger.info("connected, waiting for the coordinator")
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
        ended.set()
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


def wait_for_coordinator(config: SiteConfig, contact: Contact) -> None:
    """Return when the coordinator can be reached; raises `FinalProblem` when waiting is useless.

    Before the first contact every try is told, later its loss and its return alone.
    """
    wait = FIRST_WAIT
    while True:
        try:
            check_connection(config)
            if wait > FIRST_WAIT and not contact.made:
                logger.info("the coordinator answers")
            answered(contact)
            return
        except FinalProblem:
            raise
        except ConnectionProblem as problem:
            if contact.made:
                failed(contact, problem)
            else:
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
    site.began, site.connected = time.monotonic(), False
    site.log_start = log.stat().st_size if log.exists() else 0
    return start(command, log, {**environment(config), "NO_COLOR": "1"})


def restart_supernode(site: Processes, code: int) -> None:
    """Start the SuperNode again, after longer and longer waits while it ends soon each time."""
    steady = time.monotonic() - site.began > STEADY
    site.wait = min(2 * site.wait, LONGEST_WAIT) if site.wait and not steady else FIRST_WAIT
    # that the coordinator is away was told, and is reason enough
    level = logging.DEBUG if site.contact.told else logging.WARNING
    logger.log(
        level,
        "the connection ended (flower-supernode: %s) and is opened again in %.0f s; when this "
        "repeats although the coordinator runs, another process takes part with this site's key "
        "(end that one, or tell the coordinator): see %s",
        code, site.wait, site.config.state / "supernode.log",
    )  # fmt: skip
    time.sleep(site.wait)
    wait_for_coordinator(site.config, site.contact)
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
