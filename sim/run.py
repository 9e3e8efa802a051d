"""What `medsa-sim` does with its parsed options (`sim/cli.py`): a comparison in a directory."""

import argparse
import json
import shlex
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from medsa_model.build import build
from medsa_model.checkpoint import latest_round
from medsa_model.command_line import INTERRUPTED
from medsa_model.data.duplicates import Seen, find_duplicates, fingerprint, shown
from medsa_model.data.reading import is_empty, read_each, refuse
from medsa_model.data.split import read_split, write_split
from medsa_model.device import choose_device
from medsa_model.errors import ConfigError
from medsa_model.launcher import refuse_launcher
from medsa_model.logs import logger, set_up
from medsa_model.report import write_report
from medsa_model.tracking import check_sinks, tracked
from server.rules import check_enough
from sim.compare import plans
from sim.config import Sim, SimulatedRun, load_simulation
from sim.directory import choose_directory
from sim.federations import finished, processes_for, run_plans
from sim.progress import progress_of
from sim.results import read_results, write_results
from sim.sites import POOLED, attackers_of, check_names, open_cases, open_sites
from sim.split import split


def run_simulation(options: argparse.Namespace) -> int:
    """Do what `sim/cli.py` understood; returns the exit code. Raises `MedsaError`, `OSError`."""
    run: Path | None = None
    try:
        set_up(options.verbose)
        refuse_launcher(
            "sim.processes spreads the federations of a comparison over processes, sim.engine=ray "
            "the sites of a federation over all GPUs, and sim.device=cuda:1 chooses a GPU"
        )
        check_sinks(options.track)
        config = load_simulation(options.config, options.override)
        run = choose_directory(config, options.out, options.resume, options.overwrite)
        with tracked(run, options.track):
            simulate(config, run, Console(markup=False, emoji=False), options.verbose)
    except KeyboardInterrupt:
        words = ["medsa-sim", "--config", str(options.config), *options.override]
        words += [word for sink in options.track for word in ("--track", sink)]
        again = shlex.join([*words, "--out", str(run), "--resume"])
        print("\nInterrupted." + (f" Go on with: {again}" if run else ""), file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if not error.filename:  # a full disk names no file
            error.filename = str(run or options.out or Path())
        raise
    return 0


def simulate(config: SimulatedRun, run: Path, console: Console, verbose: bool) -> None:
    """Run what is missing of the comparison in `run`, then write its results and report."""
    started = time.monotonic()
    check_engine(config.sim)
    sites = prepare(config, run)
    attackers = attackers_of(config, sites)
    sites = {site: cases for site, cases in sites.items() if site not in attackers}
    everything = plans(config, run, sites, attackers)
    processes = processes_for(config.sim, len(everything))
    resumed = any(latest_round(plan.folder) is not None for plan in everything)
    with progress_of(everything, console):
        todo = [plan for plan in everything if not finished(plan, sites)]
        run_plans(todo, run, list(sites), processes, verbose)
    write_results(config, run, sites, started, resumed)
    page = write_report(run)
    print_table(run, console)
    console.print(f"Report: {page}")


def prepare(config: SimulatedRun, run: Path) -> dict[str, int]:
    """Split the data of `run` unless that was done; returns training cases by site.

    Raises what is wrong with the weights, the data, the split or the device, before any training.
    """
    # kept for later; now, because a missing weights file must not be found after reading the data
    build(config.model, config.adapter, config.seed, torch.device("cpu"), config.named_classes)
    if not (run / "split.json").exists():
        dealt = split(open_cases(config), config.sim.partition, config.sim.split, config.seed)
        check_names(dealt.sites)
        write_split(dealt, run / "split.json")
    choose_device(config.sim.device)
    sites = read_split(run / "split.json").sites
    if unknown := sorted(config.prompt.by_site.keys() - sites.keys()):
        raise ConfigError(
            f"prompt.by_site has {', '.join(unknown)}, expected some of {', '.join(sites)}"
        )
    check_enough(config, len(sites))
    check_data(run)
    return {name: len(parts["train"]) for name, parts in sites.items()}


def check_engine(sim: Sim) -> None:
    """Raise `ConfigError` when the wished engine is not installed."""
    if sim.engine == "ray" and find_spec("ray") is None:
        raise ConfigError(
            "sim.engine is ray, but Ray is not installed: "
            'pip install -c constraints.txt -e ".[ray]"'
        )


def check_data(run: Path) -> None:
    """Read every case once before any training: a broken file must not end a night's run.

    Warns of implausible cases. Raises one `DataError` for all cases that cannot be read and all
    sites whose training or test cases are without a structure.
    """
    open_sites.cache_clear()
    faults: list[str] = []
    seen: list[Seen] = []
    for name, site in open_sites(run).items():
        for part, cases in site.parts.items() if name != POOLED else ():
            looks = read_each(cases, lambda s: (s.case, is_empty(s), fingerprint(s.image)), faults)
            seen += [Seen(case, part, print_) for case, _, print_ in looks if print_]
            empty = sum(bare for _, bare, _ in looks)
            if empty and empty == len(cases) and part != "val":
                faults.append(
                    f"site {name}: none of its {len(cases)} {part} cases has a structure (all "
                    "masks are empty), expected at least one; check the export of the masks or "
                    "choose another sim.partition"
                )
            elif empty:
                use = "used without a prompt" if part == "train" else "not scored"
                logger.warning(
                    "site %s: %d of %d %s cases have no structure; they are %s",
                    name, empty, len(cases), part, use,
                )  # fmt: skip
    refuse(faults)
    found = find_duplicates(seen)
    if twice := (*found.across, *found.alike):
        logger.warning(
            "%d pair(s) of cases in different parts (train, val, test) of any sites show the same "
            "image: %s; put both under one patient in sites.csv", len(twice), shown(twice),
        )  # fmt: skip
    logger.info("read and checked all cases")


def structure_lines(run: Path) -> list[str]:
    """Of several structures, the federated model's scores of each."""
    lines = []
    for prompt, block in json.loads((run / "report.json").read_text())["prompts"].items():
        found = block["rows"]["federated"].get("structures", {})
        volumes = all("hd95" in each for each in found.values())
        told = (
            f"{name} {each['dice']:.2f}" + (f" ({each['hd95']:.0f} mm)" if volumes else "")
            for name, each in found.items()
        )
        what = "Dice (HD95)" if volumes else "Dice"
        if found:
            lines.append(f"federated, {prompt}, {what}: {', '.join(told)}")
    return lines


def print_table(run: Path, console: Console) -> None:
    """The rows of the comparison on the terminal."""
    for prompt, rows in read_results(run).items():
        table = Table(title=f"Dice on test cases, prompt: {prompt}", title_justify="left")
        for heading in ("row", "mean", "worst site", "gap"):
            table.add_column(heading, justify="left" if heading == "row" else "right")
        for name, values in rows.items():
            table.add_row(name, *(f"{values[key]:.3f}" for key in ("mean", "worst_site", "gap")))
        console.print(table)
    for line in structure_lines(run):
        console.print(line, highlight=False, soft_wrap=True)
