"""No answer of a site ends a run or spoils the model, whatever the strategy and the order."""

import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medsa_model.checkpoint import Round
from medsa_model.config import RunConfig
from medsa_model.logs import read_metrics
from medsa_model.records import to_arrays, to_state
from medsa_model.rejections import Code
from medsa_model.state import AdapterState
from medsa_model.strategies import Update
from server.app import close_round
from server.introduction import Node
from server.roster import Roster
from server.rules import Rules
from server.study import Study
from server.training_round import forget_updates, train_round
from sim.grid import InProcessGrid
from tests.server.hostile import CASES, CASES_OF_SITE, MANIFEST, SITES, Change, flat
from tests.server.hostile_lossy import LOSSY_CASES
from tests.server.messages import echo_of

NAMES = tuple(f"site_{number}" for number in range(SITES))
STRATEGIES = {
    **{rule: {"kind": "fedavg", "rule": {"kind": rule}}
       for rule in ("mean", "median", "trimmed_mean", "norm_bounded", "krum", "multi_krum")},
    "fedprox": {"kind": "fedprox"},
    "fedexp": {"kind": "fedexp"},
    "fedadam": {"kind": "fedadam"},
    "fedadam, median": {"kind": "fedadam", "rule": {"kind": "median"}},
    "fedyogi": {"kind": "fedyogi"},
    "private_fedavg": {"kind": "private_fedavg", "noise_multiplier": 0.01},
}  # fmt: skip
START = {name: torch.linspace(0.5, 1.5, math.prod(shape)).reshape(shape)
         for name, shape in MANIFEST.shapes.items()}  # fmt: skip


def configuration(strategy: dict[str, object], kind: str = "lossless") -> RunConfig:
    content = {"name": "hostile", "rounds": 1, "data": {"kind": "synthetic"}, "train": {"steps": 1}}
    more = {"strategy": strategy, "message": {"update": kind}}
    return RunConfig.model_validate({**content, **more})


def honest(number: int) -> AdapterState:
    """What an honest site makes of the first state: a change of length 1.3, each in its own way."""
    random = torch.Generator().manual_seed(number)
    return {
        name: value + 0.1 + 0.01 * torch.randn(value.shape, generator=random)
        for name, value in START.items()
    }


def grid(change: Change, hostile: int, kind: str) -> InProcessGrid:
    """Seven sites, of which the one with number `hostile` answers as `change` makes it."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = context.node_id - 2
        values = {"num-examples": 10, "loss": 0.5, "seconds": 1.0, "images": 4, "memory": 1000}
        content = {
            "arrays": to_arrays(honest(number), MANIFEST.shapes, START, kind),
            "metrics": MetricRecord(values),
            "echo": echo_of(message),
        }
        reply = Message(RecordDict(dict(content)), reply_to=message)
        if number == hostile:
            sent: ArrayRecord = message.content.array_records["arrays"]
            change(reply, flat(sent))
        return reply

    return InProcessGrid(app, NAMES)


def one_round(config: RunConfig, place: Path, change: Change, hostile: int) -> AdapterState:
    """The state after one round, through the production round and strategy."""
    cases = {"train": CASES_OF_SITE, "val": 0, "test": 0}
    nodes = {name: Node(number, name, cases) for number, name in enumerate(NAMES, start=2)}
    roster = Roster(nodes, dict.fromkeys(range(2, 2 + SITES), ""))
    rules = Rules(SITES, quorum=3, timeout=60.0)
    sites = grid(change, hostile, config.message.update)
    study = Study(sites, config, place, MANIFEST, rules, roster)
    current = Round(0, START, {}, {})
    updates = train_round(study, current, None)
    state, memory = close_round(study, config.strategy, current, updates)
    forget_updates(place)
    assert all(bool(tensor.isfinite().all()) for tensor in {**state, **memory}.values())
    return state


def of_the_others(config: RunConfig, hostile: int) -> AdapterState:
    """What the strategy makes of the honest sites alone."""
    kind, shapes = config.message.update, MANIFEST.shapes
    sent = [to_arrays(honest(n), shapes, START, kind) for n in range(SITES) if n != hostile]
    updates = [Update(to_state(each, shapes, START, kind), 10) for each in sent]
    return config.strategy.aggregate(START, updates, {})[0]


def rejections(place: Path) -> list[tuple[str, str]]:
    return [(str(e["site"]), str(e["code"])) for e in read_metrics(place)
            if e["event"] == "rejected"]  # fmt: skip


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: these rounds write thousands of small files."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def test_there_are_forty_cases_and_more():
    assert len(CASES) - 1 >= 40 and len(STRATEGIES) >= 6
    assert {code for _, code in CASES.values()} >= {*Code} - {
        Code.UNREADABLE, Code.COST, Code.LEDGER, None
    }  # fmt: skip


@pytest.mark.parametrize(
    "position",
    [pytest.param(0, marks=pytest.mark.thorough), SITES // 2,
     pytest.param(SITES - 1, marks=pytest.mark.thorough)],
)  # fmt: skip
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_no_answer_ends_the_run_or_spoils_the_model(memory, strategy, position):
    """Rejected: with its code, and the result is that of the honest sites bit for bit."""
    config = configuration(strategy)
    expected = of_the_others(config, position)
    for number, (case, (change, code)) in enumerate(CASES.items()):
        place = memory / str(number)
        place.mkdir()
        state = one_round(config, place, change, position)
        found = rejections(place)
        assert found == ([] if code is None else [(NAMES[position], code)]), case
        if code is not None and strategy["kind"] != "private_fedavg":  # which adds noise
            assert all(torch.equal(state[name], expected[name]) for name in expected), case


@pytest.mark.parametrize("kind", LOSSY_CASES)
def test_nor_does_a_rounded_answer(memory, kind):
    config = configuration({"kind": "fedavg"}, kind)
    expected = of_the_others(config, 3)
    for number, (case, (change, code)) in enumerate(LOSSY_CASES[kind].items()):
        place = memory / str(number)
        place.mkdir()
        state = one_round(config, place, change, 3)
        assert rejections(place) == ([] if code is None else [(NAMES[3], code)]), case
        if code is not None:
            assert all(torch.equal(state[name], expected[name]) for name in expected), case
