"""Squared Euclidean distances of states over all tensors, in float64, a few numbers at a time."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medsa_model.stored_state import parts


def squared_distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Squared distance of two states."""
    return sum(float((one[n].double() - other[n].double()).square().sum()) for n in other)


def squared_distances(states: Sequence[Mapping[str, Tensor]], sizes: Mapping[str, int]) -> Tensor:
    """Squared distances of all pairs of states: (states, states) float64, symmetric.

    `sizes` is the number of elements of each tensor by name. Differences are squared, not products
    subtracted: states that are close to each other keep their digits.
    """
    first, second = torch.triu_indices(len(states), len(states), 1)
    pairs = torch.zeros(len(first), dtype=torch.float64)
    for name, size in sizes.items():
        for _, values in parts(states, name, 0, size):
            pairs += torch.pdist(values.double()).square()
    distances = torch.zeros(len(states), len(states), dtype=torch.float64)
    distances[first, second] = distances[second, first] = pairs
    return distances
