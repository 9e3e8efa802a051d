"""docs/commands.md: every command with its options and exit codes, from their own help.

python -m sim.command_reference > docs/commands.md
"""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout

import client.cli
import server.cli
from medsa_model.export import cli as export
from medsa_model.predict import cli as predict
from sim import audit_cli, table
from sim import cli as simulate
from sim.bench import cli as bench

Main = Callable[[list[str]], int]
INTRODUCTION = """\
# Commands

Made by `python -m sim.command_reference` from the help of the commands; a test compares. Every
command of a shell prints completions with `--print-completion bash` (or `zsh`, `tcsh`), for example
`medsa-predict --print-completion bash > ~/.local/share/bash-completion/completions/medsa-predict`.
`KEY=VALUE` is any key of [configuration.md](configuration.md).
"""
PROGRAMS: Mapping[str, tuple[Main, Sequence[str]]] = {
    "medsa-predict": (predict.main, ()),
    "medsa-export": (export.main, tuple(export.COMMANDS)),
    "flower-server": (server.cli.main, tuple(server.cli.COMMANDS)),
    "client/run.py": (client.cli.main, tuple(client.cli.COMMANDS)),
    "medsa-sim": (simulate.main, ()),
    "medsa-bench": (bench.main, ()),
    "medsa-audit": (audit_cli.main, ()),
    "sim.table": (table.main, ()),
}
"""Program -> its function, and its commands where it has some."""
STARTED = {"client/run.py": "python client/run.py", "sim.table": "python -m sim.table"}
"""How programs are started that are no commands of a shell."""
TERMINAL = {"COLUMNS": "90", "NO_COLOR": "1", "TERM": "dumb"}
"""The same text everywhere: the width, and no colours, which Python 3.14 has."""


def commands() -> str:
    """The whole page."""
    parts = [INTRODUCTION.strip()]
    for program, (main, names) in PROGRAMS.items():
        start = STARTED.get(program, program)
        parts += [f"## {start}", _fenced(help_of(start, main, ["--help"]))]
        for name in names:
            parts += [f"### {start} {name}", _fenced(help_of(start, main, [name, "--help"]))]
    return "\n\n".join(parts) + "\n"


def help_of(program: str, main: Main, words: list[str]) -> str:
    """What `program` prints with `words`, which ask for help; raises `ValueError` if it does not
    end with 0."""
    printed = io.StringIO()
    with _plain_terminal(program), redirect_stdout(printed):
        try:
            code: object = main(words)
        except SystemExit as ended:
            code = ended.code
    if code:
        raise ValueError(f"{program} {words} ended with {code}, expected 0 and a help text")
    return re.sub(r"[ \t]+$", "", printed.getvalue(), flags=re.MULTILINE).strip()


@contextmanager
def _plain_terminal(program: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in TERMINAL}
    started, sys.argv = sys.argv, [program]  # the name of a parser that has none of its own
    os.environ.update(TERMINAL)
    try:
        yield
    finally:
        sys.argv = started
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    sys.stdout.write(commands())
