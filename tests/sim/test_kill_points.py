"""A run that was broken off in the round loop ends, resumed, as one that was not.

Bit for bit, wherever SIGKILL falls, when the disk is full, and when a round is damaged. The runs
are made in one process for each of the two steps, which forks for every run: what a test needs of
them is on the disk.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import yaml

import server.app
import sim.cli
import sim.run
from medsa_model.checkpoint import Round, latest_round
from medsa_model.logs import read_metrics
from medsa_model.strategies import FedAdam, FedAvg

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(400)]  # the first waits for all runs

ROOT = Path(__file__).parents[2]
CONFIG = {
    "name": "small",
    "rounds": 3,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic", "sites": 2, "cases_per_site": 4, "size": 64},
    "train": {"steps": 1, "batch_size": 2, "prompts_per_image": 1},
    "prompt": {"evaluate": [{"kind": "click"}]},
    "sim": {"split": {"test": 0.34, "val": 0.17}, "rows": [], "references": [], "examples": 0,
            "device": "cpu", "processes": 1},
}  # fmt: skip
STRATEGIES = {"fedavg": FedAvg, "fedadam": FedAdam}  # the second has memory
KILLED = ("before the aggregation", "after the aggregation", "after the round is saved")
BROKEN = 2  # the round
LARGEST = 10**5  # bytes of a file on the disk that is full: less than a state, more than the rest
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, resource.RLIM_INFINITY))


def hook(strategy: type, where: str) -> None:
    """Let this process be broken off in round `BROKEN`."""
    aggregate, save, calls = strategy.aggregate, server.app.save_round, list[int]()

    def aggregated(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == BROKEN and where == "before the aggregation":
            kill()
        result = aggregate(*arguments)
        if len(calls) == BROKEN and where == "after the aggregation":
            kill()
        return result

    def saved(run: Path, round_: Round, *more: object) -> Path:
        if round_.number == BROKEN and where == "on a full disk":
            fill_the_disk()
        place = save(run, round_, *more)
        if round_.number == BROKEN and where == "after the round is saved":
            kill()
        return place

    strategy.aggregate = aggregated
    server.app.save_round = saved


def work(task: Mapping[str, str]) -> int:
    """One run in a process of its own; returns its exit code, or minus the signal's number."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    torch.set_num_threads(1)
    sim.run.write_report = lambda run: run  # figures take longer than the rounds
    output = os.open(Path(task["out"]).with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if task["where"]:
        hook(STRATEGIES[task["strategy"]], task["where"])
    words = ["--config", task["config"], "--out", task["out"], *task["more"].split()]
    code = sim.cli.main(words)
    sys.stdout.flush()
    os._exit(code)


def run_all(tasks: list[dict[str, str]]) -> list[int]:
    """The exit codes of runs, in order."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.test_kill_points"], input=json.dumps(tasks), text=True,
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    codes = json.loads(done.stdout)
    assert isinstance(codes, list)
    return codes


def damage(whole: Path, run: Path, how: str) -> None:
    """A copy of a run before its end, of which the last round is damaged."""
    shutil.copytree(whole, run, symlinks=True)
    for name in ("final", "best", "summary.json"):
        (run / name).unlink()
    state = run / "rounds" / "0003" / "adapter_model.safetensors"
    state.write_bytes(DAMAGES[how](state.read_bytes()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """(strategy, how it was broken off) -> run directory, resumed; "" was not broken off."""
    place = tmp_path_factory.mktemp("runs")
    first, again = list[dict[str, str]](), list[dict[str, str]]()
    found = {}
    for strategy in STRATEGIES:
        config = place / f"{strategy}.yaml"
        config.write_text(yaml.safe_dump(CONFIG | {"strategy": {"kind": strategy}}))
        for where in ("", *KILLED, "on a full disk", *DAMAGES):
            run = place / strategy / (where.replace(" ", "-") or "whole")
            found[strategy, where] = run
            task = {"strategy": strategy, "where": where, "config": str(config), "out": str(run)}
            if where not in DAMAGES:
                first.append(task | {"more": ""})
            if where:
                again.append(task | {"where": "", "more": "--resume"})
    (place / "fedavg").mkdir()
    (place / "fedadam").mkdir()
    codes = {"": 0, "on a full disk": 1}
    for task, code in zip(first, run_all(first), strict=True):
        expected = codes.get(task["where"], -signal.SIGKILL)
        assert code == expected, (task, Path(task["out"]).with_suffix(".txt").read_text())
        saved = {"": 3, "after the round is saved": 2}.get(task["where"], 1)
        assert latest_round(Path(task["out"])) == saved
    for strategy in STRATEGIES:
        for how in DAMAGES:
            damage(found[strategy, ""], found[strategy, how], how)
    for task, code in zip(again, run_all(again), strict=True):
        assert code == 0, (task, Path(task["out"]).with_suffix(".txt").read_text())
    return found


def result(run: Path) -> dict[str, bytes]:
    """All rounds, and which of them are the best and the final one."""
    files = sorted((run / "rounds").glob("[0-9]*/*"))
    content = {str(path.relative_to(run)): path.read_bytes() for path in files}
    return content | {name: os.readlink(run / name).encode() for name in ("best", "final")}


@pytest.mark.fault
@pytest.mark.parametrize("where", [*KILLED, "on a full disk", *DAMAGES])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_ends_as_one_that_was_not_broken_off(runs, strategy, where):
    expected = result(runs[strategy, ""])
    assert ("rounds/0003/memory.safetensors" in expected) == (strategy == "fedadam")
    found = result(runs[strategy, where])
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.fault
def test_a_full_disk_ends_the_run_with_one_sentence(runs):
    said = runs["fedavg", "on a full disk"].with_suffix(".txt").read_text()
    assert "medsa-sim: rounds/0002 cannot be written in" in said and "File too large" in said
    assert "--resume" in said and "Traceback" not in said


@pytest.mark.fault
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_round_is_made_again_and_kept_aside(runs, how):
    run = runs["fedavg", how]
    whole = runs["fedavg", ""] / "rounds/0003/adapter_model.safetensors"
    aside = run / "rounds/.damaged-0003/adapter_model.safetensors"
    assert aside.read_bytes() == DAMAGES[how](whole.read_bytes())
    assert "rounds/0003 is damaged and is not used" in run.with_suffix(".txt").read_text()
    trained = [event["round"] for event in read_metrics(run) if event["event"] == "round"]
    assert trained == [1, 2, 3, 3]


if __name__ == "__main__":
    print(json.dumps([work(task) for task in json.load(sys.stdin)]))
