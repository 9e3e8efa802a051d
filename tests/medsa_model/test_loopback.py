"""Ports of the loopback interface, and whose they are."""

import os
import socket
import sys
from pathlib import Path

import pytest

from medsa_model import loopback
from medsa_model.loopback import free_port, listeners, listens_for_others

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells whose a socket is")
HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
OTHERS = os.geteuid() + 1


def row(address: str, port: int, state: str, user: int) -> str:
    """A line as Linux writes it; 0A is a listening socket, 01 an established connection."""
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 " \
           f"00000000 {user:5d}        0 1081 1 0000000092a66e8f 100 0 0 10 0\n"  # fmt: skip


@pytest.fixture
def tables(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Two tables without a socket."""
    places = (tmp_path / "tcp", tmp_path / "tcp6")
    for place in places:
        place.write_text(HEADING)
    monkeypatch.setattr(loopback, "TABLES", places)
    monkeypatch.setattr(loopback.sys, "platform", "linux")
    return places


@LINUX
def test_our_own_listener_is_ours():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listeners(port) == {os.geteuid()}
        assert not listens_for_others(port)
    assert listeners(port) == set()


@LINUX
def test_a_connection_is_no_listener():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert listeners(client.getsockname()[1]) == set()


def test_nobody_listens_at_a_free_port():
    assert not listens_for_others(free_port())


@pytest.mark.parametrize(
    ("table", "address"),
    [(0, "0100007F"), (0, "00000000"), (1, "0" * 32), (1, "0" * 24 + "01000000")],
)
def test_a_listener_of_another_account_at_any_address(tables, table, address):
    with tables[table].open("a") as file:
        file.write(row(address, 4242, "0A", OTHERS))
    assert listens_for_others(4242)
    assert not listens_for_others(4243)


def test_beside_our_own_listener_another_one_is_seen(tables):
    rows = row("0100007F", 4242, "0A", os.geteuid()) + row("00000000", 4242, "0A", OTHERS)
    tables[0].write_text(HEADING + rows)
    assert listeners(4242) == {os.geteuid(), OTHERS} and listens_for_others(4242)


def test_connections_of_others_do_not_count(tables):
    tables[0].write_text(HEADING + row("0100007F", 4242, "01", OTHERS))
    assert not listens_for_others(4242)


def test_a_machine_without_ipv6(tables):
    tables[1].unlink()
    tables[0].write_text(HEADING + row("0100007F", 4242, "0A", OTHERS))
    assert listens_for_others(4242)


def test_elsewhere_nobody_can_be_asked(tables, monkeypatch):
    tables[0].write_text(HEADING + row("0100007F", 4242, "0A", OTHERS))
    monkeypatch.setattr(loopback.sys, "platform", "darwin")
    assert not listens_for_others(4242)
