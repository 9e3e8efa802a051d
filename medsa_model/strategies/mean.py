"""The weighted mean of adapter states, with exact weights."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from medsa_model.section import Section
from medsa_model.state import AdapterState
from medsa_model.stored_state import groups, parts
from medsa_model.strategies.update import Update, check_enough


class Mean(Section):
    """The weighted mean: best where every site is honest, and one faulty site can move it at will.

    It keeps within the range of what the sites sent, whatever they sent.
    """

    kind: Literal["mean"] = "mean"

    least_updates: ClassVar[int] = 1

    def combine(
        self, current: AdapterState, updates: Sequence[Update], weighting: str
    ) -> AdapterState:
        """`weighted_mean` of the updates; `current` is not used. `ValueError` for no update."""
        check_enough(self.kind, updates, self.least_updates)
        return weighted_mean(updates, weighting)


def weighted_mean(updates: Sequence[Update], weighting: str) -> AdapterState:
    """Sum of w_i * state_i / sum of w_i, accumulated in float64, returned as float32.

    `weighting` is `examples` (w_i = number of cases; McMahan et al. 2017, "Communication-efficient
    learning of deep networks from decentralized data", algorithm 1) or `uniform` (w_i = 1). A row
    of a tensor in `Update.rows` is weighted by the cases that trained it, or 1 when there are any;
    a row that nobody trained, as all others.
    """
    weights = weights_of(updates, weighting)
    first = updates[0].state
    with_rows = {name for update in updates for name in update.rows}
    mean = _mean_of_tensors(updates, [name for name in first if name not in with_rows], weights)
    for name in with_rows & first.keys():
        mean[name] = _mean_of_rows(updates, name, first[name].shape, weights, weighting)
    return {name: mean[name] for name in first}


def _mean_of_tensors(
    updates: Sequence[Update], names: Sequence[str], weights: Sequence[int]
) -> AdapterState:
    """The mean of tensors that every site trained whole.

    Several small tensors are added up as one: many small additions take longer than a large one,
    and every number is the sum of the same numbers in the same order.
    """
    total, first, mean = sum(weights), updates[0].state, {}
    shapes = {name: first[name].shape for name in names}
    for group in groups(shapes):
        sizes = [shapes[name].numel() for name in group]
        accumulated = torch.zeros(sum(sizes), dtype=torch.float64)
        for update, weight in zip(updates, weights, strict=True):
            flat = torch.cat([update.state[name].reshape(-1) for name in group])
            accumulated += weight * flat.double()
        parts_of = (accumulated / total).float().split(sizes)
        for name, part in zip(group, parts_of, strict=True):
            mean[name] = part.view(shapes[name]).clone()
    return mean


def _mean_of_rows(
    updates: Sequence[Update], name: str, shape: torch.Size, weights: Sequence[int], weighting: str
) -> torch.Tensor:
    """The mean of a tensor (rows, ...) whose rows were trained by different sites."""
    count = shape[0]
    trained = torch.tensor([update.rows.get(name, [0] * count) for update in updates]).double()
    if weighting == "uniform":
        trained = trained.clamp(max=1)
    everybody = torch.tensor(weights).double()[:, None].expand_as(trained)
    shares = torch.where(trained.sum(0) > 0, trained, everybody)
    shares = shares / shares.sum(0)
    mean = torch.empty(shape.numel())
    states = [update.state for update in updates]
    for part, values in parts(states, name, 0, shape.numel()):
        row = torch.arange(part.start, part.stop) // (shape.numel() // count)
        mean[part] = (shares[:, row] * values.double()).sum(0).float()
    return mean.view(shape)


def weights_of(updates: Sequence[Update], weighting: str) -> list[int]:
    """The weight of each update: its number of cases (`examples`) or 1 (`uniform`)."""
    return [update.examples if weighting == "examples" else 1 for update in updates]
