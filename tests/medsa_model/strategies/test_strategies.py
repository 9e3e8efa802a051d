"""Strategies against hand-computed numbers, and what every member of the union must hold."""

import typing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsa_model.strategies import (
    FedAdam,
    FedAvg,
    FedExP,
    FedProx,
    FedYogi,
    PrivateFedAvg,
    Strategy,
    Update,
    weighted_mean,
)

PRIVATE = PrivateFedAvg(clip_norm=1000, noise_multiplier=1)
NOISELESS = PRIVATE.model_copy(update={"noise_multiplier": 0.0})  # which no run YAML can ask for
BY_ROWS = [FedAvg(), FedProx(), FedAdam(), FedYogi(), FedExP()]
ALL = [*BY_ROWS, NOISELESS]
MEANS = [FedAvg(), FedProx(), FedExP(), NOISELESS]


def state(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


def test_fedavg_weights_by_number_of_cases():
    updates = [Update(state(1.0, 0.0), 1), Update(state(4.0, 8.0), 3)]
    following, memory = FedAvg().aggregate(state(9.0, 9.0), updates, {})
    assert following["w"].tolist() == [3.25, 6.0] and memory == {}


def test_fedavg_uniform_ignores_the_number_of_cases():
    updates = [Update(state(1.0), 1), Update(state(4.0), 1000)]
    following, _ = FedAvg(weighting="uniform").aggregate(state(0.0), updates, {})
    assert following["w"].tolist() == [2.5]


def test_fedprox_is_fedavg_on_the_server_and_pulls_at_the_sites():
    updates = [Update(state(1.0), 1), Update(state(4.0), 3)]
    prox, avg = (s.aggregate(state(0.0), updates, {})[0] for s in (FedProx(mu=0.5), FedAvg()))
    assert torch.equal(prox["w"], avg["w"])
    assert FedProx(mu=0.5).proximal == 0.5 and FedAvg().proximal == 0.0


def test_fedadam_two_steps_by_hand():
    strategy = FedAdam(rate=0.1, beta1=0.9, beta2=0.99, tau=0.001)
    current, memory = state(1.0), {}
    first = second = 0.0
    expected = 1.0
    for target in (2.0, 0.5):
        change = target - expected
        first = 0.9 * first + 0.1 * change
        second = 0.99 * second + 0.01 * change**2
        expected = expected + 0.1 * first / (second**0.5 + 0.001)
        current, memory = strategy.aggregate(current, [Update(state(target), 5)], memory)
        assert current["w"].item() == pytest.approx(expected, rel=1e-5)


def test_fedyogi_three_steps_by_hand():
    """The second moment grows towards a larger squared change and shrinks towards a smaller one,
    each time by the same share of the squared change."""
    strategy = FedYogi(rate=0.1, beta1=0.9, beta2=0.99, tau=0.001)
    current, memory = state(1.0), {}
    first, second, expected, grown = 0.0, 0.001**2, 1.0, []
    for target in (2.0, 1.1, 0.5):
        change = target - expected
        first = 0.9 * first + 0.1 * change
        grown.append(change**2 > second)
        second += 0.01 * change**2 * (1 if grown[-1] else -1)
        expected = expected + 0.1 * first / (second**0.5 + 0.001)
        current, memory = strategy.aggregate(current, [Update(state(target), 5)], memory)
        assert current["w"].item() == pytest.approx(expected, rel=1e-5)
        assert memory["second/w"].item() == pytest.approx(second, rel=1e-5)
    assert grown == [True, False, True]


def test_every_member_of_the_union_is_tested_here():
    union, _ = typing.get_args(Strategy)
    assert {type(strategy) for strategy in ALL} == set(typing.get_args(union))


@pytest.mark.parametrize("strategy", [*ALL, PRIVATE], ids=lambda s: s.kind)
def test_names_shapes_and_types_are_kept(strategy):
    current = {"a": torch.zeros(2, 3), "b": torch.zeros(())}
    update = Update({"a": torch.ones(2, 3), "b": torch.ones(())}, 2)
    following, _ = strategy.aggregate(current, [update, update], {})
    assert list(following) == ["a", "b"]
    assert all(following[n].shape == current[n].shape for n in current)
    assert all(t.dtype == torch.float32 for t in following.values())
    assert not current["a"].any()  # the arguments are not changed


@pytest.mark.parametrize("strategy", ALL, ids=lambda s: s.kind)
def test_one_update_is_enough_for_a_mean(strategy):
    assert strategy.least_updates == 1


@pytest.mark.parametrize("strategy", MEANS, ids=lambda s: s.kind)
def test_one_site_is_the_identity_bit_for_bit(strategy):
    value = {"w": torch.randn(100)}
    following, _ = strategy.aggregate({"w": torch.zeros(100)}, [Update(value, 7)], {})
    assert torch.equal(following["w"], value["w"])


@pytest.mark.parametrize("strategy", ALL, ids=lambda s: s.kind)
def test_sites_that_agree_with_the_global_state_leave_it(strategy):
    value = {"w": torch.randn(50)}
    updates = [Update(value, 3), Update(value, 5)]
    following, _ = strategy.aggregate(value, updates, {})
    torch.testing.assert_close(following["w"], value["w"], atol=1e-7, rtol=0)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=8), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_mean_does_not_depend_on_the_order_and_stays_in_range(counts, random):
    updates = [Update(state(float(n)), count) for n, count in enumerate(counts)]
    shuffled = updates[:]
    random.shuffle(shuffled)
    mean = weighted_mean(updates, "examples")["w"].item()
    assert mean == pytest.approx(weighted_mean(shuffled, "examples")["w"].item(), rel=1e-6)
    assert -1e-6 <= mean <= len(counts) - 1 + 1e-6


