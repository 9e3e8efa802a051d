"""Flower's own simulation engine gives what the in-process grid gives."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sim.cli import main

SMALL = """
name: small
rounds: 1
model: {image_size: 32}
data: {kind: synthetic, sites: 2, cases_per_site: 6, size: 64}
train: {steps: 1, batch_size: 2, prompts_per_image: 1}
sim:
  {split: {test: 0.34, val: 0.17}, examples: 0, device: cpu, processes: 1, rows: [], references: []}
"""


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_ray_ends_with_the_same_state(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["--config", str(tmp_path / "small.yaml")]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    assert main([*words, "--out", str(tmp_path / "two"), "sim.engine=ray"]) == 0
    one, two = (
        load_file(tmp_path / run / "final" / "adapter_model.safetensors") for run in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of one machine, started as its users do."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray")  # a short path: names of sockets are
    head = subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus", "2",
            "--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", folder,
            "--include-dashboard=false", "--disable-usage-stats",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not listens(port):
            assert head.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_attacked_sites_of_a_running_cluster_end_with_the_same_state(
    tmp_path, cluster, monkeypatch
):
    attack = ["sim.attack={kind: scale, factor: -2}", "strategy.rule={kind: median}"]
    attack += ["data.sites=5", "sim.examples=0"]
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["--config", str(tmp_path / "small.yaml"), *attack]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    assert main([*words, "--out", str(tmp_path / "two"), "sim.engine=ray"]) == 0
    one, two = (
        load_file(tmp_path / run / "final" / "adapter_model.safetensors") for run in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_refused(tmp_path, capsys):
    pytest.importorskip("ray")
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["--config", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run")]
    assert main([*words, "sim.engine=ray", "sim.ray_address=127.0.0.1:1"]) == 1
    assert (
        "sim.ray_address: the Ray cluster at 127.0.0.1:1 cannot be used" in capsys.readouterr().err
    )


def test_without_ray_the_message_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["--config", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run")]
    assert main([*words, "sim.engine=ray"]) == 1
    assert 'pip install -c constraints.txt -e ".[ray]"' in capsys.readouterr().err
