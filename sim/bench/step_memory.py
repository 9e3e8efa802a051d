"""Largest memory of one training step beyond the model at rest, each in a fresh process."""

from collections.abc import Mapping
from typing import Any

import torch

from medsa_model.adapters import Msa
from medsa_model.adapters.freeze import round_frozen
from sim.bench.child import in_child, watched
from sim.bench.models import Settings, adapted, made_up, precision_of, training_step
from sim.bench.plain import plain_copy
from sim.bench.results import Fact, Row, Side
from sim.bench.steps import touch
from sim.bench.timing import seconds_of

PLAIN, OURS, SAVING = "plain", "ours", "ours, saving"


def memory_1024(settings: Settings, backbone: str = "vit_b", image_size: int = 1024) -> list[Row]:
    """The plain way in float32 against ours, once: as it is, and with all that saves memory.

    That is blocks that are computed again in the backward pass and, where the step is in bfloat16,
    frozen layers that are kept in it.
    """
    precision = precision_of(settings.device)
    found = {
        way: in_child(measured_step, settings.threads, exact=True, way=way, backbone=backbone,
                      image_size=image_size, precision="float32" if way == PLAIN else precision,
                      device=str(settings.device), seed=settings.seed)
        for way in (PLAIN, OURS, SAVING)
    }  # fmt: skip
    plain = Side("plain, float32", [found[PLAIN]["rise"]])
    rows = []
    for way in (OURS, SAVING):
        facts: dict[str, Fact] = {
            "backbone": backbone, "image_size": image_size,
            "plain_at_rest": found[PLAIN]["before"], "ours_at_rest": found[way]["before"],
            "plain_seconds": found[PLAIN]["seconds"], "ours_seconds": found[way]["seconds"],
        }  # fmt: skip
        ours = Side(f"{way}, {precision}", [found[way]["rise"]])
        rows.append(Row(f"memory_1024, {way}", "bytes", plain, ours, facts))
    return rows


def measured_step(
    way: str, backbone: str, image_size: int, precision: str, device: str, seed: int
) -> Mapping[str, Any]:
    """In a process of its own: bytes at rest, and the most beyond them in a step."""
    chosen = torch.device(device)
    model = adapted(backbone, image_size, Msa(), seed, chosen)
    if way == PLAIN:
        model = plain_copy(model)
    if way == SAVING:
        model.recompute = True
        if precision == "bfloat16":
            round_frozen(model, torch.bfloat16)
    step = training_step(model, made_up(1, 0, image_size, seed), precision)
    touch(chosen)
    with watched(chosen) as memory:
        seconds = seconds_of(step, chosen)
    return {"before": memory.before, "rise": memory.rise, "seconds": seconds}