def test_fedexp_goes_as_far_as_orthogonal_changes_allow():
    """Two sites, changes (1, 0) and (0, 1): mean (.5, .5), factor (1 + 1) / 2 / (2 * 0.5) = 1;
    four sites with orthogonal changes: factor 1 / (2 / 4) = 2."""
    start = {"w": torch.zeros(4)}
    updates = [Update({"w": row}, 3) for row in torch.eye(4)]
    following, _ = FedExP().aggregate(start, updates, {})
    assert following["w"].tolist() == pytest.approx([0.5] * 4)
    following, _ = FedExP().aggregate(start, updates[:2], {})
    assert following["w"].tolist() == pytest.approx([0.5, 0.5, 0, 0])


def test_fedexp_does_not_go_on_without_an_end_where_changes_undo_each_other():
    """Changes 1 and -0.998: mean 0.001, factor about 1 / 0.000002, of which 2 are left."""
    updates = [Update(state(1.0), 1), Update(state(-0.998), 1)]
    following, _ = FedExP().aggregate(state(0.0), updates, {})
    assert following["w"].item() == pytest.approx(0.002, rel=1e-4)


def test_fedexp_is_fedavg_when_sites_agree():
    updates = [Update(state(2.0, 1.0), 1), Update(state(2.0, 1.0), 9)]
    following, _ = FedExP().aggregate(state(0.0, 0.0), updates, {})
    assert following["w"].tolist() == [2.0, 1.0]


def named(rows: list[list[float]], examples: int, trained: list[int] | None) -> Update:
    """The update of a site whose `trained[k]` cases showed structure k."""
    values = {"w": torch.tensor([1.0 * examples]), "names": torch.tensor(rows)}
    return Update(values, examples, {} if trained is None else {"names": trained})


SITES = [
    named([[1.0, 2.0], [10.0, 10.0], [0.0, 4.0]], 2, [1, 0, 0]),
    named([[9.0, 6.0], [20.0, 40.0], [5.0, 9.0]], 8, [3, 5, 0]),
]


def test_a_row_is_weighted_by_the_cases_that_trained_it_by_hand():
    mean = weighted_mean(SITES, "examples")
    assert mean["names"].dtype == torch.float32
    torch.testing.assert_close(mean["names"][0], torch.tensor([7.0, 5.0]))  # 1 : 3
    assert mean["names"][1].tolist() == [20.0, 40.0]  # the second site alone
    torch.testing.assert_close(mean["names"][2], torch.tensor([4.0, 8.0]))  # nobody: 2 : 8
    assert mean["w"].tolist() == pytest.approx([(2 * 2 + 8 * 8) / 10])


def test_with_uniform_weights_a_row_is_the_mean_of_those_who_trained_it():
    mean = weighted_mean(SITES, "uniform")
    torch.testing.assert_close(mean["names"][0], torch.tensor([5.0, 4.0]))
    assert mean["names"][1].tolist() == [20.0, 40.0]
    torch.testing.assert_close(mean["names"][2], torch.tensor([2.5, 6.5]))


def test_a_site_that_counts_nothing_has_trained_no_row():
    silent = named([[0.0, 0.0]] * 3, 4, None)
    mean = weighted_mean([silent, SITES[1]], "examples")
    assert mean["names"][:2].tolist() == [[9.0, 6.0], [20.0, 40.0]]
    torch.testing.assert_close(mean["names"][2], torch.tensor([5.0, 9.0]) * 8 / 12)


@pytest.mark.parametrize("strategy", BY_ROWS, ids=lambda s: s.kind)
def test_every_strategy_takes_a_row_from_those_who_trained_it(strategy):
    current = {"w": torch.zeros(1), "names": torch.zeros(3, 2)}
    following, _ = strategy.aggregate(current, SITES, {})
    assert following["names"].shape == (3, 2) and following["names"].isfinite().all()
    without = [Update(update.state, update.examples) for update in SITES]
    alone = [without[1], without[1]]  # as if the second site were everybody
    if strategy.kind != "fedexp":  # whose step has one length for all tensors
        expected, _ = strategy.aggregate(current, alone, {})
        torch.testing.assert_close(following["names"][1], expected["names"][1])
    else:
        ratio = following["names"][1] / torch.tensor([20.0, 40.0])
        assert ratio[0] == pytest.approx(ratio[1].item()) and ratio[0] >= 1


@pytest.mark.parametrize("strategy", MEANS, ids=lambda s: s.kind)
def test_one_site_with_names_is_the_identity_bit_for_bit(strategy):
    update = named(torch.randn(3, 2).tolist(), 7, [2, 0, 7])
    following, _ = strategy.aggregate({n: v * 0 for n, v in update.state.items()}, [update], {})
    assert torch.equal(following["names"], update.state["names"])
