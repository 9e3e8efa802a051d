"""Every command of the project at a terminal: help, examples, exit codes, completion, colours."""

import argparse
import importlib
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
PROGRAMS = SCRIPTS | {"python client/run.py": "client.cli:main"}
ESCAPE = b"\x1b"
COLOUR = re.compile(rb"\x1b\[(\d+;)*(3\d|4\d|9\d|10\d)[;m]")


def main_of(program: str) -> Callable[[list[str]], int]:
    module, name = PROGRAMS[program].split(":")
    return getattr(importlib.import_module(module), name)


def printed(program: str, *words: str) -> str:
    """What a command that ends at once writes to the output."""
    with redirect_stdout(StringIO()) as output, pytest.raises(SystemExit) as end:
        main_of(program)([*words])
    assert end.value.code == 0
    return output.getvalue()


@cache
def commands_of(program: str) -> tuple[str, ...]:
    """The names of a program's commands, empty when it has none."""
    found: list[str] = []
    add = argparse._SubParsersAction.add_parser

    def noted(action, name, **more):
        found.append(name)
        return add(action, name, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argparse._SubParsersAction, "add_parser", noted)
        printed(program, "--help")
    return tuple(found)


def helps(program: str) -> list[str]:
    """The help texts of a program and all of its commands."""
    texts = [printed(program, "--help")]
    return texts + [printed(program, command, "--help") for command in commands_of(program)]


class Parsed(BaseException):
    """Words were understood; nothing is done with them."""


@pytest.fixture
def only_parse(monkeypatch):
    """Commands end when they have understood their words."""

    def ended(parse):
        def parsed(*words):
            parse(*words)
            raise Parsed

        return parsed

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, ended(parse))


@pytest.mark.parametrize("columns", ["40", "100"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_says_what_it_does_with_examples_and_exit_codes(program, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    for text in helps(program):
        assert re.search(r"\n\n[A-Z][^\n]+\.", text), text
        examples, codes = text.split("\nexamples:\n")[1].split("\n\nexit codes:\n")
        assert examples.count(program) >= 1
        listed = [int(line.split()[0]) for line in codes.splitlines()]
        assert {0, 1, 2, 130} <= {*listed} and listed == sorted(listed)


@pytest.mark.parametrize("program", PROGRAMS)
def test_printed_examples_are_understood(program, only_parse, capsys):
    for text in helps(program):
        examples = text.split("\nexamples:\n")[1].split("\n\nexit codes:\n")[0]
        for example in examples.replace("\\\n", "").splitlines():
            assert example.startswith(f"  {program} ")
            words = shlex.split(example.removeprefix(f"  {program}"))
            with pytest.raises(Parsed):
                main_of(program)(words)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_command_has_an_example_of_its_own_and_a_line_in_the_list(program):
    whole, *texts = helps(program)
    for command, text in zip(commands_of(program), texts, strict=True):
        assert re.search(rf"^    {command} +\w", whole, re.MULTILINE)
        assert f"\n  {program} {command} " in text


def test_commands_are_found():
    """Else the tests above would look at nothing."""
    assert {"start", "provision", "report", "audit"} <= {*commands_of("flower-server")}
    assert commands_of("python client/run.py") == ("join", "ledger", "audit", "keygen")
    assert commands_of("medsa-sim") == ()


@pytest.mark.parametrize("program", SCRIPTS)
def test_completions_are_printed_for_shells(program):
    assert printed(program, "--print-completion", "zsh").startswith(f"#compdef {program}\n")
    script = printed(program, "--print-completion", "bash")
    assert script.rstrip().endswith(f" {program}")
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n"], input=script, text=True, check=True)


COMPLETED = [
    ("flower-server", "prov", ["provision"]),
    ("flower-server", "--co", ["--config"]),
    ("flower-server", "provision --co", ["--config"]),
    ("flower-server", "status --re", []),
    ("flower-server", "start --re", ["--resume", "--readmit"]),
    ("flower-server", "start --track m", ["mlflow"]),
    ("flower-server", "audit v", ["verify"]),
    ("flower-server", "--config configs/fed", ["configs/federation.yaml"]),
    ("medsa-sim", "--over", ["--overwrite"]),
    ("medsa-sim", "--config c.yaml --track t", ["tensorboard"]),
    ("medsa-audit", "--mem", ["--membership"]),
    ("medsa-bench", "step_2d step_1", ["step_1024"]),
    ("medsa-bench", "--out conf", ["configs"]),
]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_commands_options_choices_and_files():
    lines = ["set -u"]
    for program in dict.fromkeys(program for program, *_ in COMPLETED):
        lines.append(printed(program, "--print-completion", "bash"))
    for program, typed, _ in COMPLETED:
        words = [program, *typed.split()]
        function = f"_shtab_{program.replace('-', '_')}"
        lines += [f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}", function,
                  'echo "found:${COMPREPLY[*]-}"']  # fmt: skip
    done = subprocess.run(
        ["bash", "--norc", "-s"], input="\n".join(lines), text=True, capture_output=True, cwd=ROOT,
        check=True,
    )  # fmt: skip
    found = [line.removeprefix("found:").split() for line in done.stdout.splitlines()]
    assert found == [expected for *_, expected in COMPLETED]


def start(command: list[str], output: int, **environment: str) -> "subprocess.Popen[bytes]":
    """Python with these words; output and errors go to `output`."""
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=output,
        stderr=subprocess.STDOUT, cwd=ROOT, env={**plain, "TERM": "xterm-256color", **environment},
    )  # fmt: skip


def on_a_terminal(command: list[str], **environment: str) -> bytes:
    """What a command writes to a pseudo terminal."""
    ours, theirs = pty.openpty()
    with start(command, theirs, **environment) as process:
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 4096):
                written += piece
        except OSError:  # its end is closed
            pass
        process.wait(timeout=100)
    os.close(ours)
    return written


