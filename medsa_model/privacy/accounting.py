"""How much privacy noisy steps cost: the accountants of Opacus over everything that was done.

The mechanism is the Poisson-sampled Gaussian. Neighbours differ by one patient, who takes part in
no step of the one; how many patients there are, in tens, counts as known. Two accountants: "rdp"
(Renyi; Mironov, Talwar and Zhang 2019, arXiv:1908.10530, with the conversion of Balle et al. 2020,
arXiv:1905.09982), always an upper bound and quick, for the running check; "prv" (Gopi, Lee and
Wutschitz 2021, arXiv:2106.02848), tighter, for the report. The Gaussian approximation (GDP) is
below the true cost and is not offered.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Accountant = Literal["rdp", "prv"]
# Opacus stops at 63, which costs much where epsilon is small
ORDERS = [1 + tenth / 10 for tenth in range(1, 100)] + [*range(11, 64), *range(64, 256, 8)]
ORDERS += [256, 320, 384, 448, 512, 768, 1024]
LARGEST_NOISE = 1e4
MOST_KINDS, LARGEST_EPSILON = 3, 20.0  # for "prv"


@dataclass(frozen=True)
class NoisySteps:
    """`steps` steps, each on patients drawn with probability `sampling_rate`.

    The noise on the sum of clipped gradients has `noise_multiplier` times the clipping norm as its
    standard deviation.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int


def epsilon(spent: Sequence[NoisySteps], delta: float, accountant: Accountant = "rdp") -> float:
    """Epsilon of all of `spent` together at `delta`; infinite where a step had no noise.

    "prv" never gives more than "rdp", which stands in where it finds no number.
    """
    together: dict[tuple[float, float], int] = {}
    for each in spent:
        if each.steps and not each.noise_multiplier:
            return math.inf
        key = (each.noise_multiplier, each.sampling_rate)
        together[key] = together.get(key, 0) + each.steps
    history = [(noise, rate, steps) for (noise, rate), steps in together.items() if steps]
    if not history:
        return 0.0
    with warnings.catch_warnings():
        # that the best order is the last one: the bound holds
        warnings.filterwarnings("ignore", message="Optimal order is the")
        # the PRV accountant's logarithms of zero at a sampling rate of one
        warnings.simplefilter("ignore", RuntimeWarning)
        bound = _renyi(history, delta)
        return bound if accountant == "rdp" else min(bound, _convolved(history, delta))


def tightest(spent: Sequence[NoisySteps], delta: float) -> tuple[float, Accountant]:
    """The smaller epsilon of both accountants, and whose it is.

    "prv" is asked where it takes seconds: many kinds of steps, or little noise, take it minutes.
    """
    bound = epsilon(spent, delta)
    kinds = {(each.noise_multiplier, each.sampling_rate) for each in spent}
    if len(kinds) > MOST_KINDS or bound > LARGEST_EPSILON:
        return bound, "rdp"
    tight = epsilon(spent, delta, "prv")
    return (tight, "prv") if tight < bound else (bound, "rdp")


@lru_cache
def noise_for(budget: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least noise multiplier, to a thousandth, with which `steps` cost at most `budget`.

    By the "rdp" accountant, which is the one that the running check uses. Raises `ValueError` when
    even enormous noise costs more.
    """
    low, high = 0.0, 1.0
    while epsilon([NoisySteps(high, sampling_rate, steps)], delta) > budget:
        low, high = high, 2 * high
        if high > LARGEST_NOISE:
            raise ValueError(f"no noise keeps {steps} steps within epsilon {budget} at {delta}")
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if epsilon([NoisySteps(middle, sampling_rate, steps)], delta) > budget:
            low = middle
        else:
            high = middle
    return high


def _renyi(history: list[tuple[float, float, int]], delta: float) -> float:
    from opacus.accountants import RDPAccountant  # here, since it takes seconds

    accountant = RDPAccountant()
    accountant.history = history
    return float(accountant.get_epsilon(delta, alphas=ORDERS))


def _convolved(history: list[tuple[float, float, int]], delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = history
    try:
        found = float(accountant.get_epsilon(delta))
    except (ValueError, RuntimeError, MemoryError, ArithmeticError):
        return math.inf
    return found if math.isfinite(found) else math.inf
