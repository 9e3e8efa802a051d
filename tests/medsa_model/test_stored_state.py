"""States on disk: the same bits, one tensor at a time, nothing cached, refusals in words."""

import re
from pathlib import Path

import pytest
import torch

from medsa_model import stored_state
from medsa_model.errors import CheckpointError
from medsa_model.stored_state import keep, parts

STATE = {
    "z": torch.randn(3, 4),
    "a": torch.tensor(-0.0),
    "turned": torch.arange(6.0).view(2, 3).T,  # not contiguous
    "m": torch.tensor([torch.finfo().tiny / 4, 1e6, -1e6]),
    "empty": torch.empty(0, 2),
}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)


def test_a_state_comes_back_bit_for_bit_in_its_order(tmp_path):
    stored = keep(tmp_path / "site.safetensors", STATE)
    assert list(stored) == list(STATE) and len(stored) == len(STATE)
    for name, tensor in STATE.items():
        assert stored[name].shape == tensor.shape and stored[name].dtype == torch.float32
        assert torch.equal(bits(stored[name]), bits(tensor))


def test_only_the_owner_reads_the_file_and_no_draft_is_left(tmp_path):
    path = tmp_path / "site.safetensors"
    keep(path, STATE)
    keep(path, {"a": torch.ones(1)})
    assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]


def test_a_tensor_owns_its_memory(tmp_path):
    """Changed by its holder, or the file gone: neither matters to the other."""
    path = tmp_path / "site.safetensors"
    stored = keep(path, STATE)
    taken = stored["z"]
    taken += 1
    assert torch.equal(stored["z"], STATE["z"])
    assert taken.untyped_storage().nbytes() == taken.nbytes  # no view of the file
    keep(path, {"z": torch.zeros(3, 4)})  # the same place on disk
    assert torch.equal(taken, STATE["z"] + 1)


def test_nothing_is_cached(tmp_path):
    path = tmp_path / "site.safetensors"
    stored = keep(path, {"z": torch.zeros(2)})
    assert stored["z"].tolist() == [0, 0]
    keep(path, {"z": torch.ones(2)})
    assert stored["z"].tolist() == [1, 1]


def mapped(path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_the_file_is_let_go_after_reading(tmp_path):
    path = tmp_path / "site.safetensors"
    stored = keep(path, {"z": torch.randn(100_000)})
    held = [stored["z"], stored.part("z", 5, 10)]
    assert len(held) == 2 and not mapped(path)


def test_a_name_that_is_not_there(tmp_path):
    stored = keep(tmp_path / "site.safetensors", STATE)
    assert "z" in stored and "y" not in stored
    with pytest.raises(KeyError, match="y"):
        stored["y"]


@pytest.mark.parametrize("damage", ["gone", "cut", "longer", "noise", "another table"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "site.safetensors"
    stored = keep(path, STATE)
    content = path.read_bytes()
    path.unlink()
    other = {
        "cut": content[:-8], "longer": content + b"\0" * 4, "noise": b"\xff" * len(content),
        "another table": content.replace(b"[3,4]", b"[4,3]"),
    }  # fmt: skip
    assert content not in other.values()
    if damage != "gone":
        path.write_bytes(other[damage])
    with pytest.raises(CheckpointError, match=r"update site\.safetensors cannot be read at z"):
        stored["z"]


def test_a_disk_that_cannot_be_written_leaves_nothing(tmp_path):
    path = tmp_path / "site.safetensors"
    path.mkdir()  # as a file cannot replace a folder
    with pytest.raises(CheckpointError, match=r"site\.safetensors cannot be kept .* 0\.0 MB"):
        keep(path, STATE)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CheckpointError, match=re.escape("cannot be kept on disk")):
        keep(tmp_path / "nowhere" / "site.safetensors", STATE)


@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_parts_are_the_whole_and_no_larger_than_allowed(tmp_path, monkeypatch, most):
    monkeypatch.setattr(stored_state, "NUMBERS", most)
    states = [STATE, {"turned": torch.randn(3, 2)}]
    states += [keep(tmp_path / f"{n}", state) for n, state in enumerate(states)]
    found = list(parts(states, "turned", 1, 6))
    assert all(values.numel() <= max(most, len(states)) for _, values in found)
    places = [place for part, _ in found for place in range(part.start, part.stop)]
    assert places == [1, 2, 3, 4, 5]
    expected = torch.stack([state["turned"].reshape(-1)[1:6] for state in states])
    assert torch.equal(torch.cat([values for _, values in found], dim=1), expected)
    assert list(parts(states[::2], "empty", 0, 0)) == []
