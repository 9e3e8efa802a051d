"""Messages from the SuperNode and answers to them, with Flower's private names. flwr is pinned.

Those for the way to the coordinator are in `client/flower_fleet.py`; no other module has any.

`tests/client/test_flower_private.py` holds the contract; raise the pin only when it passes.
"""

import hashlib
import io
import zipfile
from contextlib import suppress
from dataclasses import dataclass

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import (
    context_from_proto,
    fab_from_proto,
    message_from_proto,
    message_to_proto,
    run_from_proto,
)
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

APP = "fed-medsa/fed-medsa"
FILES = {"pyproject.toml", ".info/CONTENT"}
"""All that a bundle of ours holds: no code."""
Queue = RuntimeHttpClient
"""An open connection to the SuperNode, which hands out tasks by it."""


@dataclass(frozen=True)
class Task:
    """A message to answer that may still be on its way; heartbeats run from `open_task` on."""

    client: RuntimeHttpClient
    heartbeat: HeartbeatSender
    announced: Message
    """The message without its content, which `pull` fetches."""
    tree: ObjectTree
    context: Context
    app: str
    """Flower's id of the app that the run names."""
    content: bytes
    """The run's bundle. Never unpacked, never executed."""
    intact: bool
    """Whether the bundle has the hash that the run promises."""


def open_queue(address: str, secret: bytes) -> Queue:
    """A connection to the SuperNode at `address` for `acquire`; close it after the last one."""
    return _runtime(
        address,
        RuntimeVersionHttpInterceptor(component_name="SuperExec"),
        SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
        ),
    )


def acquire(queue: Queue) -> str | None:
    """Take the next message to answer from the SuperNode; its token, `None` if there is none.

    Only tasks for a ClientApp are taken. Raises `httpx.HTTPError` when the SuperNode is away.
    """
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    return queue.AcquireTask(request).token or None


def open_task(address: str, token: str) -> Task:
    """Begin with a task; its heartbeats end with `push`, `drop`, `give_up` or `leave`."""
    client = _runtime(
        address,
        RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
        RuntimeTokenHttpInterceptor(token),
    )

    def beat() -> bool:
        try:
            return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
        except httpx.HTTPError:
            return False

    heartbeat = HeartbeatSender(beat)
    heartbeat.start()
    try:
        task = client.PullTaskInput(PullTaskInputRequest())
        pulled = client.PullMessages(PullAppMessagesRequest())
        if not pulled.message_object_trees:
            raise ValueError("the SuperNode has no message for this task")
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        run = run_from_proto(task.run)
        content = fab_from_proto(task.fab).content
        intact = hashlib.sha256(content).hexdigest() == run.fab_hash
        context, tree = context_from_proto(task.context), pulled.message_object_trees[0]
        announced = message_from_proto(pulled.messages_list[0])
        announced.metadata.__dict__["_message_id"] = tree.object_id
    except BaseException:
        _close(heartbeat, client)
        raise
    return Task(client, heartbeat, announced, tree, context, run.fab_id, content, intact)


def pull(task: Task, seconds: float) -> Message | None:
    """The message of a task, or `None` when it did not arrive within `seconds`."""
    node, run_id = Node(node_id=task.context.node_id), task.context.run_id
    ids = [each.object_id for each in iterate_object_tree(task.tree)]
    fetch = make_pull_object_fn_protobuf(task.client.PullObject, node, run_id)
    try:
        objects = pull_objects(ids, fetch, max_time=seconds, initial_backoff=0.05, backoff_cap=0.2)
    except ObjectPullError:
        return None
    make_confirm_message_received_fn_protobuf(task.client.ConfirmMessageReceived, node, run_id)(
        task.tree.object_id
    )
    message = inflate_object_from_contents(task.tree.object_id, objects)
    if not isinstance(message, Message):
        raise ValueError(f"the SuperNode sent a {type(message).__name__}, expected a message")
    message.metadata.__dict__["_message_id"] = task.tree.object_id
    return message


def push(task: Task, reply: Message) -> None:
    """Hand the reply to the SuperNode and end the task."""
    try:
        push_message(task.client, reply, task.context)
        status = SubStatus.FAILED if reply.has_error() else SubStatus.COMPLETED
        push_task_output(task.client, task.context, status, "")
    finally:
        _close(task.heartbeat, task.client)


def drop(task: Task) -> None:
    """End a task whose message never came, because there is a newer one.

    For no other: a task that ends without a reply, but after its message arrived, would let the
    SuperNode wait for that reply for ever.
    """
    try:
        push_task_output(task.client, None, SubStatus.FAILED, "")
    finally:
        _close(task.heartbeat, task.client)


def give_up(task: Task) -> None:
    """End a task whose message could not be fetched: the coordinator may send it again.

    When the SuperNode does not take this answer either, it gives the same one by itself as soon as
    heartbeats are missing.
    """
    reason = "the site's worker could not fetch this message"
    with suppress(httpx.HTTPError, RuntimeError):
        push(task, Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=task.announced))


def leave(task: Task) -> None:
    """End the heartbeats of a task and say nothing: the SuperNode gives an error by itself."""
    _close(task.heartbeat, task.client)


def _close(heartbeat: HeartbeatSender, client: RuntimeHttpClient) -> None:
    try:
        if heartbeat.is_running:
            heartbeat.stop()
    finally:
        client.close()


def remember(message: Message, token: str) -> str:
    """What a later process needs to answer for this one: one line, to be kept secret."""
    content = message_to_proto(remove_content_from_message(message)).SerializeToString()
    return f"{token} {content.hex()}"


def answer_for(address: str, memory: str) -> None:
    """Tell the coordinator that the process that remembered `memory` ended at its work."""
    token, message_hex = memory.split()
    message = message_from_proto(ProtoMessage.FromString(bytes.fromhex(message_hex)))
    TaskIdentity.run_id = message.metadata.run_id
    TaskIdentity.task_id = TaskIdentity.node_id = message.metadata.dst_node_id
    reason = "the site's worker ended while it worked on this"
    reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)
    context = Context(
        run_id=message.metadata.run_id, node_id=message.metadata.dst_node_id, node_config={},
        state=RecordDict(), run_config={},
    )  # fmt: skip
    with _runtime(
        address,
        RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
        RuntimeTokenHttpInterceptor(token),
    ) as client:
        push_message(client, reply, context)
        push_task_output(client, None, SubStatus.FAILED, "")


def names_in(content: bytes) -> set[str]:
    """Names of the files in a bundle, which is not unpacked; `ValueError` when it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise ValueError("the bundle is not a zip file") from error


def _runtime(address: str, *interceptors: object) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # loopback of the hospital's own machine
        root_certificates=None,
        interceptors=list(interceptors),  # type: ignore[arg-type]
    )
