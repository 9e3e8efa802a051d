"""What the commands of the project share: help with examples and exit codes, completion, errors.

A command parses its words before it imports what takes seconds, so that help, completion and wrong
arguments are answered at once.
"""

import argparse
import os
import select
import shlex
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import pairwise

import shtab

from medsa_model import __version__
from medsa_model.errors import MedsaError

INTERRUPTED = 130
EXIT_CODES = {0: "done", 1: "error, told in a message", 2: "wrong arguments", INTERRUPTED: "Ctrl-C"}
SINKS = ("tensorboard", "mlflow")
"""What `--track` takes; each is also the name of its extra and of the package it needs."""
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
    if word := _command_among(commands, commands[default], words):
        program.error(f"the command comes first: {program.prog} {word} ...")
    return default, commands[default].parse_intermixed_args(words)


def _command_among(
    commands: Container[str], parser: argparse.ArgumentParser, words: Sequence[str]
) -> str | None:
    """The first of `words` that is a command and no value of an option of `parser`."""
    options = parser._option_string_actions
    for before, word in pairwise(words):
        valued = before.startswith("-") and "=" not in before
        if before in options:
            valued = options[before].nargs != 0
        if word in commands and not valued:
            return word
    return None


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
    open_streams()
    code = 1
    try:
        try:
            done = command()
        except SystemExit:  # after a help text
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        code = done
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        code = INTERRUPTED
    except MedsaError as error:
        print(f"{program}: {error}", file=sys.stderr)
    except OSError as error:
        # a broken pipe may also be a connection, or one to a child
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            print_to_nobody()
        else:
            place = f"{error.filename}: " if error.filename else ""
            print(f"{program}: {place}{error.strerror or error}", file=sys.stderr)
    return code if is_flushed() else code or 1


def open_streams() -> None:
    """Where the process was started with a closed stream (`>&-`), make it one that goes nowhere.

    Otherwise the next file to be opened would get its number, and what a child prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def reader_is_gone() -> bool:
    """Whether nobody can read the output any more: it is a pipe whose other end is closed."""
    try:
        descriptor = sys.stdout.fileno()
    except ValueError:  # it is no file
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))


def is_flushed() -> bool:
    """Write what waits to the output, or to nobody; whether it was possible."""
    try:
        sys.stdout.flush()
    except OSError:
        print_to_nobody()
        return False
    return True


def print_to_nobody() -> None:
    """Let the output go nowhere: Python flushes it once more when it ends, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
