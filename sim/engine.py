"""The two engines of a simulation: in this process, or Flower's own on Ray."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from client.app import make_app
from sim.grid import COORDINATOR, InProcessGrid
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


def run_with_ray(server: ServerApp, run: Path, ledgers: Path, nodes: int, processes: int) -> None:
    """Virtual sites answer in `processes` processes of Flower's simulation engine.

    With GPUs, each process gets an equal share of one.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import torch
    from flwr.simulation import run_simulation

    gpus = torch.cuda.device_count()
    share = gpus / processes if gpus else 0.0
    run_simulation(
        server_app=server,
        client_app=make_app(
            partial(open_site, run.resolve(), ledgers.resolve()), mods(run.resolve())
        ),
        num_supernodes=nodes,
        backend_config={
            "init_args": {"num_cpus": processes, "num_gpus": gpus},
            "client_resources": {"num_cpus": 1, "num_gpus": share},
        },
    )
