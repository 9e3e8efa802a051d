"""Lower bounds of epsilon against slow computations of the same, and against known laws."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from medsa_model.privacy.lower_bounds import (
    ALARM,
    drawing_fault,
    expected_separation,
    gaussian,
    gdp_epsilon,
    one_run,
    one_run_p_value,
    ratio_limits,
    separation,
)


@pytest.mark.parametrize(("mu", "delta"), [(0.1, 1e-3), (1.0, 1e-5), (1.0, 1e-2), (4.0, 1e-3)])
def test_epsilon_of_a_gaussian_is_that_of_the_integral(mu, delta):
    """Delta is the integral of what one density has above e^epsilon times the other."""
    epsilon = gdp_epsilon(mu, delta)

    def above(x: float) -> float:
        return max(0.0, norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x))

    assert epsilon > 0
    meet = epsilon / mu + mu / 2
    assert quad(above, meet, meet + 15)[0] == pytest.approx(delta, rel=1e-6)


def test_epsilon_of_extreme_gaussians():
    assert gdp_epsilon(-1.0, 1e-3) == gdp_epsilon(0.0, 1e-3) == gdp_epsilon(1e-9, 1e-3) == 0
    # a separation of mu stands for about mu^2 / 2
    assert gdp_epsilon(1e4, 1e-3) == pytest.approx(5e7, rel=1e-2)


@pytest.mark.parametrize(("canaries", "guesses", "right"), [(50, 20, 16), (30, 30, 30), (9, 4, 0)])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (0.7, 1e-2), (2.0, 1e-3)])
def test_the_p_value_is_that_of_plain_sums(canaries, guesses, right, epsilon, delta):
    each = math.exp(epsilon) / (1 + math.exp(epsilon))
    chance = [
        math.comb(guesses, k) * each**k * (1 - each) ** (guesses - k) for k in range(guesses + 1)
    ]
    worst = max(
        (sum(chance[right - i : right]) / i for i in range(1, right + 1)), default=0.0
    )  # fmt: skip
    expected = min(1.0, sum(chance[right:]) + 2 * canaries * delta * worst)
    found = one_run_p_value(canaries, guesses, right, epsilon, delta)
    assert found == pytest.approx(expected, rel=1e-9)


def scores(mu: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(mu, 1, count), generator.normal(0, 1, count)


def test_the_gaussian_bound_is_below_the_truth_as_often_as_it_says():
    """Of 1000 bounds at 90 % confidence 100 are too high; 40 are four standard deviations."""
    truth = gdp_epsilon(1.5, 1e-3)
    bounds = [gaussian(*scores(1.5, 400, seed), 1e-3, 0.9) for seed in range(1000)]
    assert 60 <= sum(bound > truth for bound in bounds) <= 140
    assert np.mean(bounds) > 0.8 * truth


def test_the_one_run_bound_of_randomised_response():
    """A score that is the truth with probability e / (1 + e) is exactly (1, 0)-private."""
    generator = np.random.default_rng(0)
    bounds = []
    for _ in range(50):
        inside = np.where(generator.random(1000) < math.e / (1 + math.e), 1.0, 0.0)
        outside = np.where(generator.random(1000) < math.e / (1 + math.e), 0.0, 1.0)
        bounds.append(one_run(inside, outside, 0.0))
    # 2.5 false ones expected if the confidence were just 95 %; 10 by chance once in 6000
    assert sum(bound > 1 for bound in bounds) < 10
    assert 0.75 < np.mean(bounds) < 1


def test_scores_without_a_difference_show_nothing():
    same = np.zeros(500)
    assert one_run(same, same, 1e-5) == 0
    assert gaussian(same, same, 1e-5) == separation(same, same) == 0
    assert one_run(same, same + 1, 1e-5) == 0  # the wrong way round


def test_the_limits_of_the_ratio_hold_what_they_say():
    """Simulated: the ratio of a correct trainer, with the law that drawing and noise give."""
    noise, rate, steps, canaries = 2.0, 0.3, 25, 600
    low, _ = ratio_limits(noise, rate, steps, canaries)
    assert low < 0.75
    generator = np.random.default_rng(1)
    ratios = []
    for _ in range(2000):
        pure = generator.normal(0, noise * steps**0.5, canaries)
        drawn = generator.binomial(steps, rate, canaries // 2)
        found = separation(pure[: canaries // 2] + drawn, pure[canaries // 2 :])
        ratios.append(found / expected_separation(noise, rate, steps))
    # limits are at the quantiles of ALARM / 2, which are so many standard deviations away
    assert np.std(ratios) == pytest.approx((1 - low) / norm.isf(ALARM / 2), rel=0.07)
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)
    assert ratio_limits(0.5, 0.5, 16, 2000) == (0.75, 1.3)


RATES = [(0.01, 1), (0.01, 100), (0.1, 1), (0.1, 40), (0.5, 4), (0.9, 5), (1.0, 3)]


@pytest.mark.parametrize(("rate", "steps"), RATES)
def test_independent_draws_are_right_and_others_are_not(rate, steps):
    generator = np.random.default_rng(2)
    patients = 1000
    for _ in range(100):
        assert drawing_fault(generator.binomial(steps, rate, patients), rate, steps) is None
    many = generator.binomial(steps, min(1, 5 * rate), patients) if rate < 1 else None
    assert many is None or "patients were drawn" in drawing_fault(many, rate, steps)
    assert "counts as several" in drawing_fault(np.full(patients, 2 * steps), rate, steps)


def test_a_shuffled_list_is_no_independent_draw():
    assert "spreads 0.00 times" in drawing_fault(np.full(1000, 4), 0.1, 40)
