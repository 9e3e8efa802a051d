"""`flower-server`: the command of the coordinating site.

flower-server provision --config configs/federation.yaml
flower-server --config configs/federation.yaml
flower-server status --config configs/federation.yaml
flower-server audit verify --config configs/federation.yaml

Here are the words it understands; what the commands do is in `server/commands.py`.
"""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from medsa_model.command_line import (
    EXIT_CODES,
    INTERRUPTED,
    add_command,
    add_track,
    make_parser,
    parse_command,
    run_command,
    takes_file,
    takes_folder,
)

START = "start"
QUORUM_MISSED = 3
CODES_OF_A_STUDY = {
    0: "the study is complete", 1: EXIT_CODES[1], 2: EXIT_CODES[2],
    QUORUM_MISSED: "too few sites connected in time",
    INTERRUPTED: "Ctrl-C or SIGTERM; the message says how to go on",
}  # fmt: skip
COMMANDS = {
    START: "run the study of the federation YAML (the default)",
    "provision": "make certificates, keys and one start-up kit for each hospital",
    "check": "look for problems before a start, and print the run's sha256",
    "status": "show sites, round, last contact, scores and bytes of a running federation",
    "report": "write report.html of a run directory, finished or not, and print its path",
    "revoke": "lock a site's key out, at once and for good",
    "submit": "give a further run to a coordinator with serve: true",
    "audit": "verify that audit logs are as they were written, or show what one says",
}
EXAMPLES = {
    START: (
        "flower-server --config configs/federation.yaml",
        "flower-server start --config configs/federation.yaml",
        "flower-server --config configs/federation.yaml rounds=20 --out runs/pilot",
        "flower-server --config configs/federation.yaml --resume --out runs/pilot",
        "flower-server start --config configs/federation.yaml --page 127.0.0.1:8080",
        "flower-server start --config configs/federation.yaml --track tensorboard",
    ),
    "provision": ("flower-server provision --config configs/federation.yaml",),
    "check": (
        "flower-server check --config configs/federation.yaml",
        "flower-server check --config configs/federation.yaml --run configs/demo.yaml rounds=2",
    ),
    "status": ("flower-server status --config configs/federation.yaml",),
    "report": ("flower-server report runs/pilot",),
    "revoke": ("flower-server revoke --config configs/federation.yaml site_a",),
    "submit": (
        "flower-server submit --config configs/federation.yaml --run configs/demo.yaml",
        "flower-server submit --config configs/federation.yaml rounds=20",
    ),
    "audit": (
        "flower-server audit verify --config configs/federation.yaml",
        "flower-server audit verify runs/pilot/audit.jsonl",
        "flower-server audit show runs/pilot/audit.jsonl",
    ),
}
CODES: Mapping[str, Mapping[int, str]] = {
    START: CODES_OF_A_STUDY,
    "check": EXIT_CODES | {0: "nothing stands against a start", 1: "a problem was found"},
    "status": EXIT_CODES | {0: "it is running", 1: "it is not running, or an error"},
    "audit": EXIT_CODES | {0: "all logs are as they were written", 1: "one is not, or an error"},
}
"""Where they mean something else than `EXIT_CODES`."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit codes: 0, 1 for an error, 3 when the quorum did not come, 130."""
    return run_command("flower-server", partial(parse_and_execute, arguments))


def parse_and_execute(arguments: list[str] | None) -> int:
    """Understand the words, and do what they say."""
    program, commands = make_parsers()
    words = sys.argv[1:] if arguments is None else arguments
    command, options = parse_command(program, commands, START, words)
    from server.commands import execute  # takes seconds

    return execute(command, options)


def make_parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the program, for help and completion, and that of each of its commands."""
    program = make_parser(
        "flower-server", "Coordinate a federation of hospitals, from the coordinating site.",
        [EXAMPLES[each][0] for each in COMMANDS], CODES_OF_A_STUDY,
    )  # fmt: skip
    program.usage = (
        "flower-server [start] --config FEDERATION.yaml [options] [KEY=VALUE ...]\n"
        "       flower-server COMMAND [options]"
    )
    commands = program.add_subparsers(title="commands", metavar="COMMAND", prog="flower-server")
    for command, line in COMMANDS.items():
        codes = CODES.get(command, EXIT_CODES)
        parser = add_command(commands, command, line, EXAMPLES[command], codes)
        add_options(command, parser)
    add_options_of_start(program, required=False)  # it is start without the word
    return program, commands.choices


def add_options(command: str, parser: argparse.ArgumentParser) -> None:
    """What can be said to one command."""
    if command == START:
        add_options_of_start(parser, required=True)
        add_overrides(parser)
        return
    if command == "report":
        takes_folder(parser.add_argument(
            "directory", type=Path, metavar="RUN", help="run directory, also one of medsa-sim",
        ))  # fmt: skip
    else:
        add_config(parser, required=command != "audit")
    parser.add_argument("--verbose", action="store_true", help="log more")
    if command in ("submit", "check"):
        add_run(parser)
        add_overrides(parser)
    if command == "revoke":
        parser.add_argument("site", metavar="SITE", help="name of the site")
    if command == "audit":
        parser.add_argument("what", choices=("verify", "show"), help="what to do with the logs")
        takes_file(parser.add_argument(
            "file", type=Path, nargs="*", metavar="FILE", help="logs; default: all of --config"
        ))  # fmt: skip
        parser.add_argument("--hash", help="last hash that was written down: is its entry there?")


def add_options_of_start(parser: argparse.ArgumentParser, required: bool) -> None:
    """The options of a study; `required`: whether there is no other command to choose."""
    study = parser.add_argument_group("what to run")
    add_config(study, required)
    add_run(study)
    directory = parser.add_argument_group("where to write it")
    takes_folder(
        directory.add_argument("--out", type=Path, help="run directory; default RUNS/NAME/TIME")
    )
    directory.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    directory.add_argument(
        "--readmit", action="append", default=[], metavar="SITE",
        help="with --resume: ask a site again that is in quarantine after rejected answers",
    )  # fmt: skip
    watching = parser.add_argument_group("how to watch it")
    watching.add_argument("--page", metavar="HOST:PORT", help="show a live page there; default: no")
    add_track(watching)
    watching.add_argument("--verbose", action="store_true", help="log more")


def add_config(options: "argparse._ActionsContainer", required: bool) -> None:
    """`--config`, the federation."""
    takes_file(options.add_argument(
        "--config", type=Path, required=required, metavar="FEDERATION.yaml", help="federation YAML"
    ))  # fmt: skip


def add_run(options: "argparse._ActionsContainer") -> None:
    """`--run`, the study."""
    takes_file(options.add_argument(
        "--run", type=Path, metavar="RUN.yaml", help="run YAML in place of the federation's"
    ))  # fmt: skip


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Changes of the run YAML."""
    parser.add_argument(
        "override", nargs="*", metavar="KEY=VALUE",
        help="replaces a key of the run YAML, such as train.steps=20",
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
