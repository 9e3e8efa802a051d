"""Seconds of one training step: the plain way in float32 against ours."""

import torch

from medsa_model.adapters import Msa
from sim.bench.models import Settings, adapted, made_up, precision_of, precisions, training_step
from sim.bench.plain import plain_copy
from sim.bench.results import Fact, Row, Side
from sim.bench.timing import in_turn, unit_of


def compare_steps(
    name: str, settings: Settings, backbone: str, image_size: int, batch: int, slices: int,
    computed_in: tuple[str, ...], repeats: int, warm_up: int = 1,
) -> list[Row]:  # fmt: skip
    """A row for each precision of ours; `slices` is 0 for images."""
    device = settings.device
    model = adapted(backbone, image_size, Msa(depth=slices > 0), settings.seed, device)
    examples = made_up(batch, slices, image_size, settings.seed)
    sides = {"plain": training_step(plain_copy(model), examples, "float32")}
    for precision in computed_in:
        sides[precision] = training_step(model, examples, precision)
    taken = in_turn(sides, repeats, device, warm_up)
    facts: dict[str, Fact] = {
        "backbone": backbone, "image_size": image_size, "batch": batch, "slices": slices
    }  # fmt: skip
    return [
        Row(f"{name}, {precision}", unit_of(device), Side("plain, float32", taken["plain"]),
            Side(f"ours, {precision}", taken[precision]), facts)
        for precision in computed_in
    ]  # fmt: skip


def step_2d(
    settings: Settings, backbone: str = "vit_b", image_size: int = 256, batch: int = 2
) -> list[Row]:
    """Images, adapters in every block and in the decoder."""
    device = settings.device
    return compare_steps("step_2d", settings, backbone, image_size, batch, 0, precisions(device),
                         settings.repeats)  # fmt: skip


def step_3d(
    settings: Settings, backbone: str = "vit_b", image_size: int = 256, slices: int = 4
) -> list[Row]:
    """One volume, with attention across its slices."""
    device = settings.device
    return compare_steps("step_3d", settings, backbone, image_size, 1, slices, precisions(device),
                         settings.repeats)  # fmt: skip


def step_1024(settings: Settings, backbone: str = "vit_b", image_size: int = 1024) -> list[Row]:
    """One image in SAM's own frame. On a processor twice, without a warm-up: a step is long."""
    device = settings.device
    on_processor = device.type == "cpu"
    touch(device)
    return compare_steps(
        "step_1024", settings, backbone, image_size, 1, 0, (precision_of(device),),
        2 if on_processor else settings.repeats, 0 if on_processor else 1,
    )  # fmt: skip


def touch(device: torch.device) -> None:
    """Let the libraries of `device` start, which the first product of matrices has to wait for."""
    for kind in (torch.float32, torch.bfloat16):
        square = torch.ones(64, 64, dtype=kind, device=device, requires_grad=True)
        (square @ square).sum().backward()
