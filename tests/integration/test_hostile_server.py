"""A coordinator that misuses its place: what a site does not do for it."""

import io
import signal
import zipfile

import pytest
from flwr.app import Context, MessageType, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.serverapp import Grid, ServerApp

from medsa_model.refusals import Reason
from server.config import load_federation
from server.coordinate import is_alone
from server.coordinator import Coordinator
from server.exchange import exchange
from server.flower_private import acquire, connected, control, execute, start_run
from tests.integration.federation import RUN, federation_at

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]

CODE = """
from pathlib import Path
Path({marker!r}).touch()
app = None
"""


@pytest.mark.fault
def test_code_in_a_bundle_is_not_executed_at_a_site(tmp_path):
    """The site says why, goes on living, and ends with 0 on SIGTERM."""
    marker = tmp_path / "executed"
    code = CODE.format(marker=str(marker)).encode()
    settings = b"""
[project]
name = "fed-medsa"
version = "0.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fed-medsa"
[tool.flwr.app.components]
serverapp = "client.app:app"
clientapp = "client.app:app"
"""
    files = {"pyproject.toml": settings, "client/app.py": code, "client/__init__.py": code}
    bundle, _ = build_fab_from_files(files)
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        assert "client/app.py" in archive.namelist()  # it does carry code
    replies = []
    hostile = ServerApp()

    @hostile.main()
    def main(grid: Grid, context: Context) -> None:
        nodes = {node_id: node.name for node_id, node in connected(grid).items()}
        replies.extend(exchange(grid, nodes, MessageType.QUERY, RecordDict(), "0", 60))

    with (
        federation_at(tmp_path / "f", RUN, quorum=1) as federation,
        Coordinator(load_federation(federation.config)) as coordinator,
    ):
        federation.start_site("site_a")
        federation.wait("connection", lambda: not is_alone(coordinator))
        link = coordinator.place.link
        with control(link) as client:
            start_run(client, bundle)
        token = acquire(link)
        assert token
        execute(link, token, hostile)
        (reply,) = replies
        assert reply.site == "site_a" and reply.message.error.code == Reason.BUNDLE
        assert "executes only what is installed" in str(reply.message.error.reason)
        assert not marker.exists()
        assert "refused" in federation.output("site_a")
        site = federation.processes["site_a"]
        assert site.poll() is None
        site.send_signal(signal.SIGTERM)
        assert federation.wait_for_end(20) == {"site_a": 0}
    assert not marker.exists() and not list(tmp_path.rglob("flower/apps"))


@pytest.mark.fault
def test_a_federation_whose_sites_do_not_come_ends_with_3(tmp_path):
    with federation_at(tmp_path / "f", RUN, join_seconds=1) as federation:
        federation.start_server()
        assert federation.wait_for_end(60) == {"server": 3}
        said = " ".join(federation.output("server").split())
        assert "0 of 3 sites connected" in said and "missing: site_a, site_b, site_c" in said
        assert "Traceback" not in said
