"""A measurement in a fresh process: what another one left in memory does not count there.

Children are spawned, so that nothing of this process is in them, and answer in JSON.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch

from medsa_model.device import peak_memory
from medsa_model.errors import MedsaError
from medsa_model.logs import logger
from sim.federations import interrupts_ignored

LOOK = 0.005  # seconds between two looks at the memory in use
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""glibc: tensors of 1 MiB and more are given back to the system when they are freed."""

Answer = Mapping[str, Any]


def in_child(
    measure: Callable[..., Answer], threads: int, exact: bool = False, **arguments: object
) -> Answer:
    """What `measure(**arguments)` returns in a process of its own with so many threads.

    With `exact` freed tensors do not count as memory in use. Raises `MedsaError` with what the
    child says, or when it ends without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, measure, threads, arguments), daemon=True)
    try:
        with interrupts_ignored(), _environment(ALLOCATION if exact else {}):
            child.start()
        sender.close()  # so that the end of the process is the end of what it sends
        answer: Answer = json.loads(receiver.recv_bytes())
        child.join(10)
    except EOFError as error:
        child.join()
        raise MedsaError(
            f"the process that measures {measure.__name__} ended with code {child.exitcode}; a "
            "negative one is most often want of memory: close other programs, or name the other "
            "figures to measure them alone"
        ) from error
    finally:
        if child.pid is not None:
            child.kill()  # after Ctrl-C; else it has ended
            child.join()
    if "error" in answer:
        raise MedsaError(answer["error"])
    return answer


def _answer(
    sender: Connection, measure: Callable[..., Answer], threads: int, arguments: dict[str, Any]
) -> None:
    """The life of the child."""
    torch.set_num_threads(threads)
    try:
        answer = measure(**arguments)
    except (MedsaError, OSError) as error:
        answer = {"error": str(error)}
    sender.send_bytes(json.dumps(answer).encode())


@contextmanager
def without_log() -> Iterator[None]:
    """Nothing is logged inside: a terminal takes time, and its lines are not what is asked for."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass
class Memory:
    """Bytes in use at the start, and the most since then."""

    before: int
    most: int

    @property
    def rise(self) -> int:
        """Most bytes beyond those at the start."""
        return self.most - self.before


@contextmanager
def watched(device: torch.device) -> Iterator[Memory]:
    """The memory that is used inside: on a CUDA device by tensors, else by the whole process.

    Of a process the memory in use is looked at every `LOOK` seconds where the system tells it
    (Linux); elsewhere `most` is that of its whole life.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        memory = Memory(torch.cuda.memory_allocated(device), 0)
        yield memory
        torch.cuda.synchronize(device)
        memory.most = torch.cuda.max_memory_allocated(device)
        return
    give_back()
    memory, done = Memory(resident(), 0), Event()

    def look() -> None:
        while not done.wait(LOOK):
            memory.most = max(memory.most, resident())

    watcher = Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()
        memory.most = max(memory.most, resident())


def resident() -> int:
    """Bytes of this process in memory; where the system does not tell, the most so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_memory(torch.device("cpu"))
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Give memory that is not used any more back to the system, where the C library can."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
