"""The connection of the worker to the SuperNode of the same site, on loopback.

The SuperNode takes another port at each of its starts; `client/join.py` writes where it listens to
a file in the state folder, and nothing is sent to a port that another account has.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from client.flower_private import Queue, open_queue
from medsa_model.errors import ConnectionProblem
from medsa_model.loopback import listens_for_others

TRUSTED = 1.0  # seconds for which the owner of a port that we are connected to is not looked up
SUPERNODE = "supernode.json"  # file in the state folder: {"address": "127.0.0.1:PORT"}


@dataclass
class SuperNode:
    """Where messages come from. `queue` is open at `address` while the SuperNode can be reached."""

    place: Path
    """File with the address."""
    secret: bytes
    address: str = ""
    queue: Queue | None = None
    checked: float = 0.0
    """When the owner of the port was looked up (`time.monotonic()`)."""


def reach(supernode: SuperNode) -> Queue:
    """The open connection to where the SuperNode listens now.

    Raises `FileNotFoundError` before its first start, and what `check_owner` raises.
    """
    address = str(json.loads(supernode.place.read_text(encoding="utf-8"))["address"])
    if address != supernode.address:
        hang_up(supernode)
    if supernode.queue is None or time.monotonic() - supernode.checked > TRUSTED:
        check_owner(address)
        supernode.checked = time.monotonic()
    if supernode.queue is None:
        supernode.queue, supernode.address = open_queue(address, supernode.secret), address
    return supernode.queue


def check_owner(address: str) -> None:
    """Raise `ConnectionProblem` when another account of this machine listens at `address`."""
    if listens_for_others(int(address.rpartition(":")[2])):
        raise ConnectionProblem(
            f"a program of another account of this machine listens at {address}, where this "
            "site's SuperNode should: nothing is sent to it"
        )


def hang_up(supernode: SuperNode) -> None:
    """Close the connection; `reach` opens another one."""
    if supernode.queue is not None:
        supernode.queue.close()
        supernode.queue = None
