"""Federations whose updates are rounded: close to an exact one, resumable, and small."""

import pytest
import torch
from safetensors.torch import load_file

from medsa_model.build import build
from medsa_model.errors import FederationError
from medsa_model.logs import read_metrics
from sim.compare import Plan
from sim.federations import finished, run_plan
from sim.sites import open_sites
from tests.sim.test_federation import configuration, federation, final, interrupt, prepare, same

COUNT = 158_688
ROUNDS = 3


def coded(kind: str, **more: object):
    return configuration(rounds=ROUNDS, message={"update": kind}, **more)


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].reshape(-1) for name in sorted(state)])


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return federation(coded("lossless"), tmp_path_factory.mktemp("runs") / "exact")


@pytest.fixture(scope="module")
def in_four_bits(tmp_path_factory):
    return federation(coded("int4"), tmp_path_factory.mktemp("runs") / "int4")


def change(run, number: int = ROUNDS) -> torch.Tensor:
    """What the first `number` rounds made of the adapters."""
    first, last = (run / f"rounds/{n:04d}/adapter_model.safetensors" for n in (0, number))
    return flat(load_file(last)) - flat(load_file(first))


def missed(run, exact, number: int = ROUNDS) -> float:
    one = change(exact, number)
    return float((change(run, number) - one).norm() / one.norm())


def up_bytes(run) -> list[int]:
    return [event["up_bytes"] for event in read_metrics(run) if event["event"] == "train"]


def test_four_bits_end_close_and_small(exact, in_four_bits):
    assert change(in_four_bits).isfinite().all()
    assert 0 < missed(in_four_bits, exact, 1) < 0.1
    assert missed(in_four_bits, exact) < 0.4
    assert all(size < 4 * COUNT / 6 for size in up_bytes(in_four_bits))
    assert all(2 * COUNT < size < 4 * COUNT for size in up_bytes(exact))
    assert not (exact / "residues").exists()
    kept = {p.name for p in (in_four_bits / "residues").iterdir()}
    assert kept == {"site_a", "site_b"}


def test_eight_bits_end_closer(exact, in_four_bits, tmp_path):
    run = federation(coded("int8"), tmp_path / "run")
    assert 0 < missed(run, exact, 1) < 0.2 * missed(in_four_bits, exact, 1)
    assert missed(run, exact) < 0.4 and change(run).isfinite().all()
    assert all(size < 1.05 * COUNT for size in up_bytes(run))


@pytest.mark.parametrize("call", [3, 4])
def test_a_resumed_run_has_the_same_bits(in_four_bits, tmp_path, monkeypatch, call):
    """Interrupted before and after the first site's answer of the second round, whose residue is
    on disk then."""
    run, config = tmp_path / "run", coded("int4")
    sites = prepare(config, run)
    plan = Plan("federated", run, config, tuple(sites))
    with monkeypatch.context() as patch:
        interrupt(patch, "train_site", call)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, run, sites)
    build.cache_clear()
    open_sites.cache_clear()
    run_plan(plan, run, sites)
    assert finished(plan, sites) and same(final(run), final(in_four_bits))


@pytest.mark.parametrize("kind", ["lossless", "int8"])
def test_an_attack_is_told_as_the_run_says(tmp_path, kind):
    """Ten times the change, backwards, turns the mean round when nothing looks at it."""
    attack = {"kind": "scale", "factor": -10.0, "sites": 1, "unchecked": True}
    data = {"kind": "synthetic", "sites": 3, "cases_per_site": 6, "size": 64}
    sim = {"split": {"test": 0.34, "val": 0.17}, "device": "cpu", "rows": [], "references": []}
    states = []
    for more in ({}, {"attack": attack}):
        config = configuration(
            rounds=1,
            data=data,
            sim=sim | more,
            message={"update": kind},
            strategy={"kind": "fedavg"},
        )
        run = federation(config, tmp_path / f"run{len(states)}")
        assert not [e for e in read_metrics(run) if e["event"] == "rejected"]
        states.append(change(run, 1))
    assert float(torch.dot(states[0], states[1])) < 0


@pytest.mark.parametrize("unchecked", [True, False])
def test_values_that_are_no_numbers_are_told_too(tmp_path, unchecked):
    """Rejected with their code; where nothing looks at them the mean is spoilt, and not kept."""
    attack = {"kind": "nan", "sites": 1, "unchecked": unchecked}
    sim = {"split": {"test": 0.34, "val": 0.17}, "device": "cpu", "rows": [], "references": []}
    config = configuration(rounds=1, sim={**sim, "attack": attack}, message={"update": "int4"})
    run = tmp_path / "run"
    with pytest.raises(FederationError):
        federation(config, run)
    events = {str(event["event"]): event for event in read_metrics(run)}
    if unchecked:
        assert "discarded" in events and "rejected" not in events
    else:
        assert events["rejected"]["code"] == "NOT_FINITE"
