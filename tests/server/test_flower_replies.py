"""Replies over Flower's own grid: what one site sends cannot hold or end the pull of others."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from server.flower_replies import LEAST_PARTS, Arriving, Reply, receive

MEGABYTE = 10**6
WAITING = ["one", "late", "whole"]


@dataclass
class SuperLink:
    """The SuperLink as its Runtime API shows it; an object with content `None` is on its way."""

    announced: PullAppMessagesResponse = field(default_factory=PullAppMessagesResponse)
    objects: dict[str, bytes | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    looked_for: list[list[str]] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        self.looked_for.append([*request.message_ids])
        answer, self.announced = self.announced, PullAppMessagesResponse()
        return answer

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        self.asked.append(request.object_id)
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=request.object_id in self.objects, object_available=content is not None,
            object_content=content or b"",
        )  # fmt: skip

    def ConfirmMessageReceived(
        self, request: ConfirmMessageReceivedRequest
    ) -> ConfirmMessageReceivedResponse:
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()

    def announce(self, message: Message, tree: ObjectTree) -> None:
        message.metadata.__dict__["_message_id"] = tree.object_id
        self.announced.messages_list.append(message_to_proto(remove_content_from_message(message)))
        self.announced.message_object_trees.append(tree)

    def deliver(self, message: Message) -> list[str]:
        """Announce a reply and store its parts; returns their ids, the message's last."""
        tree = get_object_tree(message)
        parts = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
        self.objects |= parts
        self.announce(message, tree)
        return [*(name for name in parts if name != tree.object_id), tree.object_id]


@pytest.fixture
def link() -> SuperLink:
    return SuperLink()


@pytest.fixture
def pull(link, monkeypatch) -> Callable[..., list[Reply]]:
    grid = HttpGrid("127.0.0.1:1", token="t")
    grid._client = link
    monkeypatch.setattr(TaskIdentity, "_run_id", 7)
    monkeypatch.setattr(TaskIdentity, "_task_id", 7)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)
    grid.set_run(Run.create_empty(7))
    arriving: list[Arriving] = []
    return lambda most=MEGABYTE: receive(grid, WAITING, arriving, most)


def reply(to: str, values: int = 3) -> Message:
    """A site's answer to the message `to`."""
    sent = Message(RecordDict(), dst_node_id=5, message_type="train")
    sent.metadata.__dict__["_message_id"] = to
    arrays = ArrayRecord({"adapters": Array(np.arange(values, dtype=np.float32))})
    return Message(RecordDict({"arrays": arrays}), reply_to=sent)


def test_a_whole_reply_is_taken_and_confirmed(link, pull):
    parts = link.deliver(reply("one"))
    (found,) = pull()
    assert (found.reply_to, found.node_id, found.problem) == ("one", 5, "")
    arrays = found.message.content.array_records["arrays"]
    assert arrays["adapters"].numpy().tolist() == [0, 1, 2]
    assert found.message.metadata.message_id == parts[-1]
    assert link.confirmed == [parts[-1]]
    assert pull() == []


def test_a_reply_on_its_way_holds_nobody_up_and_its_parts_are_fetched_once(link, pull):
    late = link.deliver(reply("late"))
    link.deliver(reply("whole", 4))
    missing, content = late[-1], link.objects[late[-1]]
    link.objects[missing] = None
    assert [each.reply_to for each in pull()] == ["whole"]
    assert pull() == []
    # asked for its message the SuperLink, which has handed the reply out, would say it is lost
    assert link.looked_for == [WAITING, ["one", "whole"]]
    link.objects[missing] = content
    (found,) = pull()
    assert found.reply_to == "late" and found.message is not None
    assert [link.asked.count(name) for name in late] == [1] * (len(late) - 1) + [3]


def test_a_part_that_will_not_come_is_said_of_that_reply(link, pull):
    parts = link.deliver(reply("broken"))
    link.deliver(reply("whole", 4))
    del link.objects[parts[0]]
    broken, whole = pull()
    assert broken.lost and broken.message is None and "never sent whole" in broken.problem
    assert whole.message is not None and not whole.lost


@pytest.mark.fault
def test_a_reply_of_too_many_bytes_is_left_where_it_is(link, pull):
    link.deliver(reply("large", values=10**6))
    link.deliver(reply("whole"))
    large, whole = pull()
    assert large.message is None and not large.lost
    assert "bytes or more, expected at most 1000000" in large.problem
    assert whole.message is not None


@pytest.mark.fault
def test_a_reply_of_too_many_parts_is_not_fetched(link, pull):
    name = "0" * 64
    children = [ObjectTree(object_id=name) for _ in range(LEAST_PARTS)]
    link.announce(reply("many"), ObjectTree(object_id=name, children=children))
    (found,) = pull()
    assert f"has {LEAST_PARTS + 1} parts, expected at most {LEAST_PARTS}" in found.problem
    assert link.asked == []


@pytest.mark.parametrize(
    "content", [b"", b"Surprise  4\x00abcd", b"ArrayRecord  2\x00{}", b"Message  4\x00abcd"]
)
def test_a_reply_that_cannot_be_read_is_said_of_that_reply(link, pull, content):
    """Of a type that Flower does not know, or that is no message."""
    name = hashlib.sha256(content).hexdigest()
    link.objects[name] = content
    link.announce(reply("odd"), ObjectTree(object_id=name))
    link.deliver(reply("whole"))
    odd, whole = pull()
    assert odd.message is None and odd.problem.startswith("its answer ")
    assert whole.message is not None
