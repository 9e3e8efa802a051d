"""Copies of a program that PyTorch's launcher starts are refused."""

import pytest

from medsa_model.errors import ConfigError
from medsa_model.launcher import refuse_launcher


def test_a_copy_is_told_what_to_do_instead():
    with pytest.raises(ConfigError) as caught:
        refuse_launcher("do that", {"WORLD_SIZE": "4", "RANK": "2"})
    assert "one of 4 copies" in str(caught.value) and "WORLD_SIZE is 4" in str(caught.value)
    assert "expected one process: do that" in str(caught.value)


@pytest.mark.parametrize("found", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "many"}])
def test_a_process_alone_is_not_refused(found):
    refuse_launcher("", found)


def test_the_environment_of_the_process_is_looked_at(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one of 2 copies"):
        refuse_launcher("")
