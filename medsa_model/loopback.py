"""Ports of the loopback interface, and whose they are."""

import os
import socket
import sys
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTENING = "0A"  # TCP_LISTEN in linux/tcp_states.h


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens_for_others(port: int) -> bool:
    """Whether another account of this machine listens at `port`, at any address.

    Any program of the machine may take a port that is free. Linux tells whose a listening socket
    is; elsewhere the answer is always no.
    """
    if sys.platform != "linux":
        return False
    return bool(listeners(port) - {os.geteuid()})


def listeners(port: int) -> set[int]:
    """User ids of those that listen at `port`, from Linux' tables of sockets."""
    found = set()
    for table in TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # a machine without IPv6
            continue
        for line in lines:
            _, local, _, state, _, _, _, user, *_ = line.split()
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                found.add(int(user))
    return found
