"""Send one message to many sites and take the answers as they arrive, over breaks in between.

A site whose process was restarted has forgotten the message that it had taken: Flower keeps no
second copy. When a node was activated anew since a message was sent, or its answer says that the
work was lost, the same message is sent again. Work is a function of (seed, site, round), so that an
answer does not depend on how often it was asked for.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from medsa_model.errors import FederationError
from medsa_model.logs import logger
from medsa_model.records import serialised_bytes
from medsa_model.refusals import Reason
from medsa_model.rejections import Code
from server.flower_private import LOST, UNAVAILABLE, Connected, connected
from server.flower_replies import Arriving, Reply, receive, send_messages

LOOK = 2.0  # seconds between looks at who was activated anew
ATTEMPTS = 3  # most often that one site is sent the same message in one exchange
LONGEST_PAUSE = 0.1  # seconds
LONGER = 360.0  # seconds that a message outlives the wait for it: clocks may differ by five minutes
SMALL = 10**6  # bytes of an answer beside its arrays: metrics, names, framing


@dataclass(frozen=True)
class Answer:
    """One site's reply with the bytes of both messages as serialised for the wire."""

    node_id: int
    site: str
    message: Message
    sent_bytes: int
    received_bytes: int
    code: Code | None = None
    """Why there is an error reply in place of one that came and could not be read."""


@dataclass
class Pending:
    """What was sent to a node last: the message and its id, the node's activation, how often."""

    message: Message
    message_id: str
    """Empty when the SuperLink did not take it."""
    activated: str
    attempts: int
    lost: Message | None = None
    """The answer that said that the work was lost, until it is asked for again."""


@dataclass
class Unanswered:
    """What is on its way between the coordinator and its sites in one or more exchanges."""

    pending: dict[int, Pending] = field(default_factory=dict)
    """By node, what was sent and is not answered."""
    arriving: list[Arriving] = field(default_factory=list)
    """Answers that have begun to arrive."""


def exchange(
    grid: Grid,
    targets: Mapping[int, str],
    message_type: str,
    content: RecordDict,
    group: str,
    timeout: float,
    needed: int = 0,
    unanswered: Unanswered | None = None,
    lifetime: float | None = None,
    largest_answer: int = 0,
) -> Iterator[Answer]:
    """Send `content` to all targets (node id to site) and yield answers as they arrive.

    Ends when all have answered or after `timeout` seconds; who is missing then is left out. For a
    site that is gone others are waited for, and it for `needed` answers, not longer; a connected
    one whose work was lost is asked again. An answer that cannot be read is an error reply. With
    the same `unanswered` a later call goes on with this one: who is still at work is waited for,
    and the others are sent the content again. A message that was not answered within `lifetime`
    seconds (default: a little longer than `timeout`) is taken back. An answer may have as many
    bytes as `content` or `largest_answer`, whichever is more, and a little beside them. Raises
    `FederationError` when the content is too large for the SuperLink.
    """
    unanswered = unanswered or Unanswered()
    pending, arriving = unanswered.pending, unanswered.arriving
    sent_bytes = serialised_bytes(content)
    lives = (lifetime or timeout) + LONGER
    most_bytes = max(sent_bytes, largest_answer) + SMALL

    def send(node_ids: list[int], attempts: int) -> None:
        messages = [
            Message(content, dst_node_id=node_id, message_type=message_type, group_id=group,
                    ttl=lives if math.isfinite(lives) else None)
            for node_id in node_ids
        ]  # fmt: skip
        names = send_messages(grid, messages) if messages else []
        if len(names) != len(messages):
            raise FederationError(
                f"the SuperLink refuses a {message_type} message of {sent_bytes} bytes as too large"
            )
        for node_id, message, name in zip(node_ids, messages, names, strict=True):
            activated = nodes[node_id].activated if node_id in nodes else ""
            pending[node_id] = Pending(message, name or "", activated, attempts)

    nodes = connected(grid)
    for node_id in [*pending]:
        if node_id not in targets or not _is_at_work(pending[node_id], nodes.get(node_id)):
            del pending[node_id]
    send([node_id for node_id in targets if node_id not in pending], 1)
    deadline, pause, answered = time.monotonic() + timeout, 0.02, 0
    looked = time.monotonic()
    while time.monotonic() < deadline:
        waiting = {
            each.message_id: node_id for node_id, each in pending.items()
            if each.message_id and not each.lost
        }  # fmt: skip
        again = any(
            each.lost and node_id in nodes and each.attempts < ATTEMPTS
            for node_id, each in pending.items()
        )
        if not waiting and not again and (not pending or answered >= needed):
            break
        replies = receive(grid, [*waiting], arriving, most_bytes) if waiting else []
        for reply in replies:
            if reply.reply_to not in waiting:
                continue
            node_id = waiting[reply.reply_to]
            message = reply.message or _unreadable(pending[node_id].message, reply)
            if not message.has_error() and reply.node_id != node_id:
                logger.warning("an answer in the name of %s came from another node: ignored",
                               targets[node_id])  # fmt: skip
                continue
            del waiting[reply.reply_to]
            is_lost = message.has_error() and message.error.code in LOST
            if is_lost and pending[node_id].attempts < ATTEMPTS:
                pending[node_id].lost = message
                continue
            del pending[node_id]
            answered += not message.has_error()
            size = 0 if message.has_error() else serialised_bytes(message.content)
            code = Code.UNREADABLE if reply.message is None and not reply.lost else None
            yield Answer(node_id, targets[node_id], message, sent_bytes, size, code)
        if not replies and pending:
            time.sleep(pause)
        pause = 0.02 if replies else min(2 * pause, LONGEST_PAUSE)
        if pending and time.monotonic() - looked > LOOK:
            looked, nodes = time.monotonic(), connected(grid)
            for node_id in _forgotten(pending, nodes):
                logger.info("%s lost its work or was restarted: asked again", targets[node_id])
                send([node_id], pending[node_id].attempts + 1)
    for node_id, each in pending.items():
        if each.lost:
            yield Answer(node_id, targets[node_id], each.lost, sent_bytes, 0)


def _unreadable(sent: Message, reply: Reply) -> Message:
    """An error reply in place of one that cannot be read."""
    code = UNAVAILABLE if reply.lost else Reason.FAILED
    return Message(Error(code, reply.problem), reply_to=sent)


def _is_at_work(pending: Pending, node: Connected | None) -> bool:
    """Whether a node still has the message of an earlier exchange."""
    sent = pending.message_id and not pending.lost
    return bool(sent and node and node.activated == pending.activated)


def _forgotten(pending: Mapping[int, Pending], nodes: Mapping[int, Connected]) -> list[int]:
    """Nodes of `pending` that are there and do not have the message."""
    return [
        node_id for node_id, each in pending.items()
        if node_id in nodes and each.attempts < ATTEMPTS
        and not _is_at_work(each, nodes[node_id])
    ]  # fmt: skip
