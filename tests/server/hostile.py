"""What a hostile or broken site can answer to a training message, and what must become of it.

`CASES`: name -> (how an honest answer is changed, the code of its rejection; `None`: it is valid,
and what it does to the model is the business of the strategy). They are of a run whose updates are
lossless; those of the others are in `hostile_lossy.py`.
"""

import io
import math
import pickle
import struct
import zlib
from collections.abc import Callable

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord
from numpy.typing import NDArray

from medsa_model.byte_planes import HEAD as PLANE
from medsa_model.byte_planes import PACKED, STORED
from medsa_model.records import to_state
from medsa_model.rejections import Code
from medsa_model.state import Manifest
from medsa_model.update_coding import HEAD, encode

Change = Callable[[Message, NDArray[np.float32]], None]
"""Changes an answer; the array is the state that the site was sent, flat."""
SITES = 7
CASES_OF_SITE = 40
MANIFEST = Manifest({"block.w": (16, 10), "block.b": (16,)}, "0" * 64, 48)
LOSSLESS = "fed-medsa lossless"


def flat(sent: ArrayRecord) -> NDArray[np.float32]:
    """The values of the state in an order, end to end."""
    return torch.cat([t.reshape(-1) for t in to_state(sent, MANIFEST.shapes).values()]).numpy()


def coded(
    values: NDArray[np.float32], sent: NDArray[np.float32] | None, kind: str = "lossless"
) -> bytes:
    """`values` of any number as the change against `sent`."""
    shapes = MANIFEST.shapes if values.size == 176 else {"all": values.shape}
    states = []
    for array in (values, values if sent is None else sent):
        parts = torch.from_numpy(array.copy()).split([math.prod(s) for s in shapes.values()])
        states.append({n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)})
    return encode(states[0], None if sent is None else states[1], shapes, kind)


def honest_bytes(sent: NDArray[np.float32]) -> bytes:
    return coded(sent + np.float32(0.1), sent)


def with_planes(sent: NDArray[np.float32], *planes: tuple[int, int, bytes]) -> bytes:
    """The head of an honest answer, and behind it planes by way, said length and content."""
    head = honest_bytes(sent)[: HEAD.size]
    return head + b"".join(PLANE.pack(way, length) + content for way, length, content in planes)


def deflated(content: bytes, more: bytes = b"", cut: int = 0) -> tuple[int, int, bytes]:
    """A packed plane, with bytes behind its stream, or without its last ones."""
    packed = zlib.compress(content)
    packed = packed[: len(packed) - cut] + more
    return PACKED, len(packed), packed


def head(version: int, kind: int, count: int, checksum: int | None = None) -> Change:
    """An honest answer under another head."""

    def make(sent: NDArray[np.float32]) -> ArrayRecord:
        data = honest_bytes(sent)
        crc = HEAD.unpack(data[: HEAD.size])[3] if checksum is None else checksum
        return says("float32", sent.shape, HEAD.pack(version, kind, count, crc) + data[HEAD.size :])

    return record(make)


def raw(make: Callable[[NDArray[np.float32]], bytes]) -> Change:
    """Other bytes under a proper declaration."""
    return record(lambda sent: says("float32", sent.shape, make(sent)))


def packed(values: NDArray[np.generic], **more: object) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, values, **more)
    return file.getvalue()


def says(kind: str, shape: tuple[int, ...], data: bytes, name: str = "adapters") -> ArrayRecord:
    """An array that is declared in one way and may be another."""
    return ArrayRecord({name: Array(kind, shape, LOSSLESS, data)})


def arrays(values: Callable[[NDArray[np.float32]], NDArray[np.generic]]) -> Change:
    """Another array in place of the state, which `values` makes of what was sent; properly coded
    when it is one of float32."""

    def change(reply: Message, sent: NDArray[np.float32]) -> None:
        made = np.asarray(values(sent))
        data = made.tobytes()
        if made.dtype == np.float32:
            data = coded(made.reshape(-1), sent if made.size == sent.size else None)
        reply.content["arrays"] = says(str(made.dtype), made.shape, data)

    return change


