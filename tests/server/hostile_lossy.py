"""What a hostile site can answer in a run whose updates are rounded; as `hostile.py`."""

import math
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from medsa_model.byte_planes import pack, split
from medsa_model.rejections import Code
from medsa_model.update_coding import HEAD
from tests.server.hostile import Change, coded, deflated, record, with_planes

Floats = NDArray[np.float32]
CHANNELS = 17
"""Of the manifest: 16 rows of a matrix, and a bias."""


def under(kind: str, make: Callable[[Floats], bytes]) -> Change:
    """Bytes under the declaration of `kind`."""
    return record(
        lambda sent: ArrayRecord(
            {"adapters": Array("float32", sent.shape, f"fed-medsa {kind}", make(sent))}
        )
    )


def changed(kind: str, by: float, at: float | None = None) -> Change:
    """An answer whose changes are all `by`, the first one `at`."""

    def make(sent: Floats) -> bytes:
        values = sent + np.float32(by)
        values[0] = values[0] if at is None else at
        return coded(values, sent, kind)

    return under(kind, make)


def head_of(sent: Floats, kind: str) -> bytes:
    return coded(sent, sent, kind)[: HEAD.size]


def scales(kind: str, value: float, numbers: int | None = None, count: int = CHANNELS) -> Change:
    """An answer whose first scale is `value`; its whole numbers are 1, or written as `numbers`."""

    def make(sent: Floats) -> bytes:
        each = np.full(count, 0.1, "<f4")
        each[0] = value
        one = 8 * 17 + 17 if kind == "int4" else 129
        size = 88 if kind == "int4" else 176
        plane = np.full(size, one if numbers is None else numbers, np.uint8)
        return head_of(sent, kind) + b"".join(map(pack, split(each))) + pack(plane)

    return under(kind, make)


def common(kind: str) -> dict[str, tuple[Change, Code | None]]:
    """What can be wrong in every kind."""

    def honest(sent: Floats) -> bytes:
        return coded(sent + np.float32(0.1), sent, kind)

    return {
        "an honest answer": (changed(kind, 0.1), None),
        "nothing changed": (changed(kind, 0.0), None),
        "one NaN": (changed(kind, 0.1, math.nan), Code.NOT_FINITE),
        "one infinite": (changed(kind, 0.1, -math.inf), Code.NOT_FINITE),
        "change x1000": (changed(kind, 100.0), Code.NORM),
        "lossless": (under("lossless", lambda s: coded(s, s)), Code.DECLARED),
        "lossless in disguise": (
            under(kind, lambda s: coded(s, s)), Code.HEADER,
        ),
        "truncated": (under(kind, lambda s: honest(s)[:-1]), Code.HEADER),
        "a byte behind": (under(kind, lambda s: coded(s, s, kind) + b"\0"), Code.HEADER),
        "many bytes behind": (under(kind, lambda s: honest(s) + bytes(10**5)), Code.BYTES),
        "a head alone": (under(kind, lambda s: head_of(s, kind)), Code.HEADER),
        "no head": (under(kind, lambda s: b""), Code.HEADER),
        "a zip bomb": (
            under(kind, lambda s: head_of(s, kind)
                  + with_planes(s, deflated(bytes(50_000)))[HEAD.size :]),
            Code.HEADER,
        ),
        "the change of another state": (
            under(kind, lambda s: coded(s, s + np.float32(1), kind)), Code.HEADER,
        ),
    }  # fmt: skip


def quantised(kind: str, levels: int) -> dict[str, tuple[Change, Code | None]]:
    """What can be wrong with scales and whole numbers."""
    return {
        "honest scales": (scales(kind, 0.1), None),
        "a scale of 0": (scales(kind, 0.0), None),
        "a NaN scale": (scales(kind, math.nan), Code.NOT_FINITE),
        "an infinite scale": (scales(kind, math.inf), Code.NOT_FINITE),
        "a negative scale": (scales(kind, -0.1), Code.HEADER),
        "a scale of -0": (scales(kind, -0.0), Code.HEADER),
        "an enormous scale": (scales(kind, 3e38), Code.TOO_LARGE),
        "a large scale": (scales(kind, 2.1e6 / levels), Code.TOO_LARGE),
        "a large scale of nothing": (
            scales(kind, 3e38, 0x88 if kind == "int4" else 128), Code.TOO_LARGE,
        ),
        "a number below": (scales(kind, 0.1, 0), Code.HEADER),
        "a scale less": (scales(kind, 0.1, count=CHANNELS - 1), Code.HEADER),
        "a scale more": (scales(kind, 0.1, count=CHANNELS + 1), Code.HEADER),
    }  # fmt: skip


LOSSY_CASES: dict[str, dict[str, tuple[Change, Code | None]]] = {
    "float16": {
        **common("float16"),
        "more than float16 holds": (changed("float16", 0.1, 9e5), Code.NORM),
        "eight bits": (
            under("float16", lambda s: coded(s + np.float32(0.1), s, "int8")), Code.HEADER,
        ),
    },
    "int8": {
        **common("int8"),
        **quantised("int8", 127),
        "four bits": (
            under("int8", lambda s: coded(s + np.float32(0.1), s, "int4")), Code.HEADER,
        ),
    },
    "int4": {
        **common("int4"),
        **quantised("int4", 7),
        "eight bits": (under("int4", lambda s: coded(s, s, "int8")), Code.HEADER),
    },
}  # fmt: skip
