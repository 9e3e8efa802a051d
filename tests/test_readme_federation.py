"""Commands for federations work as README and guides print them, on a copy of the configurations.

Those that run until hospitals have come are tested with real processes in tests/integration.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

import client.commands
import server.commands
from client.cli import main as run_site
from medsa_model.audit_log import record
from medsa_model.config import load_run
from medsa_model.logs import read_metrics
from medsa_model.loopback import free_port
from medsa_model.site_keys import fingerprint
from server.cli import main as flower_server
from server.directory import choose_directory
from server.roster import strikes_after
from tests.printed_commands import PAGES, ROOT, inline, printed

SERVER = printed("flower-server ")
WATCHED = [command for command in SERVER if " --page " in command or " --track " in command]
UNZIP = printed("unzip ")
TRIAL, *SITE = sorted(printed("python client/run.py "), key=lambda each: "/PATH/TO/" in each)
PIP = [*printed("pip "), *inline("pip install")]
INLINE = [*inline("flower-server"), *inline("python client/run.py"), *inline("ssh-keygen")]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "1000"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the shipped configurations, a free port, and tiny generated images."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    federation = tmp_path / "configs" / "federation.yaml"
    content = yaml.safe_load(federation.read_text())
    content["address"]["listen_port"] = free_port()
    federation.write_text(yaml.safe_dump(content))
    demo = tmp_path / "configs" / "demo.yaml"
    content = yaml.safe_load(demo.read_text())
    content["data"] |= {"cases_per_site": 8, "size": 64}
    content["model"]["image_size"] = 32
    demo.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(command: str) -> list[str]:
    """The words of a printed command after its program, filled in for `place`."""
    for name, meant in (
        ("/PATH/TO/federation.yaml", "configs/federation.yaml"),
        ("/PATH/TO/other.yaml", "configs/demo.yaml"),
        ("/PATH/TO/", ""),
        ("SITE", "site_a"),
    ):
        command = command.replace(name, meant)
    return shlex.split(command.removeprefix("python "))[1:]


def sentence(start: str) -> list[str]:
    """The words of the one command in a sentence that begins so."""
    (found,) = [command for command in INLINE if command.startswith(start)]
    return words(found)


def unpack(place: Path, site: str) -> None:
    with zipfile.ZipFile(place / "federation" / "kits" / f"{site}.zip") as kit:
        kit.extractall(place)
    (place / site / "site.key").chmod(0o600)


def test_the_pages_print_these_commands():
    """A new one needs a test here; the report is made in test_docs.py, from a finished run."""
    assert [words(command)[0] for command in SERVER] == [
        "provision", "check", "--config", "status", "start", "start", "report",
    ]  # fmt: skip
    assert len(WATCHED) == 2 and len(UNZIP) == 1
    assert shlex.split(TRIAL)[3] == f"{shlex.split(UNZIP[0])[-1]}/site_a/site.yaml"
    assert len(SITE) == 2 and "--check" in SITE[0] and "--check" not in SITE[1]
    assert sorted(command.partition(" -")[0] for command in INLINE) == [
        "flower-server", "flower-server audit verify", "flower-server revoke",
        "flower-server status", "flower-server submit", "python client/run.py audit",
        "python client/run.py keygen", "python client/run.py ledger", "ssh-keygen",
    ]  # fmt: skip
    assert len(PIP) >= 6


@pytest.mark.parametrize("command", WATCHED)
def test_a_watched_start_is_understood(place, monkeypatch, command):
    seen = []
    monkeypatch.setattr(
        server.commands, "run_study", lambda *given: seen.append(given[-1]) or 0
    )  # fmt: skip
    assert flower_server(words(command)) == 0
    (options,) = seen
    assert options.page == "127.0.0.1:8080" or options.track == ["tensorboard", "mlflow"]


@pytest.mark.parametrize("more", ["", "--resume --out /PATH/TO/RUN"])
def test_the_start_is_understood(place, monkeypatch, more):
    assert more in PAGES["docs/coordinator.md"]
    monkeypatch.setattr(
        server.commands, "run_study",
        lambda federation, config, options: 40 + (federation.quorum == 3) + options.resume,
    )  # fmt: skip
    assert flower_server([*words(SERVER[2]), *words(f"_ {more}")]) == (42 if more else 41)


def test_the_installation_is_understood(monkeypatch):
    """By pip itself; what it would install is this project, from what lies in the clone."""
    commands = pytest.importorskip("pip._internal.commands")
    monkeypatch.chdir(ROOT)
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    folders = []
    for command in PIP:
        kind, *rest = shlex.split(command)[1:]
        options, targets = commands.create_command(kind).parse_args(rest)
        (target,) = [*targets, *options.editables]
        known = (".", ".[dev]", ".[dicom]", ".[ray]", ".[onnx]", ".[tensorboard,mlflow]", name)
        assert target in known
        assert all(Path(constraints).is_file() for constraints in options.constraints)
        assert options.no_index == (target == name)  # only then it is not the clone
        if kind == "wheel" or options.no_index:
            folders.append(options.wheel_dir if kind == "wheel" else options.find_links[-1])
    assert folders == ["wheels", "wheels"]


def test_provision_check_and_status(place, capsys):
    provision, check, _, status = (words(command) for command in SERVER[:4])
    assert flower_server(provision) == 0
    assert flower_server(check) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert "quorum 3" in shown and re.search(r"run demo sha256 [0-9a-f]{64}", shown)
    assert flower_server(status) == 1
    assert "no flower-server is running" in capsys.readouterr().out


@pytest.mark.integration
@pytest.mark.skipif(not shutil.which("unzip"), reason="needs unzip, as the page says")
@pytest.mark.timeout(900)
def test_the_trial_runs_as_printed(place):
    """Every command with a process of its own: provision, check, start, kits, sites, status; at the
    end the server's last line names the run, where the pages say."""
    settings = {"federation": {"address": {"host": "localhost", "port": free_port()}},
                "demo": {"rounds": 1, "train": {"steps": 1, "batch_size": 2}}}  # fmt: skip
    for name, changes in settings.items():
        path = place / "configs" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    for command in SERVER[:2]:
        assert by_itself(command, place).wait(60) == 0
    started = {"server": by_itself(SERVER[2], place)}
    try:
        for site in ("site_a", "site_b", "site_c", "site_d"):
            unzip, join = (each.replace("site_a", site) for each in (UNZIP[0], TRIAL))
            subprocess.run(shlex.split(unzip), check=True, cwd=place, stdout=subprocess.DEVNULL)
            started[site] = by_itself(join, place)
        assert by_itself(SERVER[3], place).wait(240) in (0, 1)  # 1: it is not yet there
        output, _ = started["server"].communicate(timeout=600)
        codes = {name: process.wait(60) for name, process in started.items()}
    finally:
        for process in started.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
    assert set(codes.values()) == {0}, output
    run = Path(output.splitlines()[-1].rpartition(": ")[2])
    assert run.parent == place / "runs" / "federation" / "demo"
    assert "runs/federation/demo/TIME" in PAGES["README.md"]
    assert (run / "report.html").exists() and (run / "final" / "adapter_config.json").exists()


