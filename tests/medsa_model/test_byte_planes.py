"""Planes of bytes: nothing is lost, packing pays, and a reader makes no more than it was told."""

import tracemalloc
import zlib

import numpy as np
import pytest

from medsa_model.byte_planes import HEAD, PACKED, STORED, join, largest, pack, split, unpack
from medsa_model.errors import ManifestError

RANDOM = np.random.default_rng(0)
PLANES = {
    "noise": RANDOM.integers(0, 256, 5000, np.uint8),
    "zeros": np.zeros(5000, np.uint8),
    "few": RANDOM.integers(0, 4, 5000, np.uint8),
    "mostly zeros": RANDOM.integers(0, 256, 5000, np.uint8) * (RANDOM.random(5000) < 0.05),
    "large": RANDOM.integers(0, 8, 300_001, np.uint8),
    "one": np.array([7], np.uint8),
    "none": np.zeros(0, np.uint8),
}


@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES)
def test_a_plane_comes_back(plane):
    plane = plane.astype(np.uint8)
    written = pack(plane)
    assert len(written) <= largest(len(plane))
    read, rest = unpack(memoryview(written + b"more"), len(plane))
    assert np.array_equal(read, plane) and bytes(rest) == b"more"


def test_a_plane_is_packed_where_that_pays():
    sizes = {name: len(pack(plane.astype(np.uint8))) for name, plane in PLANES.items()}
    assert sizes["noise"] == HEAD.size + 5000
    assert sizes["zeros"] < 100 and sizes["mostly zeros"] < 1000
    assert sizes["few"] < 1.2 * 5000 / 4  # two bits a byte


def test_planes_are_bytes_of_equal_place():
    numbers = np.array([0x04030201, 0x14131211], "<u4")
    assert [plane.tolist() for plane in split(numbers)] == [[1, 17], [2, 18], [3, 19], [4, 20]]
    assert np.array_equal(join(split(numbers), "<u4"), numbers)


def test_a_bomb_is_not_blown_up():
    bomb = zlib.compress(bytes(10**8), 9)
    written = memoryview(HEAD.pack(PACKED, len(bomb)) + bomb)
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError, match="more than 200000 bytes, expected 200000"):
            unpack(written, 200_000)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is missing"),
        (HEAD.pack(STORED, 9) + bytes(8), "has 8 bytes of 9"),
        (HEAD.pack(STORED, 8) + bytes(8), "in the way 0 in 8 bytes"),
        (HEAD.pack(PACKED, 9) + bytes(9), "in the way 1 in 9 bytes"),
        (HEAD.pack(2, 9) + bytes(9), "in the way 2"),
        (HEAD.pack(PACKED, 2**63) + bytes(9), "has 9 bytes of"),
        (HEAD.pack(PACKED, 8) + bytes(8), "cannot be unpacked"),
    ],
)
def test_a_plane_that_is_not_one_is_refused(data, message):
    with pytest.raises(ManifestError, match=message):
        unpack(memoryview(data), 9)
