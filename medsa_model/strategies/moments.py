"""The step that FedAdam and FedYogi share; they differ in the second moment.

Reddi et al. 2021, "Adaptive federated optimization", arXiv:2003.00295, algorithm 2.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from medsa_model.state import AdapterState
from medsa_model.strategies.update import LARGEST_VALUE, Memory


def adaptive_step(
    current: AdapterState, combined: AdapterState, memory: Memory,
    second_moment: Callable[[Tensor, Tensor], Tensor], start: float,
    rate: float, beta1: float, tau: float,
) -> tuple[AdapterState, Memory]:  # fmt: skip
    """The next state, and the moments, kept as `first/NAME` and `second/NAME`; float32.

    `combined` is what the sites' updates came to. `second_moment` gets the second moment, `start`
    before the first round, and the change. The next state keeps within what a site may send: the
    coordinator would refuse every site that trains on from a larger one.
    """
    following, moments = {}, {}
    for name, value in current.items():
        change = combined[name] - value
        first = memory.get(f"first/{name}", torch.zeros_like(value))
        second = memory.get(f"second/{name}", torch.full_like(value, start))
        first = beta1 * first + (1 - beta1) * change
        second = second_moment(second, change)
        step = rate * first / (second.sqrt() + tau)
        following[name] = (value + step).clamp(-LARGEST_VALUE, LARGEST_VALUE)
        moments[f"first/{name}"], moments[f"second/{name}"] = first, second
    return following, moments
