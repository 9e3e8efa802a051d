"""What the coordinator does at its SuperLink, with one that answers from memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml

from medsa_model.config import RunConfig, load_run
from medsa_model.errors import FederationError
from medsa_model.site_keys import make_key_pair
from server import coordinate
from server import coordinator as module
from server.config import Federation
from server.coordinate import Interrupted, QuorumMissed, RunFailed, gather
from server.coordinator import Coordinator
from server.flower_private import NodeRow
from server.keys import read_public_key
from server.queue_of_runs import submit, waiting_runs
from server.revoked import revoke, start_revocations

SITES = ("a", "b", "c")


@dataclass
class Control:
    """A SuperLink's nodes; like Flower it takes no key twice."""

    nodes: dict[bytes, NodeRow] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)

    def register(self, key: bytes, name: str) -> None:
        assert key not in self.nodes, "Flower answers with HTTP 409"
        number = len(self.nodes) + 2
        self.nodes[key] = NodeRow(number, name, key, "registered", "", "", 0.0)

    def unregister(self, node_id: int) -> None:
        for key, node in self.nodes.items():
            if node.node_id == node_id:
                self.become(key, "unregistered")

    def become(self, key: bytes, status: str) -> None:
        old = self.nodes[key]
        self.nodes[key] = NodeRow(old.node_id, old.name, key, status, "", "", 0.0)

    def list(self) -> list[NodeRow]:
        if self.failures:
            raise self.failures.pop(0)
        return [*self.nodes.values()]


