"""Virtual sites: the parts of one data set on this machine, opened once per process."""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from flwr.app import Context

from client.app import Mod
from client.hospital import Site
from medsa_model.build import build
from medsa_model.data import GENERATED
from medsa_model.data.frames import Kept
from medsa_model.data.prefetch import threads_for
from medsa_model.data.sample import Case
from medsa_model.data.split import read_split
from medsa_model.device import choose_device
from medsa_model.errors import ConfigError, DataError
from medsa_model.state import Manifest
from medsa_model.tensor_store import TensorStore
from sim.annotations import with_annotations
from sim.attacks import attacking, with_labels_flipped
from sim.config import SimulatedRun, load_simulation

POOLED = "pooled"
"""Name of the virtual site that holds everybody's training cases: the centralised reference."""
RESERVED = {POOLED, "federated", "centralized"}


def open_cases(config: SimulatedRun) -> list[Case]:
    """All cases of the run's data set; raises `ConfigError` when a root is needed and missing."""
    root = config.data.root
    if root is None and config.data.kind not in GENERATED:
        raise ConfigError("data.root is empty: say where the data set lies, data.root=PATH")
    return config.data.open(root or Path())


def check_names(sites: Iterable[str]) -> None:
    """Refuse names that cannot be folders or that stand for something else in the results."""
    for site in sites:
        if not re.fullmatch(r"[A-Za-z0-9][\w .-]{0,63}", site, re.ASCII) or site in RESERVED:
            raise DataError(
                f"site {site!r}: a name starts with A-Z, a-z or a digit; the rest is letters A-Z "
                "and a-z, digits, space, dot, hyphen and underscore, 64 characters in all at most; "
                f"it is none of {', '.join(sorted(RESERVED))}. Change it in sites.csv"
            )


@lru_cache(maxsize=1)
def open_sites(run: Path) -> dict[str, Site]:
    """Every site of the simulation in `run`, and the pooled one, in a fixed order."""
    config = load_simulation(run / "config.yaml")
    split = read_split(run / "split.json")
    cases = {case.case: case for case in open_cases(config)}
    listed = {name for parts in split.sites.values() for names in parts.values() for name in names}
    if missing := sorted(listed - cases.keys()):
        raise DataError(
            f"{len(missing)} cases of split.json are no longer in the data set: "
            f"{', '.join(missing[:10])}; a run needs the same images until it is finished"
        )
    check_names(split.sites)
    device = choose_device(config.sim.device)
    parts = {
        site: {part: [cases[name] for name in names] for part, names in named.items()}
        for site, named in split.sites.items()
    }
    known = config.sim.annotations.draw(sorted(parts), len(config.data.classes), config.seed)
    for site, named in parts.items():
        if not all(known[site]):
            named["train"] = [with_annotations(case, known[site]) for case in named["train"]]
    for site in attackers_of(config, [*parts]):
        if config.sim.attack and config.sim.attack.kind == "label_flip":
            named = parts[site]
            named["train"] = [with_labels_flipped(case) for case in named["train"]]
    parts[POOLED] = {"train": [case for named in parts.values() for case in named["train"]]}
    checkpoint, workers = config.model.checkpoint, threads_for(config.sim.workers, device)
    memory = config.sim.memory_gigabytes and config.sim.memory_gigabytes * 10**9
    # also one that keeps nothing: it rounds like any other, so that results do not depend on it
    cache = TensorStore(round(config.sim.cache_megabytes * 10**6))
    kept: Kept = {}  # shared, so that the pooled site holds no second copy of a frame
    return {
        name: Site(name, part, device, checkpoint, workers, kept, cache=cache, memory=memory)
        for name, part in parts.items()
    }


def attackers_of(config: SimulatedRun, sites: Iterable[str]) -> tuple[str, ...]:
    """Sites of the run that attack it; none without `sim.attack`."""
    return config.sim.attack.draw([*sites], config.seed) if config.sim.attack else ()


def mods(run: Path) -> list[Mod]:
    """What stands around the sites' app: in a simulation of attacks what attackers change."""
    config = load_simulation(run / "config.yaml")
    if config.sim.attack is None:
        return []
    attackers = attackers_of(config, read_split(run / "split.json").sites)

    return [
        attacking(config.sim.attack, attackers, partial(name_of, run), partial(manifest_of, run))
    ]


def name_of(run: Path, context: Context) -> str:
    """The name of the site that a context belongs to."""
    return open_site(run, run / "ledgers", context).name


@lru_cache(maxsize=1)
def manifest_of(run: Path) -> Manifest:
    """What the updates that the sites of `run` send must look like."""
    config, device = load_simulation(run / "config.yaml"), torch.device("cpu")
    made = build(config.model, config.adapter, config.seed, device, config.named_classes)
    return made.manifest.sent_as(config.message.update)


def open_site(run: Path, ledgers: Path, context: Context) -> Site:
    """The site of a message: by name in process, by number under Flower's own engine."""
    sites = with_ledgers(run, ledgers)
    if "site" in context.node_config:
        return sites[str(context.node_config["site"])]
    return list(sites.values())[int(str(context.node_config["partition-id"]))]


@lru_cache(maxsize=1)
def with_ledgers(run: Path, ledgers: Path) -> dict[str, Site]:
    """The sites of `run` for one row of a comparison, with their ledgers in a folder of it, and
    what rounding leaves out of their updates in another one."""
    if load_simulation(run / "config.yaml").privacy:
        ledgers.mkdir(parents=True, exist_ok=True)
    return {
        name: replace(
            site, ledger=ledgers / f"{name}.jsonl", residues=ledgers.with_name("residues") / name
        )
        for name, site in open_sites(run).items()
    }
