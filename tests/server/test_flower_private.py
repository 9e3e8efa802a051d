"""The contract with Flower's private names: raise the pin of flwr only when this passes."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.common.constant import ErrorCode
from flwr.supercore.constant import TaskType

import client.flower_private
from server.flower_private import APP, LOST, PUBLISHER, UNAVAILABLE, bundle, connected

ROOT = Path(__file__).parents[2]


def test_the_pin_is_exact_and_what_is_installed():
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (pin,) = [each for each in needs if each.startswith("flwr")]
    assert pin == f"flwr=={version('flwr')}"


def test_the_codes_are_flowers():
    assert UNAVAILABLE in LOST
    assert min(LOST) > 0 and max(LOST) < 1000  # ours begin there
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION not in LOST
    assert TaskType.CLIENT_APP != TaskType.SERVER_APP


def test_our_bundle_carries_no_code_and_is_the_same_every_time():
    content = bundle({"run": "small", "sha256": "0" * 64})
    assert set(client.flower_private.names_in(content)) == client.flower_private.FILES
    assert content == bundle({"run": "small", "sha256": "0" * 64})
    assert f"{PUBLISHER}/{APP}" == client.flower_private.APP


def test_telemetry_and_update_checks_are_off_before_flower_is_imported():
    from flwr.supercore import telemetry

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"


def test_a_grid_without_a_superlink_knows_its_nodes_alone():
    from flwr.clientapp import ClientApp

    from sim.grid import InProcessGrid

    nodes = connected(InProcessGrid(ClientApp(), ["a", "b"]))
    assert [*nodes] == [2, 3] and {node.name for node in nodes.values()} == {""}


def test_what_is_no_bundle_is_said_to_be_none():
    with pytest.raises(ValueError, match="not a zip"):
        client.flower_private.names_in(b"something else")
