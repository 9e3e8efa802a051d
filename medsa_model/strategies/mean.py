"""The weighted mean of adapter states, with exact weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medsa_model.state import AdapterState

Memory = dict[str, torch.Tensor]
"""What a strategy keeps between rounds, by name; empty for most."""


@dataclass(frozen=True)
class Update:
    """What one site answers to a training message: its state and its number of cases."""

    state: AdapterState
    examples: int


def weighted_mean(updates: Sequence[Update], weighting: str) -> AdapterState:
    """Sum of w_i * state_i / sum of w_i, accumulated in float64, returned as float32.

    `weighting` is `examples` (w_i = number of cases; McMahan et al. 2017, "Communication-efficient
    learning of deep networks from decentralized data", algorithm 1) or `uniform` (w_i = 1).
    """
    weights = weights_of(updates, weighting)
    total = sum(weights)
    mean = {}
    for name in updates[0].state:
        accumulated = torch.zeros_like(updates[0].state[name], dtype=torch.float64)
        for update, weight in zip(updates, weights, strict=True):
            accumulated += weight * update.state[name].double()
        mean[name] = (accumulated / total).float()
    return mean


def weights_of(updates: Sequence[Update], weighting: str) -> list[int]:
    """The weight of each update: its number of cases (`examples`) or 1 (`uniform`)."""
    return [update.examples if weighting == "examples" else 1 for update in updates]
