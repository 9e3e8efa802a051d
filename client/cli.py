"""`python client/run.py`: join a federation from one hospital, or check whether it could.

python client/run.py --config kit/site.yaml --check
python client/run.py --config kit/site.yaml
python client/run.py ledger --config kit/site.yaml
python client/run.py audit --config kit/site.yaml
python client/run.py keygen --out kit

Here are the words it understands; what the commands do is in `client/commands.py`.
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
    make_parser,
    parse_command,
    run_command,
)

JOIN = "join"
COMMANDS = {
    JOIN: "take part in the federation, or with --check say whether this site could (the default)",
    "ledger": "show what differentially private training has cost the patients so far",
    "audit": "show and verify what this site was asked, did, and refused",
    "keygen": "make a key pair, of which only the public half leaves the hospital",
}
EXAMPLES = {
    JOIN: (
        "python client/run.py --config site_a/site.yaml --check",
        "python client/run.py --config site_a/site.yaml",
        "python client/run.py join --config site_a/site.yaml device=cuda:1",
    ),
    "ledger": ("python client/run.py ledger --config site_a/site.yaml",),
    "audit": ("python client/run.py audit --config site_a/site.yaml",),
    "keygen": ("python client/run.py keygen --out keys",),
}
CODES: Mapping[str, Mapping[int, str]] = {
    JOIN: {
        0: "the federation is over, or this site was stopped (Ctrl-C, SIGTERM); nothing is wrong",
        1: "error, told in a message; with --check: a problem was found", 2: EXIT_CODES[2],
        INTERRUPTED: "Ctrl-C before it took part",
    },
    "audit": EXIT_CODES | {0: "the log is as it was written", 1: "it is not, or an error"},
}  # fmt: skip
"""Where they mean something else than `EXIT_CODES`."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code, 1 for an error; see `CODES`."""
    return run_command("client/run.py", partial(parse_and_execute, arguments))


def parse_and_execute(arguments: list[str] | None) -> int:
    """Understand the words, and do what they say."""
    program, commands = make_parsers()
    words = sys.argv[1:] if arguments is None else arguments
    command, options = parse_command(program, commands, JOIN, words)
    from client.commands import execute  # takes seconds

    return execute(command, options)


def make_parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the program, for its help, and that of each of its commands.

    There is no completion: shells complete `python client/run.py` as a command of Python.
    """
    program = make_parser(
        "client/run.py", "Take part in a federation, from one hospital.",
        [example for several in EXAMPLES.values() for example in several], CODES[JOIN],
        completion=False,
    )  # fmt: skip
    program.usage = (
        "client/run.py [join] --config SITE.yaml [options] [KEY=VALUE ...]\n"
        "       client/run.py COMMAND [options]"
    )
    commands = program.add_subparsers(title="commands", metavar="COMMAND", prog="client/run.py")
    for command, line in COMMANDS.items():
        codes = CODES.get(command, EXIT_CODES)
        add_options(command, add_command(commands, command, line, EXAMPLES[command], codes))
    add_options_of_join(program, required=False)  # it is join without the word
    return program, commands.choices


def add_options(command: str, parser: argparse.ArgumentParser) -> None:
    """What can be said to one command."""
    if command == "keygen":
        parser.add_argument(
            "--out", type=Path, default=Path(), help="folder of site.key and site.pub"
        )
        return
    if command == JOIN:
        add_options_of_join(parser, required=True)
    else:
        parser.add_argument(
            "--config", type=Path, required=True, metavar="SITE.yaml", help="site YAML"
        )
    if command == "audit":
        parser.add_argument("--hash", help="last hash that was written down: is its entry there?")
    parser.add_argument(
        "override", nargs="*", metavar="KEY=VALUE",
        help="replaces a key of the site YAML, such as device=cuda:1",
    )  # fmt: skip


def add_options_of_join(parser: argparse.ArgumentParser, required: bool) -> None:
    """The options of taking part; `required`: whether there is no other command to choose."""
    joining = parser.add_argument_group("taking part")
    joining.add_argument(
        "--config", type=Path, required=required, metavar="SITE.yaml", help="site YAML"
    )
    joining.add_argument("--check", action="store_true", help="look for problems and end")
    joining.add_argument("--verbose", action="store_true", help="log more")


if __name__ == "__main__":
    raise SystemExit(main())
