"""Several federations beside each other: same results, clear ends."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medsa_model.data.split import write_split
from medsa_model.errors import CheckpointError, FederationError
from medsa_model.logs import logger, set_up
from sim.cli import main
from sim.compare import Plan, plans
from sim.config import Sim, load_simulation
from sim.federations import cores, finished, processes_for, run_plans, wished_processes
from sim.sites import open_cases
from sim.split import split

SMALL = {
    "name": "small",
    "rounds": 2,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic", "sites": 2, "cases_per_site": 6, "size": 64},
    "train": {"steps": 1, "batch_size": 2, "prompts_per_image": 1},
    "sim": {"split": {"test": 0.34, "val": 0.17}, "examples": 0, "device": "cpu",
            "rows": ["centralized"], "references": []},
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def final(run):
    return load_file(run / "final" / "adapter_model.safetensors")


def finished_rows(log: str) -> list[str]:
    """Rows that the log says are finished, in alphabetical order."""
    return sorted(re.findall(r" (\S+) is finished: rounds and evaluation took \d", log))


@pytest.mark.thorough  # starts processes, each of which imports PyTorch
def test_two_processes_give_what_one_gives(config, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logger, "handlers", [])  # they write to where capfd reads, and end with it
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["--config", str(config)]
    assert main([*words, "--out", str(one), "sim.processes=1"]) == 0
    alone = finished_rows(capfd.readouterr().err)
    assert main([*words, "--out", str(two), "sim.processes=2"]) == 0
    rows = ["centralized", "federated", "zero_shot"]
    assert alone == finished_rows(capfd.readouterr().err) == rows
    for place in (".", "rows/centralized"):
        first, second = final(one / place), final(two / place)
        for name in first:
            torch.testing.assert_close(first[name], second[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_an_error_ends_its_federation_and_not_the_others(config, tmp_path, capfd, processes):
    settings = load_simulation(config)
    write_split(split(open_cases(settings), settings.sim.partition, settings.sim.split, 0),
                tmp_path / "split.json")  # fmt: skip
    (tmp_path / "config.yaml").write_text(config.read_text())
    model = settings.model.model_copy(update={"checkpoint": Path("missing.pth")})
    everyone = ("site_a", "site_b")
    broken = Plan("federated", tmp_path, settings.model_copy(update={"model": model}), everyone)
    good = Plan("zero_shot", tmp_path / "rows" / "zero_shot",
                settings.model_copy(update={"rounds": 0}), everyone)  # fmt: skip
    set_up(verbose=False)  # to this test's stream, not one that an earlier test has closed
    with pytest.raises(CheckpointError, match=r"missing\.pth"):
        run_plans([broken, good], tmp_path, everyone, processes, False)
    assert finished(good, everyone)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.thorough  # as above
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("end", ["ctrl-c", "kill"])
def test_no_process_is_left_when_the_program_ends(config, tmp_path, end):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "sim", "--config", str(config), "--out", str(run),
               "sim.processes=2"]  # fmt: skip
    program = subprocess.Popen(
        [*command, "rounds=500"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        # a shell starts background jobs with SIGINT ignored, and pytest may be one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not (run / "rounds" / "0001").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        if end == "kill":
            program.kill()  # the parent alone, which can then end nobody
            program.communicate(timeout=30)
        else:
            os.killpg(program.pid, signal.SIGINT)  # what a terminal does
            output, _ = program.communicate(timeout=30)
            assert program.returncode == 130, output
            assert "--resume" in output and "Traceback" not in output
        assert is_gone(program.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)


def is_gone(group: int) -> bool:
    """Whether no process of the group is left, within ten seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_how_many_processes():
    assert processes_for(Sim(processes=3), 9) == 3
    assert processes_for(Sim(processes=3), 2) == 2
    assert processes_for(Sim(device="cpu"), 999) == cores()
    assert processes_for(Sim(engine="ray", processes=3), 9) == 1


@pytest.mark.parametrize(("gpus", "with_ray"), [(1, 1), (4, 4), (0, 1)])
def test_ray_has_a_process_for_each_gpu(monkeypatch, gpus, with_ray):
    """No GPU of CUDA's is what Apple's is."""
    device = torch.device("cuda" if gpus else "mps")
    monkeypatch.setattr("sim.federations.choose_device", lambda _: device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert wished_processes(Sim(engine="ray")) == with_ray
    assert wished_processes(Sim()) == 1 and wished_processes(Sim(engine="ray", processes=7)) == 7


def test_a_killed_process_is_explained(config, tmp_path):
    todo = plans(load_simulation(config), tmp_path, {"site_a": 2})

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not multiprocessing.active_children() and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    killer = Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(FederationError, match="code -9, most often for want of memory"):
        run_plans(todo, tmp_path, ["site_a"], 2, False)
    killer.join()
    assert multiprocessing.active_children() == []
