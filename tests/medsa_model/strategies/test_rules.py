"""Rules against naive computations in NumPy, and what every member of the union must hold."""

import math
import typing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsa_model.strategies import (
    Krum,
    Mean,
    Median,
    MultiKrum,
    NormBounded,
    Rule,
    TrimmedMean,
    Update,
    weighted_mean,
)

ALL = [Mean, Median, TrimmedMean, NormBounded, Krum, MultiKrum]
ROBUST = ALL[1:]
BY_COORDINATE = [Median, TrimmedMean]
NUMBER = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -1e6, 1e6, 1.0])
SIZE = 5  # numbers in a state


def state(row: np.ndarray) -> dict[str, torch.Tensor]:
    """Five numbers as three tensors, one of them without dimensions."""
    values = torch.tensor(np.asarray(row), dtype=torch.float32)
    return {"a": values[:3].view(1, 3), "b": values[3], "c": values[4:]}


def flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([tensors[name].numpy().reshape(-1) for name in "abc"]).astype(np.float64)


def combined(rule, current, rows, examples=None) -> np.ndarray:
    counts = examples or [1] * len(rows)
    updates = [Update(state(row), count) for row, count in zip(rows, counts, strict=True)]
    return flat(rule.combine(state(current), updates, "examples"))


def drawn(data: st.DataObject, rule: type) -> tuple[typing.Any, np.ndarray, np.ndarray]:
    """A rule, a current state and at least as many updates as it needs."""
    rule = rule(faulty=data.draw(st.integers(1, 2)))
    least = rule.least_updates
    row = st.lists(NUMBER, min_size=SIZE, max_size=SIZE)
    rows = data.draw(st.lists(row, min_size=least, max_size=least + 2))
    return rule, np.array(data.draw(row)), np.array(rows)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_the_median_is_that_of_numpy(data):
    rule, current, rows = drawn(data, Median)
    found = combined(rule, current, rows)
    assert np.array_equal(found, np.median(rows, axis=0).astype(np.float32))
    by_changes = current + np.median(rows - current, axis=0)
    np.testing.assert_allclose(found, by_changes, rtol=1e-6, atol=1e-9)


def test_the_median_of_an_even_number_is_in_the_middle():
    rows = np.array([[1.0], [2.0], [4.0], [1e6]]) * np.ones(SIZE)
    assert combined(Median(), np.zeros(SIZE), rows).tolist() == [3.0] * SIZE


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_the_trimmed_mean_is_that_of_sorted_lists(data):
    rule, current, rows = drawn(data, TrimmedMean)
    expected = []
    for column in (rows - current).T:
        left = sorted(column)[rule.faulty : -rule.faulty]
        expected.append(math.fsum(left) / len(left))
    found = combined(rule, current, rows)
    np.testing.assert_allclose(found, current + expected, rtol=1e-6, atol=1e-6)


@given(st.data(), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=100, deadline=None)
def test_the_norm_bounded_mean_is_that_of_shortened_arrows(data, factor):
    rule, current, rows = drawn(data, NormBounded)
    rule = NormBounded(faulty=rule.faulty, factor=factor)
    changes = rows - current
    bound = factor * np.median(np.linalg.norm(changes, axis=1))
    short = [c * min(1, bound / n) if (n := np.linalg.norm(c)) else c for c in changes]
    expected = current + np.mean(short, axis=0)
    np.testing.assert_allclose(combined(rule, current, rows), expected, rtol=1e-6, atol=1e-6)


def krum_scores(rows: np.ndarray, faulty: int) -> list[float]:
    scores = []
    for one in range(len(rows)):
        others = [np.sum((rows[one] - rows[k]) ** 2) for k in range(len(rows)) if k != one]
        scores.append(math.fsum(sorted(others)[: len(rows) - faulty - 2]))
    return scores


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_krum_takes_one_with_the_lowest_score(data):
    rule, current, rows = drawn(data, Krum)
    found, scores = combined(rule, current, rows), krum_scores(rows, rule.faulty)
    chosen = [s for s, row in zip(scores, rows, strict=True) if np.array_equal(row, found)]
    assert chosen and min(chosen) == pytest.approx(min(scores), rel=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 2), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_multi_krum_is_the_mean_of_the_lowest_scores(seed, faulty, more):
    rows = np.random.default_rng(seed).normal(size=(2 * faulty + 3 + more, SIZE))
    rows = rows.astype(np.float32).astype(np.float64)
    best = np.argsort(krum_scores(rows, faulty))[: len(rows) - faulty - 2]
    found = combined(MultiKrum(faulty=faulty), np.zeros(SIZE), rows)
    np.testing.assert_allclose(found, rows[best].mean(axis=0), rtol=1e-6, atol=1e-7)


