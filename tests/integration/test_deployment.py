"""Coordinator and three sites as real processes over TLS: the same result as simulated."""

import json
import os
import signal

import pytest

from medsa_model.checkpoint import latest_round
from medsa_model.logs import read_metrics
from server.cli import main as flower_server
from tests.integration.federation import (
    RUN,
    SITES,
    equal,
    federation_at,
    simulated,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_three_hospitals_get_the_result_of_the_simulation(tmp_path, capsys):
    """Exit code 0 everywhere, equal bit for bit; `status` and `check` on the way."""
    with federation_at(tmp_path / "f", RUN) as federation:
        expected = simulated(tmp_path, RUN)
        federation.start_server()
        for site in SITES:
            federation.start_site(site)
        federation.wait_for_round(1)
        capsys.readouterr()
        assert flower_server(["status", "--config", str(federation.config)]) == 0
        shown = capsys.readouterr().out
        assert "SuperLink serving" in shown and all(site in shown for site in SITES)
        assert flower_server(["check", "--config", str(federation.config)]) == 0
        codes = federation.wait_for_end()
        assert set(codes.values()) == {0}, federation.everything()
        assert equal(federation.final(), expected)
        rounds = [e for e in read_metrics(federation.run) if e["event"] == "round"]
        trained = [e for e in read_metrics(federation.run) if e["event"] == "train"]
        for event in rounds:  # shown by pytest -s: the figure of the README
            longest = max(float(str(e["seconds"])) for e in trained if e["round"] == event["round"])
            print(f"round {event['round']}: {event['seconds']} s, longest training {longest:.3f} s")


@pytest.mark.fault
def test_a_run_survives_the_death_of_each_of_its_processes(tmp_path):
    """SuperLink, worker of the ServerApp, a site and the whole server die by SIGKILL, each in
    another round; all but the last are mended without anybody's help."""
    run = RUN | {"rounds": 7, "train": {"steps": 30, "batch_size": 2, "prompts_per_image": 1}}
    with federation_at(tmp_path / "f", run) as federation:
        expected = simulated(tmp_path, run)
        federation.start_server()
        for site in SITES:
            federation.start_site(site)
        federation.wait_for_round(1)
        kill(federation.processes["server"].pid, "server.flower_superlink")
        federation.wait_for_round(3)
        kill(federation.processes["server"].pid, "server.worker")
        federation.wait_for_round(4)
        victim = federation.processes["site_b"]
        victim.send_signal(signal.SIGKILL)
        victim.wait(10)
        federation.start_site("site_b")
        federation.wait_for_round(5)
        federation.processes["server"].kill()
        federation.processes["server"].wait(10)
        assert not (federation.run / "final").exists()
        federation.start_server("--resume")
        codes = federation.wait_for_end()
        assert set(codes.values()) == {0}, federation.everything()
        assert latest_round(federation.run) == 7
        for number in range(1, 8):
            facts = json.loads((federation.run / f"rounds/{number:04d}/round.json").read_text())
            assert facts["sites"] == list(SITES)
        assert equal(federation.final(), expected)


def kill(parent: int, word: str) -> None:
    """SIGKILL for the child of `parent` whose command line has `word`."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline") as command:
                child = int(stat.read().rpartition(")")[2].split()[1]) == parent
                matches = word in command.read()
        except OSError:
            continue
        if child and matches:
            os.kill(int(name), signal.SIGKILL)
            return
    raise AssertionError(f"no child {word} of {parent}")
