"""States on disk, read one tensor at a time, so that memory does not grow with the number of sites.

A coordinator keeps every accepted update until the round is over: rules that hold against faulty
sites need all of them at once, and a sum is the same bit for bit only in the order of the sites,
not in that of arrival.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from medsa_model.errors import CheckpointError
from medsa_model.private_files import PRIVATE

NUMBERS = 2**20
"""Numbers of all states together that `parts` reads at once: 4 MiB."""


@dataclass(frozen=True)
class Place:
    """Where a tensor is in a file: its first byte, counted from the file's beginning."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class StoredState(Mapping[str, Tensor]):
    """The tensors of a safetensors file by name, in the order of `places`; no value is cached.

    Each reading opens the file, copies one tensor and lets go of the file. What is remembered is
    the file's `header` and its `size` in bytes, which each reading compares. Raises
    `CheckpointError` when the file is gone or damaged.
    """

    def __init__(self, path: Path, size: int, header: bytes, places: Mapping[str, Place]) -> None:
        self.path = path
        self._size, self._header, self._places = size, header, places

    def __getitem__(self, name: str) -> Tensor:
        """A copy of one tensor."""
        place = self._places[name]
        return self._read(name, 0, math.prod(place.shape)).view(place.shape)

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """A copy of the numbers `start` to `stop` of a flattened tensor: (stop - start,)."""
        return self._read(name, start, stop)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor; that of `Mapping` would read it."""
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        place = self._places[name]
        values = torch.empty(stop - start, dtype=place.dtype)
        first = place.start + start * values.itemsize
        try:
            # not by safetensors: it reads the table of all tensors for each of them
            with self.path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size != self._size or file.read(len(self._header)) != self._header:
                    raise OSError(f"it is another file of {size} bytes")
                file.seek(first)
                if file.readinto(values.view(torch.uint8).numpy().data) != values.nbytes:
                    raise OSError("it ends too early")
        except OSError as error:
            raise CheckpointError(
                f"the stored update {self.path.name} cannot be read at {name}: {error}; expected "
                "the file as it was written in this round: do not touch the run's folder while it "
                "runs, look after the disk, and go on with --resume"
            ) from error
        return values


def keep(path: Path, state: Mapping[str, Tensor]) -> StoredState:
    """Write `state` to a safetensors file that only its owner can read, and let go of it.

    A file that is there is replaced in one step. Raises `CheckpointError` when it cannot be
    written; nothing of it is left then.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, draft)
        draft.chmod(PRIVATE)  # whatever way it was written
        with draft.open("rb") as file:
            length = file.read(8)  # format of safetensors: length of the table, table, numbers
            header = length + file.read(int.from_bytes(length, "little"))
            size = os.fstat(file.fileno()).st_size
        draft.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors wraps those of the disk
        draft.unlink(missing_ok=True)  # a disk that is full needs the space
        needed = sum(tensor.nbytes for tensor in state.values()) / 1e6
        raise CheckpointError(
            f"the update {path.name} cannot be kept on disk ({error}): it needs about {needed:,.1f}"
            " MB; make space or correct what is said there, and go on with --resume"
        ) from error
    kinds = tuple((name, tuple(each.shape), each.dtype) for name, each in state.items())
    return StoredState(path, size, *_places_in(header, kinds))


@lru_cache(maxsize=1)  # the same for the updates of all sites, as an object too
def _places_in(
    header: bytes, kinds: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
) -> tuple[bytes, dict[str, Place]]:
    """`header`, and where the tensors are of which `kinds` gives names, shapes and types."""
    table = json.loads(header[8:])
    places = {}
    for name, shape, dtype in kinds:
        places[name] = Place(len(header) + table[name]["data_offsets"][0], shape, dtype)
    return header, places


def parts(
    states: Sequence[Mapping[str, Tensor]], name: str, start: int, stop: int
) -> Iterator[tuple[slice, Tensor]]:
    """The numbers `start` to `stop` of the flattened tensor `name` in all states, part by part.

    Gives where the part is in the flattened tensor, and a copy (states, numbers) float32 with
    `NUMBERS` numbers at most, or one of each state when these are more.
    """
    size = max(1, NUMBERS // len(states))
    for first in range(start, stop, size):
        last = min(first + size, stop)
        values = torch.empty(len(states), last - first)
        for row, state in zip(values, states, strict=True):
            if isinstance(state, StoredState):
                row.copy_(state.part(name, first, last))
            else:
                row.copy_(state[name].reshape(-1)[first:last])
        yield slice(first, last), values


def groups(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """Names in groups that have `NUMBERS` numbers at most, or one tensor.

    Many small operations take longer than a large one, and a whole state at once takes memory.
    """
    group: list[str] = []
    numbers = 0
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        if group and numbers + count > NUMBERS:
            yield group
            group, numbers = [], 0
        group.append(name)
        numbers += count
    if group:
        yield group
