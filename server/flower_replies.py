"""Messages to sites and their replies, each taken on its own, with Flower's private names for it.
flwr is pinned.

Flower's `pull_messages` waits for parts that one site has not sent yet, and one reply that it
cannot read ends the pull of all. Here nothing waits, and whatever is wrong with a reply is said of
that reply alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid import HttpGrid

from medsa_model.records import unique

LEAST_PARTS = 32  # of any reply
SMALLEST_PART = 2**20  # bytes; Flower cuts arrays into parts of 5 MiB


@dataclass
class Arriving:
    """A reply that the SuperLink announced, and the parts of it that have arrived."""

    reply_to: str
    node_id: int
    tree: ObjectTree
    parts: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """A reply to the message `reply_to` from `node_id`; without a message `problem` says why.

    `lost` says that its sender will not complete it: the work may be asked for again.
    """

    reply_to: str
    node_id: int
    message: Message | None
    problem: str = ""
    lost: bool = False


def send_messages(grid: Grid, messages: list[Message]) -> list[str]:
    """Push messages; returns their ids in order, none when they are too large for the SuperLink."""
    if isinstance(grid, HttpGrid):
        for message in messages:
            message.content = unique(message.content)
    return [name or "" for name in grid.push_messages(messages)]


def receive(
    grid: Grid, message_ids: Sequence[str], arriving: list[Arriving], most_bytes: int
) -> list[Reply]:
    """Replies to `message_ids` that are complete, or never will be.

    Those that have begun to arrive are kept in `arriving` until the next call; the SuperLink, which
    announced them, does not know their messages any more. A reply of more than `most_bytes` is a
    problem. A grid within this process is pulled as it is.
    """
    if not isinstance(grid, HttpGrid):
        messages = grid.pull_messages(message_ids)
        return [Reply(m.metadata.reply_to_message_id, m.metadata.src_node_id, m) for m in messages]
    begun = {each.reply_to for each in arriving}
    if unknown := [name for name in message_ids if name not in begun]:
        arriving += _announced(grid, unknown)
    replies, still = [], []
    for each in arriving:
        try:
            message = _take(grid, each, most_bytes)
        except (ValueError, LookupError) as error:
            lost = isinstance(error, LookupError)
            replies.append(Reply(each.reply_to, each.node_id, None, str(error), lost))
            continue
        if message is None:
            still.append(each)
        else:
            replies.append(Reply(each.reply_to, each.node_id, message))
    arriving[:] = still
    return replies


def _announced(grid: HttpGrid, message_ids: Iterable[str]) -> list[Arriving]:
    """Replies that have begun to arrive; the SuperLink announces each once."""
    request = PullAppMessagesRequest(message_ids=message_ids)
    response = grid._runtime_client.PullMessages(request)
    return [
        Arriving(each.metadata.reply_to_message_id, each.metadata.src_node_id, tree)
        for each, tree in zip(response.messages_list, response.message_object_trees, strict=True)
    ]


def _take(grid: HttpGrid, reply: Arriving, most_bytes: int) -> Message | None:
    """The reply when it is complete, `None` as long as it is not.

    Raises `LookupError` when a part of it will not come, and `ValueError` when it is too large or
    cannot be read.
    """
    names = [each.object_id for each in iterate_object_tree(reply.tree)]
    most_parts = LEAST_PARTS + most_bytes // SMALLEST_PART
    if len(names) > most_parts:
        raise ValueError(f"its answer has {len(names)} parts, expected at most {most_parts}")
    run_id = grid.run.run_id
    for name in names:
        if name in reply.parts:
            continue
        request = PullObjectRequest(node=grid.node, run_id=run_id, object_id=name)
        response = grid._runtime_client.PullObject(request)
        if not response.object_found:
            raise LookupError("its answer was never sent whole")
        if not response.object_available:
            return None
        reply.parts[name] = response.object_content
        if (size := sum(map(len, reply.parts.values()))) > most_bytes:
            raise ValueError(f"its answer has {size} bytes or more, expected at most {most_bytes}")
    root = reply.tree.object_id
    grid._runtime_client.ConfirmMessageReceived(
        ConfirmMessageReceivedRequest(node=grid.node, run_id=run_id, message_object_id=root)
    )
    try:
        message = inflate_object_from_contents(root, reply.parts)
    except Exception as error:  # whatever a reader meets in what somebody else wrote
        raise ValueError(f"its answer cannot be read ({type(error).__name__})") from error
    if not isinstance(message, Message):
        raise ValueError(f"its answer is a {type(message).__name__}, expected a message")
    message.metadata.__dict__["_message_id"] = root
    return message
