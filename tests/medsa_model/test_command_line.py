"""What all commands share: exit codes for what goes wrong, and words in any order."""

import argparse
import os

import pytest

from medsa_model import __version__
from medsa_model.command_line import (
    add_command,
    add_track,
    make_parser,
    parse_command,
    positive,
    run_command,
)
from medsa_model.errors import ConfigError
from medsa_model.privacy.canaries import CANARIES
from sim.audit_cli import audit_parser
from sim.bench.figures import WITH_AGAINST
from sim.bench.names import WHAT


def fails(error: BaseException) -> int:
    """What `run_command` makes of it."""

    def command() -> int:
        raise error

    return run_command("it", command)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("a: found b, expected c"), 1, "it: a: found b, expected c\n"),
        (FileNotFoundError(2, "No such file", "x.yaml"), 1, "it: x.yaml: No such file\n"),
        (OSError(28, "No space left on device"), 1, "it: No space left on device\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, "it: Broken pipe\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
    ],
)
def test_what_goes_wrong_is_a_code_and_one_message(error, code, told, capsys):
    assert fails(error) == code
    assert capsys.readouterr() == ("", told)


def test_faults_of_the_program_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        fails(ZeroDivisionError())


@pytest.mark.parametrize("text", ["line", "long line" * 100_000])
def test_a_reader_that_goes_away_is_no_complaint(text, monkeypatch, capsys):
    """Also when nothing was flushed before the command was done."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert run_command("it", lambda: print(text) or 0) == 1
        print("more", flush=True)  # as Python does when it ends
    assert capsys.readouterr().err == ""


def test_a_broken_pipe_of_something_else_is_told(monkeypatch, capsys):
    """A child or a server that has gone away is no reader of the output."""
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert fails(BrokenPipeError(32, "Broken pipe")) == 1
    assert capsys.readouterr().err == "it: Broken pipe\n"


def test_an_error_is_told_though_nobody_reads_the_output(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)

    def command() -> int:
        print("line")
        raise ConfigError("a: found b")

    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert run_command("it", command) == 1
    assert capsys.readouterr().err == "it: a: found b\n"


def test_a_full_disk_is_told_once(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run_command("it", lambda: print("line") or 0) == 1
        print("more", flush=True)
    assert capsys.readouterr().err == "it: No space left on device\n"


def parse(*words: str) -> tuple[str, argparse.Namespace]:
    program = make_parser("it", "Does it.", ["it go"])
    commands = program.add_subparsers(prog="it")
    go = add_command(commands, "go", "goes there", ["it go a=1"], {0: "gone"})
    go.add_argument("--config", required=True)
    go.add_argument("--quick", action="store_true")
    go.add_argument("override", nargs="*")
    add_track(go)
    add_command(commands, "stop", "stops", ["it stop"])
    return parse_command(program, commands.choices, "go", words)


@pytest.mark.parametrize(
    "words",
    [
        "go --config c a=1 --quick b=2",
        "--config c a=1 --quick b=2",
        "a=1 b=2 --quick --config c",
        "--config=c --quick a=1 b=2",
    ],
)
def test_words_stand_in_any_order_and_one_command_is_the_default(words):
    command, options = parse(*words.split())
    assert command == "go" and options.override == ["a=1", "b=2"]
    assert options.config == "c" and options.quick and options.track == []


@pytest.mark.parametrize("words", ["--config stop a=1", "--conf stop", "--quick --config stop"])
def test_a_value_may_be_called_like_a_command(words):
    command, options = parse(*words.split())
    assert (command, options.config) == ("go", "stop")


def test_trackers_may_be_repeated():
    assert parse("--config", "c", "--track", "mlflow", "--track", "tensorboard")[1].track == [
        "mlflow", "tensorboard",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("--help", 0, "examples:\n  it go\n\nexit codes:\n  0    done\n"),
        ("go --help", 0, "Goes there.\n"),
        ("go --help", 0, "examples:\n  it go a=1\n\nexit codes:\n  0    gone\n"),
        ("--version", 0, f"fed-medsa {__version__}\n"),
        ("--print-completion=bash", 0, "complete -o bashdefault -F _shtab_it it\n"),
        ("--config c stop", 2, "the command comes first: it stop ...\n"),
        ("--quick stop --config c", 2, "the command comes first: it stop ...\n"),
        ("--config=c a=1 stop --wrong", 2, "the command comes first: it stop ...\n"),
        ("stpo --config c", 2, "there is no command 'stpo', expected one of go, stop\n"),
        ("", 2, "required: --config"),
        ("go --config c --wrong", 2, "--wrong"),
    ],
)
def test_what_ends_at_once(words, code, told, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*words.split())
    printed = capsys.readouterr()
    assert end.value.code == code and told in (printed.err if code else printed.out)
    assert not (printed.out if code else printed.err)


def test_numbers_of_times():
    assert positive("3") == 3
    for text in ("0", "-1", "x"):
        with pytest.raises(ValueError, match=text):
            positive(text)


def test_what_is_repeated_in_help_texts_is_true():
    """They are printed without an import of what they tell of."""
    assert audit_parser().get_default("canaries") == CANARIES
    assert {name: what for name, (what, _) in WITH_AGAINST.items()} == WHAT
