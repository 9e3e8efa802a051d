"""Times of several pieces of work, taken in turn: plain, ours, ours, plain.

On a processor the seconds are those that this process computed, on all its threads together, so
that others on the machine count little. On other devices they are seconds of a clock, with the
device waited for before and after.
"""

import time
from collections.abc import Callable, Mapping

import torch

Work = Callable[[], object]


def unit_of(device: torch.device) -> str:
    """What `seconds_of` counts in."""
    return "CPU s" if device.type == "cpu" else "s"


def seconds_of(work: Work, device: torch.device) -> float:
    """Seconds that `work` takes on `device`."""
    wait_for(device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    work()
    wait_for(device)
    return clock() - started


def wait_for(device: torch.device) -> None:
    """Return when everything that was asked of `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def in_turn(
    sides: Mapping[str, Work], repeats: int, device: torch.device, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every side, `repeats` times one after the other, after `warm_up` turns.

    The order is turned round in every second turn, so that no side is always the first.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides.items())
    for turn in range(-warm_up, repeats):
        for name, work in order[::-1] if turn % 2 else order:
            seconds = seconds_of(work, device)
            if turn >= 0:
                samples[name].append(seconds)
    return samples
