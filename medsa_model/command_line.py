"""What the commands of the project share: help with examples and exit codes, completion, errors."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

import shtab

from medsa_model.errors import MedsaError

INTERRUPTED = 130
EXIT_CODES = {0: "done", 1: "error, told in a message", 2: "wrong arguments", INTERRUPTED: "Ctrl-C"}


def make_parser(
    program: str, description: str, examples: Sequence[str],
    exit_codes: Mapping[int, str] = EXIT_CODES,
) -> argparse.ArgumentParser:  # fmt: skip
    """A parser whose help ends with examples and exit codes, and that prints shell completions."""
    codes = [f"  {code:<4} {meaning}" for code, meaning in exit_codes.items()]
    lines = ["examples:", *(f"  {each}" for each in examples), "", "exit codes:", *codes]
    parser = argparse.ArgumentParser(
        prog=program, description=description, epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    shtab.add_argument_to(
        parser, "--print-completion", help="print the completions of a shell and end"
    )
    return parser


def run_command(program: str, command: Callable[[], int]) -> int:
    """The exit code of `command`; what went wrong is told in one message without a traceback."""
    try:
        return command()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except MedsaError as error:
        print(f"{program}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{program}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
    return 1
