"""Seconds to segment one image after one click: the packaged SAM against ours."""

from collections.abc import Callable
from typing import Any

import torch

from medsa_model.adapters import Msa
from medsa_model.backbone import load_base
from medsa_model.device import autocast
from medsa_model.sam import MedSam
from sim.bench.models import Settings, adapted, made_up, precisions
from sim.bench.results import Fact, Row, Side
from sim.bench.timing import in_turn, unit_of


def inference(settings: Settings, backbone: str = "vit_b", image_size: int = 512) -> list[Row]:
    """A row for each precision. Ours has adapters, which add nothing yet: both give one mask."""
    device = settings.device
    packaged = load_base(backbone, image_size, None, "random", settings.seed).model.sam.to(device)
    model = adapted(backbone, image_size, Msa(), settings.seed, device)
    ours = {
        precision: segment(model, image_size, settings.seed, precision)
        for precision in precisions(device)
    }
    sides = {"plain": segment_packaged(packaged, image_size, settings.seed), **ours}
    taken = in_turn(sides, settings.repeats, device)
    facts: dict[str, Fact] = {"backbone": backbone, "image_size": image_size}
    return [
        Row(f"inference, {precision}", unit_of(device),
            Side("segment_anything, float32", taken["plain"]),
            Side(f"ours, {precision}", taken[precision]), facts)
        for precision in ours
    ]  # fmt: skip


def segment_packaged(sam: Any, image_size: int, seed: int) -> Callable[[], torch.Tensor]:
    """The mask (1, 1, S, S) of `Sam.forward`, the package's own way from image to mask."""
    batch, device = made_up(1, 0, image_size, seed), sam.device
    record = {
        "image": batch.image[0].to(device), "original_size": (image_size, image_size),
        "point_coords": batch.prompt.points.to(device),
        "point_labels": batch.prompt.labels.to(device),
    }  # fmt: skip

    def work() -> torch.Tensor:
        mask: torch.Tensor = sam([record], multimask_output=False)[0]["masks"]
        return mask

    return work


def segment(
    model: MedSam, image_size: int, seed: int, precision: str
) -> Callable[[], torch.Tensor]:
    """The mask (1, 1, S, S), by the steps of `evaluate.predict`."""
    batch, device = made_up(1, 0, image_size, seed), model.sam.device

    @torch.no_grad()
    def work() -> torch.Tensor:
        with autocast(device, precision):
            embedding = model.encode(batch.image.to(device))
            return model.to_frame(model.decode(embedding, batch.prompt.to(device))[0]) > 0

    return work
