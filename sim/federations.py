"""Run the federations of a comparison: one after the other, or several beside each other.

Each federation is one process's work from its first to its last round. With more than one process
each computes with an equal share of the cores: many small matrix products, as in adapter training
on small frames, are done faster by two processes of one thread than by one process of two.
"""

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from threading import Thread

import torch

from medsa_model.checkpoint import latest_round
from medsa_model.device import choose_device
from medsa_model.errors import FederationError
from medsa_model.logs import set_up
from server.app import make_app as make_server_app
from sim.compare import Plan
from sim.config import Sim
from sim.engine import run_in_process, run_with_ray
from sim.sites import POOLED
from sim.summary import test_scores

Listen = Callable[[str, str, str], None]
"""Called with (federation, message type, site) after each answer."""
Answers = SimpleQueue[tuple[str, str, str] | None]

_answers: Answers | None = None  # in a process of the pool: where it reports answers


def run_plans(
    todo: Sequence[Plan], run: Path, sites: Sequence[str], verbose: bool, listen: Listen
) -> None:
    """Run every federation of `todo` to its end; raises the first error of any of them."""
    if not todo:
        return
    sim = todo[0].config.sim
    processes = processes_for(sim)
    if processes == 1 or sim.engine == "ray":
        for plan in todo:
            run_plan(plan, run, sites, partial(listen, title(plan)))
        return
    context = multiprocessing.get_context("spawn")
    answers: Answers = context.SimpleQueue()
    reader = Thread(target=_forward, args=(answers, listen), daemon=True)
    reader.start()
    threads = max(1, (os.cpu_count() or 1) // processes)
    pool = ProcessPoolExecutor(processes, context, _begin, (threads, verbose, answers))
    try:
        long_first = sorted(todo, key=lambda plan: plan.row in ("local", "zero_shot"))
        work = [pool.submit(_run_and_report, plan, run, sites) for plan in long_first]
        for ended in as_completed(work):
            ended.result()
    except BrokenProcessPool as error:
        raise FederationError(
            "a process of the simulation was ended from outside, most often for want of memory; "
            "go on with --resume and fewer sim.processes"
        ) from error
    finally:  # after an error or Ctrl-C too; what a process had completed is in its run directory
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        answers.put(None)
        reader.join()


def processes_for(sim: Sim) -> int:
    """How many processes share the federations: `sim.processes`, or what the device suggests."""
    if sim.processes:
        return sim.processes
    return (os.cpu_count() or 1) if choose_device(sim.device).type == "cpu" else 1


def title(plan: Plan) -> str:
    """What a federation is called in the progress display."""
    return f"{plan.row} ({plan.folder.name})" if plan.row == "local" else plan.row


def run_plan(
    plan: Plan, run: Path, sites: Sequence[str], listen: Callable[[str, str], None]
) -> None:
    """One federation: the coordinator's app and the sites' app on the chosen engine."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    names = [*sites, POOLED]
    server = make_server_app(
        plan.config, plan.folder, plan.train_on, sites, len(plan.train_on), len(names), math.inf
    )
    if plan.config.sim.engine == "ray":
        run_with_ray(server, run, len(names), processes_for(plan.config.sim))
    else:
        run_in_process(server, run, names, listen)
    if not finished(plan, sites):
        raise FederationError(
            f"{plan.row}: not every site could be scored with every prompt; the reason of the "
            "failure stands above"
        )


def finished(plan: Plan, sites: Iterable[str]) -> bool:
    """Whether a federation ended: final state linked, every site scored with every prompt."""
    scores = test_scores(plan.folder)
    prompts = [kind.name for kind in plan.config.prompt.evaluate]
    complete = all(site in scores.get(prompt, {}) for prompt in prompts for site in sites)
    return (plan.folder / "final").exists() and complete


def answers_left(plan: Plan, sites: int) -> int:
    """How many answers of sites a federation still needs, for the progress bar."""
    left = plan.config.rounds - (latest_round(plan.folder) or 0)
    every = plan.config.evaluate.every
    evaluations = (left // every if every else 0) * sites
    return sites + 1 + left * len(plan.train_on) + evaluations + sites


def _begin(threads: int, verbose: bool, answers: Answers) -> None:
    """The first thing that a process of the pool does."""
    global _answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends its processes
    torch.set_num_threads(threads)
    set_up(verbose)
    _answers = answers


def _run_and_report(plan: Plan, run: Path, sites: Sequence[str]) -> None:
    def report(message_type: str, site: str) -> None:
        if _answers is not None:
            _answers.put((title(plan), message_type, site))

    run_plan(plan, run, sites, report)


def _forward(answers: Answers, listen: Listen) -> None:
    """Hand on the answers of all processes until `None` arrives."""
    while (answer := answers.get()) is not None:
        listen(*answer)