def record(make: Callable[[NDArray[np.float32]], ArrayRecord]) -> Change:
    """Another array record."""

    def change(reply: Message, sent: NDArray[np.float32]) -> None:
        reply.content["arrays"] = make(sent)

    return change


def one(value: float) -> Change:
    """One value of the state is another."""

    def make(sent: NDArray[np.float32]) -> NDArray[np.float32]:
        changed = sent + np.float32(0.1)
        changed[0] = value
        return changed

    return arrays(make)


def scaled(factor: float) -> Change:
    """The change of an honest site times a factor."""
    return arrays(lambda sent: (sent + np.float32(factor * 0.1)).astype(np.float32))


def metrics(**values: object) -> Change:
    """Other numbers; `None` takes one out. Names may have `_` for `-`."""

    def change(reply: Message, _: NDArray[np.float32]) -> None:
        found = dict(reply.content.metric_records["metrics"])
        for name, value in values.items():
            key = "num-examples" if name == "num_examples" else name
            found.pop(key, None)
            if value is not None:
                found[key] = value
        reply.content["metrics"] = MetricRecord(found)

    return change


def echo(**values: str | None) -> Change:
    """Another echo."""

    def change(reply: Message, _: NDArray[np.float32]) -> None:
        found = {**reply.content.config_records["echo"], **values}
        known = {name: value for name, value in found.items() if value is not None}
        reply.content["echo"] = ConfigRecord(known)

    return change


def with_record(name: str, more: ArrayRecord | MetricRecord | ConfigRecord | None) -> Change:
    """One record more, or one less."""

    def change(reply: Message, _: NDArray[np.float32]) -> None:
        if more is None:
            del reply.content[name]
        else:
            reply.content[name] = more

    return change


def whole(replace: Callable[[Message], None]) -> Change:
    return lambda reply, _: replace(reply)


def error(reply: Message) -> None:
    reply.__dict__["_content"] = None
    reply.__dict__["_error"] = Error(1000, "the site could not do it \x1b[31m" + "x" * 10**5)


def empty(reply: Message) -> None:
    for name in list(reply.content):
        del reply.content[name]


