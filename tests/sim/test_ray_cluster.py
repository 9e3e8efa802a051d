"""Which Ray is used, what a process takes of it, and what is said when it cannot work."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Context, RecordDict
from pydantic import ValidationError

import sim.ray_cluster
from medsa_model.errors import ConfigError
from medsa_model.refusals import Refused
from sim.config import Sim
from sim.ray_cluster import (
    Shares,
    _equal_share,
    _fits,
    _reach,
    _taken,
    address_of,
    connect,
    open_on_node,
    print_of,
)


@pytest.mark.parametrize(
    ("wished", "environment", "expected"),
    [
        (None, None, None), (None, "", None), ("auto", None, "auto"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"), ("auto", "10.0.0.1:6379", "auto"),
        (None, "local", None), ("local", "10.0.0.1:6379", None),
    ],
)  # fmt: skip
def test_which_ray(monkeypatch, wished, environment, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert address_of(wished) == expected


@pytest.mark.parametrize("gpus", range(5))
@pytest.mark.parametrize("processes", range(1, 9))
def test_all_processes_find_a_place_on_the_gpus(gpus, processes):
    """A part of a GPU cannot be made up of parts of two; more than one are whole."""
    share = _equal_share(gpus, processes)
    assert (share == 0) == (gpus == 0)
    if gpus:
        places = gpus // share if share >= 1 else gpus * int(1 / share)
        assert places >= processes and (share < 1 or share == int(share))


def test_what_fits_into_a_machine():
    taken = _taken(Shares(2, 0.5), 1.0)
    assert taken == {"num_cpus": 2, "num_gpus": 0.5} and _taken(Shares(2), 1.0)["num_gpus"] == 1
    assert _fits(taken, {"CPU": 2.0, "GPU": 1.0, "memory": 1e9})
    assert not _fits(taken, {"CPU": 1.0, "GPU": 1.0}) and not _fits(taken, {"CPU": 8.0})


@pytest.mark.parametrize(("gpus", "wished"), [(0, 1.0), (0, 0.25), (1, 2.0)])
def test_a_ray_of_this_machine_is_not_started_where_no_process_fits(monkeypatch, gpus, wished):
    started = []
    stand_in = SimpleNamespace(init=lambda *_, **more: started.append(more["num_gpus"]))
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    told = rf"sim\.ray_gpus: a process takes {wished:g} GPUs, but this machine has {gpus};"
    with pytest.raises(ConfigError, match=told):
        connect(None, 2, Shares(1, wished))
    assert started == []
    assert connect(None, 2, Shares()) == {"num_cpus": 1, "num_gpus": gpus / 2}
    assert started == [gpus]


def test_a_share_of_gpus_is_a_part_of_one_or_whole():
    assert [Sim(engine="ray", ray_gpus=gpus).ray_gpus for gpus in (0, 0.25, 1, 2)] == [
        0,
        0.25,
        1,
        2,
    ]
    with pytest.raises(ValidationError, match="a part of one GPU or a whole number"):
        Sim(engine="ray", ray_gpus=1.5)


def test_nobody_is_waited_for_where_nobody_listens():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match="refused"):
            _reach(f"ray://127.0.0.1:{port}")
        listening.listen()
        _reach(f"127.0.0.1:{port}")
    _reach("auto")  # Ray knows


def open_there(run: Path, expected: str) -> object:
    sim.ray_cluster._found.cache_clear()
    nobody = Context(1, 2, {"partition-id": 0}, RecordDict(), {})
    return open_on_node(run, expected, run / "ledgers", nobody)


def test_a_machine_without_the_run_directory_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sim.ray_cluster, "open_site", lambda *_: "opened")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "split.json"):
        (run / name).write_text(name)
    expected = print_of(run)
    assert open_there(run, expected) == "opened"
    (run / "split.json").write_text("of another run")
    with pytest.raises(Refused, match=r"there is another run at .*/run; .* on storage that all"):
        open_there(run, expected)
    (run / "split.json").unlink()
    with pytest.raises(Refused, match="there is no run directory at"):
        open_there(run, expected)


@pytest.mark.parametrize("key", [{"ray_address": "auto"}, {"ray_cpus": 2}, {"ray_gpus": 1}])
def test_what_only_ray_uses_is_refused_without_it(key):
    (name,) = key
    with pytest.raises(ValueError, match=rf"sim\.{name} is .*, but sim\.engine is in-process"):
        Sim(**key)
