"""`flwr run .`: the federation of a run YAML as a plain Flower app, for those who run Flower.

Flower's simulation starts the two apps with the run configuration of `[tool.flwr.app.config]` in
pyproject.toml: `run` (a run YAML), `overrides` (as on the command line of `medsa-sim`) and `out`
(the run directory). One node stands for one site, so `num-supernodes` must be the number of sites.
Only the federation itself is trained: `medsa-sim --resume` adds the comparison to its directory.

The bundle that Flower sends carries no code: what is installed runs. (On the nodes Ray looks first
in the folder where the SuperLink was started; in a checkout that has to be the installed one.) The
nodes find the run directory by themselves, which works on one machine; real hospitals are what
`server` and `client` are for.
"""

import math
import os
import shlex
import sys
import time
from collections.abc import Collection
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from client.app import make_app as make_client_app
from client.hospital import Site
from medsa_model.data.pairing import first
from medsa_model.errors import ConfigError, FederationError
from medsa_model.logs import logger, set_up
from medsa_model.run_rows import final_scores
from server.app import make_app as make_server_app
from server.rules import Rules
from sim.compare import plans
from sim.config import SimulatedRun, load_simulation
from sim.directory import choose_directory, has_begun, is_ours
from sim.federations import finished
from sim.run import prepare
from sim.sites import open_site

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by Ray, which Flower starts later

LOOK = 0.5  # seconds between two looks at the number of nodes
LONGEST_REGISTRATION = 30.0  # seconds

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the federation in a new run directory.

    Raises `MedsaError` for settings or data that are not valid, for another number of nodes than
    sites, and when a round or the final scoring cannot be completed.
    """
    set_up(verbose=False)
    config = read_settings(context)
    run = run_directory(context)
    check_is_new(run)
    choose_directory(config, run, resume=False, overwrite=False)
    print(f"run directory: {run}", flush=True)  # the log would break a long line
    sites = prepare(config, run)
    check_nodes(count_nodes(grid), sites)
    plan = next(plan for plan in plans(config, run, sites) if plan.row == "federated")
    rules = Rules(nodes=len(sites), quorum=len(sites), timeout=math.inf)
    make_server_app(config, run, rules, plan.train_on, [*sites])(grid=grid, context=context)
    if not finished(plan, sites):
        raise FederationError(
            "not every site could be scored with every prompt; the reason stands above"
        )
    for prompt, scores in final_scores(run).items():
        listed = ", ".join(f"{site} {score['dice']:.3f}" for site, score in sorted(scores.items()))
        logger.info("Dice on test cases, prompt %s: %s", prompt, listed)
    print(f"compare it, with a report: {resume_command(run)}", flush=True)


def open_own_site(context: Context) -> Site:
    """The site of a node; raises `ConfigError` when the run directory is not found."""
    run = run_directory(context)
    return open_site(run, run / "ledgers", context)


client_app = make_client_app(open_own_site)


def read_settings(context: Context) -> SimulatedRun:
    """The run YAML with its overrides; raises `ConfigError` with every problem."""
    overrides = setting(context, "overrides")
    try:
        words = shlex.split(overrides)
    except ValueError as error:
        raise ConfigError(
            f"overrides {overrides!r}: {error}; expected key.sub=value with spaces in between"
        ) from error
    return load_simulation(find_run(setting(context, "run")), words)


def find_run(name: str) -> Path:
    """The run YAML `name`: in the bundle, which Flower puts first on the import path, or on disk.

    Raises `ConfigError` when it is nowhere.
    """
    for folder in [*sys.path, str(Path.cwd())]:
        if (path := Path(folder) / name).is_file():
            return path
    raise ConfigError(
        f"run {name!r}: there is no such file in the bundle (which has configs/*.yaml) nor in "
        f"{Path.cwd()}; give the whole path, --run-config 'run=\"/PATH/run.yaml\"'"
    )


def run_directory(context: Context) -> Path:
    """Where the coordinator writes and the nodes look: the same for all nodes of a Flower run."""
    out = setting(context, "out")
    return (Path(out) if out else Path("runs") / "flwr" / str(context.run_id)).absolute()


def setting(context: Context, key: str) -> str:
    """A value of the run configuration, empty when it has none."""
    return str(context.run_config.get(key, ""))


def check_is_new(run: Path) -> None:
    """Raise `ConfigError` when `run` holds a run that has begun."""
    if is_ours(run) and has_begun(run):
        raise ConfigError(
            f"out: {run} holds a run; choose another directory, or go on with that run: "
            f"{resume_command(run)}"
        )


def resume_command(run: Path) -> str:
    """The command line that adds to `run` what a comparison has and it lacks."""
    return shlex.join(
        ["medsa-sim", "--config", str(run / "config.yaml"), "--out", str(run), "--resume"]
    )


def count_nodes(grid: Grid) -> int:
    """Number of nodes, once it grows no more: Flower registers them while the app starts."""
    found, deadline = 0, time.monotonic() + LONGEST_REGISTRATION
    while time.monotonic() < deadline:
        before, found = found, len([*grid.get_node_ids()])
        if found and found == before:
            break
        time.sleep(LOOK)
    return found


def check_nodes(nodes: int, sites: Collection[str]) -> None:
    """Raise `ConfigError` unless there is one node for every site."""
    if nodes != len(sites):
        raise ConfigError(
            f"num-supernodes is {nodes}, but the run has {len(sites)} sites: {first(sites)}; "
            "expected one node for each. Use --federation-config "
            f"'num-supernodes={len(sites)} client-resources-num-cpus=1', or change the sites in "
            "the run YAML"
        )