def in_a_pipe(command: list[str], **environment: str) -> bytes:
    with start(command, subprocess.PIPE, **environment) as process:
        return process.communicate(timeout=100)[0]


def test_a_reader_that_goes_away_is_no_complaint():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "sim.bench.cli", "--list"], stdout=writing, stderr=subprocess.PIPE,
        cwd=ROOT, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


CLOSED = """
import os, subprocess, sys
from medsa_model.command_line import run_command

def command():
    with open(sys.argv[1], "w") as file:
        print("to the output")
        print("to the log", file=sys.stderr)
        subprocess.run(["sh", "-c", "echo of a child; echo of a child >&2"])
        file.write("to the file")
    return 7

raise SystemExit(run_command("it", command))
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_complaint_and_are_mixed_with_no_file(closed, tmp_path):
    """A file that is opened would get the number of the output, and what a child prints."""
    place = tmp_path / "file"
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", CLOSED, str(place)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7 and place.read_text() == "to the file"
    assert done.stdout == ("to the output\nof a child\n" if closed == "2>&-" else "")
    assert done.stderr == ("to the log\nof a child\n" if closed == ">&-" else "")


def test_help_needs_none_of_the_heavy_libraries():
    """They take seconds to import."""
    modules = sorted({target.split(":")[0] for target in PROGRAMS.values()})
    imports = "; ".join(f"import {module}" for module in modules)
    code = f"import sys; {imports}; print(*sorted({{'torch', 'monai', 'flwr'}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.integration
@pytest.mark.parametrize("command", [
    "server.cli --help", "server.cli status --config configs/federation.yaml",
    "sim.cli --config configs/nothing.yaml", "sim.bench.cli --list", "client.cli --help",
])  # fmt: skip
def test_files_and_pipes_get_no_escape_codes_and_no_color_is_kept(command):
    command = ["-m", *command.split()]
    assert ESCAPE not in in_a_pipe(command, COLUMNS="40")
    narrow = on_a_terminal(command, NO_COLOR="1", COLUMNS="20")
    assert narrow and not COLOUR.search(narrow) and b"Traceback" not in narrow
    assert ESCAPE not in on_a_terminal(command, TERM="dumb")


LOG = "from medsa_model.logs import logger, set_up; set_up(False); logger.warning('3 of \\'a\\'')"


@pytest.mark.integration
def test_logs_have_colours_on_a_terminal_alone():
    command = ["-c", LOG]
    assert COLOUR.search(on_a_terminal(command))
    assert not COLOUR.search(on_a_terminal(command, NO_COLOR="1"))
    assert ESCAPE not in on_a_terminal(command, TERM="dumb")
    assert ESCAPE not in (plain := in_a_pipe(command)) and b" 3 of 'a'\n" in plain
