"""Who takes part: what an introduction must be, and what happens to others."""

import math

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medsa_model.shown import LONGEST, clean
from server.introduction import introduce
from sim.grid import InProcessGrid


def test_sites_are_sorted_whatever_the_order_of_nodes():
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        site = ConfigRecord({"site": str(context.node_config["site"]), "version": "1"})
        content = RecordDict({"site": site, "cases": MetricRecord({"train": 3})})
        return Message(content, reply_to=message)

    grid = InProcessGrid(app, ["b", "c", "a"])
    nodes, silent = introduce(grid, {2: None, 3: None, 4: None}, 5.0)
    assert not silent
    assert [node.site for node in nodes] == ["a", "b", "c"]
    assert [node.node_id for node in nodes] == [4, 2, 3]
    assert nodes[0].cases == {"train": 3, "val": 0, "test": 0}


def introducing(*sites: str) -> InProcessGrid:
    """Nodes that introduce themselves with the given names."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        site = ConfigRecord({"site": sites[context.node_id - 2], "version": "1"})
        content = RecordDict({"site": site, "cases": MetricRecord({"train": 3})})
        return Message(content, reply_to=message)

    return InProcessGrid(app, [str(n) for n in range(len(sites))])


def test_of_two_nodes_that_say_the_same_name_the_first_stays(caplog, monkeypatch):
    monkeypatch.setattr("server.introduction.logger.propagate", True)
    nodes, _ = introduce(introducing("a", "b", "a"), {2: None, 3: None, 4: None}, 5.0)
    assert [(node.site, node.node_id) for node in nodes] == [("a", 2), ("b", 3)]
    assert "another node says too that it is site 'a'" in caplog.text


def test_a_site_under_another_name_than_its_key_is_left_out():
    grid = introducing("a", "b")
    nodes, silent = introduce(grid, {2: "a", 3: "c"}, 5.0)
    assert [node.site for node in nodes] == ["a"] and not silent


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"site": ConfigRecord({"site": "b"}), "cases": MetricRecord({"train": 3})},
        {
            "site": ConfigRecord({"site": "b", "version": "1"}),
            "cases": MetricRecord({"train": 3}),
            "more": ConfigRecord({}),
        },
        {"site": ConfigRecord({"site": "b", "version": "1"})},
        {"cases": MetricRecord({"train": 3})},
        {"site": ConfigRecord({"site": 7}), "cases": MetricRecord({"train": 3})},
        {
            "site": ConfigRecord({"site": "b", "version": "1"}),
            "cases": MetricRecord({"train": 1.5}),
        },
        {
            "site": ConfigRecord({"site": "b", "version": "1"}),
            "cases": MetricRecord({"train": math.inf}),
        },
        {"site": ConfigRecord({"site": "b", "version": "1"}), "cases": MetricRecord({"train": -1})},
        {
            "site": ConfigRecord({"site": "b", "version": "1"}),
            "cases": MetricRecord({"train": 10**9}),
        },
        {
            "site": ConfigRecord({"site": "b", "version": "1"}),
            "cases": MetricRecord({"train": [1, 2]}),
        },
        {
            "site": ConfigRecord({"site": "b", "version": "1"}),
            "cases": MetricRecord({"train": 3, "more": 4}),
        },
    ],
)
def test_what_is_no_introduction_leaves_that_node_out_alone(records):
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        good = {
            "site": ConfigRecord({"site": "a", "version": "1"}),
            "cases": MetricRecord({"train": 3}),
        }
        return Message(RecordDict(good if context.node_id == 2 else records), reply_to=message)

    nodes, silent = introduce(InProcessGrid(app, ["a", "b"]), {2: "a", 3: "b"}, 5.0)
    assert [node.site for node in nodes] == ["a"] and not silent


def test_words_of_a_site_are_fit_for_a_terminal():
    assert clean("one\ntwo \x1b[31mred\x07 three") == "one two [31mred three"
    assert len(clean("x" * 10**6)) == LONGEST
