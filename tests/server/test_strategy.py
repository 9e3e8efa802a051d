"""What the coordinator accepts from a site."""

import io
import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medsa_model.errors import FederationError, ManifestError
from medsa_model.state import Manifest
from server.exchange import Answer, exchange
from server.strategy import LONGEST_REASON, Score, Scores, accept, clean, introduce, read_scores
from sim.grid import InProcessGrid

MANIFEST = Manifest({"w": (2,)}, "0" * 64, 48)


def answering(**records: ArrayRecord | MetricRecord | ConfigRecord) -> Answer:
    """The answer of a site that replies with `records` whatever it is asked."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict(dict(records)), reply_to=message)

    grid = InProcessGrid(app, ["a"])
    (answer,) = exchange(grid, {2: "a"}, "train", RecordDict(), "1", 5.0)
    return answer


def arrays(*values: float) -> ArrayRecord:
    return ArrayRecord({"adapters": Array(np.array(values, np.float32))})


def raw(data: bytes) -> ArrayRecord:
    """An array of any content."""
    return ArrayRecord({"adapters": Array("float32", (2,), "numpy.ndarray", data)})


def promising(values: int, more: bytes = b"", kind: str = "<f4") -> ArrayRecord:
    """Two values behind a header that promises `values`."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": (values,)}
    np.lib.format.write_array_header_1_0(file, header)
    return raw(file.getvalue() + bytes(8) + more)


def metrics(examples: float) -> MetricRecord:
    rest = {"loss": 0.5, "seconds": 1.0, "images": 4, "memory": 1000}
    return MetricRecord({"num-examples": examples, **rest})


def test_a_good_answer_becomes_an_update():
    update = accept(answering(arrays=arrays(1.0, 2.0), metrics=metrics(7)), MANIFEST, 9)
    assert update.examples == 7
    assert update.state["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"metrics": metrics(1)}, "lacks its arrays"),
        ({"arrays": arrays(1.0, 2.0)}, "lacks its arrays or its metrics"),
        ({"arrays": arrays(1.0), "metrics": metrics(1)}, "expected"),
        (
            {"arrays": arrays(float("nan"), 0.0), "metrics": metrics(1)},
            "not finite",
        ),
        ({"arrays": arrays(1.0, 2.0), "metrics": metrics(0)}, "expected 1 to 9"),
        ({"arrays": arrays(1.0, 2.0), "metrics": metrics(1.5)}, "expected 1 to 9"),
        ({"arrays": arrays(1.0, 2.0), "metrics": metrics(10)}, "10, expected 1 to 9"),
        ({"arrays": arrays(1.0, 2.0), "metrics": MetricRecord({"loss": 1.0})}, "expected 1 to 9"),
        (
            {"arrays": arrays(1.0, 2.0), "metrics": MetricRecord({"num-examples": 1})},
            "metric loss is None, expected a finite number",
        ),
        (
            {"arrays": arrays(1.0, 2.0), "metrics": MetricRecord({**metrics(1), "loss": math.nan})},
            "metric loss is nan",
        ),
        ({"arrays": arrays(3e38, 0.0), "metrics": metrics(1)}, "values up to 3e.38, expected at m"),
        ({"arrays": promising(10**15), "metrics": metrics(1)}, "float32 of shape .10+,. in 8 byte"),
        ({"arrays": promising(2, b"\x01"), "metrics": metrics(1)}, "in 9 bytes, expected"),
        ({"arrays": promising(2, kind="<i4"), "metrics": metrics(1)}, "is int32 of shape"),
        ({"arrays": raw(b"no numbers"), "metrics": metrics(1)}, "cannot be read"),
    ],
)
def test_a_bad_answer_never_enters_the_mean(records, message):
    with pytest.raises(ManifestError, match=message):
        accept(answering(**records), MANIFEST, 9)


def test_a_site_that_raises_is_an_error_with_its_kind_only():
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise ValueError("DOE^JOHN")

    grid = InProcessGrid(app, ["a"])
    (answer,) = exchange(grid, {2: "a"}, "train", RecordDict(), "1", 5.0)
    assert answer.message.has_error()
    with pytest.raises(ManifestError, match="ValueError") as caught:
        accept(answer, MANIFEST, 9)
    assert "DOE" not in str(caught.value)


def test_sites_are_sorted_whatever_the_order_of_nodes():
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        site = ConfigRecord({"site": str(context.node_config["site"])})
        content = RecordDict({"site": site, "cases": MetricRecord({"train": 3})})
        return Message(content, reply_to=message)

    grid = InProcessGrid(app, ["b", "c", "a"])
    nodes, silent = introduce(grid, {2: None, 3: None, 4: None}, 5.0)
    assert not silent
    assert [node.site for node in nodes] == ["a", "b", "c"]
    assert [node.node_id for node in nodes] == [4, 2, 3]
    assert nodes[0].cases == {"train": 3, "val": 0, "test": 0}


def test_who_never_answers_is_left_out_after_the_deadline():
    class Silent(InProcessGrid):
        def pull_messages(self, message_ids):
            return []

    grid = Silent(ClientApp(), ["a"])
    assert list(exchange(grid, {2: "a"}, "train", RecordDict(), "1", 0.2)) == []


