"""Rejected answers over the rounds of a run: strikes, quarantine, repeats, resumes, and privacy."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medsa_model.audit_log import read, verify
from medsa_model.checkpoint import Round
from medsa_model.config import RunConfig
from medsa_model.errors import CheckpointError, ConfigError, FederationError
from medsa_model.logs import read_metrics
from medsa_model.records import serialised_bytes, to_arrays
from medsa_model.strategies import Update
from server.app import close_round
from server.exchange import SMALL, Answer, Unanswered
from server.introduction import Node
from server.roster import STRIKES, Roster, present, strikes_after
from server.rules import Rules, check_enough
from server.strategy import Received
from server.study import Study
from server.training_round import FOLDER, ask_to_train, drop_too_long, judge, train_round
from sim.grid import InProcessGrid
from tests.server.hostile import CASES, flat
from tests.server.messages import echo_of
from tests.server.test_hostile_updates import MANIFEST, START, honest

NAMES = ("a", "b", "c", "d")
PRIVACY = {"noise_multiplier": 1.0, "sampling_rate": 0.5}


def configuration(**more: object) -> RunConfig:
    content = {"name": "strikes", "rounds": 5, "data": {"kind": "synthetic"}, "train": {"steps": 1}}
    return RunConfig.model_validate(content | more)


def grid(cases: dict[str, str], asked: list[str], names: tuple[str, ...] = NAMES) -> InProcessGrid:
    """Sites that answer honestly, but for those in `cases`: site -> case of `hostile.py`."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = str(context.node_config["site"])
        asked.append(site)
        values = {"num-examples": 10, "loss": 0.5, "seconds": 1.0, "images": 4, "memory": 1000}
        state = honest(names.index(site))
        content = {
            "arrays": to_arrays(state, MANIFEST.shapes, START), "metrics": MetricRecord(values),
            "echo": echo_of(message),
        }  # fmt: skip
        reply = Message(RecordDict(dict(content)), reply_to=message)
        if site in cases:
            sent: ArrayRecord = message.content.array_records["arrays"]
            CASES[cases[site]][0](reply, flat(sent))
        return reply

    return InProcessGrid(app, names)


def study(
    place: Path, cases: dict[str, str], asked: list[str], config: RunConfig | None = None,
    **rules: object,
) -> Study:  # fmt: skip
    parts = {"train": 40, "val": 0, "test": 0}
    nodes = {name: Node(number, name, parts) for number, name in enumerate(NAMES, start=2)}
    roster = Roster(nodes, dict.fromkeys(range(2, 2 + len(NAMES)), ""))
    audit = str(place / "audit.jsonl")
    wanted = Rules(**{"nodes": 4, "quorum": 3, "timeout": 5.0, "audit": audit, **rules})
    config = config or configuration()
    return Study(grid(cases, asked), config, place, MANIFEST, wanted, roster)


def start(number: int = 0) -> Round:
    return Round(number, START, {}, {})


def test_three_rejected_answers_are_quarantine(tmp_path):
    """And everything stands in the audit log, which verifies."""
    asked: list[str] = []
    run = study(tmp_path, {"b": "one NaN"}, asked)
    for number in range(5):
        updates = train_round(run, start(number), None)
        assert sorted(updates) == ["a", "c", "d"]
        close_round(run, run.config.strategy, start(number), updates)
    assert Counter(asked) == {"a": 5, "b": STRIKES, "c": 5, "d": 5}
    events = read_metrics(tmp_path)
    assert [e["round"] for e in events if e["event"] == "rejected"] == [1, 2, 3]
    assert [(e["round"], e["site"]) for e in events if e["event"] == "quarantined"] == [(3, "b")]
    entries = read(tmp_path / "audit.jsonl")
    assert verify(tmp_path / "audit.jsonl").entries == len(entries)
    rejected = [entry for entry in entries if entry.event == "rejected"]
    assert {entry.facts["code"] for entry in rejected} == {"NOT_FINITE"}
    assert all(len(str(entry.facts["state"])) == 64 for entry in rejected)
    assert sum(entry.event == "train" for entry in entries) == 15


def test_an_error_of_a_site_is_no_strike(tmp_path):
    asked: list[str] = []
    run = study(tmp_path, {"b": "an error"}, asked)
    for number in range(4):
        train_round(run, start(number), None)
    assert asked.count("b") == 4 and not run.roster.strikes


def test_an_answer_that_would_be_the_same_is_not_asked_for_again(tmp_path):
    """Training is a function of seed, site and round: one wrong answer is one strike a round, and
    under privacy one charge."""
    asked: list[str] = []
    for case in ("one NaN", "change x6", "num-examples 0"):
        run = study(tmp_path, {"b": case}, asked, quorum=4, repeats=2)
        with pytest.raises(FederationError, match="3 of 4 sites"):
            train_round(run, start(), None)
        assert run.roster.strikes == {"b": 1} and asked.count("b") == 1
        asked.clear()


