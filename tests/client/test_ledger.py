"""`client/run.py ledger`: what it prints, and that it changes nothing."""

from pathlib import Path

import pytest
import yaml

from client.cli import main
from medsa_model.privacy.accounting import NoisySteps, epsilon
from medsa_model.privacy.ledger import Charge, charge

STEP = Charge("isic-first", "a" * 64, 0, 1.5, 0.1, 25, 0.1, 1e-3, "patient")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The YAML of a site with a limit of epsilon 6."""
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "state").mkdir()
    path = tmp_path / "site.yaml"
    content = {"site": "north", "coordinator": {"address": "a:1"}, "data": {"kind": "folder"},
               "limits": {"epsilon": 6}}  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["ledger", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_without_a_ledger_it_says_so_and_makes_none(site, capsys):
    said = shown(capsys, "--config", site)
    assert f"no ledger yet at {site.parent / 'state' / 'ledger.jsonl'}" in said
    assert "No differentially private training was charged. Training without" in said
    assert "has no bound: see `client/run.py audit`." in said and "lost so far" not in said
    assert "left 6.000" in said
    assert [*(site.parent / "state").iterdir()] == []


def test_runs_are_shown_with_what_they_cost(site, capsys):
    ledger = site.parent / "state" / "ledger.jsonl"
    for round_ in (0, 1, 1):
        charge(ledger, Charge("isic-first", "a" * 64, round_, 1.5, 0.1, 25, 0.1, 1e-3, "patient"))
    last = charge(ledger, Charge("btcv", "b" * 64, 0, 2.0, 0.2, 10, 0.3, 1e-4, "volume"))
    before = ledger.read_bytes()
    said = shown(capsys, "--config", site)
    rows = {line.split()[1]: line for line in said.splitlines() if "+00:00" in line}
    assert rows.keys() == {"isic-first", "btcv"}
    cells = [cell.strip() for cell in rows["isic-first"].split("│")[1:-1]]
    assert cells[:7] == ["isic-first", "2, charged 3 times", "75", "1.5", "0.1", "0.1", "patient"]
    cells = [cell.strip() for cell in rows["btcv"].split("│")[1:-1]]
    assert cells == ["btcv", "1", "10", "2", "0.2", "0.3", "volume", last.time]
    spent = [NoisySteps(1.5, 0.1, 75), NoisySteps(2.0, 0.2, 10)]
    lost = epsilon(spent, 1e-4)
    assert f"at delta 0.0001, the smallest charged: {lost:.3f} (rdp" in said
    assert f"{epsilon(spent, 1e-4, 'prv'):.3f} (prv" in said
    assert f"(limits.epsilon): 6, left {6 - lost:.3f}" in said
    assert ledger.read_bytes() == before


def test_a_limit_that_is_used_up_has_nothing_left(site, capsys):
    charge(site.parent / "state" / "ledger.jsonl", STEP)
    assert "0.01, left 0.000" in shown(capsys, "--config", site, "limits.epsilon=0.01")


def test_the_ledger_may_be_elsewhere_and_the_limit_missing(site, capsys):
    charge(site.parent / "shared.jsonl", STEP)
    said = shown(capsys, "--config", site, "ledger=shared.jsonl", "limits.epsilon=null")
    assert "isic-first" in said and "(limits.epsilon): none" in said


def test_names_are_never_markup(site, capsys):
    charge(site.parent / "state" / "ledger.jsonl", Charge(
        "[red]run:smile:", "a" * 64, 0, 1.5, 0.1, 25, 0.1, 1e-3, "patient"))  # fmt: skip
    assert "[red]run:smile:" in shown(capsys, "--config", site)


def test_a_damaged_ledger_is_a_message_and_code_1(site, capsys):
    ledger = site.parent / "state" / "ledger.jsonl"
    charge(ledger, STEP)
    ledger.write_bytes(ledger.read_bytes().replace(b'"steps":25', b'"steps":5'))
    assert main(["ledger", "--config", str(site)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err
    assert f"client/run.py: {ledger}, line 2: found" in printed.err
    assert "never delete" in printed.err


def test_the_command_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "client/run.py ledger" in " ".join(capsys.readouterr().out.split())


def test_with_a_delta_of_its_own_the_site_is_told_what_is_left_at_that(site, capsys):
    """As a round is held against the limit, whatever deltas runs have asked for."""
    charge(site.parent / "state" / "ledger.jsonl", STEP)
    lost = epsilon([NoisySteps(1.5, 0.1, 25)], 1e-2)
    said = shown(capsys, "--config", site, "limits.delta=1e-2")
    assert f"at delta 0.01, limits.delta: {lost:.3f} (rdp" in said
    assert f"(limits.epsilon): 6, left {6 - lost:.3f}" in said
