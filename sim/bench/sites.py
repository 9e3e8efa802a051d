"""What many virtual sites cost in a simulation: memory, and time beside their training."""

import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from medsa_model.logs import read_metrics
from sim.bench.child import in_child, watched, without_log
from sim.bench.models import Settings
from sim.bench.results import Row, Side
from sim.compare import Plan
from sim.config import SimulatedRun
from sim.directory import choose_directory
from sim.federations import run_plan
from sim.run import prepare

IMAGES = 4  # of every site: for training, validation and test


def sites_memory(
    settings: Settings, sites: int = 200, backbone: str = "vit_tiny", image_size: int = 96
) -> list[Row]:
    """Most memory of a simulation with one site and with `sites` of as many images each.

    In a row of their own stand the bytes beyond those before the simulation: most of a process is
    Python and PyTorch.
    """
    few, many = (
        in_child(simulated_memory, settings.threads, sites=count, image_size=image_size,
                 backbone=backbone, device=str(settings.device), seed=settings.seed)
        for count in (1, sites)
    )  # fmt: skip
    facts = {"sites": sites, "images_per_site": IMAGES}
    return [
        Row(f"sites_memory, {what}", "bytes", Side("1 site", [few[key]]),
            Side(f"{sites} sites", [many[key]]), facts)
        for what, key in (("whole process", "most"), ("rise", "rise"))
    ]  # fmt: skip


def simulated_memory(
    sites: int, backbone: str, image_size: int, device: str, seed: int
) -> Mapping[str, Any]:
    """In a process of its own: the most bytes of one simulated round, and those it added."""
    chosen = torch.device(device)
    with tempfile.TemporaryDirectory() as place, without_log(), watched(chosen) as memory:
        config = run_of(sites, 1, backbone, image_size, device, seed)
        simulate_federation(config, Path(place) / "run")
    return {"most": memory.most, "rise": memory.rise}


def round_overhead(
    settings: Settings, sites: int = 100, rounds: int = 3, backbone: str = "vit_tiny",
    image_size: int = 96,
) -> list[Row]:  # fmt: skip
    """Seconds of a round beyond what the sites say that their training took, by the clock."""
    config = run_of(sites, rounds, backbone, image_size, str(settings.device), settings.seed)
    with tempfile.TemporaryDirectory() as place, without_log():
        run = Path(place) / "run"
        simulate_federation(config, run)
        events = read_metrics(run)
    whole, training = seconds_by_round(events, "round"), seconds_by_round(events, "train")
    beyond = [whole[number] - training[number] for number in sorted(whole)]
    facts = {"sites": sites, "rounds": rounds, "training_seconds": sum(training.values()) / rounds,
             "seconds_per_site": min(beyond) / sites}  # fmt: skip
    return [Row("round_overhead", "s", None, Side(f"beyond training, {sites} sites", beyond),
                facts)]  # fmt: skip


def seconds_by_round(events: Iterable[Mapping[str, object]], event: str) -> dict[int, float]:
    """Round -> seconds of all its events of one kind."""
    seconds: dict[int, float] = {}
    for each in events:
        if each["event"] == event:
            number = int(str(each["round"]))
            seconds[number] = seconds.get(number, 0.0) + float(str(each["seconds"]))
    return seconds


def run_of(
    sites: int, rounds: int, backbone: str, image_size: int, device: str, seed: int
) -> SimulatedRun:
    """A run like that of configs/demo.yaml with `sites` sites of `IMAGES` generated images."""
    return SimulatedRun.model_validate({
        "name": "bench", "seed": seed, "rounds": rounds,
        "model": {"backbone": backbone, "image_size": image_size, "weights": "random"},
        "data": {"kind": "synthetic", "sites": 1, "cases_per_site": sites * IMAGES, "size": 96,
                 "structures": 1},
        "train": {"steps": 1, "batch_size": 2, "prompts_per_image": 1},
        "evaluate": {"every": 0},
        "sim": {"partition": {"kind": "iid", "sites": sites}, "split": {"test": 0.25, "val": 0.25},
                "rows": [], "references": [], "examples": 0, "processes": 1, "device": device},
    })  # fmt: skip


def simulate_federation(config: SimulatedRun, run: Path) -> float:
    """The federation of `config` without the rows that it is compared with; seconds."""
    choose_directory(config, run, False, False)
    names = tuple(prepare(config, run))
    started = time.monotonic()
    run_plan(Plan("federated", run, config, names), run, names)
    return time.monotonic() - started
