"""The runs of a coordinator: wait for the sites, run the rounds, wait for the next run."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from medsa_model.audit_log import NAME as AUDIT
from medsa_model.checkpoint import is_complete
from medsa_model.child import start
from medsa_model.config import RunConfig, load_run
from medsa_model.errors import ConfigError, FederationError
from medsa_model.logs import logger
from medsa_model.tracking import tracked
from server.config import Federation
from server.coordinator import Coordinator
from server.directory import choose_directory
from server.flower_private import (
    bundle,
    start_run,
    stop_run,
)
from server.page_serving import open_page
from server.page_state import PageState
from server.page_words import INTERRUPTED
from server.queue_of_runs import move_run, waiting_runs
from server.revoked import admitted
from server.rules import Rules

LOOK = 0.2  # seconds between looks at the children
RESTARTS = 5  # most restarts of a run's worker
LEAVE = 5.0  # seconds for sites to hang up after the farewell
FAREWELL = 60.0  # longest wait for sites that are only to be told that all is over
COMPLETE = "The run is complete."
ENDED = "The run has ended with exit code {}: the log of the coordinator says why."
RESTARTED = "The run's worker was ended again and again: the log of the coordinator says more."
AGAIN = (130, 137, 143, 75)  # exit codes of a worker that was ended from outside, or by Flower


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


def gather(coordinator: Coordinator, run: Path, least: int = 1) -> int:
    """Wait for all sites, at the end of the wait for the quorum; returns how many came.

    The quorum is the federation's, or the `least` number of sites that the strategy rests on.
    For a `run` that is complete those are enough that come soon, to be told that it is over.
    Raises `QuorumMissed`.
    """
    federation = coordinator.federation
    wanted, quorum = len(admitted(federation)), max(federation.quorum, least)
    online: set[str] = set()

    def complete() -> bool:
        now = {node.name for node in coordinator.nodes() if node.status == "online"}
        before = len(online & now)
        for count, name in enumerate(sorted(now - online), start=before + 1):
            logger.info("%s is connected (%d of %d sites)", name, count, wanted)
        for name in sorted(online - now):
            logger.warning("%s is not connected any more", name)
        online.clear()
        online.update(now)
        return len(online) >= wanted

    if is_complete(run):
        coordinator.wait(complete, min(federation.join_seconds, FAREWELL), 0.5)
        return len(online)
    if not coordinator.wait(complete, federation.join_seconds, 0.5) and len(online) < quorum:
        missing = sorted({site.name for site in federation.sites} - online)
        raise QuorumMissed(
            f"{len(online)} of {wanted} sites connected within join_seconds "
            f"({federation.join_seconds:.0f}), quorum is {quorum}; missing: "
            f"{', '.join(missing)}. Ask their engineers for `client/run.py --check`"
        )
    missing = sorted(set(admitted(federation).values()) - online)
    logger.info(
        "starting with %s%s", ", ".join(sorted(online)),
        f"; missing: {', '.join(missing)}" if missing else "",
    )  # fmt: skip
    return len(online)


def execute(
    coordinator: Coordinator, config: RunConfig, run: Path, present: int, farewell: bool
) -> int:
    """Run the round loop of `run` to its end over crashes; returns the worker's exit code."""
    federation = coordinator.federation
    quorum = max(federation.quorum, config.strategy.least_updates)
    rules = Rules(
        nodes=min(present, quorum), quorum=quorum,
        timeout=federation.round_seconds, repeats=federation.repeats,
        skip=federation.short_round == "skip", farewell=farewell,
        sites=tuple(sorted(site.name for site in federation.sites)),
        receipts=str(federation.folder / "receipts.json"), audit=str(run / AUDIT),
    )  # fmt: skip
    content = bundle({"run": config.name, "sha256": config.sha256})
    for restart in range(RESTARTS + 1):
        run_id = coordinator.ask(partial(start_run, content=content))
        coordinator.note(run)
        link = coordinator.place.link
        coordinator.worker = start(
            [
                sys.executable, "-m", "server.worker", "--run", str(run),
                "--address", link.address, "--certificate", str(link.certificate),
                "--secret-file", str(coordinator.place.secret_file),
                "--rules", json.dumps(dataclasses.asdict(rules)),
            ],
            None, {"FLWR_HOME": str(federation.folder / "flower")},
        )  # fmt: skip
        coordinator.wait(partial(has_ended, coordinator.worker), float("inf"), LOOK)
        code = coordinator.worker.returncode
        if code >= 0 and code not in AGAIN:
            return int(code)
        logger.warning("the worker ended (%d); restart %d of %d", code, restart + 1, RESTARTS)
        coordinator.ask(partial(stop_run, run_id=run_id))
    raise RunFailed(
        f"the worker was ended {RESTARTS + 1} times; go on later with --resume --out {run}"
    )


