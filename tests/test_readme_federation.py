"""The commands for federations work as the README prints them, on a copy of the configurations.

Those that run until hospitals have come are tested with real processes in tests/integration.
"""

import re
import shlex
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from client.cli import main as run_site
from medsa_model.loopback import free_port
from server.cli import main as flower_server

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVER = re.findall(r"^flower-server .+$", README, re.MULTILINE)
SITE = re.findall(r"^python client/run.py .+$", README, re.MULTILINE)


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
    return shlex.split(command)[1:]


def test_the_readme_prints_these_commands():
    assert [words(command)[0] for command in SERVER] == ["provision", "check", "--config", "status"]
    assert len(SITE) == 2 and "--check" in SITE[0] and "--check" not in SITE[1]


def test_provision_check_and_status(place, capsys):
    provision, check, _, status = (words(command) for command in SERVER)
    assert flower_server(provision) == 0
    assert flower_server(check) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert "quorum 2" in shown and re.search(r"run demo sha256 [0-9a-f]{64}", shown)
    assert flower_server(status) == 1
    assert "no flower-server is running" in capsys.readouterr().out


def test_a_site_checks_its_unedited_kit(place, capsys):
    """Everything is well but the coordinator, which is not running."""
    assert flower_server(words(SERVER[0])) == 0
    with zipfile.ZipFile(place / "federation" / "kits" / "site_a.zip") as kit:
        kit.extractall(place)
    (place / "site_a" / "site.key").chmod(0o600)
    capsys.readouterr()
    assert run_site(words(SITE[0])[1:]) == 1
    lines = capsys.readouterr().out.splitlines()
    bad = [line for line in lines if re.match(r"[│|] NO", line)]
    assert len(bad) == 1 and "coordinator" in bad[0], lines
    assert sum(bool(re.match(r"[│|] ok", line)) for line in lines) == 7


def test_a_key_is_made_registered_and_revoked(place, capsys):
    assert run_site(["keygen", "--out", "kit"]) == 0
    assert "site.pub" in capsys.readouterr().out
    federation = place / "configs" / "federation.yaml"
    content = yaml.safe_load(federation.read_text())
    content["sites"][0]["public_key"] = "../kit/site.pub"
    federation.write_text(yaml.safe_dump(content))
    assert flower_server(words(SERVER[0])) == 0
    with zipfile.ZipFile(place / "federation" / "kits" / "site_a.zip") as kit:
        assert not [name for name in kit.namelist() if name.endswith("site.key")]
    capsys.readouterr()
    revoke = ["revoke", "--config", "configs/federation.yaml"]
    assert flower_server([*revoke, "site_a"]) == 0
    assert flower_server([*revoke, "site_z"]) == 1
    said = capsys.readouterr()
    assert "revoked for good" in said.out and "site_z" in said.err and "Traceback" not in said.err
    assert flower_server(words(SERVER[1])) == 0
    shown = capsys.readouterr().out
    assert "site_b, site_c, site_d" in shown and "site_a," not in shown


def test_a_run_is_submitted_for_later(place, capsys):
    command = re.search(r"`(flower-server\s+submit\s[^`]+)`", README)
    assert command
    filled = (
        command[1]
        .replace("...", "configs/federation.yaml")
        .replace("other.yaml", "configs/demo.yaml")
    )
    assert flower_server([*words(filled), "rounds=1"]) == 0
    (waiting,) = (place / "federation" / "queue").glob("*.yaml")
    assert yaml.safe_load(waiting.read_text())["rounds"] == 1
    assert flower_server([*words(filled), "rouns=1"]) == 1
    assert "did you mean 'rounds'" in capsys.readouterr().err
