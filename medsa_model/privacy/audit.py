"""Audit of the trainer of differential privacy: does what canaries betray agree with the claim?

It can refute a claim and cannot prove one: bounds are lower bounds, of the attacks that were tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsa_model.privacy.canaries import CANARIES, repeated, run_canaries
from medsa_model.privacy.lower_bounds import (
    ALARM,
    drawing_fault,
    expected_separation,
    gaussian,
    one_run,
    ratio_limits,
    separation,
)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Audit:
    """What was found in all runs together.

    `ratio` is separation / expected separation, the mean over the runs, and `limits` where it has
    to lie; `gaussian` and `one_run` are lower bounds of epsilon, each at `confidence`. `problems`
    say why the trainer is not as claimed; none: it may be.
    """

    ratio: float
    limits: tuple[float, float]
    gaussian: float
    one_run: float
    confidence: float
    problems: tuple[str, ...]


def audit(
    noise_multiplier: float,
    sampling_rate: float,
    clip_norm: float,
    steps: Sequence[int],
    delta: float,
    claimed: float,
    at_once: int | None,
    canaries: int = CANARIES,
    runs: int = 1,
) -> Audit:
    """Run `canaries` through the trainer `runs` times and compare with its settings.

    `steps` are those of every round, `claimed` the epsilon of all of them at `delta`. `at_once` as
    in `private_steps`. A correct trainer is found at fault with a probability below 4e-5: each of
    the checks of ratio, drawing and the two bounds errs with at most `ALARM`, whatever `runs` is.
    """
    total = sum(steps)
    expected = expected_separation(noise_multiplier, sampling_rate, total)
    # the mean over the runs errs as one run with all their canaries
    limits = ratio_limits(noise_multiplier, sampling_rate, total, runs * canaries)
    problems = [
        f"{what} is the same in two trainings with equal seeds, expected the operating system's "
        "randomness: who knows the run's seed can compute it"
        for what in repeated(noise_multiplier, clip_norm, at_once)
    ]
    done = [
        run_canaries(noise_multiplier, sampling_rate, clip_norm, steps, at_once, canaries)
        for _ in range(runs)
    ]
    ratios = [separation(run.inside, run.outside) / expected for run in done]
    drawn = np.concatenate([run.drawn for run in done])
    if fault := drawing_fault(drawn, sampling_rate, total):
        problems.append(fault)
    ratio = float(np.mean(ratios))
    if not limits[0] <= ratio <= limits[1]:
        problems.append(
            f"canaries stand out {ratio:.2f} times as far as the settings promise, expected "
            f"{limits[0]:.2f} to {limits[1]:.2f}: "
            + ("there is less noise than charged, or a patient weighs more than the clipping norm"
               if ratio > limits[1] else "there is more noise than charged, or it repeats itself")
        )  # fmt: skip
    shown = {}
    for name, bound in (("gaussian", gaussian), ("one-run", one_run)):
        shown[name] = max(
            bound(run.inside, run.outside, delta, 1 - (1 - CONFIDENCE) / runs) for run in done
        )
        sure = max(bound(run.inside, run.outside, delta, 1 - ALARM / runs) for run in done)
        if sure > claimed:
            problems.append(
                f"the {name} bound shows that epsilon is at least {sure:.2f}, claimed is "
                f"{claimed:.2f}"
            )
    return Audit(
        ratio, limits, shown["gaussian"], shown["one-run"], CONFIDENCE, tuple(problems)
    )  # fmt: skip
