"""Adapter states as bytes: what a site sends is its change against the state that it was sent.

All integers are little-endian. A state as it is written, version 1:

    1 byte    version, 1
    1 byte    kind: 0 lossless, 1 float16, 2 int8, 3 int4
    8 bytes   how many values all tensors have together
    4 bytes   crc32 of the float32 bits of the reference; 0 without one
    planes    of the kind, each as `byte_planes.py` says; nothing comes behind them

The values are those of all tensors one after the other, in the order of the manifest, each
row by row. The reference of an update is the global state that the site began from; what the
coordinator sends has none, and is always lossless.

`lossless`  Bit for bit. The float32 bits as an integer of 32 bits, less that of the reference
            modulo 2^32; a difference d of -2^31 ... 2^31 - 1 is written as 2d when it is not
            negative and else as -2d - 1, so that small ones have small numbers; four planes. Two
            floats of one sign that are neighbours differ by 1.
`float16`   The change rounded to float16; two planes. What is beyond float16's range becomes its
            largest finite number, 65504.
`int8`, `int4`  The change in whole numbers times a scale a channel (`quantised.py`).

A reader knows from the manifest how many bytes every plane has, and makes no more. Nothing in these
bytes is executed, and there is no place for anything but numbers.
"""

import struct
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from medsa_model import quantised
from medsa_model.byte_planes import Bytes, join, largest, pack, split, unpack
from medsa_model.errors import ManifestError
from medsa_model.state import AdapterState

VERSION = 1
KINDS = ("lossless", "float16", "int8", "int4")
LOSSY = KINDS[1:]
HEAD = struct.Struct("<BBQI")
Shapes = Mapping[str, tuple[int, ...]]
Floats = NDArray[np.float32]


def encode(
    state: Mapping[str, torch.Tensor], reference: AdapterState | None, shapes: Shapes, kind: str
) -> bytes:
    """The float32 `state` as bytes; `shapes` gives the order of its tensors.

    Without a `reference` the kind is "lossless". Values that are not finite stay so.
    """
    values, before = _flat(state, shapes), _flat(reference, shapes)
    head = HEAD.pack(VERSION, KINDS.index(kind), values.size, _checksum(reference, before))
    if kind == "lossless":
        less = values.view(np.uint32) - before.view(np.uint32)
        folded = (less << 1 ^ (0 - (less >> 31))).astype("<u4")
        return head + b"".join(map(pack, split(folded)))
    with np.errstate(over="ignore", invalid="ignore"):  # who reads it refuses what is not finite
        change = values - before
    if kind == "float16":
        most = np.float32(np.finfo(np.float16).max)
        fits = np.where(np.isfinite(change), np.clip(change, -most, most), change)
        return head + b"".join(map(pack, split(fits.astype("<f2"))))
    return head + quantised.write(change, shapes, kind)


def decode(
    data: bytes, reference: AdapterState | None, shapes: Shapes, kind: str,
    unchecked: bool = False,
) -> AdapterState:  # fmt: skip
    """The state in `data`, which has to be of `kind` and against `reference`.

    The tensors are float32 with the names and shapes of `shapes`; a lossless one holds what bits it
    holds, also such as are not finite. Raises `ManifestError`, with `unchecked` also for no scale.
    """
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    before = _flat(reference, shapes)
    expected = (VERSION, KINDS.index(kind), count, _checksum(reference, before))
    if len(data) < HEAD.size:
        raise ManifestError(f"the update cannot be read: it has {len(data)} bytes")
    _compare(HEAD.unpack(data[: HEAD.size]), expected)
    rest = memoryview(data)[HEAD.size :]
    if kind == "lossless":
        planes, rest = _planes(rest, count, 4)
        folded = join(planes, "<u4").astype(np.uint32)
        values = ((folded >> 1 ^ (0 - (folded & 1))) + before.view(np.uint32)).view(np.float32)
    else:
        if kind == "float16":
            planes, rest = _planes(rest, count, 2)
            change = join(planes, "<f2").astype(np.float32)
        else:
            change, rest = quantised.read(rest, shapes, kind, unchecked)
        with np.errstate(over="ignore", invalid="ignore"):  # its values are looked at later
            values = before + change
    if len(rest):
        raise ManifestError(f"{len(rest)} bytes stand behind the update, expected none")
    parts = torch.from_numpy(values).split([torch.Size(s).numel() for s in shapes.values()])
    return {
        name: part.reshape(shapes[name]).clone() for name, part in zip(shapes, parts, strict=True)
    }


def largest_size(shapes: Shapes, kind: str) -> int:
    """Most bytes that `encode` makes."""
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    if kind in quantised.LEVELS:
        return HEAD.size + quantised.largest_size(shapes, kind)
    return HEAD.size + (4 if kind == "lossless" else 2) * largest(count)


def _flat(state: Mapping[str, torch.Tensor] | None, shapes: Shapes) -> Floats:
    """The values of all tensors in the order of `shapes`; zeros without a state."""
    if state is None:
        return np.zeros(sum(torch.Size(shape).numel() for shape in shapes.values()), np.float32)
    parts = [state[name].reshape(-1) for name in shapes]
    values: Floats = (torch.cat(parts) if parts else torch.zeros(0)).numpy()
    return values


def _planes(data: memoryview, count: int, width: int) -> tuple[list[Bytes], memoryview]:
    """The planes of `count` numbers of `width` bytes, and what comes behind them."""
    planes = []
    for _ in range(width):
        plane, data = unpack(data, count)
        planes.append(plane)
    return planes, data


def _checksum(reference: AdapterState | None, before: Floats) -> int:
    return 0 if reference is None else zlib.crc32(before.data)


def _compare(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Whether an update's head is that of what was agreed."""
    if found == expected:
        return
    if found[0] != VERSION:
        raise ManifestError(
            f"the update cannot be read: its version is {found[0]}, expected {VERSION}; both ends "
            "need the same version of fed-medsa"
        )
    if found[1] != expected[1]:
        said = KINDS[found[1]] if found[1] < len(KINDS) else found[1]
        raise ManifestError(f"the update is of kind {said}, expected {KINDS[expected[1]]}")
    if found[2] != expected[2]:
        raise ManifestError(
            f"the update has {found[2]} values, expected {expected[2]}: every site needs the same "
            "backbone and the same adapter section"
        )
    raise ManifestError("the update is the change of another state than the one that was sent")
