"""What the measurements compute with: adapted models of random weights, made-up batches, steps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medsa_model.adapters import Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.backbone import load_base
from medsa_model.data.frames import Batch
from medsa_model.device import autocast, has_bfloat16
from medsa_model.losses import Loss
from medsa_model.prefix_cache import PrefixCache
from medsa_model.prompts import Prompt
from medsa_model.sam import MedSam
from medsa_model.train import Train, batch_loss, make_optimizer


@dataclass(frozen=True)
class Settings:
    """What the command line says. `out` is for large temporary files; `against` is a checkout of
    other code, `answers` how many the coordinator takes."""

    device: torch.device
    out: Path
    threads: int = 1
    repeats: int = 3
    seed: int = 0
    answers: int = 100
    against: Path | None = None


def adapted(
    backbone: str, image_size: int, adapter: Msa, seed: int, device: torch.device
) -> MedSam:
    """A model with random weights and `adapter`, on `device`."""
    model = load_base(backbone, image_size, None, "random", seed).model
    adapter.inject(model, seed)
    return model.to(device)


def made_up(count: int, slices: int, size: int, seed: int) -> Batch:
    """`count` images, or volumes of `slices`, of noise and discs, with a click on each disc."""
    generator = torch.Generator().manual_seed(seed)
    rows = count * max(slices, 1)
    centre = size * (0.35 + 0.3 * torch.rand(rows, 2, generator=generator))
    along = torch.arange(size, dtype=torch.float32)
    squared = (along - centre[:, :1])[:, None, :] ** 2 + (along - centre[:, 1:])[:, :, None] ** 2
    mask = squared < (0.2 * size) ** 2
    noise = 80 * torch.rand(rows, 3, size, size, generator=generator)
    image = (40 + noise + 90 * mask[:, None]).round()
    if slices:
        image = image.unflatten(0, (count, slices)).transpose(1, 2)
    prompt = Prompt(centre[:, None], torch.ones(rows, 1, dtype=torch.int64))
    keys = tuple(f"made-up {number}" for number in range(rows))
    return Batch(image, mask, prompt, torch.arange(rows), keys=keys)


def precision_of(device: torch.device) -> str:
    """What `auto` is on `device`."""
    return "bfloat16" if has_bfloat16(device) else "float32"


def precisions(device: torch.device) -> tuple[str, ...]:
    """What ours is measured in: what `auto` is there, and float32."""
    return tuple(dict.fromkeys((precision_of(device), "float32")))


def training_step(
    model: MedSam, batch: Batch, precision: str, cache: PrefixCache | None = None
) -> Callable[..., None]:
    """A step as `fit` does it: forward, loss, backward, clipping, one AdamW for all its calls.

    It trains on `batch`, or on another one that it is called with.
    """
    device, loss, train = model.sam.device, Loss().build(), Train(steps=1)
    parameters = list(trained_parameters(model).values())
    optimizer = make_optimizer(train, parameters, 0.0)

    def step(seen: Batch = batch) -> None:
        with autocast(device, precision):
            value = batch_loss(model, seen, loss, device, cache=cache)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
