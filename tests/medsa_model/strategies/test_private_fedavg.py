"""Differential privacy for sites: sensitivity, noise, what it costs and what is said of it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import brentq
from scipy.stats import kstest, norm

from medsa_model.strategies import PrivateFedAvg, Update
from medsa_model.strategies.private_fedavg import clipped_sum

NAMES = ("a", "b", "c")
ANY = st.floats(width=32)  # with NaN, infinities, zeros and the largest there are
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def state(values: list[float]) -> dict[str, torch.Tensor]:
    """Four numbers as three tensors, one of them without dimensions."""
    first, second, third, fourth = torch.tensor(values)
    return {"a": torch.stack([first, second])[None], "b": third, "c": fourth[None]}


def numbers(tensors: dict[str, torch.Tensor]) -> list[float]:
    return [float(value) for name in NAMES for value in tensors[name].flatten()]


def by_hand(current: list[float], updates: list[list[float]], clip_norm: float) -> list[float]:
    """The sum of clipped changes in plain numbers."""
    columns: list[list[float]] = [[], [], [], []]
    for update in updates:
        change = [new - old for new, old in zip(update, current, strict=True)]
        if all(map(math.isfinite, change)):
            length = math.hypot(*change)
            for column, value in zip(columns, change, strict=True):
                column.append(value if length <= clip_norm else value / length * clip_norm)
    return [math.fsum(column) for column in columns]


@given(
    current=st.lists(FINITE, min_size=4, max_size=4),
    updates=st.lists(st.lists(ANY, min_size=4, max_size=4), min_size=1, max_size=6),
    clip_norm=st.floats(1e-6, 1e6),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_one_site_moves_the_sum_by_the_clipping_norm_at_most(current, updates, clip_norm, data):
    one = data.draw(st.integers(0, len(updates) - 1))
    start, sent = state(current), [Update(state(update), 1) for update in updates]
    whole = numbers(clipped_sum(start, sent, clip_norm))
    removed = numbers(clipped_sum(start, sent[:one] + sent[one + 1 :], clip_norm))
    unchanged = [*sent[:one], Update(start, 1), *sent[one + 1 :]]
    zero = numbers(clipped_sum(start, unchanged, clip_norm))
    assert all(map(math.isfinite, whole))
    assert math.dist(whole, removed) <= clip_norm * (1 + 1e-9)
    assert math.dist(whole, zero) <= clip_norm * (1 + 1e-9)
    # the numbers as they are in float32
    expected = by_hand(numbers(start), [numbers(update.state) for update in sent], clip_norm)
    assert whole == pytest.approx(expected, rel=1e-9, abs=1e-12 * clip_norm)


def test_the_norm_is_over_all_tensors_together():
    """(3, 0), 4, 12 is 13 long."""
    sent = [Update(state([3.0, 0.0, 4.0, 12.0]), 1)]
    whole = clipped_sum(state([0.0] * 4), sent, 1.3)
    assert numbers(whole) == pytest.approx([0.3, 0.0, 0.4, 1.2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_does_not_switch_clipping_off(bad):
    start = state([0.0] * 4)
    hostile = Update(state([1e6, 0.0, 0.0, bad]), 1)
    good = Update(state([0.5, 0.0, 0.0, 0.0]), 1)
    assert numbers(clipped_sum(start, [hostile, good], 1.0)) == [0.5, 0.0, 0.0, 0.0]


def test_sites_have_the_same_weight_and_rows_no_weight():
    """Changes (2, 0) and (0, 6), the second clipped to (0, 4): their mean is (1, 2)."""
    quiet = PrivateFedAvg(clip_norm=4, noise_multiplier=1).model_copy(
        update={"noise_multiplier": 0.0}
    )
    updates = [
        Update({"w": torch.tensor([12.0, 10.0])}, 1, {"w": [1, 0]}),
        Update({"w": torch.tensor([10.0, 16.0])}, 999, {"w": [0, 999]}),
    ]
    kept = {"anything": torch.ones(1)}
    following, memory = quiet.aggregate({"w": torch.tensor([10.0, 10.0])}, updates, kept)
    assert following["w"].tolist() == [11.0, 12.0] and memory is kept


def test_the_noise_has_the_stated_deviation():
    """Of 100,000 numbers a deviation is known to 0.22 % and a mean to 0.32 % of it."""
    strategy = PrivateFedAvg(clip_norm=0.5, noise_multiplier=3)
    start = {name: torch.zeros(100_000) for name in NAMES}
    following, _ = strategy.aggregate(start, [Update(start, 1)] * 4, {})
    expected = 3 * 0.5 / 4
    for noise in following.values():
        assert float(noise.double().std()) == pytest.approx(expected, rel=0.02)
        assert abs(float(noise.double().mean())) < 0.03 * expected
        assert kstest(noise.double().numpy() / expected, norm.cdf).statistic < 0.015
    together = torch.corrcoef(torch.stack(list(following.values())).double())
    assert float((together - torch.eye(3)).abs().max()) < 0.03  # tensors do not share their noise


def test_the_noise_is_on_the_sum_and_so_shrinks_with_the_number_of_sites():
    strategy = PrivateFedAvg(noise_multiplier=1)
    start = {"w": torch.zeros(100_000)}
    few, many = (strategy.aggregate(start, [Update(start, 1)] * n, {})[0]["w"] for n in (1, 10))
    assert float(few.std() / many.std()) == pytest.approx(10, rel=0.03)


def test_equal_calls_differ_whatever_the_seed():
    strategy = PrivateFedAvg(noise_multiplier=1)
    start = {"w": torch.zeros(50)}
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(strategy.aggregate(start, [Update(start, 1)], {})[0]["w"])
    assert bool((found[0] != found[1]).all())


# no amplification, "rdp": computed by the accountant of Google's dp-accounting
REFERENCE = [
    (1, 50, 1e-2, 44.419),
    (5, 50, 1e-2, 4.3405),
    (5, 100, 1e-3, 8.4165),
    (10, 100, 1e-3, 3.5366),
    (1, 100, 1e-3, 85.18),
    (4, 100, 1e-3, 11.27),
    (1, 200, 1e-4, 158.4),
]


@pytest.mark.parametrize(("noise", "rounds", "delta", "expected"), REFERENCE)
def test_epsilon_is_that_of_another_accountant(noise, rounds, delta, expected):
    strategy = PrivateFedAvg(noise_multiplier=noise, delta=delta)
    assert strategy.spent(rounds) == pytest.approx(expected, rel=0.005)
    assert strategy.prepared(3) is strategy  # nothing to find out


def exact(noise: float, rounds: int, delta: float) -> float:
    """Epsilon of Gaussian noise without an accountant: `rounds` rounds are one with noise /
    sqrt(rounds) (Balle and Wang 2018, arXiv:1805.06530, theorem 8)."""
    deviation = noise / math.sqrt(rounds)

    def excess(value: float) -> float:
        first = norm.cdf(1 / (2 * deviation) - value * deviation)
        second = math.exp(value) * norm.cdf(-1 / (2 * deviation) - value * deviation)
        return first - second - delta

    return brentq(excess, 0, 300)


@pytest.mark.parametrize(("noise", "rounds", "delta"), [row[:3] for row in REFERENCE])
def test_epsilon_is_never_below_the_exact_one(noise, rounds, delta):
    spent = PrivateFedAvg(noise_multiplier=noise, delta=delta).spent(rounds)
    assert exact(noise, rounds, delta) <= spent <= 1.25 * exact(noise, rounds, delta)


@pytest.mark.parametrize(("budget", "rounds"), [(8, 20), (8, 1), (1, 100), (0.3, 50)])
def test_the_rounds_take_the_whole_budget_and_no_more(budget, rounds):
    strategy = PrivateFedAvg(epsilon=budget, delta=1e-2, clip_norm=0.2).prepared(rounds)
    spent = [strategy.spent(done) for done in range(rounds + 2)]
    assert spent[0] == 0 and spent == sorted(spent)
    assert 0.99 * budget <= spent[rounds] <= budget < spent[rounds + 1]
    assert (strategy.clip_norm, strategy.delta) == (0.2, 1e-2)


def test_a_budget_without_the_number_of_rounds_is_not_guessed():
    strategy = PrivateFedAvg(epsilon=8)
    start = {"w": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"call prepared\(rounds\)"):
        strategy.aggregate(start, [Update(start, 1)], {})
    with pytest.raises(ValueError, match=r"call prepared\(rounds\)"):
        strategy.spent(1)
    assert strategy.prepared(0).noise_multiplier == strategy.prepared(1).noise_multiplier > 0


def test_a_budget_that_no_noise_keeps_is_refused():
    expected = "no noise keeps 20 rounds within strategy.epsilon 1e-06 at strategy.delta 1e-09"
    with pytest.raises(ValueError, match=expected):
        PrivateFedAvg(epsilon=1e-6, delta=1e-9).prepared(20)


@pytest.mark.parametrize("keys", [{}, {"epsilon": 8, "noise_multiplier": 1}])
def test_exactly_one_amount_is_given(keys):
    with pytest.raises(ValidationError, match=r"either strategy.epsilon or strategy.noise_mult"):
        PrivateFedAvg(**keys)


@pytest.mark.parametrize("key", ["sensitivity", "weighting"])
def test_the_sensitivity_is_no_key_and_neither_is_a_weight(key):
    with pytest.raises(ValidationError, match="Extra inputs"):
        PrivateFedAvg.model_validate({"noise_multiplier": 1, key: 1})


def test_the_warning_has_the_numbers_of_the_run():
    """1.83 * sqrt(4e6) / 5 = 732; 5 * sqrt(100) / 50 = 1."""
    text = PrivateFedAvg(noise_multiplier=1.83, delta=1e-2).warning(20, 5, 4_000_000)
    assert "4,000,000 parameters is 732 times as long" in text
    assert "for each of 5 sites over 20 rounds" in text
    assert "not against the coordinator, who sees every update" in text
    assert "promises nothing" not in text
    text = PrivateFedAvg(noise_multiplier=5, delta=1e-2).warning(50, 50, 100)
    assert "epsilon 4.34 at delta 0.01" in text and "100 parameters is 1.00 times" in text


def test_the_warning_names_a_delta_that_promises_nothing():
    text = PrivateFedAvg(noise_multiplier=1, delta=0.2).warning(20, 5, 100)
    assert "delta 0.2 is not below one in 5 sites" in text
