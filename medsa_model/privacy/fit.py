"""fit_privately(): the local training of one site in one round, with differential privacy."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from medsa_model.adapters.freeze import trained_parameters
from medsa_model.data.frames import Batch, TrainingBatches
from medsa_model.data.volume_batches import VolumeBatches
from medsa_model.device import autocast, peak_memory
from medsa_model.privacy import made_up
from medsa_model.privacy.dp_sgd import check_buffers, check_gradients, hooked, private_steps
from medsa_model.privacy.patients import Patients
from medsa_model.privacy.section import Privacy, rounded_up
from medsa_model.prompts import widened
from medsa_model.sam import MedSam
from medsa_model.state import adapter_state
from medsa_model.train import FitResult, Train, batch_loss, make_optimizer, pull


def fit_privately(
    model: MedSam,
    batches: TrainingBatches | VolumeBatches,
    patients: Patients,
    loss: nn.Module,
    train: Train,
    privacy: Privacy,
    noise_multiplier: float,
    steps: int,
    progress: float,
    proximal: float = 0.0,
    corrections: int = 0,
) -> FitResult:
    """Train the adapters of `model` in place by `steps` noisy steps of DP-SGD.

    As `train.fit`, but a step is on the `patients` that are drawn for it; `batches` makes their
    images and prompts. Views and prompts come from the operating system's randomness: drawn with
    the run's seed, those of one patient would depend on the others. The steps must have been
    charged before. Of the result the state alone comes from patients under the guarantee: there is
    no `loss`, `examples` is rounded up to tens, and `images` is what is expected of that number.
    Raises `PrivacyError` when a tensor or a buffer would be trained outside the guarantee.
    """
    started = time.monotonic()
    device, draw = model.sam.device, np.random.default_rng()
    parameters = trained_parameters(model)
    trained = list(parameters.values())
    start = [parameter.detach().clone() for parameter in trained]
    by_hooks = uses_hooks(privacy, batches)

    def sum_of_losses(batch: Batch, count: int, precision: str) -> Tensor:
        with autocast(device, precision):
            together = count if by_hooks else None
            return count * batch_loss(model, batch, loss, device, corrections, together)

    def loss_of(part: Sequence[int]) -> Tensor:
        chosen = [draw.choice(patients.cases[patient], privacy.views) for patient in part]
        seed = tuple(draw.integers(2**32, size=4).tolist())
        batch = batches.draw(np.concatenate(chosen), draw, seed)
        if by_hooks:
            batch = replace(batch, prompt=widened(batch.prompt, batches.kinds))
        return sum_of_losses(batch, len(part), train.precision)

    def loss_of_made_up(part: Sequence[int]) -> Tensor:
        names = model.class_embedding.num_embeddings if model.class_embedding else 0
        made = made_up.made_up(part, model.image_size, batches.kinds, privacy.views, names)
        return sum_of_losses(made, len(part), "float32")  # exact, so that a small fault shows

    optimizer = make_optimizer(train, trained, progress)
    expected = max(1, round(privacy.sampling_rate * rounded_up(len(patients))))
    check_buffers(model, lambda: loss_of_made_up([0]))

    def take_steps(at_once: int | None) -> None:
        private_steps(
            optimizer, parameters, loss_of, len(patients), steps, privacy.sampling_rate,
            privacy.clip_norm, noise_multiplier, expected, at_once,
            (lambda: pull(trained, start, proximal)) if proximal else None,
        )  # fmt: skip

    if by_hooks:
        with hooked(model):
            check_gradients(parameters, loss_of_made_up, made_up.PATIENTS)
            take_steps(train.batch_size)
    else:
        take_steps(None)
    seconds, images = time.monotonic() - started, steps * expected * privacy.views
    return FitResult(
        adapter_state(model), rounded_up(len(patients)), images, None, seconds, peak_memory(device)
    )


def uses_hooks(privacy: Privacy, batches: TrainingBatches | VolumeBatches) -> bool:
    """Whether gradients of single patients come from Opacus' hooks.

    Of volumes never: they differ in their number of prompts, and one alone fills a device.
    """
    return privacy.method != "loop" and not isinstance(batches, VolumeBatches)
