"""`medsa-sim`: simulate a federation of several sites on this machine and compare it.

medsa-sim --config configs/demo.yaml
medsa-sim --config configs/isic.yaml data.root=PATH rounds=4 --out runs/short
medsa-sim --config configs/isic.yaml data.root=PATH --out runs/short --resume

Here are the words it understands; what it does is in `sim/run.py`.
"""

import argparse
from functools import partial
from pathlib import Path

from medsa_model.command_line import (
    EXIT_CODES,
    INTERRUPTED,
    add_track,
    make_parser,
    run_command,
    takes_file,
    takes_folder,
)

EXAMPLES = (
    "medsa-sim --config configs/demo.yaml rounds=2 --out runs/try",
    "medsa-sim --config configs/isic.yaml data.root=/data/isic --out runs/isic --track tensorboard",
    "medsa-sim --config configs/isic.yaml data.root=/data/isic --out runs/isic --resume",
)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 for an error, 130 after Ctrl-C."""
    return run_command("medsa-sim", partial(parse_and_run, arguments))


def parse_and_run(arguments: list[str] | None) -> int:
    """Understand the words, and do what they say."""
    parser = simulation_parser()
    options = parser.parse_intermixed_args(arguments)
    if options.resume and options.overwrite:
        parser.error("--resume goes on with a run, --overwrite removes it: give one of them")
    from sim.run import run_simulation  # takes seconds

    return run_simulation(options)


def simulation_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "medsa-sim", "Simulate a federation of several sites on this machine and compare it.",
        EXAMPLES,
        EXIT_CODES | {INTERRUPTED: "Ctrl-C; the message says how to go on"},
    )  # fmt: skip
    study = parser.add_argument_group("what to run")
    takes_file(
        study.add_argument(
            "--config", type=Path, required=True, metavar="RUN.yaml", help="run YAML"
        )
    )
    directory = parser.add_argument_group("where to write it")
    takes_folder(
        directory.add_argument("--out", type=Path, help="run directory; default runs/NAME/TIME")
    )
    directory.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    directory.add_argument("--overwrite", action="store_true", help="remove what --out holds first")
    watching = parser.add_argument_group("how to watch it")
    add_track(watching)
    watching.add_argument("--verbose", action="store_true", help="log more")
    parser.add_argument(
        "override", nargs="*", metavar="KEY=VALUE",
        help="replaces a key of the YAML, such as train.steps=20",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
