"""The two engines of a simulation: in this process, or Flower's own on Ray."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from client.app import make_app
from sim.grid import COORDINATOR, InProcessGrid
from sim.ray_cluster import Shares, connect, open_on_node, print_of
from sim.sites import mods, open_site


def run_in_process(server: ServerApp, run: Path, ledgers: Path, names: Sequence[str]) -> None:
    """Virtual sites answer one after the other in this process.

    The sites of `run` have their privacy ledgers in the folder `ledgers`.
    """
    grid = InProcessGrid(make_app(partial(open_site, run, ledgers), mods(run)), names)
    context = Context(
        run_id=1, node_id=COORDINATOR, node_config={}, state=RecordDict(), run_config={}
    )
    server(grid=grid, context=context)


def run_with_ray(
    server: ServerApp, run: Path, ledgers: Path, nodes: int, processes: int, address: str | None,
    shares: Shares,
) -> None:  # fmt: skip
    """Virtual sites answer in processes of Flower's simulation engine, which take `shares`.

    Without an `address` a Ray of this machine is started for as many as `processes`, which share
    its GPUs; else the Ray cluster at `address` is used, with as many as fit into it. Raises
    `ConfigError` when that cannot be reached, or where there is no room for one process.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from flwr.simulation import run_simulation

    resources = connect(address, processes, shares)
    run, ledgers = run.resolve(), ledgers.resolve()
    try:
        run_simulation(
            server_app=server,
            client_app=make_app(partial(open_on_node, run, print_of(run), ledgers), mods(run)),
            num_supernodes=nodes,
            backend_config={"client_resources": {**resources}},
        )
    finally:
        ray.shutdown()  # of a cluster: leaves it
