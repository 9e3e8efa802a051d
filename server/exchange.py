"""Send one message to many sites and take the answers as they arrive, over breaks in between.

A site whose process was restarted has forgotten the message that it had taken: Flower keeps no
second copy. When a node was activated anew since a message was sent, or its answer says that the
work was lost, the same message is sent again. Work is a function of (seed, site, round), so that an
answer does not depend on how often it was asked for.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from medsa_model.logs import logger
from medsa_model.records import serialised_bytes
from server.flower_private import LOST, connected

LOOK = 2.0  # seconds between looks at who was activated anew
ATTEMPTS = 3  # most often that one site is sent the same message
LONGEST_PAUSE = 0.1  # seconds


@dataclass(frozen=True)
class Answer:
    """One site's reply with the bytes of both messages as serialised for the wire."""

    node_id: int
    site: str
    message: Message
    sent_bytes: int
    received_bytes: int


@dataclass
class Pending:
    """What was sent to a node last: the message's id, the node's activation, and how often."""

    message_id: str
    """Empty when the SuperLink did not take it."""
    activated: str
    attempts: int
    lost: Message | None = None
    """The answer that said that the work was lost, until it is asked for again."""


def exchange(
    grid: Grid,
    targets: Mapping[int, str],
    message_type: str,
    content: RecordDict,
    group: str,
    timeout: float,
    needed: int = 0,
) -> Iterator[Answer]:
    """Send `content` to all targets (node id to site) and yield answers as they arrive.

    Ends when all have answered or after `timeout` seconds; who is missing then is left out. For a
    site that is gone others are waited for, and it for `needed` answers, not longer.
    """
    sent_bytes = serialised_bytes(content)

    def send(node_ids: list[int]) -> list[str]:
        messages = [
            Message(content, dst_node_id=node_id, message_type=message_type, group_id=group)
            for node_id in node_ids
        ]
        return [name or "" for name in grid.push_messages(messages)] if messages else []

    nodes = connected(grid)
    pending = {
        node_id: Pending(name, nodes[node_id].activated if node_id in nodes else "", 1)
        for node_id, name in zip(targets, send([*targets]), strict=True)
    }
    deadline, pause, answered = time.monotonic() + timeout, 0.02, 0
    looked = time.monotonic()
    while time.monotonic() < deadline:
        waiting = {
            each.message_id: node_id for node_id, each in pending.items()
            if each.message_id and not each.lost
        }  # fmt: skip
        if not waiting and (not pending or answered >= needed):
            break
        arrived = [*grid.pull_messages([*waiting])] if waiting else []
        for reply in arrived:
            node_id = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node_id is None:
                continue
            if not reply.has_error() and reply.metadata.src_node_id != node_id:
                logger.warning("an answer in the name of %s came from another node: ignored",
                               targets[node_id])  # fmt: skip
                continue
            if (
                reply.has_error()
                and reply.error.code in LOST
                and pending[node_id].attempts < ATTEMPTS
            ):
                pending[node_id].lost = reply
                continue
            del pending[node_id]
            answered += not reply.has_error()
            size = 0 if reply.has_error() else serialised_bytes(reply.content)
            yield Answer(node_id, targets[node_id], reply, sent_bytes, size)
        if not arrived and pending:
            time.sleep(pause)
        pause = 0.02 if arrived else min(2 * pause, LONGEST_PAUSE)
        if pending and time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            again = _forgotten(grid, pending)
            for node_id, name in zip(again, send(again), strict=True):
                logger.info("%s was restarted: asked again", targets[node_id])
                pending[node_id].message_id, pending[node_id].lost = name, None
    for node_id, each in pending.items():
        if each.lost:
            yield Answer(node_id, targets[node_id], each.lost, sent_bytes, 0)


def _forgotten(grid: Grid, pending: Mapping[int, Pending]) -> list[int]:
    """Nodes of `pending` to send to again; counts the attempt."""
    nodes, again = connected(grid), []
    for node_id, each in pending.items():
        if node_id not in nodes or each.attempts >= ATTEMPTS:
            continue
        activated = nodes[node_id].activated
        if each.lost or not each.message_id or activated != each.activated:
            each.activated, each.attempts = activated, each.attempts + 1
            again.append(node_id)
    return again
