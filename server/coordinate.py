"""The life of a coordinator: SuperLink, door, keys, quorum, runs, and what is mended on the way.

::

    flower-server (this process) ── the door: HTTPS, /v1/fleet/* alone ──> hospitals
     ├─ flower-superlink   on loopback; restarted when it ends, its database goes on
     └─ server.worker      the round loop of a run; restarted after its last complete round
"""

import dataclasses
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from medsa_model.checkpoint import is_complete, write_json
from medsa_model.child import start, stop
from medsa_model.config import RunConfig, load_run
from medsa_model.errors import ConfigError, FederationError
from medsa_model.locked import Lock
from medsa_model.logs import logger
from server.app import Rules
from server.config import Federation
from server.directory import choose_directory
from server.door import Door, Keys
from server.flower_private import (
    ControlHttpClient,
    NodeRow,
    bundle,
    control,
    list_nodes,
    register,
    start_run,
    stop_run,
    stop_runs,
    unregister,
)
from server.queue_of_runs import move_run, waiting_runs
from server.revoked import admitted, revoked_keys
from server.serving import Serving, open_door
from server.superlink import launch, prepare

LOOK = 0.2  # seconds between looks at the children
REFRESH = 2.0  # seconds between looks at revoked keys and waiting sites
RESTARTS = 5  # most restarts of a run's worker
TRIES = 30  # most tries to ask the SuperLink, one a second
LEAVE = 5.0  # seconds for sites to hang up after the farewell
FAREWELL = 60.0  # longest wait for sites that are only to be told that all is over
SOON, FIRST_PAUSE, LONGEST_PAUSE = 60.0, 1.0, 30.0  # seconds; of the SuperLink's restarts
AGAIN = (130, 137, 143, 75)  # exit codes of a worker that was ended from outside, or by Flower

T = TypeVar("T")


def has_ended(child: "subprocess.Popen[bytes]") -> bool:
    """Whether a child is no longer there."""
    return child.poll() is not None


class QuorumMissed(FederationError):
    """Too few sites came to the start; exit code 3."""


class RunFailed(FederationError):
    """A run cannot be brought to its end; a coordinator with `serve` goes on to the next."""


class Interrupted(FederationError):
    """Ctrl-C or SIGTERM while a run was not complete; exit code 130."""

    def __init__(self, run: Path) -> None:
        super().__init__(f"run {run} was interrupted")
        self.run = run


