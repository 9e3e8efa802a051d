"""`client/run.py audit`: what it prints of the site's own log, and that it changes nothing."""

from pathlib import Path

import pytest
import yaml

from client.cli import main
from medsa_model.audit_log import read, record, verify


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The YAML of a site whose log has two entries."""
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "state").mkdir()
    record(log_of(tmp_path), "joined", run="demo", sha256="a" * 64)
    record(log_of(tmp_path), "refused", reason="over the limit [red]:smile:", steps=7)
    content = {"site": "north", "coordinator": {"address": "a:1"}, "data": {"kind": "folder"}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "site.yaml"


def log_of(folder: Path) -> Path:
    return folder / "state" / "audit.jsonl"


def audit(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, output, messages; never a traceback, and no file changes."""
    (state,) = [Path(str(word)).parent / "state" for word in words if "site.yaml" in str(word)]
    before = {place.name: place.read_bytes() for place in state.iterdir()}
    code = main(["audit", *map(str, words)])
    assert {place.name: place.read_bytes() for place in state.iterdir()} == before
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.out, printed.err


def test_the_log_is_shown_newest_last_and_verified(site, capsys):
    code, said, _ = audit(capsys, "--config", site)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    assert code == 0 and [row[0] for row in rows if row and row[0]] == ["1", "2"]
    told = [row[3] for row in rows if row]
    assert told == [
        "run demo",
        f"sha256 {'a' * 64}",
        "reason over the limit [red]:smile:",
        "steps 7",
    ]
    last = said.splitlines()[-1]
    whole = verify(log_of(site.parent))
    assert last.startswith(f"{log_of(site.parent)}: 2 entries") and whole.hash in last


def test_another_state_folder_has_another_log(site, capsys):
    code, said, _ = audit(capsys, "--config", site, "state=elsewhere")
    place = site.parent / "elsewhere" / "audit.jsonl"
    assert code == 0 and f"There is no audit log yet at {place}" in said


def test_a_remembered_hash_is_looked_for(site, capsys):
    for entry in read(log_of(site.parent)):
        code, said, _ = audit(capsys, "--config", site, "--hash", entry.hash)
        assert code == 0 and "written down is that of one of its entries" in said
    code, _, told = audit(capsys, "--config", site, "--hash", "0" * 64)
    assert code == 1 and f"found no entry with hash {'0' * 64}" in told
    assert audit(capsys, "--config", site, "--hash", "x")[0] == 1
    for place in log_of(site.parent).parent.iterdir():
        place.unlink()
    code, _, told = audit(capsys, "--config", site, "--hash", "0" * 64)
    assert code == 1 and "there is no audit log" in told


def test_a_damaged_log_is_a_message_and_code_1(site, capsys):
    log = log_of(site.parent)
    log.write_bytes(log.read_bytes().replace(b'"steps":7', b'"steps":5'))
    code, said, told = audit(capsys, "--config", site)
    assert code == 1 and "run demo" in said
    assert f"client/run.py: the audit log cannot be relied on: {log}, line 3: found" in told


def test_a_log_that_was_taken_away_is_missed(site, capsys):
    log_of(site.parent).unlink()
    code, _, told = audit(capsys, "--config", site)
    assert code == 1 and "found no file beside audit.jsonl.head" in told


def test_the_command_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "client/run.py audit" in " ".join(capsys.readouterr().out.split())
