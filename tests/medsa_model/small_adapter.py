"""Trained adapters of `vit_tiny` in a frame of 32 pixels, and runs around them, for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medsa_model.adapters import Adapter, Msa
from medsa_model.backbone import Model
from medsa_model.build import build
from medsa_model.checkpoint import Round, link_round, save_round
from medsa_model.logs import append_metrics
from medsa_model.task import Task
from medsa_model.trained import Trained

MODEL = Model(image_size=32)
TASK = Task(structures=("liver", "spleen"), prompts=("click", "box"), seed=3)


def small(adapter: Adapter | None = None, model: Model = MODEL, task: Task = TASK) -> Trained:
    """An adapter whose tensors are random, so that each of them matters."""
    adapter = adapter or Msa(ratio=0.1, blocks="last-2", decoder_width=4)
    built = build(model, adapter, task.seed, torch.device("cpu"), task.named)
    numbers = torch.Generator().manual_seed(1)
    state = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=numbers)
        for name, tensor in built.initial.items()
    }
    return Trained(Path(), model, adapter, task, built.manifest, state)


def save(run: Path, trained: Trained, number: int = 2, final: bool = True) -> Path:
    """The adapter as a round of `run`; returns its directory."""
    sections = {
        "model": trained.model.model_dump(mode="json", exclude={"checkpoint"}),
        "adapter": trained.adapter.model_dump(mode="json"),
        "task": trained.task.model_dump(mode="json"),
    }
    place = save_round(run, Round(number, trained.state, {}, {}), trained.manifest, sections)
    for name in ("best", "final") if final else ():
        link_round(run, name, number)
    return place


def write_facts(
    run: Path, sites: Sequence[str] = ("vienna", "lyon"), privacy: str = "null", **files: Any
) -> None:
    """What a run of two rounds writes beside its rounds; `files` are further JSON files."""
    run.mkdir(parents=True, exist_ok=True)
    config = f"name: pilot\nseed: 3\nrounds: 2\ndata:\n  kind: folder\nprivacy: {privacy}\n"
    (run / "config.yaml").write_text(config)
    for name, content in {"versions": {"torch": "9.8.7"}, **files}.items():
        (run / f"{name}.json").write_text(json.dumps(content))
    for number in (1, 2):
        for site in sites:
            append_metrics(run, "train", round=number, site=site, up_bytes=1000, down_bytes=2000)


def score(run: Path, site: str, dice: float, cases: int, **others: Any) -> None:
    """The scores of a site on its test cases after round 2, with a click unless told otherwise."""
    facts = {"round": 2, "part": "test", "prompt": "click", "iou": dice / 2, **others}
    append_metrics(run, "evaluate", site=site, dice=dice, cases=cases, **facts)
