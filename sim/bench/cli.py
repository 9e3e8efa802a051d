"""`medsa-bench`: measure on this machine what the program takes, beside a plain way to do it.

medsa-bench --list
medsa-bench --out runs/bench
medsa-bench step_2d step_3d --repeats 5
medsa-bench against --against /PATH/TO/Medical-SAM-Adapter

Everything that is compared is measured in turn in one process; memory in fresh processes. Weights
are random and images are made up: nothing is read but this program.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from medsa_model.device import choose_device
from medsa_model.errors import MedsaError
from medsa_model.logs import set_up
from sim.bench.against import check_checkout
from sim.bench.figures import AGAINST, FIGURES, WITH_AGAINST, measure
from sim.bench.models import Settings
from sim.bench.server import check_space

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 for an error, 130 after Ctrl-C."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    console = Console(markup=False, emoji=False)
    if options.list:
        width = max(map(len, FIGURES))
        for name, (what, _) in WITH_AGAINST.items():
            console.print(f"{name:{width}}  {what}", highlight=False, soft_wrap=True)
        return 0
    names = list(dict.fromkeys(options.names)) or list(FIGURES)
    if unknown := [name for name in names if name not in WITH_AGAINST]:
        parser.error(f"no figure {unknown[0]!r}; expected some of {', '.join(WITH_AGAINST)}")
    if options.against and AGAINST not in names:
        names.append(AGAINST)
    try:
        set_up(False)
        settings = prepare(options, names)
        failed = measure(names, settings, console)
    except KeyboardInterrupt:
        print(f"\nInterrupted. What was measured stands in {options.out / 'bench.json'}")
        return INTERRUPTED
    except MedsaError as error:
        print(f"medsa-bench: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename or options.out
        print(f"medsa-bench: {place}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="medsa-bench", description="Measure time, memory and bytes beside a plain way.",
        epilog="example: medsa-bench step_2d memory_1024 --out runs/bench",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all but against")
    parser.add_argument("--list", action="store_true", help="say which figures there are")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"),
        help="folder of bench.json and its pictures (default runs/bench)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto or a PyTorch device")
    parser.add_argument(
        "--threads", type=positive, help="of the processor (default 1 where it computes)"
    )
    parser.add_argument("--repeats", type=positive, default=3, help="after one warm-up (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images (default 0)")
    parser.add_argument(
        "--answers", type=positive, default=100, help="of server_memory (default 100)"
    )
    parser.add_argument(
        "--against", type=Path, metavar="PATH",
        help="a checkout of Medical-SAM-Adapter; its code is run with your rights",
    )  # fmt: skip
    return parser


def positive(text: str) -> int:
    """A whole number from 1; raises `ValueError`."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


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


if __name__ == "__main__":
    raise SystemExit(main())
