"""Numbers of several bytes as planes of bytes, each compressed where that pays.

The first bytes of all numbers make one plane, the second bytes the next one: signs and exponents
repeat and are packed, the last bits of a mantissa are noise and stay as they are. Whether a plane
is packed is decided by the entropy of its histogram (Shannon 1948), taken of evenly spaced bytes.

A plane as it is written: one byte, 0 stored or 1 packed by zlib (RFC 1950); eight bytes, how many
bytes follow, as a little-endian integer; these bytes. How many bytes it has when it is unpacked is
written nowhere: the reader knows it.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from medsa_model.errors import ManifestError

HEAD = struct.Struct("<BQ")
STORED, PACKED = 0, 1
LOOKED_AT = 2**14  # bytes of a plane that make its histogram
WORTH = 7.6  # bits a byte; above, packing saves less than 5 %
Bytes = NDArray[np.uint8]


def split(numbers: NDArray[np.generic]) -> list[Bytes]:
    """The planes of a flat array of numbers, lowest byte first."""
    width = numbers.dtype.itemsize
    rows = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, width)
    return [np.ascontiguousarray(rows[:, place]) for place in range(width)]


def join(planes: list[Bytes], kind: str) -> NDArray[np.generic]:
    """The numbers of the little-endian NumPy type `kind` that `split` made `planes` of."""
    rows = np.empty((len(planes[0]), len(planes)), np.uint8)
    for place, plane in enumerate(planes):
        rows[:, place] = plane
    return rows.view(kind).reshape(-1)


def pack(plane: Bytes) -> bytes:
    """A plane as it is written."""
    counts = np.bincount(plane[:: len(plane) // LOOKED_AT | 1])  # odd steps: no column of a matrix
    shares = counts[counts > 0] / max(1, counts.sum())
    if len(plane) and -float(shares @ np.log2(shares)) < WORTH:
        # runs of one byte are looked for where one byte prevails; other repetitions are chance
        way = zlib.Z_RLE if shares.max() > 0.5 else zlib.Z_HUFFMAN_ONLY
        packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, way)
        packed = packer.compress(plane.data) + packer.flush()
        if len(packed) < len(plane):
            return HEAD.pack(PACKED, len(packed)) + packed
    return HEAD.pack(STORED, len(plane)) + plane.tobytes()


def unpack(data: memoryview, size: int) -> tuple[Bytes, memoryview]:
    """The plane of `size` bytes with which `data` begins, and what comes behind it.

    Never makes more than `size` + 1 bytes, whatever is promised. Raises `ManifestError`.
    """
    if len(data) < HEAD.size:
        raise ManifestError(f"a plane of {size} bytes is missing: the update is cut off")
    way, length = HEAD.unpack(data[: HEAD.size])
    content, rest = data[HEAD.size : HEAD.size + length], data[HEAD.size + length :]
    if len(content) != length:
        raise ManifestError(f"a plane has {len(content)} bytes of {length}: the update is cut off")
    if way == STORED and length == size:
        return np.frombuffer(content, np.uint8), rest
    if way != PACKED or length >= size:
        raise ManifestError(
            f"a plane is written in the way {way} in {length} bytes, expected {STORED} in {size} "
            f"or {PACKED} in fewer"
        )
    unpacker = zlib.decompressobj()
    try:
        plane = unpacker.decompress(content, size + 1)  # one more: the stream has to end, too
    except zlib.error as error:
        raise ManifestError("a plane cannot be unpacked by zlib") from error
    if len(plane) != size or not unpacker.eof or unpacker.unused_data:
        raise ManifestError(
            f"a packed plane has {'more than ' if len(plane) > size else ''}"
            f"{min(len(plane), size)} bytes, expected {size} and nothing behind them"
        )
    return np.frombuffer(plane, np.uint8), rest


def largest(size: int) -> int:
    """Most bytes that a plane of `size` bytes takes."""
    return HEAD.size + size
