"""What the coordinator accepts from a site."""

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medsa_model.errors import ManifestError
from medsa_model.state import Manifest
from server.strategy import Answer, accept, exchange, introduce
from sim.grid import InProcessGrid

MANIFEST = Manifest({"w": (2,)}, "0" * 64, 48)


def answering(**records: ArrayRecord | MetricRecord | ConfigRecord) -> Answer:
    """The answer of a site that replies with `records` whatever it is asked."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict(dict(records)), reply_to=message)

    grid = InProcessGrid(app, ["a"], lambda *_: None)
    (answer,) = exchange(grid, {2: "a"}, "train", RecordDict(), "1", 5.0)
    return answer


def arrays(*values: float) -> ArrayRecord:
    return ArrayRecord({"w": torch.tensor(values)})


def test_a_good_answer_becomes_an_update():
    update = accept(
        answering(arrays=arrays(1.0, 2.0), metrics=MetricRecord({"num-examples": 7})), MANIFEST
    )
    assert update.examples == 7
    assert update.state["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"metrics": MetricRecord({"num-examples": 1})}, "lacks its arrays"),
        ({"arrays": arrays(1.0, 2.0)}, "lacks its arrays or its metrics"),
        ({"arrays": arrays(1.0), "metrics": MetricRecord({"num-examples": 1})}, "expected"),
        (
            {"arrays": arrays(float("nan"), 0.0), "metrics": MetricRecord({"num-examples": 1})},
            "not finite",
        ),
        ({"arrays": arrays(1.0, 2.0), "metrics": MetricRecord({"num-examples": 0})}, "above 0"),
        ({"arrays": arrays(1.0, 2.0), "metrics": MetricRecord({"num-examples": 1.5})}, "above 0"),
        ({"arrays": arrays(1.0, 2.0), "metrics": MetricRecord({"loss": 1.0})}, "above 0"),
    ],
)
def test_a_bad_answer_never_enters_the_mean(records, message):
    with pytest.raises(ManifestError, match=message):
        accept(answering(**records), MANIFEST)


def test_a_site_that_raises_is_an_error_with_its_kind_only():
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise ValueError("DOE^JOHN")

    grid = InProcessGrid(app, ["a"], lambda *_: None)
    (answer,) = exchange(grid, {2: "a"}, "train", RecordDict(), "1", 5.0)
    assert answer.message.has_error()
    with pytest.raises(ManifestError, match="ValueError") as caught:
        accept(answer, MANIFEST)
    assert "DOE" not in str(caught.value)


def test_sites_are_sorted_whatever_the_order_of_nodes():
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        site = ConfigRecord({"site": str(context.node_config["site"])})
        content = RecordDict({"site": site, "cases": MetricRecord({"train": 3})})
        return Message(content, reply_to=message)

    nodes = introduce(InProcessGrid(app, ["b", "c", "a"], lambda *_: None), 5.0)
    assert [node.site for node in nodes] == ["a", "b", "c"]
    assert [node.node_id for node in nodes] == [4, 2, 3]
    assert nodes[0].cases == {"train": 3}


def test_who_never_answers_is_left_out_after_the_deadline():
    class Silent(InProcessGrid):
        def pull_messages(self, message_ids):
            return []

    grid = Silent(ClientApp(), ["a"], lambda *_: None)
    assert list(exchange(grid, {2: "a"}, "train", RecordDict(), "1", 0.2)) == []
