"""A real MLflow store in a SQLite file, read back with MLflow's client."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sqlalchemy import make_url

from medsa_model import tracking
from medsa_model.config import RunConfig
from medsa_model.logs import append_metrics
from medsa_model.tracking import tracked
from medsa_model.tracking_mlflow import LOCK, LONGEST, address_of, alone, settings
from medsa_model.tracking_points import part_of_tag

CONFIG = {
    "name": "small", "rounds": 3, "model": {"backbone": "vit_tiny", "image_size": 64},
    "data": {"kind": "isic", "root": "/somewhere/secret"},
    "prompt": {"by_site": {"b/c": [{"kind": "box"}]}},
}  # fmt: skip


def with_mlflow(test):
    """Mark a test that takes seconds; MLflow uses what SQLAlchemy calls deprecated."""
    ignored = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
    return pytest.mark.thorough(ignored(test))


def write_round(run: Path, number: int) -> None:
    for site in ("site a", "b/c"):
        append_metrics(run, "train", round=number, site=site, loss=number / 3, norm=None)
    append_metrics(run, "round", round=number, sites=["site a", "b/c"], missing=[], seconds=2.5)


def write_tests(run: Path, number: int, dice: float) -> None:
    append_metrics(
        run, "evaluate", round=number, site="b/c", part="test", prompt="click", dice=dice, cases=2
    )
    (run / "final").touch()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory, in a folder with an odd name."""
    monkeypatch.setattr(tracking, "INTERVAL", 0.01)
    monkeypatch.setattr(tracking.logger, "propagate", True)  # set_up() turns it off
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "odd #1 é" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return run


def client_of(run: Path, store: str | None = None):
    mlflow = pytest.importorskip("mlflow")
    return mlflow.MlflowClient(store or address_of(run.parent / "mlflow.db"))


def history(client, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in client.get_metric_history(run_id, key)]


def ids_of(run: Path) -> dict[str, str]:
    return json.loads((run / "mlflow.json").read_text())


def test_settings_are_parameters_without_paths():
    config = RunConfig.model_validate(CONFIG)
    found = settings(config)
    assert found["model.image_size"] == "64" and found["name"] == "small"
    assert found[f"prompt.by_site.{part_of_tag('b/c')}"].startswith("[{")
    assert json.loads(found["privacy"]) is None
    assert "secret" not in str(found) and "data.root" not in found
    assert all(len(value) <= LONGEST and "/" not in key for key, value in found.items())


def test_an_address_leads_to_its_file():
    """Whatever the folder is called; read by the library that opens it."""
    file = Path("/data/odd #1 é/50%41 ?x=1&y/mlflow.db")
    assert make_url(address_of(file)).database == str(file)


def test_mlflow_reports_to_nobody():
    """Set when the package is imported, since MONAI imports MLflow wherever it is installed."""
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_one_process_at_a_time_has_the_lock(tmp_path):
    """It is on a file that is open for writing: NFS locks nothing else."""
    with alone(tmp_path), (tmp_path / LOCK).open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["no locks", "no file"])
