"""Tensors in memory: bounded, and the one that was not used longest goes first."""

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
    assert [store.get(name) is not None for name in "abcd"] == [True, False, True, True]
    find(store, "a", made)
    find(store, "e", made)  # c is the oldest now
    assert [store.get(name) is not None for name in "acde"] == [True, False, True, True]
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