def test_equal_scores_go_by_the_order_of_the_sites():
    """0, 1, 2, 3, 4 with two neighbours each: the scores are 5, 2, 2, 2, 5."""
    rows = np.arange(5.0)[:, None] * np.array([1, 0, 0, 0, 0])
    assert combined(Krum(), np.zeros(SIZE), rows)[0] == 1
    assert combined(Krum(), np.zeros(SIZE), rows[::-1])[0] == 3
    assert combined(MultiKrum(), np.zeros(SIZE), rows)[0] == 1.5


def test_every_member_of_the_union_is_tested_here():
    union, _ = typing.get_args(Rule)
    assert set(ALL) == set(typing.get_args(union))


@pytest.mark.parametrize("rule", ALL)
def test_names_shapes_and_types_are_kept(rule):
    current = {"a": torch.zeros(2, 3), "b": torch.zeros(()), "c": torch.zeros(0, 4)}
    update = Update({n: torch.ones_like(t) for n, t in current.items()}, 2)
    following = rule().combine(current, [update] * 7, "examples")
    assert list(following) == ["a", "b", "c"]
    assert all(following[n].shape == current[n].shape for n in current)
    assert all(t.dtype == torch.float32 and (t == 1).all() for t in following.values())
    assert not current["a"].any() and update.state["a"].all()  # the arguments are not changed
    following["a"] += 1
    assert (update.state["a"] == 1).all()


@pytest.mark.parametrize("faulty", [1, 2, 5])
@pytest.mark.parametrize("rule", ROBUST)
def test_below_the_least_number_of_updates_a_rule_refuses(rule, faulty):
    least = 2 * faulty + (3 if rule in (Krum, MultiKrum) else 1)
    rule = rule(faulty=faulty)
    assert rule.least_updates == least
    combined(rule, np.zeros(SIZE), np.ones((least, SIZE)))
    expected = rf"{rule.kind} has the updates of {least - 1} sites, expected at least {least}"
    with pytest.raises(ValueError, match=expected):
        combined(rule, np.zeros(SIZE), np.ones((least - 1, SIZE)))


def test_a_mean_needs_one_update():
    assert Mean().least_updates == 1
    with pytest.raises(ValueError, match="mean has the updates of 0 sites, expected at least 1"):
        Mean().combine(state(np.zeros(SIZE)), [], "uniform")


@pytest.mark.parametrize("rule", ROBUST)
def test_a_site_gives_itself_no_weight(rule):
    rows = np.random.default_rng(1).normal(size=(7, SIZE))
    same, heavy = [1] * 7, [10**7, *range(2, 8)]
    one, other = (combined(rule(), np.zeros(SIZE), rows, each) for each in (same, heavy))
    assert np.array_equal(one, other)


def test_the_mean_as_a_rule_is_the_weighted_mean():
    updates = [Update(state(np.full(SIZE, 1.0)), 1), Update(state(np.full(SIZE, 5.0)), 3)]
    for weighting, expected in (("examples", 4.0), ("uniform", 3.0)):
        found = Mean().combine(state(np.zeros(SIZE)), updates, weighting)
        assert flat(found).tolist() == [expected] * SIZE
        assert flat(found).tolist() == flat(weighted_mean(updates, weighting)).tolist()


@given(st.integers(0, 10**6), st.permutations(range(8)))
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_sites_does_not_matter(seed, order):
    rows = np.random.default_rng(seed).normal(size=(8, SIZE))
    for rule in ALL:
        one, other = (combined(rule(), np.ones(SIZE), each) for each in (rows, rows[order]))
        if rule in (Median, TrimmedMean, Krum):
            assert np.array_equal(one, other)
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_exactly_the_known_keys():
    with pytest.raises(ValueError, match="faulty"):
        Median(faulty=0)
    with pytest.raises(ValueError, match="factor"):
        NormBounded(factor=0)