def test_without_a_lock_it_goes_on_with_a_warning(fault, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking.logger, "propagate", True)
    if fault == "no locks":

        def flock(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", flock)
    went_on = []
    with alone(tmp_path / ("gone" if fault == "no file" else "")):
        went_on.append(1)
    assert went_on and "start runs of one folder one after another" in caplog.text
    with pytest.raises(ConnectionError), alone(tmp_path):  # what goes wrong inside goes its way
        raise ConnectionError


@with_mlflow
def test_a_run_is_continued_and_no_point_is_there_twice(run, caplog):
    """Interrupted in its third round, resumed, and scored again once it was complete."""
    pytest.importorskip("mlflow")
    row = run / "rows" / "local" / "site a"
    row.mkdir(parents=True)
    with tracked(run, ["mlflow"]):
        write_round(run, 1)
        write_round(run, 2)
        write_round(row, 1)
        append_metrics(run, "train", round=3, site="b/c", loss=0.0)
    assert not caplog.records
    client, ids = client_of(run), ids_of(run)
    assert client.get_run(ids["federated"]).info.status == "KILLED"
    with tracked(run, ["mlflow"]):
        write_round(run, 3)
        write_tests(run, 3, 0.1)
    for dice in (0.1, 0.7):
        with tracked(run, ["mlflow"]):
            write_tests(run, 3, dice)
    assert not caplog.records and ids_of(run) == ids
    site = part_of_tag("b/c")
    main = ids["federated"]
    assert history(client, main, f"train/loss/{site}") == [(n, n / 3) for n in (1, 2, 3)]
    assert history(client, main, "round/seconds") == [(n, 2.5) for n in (1, 2, 3)]
    assert sorted(history(client, main, "test/dice/click/mean")) == [(3, 0.1), (3, 0.7)]
    found = client.get_run(main)
    assert found.data.metrics["test/dice/click/mean"] == 0.7
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    config = RunConfig.model_validate(CONFIG)
    assert found.data.params == settings(config)
    assert found.data.tags["sha256"] == config.sha256 and found.data.tags["name"] == "small"
    nested = client.get_run(ids["local/site a"])
    assert nested.data.tags["mlflow.parentRunId"] == main
    assert history(client, ids["local/site a"], f"train/loss/{site}") == [(1, 1 / 3)]
    (experiment,) = [e for e in client.search_experiments() if e.name == "small"]
    assert len(client.search_runs([experiment.experiment_id])) == 2
    assert {path.name for path in run.parent.parent.iterdir()} == {run.parent.name}
    assert {path.name for path in run.parent.iterdir()} == {
        "run", "mlflow.db", ".mlflow.lock",
    }  # fmt: skip


@with_mlflow
def test_another_store_gets_the_whole_run(run, monkeypatch, tmp_path, caplog):
    """MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are followed."""
    pytest.importorskip("mlflow")
    with tracked(run, ["mlflow"]):
        write_round(run, 1)
    before = ids_of(run)
    store = address_of(tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with tracked(run, ["mlflow"]):
        write_round(run, 2)
    assert not caplog.records
    main = ids_of(run)["federated"]
    assert main != before["federated"]
    client = client_of(run, store)
    assert history(client, main, "round/seconds") == [(1, 2.5), (2, 2.5)]
    experiment = client.get_experiment(client.get_run(main).info.experiment_id)
    assert experiment.name == "mine"


@with_mlflow
def test_two_processes_make_one_store(run):
    """The tables of a new one are made once."""
    pytest.importorskip("mlflow")
    other = run.with_name("other")
    shutil.copytree(run, other)
    program = (
        "import sys\nfrom pathlib import Path\nfrom medsa_model.tracking import tracked\n"
        "with tracked(Path(sys.argv[1]), ['mlflow']): pass\n"
    )
    for each in (run, other):
        write_round(each, 1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(each)], env=environment)
        for each in (run, other)
    ]
    assert [process.wait() for process in started] == [0, 0]
    client = client_of(run)
    for each in (run, other):
        assert history(client, ids_of(each)["federated"], "round/seconds") == [(1, 2.5)]


@with_mlflow
def test_a_server_that_is_not_there_costs_a_warning(run, monkeypatch, caplog):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracked(run, ["mlflow"]):
        write_round(run, 1)
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    (text,) = [each for each in warnings if "--track" in each]
    assert "--track mlflow has ended" in text
    assert "secret" not in text


@with_mlflow
def test_nothing_is_told_about_how_it_is_used(run, tmp_path):
    """In a process of its own, whose attempts to reach a network are counted."""
    pytest.importorskip("mlflow")
    write_round(run, 1)
    program = """
import os, socket, sys
from pathlib import Path
tried = []
socket.socket.connect = lambda self, address: tried.append(address)
socket.getaddrinfo = lambda *words, **more: tried.append(words) or []
from medsa_model.tracking import tracked
with tracked(Path(sys.argv[1]), ["mlflow"]): pass
from mlflow.telemetry.utils import is_telemetry_disabled
from mlflow.telemetry.client import get_telemetry_client
print(is_telemetry_disabled(), get_telemetry_client(), tried)
"""
    home = tmp_path / "home"
    home.mkdir()
    # a test or a continuous build would turn it off by itself
    kept = {n: v for n, v in os.environ.items() if n in ("PATH", "OMP_NUM_THREADS", "LANG")}
    result = subprocess.run(
        [sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True,
        env={**kept, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert result.stdout == "True None []\n"
    assert "federated" in ids_of(run)
    assert not any("mlflow" in path.name for path in home.rglob("*"))
