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

from medsa_model.adapters.freeze import trained_parameters
from medsa_model.data.batch_parts import parts_of
from medsa_model.data.frames import Batch, TrainingBatches
from medsa_model.data.prefetch import Prefetched
from medsa_model.data.volume_batches import VolumeBatches
from medsa_model.device import autocast, peak_memory
from medsa_model.prefix_cache import PrefixCache
from medsa_model.prompts import corrected
from medsa_model.recompute import must_recompute
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
    accumulate: int = Field(1, ge=1, le=4096)
    """Parts of a batch that are computed one after the other, for want of memory; the step is that
    of the whole batch. Differential privacy has none: there `batch_size` is what memory holds."""
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

    @model_validator(mode="after")
    def _parts_have_images(self) -> "Train":
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"train.accumulate is {self.accumulate}, but a batch has {self.batch_size} images; "
                "expected as many parts at most"
            )
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
    so far (`device.peak_memory`), `waited` the seconds in which the steps waited for their batches.
    Under differential privacy nothing but the state tells of single patients: see `privacy.fit`;
    there is no `loss` and no `waited`.
    """

    state: AdapterState
    examples: int
    images: int
    loss: float | None
    seconds: float
    memory: int
    waited: float | None = None


def fit(
    model: MedSam,
    batches: TrainingBatches | VolumeBatches,
    loss: nn.Module,
    train: Train,
    progress: float,
    proximal: float = 0.0,
    workers: int = 0,
    corrections: int = 0,
    cache: PrefixCache | None = None,
    memory: float | None = None,
) -> FitResult:
    """Train the adapters of `model` in place from where they are, one step for each of `batches`.

    `progress` in [0, 1) is the share of the run that lies behind: it sets the learning rate.
    `proximal` is the factor mu of FedProx (Li et al. 2020, "Federated optimization in heterogeneous
    networks", equation 2). Prompts get 0 to `corrections` clicks on the error of the answer so far,
    as many as the batch draws. `workers` threads prepare batches beside the computation. What the
    frozen first blocks make of an image comes from `cache`. Where blocks would keep too much of
    `memory` (bytes; `None`: that of the device) they are computed again in the backward pass.
    The optimiser starts anew each round, so a site keeps nothing of it between rounds.
    Batches are copied to a GPU without waiting for it; a step waits for answers that are corrected
    and for what is new in `cache`.
    """
    started = time.monotonic()
    device = model.sam.device
    parameters = list(trained_parameters(model).values())
    start = [p.detach().clone() for p in parameters] if proximal else []
    optimizer = make_optimizer(train, parameters, progress)
    total = torch.zeros((), device=device)
    images, slices = -(-batches.order.shape[1] // train.accumulate), batches.slices
    model.recompute = must_recompute(model, images, slices, train.precision, memory)

    def prepare(step: int) -> list[Batch]:
        return [part.pinned(device) for part in parts_of(batches[step], train.accumulate)]

    with Prefetched(prepare, len(batches), workers) as prepared:
        for parts in prepared:
            prompts = sum(len(part.owner) for part in parts)
            draws = correction_draws(parts[0].seed, corrections)
            for part in parts:
                with autocast(device, train.precision):
                    value = batch_loss(model, part, loss, device, draws, cache=cache)
                    value = value * (len(part.owner) / prompts)
                value.backward()
                total += value.detach()  # read once at the end, so as not to wait here
            if proximal:
                pull(parameters, start, proximal)
            nn.utils.clip_grad_norm_(parameters, train.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    mean = float(total) / len(batches)
    seconds = time.monotonic() - started
    return FitResult(
        adapter_state(model),
        len(batches.frames),
        batches.order.size,
        mean,
        seconds,
        peak_memory(device),
        prepared.waited,
    )


def make_optimizer(
    train: Train, parameters: Sequence[nn.Parameter], progress: float
) -> torch.optim.Optimizer:
    """A new optimizer; `progress` in [0, 1) is the share of the run that lies behind."""
    rate = train.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
    fused = parameters[0].device.type in ("cuda", "cpu")  # one pass over the memory
    make = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.SGD
    return make(parameters, lr=rate, weight_decay=train.weight_decay, fused=fused)


@torch.no_grad()
def pull(parameters: Sequence[nn.Parameter], start: Sequence[Tensor], proximal: float) -> None:
    """Add the gradient of FedProx' proximal term, a pull towards `start`."""
    for parameter, origin in zip(parameters, start, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - origin, alpha=proximal)


def correction_draws(seed: tuple[int, ...], corrections: int) -> list[np.random.Generator]:
    """Where the corrective clicks of a batch come from: 0 to `corrections` generators, one for each
    further click of its prompts.
    """
    if not corrections:
        return []
    count = int(np.random.default_rng(seed).integers(corrections + 1))
    return [np.random.default_rng((*seed, number)) for number in range(count)]


def batch_loss(
    model: MedSam,
    batch: Batch,
    loss: nn.Module,
    device: torch.device,
    draws: Sequence[np.random.Generator] = (),
    patients: int | None = None,
    cache: PrefixCache | None = None,
) -> Tensor:
    """Mean loss of a batch, at the decoder's resolution with softly resized targets.

    Prompts get a click on the error of the answer so far from each of `draws`.
    A batch of `patients`, each with as many images and prompts as any other, one after the other,
    is computed with the patient as dimension 0 of every trained layer. The loss is the same.
    What `cache` keeps of the images is not computed again.
    """
    rows = len(batch.owner) // patients if patients else 1
    # before the encoder is launched: a copy that waits would wait for the encoder as well
    owner = batch.owner.to(device, non_blocking=True)
    mask = batch.mask.to(device, non_blocking=True)[:, None].float()
    prompt, asked = batch.prompt, batch.prompt.to(device, non_blocking=True)
    embedding = embed(model, batch, device, patients, cache)[owner]
    for generator in draws:
        with torch.no_grad():
            answer = model.to_frame(model.decode(embedding, asked)[0])[:, 0] > 0
        prompt = corrected(prompt, batch.mask.numpy(), answer.cpu().numpy(), generator)
        asked = prompt.to(device)
    logits, _ = model.decode(embedding, asked, rows)
    target = F.interpolate(mask, logits.shape[-2:], mode="bilinear", antialias=True)
    value: Tensor = loss(logits.float(), target)
    return value


def embed(
    model: MedSam, batch: Batch, device: torch.device, patients: int | None,
    cache: PrefixCache | None,
) -> Tensor:  # fmt: skip
    """Embedding (n, C, S/p, S/p) of the images or slices of a batch, in their order."""
    image = batch.image
    if patients and image.dim() == 4:
        image = image.unflatten(0, (patients, -1)).transpose(1, 2)
    if cache is not None and batch.keys:
        slices = image.shape[2] if image.dim() == 5 else 1
        return model.encode_from(cache.tokens(model, image, batch.keys), slices)
    image = image.to(device, non_blocking=True)
    return model.encode(image) if image.dim() == 4 else model.encode_volume(image).flatten(0, 1)