def pickled(sent: NDArray[np.float32]) -> ArrayRecord:
    """An array of objects, whose reading would execute what is in it."""
    data = packed(np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return says("float32", sent.shape, data)


CASES: dict[str, tuple[Change, Code | None]] = {
    "an honest answer": (scaled(1.0), None),
    "all NaN": (arrays(lambda s: np.full_like(s, np.nan)), Code.NOT_FINITE),
    "one NaN": (one(math.nan), Code.NOT_FINITE),
    "one infinite": (one(math.inf), Code.NOT_FINITE),
    "one minus infinite": (one(-math.inf), Code.NOT_FINITE),
    "the largest float": (one(3.4e38), Code.TOO_LARGE),
    "ten million": (one(1e7), Code.TOO_LARGE),
    "change x1000": (scaled(1000), Code.NORM),
    "change x-10": (scaled(-10), Code.NORM),
    "change x6": (scaled(6), Code.NORM),
    "sign flip": (scaled(-1), None),
    "nothing changed": (scaled(0), None),
    "zeros": (arrays(np.zeros_like), Code.NORM),
    "one value less": (arrays(lambda s: s[:-1]), Code.DECLARED),
    "one value more": (arrays(lambda s: np.append(s, np.float32(0))), Code.DECLARED),
    "shape (1,)": (arrays(lambda s: np.zeros(1, np.float32)), Code.DECLARED),
    "a scalar": (arrays(lambda s: np.float32(1)), Code.DECLARED),
    "a column": (arrays(lambda s: s[:, None]), Code.DECLARED),
    "nothing": (arrays(lambda s: np.zeros(0, np.float32)), Code.DECLARED),
    "float64": (arrays(lambda s: s.astype(np.float64)), Code.BYTES),
    "float16": (arrays(lambda s: s.astype(np.float16)), Code.DECLARED),
    "int32": (arrays(lambda s: s.astype(np.int32)), Code.DECLARED),
    "complex64": (arrays(lambda s: s.astype(np.complex64)), Code.BYTES),
    "text": (arrays(lambda s: np.array(["DOE^JOHN"])), Code.DECLARED),
    "big-endian": (
        raw(lambda s: struct.pack(">BBQI", 1, 0, s.size, 0) + honest_bytes(s)[HEAD.size :]),
        Code.HEADER,
    ),
    "objects": (record(pickled), Code.HEADER),
    "a pickle": (raw(lambda s: pickle.dumps([1])), Code.HEADER),
    "no update": (raw(lambda s: b"no numbers"), Code.HEADER),
    "an empty file": (raw(lambda s: b""), Code.HEADER),
    "a head alone": (raw(lambda s: honest_bytes(s)[: HEAD.size]), Code.HEADER),
    "half a head": (raw(lambda s: honest_bytes(s)[: HEAD.size - 1]), Code.HEADER),
    "truncated": (raw(lambda s: honest_bytes(s)[:-5]), Code.HEADER),
    "truncated by a byte": (raw(lambda s: honest_bytes(s)[:-1]), Code.HEADER),
    "bytes behind": (raw(lambda s: honest_bytes(s) + b"more"), Code.HEADER),
    "a byte behind": (raw(lambda s: honest_bytes(s) + b"\0"), Code.HEADER),
    "compressed": (raw(lambda s: zlib.compress(honest_bytes(s))), Code.HEADER),
    "a .npy file": (raw(packed), Code.BYTES),
    "a small .npy file": (raw(lambda s: packed(s[:9])), Code.HEADER),
    "a header that lies": (head(1, 0, 175), Code.HEADER),
    "a promise": (head(1, 0, 2**63), Code.HEADER),
    "another version": (head(2, 0, 176), Code.HEADER),
    "a kind that nobody knows": (head(1, 99, 176), Code.HEADER),
    "a kind that lies": (head(1, 3, 176), Code.HEADER),
    "a type that lies": (raw(lambda s: coded(s + np.float32(0.1), s, "int8")), Code.HEADER),
    "another kind": (
        record(lambda s: ArrayRecord({"adapters": Array(
            "float32", s.shape, "fed-medsa int8", coded(s + np.float32(0.1), s, "int8"))})),
        Code.DECLARED,
    ),
    "a NumPy array": (
        record(lambda s: ArrayRecord({"adapters": Array(s[:9].copy())})), Code.DECLARED,
    ),
    "the change of another state": (
        raw(lambda s: coded(s + np.float32(0.1), s + np.float32(1))), Code.HEADER,
    ),
    "a whole state": (raw(lambda s: coded(s, None)), Code.HEADER),
    "a zip bomb": (raw(lambda s: with_planes(s, *[deflated(bytes(10**5))] * 4)), Code.HEADER),
    "a large zip bomb": (raw(lambda s: with_planes(s, deflated(bytes(10**7)))), Code.BYTES),
    "a plane that is too long": (
        raw(lambda s: with_planes(s, *[deflated(bytes(177))] * 4)), Code.HEADER,
    ),
    "a plane that is too short": (
        raw(lambda s: with_planes(s, *[deflated(bytes(175))] * 4)), Code.HEADER,
    ),
    "a stream that is cut": (
        raw(lambda s: with_planes(s, *[deflated(bytes(176), cut=4)] * 4)), Code.HEADER,
    ),
    "a stream with bytes behind": (
        raw(lambda s: with_planes(s, *[deflated(bytes(176), b"DOE^JOHN")] * 4)), Code.HEADER,
    ),
    "no stream": (raw(lambda s: with_planes(s, *[(PACKED, 9, b"DOE^JOHN!")] * 4)), Code.HEADER),
    "a stored plane that is too short": (
        raw(lambda s: with_planes(s, *[(STORED, 175, bytes(175))] * 4)), Code.HEADER,
    ),
    "an unknown way": (
        raw(lambda s: with_planes(s, *[(2, 176, bytes(176))] * 4)), Code.HEADER,
    ),
    "a plane that promises": (
        raw(lambda s: with_planes(s, (PACKED, 2**64 - 1, bytes(9)))), Code.HEADER,
    ),
    "a plane less": (raw(lambda s: with_planes(s, *[deflated(bytes(176))] * 3)), Code.HEADER),
    "a plane more": (raw(lambda s: with_planes(s, *[deflated(bytes(176))] * 5)), Code.HEADER),
    "planes of zeros": (raw(lambda s: with_planes(s, *[deflated(bytes(176))] * 4)), None),
    "a shape that lies": (
        record(lambda s: says("float32", (1, 1), honest_bytes(s))), Code.DECLARED,
    ),
    "ten times as large": (arrays(lambda s: np.tile(s, 10)), Code.BYTES),
    "bytes behind, many": (
        raw(lambda s: honest_bytes(s) + bytes(10**6)), Code.BYTES,
    ),
    "another name": (
        record(lambda s: says("float32", s.shape, honest_bytes(s), "backbone")), Code.ARRAYS,
    ),
    "two arrays": (
        record(lambda s: ArrayRecord({name: Array(s) for name in ("adapters", "backbone")})),
        Code.ARRAYS,
    ),
    "no array": (record(lambda s: ArrayRecord({})), Code.ARRAYS),
    "num-examples 1e12": (metrics(num_examples=10**12), Code.WEIGHT),
    "num-examples -500": (metrics(num_examples=-500), Code.WEIGHT),
    "num-examples 0": (metrics(num_examples=0), Code.WEIGHT),
    "num-examples one too many": (metrics(num_examples=CASES_OF_SITE + 1), Code.WEIGHT),
    "num-examples NaN": (metrics(num_examples=math.nan), Code.WEIGHT),
    "num-examples a float": (metrics(num_examples=10.0), Code.WEIGHT),
    "num-examples a list": (metrics(num_examples=[1, 2]), Code.WEIGHT),
    "no num-examples": (metrics(num_examples=None), Code.WEIGHT),
    "loss NaN": (metrics(loss=math.nan), Code.METRICS),
    "loss infinite": (metrics(loss=math.inf), Code.METRICS),
    "no loss": (metrics(loss=None), Code.METRICS),
    "seconds negative": (metrics(seconds=-1.0), Code.METRICS),
    "images a float": (metrics(images=1.5), Code.METRICS),
    "a number more": (metrics(patients=7), Code.METRICS),
    "losses of patients": (metrics(loss=[0.1, 0.2]), Code.METRICS),
    "no arrays": (with_record("arrays", None), Code.RECORDS),
    "no metrics": (with_record("metrics", None), Code.RECORDS),
    "no echo": (with_record("echo", None), Code.RECORDS),
    "a path": (with_record("more", ConfigRecord({"path": "/home/doe_john"})), Code.RECORDS),
    "bytes": (with_record("more", ConfigRecord({"blob": bytes(1000)})), Code.RECORDS),
    "more arrays": (
        with_record("more", ArrayRecord({"w": Array(np.zeros(3, np.float32))})), Code.RECORDS,
    ),
    "metrics as settings": (with_record("metrics", ConfigRecord({"loss": 1.0})), Code.RECORDS),
    "an empty answer": (whole(empty), Code.RECORDS),
    "another run": (echo(run="f" * 64), Code.ECHO),
    "another round": (echo(round="7"), Code.ECHO),
    "another backbone": (echo(base="f" * 64), Code.ECHO),
    "another manifest": (echo(manifest="f" * 64), Code.ECHO),
    "no round": (echo(round=None), Code.ECHO),
    "a setting more": (echo(path="/home/doe_john"), Code.ECHO),
    "an error": (whole(error), Code.ERROR),
}  # fmt: skip
