"""The command line of the coordinator: what it prints is what was meant."""

import shlex
import socket
from pathlib import Path
from unittest.mock import Mock

import pytest

from medsa_model.errors import ConfigError
from medsa_model.logs import append_metrics
from server import commands, page_serving
from server.cli import main as flower_server
from server.cli import make_parsers
from server.coordinate import Interrupted, QuorumMissed

CONFIG = Path(__file__).parents[2] / "configs" / "federation.yaml"


def test_fingerprints_and_addresses_are_printed_as_they_are(monkeypatch, capsys):
    """Rich would make pictures of `:AB:` and `:CD:`, and styles of what stands in brackets."""
    lines = ["ca.crt: fingerprint 12:AB:CD:00:0B", "listens at [bold]:9092 and [::1]:9092"]
    monkeypatch.setattr(commands, "provision", lambda federation: lines)
    assert flower_server(["provision", "--config", str(CONFIG)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


@pytest.fixture
def study(tmp_path, monkeypatch):
    """What a start gives to the federation, which ends as `study.side_effect` says."""
    monkeypatch.setattr(commands, "signal", Mock())  # of the whole process
    monkeypatch.setattr(commands, "kits_of_another_run", lambda *_: [])
    monkeypatch.setattr(commands, "admitted", lambda federation: federation.sites)
    monkeypatch.setattr(commands, "coordinate", coordinate := Mock(return_value=0))
    monkeypatch.setattr(commands, "check_sinks", lambda sinks: None)
    monkeypatch.setattr(commands, "check_address", lambda host, port: None)
    return coordinate


def start(run: Path, *more: str) -> int:
    return flower_server(["--config", str(CONFIG), "--out", str(run), *more])


@pytest.mark.parametrize("ended", ["here", "while it gathers", "by its worker"])
def test_the_hint_repeats_what_was_asked_for(study, ended, tmp_path, capsys):
    run = tmp_path / "run"
    study.side_effect = {"here": KeyboardInterrupt, "while it gathers": Interrupted(run)}.get(ended)
    study.return_value = 7
    watched = ["--page", "127.0.0.1:8080", "--track", "mlflow", "--track", "tensorboard"]
    assert start(run, "rounds=2", *watched) == (7 if ended == "by its worker" else 130)
    (hint,) = [line for line in capsys.readouterr().err.splitlines() if "Go on with: " in line]
    program, *words = shlex.split(hint.partition("Go on with: ")[2])
    options = make_parsers()[1]["start"].parse_intermixed_args(words)
    assert program == "flower-server" and (options.config, options.out) == (CONFIG, run)
    assert options.resume and options.override == ["rounds=2"] and options.page == watched[1]
    assert options.track == ["mlflow", "tensorboard"]
    assert study.call_args.args[2:] == (run.resolve(), ("127.0.0.1", 8080), options.track)


def test_of_a_submitted_run_the_hint_has_its_settings(study, tmp_path, capsys):
    study.side_effect = Interrupted(tmp_path / "second")
    assert start(tmp_path / "first", "rounds=2", "--page", "127.0.0.1:8080") == 130
    hint = capsys.readouterr().err
    assert f"--run {tmp_path / 'second' / 'config.yaml'} --page 127.0.0.1:8080 --resume" in hint
    assert "rounds=2" not in hint and f"--out {tmp_path / 'second'}" in hint


def test_without_a_page_nothing_is_served_and_a_missed_quorum_is_code_3(study, tmp_path, capsys):
    study.side_effect = QuorumMissed("1 of 4 sites")
    assert start(tmp_path / "run") == 3
    assert study.call_args.args[3] is None
    assert capsys.readouterr().err == "flower-server: 1 of 4 sites\n"


@pytest.mark.parametrize(
    ("words", "told"), [(["--page", "8080"], "--page"), (["--track", "mlflow"], "not installed")]
)
def test_what_cannot_be_watched_is_told_before_the_run_directory(
    words, told, study, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(commands, "check_sinks", Mock(side_effect=ConfigError("not installed")))
    if "--page" in words:
        monkeypatch.setattr(commands, "check_sinks", lambda sinks: None)
    assert start(tmp_path / "run", *words) == 1
    assert told in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert not study.called


def test_a_port_that_is_taken_leaves_no_run_directory(study, tmp_path, monkeypatch, capsys):
    """With the same words and a free port the next try starts."""
    monkeypatch.setattr(commands, "check_address", page_serving.check_address)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        page = f"127.0.0.1:{taken.getsockname()[1]}"
        assert start(tmp_path / "run", "--page", page) == 1
        assert f"--page: cannot listen at {page}" in capsys.readouterr().err
        assert not (tmp_path / "run").exists() and not study.called
        assert start(tmp_path / "run", "--page", page, "quorum=9", "rounds=no") == 1
        assert "--page" not in capsys.readouterr().err  # wrong settings are told before
    assert start(tmp_path / "run", "--page", page) == 0 and study.called


@pytest.mark.parametrize("words", ["status", "--verbose status", "audit verify --hash 0f"])
def test_a_command_that_does_not_come_first_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        flower_server(["--config", str(CONFIG), *words.split()])
    assert end.value.code == 2
    command = words.removeprefix("--verbose ").split()[0]
    told = capsys.readouterr().err
    assert f"the command comes first: flower-server {command} ..." in told


def test_a_report_is_written_of_a_run_directory_and_of_nothing_else(tmp_path, monkeypatch, capsys):
    assert flower_server(["report", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err and [*tmp_path.iterdir()] == []
    append_metrics(tmp_path, "train", site="site_a", round=1, loss=0.5)
    monkeypatch.setattr("medsa_model.report.draw_progress", lambda *_: b"")  # takes a second
    assert flower_server(["report", str(tmp_path)]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == tmp_path / "report.html" and "site_a" in page.read_text()


def test_status_without_a_server_fits_a_narrow_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    config = tmp_path / "federation.yaml"
    config.write_text(CONFIG.read_text())
    assert flower_server(["status", "--config", str(config)]) == 1
    assert "no flower-server is running" in " ".join(capsys.readouterr().out.split())
