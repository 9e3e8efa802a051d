"""Noise of differential privacy cannot be drawn again, and all of its seed is secret."""

import os

import numpy as np
import torch
from numpy.random import MT19937

from medsa_model.privacy.noise import secret_generator

CPU = torch.device("cpu")


def drawn(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(1000, dtype=torch.float64, generator=generator)


def test_no_two_generators_draw_the_same():
    assert not torch.equal(drawn(secret_generator(CPU)), drawn(secret_generator(CPU)))


def test_the_seed_of_a_run_decides_nothing():
    values, others = [], []
    for _ in range(2):
        torch.manual_seed(7)
        np.random.seed(7)
        others.append(torch.randn(3))
        values.append(drawn(secret_generator(CPU)))
    assert torch.equal(*others)  # the seed is at work
    assert not torch.equal(*values)


def test_the_global_generator_is_left_as_it_is():
    before = torch.get_rng_state()
    drawn(secret_generator(CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_word_of_the_state_is_of_the_operating_system(monkeypatch):
    """NumPy's Mersenne Twister, given the same 624 words, draws the same."""
    given = []

    def remembered(size: int, source=os.urandom) -> bytes:
        given.append(source(size))
        return given[-1]

    monkeypatch.setattr(os, "urandom", remembered)
    generator = secret_generator(CPU)
    words = np.frombuffer(given[-1], dtype="<u4")
    reference = MT19937()
    reference.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    expected = reference.random_raw(2000) % 2**20  # beyond one turn of the state
    found = torch.randint(2**20, (2000,), generator=generator)
    assert found.tolist() == expected.tolist()
