"""What the coordinator needs for many answers: how many are alive at once, and its memory.

The sites are made up, and each makes its answer when it is pulled; what asks, judges, keeps and
averages them is the coordinator's own code (`server/training_round.py`).
"""

import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medsa_model.checkpoint import Round
from medsa_model.config import RunConfig
from medsa_model.errors import ConfigError
from medsa_model.records import to_arrays
from medsa_model.state import AdapterState, Manifest
from server.app import close_round
from server.introduction import Node
from server.roster import Roster
from server.rules import Rules
from server.study import Study
from server.training_round import train_round
from sim.bench.child import in_child, watched, without_log
from sim.bench.models import Settings
from sim.bench.results import Fact, Row, Side
from sim.grid import InProcessGrid

TENSOR = (768, 192)  # half of an adapter of vit_b
MEGABYTES = 14.0  # of an answer, 10^6 bytes: adapters of vit_b in half of its blocks
CASES = 10  # of every site
SPARE = 1.1  # of the space that the answers need


def server_memory(settings: Settings, megabytes: float = MEGABYTES) -> list[Row]:
    """Memory of a round with `settings.answers` answers of so many megabytes.

    Raises `ConfigError` when the disk has no room for them.
    """
    check_space(settings.out, settings.answers, megabytes)
    with tempfile.TemporaryDirectory(dir=settings.out, prefix="answers-") as place:
        found = in_child(take_answers, settings.threads, exact=True, place=place,
                         answers=settings.answers, megabytes=megabytes,
                         seed=settings.seed)  # fmt: skip
    facts: dict[str, Fact] = {
        name: found[name]
        for name in ("answers", "answer_bytes", "most_alive", "seconds", "seconds_of_mean")
    }
    together = found["answers"] * found["answer_bytes"]
    everything = Side("computed: all answers together", [together], computed=True)
    return [Row("server_memory", "bytes", everything, Side("coordinator", [found["rise"]]), facts)]


def check_space(out: Path, answers: int, megabytes: float = MEGABYTES) -> None:
    """Raise `ConfigError` when `out` cannot hold the answers of a round."""
    needed, free = SPARE * answers * megabytes * 1e6, shutil.disk_usage(out).free
    if free < needed:
        raise ConfigError(
            f"--answers {answers}: a round keeps them in {out} while it lasts, which takes "
            f"{needed / 1e9:.1f} GB, found {free / 1e9:.1f} GB free: choose another --out, or "
            "fewer --answers"
        )


def take_answers(place: str, answers: int, megabytes: float, seed: int) -> Mapping[str, Any]:
    """In a process of its own: a round of `answers` made-up answers in the folder `place`."""
    manifest = manifest_of(megabytes)
    start: AdapterState = {name: torch.zeros(shape) for name, shape in manifest.shapes.items()}
    config = RunConfig.model_validate(
        {"name": "bench", "rounds": 1, "data": {"kind": "synthetic"}, "train": {"steps": 1}}
    )
    alive: weakref.WeakSet[Message] = weakref.WeakSet()
    most = [0]
    sites = [f"site_{number:05d}" for number in range(answers)]
    app = made_up_sites(sites, manifest, config, start, seed, alive, most)
    grid = InProcessGrid(app, sites)
    parts = {"train": CASES, "val": 0, "test": 0}
    nodes = {site: Node(number, site, parts) for number, site in enumerate(sites, start=2)}
    rules = Rules(nodes=answers, quorum=answers)
    roster = Roster(nodes, dict.fromkeys(grid.get_node_ids(), ""))
    study = Study(grid, config, Path(place), manifest, rules, roster)
    current = Round(0, start, {}, {})
    with without_log(), watched(torch.device("cpu")) as memory:
        started = time.monotonic()
        updates = train_round(study, current, None)
        received = time.monotonic()
        close_round(study, config.strategy, current, updates)
        ended = time.monotonic()
    return {
        "answers": len(updates), "answer_bytes": manifest.size_in_bytes, "most_alive": most[0],
        "rise": memory.rise, "seconds": received - started, "seconds_of_mean": ended - received,
    }  # fmt: skip


def manifest_of(megabytes: float) -> Manifest:
    """Tensors of the size of an adapter's, of so many megabytes together."""
    count = max(1, round(megabytes * 1e6 / (4 * torch.Size(TENSOR).numel())))
    return Manifest({f"adapter.{number}": TENSOR for number in range(count)}, "0" * 64, 256)


def made_up_sites(
    sites: Sequence[str], manifest: Manifest, config: RunConfig, start: AdapterState, seed: int,
    alive: "weakref.WeakSet[Message]", most: list[int],
) -> ClientApp:  # fmt: skip
    """Sites whose answers are small changes of the state `start`.

    `alive` holds those not yet let go of, and `most[0]` how many they were at most, the new one
    with them.
    """
    app = ClientApp()
    run = config.sha256

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = sites.index(str(context.node_config["site"]))
        generator = torch.Generator().manual_seed(seed + number)
        state = {
            name: before + 1e-3 * torch.randn(before.shape, generator=generator)
            for name, before in start.items()
        }
        told = {"num-examples": CASES, "loss": 0.5, "seconds": 1.0, "images": 4, "memory": 1000}
        order = dict(message.content.config_records["config"])
        del order["version"]
        content = RecordDict({
            "arrays": to_arrays(state, manifest.shapes, start), "metrics": MetricRecord(dict(told)),
            "echo": ConfigRecord({**order, "run": run}),
        })  # fmt: skip
        reply = Message(content, reply_to=message)
        alive.add(reply)
        most[0] = max(most[0], len(alive))
        return reply

    return app
