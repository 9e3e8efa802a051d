"""The node id that the coordinator's Flower gave to this site, as the SuperNode's log has it."""

import re
from pathlib import Path

import httpx

from client.config import SiteConfig
from client.connection import open_client, read_key
from client.flower_fleet import deactivate
from medsa_model.logs import logger

NODE = re.compile(rb"SuperNode ID: (\d+)")


def note_node(state: Path) -> None:
    """Keep the node id that Flower gave this site, from the SuperNode's log."""
    log, place = state / "supernode.log", state / "node"
    try:
        if place.exists() and place.stat().st_mtime >= log.stat().st_mtime:
            return
        found = NODE.findall(log.read_bytes())
    except OSError:
        return
    if found:
        place.write_text(found[-1].decode())


def has_node(state: Path, start: int) -> bool:
    """Whether the coordinator gave a node id to the SuperNode whose log begins at byte `start`."""
    try:
        with (state / "supernode.log").open("rb") as log:
            log.seek(start)
            return NODE.search(log.read()) is not None
    except OSError:
        return False


def end_earlier_node(config: SiteConfig) -> None:
    """Tell the coordinator that a process of this site that was killed is no longer there.

    Else it would count as connected for a minute, in which the new one is not let in.
    """
    place = config.state / "node"
    try:
        node_id = int(place.read_text())
    except (OSError, ValueError):
        return
    with open_client(config) as client:
        try:
            deactivate(client, read_key(config.key), node_id)
        except httpx.HTTPError as error:
            logger.debug("no farewell for the earlier node: %s", error)
