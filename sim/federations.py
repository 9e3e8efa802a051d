"""Run the federations of a comparison: one after the other, or several beside each other.

Each federation is one process's work from its first to its last round. With more than one process
each computes with an equal share of the cores: many small matrix products, as in adapter training
on small frames, are done faster by two processes of one thread than by one process of two.
"""

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from threading import Thread

import torch

from medsa_model.device import choose_device
from medsa_model.errors import FederationError, MedsaError
from medsa_model.logs import logger, set_up
from medsa_model.report_values import duration
from medsa_model.run_rows import final_scores
from server.app import make_app as make_server_app
from server.rules import Rules
from sim.compare import Plan
from sim.config import Sim
from sim.engine import run_in_process, run_with_ray
from sim.ray_cluster import Shares, address_of
from sim.sites import POOLED


def run_plans(
    todo: Sequence[Plan], run: Path, sites: Sequence[str], processes: int, verbose: bool
) -> None:
    """Run every federation of `todo` to its end, then raise the first error of any of them."""
    if processes == 1:
        failed = _run_each(todo, run, sites)
        if failed:
            raise failed
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of PyTorch
    work = Work(
        sorted(todo, key=lambda plan: plan.row in ("local", "zero_shot")),  # the long ones first
        run, sites, max(1, cores() // processes), verbose,
    )  # fmt: skip
    taken = context.Value("i", 0)
    running: dict[int, tuple[SpawnProcess, Connection]] = {}
    failed = None
    try:
        for _ in range(min(processes, len(todo))):
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(target=_run_what_is_left, args=(work, taken, sender))
            with interrupts_ignored():  # inherited: Ctrl-C is for the parent, which ends the rest
                worker.start()
                running[worker.sentinel] = worker, receiver
            sender.close()  # so that the end of the process is the end of what it sends
        while running:
            for sentinel in running.keys() & set(wait([*running])):
                worker, receiver = running.pop(sentinel)
                worker.join()
                if worker.exitcode:
                    failed = failed or _error_of(worker, receiver)
    finally:  # after Ctrl-C; what was completed is in the run directories
        for worker, _ in running.values():
            worker.kill()
            worker.join()
    if failed:
        raise failed


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Work:
    """What the processes of a comparison share: each takes the next federation of `plans`."""

    plans: Sequence[Plan]
    run: Path
    sites: Sequence[str]
    threads: int
    verbose: bool


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes that are started inside inherit it: Ctrl-C is for their parent, which ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run_what_is_left(work: Work, taken: "Synchronized[int]", sender: Connection) -> None:
    """The life of one process."""
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(work.threads)
    set_up(work.verbose)
    if failed := _run_each(_take(work.plans, taken), work.run, work.sites):
        sender.send(failed)
        raise SystemExit(1)


def _take(plans: Sequence[Plan], taken: "Synchronized[int]") -> Iterator[Plan]:
    """The plans that no other process has taken yet, one at a time."""
    while True:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(plans):
            return
        yield plans[number]


def _run_each(plans: Iterable[Plan], run: Path, sites: Sequence[str]) -> Exception | None:
    """Run federations one after the other; an error ends one of them, and the first is returned."""
    failed: Exception | None = None
    for plan in plans:
        try:
            run_plan(plan, run, sites)
        except (MedsaError, OSError) as error:
            logger.error("%s ended early: %s", plan.folder.name, error)
            failed = failed or error
    return failed


def _end_with_parent() -> None:
    """Wait for the end of the parent, whatever it was, then end: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _error_of(worker: SpawnProcess, receiver: Connection) -> Exception:
    """Why a process ended with an error."""
    try:
        error: Exception = receiver.recv()
    except EOFError:
        reason = "see the error above" if worker.exitcode == 1 else "most often for want of memory"
        return FederationError(
            f"a process of the simulation ended with code {worker.exitcode}, {reason}; go on with "
            "--resume, and with sim.processes=1 if memory was short"
        )
    return error


def processes_for(sim: Sim, federations: int) -> int:
    """How many processes share the federations of a comparison.

    The number of all federations counts, not of those left after an interruption: threads a
    process decide how sums are rounded, and a resumed run must end with the same bits. With Ray
    the processes share the sites of a federation instead, and federations follow each other.
    """
    return 1 if sim.engine == "ray" else min(federations, wished_processes(sim))


def wished_processes(sim: Sim) -> int:
    """`sim.processes`; when empty, one for each core, or one in all when a GPU computes.

    With Ray, which gives each process GPUs of its own, one for each GPU.
    """
    if sim.processes:
        return sim.processes
    if choose_device(sim.device).type == "cpu":
        return cores()
    return max(1, torch.cuda.device_count()) if sim.engine == "ray" else 1


def run_plan(plan: Plan, run: Path, sites: Sequence[str]) -> None:
    """One federation: the coordinator's app and the sites' app on the chosen engine."""
    started = time.monotonic()
    plan.folder.mkdir(parents=True, exist_ok=True)
    attack = plan.config.sim.attack
    names = [*dict.fromkeys([*sites, *(plan.train_on if attack else ()), POOLED])]
    private = plan.config.privacy is not None
    rules = Rules(
        nodes=len(names),
        # a resumed round is charged twice, and a site that has spent all stays away later
        quorum=1 if private else len({*plan.train_on} & {*sites}) if attack else len(plan.train_on),
        skip=private,
        timeout=math.inf,
        receipts=str(plan.folder / "receipts.json"),
        unchecked=bool(attack and attack.unchecked),
    )
    server = make_server_app(plan.config, plan.folder, rules, plan.train_on, sites)
    ledgers = plan.folder / "ledgers"  # each row of a comparison is a world of its own
    if plan.config.sim.engine == "ray":
        sim = plan.config.sim
        shares = Shares(sim.ray_cpus, sim.ray_gpus)
        address = address_of(sim.ray_address)
        run_with_ray(server, run, ledgers, len(names), wished_processes(sim), address, shares)
    else:
        run_in_process(server, run, ledgers, names)
    if not finished(plan, sites):
        raise FederationError(
            f"{plan.row}: not every site could be scored with every prompt; the reason of the "
            "failure stands above"
        )
    if not sys.stdout.isatty():  # on a terminal there is a bar
        name = f"{plan.row} {plan.folder.name}" if plan.row == "local" else plan.row
        took = duration(time.monotonic() - started)
        logger.info("%s is finished: rounds and evaluation took %s", name, took)


def finished(plan: Plan, sites: Iterable[str]) -> bool:
    """Whether a federation ended: final state linked, every site scored with every prompt."""
    scores = final_scores(plan.folder)
    prompts = [kind.name for kind in plan.config.prompt.evaluate]
    complete = all(site in scores.get(prompt, {}) for prompt in prompts for site in sites)
    return (plan.folder / "final").exists() and complete
