"""`flower-server status`: a running federation, seen from a terminal of the coordinator."""

import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from medsa_model.checkpoint import is_complete, latest_round
from medsa_model.config import load_run
from medsa_model.errors import ConfigError, MedsaError
from medsa_model.health import probe
from medsa_model.logs import read_metrics
from server.config import Federation
from server.flower_private import NodeRow, SuperLink, control, list_nodes

ONLINE_FOR = 60.0  # seconds after its last sign of life that Flower counts a site as connected


def show_status(federation: Federation, console: Console) -> int:
    """Print what runs; 1 when nothing does."""
    running = running_facts(federation)
    if running is None:
        console.print(f"federation {federation.name}: no flower-server is running here")
        return 1
    run = Path(running["run"]) if running["run"] else None
    health = probe(running["health"])
    events = read_metrics(run) if run else []
    console.print(f"federation {federation.name}: process {running['pid']}, SuperLink {health}")
    told = f"run {run}: {progress(run)}" if run else "no run yet: waiting for sites"
    console.print(told, soft_wrap=True, highlight=False)
    try:
        with control(SuperLink(running["address"], Path(running["certificate"]), b"")) as client:
            nodes = {n.name: n for n in list_nodes(client) if n.status != "unregistered"}
    except (httpx.HTTPError, OSError):
        nodes = {}
        console.print("the SuperLink does not answer: sites are shown by the run's log alone")
    table = Table()
    for heading in ("site", "connected", "last contact", "round", "loss", "Dice", "up", "down"):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for member in federation.sites:
        table.add_row(*row(member.name, nodes.get(member.name), events))
    console.print(table)
    return 0 if health == "serving" else 1


def running_facts(federation: Federation) -> dict[str, str] | None:
    """What the running process noted for others; `None` when none is running."""
    place = federation.folder / "running.json"
    try:
        facts = {name: str(value) for name, value in json.loads(place.read_text()).items()}
        pid = int(facts["pid"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise ConfigError(f"{place} cannot be read: {error}") from error
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it runs under another account
        pass
    return facts


def progress(run: Path) -> str:
    """Which round a run is in."""
    try:
        config = load_run(run / "config.yaml")
    except MedsaError as error:
        return str(error)
    if is_complete(run):
        return f"complete, {config.rounds} rounds"
    return f"{latest_round(run) or 0} of {config.rounds} rounds are done"


def row(name: str, node: NodeRow | None, events: list[dict[str, object]]) -> list[str]:
    """The table's row of one site."""
    mine = [event for event in events if event.get("site") == name]
    trained = [event for event in mine if event["event"] == "train"]
    scored = [event for event in mine if event["event"] == "evaluate"]
    up, down = (sum(_number(event, key) for event in mine) for key in ("up_bytes", "down_bytes"))
    return [
        name, *contact(node),
        str(trained[-1]["round"]) if trained else "-",
        f"{_number(trained[-1], 'loss'):.3f}" if trained else "-",
        f"{_number(scored[-1], 'dice'):.3f}" if scored else "-",
        f"{up / 10**6:.1f} MB", f"{down / 10**6:.1f} MB",
    ]  # fmt: skip


def contact(node: NodeRow | None) -> tuple[str, str]:
    """Whether a site is connected ("yes", "no"), and how long ago it was heard of."""
    if node is None:
        return "no", "never"
    last = "never"
    if node.online_until:
        last = ago(max(0.0, time.time() - (node.online_until - ONLINE_FOR)))
    if node.status == "online":
        return "yes", last
    if node.deactivated:
        last = ago(time.time() - datetime.fromisoformat(node.deactivated).timestamp())
    return "no", last


def ago(seconds: float) -> str:
    """A time that has passed, to the unit that matters."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _number(event: Mapping[str, object], key: str) -> float:
    value = event.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
