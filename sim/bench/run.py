"""What `medsa-bench` does with its parsed options (`sim/bench/cli.py`)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from medsa_model.command_line import INTERRUPTED
from medsa_model.device import choose_device
from medsa_model.logs import set_up
from sim.bench.against import check_checkout
from sim.bench.figures import measure
from sim.bench.models import Settings
from sim.bench.names import AGAINST
from sim.bench.server import check_space


def measure_named(names: Sequence[str], options: argparse.Namespace) -> int:
    """Measure figures; returns the exit code: 1 when one failed. Raises `MedsaError`, `OSError`."""
    out: Path = options.out
    try:
        set_up(False)
        failed = measure(names, prepare(options, names), Console(markup=False, emoji=False))
    except KeyboardInterrupt:
        print(f"\nInterrupted. What was measured stands in {out / 'bench.json'}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if not error.filename:  # a full disk names no file
            error.filename = str(out)
        raise
    return 1 if failed else 0


def prepare(options: argparse.Namespace, names: Sequence[str]) -> Settings:
    """The settings; raises `MedsaError` for what would fail after minutes."""
    device = choose_device(options.device)
    threads = options.threads or (1 if device.type == "cpu" else torch.get_num_threads())
    torch.set_num_threads(threads)
    if AGAINST in names:
        check_checkout(options.against)
    options.out.mkdir(parents=True, exist_ok=True)
    if "server_memory" in names:
        check_space(options.out, options.answers)
    return Settings(device, options.out, threads, options.repeats, options.seed, options.answers,
                    options.against)  # fmt: skip
