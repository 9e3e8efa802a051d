"""The process of the round loop: which of its ends are mended by a new start."""

import json

import httpx
import pytest
import yaml

from medsa_model.errors import FederationError
from server import worker


@pytest.fixture
def words(tmp_path, monkeypatch) -> list[str]:
    """The command line of a worker that is not tied to a parent."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        yaml.safe_dump({"name": "small", "data": {"kind": "synthetic"}})
    )
    (tmp_path / "secret").write_bytes(b"secret")
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(worker, "acquire", lambda link: "token")
    return [
        "--run", str(run), "--address", "127.0.0.1:1", "--certificate", "c.crt",
        "--secret-file", str(tmp_path / "secret"), "--rules", json.dumps({"nodes": 1}),
    ]  # fmt: skip


REQUEST = httpx.Request("POST", "https://superlink")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (FederationError("round 1: nobody"), 1),
        (RuntimeError("a fault"), 1),
        (httpx.ConnectError("away"), worker.TEMPORARY),
        (httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(500)), 75),
    ],
)
def test_what_the_superlink_did_not_do_is_tried_again(words, monkeypatch, error, code):
    def execute(*_: object) -> None:
        if error:
            raise error

    monkeypatch.setattr(worker, "execute", execute)
    assert worker.main(words) == code
