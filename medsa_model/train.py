"""fit(): the local training of one site in one round."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medsa_model.adapters.freeze import trained_parameters
from medsa_model.data.frames import Batch, TrainingBatches
from medsa_model.data.volume_batches import VolumeBatches
from medsa_model.device import autocast, peak_memory
from medsa_model.prompts import corrected
from medsa_model.sam import MedSam
from medsa_model.section import Section
from medsa_model.state import AdapterState, adapter_state


class Train(Section):
    """Local training in one round."""

    steps: int | None = Field(None, ge=1, le=10**6)
    """Optimiser steps of every site in a round; empty: `epochs` decides."""
    epochs: float | None = Field(None, gt=0, le=10**4)
    """Passes over the site's own training cases in a round; give this or `steps`."""
    batch_size: int = Field(12, ge=1, le=4096)
    """Images a step."""
    prompts_per_image: int = Field(2, ge=1, le=256)
    """Prompts drawn for every image of a step; the image is encoded once."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or plain gradient descent, whose steps keep the size of the noise of `privacy`."""
    rate: float = Field(2e-3, gt=0, allow_inf_nan=False)
    """Learning rate in the first round; falls to a twentieth as a cosine over the run."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """Weight decay, which AdamW keeps apart from the gradient."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient of a step."""
    augment: bool = True
    """Images: random flips and quarter turns. Volumes: brightness and contrast alone, since organs
    have their sides."""
    precision: str = Field("auto", pattern="^(auto|float32|bfloat16)$")
    """`auto` is bfloat16 where the hardware multiplies it, else float32."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either train.steps or train.epochs")
        return self

    def steps_for(self, cases: int) -> int:
        """Optimiser steps in a round for a site with `cases` training cases."""
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or 0) * cases / min(self.batch_size, cases)))


@dataclass(frozen=True)
class FitResult:
    """What a site sends, and how it came about.

    `examples` is the number of training cases, `images` how many the steps saw (a case counts
    every time), `loss` the mean over the steps, `seconds` the time, `memory` the most bytes in use
    so far (`device.peak_memory`). Under differential privacy nothing but the state tells of single
    patients: see `privacy.fit`; there is no `loss`.
    """

    state: AdapterState
    examples: int
    images: int
    loss: float | None
    seconds: float
    memory: int


def fit(
    model: MedSam,
    batches: TrainingBatches | VolumeBatches,
    loss: nn.Module,
    train: Train,
    progress: float,
    proximal: float = 0.0,
    workers: int = 0,
    corrections: int = 0,
) -> FitResult:
    """Train the adapters of `model` in place from where they are, one step for each of `batches`.

    `progress` in [0, 1) is the share of the run that lies behind: it sets the learning rate.
    `proximal` is the factor mu of FedProx (Li et al. 2020, "Federated optimization in heterogeneous
    networks", equation 2). Prompts get 0 to `corrections` clicks on the error of the answer so far,
    as many as the batch draws.
    The optimiser starts anew each round, so a site keeps nothing between rounds.
    """
    started = time.monotonic()
    device = model.sam.device
    parameters = list(trained_parameters(model).values())
    start = [p.detach().clone() for p in parameters] if proximal else []
    optimizer = make_optimizer(train, parameters, progress)
    loader = DataLoader(
        batches, batch_size=None, num_workers=workers, pin_memory=device.type == "cuda"
    )
    total = torch.zeros((), device=device)
    for batch in loader:
        with autocast(device, train.precision):
            value = batch_loss(model, batch, loss, device, corrections)
        value.backward()
        if proximal:
            pull(parameters, start, proximal)
        nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += value.detach()  # read once at the end: no waiting for the device in each step
    mean = float(total) / len(batches)
    seconds = time.monotonic() - started
    return FitResult(
        adapter_state(model),
        len(batches.frames),
        batches.order.size,
        mean,
        seconds,
        peak_memory(device),
    )


def make_optimizer(
    train: Train, parameters: Sequence[nn.Parameter], progress: float
) -> torch.optim.Optimizer:
    """A new optimizer; `progress` in [0, 1) is the share of the run that lies behind."""
    rate = train.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
    fused = parameters[0].device.type == "cuda"
    make = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.SGD
    return make(parameters, lr=rate, weight_decay=train.weight_decay, fused=fused)


@torch.no_grad()
def pull(parameters: Sequence[nn.Parameter], start: Sequence[Tensor], proximal: float) -> None:
    """Add the gradient of FedProx' proximal term, a pull towards `start`."""
    for parameter, origin in zip(parameters, start, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - origin, alpha=proximal)


def batch_loss(
    model: MedSam,
    batch: Batch,
    loss: nn.Module,
    device: torch.device,
    corrections: int = 0,
    patients: int | None = None,
) -> Tensor:
    """Mean loss of a batch, at the decoder's resolution with softly resized targets.

    A batch of `patients`, each with as many images and prompts as any other, one after the other,
    is computed with the patient as dimension 0 of every trained layer. The loss is the same.
    """
    image = batch.image.to(device, non_blocking=True)
    rows = len(batch.owner) // patients if patients else 1
    if patients and image.dim() == 4:
        image = image.unflatten(0, (patients, -1)).transpose(1, 2)
    if image.dim() == 4:
        embedding = model.encode(image)
    else:
        embedding = model.encode_volume(image).flatten(0, 1)
    embedding = embedding[batch.owner.to(device)]
    prompt = batch.prompt
    draw = np.random.default_rng(batch.seed) if corrections else None
    for number in range(int(draw.integers(corrections + 1)) if draw else 0):
        with torch.no_grad():
            answer = model.to_frame(model.decode(embedding, prompt.to(device))[0])[:, 0] > 0
        rng = np.random.default_rng((*batch.seed, number))
        prompt = corrected(prompt, batch.mask.numpy(), answer.cpu().numpy(), rng)
    logits, _ = model.decode(embedding, prompt.to(device), rows)
    mask = batch.mask.to(device, non_blocking=True)[:, None].float()
    target = F.interpolate(mask, logits.shape[-2:], mode="bilinear", antialias=True)
    value: Tensor = loss(logits.float(), target)
    return value
