"""`flower-server audit`: which logs it finds, what it prints, and its exit codes."""

from pathlib import Path

import pytest
import yaml

from medsa_model.audit_log import read, record, verify
from server.cli import main


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The YAML of a federation with a log in its folder and in two run directories."""
    monkeypatch.setenv("COLUMNS", "160")
    content = {"name": "f", "folder": "home", "run": "run.yaml", "runs": "runs", "quorum": 1,
               "address": {"host": "h"}, "sites": [{"name": "a"}]}  # fmt: skip
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(content))
    for number, log in enumerate(logs(tmp_path)):
        log.parent.mkdir(parents=True)
        for _ in range(number + 1):
            record(log, "joined", site="a", reason="[red]:smile:", rounds=[1, 2])
    return tmp_path / "federation.yaml"


def logs(folder: Path) -> list[Path]:
    runs = [folder / "runs" / name / "audit.jsonl" for name in ("demo/2026", "other/2027")]
    return [folder / "home" / "audit.jsonl", *runs]


def audit(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and everything that was printed; never a traceback."""
    code = main(["audit", *map(str, words)])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.out + printed.err


def test_all_logs_of_a_federation_are_verified(federation, capsys):
    code, said = audit(capsys, "verify", "--config", federation)
    lines = said.splitlines()
    assert code == 0 and len(lines) == 3
    for number, log in enumerate(logs(federation.parent)):
        whole = verify(log)
        (line,) = [line for line in lines if line.startswith(f"{log}: ")]
        assert f": {number + 1} entr" in line and f"last hash {whole.hash} (write it down" in line
        assert f"{whole.first[:19]} to {whole.last[:19]} UTC" in line and "torn" not in line


def test_one_damaged_log_among_others_is_code_1(federation, capsys):
    _, damaged, whole = logs(federation.parent)
    damaged.write_bytes(damaged.read_bytes().replace(b'"rounds":[1,2]', b'"rounds":[1,3]', 1))
    code, said = audit(capsys, "verify", "--config", federation)
    assert code == 1 and f"NOT VERIFIED: {damaged}, line 2: found content with hash" in said
    assert f"{whole}: 3 entries" in said
    assert audit(capsys, "verify", whole)[0] == 0 and audit(capsys, "verify", damaged)[0] == 1


def test_a_log_that_was_taken_away_is_missed(federation, capsys):
    logs(federation.parent)[1].unlink()
    code, said = audit(capsys, "verify", "--config", federation)
    assert code == 1 and "found no file beside audit.jsonl.head" in said


def test_a_torn_line_is_told_and_fine(federation, capsys):
    log = logs(federation.parent)[0]
    log.write_bytes(log.read_bytes() + b'{"before":"12')
    code, said = audit(capsys, "verify", log)
    assert code == 0 and said.startswith(f"{log}: 1 entry, ")
    assert "; 1 line was torn by a crash" in said


def test_a_remembered_hash_is_looked_for_in_all_logs(federation, capsys):
    log = logs(federation.parent)[2]
    second = read(log)[1].hash
    words = ["verify", "--config", federation, "--hash"]
    code, said = audit(capsys, *words, second)
    assert code == 0 and f"that of entry 2 of {log}" in said
    code, said = audit(capsys, *words, "0" * 64)
    assert code == 1 and f"no whole log has an entry with hash {'0' * 64}" in said
    code, said = audit(capsys, *words, "abc")
    assert code == 1 and "--hash is 'abc', expected 64 hexadecimal digits" in said
    for place in (log, log.with_name("audit.jsonl.head")):
        place.unlink()
    record(log, "joined")
    assert audit(capsys, *words, second)[0] == 1, "a log that was begun anew"


def test_without_any_log_it_says_so(federation, capsys):
    for log in logs(federation.parent):
        for place in log.parent.iterdir():
            place.unlink()
    code, said = audit(capsys, "verify", "--config", federation)
    assert code == 0 and said.strip() == "There is no audit log yet."
    assert audit(capsys, "verify", "--config", federation, "--hash", "0" * 64)[0] == 1


def test_a_log_is_shown_newest_last(federation, capsys):
    log = logs(federation.parent)[2]
    record(log, "rejected", site="b", code="NORM", why={"norm": 2.5})
    code, said = audit(capsys, "show", log)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    numbered = [row for row in rows if row and row[0]]
    assert code == 0 and [row[0] for row in numbered] == ["1", "2", "3", "4"]
    assert [row[2] for row in numbered] == ["joined"] * 3 + ["rejected"]
    assert numbered[0][1] == read(log)[0].time[:19].replace("T", " ")
    told = [row[3] for row in rows if row]
    assert "reason [red]:smile:" in told and "rounds [1, 2]" in told
    assert told[-1] == 'why {"norm": 2.5}' and "code NORM" in told
    assert f"{log}: 4 entries" in said.splitlines()[-1]


def test_a_damaged_log_is_shown_as_far_as_it_can_be_read(federation, capsys):
    log = logs(federation.parent)[2]
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:2], b"\x1b[2J\n", *lines[3:]]))
    code, said = audit(capsys, "show", log)
    assert code == 1 and said.count("joined") == 2 and "line 3: found" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(("words", "told"), [
    (["verify"], "expected --config FEDERATION.yaml, or each FILE"),
    (["show"], "expected one FILE"),
    (["show", "a", "b"], "expected one FILE"),
    (["show", "missing.jsonl"], "missing.jsonl: there is no audit log"),
    (["verify", "missing.jsonl"], "missing.jsonl: there is no audit log"),
    (["verify", "--config", "missing.yaml"], "missing.yaml"),
])  # fmt: skip
def test_what_cannot_be_done_is_a_message(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = audit(capsys, *words)
    assert code == 1 and told in said


def test_the_command_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "\n    audit               verify that " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    assert "--hash" in capsys.readouterr().out
    with pytest.raises(SystemExit):  # only audit does without
        main(["status"])
    assert "--config" in capsys.readouterr().err
