"""What a federation does about sites that are missing, refuse, come late or come back.

The sites here do not train: they add a number of their own to the state, so that a round takes
milliseconds and every mistake in who is asked or counted changes the result.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.torch import load_file

from medsa_model.build import build
from medsa_model.checkpoint import latest_round, read_facts
from medsa_model.config import RunConfig
from medsa_model.errors import FederationError
from medsa_model.logs import append_metrics, read_metrics
from medsa_model.records import to_arrays, to_state
from medsa_model.refusals import Reason
from server.app import federate
from server.flower_private import Connected
from server.introduction import Node
from server.rules import Rules
from server.training_round import FOLDER
from sim.grid import InProcessGrid
from tests.server.messages import echo_of

CONFIG = {
    "name": "small",
    "rounds": 3,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic"},
    "train": {"steps": 1},
    "prompt": {"evaluate": [{"kind": "click"}]},
}
SITES = ("a", "b", "c")
Trouble = Callable[[str, int, int], int | None]


@dataclass
class World:
    """Sites that answer, and what they were asked: (kind, site, round from 1; 0 if it has none).

    `trouble` gives the code of an error instead of an answer to (site, round, how often it was
    asked before in this round). `cases` are the training cases that a site has, `claims` those
    that its updates say they were made of, `shy` how often it fails to introduce itself.
    """

    names: tuple[str, ...] = SITES
    trouble: Trouble = lambda site, round_, before: None
    cases: dict[str, int] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)
    shy: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def trained(self, round_: int) -> str:
        """The sites that were asked to train in a round, in order."""
        return "".join(site for kind, site, of in self.asked if (kind, of) == ("train", round_))

    def kinds(self, kind: str) -> list[str]:
        return [site for each, site, _ in self.asked if each == kind]

    def grid(self, **more: object) -> InProcessGrid:
        return Changing(self.app(), self.names, **more)

    def app(self) -> ClientApp:
        app = ClientApp()

        @app.query()
        def query(message: Message, context: Context) -> Message:
            site = self.note("query", context)
            if self.kinds("query").count(site) <= self.shy.get(site, 0):
                return Message(Error(Reason.FAILED, f"{site} is shy"), reply_to=message)
            parts = MetricRecord({"train": self.cases.get(site, 4), "val": 2, "test": 2})
            record = ConfigRecord({"site": site, "version": "1"})
            return Message(RecordDict({"site": record, "cases": parts}), reply_to=message)

        @app.query("farewell")
        def farewell(message: Message, context: Context) -> Message:
            self.note("farewell", context)
            return Message(RecordDict(), reply_to=message)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            order = message.content.config_records["config"]
            round_ = int(str(order["round"])) + 1
            before = self.trained(round_).count(str(context.node_config["site"]))
            site = self.note("train", context, round_)
            if code := self.trouble(site, round_, before):
                return Message(Error(code, f"{site} says no"), reply_to=message)
            shapes = model().manifest.shapes
            state = to_state(message.content.array_records["arrays"], shapes)
            step = 2.0 ** -(ord(site) - ord("a")) * round_
            arrays = to_arrays({name: t + step for name, t in state.items()}, shapes, state)
            values = {"loss": 0.5, "seconds": 0.1, "images": 1, "memory": 1}
            examples = self.claims.get(site, self.cases.get(site, 4))
            metrics = MetricRecord({"num-examples": examples, **values})
            content = {"arrays": arrays, "metrics": metrics, "echo": echo_of(message)}
            return Message(RecordDict(content), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            self.note(str(message.content.config_records["config"]["part"]), context)
            scores = {"click/dice": 0.5, "click/iou": 0.4, "click/cases": 2, "empty": 0}
            content = {"metrics": MetricRecord(scores), "echo": echo_of(message)}
            return Message(RecordDict(content), reply_to=message)

        return app

    def note(self, kind: str, context: Context, round_: int = 0) -> str:
        site = str(context.node_config["site"])
        self.asked.append((kind, site, round_))
        return site


class Changing(InProcessGrid):
    """Nodes that come and go: `present(rounds that are complete)` are the sites that are there."""

    def __init__(
        self, app: ClientApp, sites: tuple[str, ...], run: Path | None = None,
        present: Callable[[int], str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(app, sites)
        self.run_directory, self.present = run, present

    def get_node_ids(self) -> list[int]:
        if self.present is None or self.run_directory is None:
            return super().get_node_ids()
        now = self.present(latest_round(self.run_directory) or 0)
        return [i for i, context in self.contexts.items() if context.node_config["site"] in now]


def configuration(**more: object) -> RunConfig:
    return RunConfig.model_validate(CONFIG | more)


def model():
    config = configuration()
    return build(config.model, config.adapter, config.seed, torch.device("cpu"))


def run(world: World, place: Path, config: RunConfig | None = None, **rules: object) -> Path:
    """One federation in `place`; rules: all three sites in every round, unless said otherwise."""
    wanted = Rules(**{"nodes": 3, "quorum": 3, "timeout": 5.0, **rules})
    federate(world.grid(), config or configuration(), place, wanted, None, None)
    return place


def state(place: Path, round_: int | str) -> dict[str, torch.Tensor]:
    folder = f"rounds/{round_:04d}" if isinstance(round_, int) else round_
    return load_file(place / folder / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def events(place: Path, kind: str) -> list[dict[str, object]]:
    return [event for event in read_metrics(place) if event["event"] == kind]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return run(World(), tmp_path_factory.mktemp("undisturbed"))


def in_round_2(who: str, code: int, times: int = 10**6) -> Trouble:
    """`who` answer with an error in round 2, so many times."""
    return lambda site, round_, before: (
        code if round_ == 2 and site in who and before < times else None
    )


def test_undisturbed_everybody_is_asked_once(tmp_path):
    world = World()
    place = run(world, tmp_path)
    assert world.kinds("query") == [*SITES]
    assert [world.trained(number) for number in (1, 2, 3)] == ["abc"] * 3
    assert world.kinds("val") == [*SITES] * 3 and world.kinds("test") == [*SITES]
    assert world.kinds("farewell") == []
    assert [read_facts(place, n)["sites"] for n in (1, 2, 3)] == [[*SITES]] * 3
    mean = sum(2.0**-n for n in range(3)) / 3 * (1 + 2 + 3)
    first, last = state(place, 0), state(place, "final")
    for name in first:
        torch.testing.assert_close(last[name], first[name] + mean, atol=1e-5, rtol=0)


@pytest.mark.fault
def test_a_short_round_asks_the_missing_sites_again(tmp_path, undisturbed):
    """And ends as if nothing had happened: what was delivered stays valid."""
    world = World(trouble=in_round_2("bc", Reason.FAILED, times=1))
    place = run(world, tmp_path, repeats=1)
    assert [world.trained(number) for number in (1, 2, 3)] == ["abc", "abcbc", "abc"]
    assert same(state(place, "final"), state(undisturbed, "final"))
    assert read_facts(place, 2)["sites"] == [*SITES] and "skipped" not in read_facts(place, 2)
    (event,) = events(place, "repeated")
    assert (event["round"], event["sites"]) == (2, ["a"])
    assert [(e["round"], e["site"]) for e in events(place, "rejected")] == [(2, "b"), (2, "c")]
    assert all("says no" in str(e["reason"]) for e in events(place, "rejected"))


def test_a_repeat_is_no_new_round_for_those_who_failed_before(tmp_path):
    """Each is repeated as often as the rules say."""
    world = World(trouble=in_round_2("b", Reason.FAILED))
    with pytest.raises(FederationError, match=r"round 2: 2 of 3 sites.*at least 3.*missing: b;"):
        run(world, tmp_path, repeats=2)
    assert world.trained(2) == "abcbb"


def test_a_round_with_enough_updates_is_not_repeated(tmp_path):
    world = World(trouble=in_round_2("b", Reason.FAILED))
    place = run(world, tmp_path, quorum=2, repeats=5, sites=[*SITES, "never seen"])
    assert world.trained(2) == "abc" and world.trained(3) == "abc"
    assert [read_facts(place, n)["sites"] for n in (1, 2, 3)] == [[*SITES], ["a", "c"], [*SITES]]
    assert events(place, "round")[1]["sites"] == ["a", "c"]
    missing = [event["missing"] for event in events(place, "round")]
    assert missing == [["never seen"], ["b", "never seen"], ["never seen"]]
    assert events(place, "repeated") == []


@pytest.mark.parametrize("code", sorted(set(Reason) - {Reason.FAILED}))
def test_a_site_that_refuses_is_not_asked_again_in_this_round(tmp_path, code):
    """No repetition changes its rules."""
    world = World(trouble=in_round_2("b", code))
    with pytest.raises(FederationError, match="2 of 3 sites"):
        run(world, tmp_path, repeats=3)
    assert world.trained(2) == "abc"


def test_who_refused_is_left_out_of_a_repeat_for_others(tmp_path):
    def trouble(site: str, round_: int, before: int) -> int | None:
        refuses = Reason.OVER_LIMIT if site == "b" else None
        return Reason.FAILED if site == "c" and before == 0 else refuses

    world = World(trouble=trouble)
    place = run(world, tmp_path, configuration(rounds=1), quorum=2, repeats=1)
    assert world.trained(1) == "abcc"
    assert read_facts(place, 1)["sites"] == ["a", "c"]


@pytest.mark.fault
def test_a_skipped_round_is_recorded_and_changes_nothing(tmp_path):
    """With a strategy that has a memory: momentum of a round that was none would be made up."""
    config = configuration(strategy={"kind": "fedadam"})
    world = World(trouble=in_round_2("bc", Reason.FAILED))
    place = run(world, tmp_path, config, quorum=2, repeats=1, skip=True)
    assert [world.trained(number) for number in (1, 2, 3)] == ["abc", "abcbc", "abc"]
    facts = json.loads((place / "rounds/0002/round.json").read_text())
    assert facts["skipped"] is True and facts["sites"] == [] and facts["validation_dice"] is None
    assert "skipped" not in read_facts(place, 1) and "skipped" not in read_facts(place, 3)
    (event,) = events(place, "skipped")
    assert (event["round"], event["sites"]) == (2, ["a"])
    assert [e["sites"] for e in events(place, "round")] == [[*SITES], [], [*SITES]]
    assert same(state(place, 1), state(place, 2)) and not same(state(place, 2), state(place, 3))
    memories = [load_file(place / f"rounds/{n:04d}/memory.safetensors") for n in (1, 2, 3)]
    assert same(memories[0], memories[1]) and not same(memories[1], memories[2])
    assert world.kinds("val") == [*SITES] * 2  # there was nothing new to score
    assert (place / "final").resolve().name == "0003"


def test_a_run_of_skipped_rounds_is_no_result(tmp_path):
    world = World(trouble=lambda *_: Reason.FAILED)
    with pytest.raises(FederationError, match="none of 3 rounds had a usable update of 2 sites"):
        run(world, tmp_path, quorum=2, skip=True)
    assert [world.trained(number) for number in (1, 2, 3)] == ["abc"] * 3
    assert not (tmp_path / "final").exists() and world.kinds("test") == []


@pytest.mark.fault
def test_a_failed_run_goes_on_where_it_ended(tmp_path, undisturbed):
    """Without `skip` a short round ends the run; the rounds before are kept and not repeated."""
    with pytest.raises(FederationError, match="round 2: 1 of 3 sites"):
        run(World(trouble=in_round_2("bc", Reason.FAILED)), tmp_path)
    assert not (tmp_path / FOLDER).exists()  # the update of `a` is nobody's business any more
    assert latest_round(tmp_path) == 1 and not (tmp_path / "final").exists()
    world = World()
    run(world, tmp_path)
    assert [world.trained(number) for number in (1, 2, 3)] == ["", "abc", "abc"]
    for number in range(4):
        assert same(state(tmp_path, number), state(undisturbed, number))
    assert (tmp_path / "final").resolve().name == "0003"


def test_a_run_without_rounds_only_scores(tmp_path):
    world = World()
    place = run(world, tmp_path, configuration(rounds=0))
    assert world.kinds("test") == [*SITES] and (place / "final").resolve().name == "0000"


def test_a_site_that_joins_later_takes_part_from_then_on(tmp_path):
    """It introduces itself once."""
    world = World()
    grid = world.grid(run=tmp_path, present=lambda complete: "abc" if complete else "ab")
    rules = Rules(nodes=2, quorum=2, timeout=5.0)
    federate(grid, configuration(), tmp_path, rules, None, None)
    assert [world.trained(number) for number in (1, 2, 3)] == ["ab", "abc", "abc"]
    assert world.kinds("query") == ["a", "b", "c"]
    assert [read_facts(tmp_path, n)["sites"] for n in (1, 2, 3)] == [["a", "b"], [*SITES], [*SITES]]
    assert sorted(world.kinds("test")) == [*SITES]


@pytest.mark.fault
def test_a_site_that_leaves_is_not_asked(tmp_path):
    world = World()
    grid = world.grid(run=tmp_path, present=lambda complete: "abc" if complete == 0 else "ac")
    rules = Rules(nodes=3, quorum=2, timeout=5.0)
    federate(grid, configuration(), tmp_path, rules, None, None)
    assert [world.trained(number) for number in (1, 2, 3)] == ["abc", "ac", "ac"]


def test_the_start_waits_for_as_many_nodes_as_the_rules_say(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr("server.roster.LOOK", 0.001)
    world = World()
    grid = world.grid(run=tmp_path, present=lambda _: "abc"[: len(looks)])
    works = grid.get_node_ids
    monkeypatch.setattr(grid, "get_node_ids", lambda: looks.append(1) or works())
    federate(grid, configuration(rounds=1), tmp_path, Rules(nodes=3, quorum=1), None, None)
    assert world.trained(1) == "abc"


@pytest.mark.fault
def test_too_few_nodes_are_waited_for_until_the_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr("server.roster.LOOK", 0.001)
    world = World(names=("a",))
    with pytest.raises(FederationError, match="round 1: 1 of 1 sites"):
        run(world, tmp_path, nodes=2, quorum=2, timeout=0.05)


def test_only_the_wanted_sites_train_and_are_scored(tmp_path):
    world = World()
    rules = Rules(nodes=3, quorum=2, timeout=5.0)
    federate(world.grid(), configuration(), tmp_path, rules, ["a", "b"], ["c"])
    assert world.trained(1) == "ab" and world.kinds("test") == ["c"]


def connect(monkeypatch, nodes: Callable[[InProcessGrid], dict[int, Connected]]) -> None:
    """Let the SuperLink say who is connected."""
    monkeypatch.setattr("server.app.connected", nodes)
    monkeypatch.setattr("server.roster.connected", nodes)
    monkeypatch.setattr("server.exchange.connected", nodes)


def test_who_says_another_name_than_its_key_has_is_left_out(tmp_path, monkeypatch, caplog):
    """Else one hospital could send updates in the name of another."""
    monkeypatch.setattr("server.app.logger.propagate", True)
    registered = {2: "a", 3: "x", 4: "c"}
    connect(monkeypatch, lambda grid: {i: Connected(n, "1") for i, n in registered.items()})
    world = World()
    place = run(world, tmp_path, quorum=2, farewell=True)
    assert [world.trained(number) for number in (1, 2, 3)] == ["ac"] * 3
    assert world.kinds("test") == ["a", "c"] and world.kinds("query") == [*SITES]
    assert read_facts(place, 3)["sites"] == ["a", "c"]
    assert "says that it is site 'b', but its key was registered for 'x'" in caplog.text
    assert world.kinds("farewell") == [*SITES]  # it may end, too


@pytest.mark.fault
def test_a_restarted_site_introduces_itself_again(tmp_path, monkeypatch):
    """Its data may have changed: the number of its cases is the most that its update may weigh."""
    world = World(cases={"b": 4})

    def nodes(grid: InProcessGrid) -> dict[int, Connected]:
        restarted = (latest_round(tmp_path) or 0) >= 1
        world.cases["b"] = 9 if restarted else 4
        return {
            i: Connected(site, "2" if restarted and site == "b" else "1")
            for i, site in enumerate(SITES, start=2)
        }

    connect(monkeypatch, nodes)
    run(world, tmp_path)
    assert world.kinds("query") == ["a", "b", "c", "b"]
    examples = [e["examples"] for e in events(tmp_path, "train") if e["site"] == "b"]
    assert examples == [4, 9, 9]


@pytest.mark.parametrize(("times", "rounds"), [(1, ["ac", "abc", "abc"]), (3, ["ac", "ac", "abc"])])
def test_a_site_that_could_not_introduce_itself_is_asked_again(tmp_path, times, rounds):
    """Before the next training or scoring: else it would be left out of the whole run."""
    world = World(shy={"b": times})
    run(world, tmp_path, quorum=2)
    assert [world.trained(number) for number in (1, 2, 3)] == rounds
    assert world.kinds("query") == [*SITES, *["b"] * times]
    assert sorted(world.kinds("test")) == [*SITES]


@pytest.mark.fault
def test_a_site_that_does_not_answer_in_time_stands_in_the_metrics(tmp_path, monkeypatch):
    """The round is closed without it, and the next one asks it again."""
    world = World()
    grid = world.grid()
    works = grid.pull_messages

    def pull(message_ids: Iterable[str]) -> list[Message]:
        sent = {name: grid.waiting[name].metadata for name in message_ids if name in grid.waiting}
        return works(
            [
                name for name, each in sent.items()
                if (each.message_type, each.group_id, each.dst_node_id) != ("train", "2", 3)
            ]
        )  # fmt: skip

    slept: list[float] = []  # no time passes but by sleeping, which takes none
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr("server.exchange.time", clock)
    monkeypatch.setattr(grid, "pull_messages", pull)
    federate(grid, configuration(), tmp_path, Rules(3, 2, 5.0), None, None)
    assert sum(slept) >= 5
    assert [world.trained(number) for number in (1, 2, 3)] == ["abc", "ac", "abc"]
    assert [(e["round"], e["site"]) for e in events(tmp_path, "missing")] == [(2, "b")]
    assert read_facts(tmp_path, 2)["sites"] == ["a", "c"]


def test_an_update_that_claims_more_cases_than_were_introduced_is_not_used(tmp_path):
    world = World(claims={"b": 5})
    place = run(world, tmp_path, configuration(rounds=1), quorum=2)
    assert read_facts(place, 1)["sites"] == ["a", "c"]
    (event,) = events(place, "rejected")
    assert event["site"] == "b" and "num-examples is 5, expected 1 to 4" in str(event["reason"])


def test_of_two_nodes_of_one_name_the_first_takes_part(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("server.app.logger.propagate", True)
    place = run(World(names=("a", "b", "a")), tmp_path, quorum=2)
    assert [read_facts(place, n)["sites"] for n in (1, 2, 3)] == [["a", "b"]] * 3
    assert "another node says too that it is site 'a'" in caplog.text


def test_the_farewell_reaches_every_node_after_the_result_is_there(tmp_path):
    world = World()
    seen = []
    grid = world.grid()
    works = grid.push_messages
    grid.push_messages = lambda messages: (
        seen.append((tmp_path / "final").exists()) or works(messages)
    )
    rules = Rules(nodes=3, quorum=2, timeout=5.0, farewell=True)
    federate(grid, configuration(rounds=1), tmp_path, rules, ["a", "b"], ["a"])
    assert world.kinds("farewell") == [*SITES]
    assert seen.count(True) == 1 and seen[-1] is True


def test_without_a_usable_answer_to_the_farewell_the_run_is_still_complete(tmp_path):
    world = World()
    app = world.app()
    app._registered_funcs["query.farewell"] = lambda message, context: Message(
        Error(Reason.FAILED, "no"), reply_to=message
    )
    rules = Rules(nodes=3, quorum=3, timeout=5.0, farewell=True)
    federate(InProcessGrid(app, SITES), configuration(rounds=1), tmp_path, rules, None, None)
    assert (tmp_path / "final").exists()


@pytest.mark.fault
def test_of_a_complete_run_only_the_farewell_is_left(tmp_path):
    """When the coordinator died between the result and the farewell."""
    run(World(), tmp_path)
    before = read_metrics(tmp_path)
    world = World()
    run(world, tmp_path, farewell=True)
    assert [kind for kind, _, _ in world.asked] == ["farewell"] * 3
    assert read_metrics(tmp_path) == before


@pytest.mark.fault
def test_a_repeat_waits_for_a_straggler_and_asks_newcomers(tmp_path, monkeypatch):
    """What the straggler works on stays what it was asked for: it is not sent a second message."""
    world = World()
    looks: list[int] = []
    grid = world.grid(run=tmp_path, present=lambda _: "abc" if looks else "ab")
    works = grid.pull_messages

    def pull(message_ids: Iterable[str]) -> list[Message]:
        """`b` does not answer in time; then `c` is there."""
        to_b = {name for name, each in grid.waiting.items() if each.metadata.dst_node_id == 3}
        return works([name for name in message_ids if looks or name not in to_b])

    def append(run: Path, event: str, **facts: object) -> None:
        looks.extend([1] if event == "missing" else [])
        append_metrics(run, event, **facts)

    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr("server.exchange.time", clock)
    monkeypatch.setattr("server.study.append_metrics", append)
    sent: list[tuple[str, int]] = []
    pushes = grid.push_messages
    monkeypatch.setattr(grid, "pull_messages", pull)
    monkeypatch.setattr(
        grid, "push_messages",
        lambda messages: sent.extend(
            (m.metadata.message_type, m.metadata.dst_node_id) for m in messages
        ) or pushes(messages),
    )  # fmt: skip
    introduced = introduce_at_once(monkeypatch)
    federate(grid, configuration(rounds=1), tmp_path, Rules(2, 2, 5.0, repeats=1), None, None)
    assert introduced
    assert [node for kind, node in sent if kind == "train"] == [2, 3, 4]
    assert read_facts(tmp_path, 1)["sites"] == [*SITES]


def introduce_at_once(monkeypatch) -> list[int]:
    """Nodes are known without a message; returns the ids that were asked for."""
    asked: list[int] = []

    def introduce(grid: InProcessGrid, unknown: dict[int, str | None], timeout: float, *_: object):
        asked.extend(unknown)
        cases = {"train": 4, "val": 2, "test": 2}
        names = {i: str(grid.contexts[i].node_config["site"]) for i in unknown}
        return [Node(i, name, cases) for i, name in names.items()], set()

    monkeypatch.setattr("server.roster.introduce", introduce)
    return asked


def test_a_mean_that_is_not_finite_is_never_kept(tmp_path, monkeypatch):
    """Of finite updates, should they ever get so far: their sum is beyond float32. The rounds are
    skipped, nobody is sent anything else than the state from before."""
    monkeypatch.setattr("medsa_model.validation.LARGEST_VALUE", math.inf)

    class Enormous(World):
        def app(self) -> ClientApp:
            app = super().app()
            trains = app._registered_funcs["train.default"]

            def train(message: Message, context: Context) -> Message:
                reply = trains(message, context)
                shapes = model().manifest.shapes
                state = to_state(message.content.array_records["arrays"], shapes)
                largest = {name: torch.full_like(t, 3e38) for name, t in state.items()}
                reply.content["arrays"] = to_arrays(largest, shapes, state)
                return reply

            app._registered_funcs["train.default"] = train
            return app

    config = configuration(strategy={"kind": "fedadam"})
    with pytest.raises(FederationError, match="none of 3 rounds had a usable update"):
        run(Enormous(), tmp_path, config)
    assert latest_round(tmp_path) == 3
    assert [event["round"] for event in events(tmp_path, "discarded")] == [1, 2, 3]
    assert all(same(state(tmp_path, n), state(tmp_path, 0)) for n in (1, 2, 3))
    assert all(read_facts(tmp_path, n)["skipped"] for n in (1, 2, 3))
