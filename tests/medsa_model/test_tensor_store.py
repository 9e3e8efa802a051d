"""Tensors in memory: bounded, and the one that was not used longest goes first."""

import pytest
import torch

from medsa_model.tensor_folder import TensorFolder
from medsa_model.tensor_store import TensorStore

FOUR = 16  # bytes of the tensors below


def find(store: TensorStore, name: str, made: list[str], content: str = "") -> torch.Tensor:
    def make() -> torch.Tensor:
        made.append(name)
        return torch.full((4,), float(ord(name[0])))

    found = store.find(name, lambda: content, make)
    assert torch.equal(found, torch.full((4,), float(ord(name[0]))))
    return found


def test_what_was_found_once_is_not_made_again():
    store, made = TensorStore(2 * FOUR), list[str]()
    for name in "abab":
        find(store, name, made)
    assert made == ["a", "b"] and store.bytes == 2 * FOUR and len(store) == 2


def test_the_one_that_was_not_used_longest_goes_first():
    store, made = TensorStore(3 * FOUR), list[str]()
    for name in ("a", "b", "c", "a", "d"):
        find(store, name, made)
    assert [store.get(name, "") is not None for name in "abcd"] == [True, False, True, True]
    find(store, "a", made)
    find(store, "e", made)  # c is the oldest now
    assert [store.get(name, "") is not None for name in "acde"] == [True, False, True, True]
    assert store.bytes == 3 * FOUR


def test_what_is_too_large_is_given_and_not_kept():
    for most in (0, FOUR - 1):
        store, made = TensorStore(most), list[str]()
        find(store, "a", made)
        find(store, "a", made)
        assert made == ["a", "a"] and store.bytes == 0


def test_the_folder_has_what_memory_has_not(tmp_path):
    folder = TensorFolder(tmp_path / "cache", 10**6)
    store, made = TensorStore(FOUR, folder), list[str]()
    for name in "abab":
        find(store, name, made)
    assert made == ["a", "b"]
    again = TensorStore(FOUR, TensorFolder(tmp_path / "cache", 10**6))  # after a restart
    find(again, "a", made)
    assert made == ["a", "b"]
    other = TensorStore(0, TensorFolder(tmp_path / "cache", 10**6))
    find(other, "a", made, "another image of the same name")
    find(other, "a", made, "another image of the same name")
    assert made == ["a", "b", "a"]


def test_what_is_made_of_something_else_is_made_anew_and_takes_no_second_room():
    store, made = TensorStore(3 * FOUR), list[str]()
    for content in ("image", "image", "repaired", "repaired"):
        find(store, "a", made, content)
    assert made == ["a", "a"] and len(store) == 1 and store.bytes == FOUR
    assert store.get("a", "image") is None and store.get("a", "repaired") is not None


@pytest.fixture
def pins(monkeypatch) -> list[int]:
    """Bytes of every tensor that was pinned; a copy stands for what CUDA would give."""
    sizes = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return sizes


def test_what_was_just_made_is_given_as_it_is_and_a_pinned_copy_is_kept(pins):
    store, made = TensorStore(FOUR), torch.arange(4.0)
    assert store.find("a", lambda: "", lambda: made, pinned=True) is made
    kept = store.get("a", "")
    assert kept is not None and kept is not made and torch.equal(kept, made) and pins == [FOUR]
    assert store.find("a", lambda: "", lambda: made, pinned=True) is kept and pins == [FOUR]


@pytest.mark.parametrize("most", [0, FOUR - 1])
def test_what_is_not_kept_is_not_pinned(most, pins, tmp_path):
    for folder in (None, TensorFolder(tmp_path / "cache", 10**6)):
        store = TensorStore(most, folder)
        for _ in range(2):
            store.find("a", lambda: "", lambda: torch.ones(4), pinned=True)
    assert pins == []
