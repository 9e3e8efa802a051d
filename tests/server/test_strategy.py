"""What the coordinator accepts from a site."""

import math
from collections.abc import Sequence

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medsa_model.records import to_arrays
from medsa_model.rejections import Code, Rejected
from medsa_model.state import Manifest
from medsa_model.update_coding import HEAD, encode
from server.exchange import Answer, exchange
from server.strategy import Received, accept, too_long
from sim.grid import InProcessGrid

MANIFEST = Manifest({"w": (2,)}, "0" * 64, 48)
BEFORE = {"w": torch.zeros(2)}
ECHO = {"run": "a" * 64, "base": "0" * 64, "manifest": MANIFEST.sha256, "round": "3"}


def answering(**records: ArrayRecord | MetricRecord | ConfigRecord) -> Answer:
    """The answer of a site that replies with `records` whatever it is asked."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"echo": ConfigRecord(dict(ECHO)), **records}), reply_to=message)

    grid = InProcessGrid(app, ["a"])
    (answer,) = exchange(grid, {2: "a"}, "train", RecordDict(), "1", 5.0)
    return answer


def arrays(*values: float) -> ArrayRecord:
    state, shapes = {"w": torch.tensor(values)}, {"w": (len(values),)}
    return to_arrays(state, shapes, BEFORE if len(values) == 2 else None)


def raw(data: bytes) -> ArrayRecord:
    """An array of any content."""
    return ArrayRecord({"adapters": Array("float32", (2,), "fed-medsa lossless", data)})


def promising(values: int) -> ArrayRecord:
    """Two values behind a head that promises `values`."""
    data = arrays(1.0, 2.0)["adapters"].data
    version, kind, _, checksum = HEAD.unpack(data[: HEAD.size])
    return raw(HEAD.pack(version, kind, values, checksum) + data[HEAD.size :])


def accepted(
    answer: Answer, structures: Sequence[str] = (), private: bool = False, most: int = 9
) -> Received:
    """What the coordinator makes of an answer of a site with `most` training cases."""
    return accept(answer, MANIFEST, BEFORE, most, ECHO, structures, private)


def metrics(examples: float) -> MetricRecord:
    rest = {"loss": 0.5, "seconds": 1.0, "images": 4, "memory": 1000}
    return MetricRecord({"num-examples": examples, **rest})


def test_a_good_answer_becomes_an_update():
    received = accepted(answering(arrays=arrays(3.0, 4.0), metrics=metrics(7)))
    assert received.update.examples == 7 and received.norm == 5.0
    assert received.update.state["w"].tolist() == [3.0, 4.0]
    assert received.numbers["loss"] == 0.5


GOOD = {"arrays": arrays(1.0, 2.0), "metrics": metrics(1)}
BAD = {
    "no arrays": ({"arrays": None}, Code.RECORDS, "it has 2 records"),
    "no metrics": ({"metrics": None}, Code.RECORDS, "it has 2 records"),
    "one value less": ({"arrays": arrays(1.0)}, Code.DECLARED, "shape .1,."),
    "NaN": ({"arrays": arrays(math.nan, 0.0)}, Code.NOT_FINITE, "w has values that are not"),
    "enormous": ({"arrays": arrays(3e38, 0.0)}, Code.TOO_LARGE, "values up to 3e.38, expected at"),
    "no cases": ({"metrics": metrics(0)}, Code.WEIGHT, "is 0, expected 1 to 9"),
    "half a case": ({"metrics": metrics(1.5)}, Code.WEIGHT, "is 1.5, expected 1 to 9"),
    "cases of others": ({"metrics": metrics(10)}, Code.WEIGHT, "is 10, expected 1 to 9"),
    "no number of cases": ({"metrics": MetricRecord({"loss": 1.0})}, Code.WEIGHT, "is None"),
    "no loss": ({"metrics": MetricRecord({"num-examples": 1})}, Code.METRICS, "it lacks images, l"),
    "loss NaN": (
        {"metrics": MetricRecord({**metrics(1), "loss": math.nan})}, Code.METRICS, "its loss is nan"
    ),
    "a promise": ({"arrays": promising(10**15)}, Code.HEADER, "has 10+ values, expected 2"),
    "a byte more": (
        {"arrays": raw(arrays(1.0, 2.0)["adapters"].data + b"\x01")}, Code.BYTES, "has 59 bytes"
    ),
    "other numbers": (
        {"arrays": raw(encode(BEFORE, BEFORE, MANIFEST.shapes, "float16"))}, Code.HEADER,
        "is of kind float16, expected lossless",
    ),
    "no numbers": ({"arrays": raw(b"no numbers")}, Code.HEADER, "cannot be read"),
    "many bytes": ({"arrays": raw(bytes(300))}, Code.BYTES, "has 300 bytes, expected at most 58"),
    "another question": (
        {"echo": ConfigRecord({**ECHO, "round": "2"})}, Code.ECHO, "round is 2, expected 3"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoilt", "code", "message"), BAD.values(), ids=BAD)
def test_a_bad_answer_never_enters_the_mean(spoilt, code, message):
    """Each change of a good answer has its code."""
    assert accepted(answering(**GOOD)).update.examples == 1
    records = {name: record for name, record in (GOOD | spoilt).items() if record is not None}
    with pytest.raises(Rejected, match=message) as caught:
        accepted(answering(**records))
    assert caught.value.code == code


def test_a_site_that_raises_is_an_error_with_its_kind_only():
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise ValueError("DOE^JOHN")

    grid = InProcessGrid(app, ["a"])
    (answer,) = exchange(grid, {2: "a"}, "train", RecordDict(), "1", 5.0)
    assert answer.message.has_error()
    with pytest.raises(Rejected, match="ValueError") as caught:
        accepted(answer)
    assert caught.value.code == Code.ERROR and "DOE" not in str(caught.value)


def test_who_never_answers_is_left_out_after_the_deadline():
    class Silent(InProcessGrid):
        def pull_messages(self, message_ids):
            return []

    grid = Silent(ClientApp(), ["a"])
    assert list(exchange(grid, {2: "a"}, "train", RecordDict(), "1", 0.2)) == []


def counted(**counts: object) -> Answer:
    """An update of a run that asks for structures by their names."""
    given = {f"cases/{name}": count for name, count in counts.items()}
    return answering(arrays=arrays(1.0, 2.0), metrics=MetricRecord({**metrics(3), **given}))


def test_the_cases_of_each_structure_come_with_an_update():
    update = accepted(counted(liver=3, aorta=0), ("liver", "aorta")).update
    assert update.rows == {"class_embedding.weight": [3, 0]}


@pytest.mark.parametrize(
    "counts", [{"liver": 3}, {"liver": 3, "aorta": 10}, {"liver": 3, "aorta": 0.5}]
)
def test_impossible_numbers_of_cases_are_refused(counts):
    with pytest.raises(Rejected, match="cases/aorta"):
        accepted(counted(**counts), ("liver", "aorta"))


def test_a_change_that_is_far_longer_than_the_others_is_found():
    steps = dict.fromkeys("abcd", 10)
    assert too_long({"a": 1.0, "b": 1.2, "c": 0.9, "d": 100.0}, steps) == {"d": 5.0}
    assert too_long({"a": 1.0, "b": 1.2, "c": 0.9, "d": 4.9}, steps) == {}
    assert too_long({"a": 1.0, "b": 100.0}, steps) == {}  # two: which is the wrong one?
    assert too_long({"a": 0.0, "b": 0.0, "c": 1.0}, steps) == {}  # a median of 0 says nothing


def test_a_site_that_takes_more_steps_may_change_more():
    """It has more cases, and `train.epochs` gives it more steps."""
    norms = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 20.0}
    assert too_long(norms, {"a": 5, "b": 5, "c": 5, "d": 5}) == {"d": 5.0}
    assert too_long(norms, {"a": 5, "b": 5, "c": 5, "d": 25}) == {}
    assert too_long({**norms, "d": 60.0}, {"a": 5, "b": 5, "c": 5, "d": 10**7}) == {"d": 50.0}