class Coordinator:
    """Everything that runs while a federation does; a context manager that ends it all."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.lock = Lock(federation.folder / "lock", "flower-server")
        self.place = prepare(federation.folder, federation.health)
        self.link: subprocess.Popen[bytes] | None = None
        self.worker: subprocess.Popen[bytes] | None = None
        self.serving: Serving | None = None
        self.refreshed = 0.0
        self.launched, self.pause = 0.0, FIRST_PAUSE

    def __enter__(self) -> "Coordinator":
        try:
            self.launch()
            self.ask(stop_runs)  # of an earlier process that was killed
            self.admit()
            context = ssl.create_default_context(cafile=str(self.place.link.certificate))
            inner = httpx.AsyncClient(
                base_url=f"https://{self.place.link.address}", verify=context, timeout=30,
                trust_env=False,
            )  # fmt: skip
            largest = int(self.federation.megabytes * 10**6)
            door = Door(inner, self.keys(), self.place.changed, largest)
            self.serving = open_door(door, self.federation)
            self.note(None)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """End the door and both children."""
        (self.federation.folder / "running.json").unlink(missing_ok=True)
        if self.worker:
            stop(self.worker)
        if self.serving:
            self.serving.close()
        if self.link:
            stop(self.link)
        self.lock.release()

    def keys(self) -> Keys:
        """Who the door lets in by the files as they are now."""
        return Keys(admitted(self.federation), revoked_keys(self.federation.folder))

    def launch(self) -> None:
        """Start the SuperLink; after an end that came soon, not at once."""
        now = time.monotonic()
        if self.launched and now - self.launched < SOON:
            time.sleep(self.pause)
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
        else:
            self.pause = FIRST_PAUSE
        self.launched = time.monotonic()
        self.link = launch(self.place)

    def admit(self) -> None:
        """Register admitted keys at the SuperLink and forget revoked ones; both can be repeated.

        A key that is neither stays registered, for Flower never takes one that it once forgot; the
        door lets admitted ones in alone. Raises `FederationError` for such a key.
        """
        keys, revoked = admitted(self.federation), revoked_keys(self.federation.folder)

        def register_them(client: ControlHttpClient) -> None:
            known = {node.public_key: node for node in list_nodes(client)}
            for key, node in known.items():
                if key in revoked and node.status != "unregistered":
                    unregister(client, node.node_id)
            for key, name in keys.items():
                if key not in known:
                    register(client, key, name)
                elif known[key].status == "unregistered" or known[key].name != name:
                    raise FederationError(
                        f"the key of {name} was registered at Flower before"
                        f"{_otherwise(known[key], name)}, and Flower takes no key twice: move "
                        f"{self.place.folder / 'superlink.db'} away (it holds nothing that a new "
                        "start needs), or let the site make a new pair"
                    )

        self.ask(register_them)

    def nodes(self) -> list[NodeRow]:
        """The nodes of the SuperLink."""
        return self.ask(list_nodes)

    def ask(self, question: Callable[[ControlHttpClient], T]) -> T:
        """Ask the SuperLink, over a restart of it; raises `FederationError`."""
        for _ in range(TRIES):
            try:
                with control(self.place.link) as client:
                    return question(client)
            except httpx.TransportError as error:
                said = type(error).__name__
            except httpx.HTTPStatusError as error:
                said = f"HTTP {error.response.status_code}"
                if error.response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    break
            self.tend()
            time.sleep(1.0)
        raise FederationError(
            f"the SuperLink does not answer as expected ({said}); see "
            f"{self.federation.folder / 'superlink.log'}"
        )

    def is_alone(self) -> bool:
        """Whether no site is connected any more."""
        return all(node.status != "online" for node in self.nodes())

    def tend(self) -> None:
        """Mend what ended and take up what changed; to be called again and again."""
        if self.link is None or self.link.poll() is not None:
            logger.warning("flower-superlink ended; it is started again on the same database")
            self.launch()
        if self.serving and not self.serving.thread.is_alive():
            raise FederationError("the door has stopped listening; start again with --resume")
        if time.monotonic() - self.refreshed > REFRESH and self.serving:
            self.refreshed = time.monotonic()
            try:
                keys = self.keys()
            except ConfigError as error:
                logger.error("%s; the keys of before stay in force", error)
                return
            if keys != self.serving.door.keys:
                self.serving.door.keys = keys
                try:
                    self.admit()
                except FederationError as error:
                    logger.error("%s; until then that site cannot come in", error)
                logger.info(
                    "keys have changed: %s may come in; revoked: %s",
                    ", ".join(sorted(keys.admitted.values())),
                    ", ".join(sorted(set(keys.revoked.values()))) or "none",
                )

    def wait(self, done: Callable[[], bool], seconds: float, look: float) -> bool:
        """Tend until `done` or until `seconds` have passed; returns whether it is done."""
        deadline = time.monotonic() + seconds
        while not (finished := done()) and time.monotonic() < deadline:
            self.tend()
            time.sleep(look)
        return finished

    def gather(self, run: Path) -> int:
        """Wait for all sites, at the end of the wait for the quorum; returns how many came.

        For a `run` that is complete those are enough that come soon, to be told that it is over.
        Raises `QuorumMissed`.
        """
        wanted, quorum = len(admitted(self.federation)), self.federation.quorum
        online: set[str] = set()

        def complete() -> bool:
            now = {node.name for node in self.nodes() if node.status == "online"}
            before = len(online & now)
            for count, name in enumerate(sorted(now - online), start=before + 1):
                logger.info("%s is connected (%d of %d sites)", name, count, wanted)
            for name in sorted(online - now):
                logger.warning("%s is not connected any more", name)
            online.clear()
            online.update(now)
            return len(online) >= wanted

        if is_complete(run):
            self.wait(complete, min(self.federation.join_seconds, FAREWELL), 0.5)
            return len(online)
        if not self.wait(complete, self.federation.join_seconds, 0.5) and len(online) < quorum:
            missing = sorted({site.name for site in self.federation.sites} - online)
            raise QuorumMissed(
                f"{len(online)} of {wanted} sites connected within join_seconds "
                f"({self.federation.join_seconds:.0f}), quorum is {quorum}; missing: "
                f"{', '.join(missing)}. Ask their engineers for `client/run.py --check`"
            )
        return len(online)

    def execute(self, config: RunConfig, run: Path, present: int, farewell: bool) -> int:
        """Run the round loop of `run` to its end over crashes; returns the worker's exit code."""
        rules = Rules(
            nodes=min(present, self.federation.quorum), quorum=self.federation.quorum,
            timeout=self.federation.round_seconds, repeats=self.federation.repeats,
            skip=self.federation.short_round == "skip", farewell=farewell,
            sites=tuple(sorted(site.name for site in self.federation.sites)),
        )  # fmt: skip
        content = bundle({"run": config.name, "sha256": config.sha256})
        for restart in range(RESTARTS + 1):
            run_id = self.ask(partial(start_run, content=content))
            self.note(run)
            link = self.place.link
            self.worker = start(
                [
                    sys.executable, "-m", "server.worker", "--run", str(run),
                    "--address", link.address, "--certificate", str(link.certificate),
                    "--secret-file", str(self.place.secret_file),
                    "--rules", json.dumps(dataclasses.asdict(rules)),
                ],
                None, {"FLWR_HOME": str(self.federation.folder / "flower")},
            )  # fmt: skip
            self.wait(partial(has_ended, self.worker), float("inf"), LOOK)
            code = self.worker.returncode
            if code >= 0 and code not in AGAIN:
                return int(code)
            logger.warning("the worker ended (%d); restart %d of %d", code, restart + 1, RESTARTS)
            self.ask(partial(stop_run, run_id=run_id))
        raise RunFailed(
            f"the worker was ended {RESTARTS + 1} times; go on later with --resume --out {run}"
        )

    def next_study(self) -> tuple[RunConfig, Path]:
        """Wait for a submitted run that can be started; returns it with its new directory."""
        while True:
            waiting: list[Path] = []

            def came(waiting: list[Path] = waiting) -> bool:
                waiting[:] = waiting_runs(self.federation.folder)[:1]
                return bool(waiting)

            self.wait(came, float("inf"), 1.0)
            try:
                config = load_run(waiting[0])
                run = choose_directory(config, self.federation.runs, None, resume=False)
            except (ConfigError, OSError) as error:
                logger.error("%s; it is put aside in queue/refused", error)
                move_run(waiting[0], "refused")
                continue
            move_run(waiting[0], "taken")
            return config, run

    def note(self, run: Path | None) -> None:
        """Write down what `status` needs to find this process; no run while it waits for sites."""
        content = {
            "pid": os.getpid(), "address": self.place.link.address, "health": self.place.health,
            "certificate": str(self.place.link.certificate), "run": str(run or ""),
        }  # fmt: skip
        write_json(self.federation.folder / "running.json", content)


