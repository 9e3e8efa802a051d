"""Ray for `sim.engine: ray`: one of this machine's own, or a cluster that is running.

A process of the simulation works on any machine of a cluster. It finds the sites by the run
directory, and their images by `data.root`, so both have to be on storage that all machines see at
the same path, and the same version of this program has to be installed on all of them.
"""

import hashlib
import math
import os
import platform
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from client.hospital import Site
from medsa_model.errors import ConfigError
from medsa_model.refusals import Reason, Refused
from sim.sites import open_site

REACHED_SECONDS = 10.0
DECIDING = ("config.yaml", "split.json")
"""Files of a run directory by which every process finds the same sites."""


@dataclass(frozen=True)
class Shares:
    """What one process of the simulation takes: processor cores, and GPUs or a part of one.

    `gpus` is `None` for an equal share of this machine's GPUs, or of a cluster for one GPU where
    there are any.
    """

    cpus: int = 1
    gpus: float | None = None


def address_of(wished: str | None) -> str | None:
    """The address of the Ray cluster to use: `wished`, else that of Ray's own RAY_ADDRESS."""
    address = wished or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def connect(address: str | None, processes: int, shares: Shares) -> dict[str, int | float]:
    """Start Ray for `processes`, or join the cluster at `address`; returns what a process takes.

    Raises `ConfigError` when there is no such cluster, or when no process fits into it or into
    this machine.
    """
    import ray
    import torch

    # as Flower would: changes of the import path in this process are not inherited
    paths = os.pathsep.join([*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": paths}
    environment: dict[str, object] = {"env_vars": settings}
    if address is None:
        cpus, gpus = processes * shares.cpus, torch.cuda.device_count()
        taken = _taken(shares, _equal_share(gpus, processes))
        if not _fits(taken, {"CPU": cpus, "GPU": gpus}):
            raise ConfigError(
                f"sim.ray_gpus: a process takes {taken['num_gpus']:g} GPUs, but this machine has "
                f"{gpus}; leave the key out, or set sim.ray_address to a Ray cluster that has them"
            )
        ray.init(
            "local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False,
            runtime_env=environment,
        )  # fmt: skip
        return taken
    try:
        _reach(address)
        ray.init(address, runtime_env=environment)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"sim.ray_address: the Ray cluster at {address} cannot be used ({reason}); start it "
            "with `ray start --head`, correct the address, or take it and the environment's "
            "RAY_ADDRESS away to start a Ray of this machine's own"
        ) from error
    whole = ray.cluster_resources()
    taken = _taken(shares, 1.0 if whole.get("GPU") else 0.0)
    if not any(_fits(taken, node["Resources"]) for node in ray.nodes() if node["Alive"]):
        ray.shutdown()
        raise ConfigError(
            f"sim.ray_cpus, sim.ray_gpus: a process takes {taken['num_cpus']} cores and "
            f"{taken['num_gpus']:g} GPUs, which no machine of the Ray cluster at {address} has; in "
            f"all it has {whole.get('CPU', 0):g} cores and {whole.get('GPU', 0):g} GPUs"
        )
    return taken


def _reach(address: str) -> None:
    """Raise `OSError` unless something listens at HOST:PORT: Ray would try for many minutes."""
    host, found, port = address.removeprefix("ray://").rpartition(":")
    if found and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACHED_SECONDS).close()


def _taken(shares: Shares, usual: float) -> dict[str, int | float]:
    gpus = usual if shares.gpus is None else shares.gpus
    return {"num_cpus": shares.cpus, "num_gpus": gpus}


def _equal_share(gpus: int, processes: int) -> float:
    """GPUs of each process: a whole number, or a part of one that all of them get."""
    if processes <= gpus:
        return float(gpus // processes)
    return 1 / math.ceil(processes / gpus) if gpus else 0.0


def _fits(taken: dict[str, int | float], has: Mapping[str, float]) -> bool:
    return has.get("CPU", 0) >= taken["num_cpus"] and has.get("GPU", 0) >= taken["num_gpus"]


def print_of(run: Path) -> str:
    """sha256 of what decides which sites `run` has; raises `OSError` when it is not there."""
    contents = (hashlib.sha256((run / name).read_bytes()).digest() for name in DECIDING)
    return hashlib.sha256(b"".join(contents)).hexdigest()


def open_on_node(run: Path, expected: str, ledgers: Path, context: Context) -> Site:
    """The site of a message on the machine of this process.

    Raises `Refused` when the run directory is not there, or another one: `expected` is its
    `print_of` where the coordinator is.
    """
    if (found := _found(run, expected)) != expected:
        what = "another run" if found else "no run directory"
        raise Refused(
            Reason.FAILED,
            f"on machine {platform.node()} there is {what} at {run}; with a Ray cluster --out and "
            "data.root have to be on storage that all its machines see at the same path",
        )
    return open_site(run, ledgers, context)


@lru_cache(maxsize=1)
def _found(run: Path, expected: str) -> str:
    """`print_of` here, empty when there is none; once per process and run."""
    try:
        return print_of(run)
    except OSError:
        return ""
