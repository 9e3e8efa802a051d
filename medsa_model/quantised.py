"""Changes in few bits: whole numbers times one scale a channel.

A channel is one index of a tensor's first dimension; a tensor of one dimension or none is one
channel. Of a channel with changes c and levels L (127 in eight bits, 7 in four)

    scale = max |c| / L        as float32
    whole = round(c / scale)   to the nearest of -L ... L, halves to the even one; 0 for scale 0

so that whole * scale misses c by half a scale at most. Symmetric uniform quantisation as in Jacob
et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", without a zero point.

As written: the scales of all channels as float32, split into planes (`byte_planes.py`); then the
whole numbers, each plus L + 1, as one plane. In four bits two share a byte, the first one in its
lower half; the last half is 0 when their number is odd.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from medsa_model.byte_planes import Bytes, join, largest, pack, split, unpack
from medsa_model.errors import ManifestError
from medsa_model.rejections import Code, Rejected
from medsa_model.strategies import LARGEST_VALUE

LEVELS = {"int8": 127, "int4": 7}
Floats = NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]


def lengths(shapes: Shapes) -> NDArray[np.int64]:
    """Numbers in each channel, in the order of `shapes`; tensors without any have no channel."""
    found: list[int] = []
    for shape in shapes.values():
        if size := torch.Size(shape).numel():
            channels = shape[0] if len(shape) > 1 else 1
            found += [size // channels] * channels
    return np.array(found, np.int64)


def write(change: Floats, shapes: Shapes, kind: str) -> bytes:
    """A flat float32 `change` in the order of `shapes`, as `kind` "int8" or "int4".

    A channel with a value that is not finite gets such a scale, so that its reader notices.
    """
    levels, sizes = LEVELS[kind], lengths(shapes)
    starts = np.cumsum(sizes) - sizes
    most = np.maximum.reduceat(np.abs(change), starts) if sizes.size else np.zeros(0, np.float32)
    scales = (most / np.float32(levels)).astype("<f4")
    by = np.where(np.isfinite(scales) & (scales > 0), scales, np.float32(np.inf))
    with np.errstate(invalid="ignore"):  # of channels that are not finite
        whole = np.nan_to_num(np.rint(change / np.repeat(by, sizes)), nan=0.0)
    whole = np.clip(whole, -levels, levels)  # a scale of few bits rounds far
    above = (whole + np.float32(levels + 1)).astype(np.uint8)
    plane = _paired(above) if kind == "int4" else above
    return b"".join(map(pack, split(scales))) + pack(plane)


def read(
    data: memoryview, shapes: Shapes, kind: str, unchecked: bool = False
) -> tuple[Floats, memoryview]:
    """The flat float32 change with which `data` begins, and what comes behind it.

    Raises `ManifestError`: `Rejected` for scales that no trained adapter needs, which `unchecked`
    lets through, and for others plainly.
    """
    levels, sizes = LEVELS[kind], lengths(shapes)
    count, planes = int(sizes.sum()), []
    for _ in range(4):
        plane, data = unpack(data, len(sizes))
        planes.append(plane)
    scales = join(planes, "<f4").astype(np.float32)
    if not unchecked and not bool(np.isfinite(scales).all()):
        raise Rejected(Code.NOT_FINITE, "it has scales that are not finite")
    if bool(np.signbit(scales).any()):
        raise ManifestError("a scale is negative, expected 0 or more")
    most = float(scales.max()) if scales.size else 0.0
    if not unchecked and most * levels > 2 * LARGEST_VALUE:
        raise Rejected(
            Code.TOO_LARGE,
            f"it has scales up to {most:.3g}, expected at most {2 * LARGEST_VALUE / levels:.3g}",
        )
    plane, data = unpack(data, (count + 1) // 2 if kind == "int4" else count)
    above = _unpaired(plane, count) if kind == "int4" else plane
    if count and (int(above.min()) < 1 or int(above.max()) > 2 * levels + 1):
        raise ManifestError(f"a whole number is outside -{levels} to {levels}")
    whole = above.astype(np.float32) - np.float32(levels + 1)
    with np.errstate(over="ignore", invalid="ignore"):  # of what is unchecked
        return whole * np.repeat(scales, sizes), data


def largest_size(shapes: Shapes, kind: str) -> int:
    """Most bytes that `write` makes."""
    sizes = lengths(shapes)
    count = int(sizes.sum())
    return 4 * largest(len(sizes)) + largest((count + 1) // 2 if kind == "int4" else count)


def _paired(above: Bytes) -> Bytes:
    """Numbers below 16, two a byte."""
    plane = np.zeros((len(above) + 1) // 2, np.uint8)
    plane |= above[0::2]
    plane[: len(above) // 2] |= above[1::2] << 4
    return plane


def _unpaired(plane: Bytes, count: int) -> Bytes:
    """`count` numbers of a plane of pairs; raises `ManifestError` when the half left is not 0."""
    both: Bytes = np.empty(2 * len(plane), np.uint8)
    both[0::2], both[1::2] = plane & 15, plane >> 4
    if both[count:].any():
        raise ManifestError("the half byte behind the last number is not 0")
    return both[:count]
