"""fit_privately(): the local training of one site in one round, with differential privacy."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from medsa_model.adapters.freeze import trained_parameters
from medsa_model.data.frames import Batch, TrainingBatches
from medsa_model.data.volume_batches import VolumeBatches
from medsa_model.device import autocast, peak_memory
from medsa_model.errors import PrivacyError
from medsa_model.prefix_cache import PrefixCache
from medsa_model.privacy import made_up
from medsa_model.privacy.dp_sgd import check_buffers, check_gradients, hooked, private_steps
from medsa_model.privacy.patients import Patients
from medsa_model.privacy.section import Privacy, rounded_up
from medsa_model.prompts import widened
from medsa_model.recompute import must_recompute
from medsa_model.sam import MedSam
from medsa_model.state import adapter_state
from medsa_model.train import (
    FitResult,
    Train,
    batch_loss,
    correction_draws,
    make_optimizer,
    pull,
)


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
    charge: Callable[[], object] = lambda: None,
    cache: PrefixCache | None = None,
    memory: float | None = None,
) -> FitResult:
    """Train the adapters of `model` in place by `steps` noisy steps of DP-SGD.

    As `train.fit`, but a step is on the `patients` that are drawn for it; `batches` makes their
    images and prompts. Views and prompts come from the operating system's randomness: drawn with
    the run's seed, those of one patient would depend on the others. `charge` is called before the
    first step, when all has been checked and every case was read; when it raises, no step is
    taken. The state is under the guarantee. Of patients nothing else is told but how many
    there are, in tens, in `examples` and in the expected `images`; there is no `loss`. `seconds`
    and `memory` depend on who was drawn. `cache` and `memory` as in `train.fit`.
    Raises `PrivacyError` when a tensor or a buffer would be trained outside the guarantee.
    """
    started = time.monotonic()
    device, draw = model.sam.device, np.random.default_rng()
    parameters = trained_parameters(model)
    trained = list(parameters.values())
    start = [parameter.detach().clone() for parameter in trained]
    by_hooks = may_use_hooks(privacy, batches, corrections)

    def sum_of_losses(batch: Batch, count: int, precision: str) -> Tensor:
        with autocast(device, precision):
            together = count if by_hooks else None
            draws = correction_draws(batch.seed, corrections)
            return count * batch_loss(model, batch, loss, device, draws, together, cache)

    def loss_of(part: Sequence[int]) -> Tensor:
        chosen = [draw.choice(patients.cases[patient], privacy.views) for patient in part]
        seed = tuple(draw.integers(2**32, size=4).tolist())
        batch = batches.draw(np.concatenate(chosen), draw, seed)
        if by_hooks:
            batch = replace(batch, prompt=widened(batch.prompt, batches.kinds))
        return sum_of_losses(batch.pinned(device), len(part), train.precision)

    def loss_of_made_up(part: Sequence[int]) -> Tensor:
        names = model.class_embedding.num_embeddings if model.class_embedding else 0
        made = made_up.made_up(part, model.image_size, batches.kinds, privacy.views, names)
        return sum_of_losses(made, len(part), "float32")  # exact, so that a small fault shows

    # a case that cannot be read fails here, whoever is drawn later
    batches.frames.read(range(len(batches.frames)))
    model.recompute = False  # Opacus' hooks must see every layer once
    together = train.batch_size * privacy.views
    if by_hooks and privacy.method == "auto":
        by_hooks = not must_recompute(model, together, batches.slices, train.precision, memory)
    check_buffers(model, lambda: loss_of_made_up([0]))
    with hooked(model) if by_hooks else nullcontext():
        if by_hooks:
            try:
                check_gradients(parameters, loss_of_made_up, made_up.PATIENTS)
            except PrivacyError:
                if privacy.method == "hooks":
                    raise
                by_hooks = False
    if not by_hooks:
        model.recompute = must_recompute(
            model, privacy.views, batches.slices, train.precision, memory
        )
    optimizer = make_optimizer(train, trained, progress)
    expected = max(1, round(privacy.sampling_rate * rounded_up(len(patients))))
    charge()
    with hooked(model) if by_hooks else nullcontext():
        private_steps(
            optimizer, parameters, loss_of, len(patients), steps, privacy.sampling_rate,
            privacy.clip_norm, noise_multiplier, expected, train.batch_size if by_hooks else None,
            (lambda: pull(trained, start, proximal)) if proximal else None,
        )  # fmt: skip
    seconds, images = time.monotonic() - started, steps * expected * privacy.views
    return FitResult(
        adapter_state(model), rounded_up(len(patients)), images, None, seconds, peak_memory(device)
    )


def may_use_hooks(
    privacy: Privacy, batches: TrainingBatches | VolumeBatches, corrections: int
) -> bool:
    """Whether gradients of single patients come from Opacus' hooks, if these see all parameters.

    Of volumes never: they differ in their number of prompts, and one alone fills a device. Nor with
    corrections: how many clicks a patient gets would depend on who else is computed with it.
    """
    return privacy.method != "loop" and not corrections and not isinstance(batches, VolumeBatches)
