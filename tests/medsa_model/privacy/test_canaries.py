"""The audit through the production trainer: right ones pass, seeded faults do not.

The operating system draws, so a test may fail by chance; how rarely is said beside it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from medsa_model.privacy import canaries, dp_sgd
from medsa_model.privacy.accounting import NoisySteps, epsilon
from medsa_model.privacy.audit import Audit, audit
from medsa_model.privacy.canaries import repeated, run_canaries
from medsa_model.privacy.lower_bounds import LARGEST, one_run, separation

NOISE, RATE, STEPS, DELTA = 0.5, 0.5, (4, 4), 1e-5


def audited(
    count: int = 800,
    at_once: int | None = 64,
    steps: Sequence[int] = STEPS,
    rate: float = RATE,
    claimed: float | None = None,
) -> Audit:
    if claimed is None:
        claimed = epsilon([NoisySteps(NOISE, rate, sum(steps))], DELTA)
    return audit(NOISE, rate, 0.1, steps, DELTA, claimed, at_once, count)


def test_a_correct_trainer_passes_20_times_of_20():
    """By hooks and by the loop.

    A run errs in four checks, each with a probability below 1e-5 (`lower_bounds.ALARM`): the ratio
    by its own limits, which are quantiles, drawing by its p-value, both bounds by their confidence.
    20 runs together: below 20 * 4e-5 = 8e-4.
    """
    for number in range(20):
        found = audited(400 if number % 10 == 9 else 800, None if number % 10 == 9 else 64)
        assert found.problems == ()
        assert found.gaussian > 0
        assert found.limits[0] <= found.ratio <= found.limits[1]


def problems(**more: Any) -> str:
    return "; ".join(audited(**more).problems)


@pytest.fixture
def optimizer(monkeypatch) -> type:
    """The optimizer of the trainer, to be broken."""

    class Broken(dp_sgd.DPOptimizer):  # type: ignore[misc]
        pass

    monkeypatch.setattr(dp_sgd, "DPOptimizer", Broken)
    return Broken


def test_half_the_noise_is_flagged(optimizer):
    """The ratio is 2, 1.3 is allowed, its standard deviation 0.1: missed once in 1e11."""

    def halved(self) -> None:
        self.noise_multiplier, whole = self.noise_multiplier / 2, self.noise_multiplier
        super(optimizer, self).add_noise()
        self.noise_multiplier = whole

    optimizer.add_noise = halved
    assert "less noise than charged" in problems()


def test_twice_the_noise_is_flagged(monkeypatch):
    """Nobody is harmed, but what is written in the ledger is not what happens."""
    steps = dp_sgd.private_steps

    def noisier(optimizer, parameters, loss_of, patients, taken, rate, clip, noise, *rest):
        steps(optimizer, parameters, loss_of, patients, taken, rate, clip, 2 * noise, *rest)

    monkeypatch.setattr(canaries, "private_steps", noisier)
    assert "more noise than charged" in problems(count=2000)


def test_no_clipping_is_flagged(optimizer):
    def unclipped(self) -> None:
        norm, self.max_grad_norm = self.max_grad_norm, 1e9
        super(optimizer, self).clip_and_accumulate()
        self.max_grad_norm = norm

    optimizer.clip_and_accumulate = unclipped
    found = problems()
    assert "weighs more than the clipping norm" in found and "gaussian bound shows" in found


def test_clipping_every_tensor_by_itself_is_flagged(optimizer):
    """The ratio is 1.41, 1.3 is allowed, its standard deviation 0.025: missed once in 2e5."""

    def by_tensor(self) -> None:
        for parameter in self.params:
            single = parameter.grad_sample
            norms = single.flatten(1).norm(dim=1).clamp(min=1e-12)
            factors = (self.max_grad_norm / norms).clamp(max=1)
            total = torch.einsum("i,i...", factors, single)
            before = parameter.summed_grad
            parameter.summed_grad = total if before is None else before + total

    optimizer.clip_and_accumulate = by_tensor
    assert "weighs more than the clipping norm" in problems(count=6000, steps=(1,), rate=1.0)


def test_a_tensor_without_noise_is_flagged(optimizer):
    """As the one before; half the variance is missing."""

    def forgetful(self) -> None:
        super(optimizer, self).add_noise()
        first = next(iter(self.params))
        first.grad = first.summed_grad.detach().clone()

    optimizer.add_noise = forgetful
    assert "less noise than charged" in problems(count=6000, steps=(1,), rate=1.0)


@pytest.mark.parametrize("at_once", [None, 64])
def test_a_window_as_sample_is_flagged(at_once, monkeypatch):
    """Each patient counts as 8 samples, which are clipped each by itself."""
    found_by = dp_sgd.find_gradients

    def windows(parameters, loss_of, patients, hooks) -> int:
        count = found_by(parameters, loss_of, patients, hooks)
        for parameter in parameters.values():
            single = dp_sgd.kept(parameter)
            dp_sgd.keep(parameter, single.repeat_interleave(8, 0) / 8)
        return count

    monkeypatch.setattr(dp_sgd, "find_gradients", windows)
    found = problems(count=400, at_once=at_once)
    assert "weighs more than the clipping norm" in found and "gaussian bound shows" in found


def test_a_slice_as_sample_is_flagged(monkeypatch):
    """Each patient is drawn as 8 slices, of which each is drawn by itself."""
    steps = dp_sgd.private_steps

    def by_slices(optimizer, parameters, loss_of, patients, *rest) -> None:
        def of_slices(part):
            return loss_of([number // 8 for number in part])

        steps(optimizer, parameters, of_slices, 8 * patients, *rest)

    monkeypatch.setattr(canaries, "private_steps", by_slices)
    found = problems(count=400)
    assert "a patient counts as several" in found and "weighs more" in found


def test_noise_and_drawing_from_the_runs_seed_are_flagged(monkeypatch):
    """By chance two right drawings of 128 patients are equal once in 1e38."""
    assert repeated(1.0, 0.1, 64) == repeated(1.0, 0.1, None) == []
    monkeypatch.setattr(dp_sgd, "secret_generator", lambda device: torch.default_generator)
    found = problems(count=400)
    assert "the noise is the same" in found and "the drawing is the same" in found


def test_equal_noise_in_every_round_is_flagged(monkeypatch):
    """Equal noise adds up: in 16 rounds it is four times as large as charged."""

    def seeded(device):
        return torch.Generator(device).manual_seed(1)

    monkeypatch.setattr(dp_sgd, "secret_generator", seeded)
    assert "it repeats itself" in problems(count=2000, steps=(1,) * 16)


def test_the_global_generators_are_put_back():
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    repeated(1.0, 0.1, 64)
    assert (torch.rand(1), np.random.rand()) == before


def test_shuffled_batches_are_flagged(monkeypatch):
    """Each patient in one of two batches: no independent draws, as the accounting needs them."""

    class Shuffled:
        def __init__(self, num_samples, sample_rate, generator, steps) -> None:
            self.numbers, self.steps = torch.randperm(num_samples).tolist(), steps

        def __iter__(self) -> Iterator[list[int]]:
            for step in range(self.steps):
                yield self.numbers[step % 2 :: 2]

    monkeypatch.setattr(dp_sgd, "UniformWithReplacementSampler", Shuffled)
    assert "spreads 0.0" in problems(count=400)


def test_a_ledger_of_one_round_does_not_claim_what_all_rounds_cost():
    """An account begun anew in each of 16 rounds: its epsilon is less than what canaries show."""
    steps = (2,) * 16
    alone = epsilon([NoisySteps(NOISE, RATE, steps[0])], DELTA)
    together = epsilon([NoisySteps(NOISE, RATE, sum(steps))], DELTA)
    assert "epsilon is at least" in problems(count=600, steps=steps, claimed=alone)
    assert problems(count=600, steps=steps, claimed=together) == ""


def test_without_noise_the_one_run_bound_has_power():
    """500 patients in 16 steps of probability 0.5: one is never drawn in one of 130 runs."""
    run = run_canaries(1e-12, 0.5, 0.1, (16,), 64, 1000)
    assert one_run(run.inside, run.outside, DELTA) >= 3.5
    assert separation(run.inside, run.outside) == LARGEST


def test_who_is_inside_is_a_coin_for_each():
    """The halves differ: five standard deviations are 79 of 1000."""
    sizes = {len(run_canaries(1.0, 0.01, 0.1, (1,), 64, 1000).inside) for _ in range(4)}
    assert len(sizes) > 1 and all(abs(size - 500) < 79 for size in sizes)
