"""What the coordinator takes for scores."""

import math

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medsa_model.rejections import Code, Rejected
from server.exchange import Answer, exchange
from server.scores import Score, Scores, read_scores
from sim.grid import InProcessGrid

ECHO = {"run": "r", "part": "test"}


def scored(echo: dict[str, str] = ECHO, **records: MetricRecord | ConfigRecord) -> Answer:
    """The answer of a site with such records, and one that repeats what it was asked."""
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        content = {"echo": ConfigRecord(dict(echo)), **records}
        return Message(RecordDict(dict(content)), reply_to=message)

    (answer,) = exchange(InProcessGrid(app, ["a"]), {2: "a"}, "evaluate", RecordDict(), "1", 5.0)
    return answer


SCORES = {"empty": 0, "click/dice": 0.5, "click/iou": 0.4, "click/cases": 3}


def test_scores_are_read_by_prompt():
    answer = scored(metrics=MetricRecord({"num-examples": 3, **SCORES}))
    assert read_scores(answer, ["click", "box"], (), 3, ECHO) == Scores(
        {"click": Score(0.5, 0.4, 3)}, 0
    )


@pytest.mark.parametrize(
    "spoilt",
    [
        {"click/dice": float("nan")}, {"click/iou": 7.0}, {"click/cases": 4}, {"click/cases": 0},
        {"click/dice": [0.5, 0.5]},
    ],
)  # fmt: skip
def test_impossible_scores_are_refused(spoilt):
    answer = scored(metrics=MetricRecord({**SCORES, **spoilt}))
    with pytest.raises(Rejected, match="its click/"):
        read_scores(answer, ["click"], (), 3, ECHO)


@pytest.mark.parametrize(
    "metrics", [{}, {"empty": -1}, {"empty": 0.5}, {"empty": 4}, {"empty": [1]}]
)
def test_an_answer_without_a_number_of_empty_cases_is_refused(metrics):
    with pytest.raises(Rejected, match=r"empty|records"):
        read_scores(scored(metrics=MetricRecord(metrics)), ["click"], (), 3, ECHO)


def test_an_answer_without_metrics_is_refused():
    with pytest.raises(Rejected, match=r"empty|records"):
        read_scores(scored(), ["click"], (), 3, ECHO)


STRUCTURE = {f"click/liver/{name}": value for name, value in (
    ("dice", 0.7), ("iou", 0.6), ("cases", 2), ("hd95", 4.5), ("nsd", 0.8))}  # fmt: skip


def test_scores_of_structures_are_read_by_their_names():
    answer = scored(metrics=MetricRecord({**SCORES, **STRUCTURE}))
    scores = read_scores(answer, ["click"], ["liver", "aorta"], 3, ECHO)
    assert scores.by_structure == {"click": {"liver": Score(0.7, 0.6, 2, 4.5, 0.8)}}
    with pytest.raises(Rejected, match="5 unknown number"):
        read_scores(answer, ["click"], (), 3, ECHO)


@pytest.mark.parametrize(
    "spoilt", [{"hd95": -1.0}, {"hd95": math.inf}, {"nsd": 1.5}, {"cases": 4}, {"dice": None}]
)
def test_impossible_scores_of_a_structure_are_refused(spoilt):
    changed = STRUCTURE | {f"click/liver/{name}": value for name, value in spoilt.items()}
    known = {name: value for name, value in changed.items() if value is not None}
    with pytest.raises(Rejected, match="click/liver"):
        read_scores(
            scored(metrics=MetricRecord({**SCORES, **known})), ["click"], ["liver"], 3, ECHO
        )


def test_scores_of_another_part_are_refused():
    """Such as those of validation cases, from a site that answers an earlier question."""
    answer = scored({**ECHO, "part": "val"}, metrics=MetricRecord(SCORES))
    with pytest.raises(Rejected, match="its part is val, expected test") as caught:
        read_scores(answer, ["click"], (), 3, ECHO)
    assert caught.value.code == Code.ECHO


@pytest.mark.parametrize("name", ["patient", "box/dice", "click/liver/dice", "click"])
def test_numbers_that_nobody_asked_for_are_refused(name):
    answer = scored(metrics=MetricRecord({**SCORES, name: 0.5}))
    with pytest.raises(Rejected, match="1 unknown number"):
        read_scores(answer, ["click"], (), 3, ECHO)
