"""docs/commands.md is what the commands say of themselves."""

import os
import re
import sys

import pytest

from sim.command_reference import PROGRAMS, commands, help_of
from tests.printed_commands import PAGES, ROOT


def test_the_options_are_current():
    """But for where lines break, which differs between versions of Python."""
    made = "python -m sim.command_reference > docs/commands.md"
    assert commands().split() == PAGES["docs/commands.md"].split(), f"make it again: {made}"


def test_every_command_of_the_package_is_there():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (scripts,) = re.findall(r"\[project.scripts\]\n((?:.+\n)+)", text)
    assert set(re.findall(r"^(\S+) = ", scripts, re.MULTILINE)) <= PROGRAMS.keys()
    for program, (main, _) in PROGRAMS.items():
        for name in re.findall(r"^    ([a-z]+)  +\S", help_of(program, main, ["--help"]), re.M):
            assert re.search(rf"^### .*{program} {name}$", PAGES["docs/commands.md"], re.MULTILINE)


def test_help_leaves_the_process_as_it_was(monkeypatch):
    monkeypatch.setenv("COLUMNS", "41")
    monkeypatch.delenv("NO_COLOR", raising=False)
    before, names = sys.argv, dict(os.environ)
    help_of("sim.table", PROGRAMS["sim.table"][0], ["--help"])
    assert sys.argv is before and dict(os.environ) == names


def test_a_command_that_fails_is_no_help_text():
    with pytest.raises(ValueError, match="ended with 2"):
        help_of("medsa-sim", PROGRAMS["medsa-sim"][0], ["--no-such-option"])
