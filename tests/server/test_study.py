"""How many sites a study waits for: as many as the federation and the strategy both need."""

from collections.abc import Sequence
from pathlib import Path

import pytest

import server.roster
from medsa_model.config import RunConfig
from medsa_model.state import Manifest
from server.introduction import Node
from server.roster import Roster
from server.rules import Rules
from server.study import Study
from sim.grid import InProcessGrid

NAMES = ("a", "b", "c", "d", "e")


class Returning(InProcessGrid):
    """Sites that come back one by one: one more at each look."""

    looks = 0

    def get_node_ids(self) -> list[int]:
        self.looks += 1
        assert self.looks < 100, "it waits for sites that cannot come"
        return [*self.contexts][: self.looks]


def study(place: Path, **rules: object) -> Study:
    """A study under way that knows all sites; its strategy needs the updates of three."""
    config = RunConfig.model_validate({
        "name": "wait", "data": {"kind": "synthetic"}, "train": {"steps": 1},
        "strategy": {"kind": "fedavg", "rule": {"kind": "trimmed_mean", "faulty": 1}},
    })  # fmt: skip
    assert config.strategy.least_updates == 3
    nodes = {n: Node(i, n, {"train": 9, "val": 0, "test": 3}) for i, n in enumerate(NAMES, start=2)}
    roster = Roster(nodes, dict.fromkeys(range(2, 2 + len(NAMES)), ""))
    wanted = Rules(**{"nodes": 5, "quorum": 1, "timeout": 60.0, **rules})
    return Study(Returning(lambda *_: None, NAMES), config, place, Manifest({}, "", 32), wanted,
                 roster)  # fmt: skip


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.roster, "LOOK", 0.0)


@pytest.mark.parametrize(("quorum", "expected"), [(1, "abc"), (3, "abc"), (4, "abcd")])
def test_sites_are_waited_for_until_the_strategy_has_enough(tmp_path, quorum, expected):
    found = study(tmp_path, quorum=quorum).present(None)
    assert [node.site for node in found] == [*expected]


@pytest.mark.parametrize(
    ("wanted", "quarantined", "expected"),
    [
        (("b", "d"), (), "bd"),  # both, and no third for the strategy
        (("a", "b", "c"), ("b",), "ac"),
        (None, ("a", "c", "d", "e"), "b"),
    ],
)
def test_those_who_cannot_come_are_not_waited_for(
    tmp_path, wanted: Sequence[str] | None, quarantined: Sequence[str], expected: str
):
    run = study(tmp_path, sites=NAMES, quorum=3)
    run.roster.strikes.update(dict.fromkeys(quarantined, 3))
    assert [node.site for node in run.present(wanted)] == [*expected]
