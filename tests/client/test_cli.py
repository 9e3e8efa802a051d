"""The command line of a hospital, before anything is opened."""

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
