"""What a hostile or broken site can answer to a training message, and what must become of it.

`CASES`: name -> (how an honest answer is changed, the code of its rejection; `None`: it is valid,
and what it does to the model is the business of the strategy).
"""

import io
import math
import pickle
import zlib
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord
from numpy.typing import NDArray

from medsa_model.rejections import Code

Change = Callable[[Message, NDArray[np.float32]], None]
"""Changes an answer; the array is the state that the site was sent, flat."""
SITES = 7
CASES_OF_SITE = 40


def packed(values: NDArray[np.generic], **more: object) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, values, **more)
    return file.getvalue()


def says(kind: str, shape: tuple[int, ...], data: bytes, name: str = "adapters") -> ArrayRecord:
    """An array that is declared in one way and may be another."""
    return ArrayRecord({name: Array(kind, shape, "numpy.ndarray", data)})


def arrays(values: Callable[[NDArray[np.float32]], NDArray[np.generic]]) -> Change:
    """Another array in place of the state, which `values` makes of what was sent."""

    def change(reply: Message, sent: NDArray[np.float32]) -> None:
        reply.content["arrays"] = ArrayRecord({"adapters": Array(np.asarray(values(sent)))})

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
    "big-endian": (record(lambda s: says("float32", s.shape, packed(s.astype(">f4")))),
                   Code.HEADER),
    "objects": (record(pickled), Code.HEADER),
    "a pickle": (record(lambda s: says("float32", s.shape, pickle.dumps([1]))), Code.HEADER),
    "no .npy file": (record(lambda s: says("float32", s.shape, b"no numbers")), Code.HEADER),
    "an empty file": (record(lambda s: says("float32", s.shape, b"")), Code.HEADER),
    "truncated": (record(lambda s: says("float32", s.shape, packed(s)[:-5])), Code.HEADER),
    "bytes behind": (record(lambda s: says("float32", s.shape, packed(s) + b"more")), Code.HEADER),
    "compressed": (record(lambda s: says("float32", s.shape, zlib.compress(packed(s)))),
                   Code.HEADER),
    "a header that lies": (
        record(lambda s: says("float32", s.shape, packed(np.zeros(s.size - 1, np.float32)))),
        Code.HEADER,
    ),
    "a type that lies": (
        record(lambda s: says("float32", s.shape, packed(s.view(np.int32)))), Code.HEADER,
    ),
    "a shape that lies": (record(lambda s: says("float32", (1, 1), packed(s))), Code.DECLARED),
    "ten times as large": (arrays(lambda s: np.tile(s, 10)), Code.BYTES),
    "bytes behind, many": (
        record(lambda s: says("float32", s.shape, packed(s) + bytes(10**6))), Code.BYTES,
    ),
    "another name": (
        record(lambda s: says("float32", s.shape, packed(s), "backbone")), Code.ARRAYS,
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