def introducing(*sites: str) -> InProcessGrid:
    """Nodes that introduce themselves with the given names."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        site = ConfigRecord({"site": sites[context.node_id - 2]})
        content = RecordDict({"site": site, "cases": MetricRecord({"train": 3})})
        return Message(content, reply_to=message)

    return InProcessGrid(app, [str(n) for n in range(len(sites))])


def test_two_nodes_cannot_be_the_same_site():
    with pytest.raises(FederationError, match="two nodes say that they are site 'a'"):
        introduce(introducing("a", "b", "a"), {2: None, 3: None, 4: None}, 5.0)


def test_a_site_under_another_name_than_its_key_is_left_out():
    grid = introducing("a", "b")
    nodes, silent = introduce(grid, {2: "a", 3: "c"}, 5.0)
    assert [node.site for node in nodes] == ["a"] and not silent


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"site": ConfigRecord({"site": "b"})},
        {"cases": MetricRecord({"train": 3})},
        {"site": ConfigRecord({"site": 7}), "cases": MetricRecord({"train": 3})},
        {"site": ConfigRecord({"site": "b"}), "cases": MetricRecord({"train": 1.5})},
        {"site": ConfigRecord({"site": "b"}), "cases": MetricRecord({"train": math.inf})},
        {"site": ConfigRecord({"site": "b"}), "cases": MetricRecord({"train": -1})},
        {"site": ConfigRecord({"site": "b"}), "cases": MetricRecord({"train": 10**9})},
        {"site": ConfigRecord({"site": "b"}), "cases": MetricRecord({"train": [1, 2]})},
        {"site": ConfigRecord({"site": "b"}), "cases": MetricRecord({"train": 3, "more": 4})},
    ],
)
def test_what_is_no_introduction_leaves_that_node_out_alone(records):
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        good = {"site": ConfigRecord({"site": "a"}), "cases": MetricRecord({"train": 3})}
        return Message(RecordDict(good if context.node_id == 2 else records), reply_to=message)

    nodes, silent = introduce(InProcessGrid(app, ["a", "b"]), {2: "a", 3: "b"}, 5.0)
    assert [node.site for node in nodes] == ["a"] and not silent


def test_words_of_a_site_are_fit_for_a_terminal():
    assert clean("one\ntwo \x1b[31mred\x07 three") == "one two [31mred three"
    assert len(clean("x" * 10**6)) == LONGEST_REASON


SCORES = {"empty": 0, "click/dice": 0.5, "click/iou": 0.4, "click/cases": 3.0}


def test_scores_are_read_by_prompt():
    answer = answering(metrics=MetricRecord({"num-examples": 3, **SCORES}))
    assert read_scores(answer, ["click", "box"], (), 3) == Scores({"click": Score(0.5, 0.4, 3)}, 0)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"click/dice": float("nan")}, {"click/iou": 7.0}, {"click/cases": 4}, {"click/cases": 0},
        {"click/dice": [0.5, 0.5]},
    ],
)  # fmt: skip
def test_impossible_scores_are_refused(spoilt):
    answer = answering(metrics=MetricRecord({**SCORES, **spoilt}))
    with pytest.raises(ManifestError, match="click has Dice, IoU, cases"):
        read_scores(answer, ["click"], (), 3)


@pytest.mark.parametrize(
    "metrics", [{}, {"empty": -1}, {"empty": 0.5}, {"empty": 4}, {"empty": [1]}]
)
def test_an_answer_without_a_number_of_empty_cases_is_refused(metrics):
    with pytest.raises(ManifestError, match="empty cases"):
        read_scores(answering(metrics=MetricRecord(metrics)), ["click"], (), 3)


def test_an_answer_without_metrics_is_refused():
    with pytest.raises(ManifestError, match="empty cases"):
        read_scores(answering(), ["click"], (), 3)


STRUCTURE = {f"click/liver/{name}": value for name, value in (
    ("dice", 0.7), ("iou", 0.6), ("cases", 2), ("hd95", 4.5), ("nsd", 0.8))}  # fmt: skip


def test_scores_of_structures_are_read_by_their_names():
    answer = answering(metrics=MetricRecord({**SCORES, **STRUCTURE}))
    scores = read_scores(answer, ["click"], ["liver", "aorta"], 3)
    assert scores.by_structure == {"click": {"liver": Score(0.7, 0.6, 2, 4.5, 0.8)}}
    assert read_scores(answer, ["click"], (), 3).by_structure == {}


@pytest.mark.parametrize(
    "spoilt", [{"hd95": -1.0}, {"hd95": math.inf}, {"nsd": 1.5}, {"cases": 4}, {"dice": None}]
)
def test_impossible_scores_of_a_structure_are_refused(spoilt):
    changed = STRUCTURE | {f"click/liver/{name}": value for name, value in spoilt.items()}
    known = {name: value for name, value in changed.items() if value is not None}
    with pytest.raises(ManifestError, match="click/liver has Dice"):
        read_scores(answering(metrics=MetricRecord({**SCORES, **known})), ["click"], ["liver"], 3)


def counted(**counts: object) -> Answer:
    """An update of a run that asks for structures by their names."""
    given = {f"cases/{name}": count for name, count in counts.items()}
    return answering(arrays=arrays(1.0, 2.0), metrics=MetricRecord({**metrics(3), **given}))


def test_the_cases_of_each_structure_come_with_an_update():
    update = accept(counted(liver=3, aorta=0), MANIFEST, 9, ("liver", "aorta"))
    assert update.rows == {"class_embedding.weight": [3, 0]}


@pytest.mark.parametrize(
    "counts", [{"liver": 3}, {"liver": 3, "aorta": 10}, {"liver": 3, "aorta": 0.5}]
)
def test_impossible_numbers_of_cases_are_refused(counts):
    with pytest.raises(ManifestError, match="the number of cases with a structure is"):
        accept(counted(**counts), MANIFEST, 9, ("liver", "aorta"))
