"""The plain Flower app: what it reads, where it writes, and the real `flwr run .`."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.cli.build import build_fab_from_files
from safetensors.torch import load_file

from medsa_model import __version__
from medsa_model.errors import ConfigError
from medsa_model.logs import read_metrics
from sim import flower_app
from sim.cli import main
from sim.flower_app import (
    check_nodes,
    client_app,
    count_nodes,
    find_run,
    read_settings,
    run_directory,
    server_app,
)
from sim.grid import COORDINATOR, InProcessGrid
from sim.sites import open_sites

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
APP = PROJECT["tool"]["flwr"]["app"]
SMALL = """
name: small
rounds: 1
model: {image_size: 32}
data: {kind: synthetic, sites: 2, cases_per_site: 6, size: 64}
train: {steps: 1, batch_size: 2, prompts_per_image: 1}
sim:
  {split: {test: 0.34, val: 0.17}, examples: 0, device: cpu, processes: 1, rows: [], references: []}
"""


def context(node_id: int = COORDINATOR, run_id: int = 1, **settings: str) -> Context:
    """What Flower gives to an app: `settings` over the run configuration in pyproject.toml."""
    node = {} if node_id == COORDINATOR else {"partition-id": node_id - 2}
    return Context(run_id, node_id, node, RecordDict(), APP["config"] | settings)


def start(nodes: int, **settings: str) -> None:
    """The two apps as Flower's simulation starts them, in this process."""
    grid = InProcessGrid(client_app, [""] * nodes)
    grid.contexts = {node_id: context(node_id, **settings) for node_id in grid.contexts}
    open_sites.cache_clear()
    server_app(grid=grid, context=context(**settings))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A run YAML of two sites."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def final(run: Path) -> dict[str, torch.Tensor]:
    """The final adapter state of a run."""
    return load_file(run / "final" / "adapter_model.safetensors")


