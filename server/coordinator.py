"""What a coordinator has running: SuperLink, door and a run's worker, mended when they end.

::

    flower-server (this process) ── the door: HTTPS, /v1/fleet/* alone ──> hospitals
     ├─ flower-superlink   on loopback; restarted when it ends, its database goes on
     └─ server.worker      the round loop of a run; restarted after its last complete round
"""

import os
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from medsa_model.checkpoint import write_json
from medsa_model.child import stop
from medsa_model.errors import ConfigError, FederationError
from medsa_model.locked import Lock
from medsa_model.logs import logger
from server.config import Federation
from server.door import Door, Keys
from server.flower_private import (
    ControlHttpClient,
    NodeRow,
    control,
    list_nodes,
    register,
    stop_runs,
    unregister,
)
from server.revoked import admitted, revoked_keys
from server.serving import Serving, open_door
from server.superlink import launch, prepare

REFRESH = 2.0  # seconds between looks at revoked keys and waiting sites
TRIES = 30  # most tries to ask the SuperLink, one a second
SOON, FIRST_PAUSE, LONGEST_PAUSE = 60.0, 1.0, 30.0  # seconds; of the SuperLink's restarts

T = TypeVar("T")


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
                trust_env=False, limits=httpx.Limits(max_connections=None),  # three of each site
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

    def note(self, run: Path | None) -> None:
        """Write down what `status` needs to find this process; no run while it waits for sites."""
        content = {
            "pid": os.getpid(), "address": self.place.link.address, "health": self.place.health,
            "certificate": str(self.place.link.certificate), "run": str(run or ""),
        }  # fmt: skip
        write_json(self.federation.folder / "running.json", content)


def _otherwise(node: NodeRow, name: str) -> str:
    """How a key was registered before, when not as that of `name`."""
    return f" as that of {node.name}" if node.name != name else " and forgotten again"
