"""The command line of the coordinator: what it prints is what was meant."""

from pathlib import Path

from server import cli

CONFIG = Path(__file__).parents[2] / "configs" / "federation.yaml"


def test_fingerprints_and_addresses_are_printed_as_they_are(monkeypatch, capsys):
    """Rich would make pictures of `:AB:` and `:CD:`, and styles of what stands in brackets."""
    lines = ["ca.crt: fingerprint 12:AB:CD:00:0B", "listens at [bold]:9092 and [::1]:9092"]
    monkeypatch.setattr(cli, "provision", lambda federation: lines)
    assert cli.main(["provision", "--config", str(CONFIG)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
