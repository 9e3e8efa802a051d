"""What scores of canaries prove about epsilon: lower bounds, and how far they should be apart.

`inside` are the scores of canaries that were trained on, `outside` of those that were not, both 1D
float64, in any unit. A lower bound above the epsilon that is claimed refutes the claim; one below
it proves nothing: other canaries might have shown more.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import binom, binomtest, gamma, norm

Scores = NDArray[np.float64]
ALARM = 1e-5
"""Chance of each check to find fault with a correct trainer."""
SHARES = (0.02, 0.1, 0.5, 1.0)  # of the canaries that are guessed: all where scores are clear
LEAST_SHAPE = 100  # of a gamma law, whose skewness is then at most 0.2
LARGEST = 1e4  # separation; without any noise it would be infinite, which JSON does not have


def separation(inside: Scores, outside: Scores) -> float:
    """Difference of the means in standard deviations of `outside` (Glass's delta), at most 1e4."""
    difference = float(inside.mean() - outside.mean())
    spread = float(outside.std(ddof=1))
    return max(-LARGEST, min(difference / max(spread, 1e-300), LARGEST))


def expected_separation(noise_multiplier: float, sampling_rate: float, steps: int) -> float:
    """What the settings promise: each draw moves an inside score by one clipping norm."""
    return sampling_rate * math.sqrt(steps) / noise_multiplier


def ratio_limits(
    noise_multiplier: float, sampling_rate: float, steps: int, canaries: int
) -> tuple[float, float]:
    """Between which values separation / expected separation has to lie.

    At least 0.75 and 1.3 are allowed; more where `canaries` are so few for so much noise that a
    correct trainer would be outside more often than `ALARM`.
    """
    expected = expected_separation(noise_multiplier, sampling_rate, steps)
    half = canaries / 2
    spread = 1 + sampling_rate * (1 - sampling_rate) / noise_multiplier**2
    error = _error(expected, spread, half, half) / expected
    room = float(norm.isf(ALARM / 2)) * error
    return min(0.75, 1 - room), max(1.3, 1 + room)


def gaussian(inside: Scores, outside: Scores, delta: float, confidence: float = 0.95) -> float:
    """Lower bound of epsilon at `delta`, when the scores outside are Gaussian.

    As Nasr et al. 2023, "Tight auditing of differentially private machine learning",
    arXiv:2302.07956: the privacy of a Gaussian mechanism is one number mu, of which the scores give
    a lower bound with `confidence`; here from means, by the large-sample error of Glass's delta
    (Hedges and Olkin 1985, "Statistical methods for meta-analysis"). That scores inside spread
    more, by the drawing, only makes telling them apart easier: the bound stays one.
    """
    mu = separation(inside, outside)
    spread = float(inside.var(ddof=1) / max(outside.var(ddof=1), 1e-300))
    error = _error(mu, min(spread, LARGEST), len(inside), len(outside))
    return gdp_epsilon(mu - float(norm.ppf(confidence)) * error, delta)


def gdp_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of `mu`-Gaussian differential privacy; 0 for a `mu` below 0.

    Dong, Roth and Su 2022, "Gaussian differential privacy", arXiv:1905.02383, corollary 1.
    """

    def excess(epsilon: float) -> float:
        first = math.exp(log_ndtr(mu / 2 - epsilon / mu))
        return first - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)) - delta

    if mu <= 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * (mu / 2 + float(norm.isf(delta)) + 1)))


def one_run(inside: Scores, outside: Scores, delta: float, confidence: float = 0.95) -> float:
    """Lower bound of epsilon at `delta`, whatever the scores' law.

    Steinke, Nasr and Jagielski 2023, "Privacy auditing with one (1) training run",
    arXiv:2305.08846. Each canary must be inside by its own fair coin. Half of the guesses are
    "inside", for the largest scores, half "outside", for the smallest. How many are guessed is
    tried in `SHARES` of all, each with its share of the error.
    """
    scores = np.concatenate([inside, outside])
    truth = np.repeat([True, False], [len(inside), len(outside)])
    # equal scores by chance: in the order given, those inside would come first
    order = np.lexsort((np.random.default_rng().random(len(scores)), scores))
    error = (1 - confidence) / len(SHARES)
    best = 0.0
    for share in SHARES:
        half = max(1, int(share * len(scores) / 2))
        right = int(truth[order[-half:]].sum() + (~truth[order[:half]]).sum())
        best = max(best, _largest(len(scores), 2 * half, right, delta, error))
    return best


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Most probable chance of `right` or more right `guesses` under (epsilon, delta).

    Steinke, Nasr and Jagielski 2023, theorem 5.2.
    """
    each = 1 / (1 + math.exp(-epsilon))
    pure = float(binom.sf(right - 1, guesses, each))
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, each))
    worst = float((below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, pure + 2 * canaries * delta * worst)


def drawing_fault(drawn: NDArray[np.int64], sampling_rate: float, steps: int) -> str | None:
    """What is wrong with how often each patient was `drawn`; `None` when nothing.

    By an exact test of the total, and by the dispersion of a binomial law: batches dealt from a
    shuffled list, for which the accounting does not hold, use everybody equally often. Of one step
    or few draws dispersion tells nothing. Errs with at most `ALARM`: a quarter is the total's, an
    eighth each side's of the dispersion, whose law is approximate, up to five times as much.
    """
    total = int(drawn.sum())
    trials = len(drawn) * steps
    if binomtest(min(total, trials), trials, sampling_rate).pvalue < ALARM / 4 or total > trials:
        return (
            f"patients were drawn {total} times, expected about {sampling_rate * trials:.0f}: the "
            "sampling rate is not what is charged, or a patient counts as several"
        )
    variance = steps * sampling_rate * (1 - sampling_rate)
    if not variance:
        return None
    found = float(np.square(drawn - steps * sampling_rate).sum() / variance)
    # gamma law with the mean and the variance of this sum, which has the binomial law's kurtosis;
    # of so few draws that it is lopsided the law is another one, and they show nothing
    each = 2 + (1 - 6 * sampling_rate * (1 - sampling_rate)) / variance
    law = gamma(len(drawn) / each, scale=each)
    if len(drawn) / each < LEAST_SHAPE or min(law.cdf(found), law.sf(found)) >= ALARM / 8:
        return None
    return (
        f"how often patients were drawn spreads {found / len(drawn):.2f} times as much as with "
        "independent draws: the accounting holds for these alone"
    )


def _largest(canaries: int, guesses: int, right: int, delta: float, error: float) -> float:
    """The largest epsilon that so many right guesses refute, to a thousandth."""
    if one_run_p_value(canaries, guesses, right, 0.0, delta) > error:
        return 0.0
    low, high = 0.0, 40.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        refuted = one_run_p_value(canaries, guesses, right, middle, delta) <= error
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _error(mu: float, spread: float, inside: float, outside: float) -> float:
    """Standard error of Glass's delta; `spread` is the variance inside over that outside."""
    return math.sqrt(1 / outside + spread / inside + mu**2 / (2 * (outside - 1)))
