"""The command line of a hospital, before anything is opened."""

import pytest

from client.cli import main


def test_under_pytorchs_launcher_a_site_does_not_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["--config", str(tmp_path / "site.yaml")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "client/run.py: this is one of 2 copies that PyTorch's launcher started"
    )
    assert "device: cuda:1" in error and error.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("words", [["join"], []])
def test_taking_part_is_what_is_done_without_a_command(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "device=cpu", "--config", "missing.yaml", "--check"]) == 1
    assert "client/run.py: " in (error := capsys.readouterr().err) and "missing.yaml" in error


def test_ctrl_c_before_a_site_takes_part_is_no_traceback(tmp_path, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("client.commands.load_site", interrupted)
    assert main(["ledger", "--config", str(tmp_path / "site.yaml")]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_a_key_pair_is_made_where_it_is_wanted(tmp_path, capsys):
    assert main(["keygen", "--out", str(tmp_path / "new" / "keys")]) == 0
    assert {path.name for path in (tmp_path / "new" / "keys").iterdir()} == {"site.key", "site.pub"}
    assert "site.pub  send this" in capsys.readouterr().out


def test_a_wrong_path_of_the_site_yaml_is_told_in_words(tmp_path, capsys):
    (tmp_path / "kit").mkdir()
    for name, told in (
        ("missing.yaml", "no such file; give the site.yaml of the kit"),
        ("kit", "is a folder; give its site.yaml"),
    ):
        assert main(["--config", str(tmp_path / name), "--check"]) == 1
        assert capsys.readouterr().err == f"client/run.py: --config {tmp_path / name}: {told}\n"
