"""What the commands of the project share: help with examples and exit codes, completion, errors.

A command parses its words before it imports what takes seconds, so that help, completion and wrong
arguments are answered at once.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

import shtab

from medsa_model import __version__
from medsa_model.errors import MedsaError

INTERRUPTED = 130
EXIT_CODES = {0: "done", 1: "error, told in a message", 2: "wrong arguments", INTERRUPTED: "Ctrl-C"}
SINKS = ("tensorboard", "mlflow")  # as in medsa_model.tracking, which is not needed for a help text
ABOUT = ("-h", "--help", "--version", "--print-completion")
"""Options that ask about a program: they print something and end."""


def ending(examples: Sequence[str], exit_codes: Mapping[int, str]) -> str:
    """The last part of a help text."""
    codes = [f"  {code:<4} {meaning}" for code, meaning in exit_codes.items()]
    return "\n".join(["examples:", *(f"  {each}" for each in examples), "", "exit codes:", *codes])


def make_parser(
    program: str, description: str, examples: Sequence[str],
    exit_codes: Mapping[int, str] = EXIT_CODES, completion: bool = True,
) -> argparse.ArgumentParser:  # fmt: skip
    """A parser whose help ends with examples and exit codes.

    It prints its version and, unless `completion` is false, completions for shells.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=description, epilog=ending(examples, exit_codes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--version", action="version", version=f"fed-medsa {__version__}",
        help="print the version and end",
    )  # fmt: skip
    if completion:
        shtab.add_argument_to(
            parser, "--print-completion", help="print the completions of a shell and end"
        )
    return parser


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, line: str,
    examples: Sequence[str], exit_codes: Mapping[int, str] = EXIT_CODES,
) -> argparse.ArgumentParser:  # fmt: skip
    """The parser of one command of a program that has several; `line` says what it does."""
    return commands.add_parser(
        name, help=line, description=line[0].upper() + line[1:] + ".",
        epilog=ending(examples, exit_codes), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def parse_command(
    program: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser],
    default: str, words: Sequence[str],
) -> tuple[str, argparse.Namespace]:  # fmt: skip
    """The command that `words` begin with, else `default`, and what else they say, in any order.

    Ends the process after help, and with code 2 when there is no such command or option.
    """
    first = words[0] if words else ""
    if first in commands:
        return first, commands[first].parse_intermixed_args(words[1:])
    if first.partition("=")[0] in ABOUT:
        program.parse_args(words)
    if first and "=" not in first and not first.startswith("-"):
        program.error(f"there is no command {first!r}, expected one of {', '.join(commands)}")
    return default, commands[default].parse_intermixed_args(words)


def add_track(options: "argparse._ActionsContainer") -> None:
    """`--track`, which names sinks of `medsa_model.tracking`."""
    options.add_argument(
        "--track", action="append", default=[], choices=SINKS,
        help="show the scores there while the run goes on; may be repeated",
    )  # fmt: skip


def takes_file(action: argparse.Action) -> None:
    """Let shells complete the value of an option or argument as a file."""
    action.complete = shtab.FILE  # type: ignore[attr-defined]


def takes_folder(action: argparse.Action) -> None:
    """Let shells complete the value of an option or argument as a folder."""
    action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def takes_some_of(action: argparse.Action, words: Sequence[str]) -> None:
    """Let shells complete the values of an argument that may be left out, which has no choices."""
    action.complete = shtab.cmd(shlex.join(["echo", *words]))  # type: ignore[attr-defined]


def positive(text: str) -> int:
    """A whole number from 1; raises `ValueError`."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def run_command(program: str, command: Callable[[], int]) -> int:
    """The exit code of `command`; what went wrong is told in one message without a traceback.

    Code 1 without a word when the reader of the output has gone away, such as `head`.
    """
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except MedsaError as error:
        print(f"{program}: {error}", file=sys.stderr)
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"{program}: {place}{error.strerror or error}", file=sys.stderr)
    return 1
