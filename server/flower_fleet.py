"""What sites and the SuperLink say to each other, as far as the door looks into it; with Flower's
private names for it. flwr is pinned."""

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

PULL, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
PUSH_OBJECT = "/v1/fleet/push-object"
PULL_OBJECT, HEARTBEAT = "/v1/fleet/pull-object", "/v1/fleet/send-node-heartbeat"


def nothing_yet(path: str, answer: bytes) -> bool:
    """Whether the SuperLink's answer tells a site to come again: no message for it, or an object
    whose upload is not complete."""
    if path == PULL:
        return not PullMessagesResponse.FromString(answer).messages_list
    if path == PULL_OBJECT:
        response = PullObjectResponse.FromString(answer)
        return bool(response.object_found and not response.object_available)
    return False


def is_own_reply(body: bytes, most_parts: int) -> bool:
    """Whether a request to `PUSH` brings one message: of the node that asks, to the SuperLink, in
    reply to another one, with one tree of at most `most_parts` parts, which the SuperLink writes to
    its database while everybody else waits. Raises `ValueError` when it is no such request."""
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError as error:
        raise ValueError("not a PushMessagesRequest") from error
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return False
    if sum(1 for _ in iterate_object_tree(request.message_object_trees[0])) > most_parts:
        return False
    metadata = request.messages_list[0].metadata
    return bool(
        metadata.src_node_id == request.node.node_id
        and metadata.dst_node_id == SUPERLINK_NODE_ID
        and metadata.reply_to_message_id
    )