def test_with_as_many_sites_as_a_rule_needs_a_faulty_one_fails_the_round(tmp_path, caplog):
    """Which the start warns of."""
    config = configuration(strategy={"kind": "fedavg", "rule": {"kind": "median", "faulty": 2}})
    with pytest.raises(ConfigError, match="median with faulty 2 needs the updates of 5 sites"):
        check_enough(config, 4)
    three = configuration(strategy={"kind": "fedavg", "rule": {"kind": "median"}})
    run = study(tmp_path, {"b": "one NaN", "c": "one NaN"}, [], three, quorum=1)
    with pytest.raises(FederationError, match="at least 3 are needed"):
        train_round(run, start(), None)
    assert run.quorum == 3


@pytest.mark.parametrize(("sites", "warned"), [(3, True), (4, False)])
def test_a_start_with_no_site_to_spare_is_warned_of(sites, warned, caplog, monkeypatch):
    monkeypatch.setattr("server.rules.logger.propagate", True)
    check_enough(configuration(strategy={"kind": "fedavg", "rule": {"kind": "median"}}), sites)
    assert ("have 4 sites or more" in caplog.text) == warned


def test_a_site_in_quarantine_is_not_waited_for_in_place_of_others(tmp_path):
    """It stays connected; the round needs others, who may be restarting."""
    asked: list[str] = []
    run = study(tmp_path, {}, asked)
    run.roster.strikes["d"] = STRIKES
    looks = []
    works = run.grid.get_node_ids

    def now() -> list[int]:
        looks.append(1)
        return [i for i in works() if i != 4 or len(looks) > 3]  # c comes with the fourth look

    run.grid.get_node_ids = now  # type: ignore[method-assign]
    found = present(run.grid, run.roster, 4, 3, 5.0, None, run.audit)
    assert [node.site for node in found] == ["a", "b", "c"]


def test_strikes_go_on_with_a_run_as_if_it_had_not_been_interrupted():
    facts = {"strikes": {"a": 2, "b": 3}}
    again = [{"event": "rejected", "site": "a", "code": "NORM", "round": 3}]
    assert strikes_after(2, facts, again) == {"a": 2, "b": 3}  # round 3 is done again
    back = [{"event": "readmitted", "site": "b", "round": 2}]
    assert strikes_after(2, facts, [*again, *back]) == {"a": 2}
    assert strikes_after(3, {"strikes": {"b": 1}}, back) == {"b": 1}  # three rounds later
    assert strikes_after(0, {}, []) == {}


def test_a_fault_of_the_coordinator_is_not_blamed_on_a_site(tmp_path, monkeypatch):
    run = study(tmp_path, {}, [])
    answer = Answer(2, "a", Message(RecordDict(), dst_node_id=2, message_type="train"), 0, 0)

    def full(*_: object) -> None:
        raise CheckpointError("receipts.json holds no receipts")

    monkeypatch.setattr("server.training_round.accept", full)
    with pytest.raises(CheckpointError):
        judge(run, answer, start(), 40, {})
    assert not run.roster.strikes


def test_under_privacy_few_patients_may_have_longer_noise(tmp_path):
    """The noise of a mean goes as one over the number of patients."""
    private = configuration(privacy=PRIVACY)
    for config, dropped in ((private, set()), (configuration(), {"a"})):
        run = study(tmp_path, {}, [], config)
        cases = {"a": 20, "b": 190, "c": 200, "d": 200}
        run.roster.nodes.update({
            name: replace(node, cases={**node.cases, "train": cases[name]})
            for name, node in run.roster.nodes.items()
        })  # fmt: skip
        received = {
            name: Received(Update({}, 10), 100 / number, {}) for name, number in cases.items()
        }
        refused: set[str] = set()
        drop_too_long(run, 1, received, refused)
        assert refused == dropped and received.keys() == cases.keys() - dropped


def test_updates_are_files_for_this_account_alone(tmp_path, monkeypatch):
    size = 4 * sum(tensor.numel() for tensor in start().state.values())
    monkeypatch.setattr("server.training_round.IN_MEMORY", 2 * size)  # of the first two
    run = study(tmp_path, {}, [])
    updates = train_round(run, start(), None)
    kept = list((tmp_path / FOLDER).iterdir())
    assert len(kept) == 2 and all(file.stat().st_mode & 0o077 == 0 for file in kept)
    assert updates["a"].state["block.w"].shape == (16, 10)


def test_an_answer_may_be_longer_than_its_order(tmp_path, monkeypatch):
    """Up-projections that are zero pack to nothing, trained ones do not."""
    shapes = {"down": (400, 900), "up": (900, 400)}
    manifest = replace(MANIFEST, shapes=shapes)
    random = torch.Generator().manual_seed(0)
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    trained = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    allowed = []
    monkeypatch.setattr(
        "server.exchange.receive", lambda grid, names, arriving, most: allowed.append(most) or []
    )
    run = study(tmp_path, {}, [], timeout=0.2, repeats=0)
    run = replace(run, manifest=manifest)
    ask_to_train(
        run, [*run.roster.nodes.values()], Round(0, zeros, {}, {}), Unanswered(), {}, set()
    )
    answer = RecordDict({"arrays": to_arrays(trained, shapes, zeros)})
    sent = RecordDict({"arrays": to_arrays(zeros, shapes)})
    assert serialised_bytes(sent) + SMALL < serialised_bytes(answer) <= allowed[0]
