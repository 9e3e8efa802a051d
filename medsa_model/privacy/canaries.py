"""Canaries through the trainer of differential privacy: what their scores betray, it betrays.

White-box audit: who attacks sees the trained weights and may choose what patients are like. A
canary is the only patient with a gradient along its own direction (a Dirac), far longer than the
clipping norm; its score is how far the weights moved there. Canaries take the way of patients:
`private_steps` draws, clips and adds noise. Nasr et al. 2023, arXiv:2302.07956; Steinke, Nasr and
Jagielski 2023, arXiv:2305.08846.

What patients lose before that way, by layers that mix them, `dp_sgd.check_gradients` looks for.
"""

import os
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medsa_model.privacy.dp_sgd import hooked, private_steps
from medsa_model.privacy.lower_bounds import Scores

CANARIES = 2000
LENGTH = 100.0  # of a canary's gradient, in clipping norms


class Canaries(nn.Module):
    """Patient i has a gradient along the coordinate `numbers[i]` alone, equally in two tensors.

    In two, so that clipping each tensor by itself, or no noise on one of them, shows.
    """

    def __init__(self, count: int, numbers: Sequence[int], length: float) -> None:
        super().__init__()
        self.one, self.other = nn.Embedding(count, 1), nn.Embedding(count, 1)
        nn.init.zeros_(self.one.weight)
        nn.init.zeros_(self.other.weight)
        self.numbers = torch.tensor(numbers, dtype=torch.int64)
        self.length = length
        self.drawn = Counter[int]()

    def loss_of(self, part: Sequence[int]) -> Tensor:
        """Sum of the losses of the patients `part`."""
        self.drawn.update(part)
        coordinates = self.numbers[list(part)]
        both: Tensor = self.one(coordinates) + self.other(coordinates)
        return self.length / 2**0.5 * both.sum()

    def moved(self) -> Scores:
        """How far plain descent from zero went against each canary's gradient, (count,)."""
        both = self.one.weight + self.other.weight
        return -both.detach()[:, 0].double().numpy() / 2**0.5


@dataclass(frozen=True)
class Run:
    """Scores of canaries inside and outside, in clipping norms; `drawn`, how often each inside."""

    inside: Scores
    outside: Scores
    drawn: NDArray[np.int64]


def run_canaries(
    noise_multiplier: float,
    sampling_rate: float,
    clip_norm: float,
    steps: Sequence[int],
    at_once: int | None,
    canaries: int = CANARIES,
) -> Run:
    """Train on about half of `canaries`, each by a coin of the operating system.

    `steps` are the steps of every round, each of which begins with new generators as in training.
    `at_once` patients are computed together by hooks; `None` takes one after the other.
    """
    inside = _coins(canaries)
    model = Canaries(canaries, np.flatnonzero(inside).tolist(), LENGTH * clip_norm)
    patients = len(model.numbers)
    expected = max(1, round(sampling_rate * patients))
    for taken in steps:
        _train(model, taken, sampling_rate, clip_norm, noise_multiplier, expected, at_once)
    scores = model.moved() * expected / clip_norm
    drawn = np.array([model.drawn[patient] for patient in range(patients)])
    return Run(scores[inside], scores[~inside], drawn)


def repeated(
    noise_multiplier: float, clip_norm: float, at_once: int | None, patients: int = 128
) -> list[str]:
    """What is the same in two trainings with equal seeds: "the noise", "the drawing" or nothing.

    Whoever knows the seeds, which every site is told, could then compute it. The global generators
    are put back.
    """
    before = random.getstate(), np.random.get_state()
    noise, drawn = [], []
    try:
        with torch.random.fork_rng():
            for _ in range(2):
                random.seed(0)
                np.random.seed(0)
                torch.manual_seed(0)
                # twice as many coordinates as patients: half of them show noise alone
                model = Canaries(2 * patients, range(patients), LENGTH * clip_norm)
                _train(model, 1, 0.5, clip_norm, noise_multiplier, patients, at_once)
                noise.append(model.moved()[patients:])
                drawn.append(model.drawn)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
    same_noise = bool(noise[0].any()) and np.array_equal(noise[0], noise[1])
    same = {"the noise": same_noise, "the drawing": drawn[0] == drawn[1]}
    return [what for what, found in same.items() if found]


def _train(
    model: Canaries,
    steps: int,
    sampling_rate: float,
    clip_norm: float,
    noise_multiplier: float,
    expected: int,
    at_once: int | None,
) -> None:
    """Plain descent with learning rate 1, through the trainer of the sites."""
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
    with hooked(model) if at_once else nullcontext():
        private_steps(
            optimizer, parameters, model.loss_of, len(model.numbers), steps, sampling_rate,
            clip_norm, noise_multiplier, expected, at_once,
        )  # fmt: skip


def _coins(count: int) -> NDArray[np.bool_]:
    """Independent fair coins of the operating system; never all equal."""
    while True:
        bits = np.unpackbits(np.frombuffer(os.urandom(-(-count // 8)), np.uint8))[:count]
        if 2 <= bits.sum() <= count - 2:
            return bits.astype(bool)