def coordinate(federation: Federation, config: RunConfig, run: Path) -> int:
    """Run one federation, or with `serve` every one that is submitted; returns the exit code.

    Raises `QuorumMissed`, `Interrupted` and other `FederationError`s.
    """
    os.umask(0o077)  # updates and adapters are for this account alone
    first = True
    with Coordinator(federation) as coordinator:
        logger.info(
            "listening at %s:%d for %s:%d; run %s, sha256 %s",
            federation.address.listen, federation.address.listen_port or federation.address.port,
            federation.address.host, federation.address.port, config.name, config.sha256,
        )  # fmt: skip
        while True:
            try:
                code = run_one(coordinator, config, run)
            except KeyboardInterrupt:
                raise Interrupted(run) from None
            except (QuorumMissed, RunFailed) as error:
                if first or not federation.serve:
                    raise
                logger.error("%s", error)
            first = False
            if not federation.serve:
                return code
            coordinator.note(None)
            logger.info("waiting for the next run: flower-server submit")
            try:
                config, run = coordinator.next_study()
            except KeyboardInterrupt:
                return 0


def run_one(coordinator: Coordinator, config: RunConfig, run: Path) -> int:
    """One run from the gathering of its sites to the farewell; returns the worker's exit code."""
    serve = coordinator.federation.serve
    coordinator.note(run)
    present = coordinator.gather(run)
    code = coordinator.execute(config, run, present, farewell=not serve)
    if code:
        return code
    logger.info("run %s is complete: %s", config.name, run)
    if not serve:
        coordinator.wait(coordinator.is_alone, LEAVE, 0.5)
    return 0


def _otherwise(node: NodeRow, name: str) -> str:
    """How a key was registered before, when not as that of `name`."""
    return f" as that of {node.name}" if node.name != name else " and forgotten again"
