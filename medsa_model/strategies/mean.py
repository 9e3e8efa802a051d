"""The weighted mean of adapter states, with exact weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from medsa_model.state import AdapterState

Memory = dict[str, torch.Tensor]
"""What a strategy keeps between rounds, by name; empty for most."""


@dataclass(frozen=True)
class Update:
    """What one site answers to a training message: its state and its number of cases.

    `rows`: of a tensor by name, how many cases trained each of its rows. A site that annotates some
    of the structures alone has learnt nothing about the names of the others.
    """

    state: AdapterState
    examples: int
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)


def weighted_mean(updates: Sequence[Update], weighting: str) -> AdapterState:
    """Sum of w_i * state_i / sum of w_i, accumulated in float64, returned as float32.

    `weighting` is `examples` (w_i = number of cases; McMahan et al. 2017, "Communication-efficient
    learning of deep networks from decentralized data", algorithm 1) or `uniform` (w_i = 1). A row
    of a tensor in `Update.rows` is weighted by the cases that trained it, or 1 when there are any;
    a row that nobody trained, as all others.
    """
    weights = weights_of(updates, weighting)
    total = sum(weights)
    mean = {}
    for name in updates[0].state:
        accumulated = torch.zeros_like(updates[0].state[name], dtype=torch.float64)
        if any(name in update.rows for update in updates):
            mean[name] = _mean_of_rows(updates, name, weights, weighting)
            continue
        for update, weight in zip(updates, weights, strict=True):
            accumulated += weight * update.state[name].double()
        mean[name] = (accumulated / total).float()
    return mean


def _mean_of_rows(
    updates: Sequence[Update], name: str, weights: Sequence[int], weighting: str
) -> torch.Tensor:
    """The mean of a tensor (rows, ...) whose rows were trained by different sites."""
    states = torch.stack([update.state[name].double() for update in updates])
    count = states.shape[1]
    trained = torch.tensor([update.rows.get(name, [0] * count) for update in updates]).double()
    if weighting == "uniform":
        trained = trained.clamp(max=1)
    everybody = torch.tensor(weights).double()[:, None].expand_as(trained)
    shares = torch.where(trained.sum(0) > 0, trained, everybody)
    shares = (shares / shares.sum(0)).view(len(updates), count, *[1] * (states.dim() - 2))
    return (shares * states).sum(0).float()


def weights_of(updates: Sequence[Update], weighting: str) -> list[int]:
    """The weight of each update: its number of cases (`examples`) or 1 (`uniform`)."""
    return [update.examples if weighting == "examples" else 1 for update in updates]
