"""Whatever sites send within the limits: no strategy raises, none leaves what sites may send."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medsa_model.strategies import (
    LARGEST_VALUE,
    FedAdam,
    FedAvg,
    FedExP,
    FedProx,
    FedYogi,
    Krum,
    Mean,
    Median,
    MultiKrum,
    NormBounded,
    TrimmedMean,
    Update,
)

RULES = [Mean(), Median(), TrimmedMean(), NormBounded(), Krum(), MultiKrum()]
EXTREME = [0.0, -0.0, 1e6, -1e6, 1e-45, -1e-45, 1e-38, 1e-19, 1.0, 999999.9375]
NUMBER = st.sampled_from(EXTREME) | st.floats(-1e6, 1e6, width=32)
SHARE = st.sampled_from([0.0, 0.9, 0.99, 1 - 1e-16]) | st.floats(0, 1, exclude_max=True)
ADAPTIVE = st.fixed_dictionaries(
    {
        "rate": st.sampled_from([1e-300, 0.01, 1.0, 1e6]),
        "beta1": SHARE,
        "beta2": SHARE,
        "tau": st.sampled_from([1e-12, 1e-3, 1e6]),
    }
)


def state(values: list[float]) -> dict[str, torch.Tensor]:
    first, second, third = torch.tensor(values)
    return {"w": torch.stack([first, second]), "b": third}


ROW = st.lists(NUMBER, min_size=3, max_size=3).map(state)


@st.composite
def updates(draw, sites: int) -> list[Update]:
    if draw(st.booleans()):  # all the same
        return [Update(draw(ROW), draw(st.integers(1, 10**7)))] * sites
    trained = st.lists(st.sampled_from([0, 1, 10**7]), min_size=2, max_size=2)
    rows = st.just({}) | st.fixed_dictionaries({"w": trained})
    return [Update(draw(ROW), draw(st.integers(1, 10**7)), draw(rows)) for _ in range(sites)]


def check(strategy, data: st.DataObject) -> None:
    """Three rounds, each with other updates, with what the strategy remembers."""
    sites = data.draw(st.integers(strategy.least_updates, strategy.least_updates + 3))
    current, memory = data.draw(ROW), {}
    for _ in range(3):
        current, memory = strategy.aggregate(current, data.draw(updates(sites)), memory)
        assert all(bool(tensor.isfinite().all()) for tensor in memory.values())
        for tensor in current.values():
            assert bool((tensor.abs() <= LARGEST_VALUE).all())  # not for NaN


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
@given(data=st.data(), keys=ADAPTIVE, rule=st.sampled_from(RULES))
@settings(max_examples=200, deadline=None)
def test_adaptive_steps_keep_within_the_limits(kind, data, keys, rule):
    check(kind(**keys, rule=rule), data)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
@pytest.mark.parametrize("keys", [{"tau": 1e-50}, {"tau": 1e7}, {"rate": 1e7}, {"rate": 0}])
def test_keys_with_which_a_step_would_be_no_number_are_refused(kind, keys):
    """1e-50 is 0 in float32, and 0 / 0 is the step of a number that no site changed."""
    with pytest.raises(ValidationError, match=next(iter(keys))):
        kind(**keys)


@pytest.mark.parametrize("kind", [FedAvg, FedProx])
@given(data=st.data(), rule=st.sampled_from(RULES))
@settings(max_examples=100, deadline=None)
def test_rules_keep_within_the_limits(kind, data, rule):
    check(kind(rule=rule), data)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_fedexp_keeps_within_the_limits(data):
    check(FedExP(), data)


def test_changes_that_undo_each_other_to_the_last_bit_do_not_throw_fedexp_out():
    """Their mean has a length whose square is nearly nothing, by which it is divided."""
    sent = [state([1e6, 1e6, 1e-45]), state([-1e6, -1e6, 1e-45])]
    following, _ = FedExP().aggregate(state([0.0] * 3), [Update(each, 1) for each in sent], {})
    assert following["w"].tolist() == [0, 0] and 0 <= following["b"].item() < 1e-44
