"""Private Flower names that the coordinator uses, and nothing else. flwr is pinned for these.

Those for replies are in `flower_replies.py`, those of the door in `flower_fleet.py`.
`tests/server/test_flower_private.py` holds the contract; raise the pin only when it passes.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import tomli_w
from flwr.app import Context
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import TIMESTAMP_HEADER as FLEET_TIMESTAMP_HEADER
from flwr.common.constant import ErrorCode, Status, SubStatus
from flwr.common.serde import (
    context_from_proto,
    fab_to_proto,
    run_from_proto,
    user_config_to_proto,
)
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    TaskType,
)
from flwr.supercore.control import ControlHttpClient as ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

LOST = frozenset(
    {ErrorCode.NODE_UNAVAILABLE, ErrorCode.CLIENT_APP_CRASHED, ErrorCode.MESSAGE_UNAVAILABLE}
)
"""Codes of error replies that say nothing about the message: the site was gone or restarted."""
UNAVAILABLE = ErrorCode.MESSAGE_UNAVAILABLE
PUBLIC_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER
TIMESTAMP_HEADER = FLEET_TIMESTAMP_HEADER
SIGNATURE_HEADER = FLEET_HTTP_SIGNATURE_HEADER
PUBLISHER = APP = "fed-medsa"


@dataclass(frozen=True)
class Connected:
    """A connected node: the name that its key was registered for, and when it was activated."""

    name: str
    activated: str


@dataclass(frozen=True)
class SuperLink:
    """How to reach the SuperLink on this machine: `host:port`, its certificate, the secret of
    those who may execute tasks."""

    address: str
    certificate: Path
    secret: bytes


@dataclass(frozen=True)
class NodeRow:
    """A registered node as the SuperLink lists it. Times are ISO 8601, empty when never."""

    node_id: int
    name: str
    public_key: bytes
    status: str
    activated: str
    deactivated: str
    online_until: float


def connected(grid: Grid) -> dict[int, Connected]:
    """Node id -> node, of all connected nodes; a grid without a SuperLink knows the ids alone."""
    if not isinstance(grid, HttpGrid):
        return {node_id: Connected("", "") for node_id in grid.get_node_ids()}
    return {node.node_id: Connected(node.name, node.last_activated_at) for node in grid.get_nodes()}


def bundle(settings: Mapping[str, str]) -> bytes:
    """A run bundle for Flower that carries no code: a pyproject.toml with `settings` alone."""
    app = {
        "publisher": PUBLISHER,
        "components": {"serverapp": "server.app:make_app", "clientapp": "client.app:make_app"},
        "config": dict(settings),
    }
    project = {"name": APP, "version": "0.0.0", "license": "Apache-2.0", "dependencies": []}
    text = tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
    content, _ = build_fab_from_files({"pyproject.toml": text.encode()})
    return content


def control(link: SuperLink) -> ControlHttpClient:
    """A client of the SuperLink's Control API."""
    return ControlHttpClient.from_server_address(
        server_address=link.address,
        insecure=False,
        root_certificates=link.certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )


def list_nodes(client: ControlHttpClient) -> list[NodeRow]:
    """Every registered node, connected or not."""
    return [
        NodeRow(
            node.node_id, node.name, node.public_key, node.status, node.last_activated_at,
            node.last_deactivated_at, node.online_until,
        )
        for node in client.ListNodes(ListNodesRequest()).nodes_info
    ]  # fmt: skip


def register(client: ControlHttpClient, public_key: bytes, name: str) -> None:
    """Register a node's public key (PEM)."""
    client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))


def unregister(client: ControlHttpClient, node_id: int) -> None:
    """Forget a node: its key is refused from now on, and can never be registered again."""
    client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))


def start_run(client: ControlHttpClient, content: bytes) -> int:
    """Submit a bundle; returns Flower's run id."""
    fab = fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {}))
    request = StartRunRequest(fab=fab, override_config=user_config_to_proto({}))
    return int(client.StartRun(request).run_id)


def stop_runs(client: ControlHttpClient) -> None:
    """Stop every run that an earlier process left unfinished."""
    for run_id, run in client.ListRuns(ListRunsRequest()).run_dict.items():
        if run.status.status != Status.FINISHED:
            stop_run(client, run_id)


def stop_run(client: ControlHttpClient, run_id: int) -> None:
    """Stop a run; one that has ended is left as it is."""
    with suppress(httpx.HTTPStatusError):
        client.StopRun(StopRunRequest(run_id=run_id))


def acquire(link: SuperLink) -> str | None:
    """Take the next pending server task; returns its token, `None` when there is none."""
    secret = SuperExecAuthHttpInterceptor(
        master_secret=link.secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
    )
    with RuntimeHttpClient.from_server_address(
        server_address=link.address,
        insecure=False,
        root_certificates=link.certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), secret],
    ) as client:
        request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        return client.AcquireTask(request).token or None


def execute(link: SuperLink, token: str, app: ServerApp) -> None:
    """Run `app` as the task of `token`, with heartbeats; its exception is raised again."""
    grid = HttpGrid(
        runtime_api_address=link.address,
        insecure=False,
        root_certificates=link.certificate.read_bytes(),
        token=token,
    )
    client = grid._runtime_client

    def beat() -> bool:
        try:
            return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
        except httpx.HTTPError:
            return False

    heartbeat = HeartbeatSender(beat)
    heartbeat.start()
    status = SubStatus.FAILED
    try:
        task = client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        grid.set_run(run_from_proto(task.run))
        context: Context = context_from_proto(task.context)
        app(grid=grid, context=context)
        status = SubStatus.COMPLETED
    finally:
        with suppress(httpx.HTTPError):
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=""))
        heartbeat.stop()
        grid.close()