def next_study(coordinator: Coordinator) -> tuple[RunConfig, Path]:
    """Wait for a submitted run that can be started; returns it with its new directory."""
    while True:
        waiting: list[Path] = []

        def came(waiting: list[Path] = waiting) -> bool:
            waiting[:] = waiting_runs(coordinator.federation.folder)[:1]
            return bool(waiting)

        coordinator.wait(came, float("inf"), 1.0)
        try:
            config = load_run(waiting[0])
            run = choose_directory(config, coordinator.federation.runs, None, resume=False)
        except (ConfigError, OSError) as error:
            logger.error("%s; it is put aside in queue/refused", error)
            move_run(waiting[0], "refused")
            continue
        move_run(waiting[0], "taken")
        return config, run


def is_alone(coordinator: Coordinator) -> bool:
    """Whether no site is connected any more."""
    return all(node.status != "online" for node in coordinator.nodes())


def coordinate(
    federation: Federation, config: RunConfig, run: Path, page: tuple[str, int] | None = None,
    track: Sequence[str] = (),
) -> int:  # fmt: skip
    """Run one federation, or with `serve` every one that is submitted; returns the exit code.

    With `page`, a host and a port, the live page is served there meanwhile. `track` names where
    scores are shown, see `tracking`. Raises `QuorumMissed`, `Interrupted` and other
    `FederationError`s.
    """
    os.umask(0o077)  # updates and adapters are for this account alone
    first, shown = True, PageState(federation)
    shown.begin(config, run)
    with open_page(shown, page), Coordinator(federation) as coordinator:
        shown.link = coordinator.place.link
        logger.info(
            "listening at %s:%d for %s:%d; run %s, sha256 %s",
            federation.address.listen, federation.address.listen_port or federation.address.port,
            federation.address.host, federation.address.port, config.name, config.sha256,
        )  # fmt: skip
        while True:
            try:
                with tracked(run, track):
                    code = run_one(coordinator, config, run)
                shown.end(ENDED.format(code) if code else COMPLETE, well=not code)
            except KeyboardInterrupt:
                shown.end(INTERRUPTED)
                raise Interrupted(run) from None
            except (QuorumMissed, RunFailed) as error:
                shown.end(str(error) if isinstance(error, QuorumMissed) else RESTARTED)
                if first or not federation.serve:
                    raise
                logger.error("%s", error)
            first = False
            if not federation.serve:
                return code
            coordinator.note(None)
            logger.info("waiting for the next run: flower-server submit")
            try:
                config, run = next_study(coordinator)
            except KeyboardInterrupt:
                return 0
            shown.begin(config, run)


def run_one(coordinator: Coordinator, config: RunConfig, run: Path) -> int:
    """One run from the gathering of its sites to the farewell; returns the worker's exit code."""
    serve = coordinator.federation.serve
    coordinator.note(run)
    present = gather(coordinator, run, config.strategy.least_updates)
    code = execute(coordinator, config, run, present, farewell=not serve)
    if code:
        return code
    logger.info("run %s is complete: %s", config.name, run)
    if not serve:
        coordinator.wait(partial(is_alone, coordinator), LEAVE, 0.5)
    return 0
