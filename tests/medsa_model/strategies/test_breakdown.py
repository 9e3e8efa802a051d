"""What rules promise while some sites send anything, and that the mean promises none of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsa_model.strategies import Krum, Mean, Median, MultiKrum, NormBounded, TrimmedMean, Update

SIZE = 6
FAR = st.sampled_from([1e6, -1e6]) | st.floats(-1e6, 1e6, width=32)


def state(row: np.ndarray) -> dict[str, torch.Tensor]:
    values = torch.tensor(np.asarray(row), dtype=torch.float32)
    return {"a": values[:4].view(2, 2), "b": values[4:]}


def attack(data: st.DataObject, kind: type):
    """A rule, the current state, the updates and the rows of the honest sites among them.

    Faulty sites say that they have the most cases and that they trained every row.
    """
    rule = kind(faulty=data.draw(st.integers(1, 3)))
    sites = rule.least_updates + data.draw(st.integers(0, 3))
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    current = random.normal(size=SIZE).astype(np.float32).astype(np.float64)
    rows = current + random.normal(0.5, 0.2, size=(sites, SIZE))
    rows = rows.astype(np.float32).astype(np.float64)
    faulty = data.draw(
        st.lists(st.integers(0, sites - 1), min_size=rule.faulty, max_size=rule.faulty, unique=True)
    )
    for site in faulty:
        rows[site] = data.draw(st.lists(FAR, min_size=SIZE, max_size=SIZE))
    updates = []
    for site, row in enumerate(rows):
        claimed = [10**6] * 2 if site in faulty else [int(random.integers(0, 2)) for _ in range(2)]
        updates.append(Update(state(row), 10**7 if site in faulty else 3, {"a": claimed}))
    return rule, current, updates, np.delete(rows, faulty, axis=0)


def combined(rule, current: np.ndarray, updates: list[Update]) -> np.ndarray:
    found = rule.combine(state(current), updates, "examples")
    return np.concatenate([found["a"].reshape(-1), found["b"]]).astype(np.float64)


def in_range(found: np.ndarray, honest: np.ndarray) -> bool:
    return bool((honest.min(axis=0) <= found).all() and (found <= honest.max(axis=0)).all())


@pytest.mark.parametrize("kind", [Median, TrimmedMean])
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_every_number_stays_within_those_of_the_honest_sites(kind, data):
    rule, current, updates, honest = attack(data, kind)
    assert in_range(combined(rule, current, updates), honest)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_the_change_is_no_longer_than_an_honest_one(data):
    rule, current, updates, honest = attack(data, NormBounded)
    updates = [Update(update.state, update.examples) for update in updates]
    moved = np.linalg.norm(combined(rule, current, updates) - current)
    assert moved <= np.linalg.norm(honest - current, axis=1).max() * (1 + 1e-6)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_rows_do_not_let_a_longer_change_through_than_their_few_sites_allow(data):
    """In a row of k sites each has a share of 1 / k instead of 1 / n."""
    rule, current, updates, honest = attack(data, NormBounded)
    moved = np.linalg.norm(combined(rule, current, updates) - current)
    more = np.sqrt(len(updates) / rule.least_updates)
    assert moved <= more * np.linalg.norm(honest - current, axis=1).max() * (1 + 1e-6)


def far_ones(updates: list[Update], honest: np.ndarray) -> bool:
    """Whether the faulty sites are not by chance where the honest ones are."""
    known = {row.tobytes() for row in honest}
    sent = [torch.cat([u.state["a"].flatten(), u.state["b"]]).double().numpy() for u in updates]
    return all(np.abs(row).max() > 100 for row in sent if row.tobytes() not in known)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_krum_takes_an_honest_one(data):
    rule, current, updates, honest = attack(data, Krum)
    found = combined(rule, current, updates)
    if far_ones(updates, honest):
        assert any(np.array_equal(found, row) for row in honest)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_multi_krum_takes_the_mean_of_honest_ones(data):
    rule, current, updates, honest = attack(data, MultiKrum)
    found = combined(rule, current, updates)
    if far_ones(updates, honest):
        assert in_range(found, honest)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_the_mean_keeps_none_of_these_promises(weighting):
    random = np.random.default_rng(3)
    honest = random.normal(0.5, 0.2, size=(6, SIZE))
    updates = [Update(state(row), 3) for row in honest]
    updates.append(Update(state(np.full(SIZE, 1e6)), 3))
    found = Mean().combine(state(np.zeros(SIZE)), updates, weighting)
    moved = np.concatenate([found["a"].reshape(-1), found["b"]])
    assert not in_range(moved, honest)
    assert np.linalg.norm(moved) > 1000 * np.linalg.norm(honest, axis=1).max()


def sites(*trained: list[int] | None) -> list[Update]:
    """Sites that send 1, 2, 4, 8, ... in each of two rows, and which rows each of them trained."""
    return [
        Update({"names": torch.full((2, 3), 2.0**site)}, 9, {} if rows is None else {"names": rows})
        for site, rows in enumerate(trained)
    ]


@pytest.mark.parametrize(("kind", "expected"), [(Median, [8.0, 4.0]), (TrimmedMean, [8.0, 14 / 3])])
def test_a_row_is_combined_over_those_who_trained_it_when_these_are_enough(kind, expected):
    """Row 0 was trained by those who sent 4, 8, 16: three are enough. Row 1 by two: all five."""
    updates = sites(None, [0, 7], [1, 0], [5, 0], [900, 1])
    found = kind().combine({"names": torch.zeros(2, 3)}, updates, "examples")
    torch.testing.assert_close(found["names"], torch.tensor(expected)[:, None].expand(2, 3))


def test_a_row_of_shortened_changes_by_hand():
    """Lengths are 1, 2, 4, 8, 16 times sqrt(6), the median 4: of those who trained row 0 all count
    as 4; over all sites row 1 is (1 + 2 + 4 + 4 + 4) / 5."""
    updates = sites(None, [0, 7], [1, 0], [5, 0], [900, 1])
    found = NormBounded().combine({"names": torch.zeros(2, 3)}, updates, "examples")
    expected = torch.tensor([[4.0] * 3, [3.0] * 3])
    torch.testing.assert_close(found["names"], expected)


def test_krum_takes_rows_as_the_selected_site_has_them():
    updates = sites([1, 0], [0, 7], [1, 0], [5, 0], [900, 1])
    found = Krum().combine({"names": torch.zeros(2, 3)}, updates, "examples")
    assert found["names"].tolist() == [[2.0] * 3] * 2  # (2 - 1)^2 + (2 - 4)^2 is the lowest