def by_itself(command: str, place: Path) -> subprocess.Popen[str]:
    """A process of a printed command, as it stands there, in the folder `place`."""
    program, *rest = shlex.split(command)
    start = ["-m", "server.cli"] if program == "flower-server" else [str(ROOT / rest.pop(0))]
    return subprocess.Popen(
        [sys.executable, *start, *rest], cwd=place, text=True, env=ONE_THREAD,
        stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE if rest == shlex.split(SERVER[2])[1:] else subprocess.DEVNULL,
    )  # fmt: skip


def test_a_site_checks_its_unedited_kit(place, capsys):
    """Everything is well but the coordinator, which is not running."""
    assert flower_server(words(SERVER[0])) == 0
    unpack(place, "site_a")
    capsys.readouterr()
    assert run_site(words(SITE[0])) == 1
    lines = capsys.readouterr().out.splitlines()
    bad = [line for line in lines if re.match(r"[│|] NO", line)]
    assert len(bad) == 1 and "coordinator" in bad[0], lines
    assert sum(bool(re.match(r"[│|] ok", line)) for line in lines) >= 7


def test_a_site_takes_part_as_printed(place, monkeypatch):
    assert flower_server(words(SERVER[0])) == 0
    unpack(place, "site_a")
    monkeypatch.setattr(
        client.commands, "join", lambda config, file, overrides: 42 if file.is_file() else 1
    )
    for quiet in ("log_to_file", "signal"):  # files and handlers of a whole process
        monkeypatch.setattr(client.commands, quiet, Mock())
    assert run_site(words(SITE[1])) == 42


def test_the_commands_of_a_kit_work(place, capsys):
    """Those for the shell where its programs are installed."""
    assert flower_server(words(SERVER[0])) == 0
    (authority,) = re.findall(r"telephone: ([0-9A-F:]{95})", capsys.readouterr().out)
    with zipfile.ZipFile(place / "federation" / "kits" / "site_b.zip") as kit:
        text = kit.read("site_b/README.md").decode()
    shutil.copy(place / "federation" / "kits" / "site_b.zip", place)
    unzip, openssl, check, join = re.findall(r"^   (unzip .+|openssl .+|python .+)$", text, re.M)
    if shutil.which("unzip"):
        subprocess.run(["sh", "-c", unzip], check=True, capture_output=True, cwd=place)
        assert (place / "site_b" / "site.key").stat().st_mode & 0o777 == 0o600
    else:
        unpack(place, "site_b")
    if shutil.which("openssl"):
        told = subprocess.run(shlex.split(openssl), check=True, capture_output=True, cwd=place)
        assert told.stdout.decode().strip().endswith(f"={authority}")
    assert words(check) == [*words(join), "--check"]
    assert run_site(words(check)) == 1
    assert "site site_b" in capsys.readouterr().out


