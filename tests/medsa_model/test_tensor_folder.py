"""Tensors in files: private, bounded, and never trusted when they are damaged."""

import os
from pathlib import Path

import pytest
import torch

from medsa_model.errors import ConfigError
from medsa_model.tensor_folder import TensorFolder


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_comes_back_bit_for_bit_also_after_a_restart(place, dtype):
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype).T
    folder = TensorFolder(place, 10**6)
    folder.write("a", "of this", tensor)
    for each in (folder, TensorFolder(place, 10**6)):
        found = each.read("a", "of this")
        assert found is not None and found.dtype == dtype and torch.equal(found, tensor)
        assert each.read("a", "of that") is None and each.read("b", "of this") is None


def test_only_the_owner_can_read(place):
    before = os.umask(0)
    try:
        TensorFolder(place, 10**6).write("a", "", torch.zeros(4))
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in place.iterdir()] == [0o600]


def test_a_folder_that_others_can_read_is_refused(place):
    place.mkdir(parents=True)
    place.chmod(0o755)
    with pytest.raises(ConfigError, match=r"open to other accounts .*expected 700: chmod 700"):
        TensorFolder(place, 10**6)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache folder .*file cannot be used: .*choose another"):
        TensorFolder(tmp_path / "file", 10**6)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_counts_as_nothing_and_is_written_anew(place, damage):
    folder = TensorFolder(place, 10**6)
    folder.write("a", "", torch.arange(100.0))
    (file,) = place.iterdir()
    file.write_bytes(file.read_bytes()[:-7] if damage is None else damage)
    for each in (folder, TensorFolder(place, 10**6)):
        assert each.read("a", "") is None
    folder.write("a", "", torch.ones(3))
    found = folder.read("a", "")
    assert found is not None and torch.equal(found, torch.ones(3))


def test_a_file_that_somebody_removed_counts_as_nothing(place):
    folder = TensorFolder(place, 10**6)
    folder.write("a", "", torch.ones(3))
    next(place.iterdir()).unlink()
    assert folder.read("a", "") is None
    folder.write("b", "", torch.ones(3))
    assert folder.read("b", "") is not None


def size_of_one(place: Path) -> int:
    folder = TensorFolder(place.with_name("one"), 10**6)
    folder.write("a", "", torch.ones(100))
    return next(folder.place.iterdir()).stat().st_size


def test_the_folder_keeps_its_bound_and_loses_what_was_not_used_longest(place):
    size = size_of_one(place)
    folder = TensorFolder(place, 3 * size)
    for name in "abc":
        folder.write(name, "", torch.ones(100))
    folder.read("a", "")
    folder.write("d", "", torch.ones(100))
    assert sorted(path.stem for path in place.iterdir()) == ["a", "c", "d"]
    folder.write("c", "", torch.zeros(100))  # the same name takes no further room
    assert sorted(path.stem for path in place.iterdir()) == ["a", "c", "d"]
    assert sum(path.stat().st_size for path in place.iterdir()) == 3 * size
    folder.write("e", "", torch.ones(1000))  # larger than all together may be
    assert sorted(path.stem for path in place.iterdir()) == ["a", "c", "d"]


def test_a_restart_knows_the_order_of_use_and_a_smaller_bound(place):
    size = size_of_one(place)
    folder = TensorFolder(place, 3 * size)
    for number, name in enumerate("abc"):
        folder.write(name, "", torch.ones(100))
        os.utime(place / f"{name}.safetensors", ns=(0, 10**9 * (number if name != "a" else 5)))
    (place / ".x.safetensors.draft").write_bytes(b"half")
    (place / "notes.txt").write_text("of somebody else")
    TensorFolder(place, 2 * size)
    assert sorted(path.name for path in place.iterdir()) == [
        "a.safetensors", "c.safetensors", "notes.txt",
    ]  # fmt: skip


def test_a_full_disk_is_told_once_and_stops_nothing(place, monkeypatch, caplog):
    monkeypatch.setattr("medsa_model.tensor_folder.logger.propagate", True)
    folder = TensorFolder(place, 10**6)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as inside:
        inside.setattr(Path, "replace", full)
        for name in "ab":
            folder.write(name, "", torch.ones(3))
    assert [*place.iterdir()] == []  # no draft takes room that nobody counts
    # a record that two handlers heard is one
    told = {id(record) for record in caplog.records if "No space left" in record.getMessage()}
    assert len(told) == 1
    assert folder.read("a", "") is None
    folder.write("c", "", torch.ones(3))
    assert folder.read("c", "") is not None


def read_only(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")


def test_a_disk_that_became_read_only_is_told_and_stops_nothing(place, monkeypatch, caplog):
    monkeypatch.setattr("medsa_model.tensor_folder.logger.propagate", True)
    size = size_of_one(place)
    folder = TensorFolder(place, 2 * size)
    for name in "ab":
        folder.write(name, "", torch.ones(100))
    with monkeypatch.context() as inside:
        for name in ("unlink", "replace"):
            inside.setattr(Path, name, read_only)
        inside.setattr(os, "open", read_only)
        folder.write("c", "", torch.ones(100))  # another one would have to go
        folder.write("a", "new", torch.zeros(100))
    assert "Read-only file system" in caplog.text
    for name in "ab":  # as they are on the disk
        found = folder.read(name, "")
        assert found is not None and torch.equal(found, torch.ones(100))
    for name in "cde":
        folder.write(name, "", torch.ones(100))
        assert sum(path.stat().st_size for path in place.iterdir()) <= 2 * size


def test_a_start_that_cannot_remove_what_is_too_much_says_so(place, monkeypatch):
    size = size_of_one(place)
    folder = TensorFolder(place, 2 * size)
    for name in "ab":
        folder.write(name, "", torch.ones(100))
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(ConfigError, match="cannot be used: Read-only file system; choose another"):
        TensorFolder(place, size)