def test_the_apps_train_the_federation_and_medsa_sim_adds_the_comparison(small, tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    start(2, run=str(small), out=str(run))
    assert {e["site"] for e in read_metrics(run) if e["event"] == "train"} == {"site_a", "site_b"}
    assert not (run / "rows").exists()
    command = capsys.readouterr().out.splitlines()[-1].partition("medsa-sim ")[2]
    assert main(command.split()) == 0
    assert (run / "report.html").exists()
    assert main(["--config", str(small), "--out", str(other)]) == 0
    assert all(torch.equal(tensor, final(other)[name]) for name, tensor in final(run).items())


def test_a_run_is_not_written_over(small, tmp_path):
    (tmp_path / "run").mkdir()
    settings = {"run": str(small), "out": str(tmp_path / "run"), "overrides": "rounds=0"}
    start(2, **settings)
    with pytest.raises(ConfigError, match=r"run holds a run.*medsa-sim --config .*--resume"):
        start(2, **settings)


@pytest.mark.parametrize("nodes", [1, 3])
def test_another_number_of_nodes_than_sites_is_refused(small, tmp_path, nodes):
    message = rf"num-supernodes is {nodes}, but the run has 2 sites: site_a, site_b; .*nodes=2 "
    with pytest.raises(ConfigError, match=message):
        start(nodes, run=str(small), out=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "rounds").exists()


def test_nodes_are_counted_when_all_are_registered(monkeypatch):
    monkeypatch.setattr(flower_app, "LOOK", 0.0)
    looks = iter([0, 0, 1, 3, 4, 4, 9])

    class Registering(InProcessGrid):
        def get_node_ids(self) -> list[int]:
            return [*range(next(looks))]

    grid = Registering(client_app, [])
    assert count_nodes(grid) == 4
    monkeypatch.setattr(flower_app, "LONGEST_REGISTRATION", 0.0)
    assert count_nodes(grid) == 0
    check_nodes(4, "abcd")


def test_a_run_yaml_of_the_bundle_comes_before_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("bundle", "."):
        (tmp_path / folder / "configs").mkdir(parents=True)
        (tmp_path / folder / "configs" / "mine.yaml").touch()
    assert find_run("configs/mine.yaml") == tmp_path / "configs" / "mine.yaml"
    monkeypatch.syspath_prepend(tmp_path / "bundle")
    assert find_run("configs/mine.yaml") == tmp_path / "bundle" / "configs" / "mine.yaml"
    absolute = tmp_path / "configs" / "mine.yaml"
    assert find_run(str(absolute)) == absolute
    with pytest.raises(ConfigError, match=r"run 'configs/lost\.yaml': there is no such file.*path"):
        find_run("configs/lost.yaml")


def test_overrides_are_words_as_on_the_command_line(small):
    """Spaces separate, quotes hold together, and every problem is named."""
    words = "rounds=7 sim.partition='{kind: iid, sites: 3}'"
    config = read_settings(context(run=str(small), overrides=words))
    assert config.rounds == 7
    assert config.sim.partition.kind == "iid"
    with pytest.raises(ConfigError, match=r"overrides \"name='x\": No closing quotation; expected"):
        read_settings(context(run=str(small), overrides="name='x"))
    with pytest.raises(ConfigError, match="did you mean 'rounds'"):
        read_settings(context(run=str(small), overrides="ronds=7"))


def test_all_nodes_of_a_flower_run_look_in_the_same_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_directory(context(2, 77)) == run_directory(context(1, 77))
    assert run_directory(context(1, 77)) == tmp_path / "runs" / "flwr" / "77"
    assert run_directory(context(out="here")) == tmp_path / "here"


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr's use of it
def test_the_bundle_carries_settings_and_no_code():
    names = ["pyproject.toml", "configs/demo.yaml", "sim/flower_app.py", "README.md", "LICENSE"]
    content, _ = build_fab_from_files({name: ROOT / name for name in names})
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        assert sorted(bundle.namelist()) == [".info/CONTENT", "configs/demo.yaml", "pyproject.toml"]


def test_flower_is_told_the_version_of_the_project():
    """Flower reads it in pyproject.toml, where the project could otherwise leave it out."""
    assert PROJECT["project"]["version"] == __version__


def test_the_default_settings_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert set(APP["config"]) == {"run", "overrides", "out"}
    assert read_settings(context()).name == "demo"


def started_with(home: Path) -> dict[int, str]:
    """Process id -> command of the processes that have `home` as FLWR_HOME."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables = (place / "environ").read_bytes().split(b"\0")
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"FLWR_HOME={home}".encode() in variables and command:
            found[int(place.name)] = command
    return found


def end(home: Path) -> list[str]:
    """End Flower's detached SuperLink of `home`; returns what outlives it, which is ended too."""
    for pid, command in started_with(home).items():
        if "flower-superlink" in command:
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while (left := started_with(home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return [*left.values()]


def free_port() -> str:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment variables of a Flower installation of its own; its processes end with the test.

    Flower finds its other programs on the path. The code is that of `tmp_path / "app"`: Ray puts
    the folder where the SuperLink was started first on the import path of the nodes.
    """
    home = tmp_path / "home"
    yield os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "app"),
    }
    assert end(home) == []


@pytest.mark.integration
@pytest.mark.timeout(360)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    find_spec("ray") is None,
    reason='Ray is not installed: pip install -c constraints.txt -e ".[ray]"',
)
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds Flower's processes in /proc")
def test_flwr_run_trains_what_medsa_sim_trains(small, tmp_path, flower):
    app = tmp_path / "app"
    for package in ("client", "medsa_model", "server", "sim", "configs"):
        shutil.copytree(ROOT / package, app / package)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, app)
    shutil.copy(small, app / "configs")
    before = (app / "pyproject.toml").read_bytes()
    words = ["run", ".", "--stream", "--run-config"]
    words += [f'run="configs/small.yaml" out="{tmp_path / "run"}" overrides="seed=3 rounds=2"']
    words += ["--federation-config", "num-supernodes=2 client-resources-num-cpus=1"]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "flwr"), *words], cwd=app, env=flower, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"medsa-sim --config {tmp_path / 'run'}" in done.stdout, done.stdout
    bundles = list((tmp_path / "home" / "apps").iterdir())
    assert [p.suffix for p in bundles[0].rglob("*.*")].count(".py") == 0 and len(bundles) == 1
    assert (app / "pyproject.toml").read_bytes() == before  # Flower comments out what it migrates

    other = ["--config", str(small), "--out", str(tmp_path / "other"), "seed=3", "rounds=2"]
    assert main(other) == 0
    expected, found = final(tmp_path / "other"), final(tmp_path / "run")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)