@dataclass
class World:
    federation: Federation
    control: Control = field(default_factory=Control)
    launched: list[float] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def key(self, site: str) -> bytes:
        return read_public_key(self.federation.folder / "sites" / site / "site.pub", site)

    def names(self, status: str) -> list[str]:
        return sorted(node.name for node in self.control.nodes.values() if node.status == status)

    def connect(self, *sites: str) -> None:
        for site in sites:
            self.control.become(self.key(site), "online")


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A provisioned federation of three sites in which no process is started and no time passes."""
    folder = tmp_path / "federation"
    folder.mkdir(mode=0o700)
    start_revocations(folder)
    for site in SITES:
        place = folder / "sites" / site
        place.mkdir(parents=True)
        make_key_pair(place / "site.key", place / "site.pub", site)
    settings = {"name": "small", "data": {"kind": "synthetic"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    federation = Federation.model_validate(
        {
            "name": "test", "folder": folder, "run": tmp_path / "run.yaml", "quorum": 2,
            "runs": tmp_path / "runs", "address": {"host": "localhost"}, "join_seconds": 9.0,
            "sites": [{"name": site} for site in SITES],
        }
    )  # fmt: skip
    world = World(federation)

    @contextmanager
    def control(link: object) -> Iterator[Control]:
        yield world.control

    def launch(place: object) -> object:
        world.launched.append(sum(world.slept))
        return SimpleNamespace(poll=lambda: None, pid=1)

    monkeypatch.setattr(module, "control", control)
    monkeypatch.setattr(module, "list_nodes", lambda client: client.list())
    monkeypatch.setattr(module, "register", lambda client, key, name: client.register(key, name))
    monkeypatch.setattr(module, "unregister", lambda client, number: client.unregister(number))
    monkeypatch.setattr(module, "stop_runs", lambda client: None)
    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(module, "stop", lambda child: None)
    closed = SimpleNamespace(close=lambda: None, thread=SimpleNamespace(is_alive=lambda: True))
    closed.door = SimpleNamespace(keys=None)
    monkeypatch.setattr(module, "open_door", lambda door, federation: closed)
    monkeypatch.setattr(
        module, "time",
        SimpleNamespace(monotonic=lambda: 100 + sum(world.slept), sleep=world.slept.append),
    )  # fmt: skip
    return world


@pytest.fixture
def started(world) -> Iterator[Coordinator]:
    with Coordinator(world.federation) as coordinator:
        yield coordinator


def test_every_admitted_key_is_registered_once(world):
    for _ in range(2):  # the second start finds the database of the first
        with Coordinator(world.federation):
            assert world.names("registered") == [*SITES]


def test_a_revoked_key_is_forgotten_and_a_removed_site_may_come_back(world):
    with Coordinator(world.federation):
        pass
    revoke(world.federation.folder, "b")
    fewer = world.federation.model_copy(update={"sites": world.federation.sites[:2]})  # without c
    with Coordinator(fewer) as coordinator:
        assert world.names("unregistered") == ["b"] and world.names("registered") == ["a", "c"]
        assert set(coordinator.keys().admitted.values()) == {"a"}  # whom the door lets in
    with Coordinator(world.federation) as coordinator:
        assert set(coordinator.keys().admitted.values()) == {"a", "c"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.control.become(w.key("b"), "unregistered"), "the key of b .* forgotten again"),
        (
            lambda w: w.control.nodes.update(
                {w.key("b"): NodeRow(9, "old", w.key("b"), "registered", "", "", 0.0)}
            ),
            "the key of b was registered at Flower before as that of old",
        ),
    ],
)
def test_a_key_that_flower_will_not_take_is_said(world, change, message):
    """Else its site would be turned away again and again and nobody would know why."""
    with Coordinator(world.federation):
        pass
    change(world)
    with pytest.raises(FederationError, match=message) as caught, Coordinator(world.federation):
        pass
    assert "superlink.db away" in str(caught.value) and "make a new pair" in str(caught.value)


def error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://localhost")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))


@pytest.mark.parametrize("failure", [httpx.ConnectError("no"), error(500), error(503)])
def test_a_superlink_that_is_away_or_unwell_is_asked_again(world, started, failure):
    world.control.failures = [failure, failure]
    assert len(started.nodes()) == 3
    assert len(world.slept) == 2


def test_a_question_that_the_superlink_refuses_is_not_repeated(world, started):
    world.control.failures = [error(403)]
    with pytest.raises(FederationError, match=r"as expected \(HTTP 403\); see .*superlink\.log"):
        started.nodes()
    assert world.slept == []


def test_a_superlink_that_never_answers_ends_the_wait(world, started):
    world.control.failures = [httpx.ConnectError("no") for _ in range(1000)]
    with pytest.raises(FederationError, match=r"\(ConnectError\)"):
        started.nodes()


@pytest.mark.fault
def test_a_superlink_that_ends_again_and_again_is_started_after_longer_and_longer_pauses(
    world, started
):
    for _ in range(7):
        started.link = None
        started.tend()
    assert world.slept == [1, 2, 4, 8, 16, 30, 30]
    world.slept.append(module.SOON + 1)  # it ran for a while
    started.link = None
    started.tend()
    assert world.slept[-1] == module.SOON + 1


def test_all_sites_are_waited_for_then_the_quorum_is_enough(
    world, started, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(module.logger, "propagate", True)
    caplog.set_level("INFO", "medsa")
    world.connect("a", "b")
    assert gather(started, tmp_path) == 2 and sum(world.slept) >= 9
    assert caplog.messages[-1] == "starting with a, b; missing: c"
    world.connect("c")
    before = sum(world.slept)
    assert gather(started, tmp_path) == 3 and sum(world.slept) == before
    assert caplog.messages[-1] == "starting with a, b, c"


@pytest.mark.fault
def test_a_missed_quorum_names_who_is_missing(world, started, tmp_path):
    world.connect("b")
    with pytest.raises(QuorumMissed, match=r"1 of 3 sites .* quorum is 2; missing: a, c\."):
        gather(started, tmp_path)


def test_a_complete_run_needs_no_quorum_for_its_farewell(world, started, tmp_path):
    (tmp_path / "final").mkdir()
    assert gather(started, tmp_path) == 0


Outcome = Callable[[], int]


@pytest.fixture
def runs(world, monkeypatch) -> dict[str, Outcome]:
    """What each run by name comes to, 0 when it is not there; `done` lists them."""
    outcomes: dict[str, Outcome] = {}
    world.done = []

    def run_one(coordinator: Coordinator, config: RunConfig, run: Path) -> int:
        world.done.append(config.name)
        return outcomes.get(config.name, lambda: 0)()

    monkeypatch.setattr(coordinate, "run_one", run_one)
    return outcomes


def fail(error: BaseException) -> Outcome:
    def outcome() -> int:
        raise error

    return outcome


def start(world: World, **more: object) -> int:
    config = load_run(world.federation.run)
    federation = world.federation.model_copy(update=more)
    return coordinate.coordinate(federation, config, world.federation.runs / "first")


def give(world: World, *names: str) -> None:
    for name in names:
        config = load_run(world.federation.run, [f"name={name}"])
        submit(world.federation.folder, config)


def test_without_serve_the_end_of_the_run_is_the_end(world, runs):
    runs["small"] = lambda: 1
    assert start(world) == 1 and world.done == ["small"]


@pytest.mark.parametrize("error", [QuorumMissed("too few"), RunFailed("again")])
def test_a_server_that_serves_outlives_a_later_run_that_fails(world, runs, error):
    runs.update(second=fail(error), fourth=fail(KeyboardInterrupt()))
    give(world, "second", "third", "fourth")
    with pytest.raises(Interrupted) as caught:
        start(world, serve=True)
    assert world.done == ["small", "second", "third", "fourth"]
    assert caught.value.run.parent.name == "fourth"
    assert waiting_runs(world.federation.folder) == []


def test_every_run_is_tracked_also_one_that_was_submitted(world, runs, monkeypatch):
    tracked = []

    @contextmanager
    def follow(run: Path, sinks: list[str]) -> Iterator[None]:
        assert len(world.done) == len(tracked)  # before the run
        yield tracked.append((run.parent.name, sinks))

    monkeypatch.setattr(coordinate, "tracked", follow)
    runs.update(second=fail(KeyboardInterrupt()))
    give(world, "second")
    config, federation = load_run(world.federation.run), world.federation
    federation = federation.model_copy(update={"serve": True})
    with pytest.raises(Interrupted):
        coordinate.coordinate(federation, config, federation.runs / "first", track=["mlflow"])
    assert tracked == [("runs", ["mlflow"]), ("second", ["mlflow"])]


def test_its_first_run_still_ends_with_the_missed_quorum(world, runs):
    runs["small"] = fail(QuorumMissed("too few"))
    with pytest.raises(QuorumMissed):
        start(world, serve=True)


def test_an_end_while_it_waits_for_the_next_run_is_no_interruption(world, runs, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", interrupt)
    assert start(world, serve=True) == 0


def test_a_submitted_run_that_cannot_be_read_is_put_aside(world, runs):
    runs["good"] = fail(KeyboardInterrupt())
    queue = world.federation.folder / "queue"
    give(world, "good")
    (queue / "00000000-bad.yaml").write_text("name: [")
    with pytest.raises(Interrupted):
        start(world, serve=True)
    assert [path.name for path in (queue / "refused").iterdir()] == ["00000000-bad.yaml"]
    assert world.done == ["small", "good"]
    assert len([*(queue / "taken").iterdir()]) == 1


def test_a_key_that_flower_will_not_take_does_not_end_what_runs(
    world, started, caplog, monkeypatch
):
    """When keys are changed during a run: the others go on."""
    monkeypatch.setattr(module.logger, "propagate", True)
    started.refreshed = -100.0
    world.control.become(world.key("b"), "unregistered")
    started.serving.door.keys = None  # as if the files had changed
    started.tend()
    assert "the key of b was registered at Flower before" in caplog.text
    assert started.serving.door.keys == started.keys()