def test_audit_logs_are_verified(place, capsys):
    assert flower_server(words(SERVER[0])) == 0
    unpack(place, "site_a")
    capsys.readouterr()
    verify, site = sentence("flower-server audit verify"), sentence("python client/run.py audit")
    assert flower_server(verify) == 0 and run_site(site) == 0
    assert "no audit log yet" in capsys.readouterr().out
    run = place / "runs" / "federation" / "demo" / "1"
    run.mkdir(parents=True)
    (place / "site_a" / "state").mkdir()
    for log in (run / "audit.jsonl", place / "site_a" / "state" / "audit.jsonl"):
        last = record(log, "started", run="demo")
        assert flower_server(verify) == 0 if log.parent == run else run_site(site) == 0
        assert last in "".join(capsys.readouterr().out.split())
        log.write_bytes(log.read_bytes().replace(b"demo", b"domo"))
        assert flower_server(verify) == 1 if log.parent == run else run_site(site) == 1


def test_a_site_is_readmitted(place, capsys):
    """As printed; of a run in which nothing counts against it that is an error with the reason."""
    assert flower_server(words(SERVER[0])) == 0
    run = place / "RUN"
    configuration = load_run(place / "configs" / "demo.yaml")
    choose_directory(configuration, place / "runs", run, resume=False)
    (printed,) = [command for command in INLINE if "--readmit" in command]
    command = words(printed)
    command[command.index("--out") + 1] = str(run)
    assert flower_server(command) == 1
    assert "--readmit site_a: no rejected answer counts against it" in capsys.readouterr().err
    facts = {"round": 2, "strikes": {"site_a": 3, "site_b": 1}}
    (run / "rounds" / "0002").mkdir(parents=True)
    (run / "rounds" / "0002" / "round.json").write_text(json.dumps(facts))
    server.commands.readmit(run, ["site_a"])
    assert strikes_after(2, facts, read_metrics(run)) == {"site_b": 1}


def test_a_ledger_is_printed(place, capsys):
    assert flower_server(words(SERVER[0])) == 0
    unpack(place, "site_a")
    assert run_site(sentence("python client/run.py ledger")) == 0
    assert "no ledger yet" in capsys.readouterr().out


def test_a_key_is_made_registered_and_revoked(place, capsys):
    assert run_site(sentence("python client/run.py keygen")) == 0
    assert "site.pub" in capsys.readouterr().out
    if shutil.which("ssh-keygen"):
        command = ["ssh-keygen", *sentence("ssh-keygen")]
        told = subprocess.run(command, check=True, capture_output=True, cwd=place / "keys")
        key = load_ssh_public_key((place / "keys" / "site.pub").read_bytes())
        assert told.stdout.decode().split()[1] == fingerprint(key)
    federation = place / "configs" / "federation.yaml"
    content = yaml.safe_load(federation.read_text())
    content["sites"][0]["public_key"] = "../keys/site.pub"
    federation.write_text(yaml.safe_dump(content))
    assert flower_server(words(SERVER[0])) == 0
    with zipfile.ZipFile(place / "federation" / "kits" / "site_a.zip") as kit:
        assert not [name for name in kit.namelist() if name.endswith("site.key")]
        assert "ssh-keygen -lf site.pub" in kit.read("site_a/README.md").decode()
    capsys.readouterr()
    revoke = sentence("flower-server revoke")
    assert flower_server(revoke) == 0
    assert flower_server([*revoke[:-1], "site_z"]) == 1
    said = capsys.readouterr()
    assert "revoked for good" in said.out and "site_z" in said.err and "Traceback" not in said.err
    assert flower_server(words(SERVER[1])) == 0
    shown = capsys.readouterr().out
    assert "site_b, site_c, site_d" in shown and "site_a," not in shown


def test_a_run_is_submitted_for_later(place, capsys):
    submit = sentence("flower-server submit")
    assert flower_server([*submit, "rounds=1"]) == 0
    (waiting,) = (place / "federation" / "queue").glob("*.yaml")
    assert yaml.safe_load(waiting.read_text())["rounds"] == 1
    assert flower_server([*submit, "rouns=1"]) == 1
    assert "did you mean 'rounds'" in capsys.readouterr().err
