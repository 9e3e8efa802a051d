"""The SuperLink lets in whoever the door lets in: clocks may differ by as much."""

import inspect
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import flwr.supercore.sql_mixin as sql_mixin
import flwr.superlink.routers.fleet.node_auth as node_auth

from server import flower_superlink
from server.stamps import TOLERANCE


def test_flower_is_as_patient_as_the_door(monkeypatch, tmp_path):
    """Its own tolerance of clocks that are ahead is a few seconds."""
    assert "-SYSTEM_TIME_TOLERANCE" in inspect.getsource(node_auth)  # what is replaced is used
    monkeypatch.setattr(node_auth, "SYSTEM_TIME_TOLERANCE", node_auth.SYSTEM_TIME_TOLERANCE)
    assert TOLERANCE > node_auth.SYSTEM_TIME_TOLERANCE
    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", sql_mixin.SQLITE_PRAGMAS)
    seen = []
    program = SimpleNamespace(load=lambda: lambda: seen.append(node_auth.SYSTEM_TIME_TOLERANCE))
    found = SimpleNamespace(entry_points=SimpleNamespace(select=lambda **_: [program]))
    monkeypatch.setattr(flower_superlink, "distribution", lambda _: found)
    flower_superlink.main()
    assert seen == [TOLERANCE]
    with closing(sqlite3.connect(tmp_path / "any.db")) as connection:  # as Flower does for each
        sql_mixin._set_sqlite_pragmas(connection, None)
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (flower_superlink.BUSY,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
