"""The life of a site's processes: ports, pauses between starts, and what the worker is told."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client import join
from client.config import SiteConfig
from client.join import Processes, restart_supernode, start_supernode, start_worker
from client.node import has_node
from client.reached import SUPERNODE


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that would be started, instead of starting them."""
    commands: list[list[str]] = []

    def start(command: Sequence[str], log: Path | None, environment: dict[str, str]) -> object:
        assert str(Path(join.__file__).parents[1]) in environment["PYTHONPATH"].split(os.pathsep)
        commands.append([*command])
        return SimpleNamespace()

    monkeypatch.setattr(join, "start", start)
    monkeypatch.setattr(join, "wait_for_coordinator", lambda config, contact: None)
    monkeypatch.setattr(join, "end_earlier_node", lambda config: None)
    return commands


@pytest.fixture
def clock(monkeypatch) -> Any:
    """Time that passes when somebody waits, and by hand."""
    clock = SimpleNamespace(now=1000.0, waits=[])

    def sleep(seconds: float) -> None:
        clock.waits.append(seconds)
        clock.now += seconds

    times = SimpleNamespace(sleep=sleep, monotonic=lambda: clock.now)
    monkeypatch.setattr(join, "time", times)
    return clock


def site(place: Path, **more: object) -> Processes:
    content = {"site": "a", "coordinator": {"address": "host:9092"}, "state": place,
               "data": {"kind": "synthetic"}, **more}  # fmt: skip
    config = SiteConfig.model_validate(content)
    return Processes(config, place / "site.yaml", ("device=cpu",), place / "secret")


def value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_every_supernode_has_a_port_of_its_own_that_the_worker_is_told(
    tmp_path, started, monkeypatch
):
    """A port that was chosen long before may belong to somebody else by now."""
    ports = iter(range(5001, 5009))
    monkeypatch.setattr(join, "free_port", lambda: next(ports))
    processes = site(tmp_path)
    used = []
    for _ in range(2):
        start_supernode(processes)
        told = json.loads((tmp_path / SUPERNODE).read_text())["address"]
        assert told == f"127.0.0.1:{value(started[-1], '--port')}"
        running = json.loads((tmp_path / "running.json").read_text())
        health = value(started[-1], "--health-server-address")
        assert running == {"pid": os.getpid(), "health": health}
        used += [told, health]
    assert len(set(used)) == 4


def test_a_health_address_of_the_yaml_stays(tmp_path, started):
    start_supernode(site(tmp_path, health="127.0.0.1:7777"))
    assert value(started[-1], "--health-server-address") == "127.0.0.1:7777"


def test_both_children_run_what_is_installed(tmp_path, started):
    """Not what lies in the folder where the command was given (-P)."""
    processes = site(tmp_path)
    start_supernode(processes)
    start_worker(processes)
    assert [command[1:4] for command in started] == [
        ["-P", "-m", "client.supernode"], ["-P", "-m", "client.worker"],
    ]  # fmt: skip
    assert value(started[0], "--host") == "127.0.0.1"
    assert not any("127.0.0.1" in word for word in started[1])


def test_a_supernode_that_ends_each_time_is_started_more_and_more_slowly(tmp_path, started, clock):
    processes = site(tmp_path)
    start_supernode(processes)
    for _ in range(7):
        restart_supernode(processes, 1)
    assert clock.waits == [1, 2, 4, 8, 16, 30, 30]
    assert len(started) == 8


def test_after_a_minute_of_work_the_wait_is_short_again(tmp_path, started, clock):
    processes = site(tmp_path)
    start_supernode(processes)
    for worked in (0, 0, 61, 0, 59):
        clock.now += worked
        restart_supernode(processes, 1)
    assert clock.waits == [1, 2, 1, 2, 4]


def test_the_log_says_how_long_the_wait_is(tmp_path, started, clock, caplog, monkeypatch):
    monkeypatch.setattr("client.join.logger.propagate", True)  # set_up() turns it off
    restart_supernode(site(tmp_path), 70)
    assert "(flower-supernode: 70) and is opened again in 1 s" in caplog.text
    assert str(tmp_path / "supernode.log") in caplog.text


def test_that_the_coordinator_is_away_is_reason_enough(
    tmp_path, started, clock, caplog, monkeypatch
):
    monkeypatch.setattr("client.join.logger.propagate", True)
    processes = site(tmp_path)
    processes.contact.told = "no answer"
    restart_supernode(processes, 1)
    assert "the connection ended" not in caplog.text and len(started) == 1


def test_a_node_id_of_an_earlier_supernode_is_no_connection(tmp_path, started):
    log = tmp_path / "supernode.log"
    log.write_text("INFO : SuperNode ID: 17\n")
    processes = site(tmp_path)
    start_supernode(processes)
    assert not has_node(tmp_path, processes.log_start)
    log.write_text(log.read_text() + "INFO : SuperNode ID: 17\n")
    assert has_node(tmp_path, processes.log_start)
