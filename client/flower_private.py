"""Every private Flower name that a site uses, and nothing else. flwr is pinned for these.

`tests/client/test_flower_private.py` holds the contract; raise the pin only when it passes.
"""

import hashlib
import io
import zipfile
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import TIMESTAMP_HEADER, ErrorCode, SubStatus
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.run_pb2 import GetRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    TaskType,
)
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

# Flower waits for one second when an object of a message is still on its way to the SuperNode.
(pull_objects.__kwdefaults__ or {}).update(initial_backoff=0.05, backoff_cap=1.0)

APP = "fed-medsa/fed-medsa"
FILES = {"pyproject.toml", ".info/CONTENT"}
"""All that a bundle of ours holds: no code."""


@dataclass(frozen=True)
class Task:
    """A message to answer, with what came along."""

    client: RuntimeHttpClient
    heartbeat: HeartbeatSender
    message: Message
    context: Context
    app: str
    """Flower's id of the app that the run names."""
    content: bytes
    """The run's bundle. Never unpacked, never executed."""
    intact: bool
    """Whether the bundle has the hash that the run promises."""


def acquire(address: str, secret: bytes) -> str | None:
    """Take the next message to answer from the SuperNode; its token, `None` if there is none.

    Only tasks for a ClientApp are taken. Raises `httpx.HTTPError` when the SuperNode is away.
    """
    with _runtime(
        address,
        RuntimeVersionHttpInterceptor(component_name="SuperExec"),
        SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
        ),
    ) as client:
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        return client.AcquireTask(request).token or None


def pull(address: str, token: str) -> Task:
    """Fetch the message of a token; its heartbeats begin, and end with `push`."""
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
    message, context, run, fab = pull_task_input(client)
    intact = hashlib.sha256(fab.content).hexdigest() == run.fab_hash
    return Task(client, heartbeat, message, context, run.fab_id, fab.content, intact)


def push(task: Task, reply: Message) -> None:
    """Hand the reply to the SuperNode and end the task."""
    try:
        push_message(task.client, reply, task.context)
        status = SubStatus.FAILED if reply.has_error() else SubStatus.COMPLETED
        push_task_output(task.client, task.context, status, "")
    finally:
        task.heartbeat.stop()
        task.client.close()


def remember(task: Task, token: str) -> str:
    """What a later process needs to answer for this one: one line, to be kept secret."""
    message = message_to_proto(remove_content_from_message(task.message)).SerializeToString()
    return f"{token} {message.hex()}"


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


def ask_the_door(client: httpx.Client, key: ec.EllipticCurvePrivateKey) -> httpx.Response:
    """A signed question about no run in particular: only the door's answer matters."""
    content = GetRunRequest().SerializeToString()
    return client.post("/v1/fleet/get-run", content=content, headers=signed(key))


def deactivate(client: httpx.Client, key: ec.EllipticCurvePrivateKey, node_id: int) -> None:
    """Tell the coordinator that an earlier process of this site has ended."""
    content = DeactivateNodeRequest(node_id=node_id).SerializeToString()
    with suppress(httpx.HTTPError):
        client.post("/v1/fleet/deactivate-node", content=content, headers=signed(key))


def signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The headers of a request to the Fleet API, signed now."""
    stamp = datetime.now(UTC).isoformat()
    public = public_key_to_bytes(key.public_key())
    return {
        "content-type": PROTOBUF_MEDIA_TYPE,
        "accept": PROTOBUF_MEDIA_TYPE,
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public).decode(),
        TIMESTAMP_HEADER: stamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, stamp.encode())).decode(),
    }


def _runtime(address: str, *interceptors: object) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # loopback of the hospital's own machine
        root_certificates=None,
        interceptors=list(interceptors),  # type: ignore[arg-type]
    )
