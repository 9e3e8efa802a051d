"""`medsa-bench`: measure on this machine what the program takes, beside a plain way to do it.

medsa-bench --list
medsa-bench --out runs/bench
medsa-bench step_2d step_3d --repeats 5
medsa-bench against --against /PATH/TO/Medical-SAM-Adapter

Everything that is compared is measured in turn in one process; memory in fresh processes. Weights
are random and images are made up: nothing is read but this program. Here are the words it
understands; what it does is in `sim/bench/run.py`.
"""

import argparse
from functools import partial
from pathlib import Path

from medsa_model.command_line import (
    EXIT_CODES,
    INTERRUPTED,
    make_parser,
    positive,
    run_command,
    takes_folder,
    takes_some_of,
)
from sim.bench.names import AGAINST, WHAT

EXAMPLES = (
    "medsa-bench --list",
    "medsa-bench step_2d memory_1024 --out runs/bench",
    "medsa-bench step_2d step_3d --repeats 5",
    "medsa-bench against --against ../Medical-SAM-Adapter",
)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 for an error, 130 after Ctrl-C."""
    return run_command("medsa-bench", partial(parse_and_measure, arguments))


def parse_and_measure(arguments: list[str] | None) -> int:
    """Understand the words, and do what they say."""
    parser = bench_parser()
    options = parser.parse_intermixed_args(arguments)
    if options.list:
        width = max(map(len, WHAT))
        for name, what in WHAT.items():
            print(f"{name:{width}}  {what}")
        return 0
    names = list(dict.fromkeys(options.names)) or [name for name in WHAT if name != AGAINST]
    if unknown := [name for name in names if name not in WHAT]:
        parser.error(f"no figure {unknown[0]!r}; expected some of {', '.join(WHAT)}")
    if options.against and AGAINST not in names:
        names.append(AGAINST)
    from sim.bench.run import measure_named  # takes seconds

    return measure_named(names, options)


def bench_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "medsa-bench", "Measure time, memory and bytes on this machine, beside a plain way.",
        EXAMPLES,
        EXIT_CODES | {
            1: "error, told in a message; the other figures are measured all the same",
            INTERRUPTED: "Ctrl-C; what was measured stands in bench.json",
        },
    )  # fmt: skip
    names = parser.add_argument(
        "names", nargs="*", metavar="NAME", help="figures, see --list; default: all but against"
    )
    takes_some_of(names, list(WHAT))
    parser.add_argument("--list", action="store_true", help="say which figures there are")
    takes_folder(parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"),
        help="folder of bench.json and its pictures (default runs/bench)",
    ))  # fmt: skip
    how = parser.add_argument_group("how to measure")
    how.add_argument("--device", default="auto", help="auto or a PyTorch device (default auto)")
    how.add_argument(
        "--threads", type=positive, metavar="N", help="of the processor (default 1 on a CPU)"
    )
    how.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="after one warm-up (default 3)"
    )
    how.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of weights and images (default 0)"
    )
    how.add_argument(
        "--answers", type=positive, default=100, metavar="N", help="of server_memory (default 100)"
    )
    takes_folder(how.add_argument(
        "--against", type=Path, metavar="PATH",
        help="a checkout of Medical-SAM-Adapter; its code is run with your rights",
    ))  # fmt: skip
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
