"""Residues on disk: which one a round begins with, and what stays private."""

import pytest
import torch

from medsa_model.errors import CheckpointError
from medsa_model.residues import forget_residues, keep_residue, load_residue
from medsa_model.state import AdapterState

SHAPES = {"w": (2, 3), "b": (4,)}
RUN = "a" * 64


def residue(value: float) -> AdapterState:
    return {name: torch.full(shape, float(value)) for name, shape in SHAPES.items()}


@pytest.fixture(autouse=True)
def log(caplog, monkeypatch):
    monkeypatch.setattr("medsa_model.residues.logger.propagate", True)  # set_up() turns it off
    return caplog


def value_of(folder, round_: int, run: str = RUN, site: str = "a") -> float:
    loaded = load_residue(folder, run, site, round_, SHAPES)
    assert list(loaded) == list(SHAPES)
    (value,) = {float(each) for tensor in loaded.values() for each in tensor.reshape(-1)}
    return value


def test_a_round_begins_with_what_the_one_before_left(tmp_path, log):
    folder = tmp_path / "state" / "residues"
    assert value_of(folder, 0) == 0.0
    for round_ in range(4):
        assert value_of(folder, round_) == float(round_)
        keep_residue(folder, RUN, "a", round_, residue(round_ + 1))
        assert value_of(folder, round_) == float(round_)  # also when it is repeated
        keep_residue(folder, RUN, "a", round_, residue(round_ + 1))
    assert not log.text
    assert sorted(path.name[:7] for path in folder.iterdir()) == ["000002-", "000003-"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())


@pytest.mark.parametrize(
    ("run", "site", "round_"), [("b" * 64, "a", 3), (RUN, "b", 3), (RUN, "a", 2), (RUN, "a", 1)]
)
def test_that_of_another_run_site_or_round_is_none(tmp_path, log, run, site, round_):
    keep_residue(tmp_path, RUN, "a", 2, residue(7.0))
    assert value_of(tmp_path, 3) == 7.0 and not log.text
    assert value_of(tmp_path, round_, run, site) == 0.0
    assert f"round {round_ + 1}: the residue of the rounds before" in log.text
    assert "there is none" in log.text


def test_rounds_that_were_missed_lose_nothing(tmp_path, log):
    """And the round after them can be repeated."""
    keep_residue(tmp_path, RUN, "a", 2, residue(7.0))
    for _ in range(2):
        assert value_of(tmp_path, 6) == 7.0
        keep_residue(tmp_path, RUN, "a", 6, residue(9.0))
    assert value_of(tmp_path, 7) == 9.0 and not log.text


def test_nothing_is_left_in_the_end(tmp_path):
    keep_residue(tmp_path / "residues", RUN, "a", 2, residue(7.0))
    forget_residues(tmp_path / "residues")
    forget_residues(tmp_path / "residues")
    assert not [*tmp_path.iterdir()]


def test_a_draft_of_a_killed_write_is_removed(tmp_path):
    (tmp_path / ".000001-0.safetensors.draft").write_bytes(b"half")
    keep_residue(tmp_path, RUN, "a", 2, residue(7.0))
    assert len([*tmp_path.iterdir()]) == 1


def test_one_that_is_renamed_is_not_taken(tmp_path, log):
    keep_residue(tmp_path, RUN, "a", 2, residue(7.0))
    (path,) = tmp_path.iterdir()
    path.rename(path.with_name(f"000003{path.name[6:]}"))
    assert value_of(tmp_path, 4) == 0.0 and "there is none" in log.text


def test_a_run_that_begins_removes_what_another_one_left(tmp_path):
    keep_residue(tmp_path, RUN, "a", 2, residue(7.0))
    keep_residue(tmp_path, "b" * 64, "a", 0, residue(1.0))
    assert len([*tmp_path.iterdir()]) == 1 and value_of(tmp_path, 1, "b" * 64) == 1.0


def damaged(path):
    path.write_bytes(path.read_bytes()[:-1])


def infinite(path):
    keep_residue(path.parent, RUN, "a", 2, residue(torch.inf))


def other(path):
    keep_residue(path.parent, RUN, "a", 2, {"w": torch.zeros(2, 3)})


@pytest.mark.parametrize("spoil", [damaged, infinite, other])
def test_one_that_is_damaged_or_of_another_model_is_none(tmp_path, log, spoil):
    keep_residue(tmp_path, RUN, "a", 2, residue(7.0))
    (path,) = tmp_path.iterdir()
    spoil(path)
    assert value_of(tmp_path, 3) == 0.0 and "cannot be used" in log.text


def test_one_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "residues").write_text("no folder")
    with pytest.raises(CheckpointError, match="the residue of round 3 cannot be kept in"):
        keep_residue(tmp_path / "residues", RUN, "a", 2, residue(7.0))
