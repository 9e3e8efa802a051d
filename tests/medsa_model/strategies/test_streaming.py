"""Updates on disk: the same bits as in memory, and memory that does not grow with the sites."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medsa_model import stored_state
from medsa_model.stored_state import keep
from medsa_model.strategies import (
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
    PrivateFedAvg,
    TrimmedMean,
    Update,
    weighted_mean,
)

RULES = [Mean(), Median(), TrimmedMean(), NormBounded(), Krum(), MultiKrum()]
NOISELESS = PrivateFedAvg(noise_multiplier=1).model_copy(update={"noise_multiplier": 0.0})
ALL = [kind(rule=rule) for kind in (FedAvg, FedProx, FedAdam, FedYogi) for rule in RULES]
ALL += [FedExP(), NOISELESS]


def named(strategy) -> str:
    return f"{strategy.kind}-{strategy.rule.kind}" if hasattr(strategy, "rule") else strategy.kind


def state(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"w": (11, 5), "names": (3, 4), "scalar": ()}
    return {n: torch.randn(shape, generator=random) for n, shape in shapes.items()}


def rows(site: int) -> dict[str, list[int]]:
    return {"names": [site, site % 2, 0]}


@pytest.mark.parametrize("numbers", [16, 2**20])
@pytest.mark.parametrize("strategy", ALL, ids=named)
def test_stored_updates_are_aggregated_bit_for_bit_like_those_in_memory(
    strategy, numbers, tmp_path, monkeypatch
):
    monkeypatch.setattr(stored_state, "NUMBERS", numbers)
    states = [state(site) for site in range(7)]
    loaded = [Update(each, 3 + site, rows(site)) for site, each in enumerate(states)]
    stored = [
        Update(keep(tmp_path / f"{site}", each), 3 + site, rows(site))
        for site, each in enumerate(states)
    ]
    current = state(99)
    for each in (current, strategy.aggregate(current, loaded, {})[0]):  # with and without memory
        memory = strategy.aggregate(each, loaded, {})[1]
        one, other = (strategy.aggregate(current, sent, memory) for sent in (loaded, stored))
        for expected, found in zip(one, other, strict=True):
            assert list(expected) == list(found)
            assert all(torch.equal(expected[name], found[name]) for name in expected)


def mean_of_loaded(updates: list[Update], weighting: str) -> dict[str, torch.Tensor]:
    """The weighted mean with all updates in memory at once: tensors weighted as a whole in the
    order of the sites, rows in one sum."""
    weights = [update.examples if weighting == "examples" else 1 for update in updates]
    mean = {}
    for name in updates[0].state:
        if name != "names":
            total = torch.zeros_like(updates[0].state[name], dtype=torch.float64)
            for update, weight in zip(updates, weights, strict=True):
                total += weight * update.state[name].double()
            mean[name] = (total / sum(weights)).float()
            continue
        states = torch.stack([update.state[name].double() for update in updates])
        trained = torch.tensor([update.rows[name] for update in updates]).double()
        trained = trained.clamp(max=1) if weighting == "uniform" else trained
        everybody = torch.tensor(weights).double()[:, None].expand_as(trained)
        shares = torch.where(trained.sum(0) > 0, trained, everybody)
        mean[name] = ((shares / shares.sum(0))[:, :, None] * states).sum(0).float()
    return mean


@pytest.mark.parametrize("numbers", [200, 2**20])
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("sites", [1, 2, 5, 40])
def test_the_mean_has_the_bits_that_it_has_in_one_piece(sites, weighting, numbers, monkeypatch):
    monkeypatch.setattr(stored_state, "NUMBERS", numbers)
    updates = [Update(state(site), 3 + site, rows(site)) for site in range(sites)]
    found, expected = weighted_mean(updates, weighting), mean_of_loaded(updates, weighting)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, list[int]] = {}  # number of tensors on it, and its bytes
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        key = tensor.untyped_storage().data_ptr()
        if key not in self.storages:
            self.storages[key] = [0, tensor.nbytes]
            self.now += tensor.nbytes
            self.most = max(self.most, self.now)
        self.storages[key][0] += 1
        weakref.finalize(tensor, self._gone, key)

    def _gone(self, key: int) -> None:
        self.storages[key][0] -= 1
        if not self.storages[key][0]:
            self.now -= self.storages.pop(key)[1]


def most_alive(action) -> int:
    """Bytes of tensors that `action` made and held at the same time, at most."""
    with Alive() as alive:
        action()
    return alive.most


SITES, TENSORS, SIZE = 40, 8, 2**16  # 40 states of 2 MiB in eight tensors
STATE = 4 * TENSORS * SIZE


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder, updates = tmp_path_factory.mktemp("updates"), []
    for site in range(SITES):
        random = torch.Generator().manual_seed(site)
        tensors = {f"{n}": torch.randn(SIZE, generator=random) for n in range(TENSORS)}
        updates.append(Update(keep(folder / f"{site}", tensors), 5))
    return updates


def test_what_is_counted_is_what_is_held(stored):
    """The instrument sees all that is loaded, and forgets what is dropped."""
    held: list[dict[str, torch.Tensor]] = []
    assert most_alive(lambda: held.extend(dict(u.state) for u in stored)) >= SITES * STATE
    held.clear()
    assert most_alive(lambda: [u.state["0"].sum() for u in stored]) < STATE


ONE_OF_EACH = [*(FedAvg(rule=rule) for rule in RULES), FedAdam(), FedYogi(), FedExP(), NOISELESS]


@pytest.mark.parametrize("strategy", ONE_OF_EACH, ids=named)
def test_memory_does_not_grow_with_the_number_of_sites(strategy, stored, monkeypatch):
    monkeypatch.setattr(stored_state, "NUMBERS", 2**18)  # of all states together
    current = {f"{n}": torch.zeros(SIZE) for n in range(TENSORS)}
    few, many = (
        most_alive(lambda sent=stored[:count]: strategy.aggregate(current, sent, {}))
        for count in (10, SITES)
    )
    assert many <= 1.1 * few
    assert many < 8 * STATE  # of 40: next state, moments, and float64 of a sum and of one change
