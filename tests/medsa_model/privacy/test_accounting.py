"""What noisy steps cost, against values of other programs and publications."""

import math

import numpy as np
import pytest
from opacus.accountants.analysis.rdp import compute_rdp

from medsa_model.privacy.accounting import ORDERS, NoisySteps, epsilon, noise_for, tightest

# sampling rate, noise, steps, delta, Opacus' RDP, dp-accounting's RDP, Opacus' PRV,
# dp-accounting's PLD, GDP
ROWS = [
    (256 / 60000, 1.1, 14062, 1e-5, 2.5966, 2.5966, 2.3917, 2.3817, 2.3243),
    (0.01, 4.0, 10000, 1e-5, 1.0355, 1.0355, 0.9569, 0.9470, 0.9424),
    (0.04, 1.5, 2250, 1e-5, 7.3291, 7.3293, 6.7791, 6.7688, 6.6016),
    (1 / 32, 1.0, 1600, 1e-3, 6.8201, 6.8337, 6.0169, 6.0064, 5.8493),
    (1 / 13, 2.0, 1300, 1e-3, 5.8226, 5.8231, 5.1906, 5.1802, 5.1256),
    (256 / 60000, 1.3, 3515, 1e-5, 0.9544, 0.9544, 0.8745, 0.8693, None),
    (256 / 60000, 0.7, 10546, 1e-5, 6.3181, 6.3195, 5.6498, 5.6425, None),
    (16 / 500, 1.0, 1600, 1e-3, 7.0198, 7.0345, 6.1968, 6.1866, None),
]


@pytest.mark.parametrize("row", ROWS)
def test_the_accountants_agree_with_others(row):
    rate, noise, steps, delta, rdp, other_rdp, prv, other_prv, gdp = row
    spent = [NoisySteps(noise, rate, steps)]
    upper, tight = epsilon(spent, delta), epsilon(spent, delta, "prv")
    assert upper == pytest.approx(rdp, rel=3e-3) == pytest.approx(other_rdp, rel=3e-3)
    assert tight == pytest.approx(prv, rel=3e-3)
    assert abs(tight - other_prv) <= max(0.015 * other_prv, 0.011)
    assert other_prv <= tight <= upper
    assert gdp is None or gdp < other_prv  # too low: not offered


# noise, batch, data set, steps, delta, published epsilon, of the conversion of Mironov 2017
PUBLISHED = [
    (1.1, 256, 60000, 14062, 1e-5, 3.01),
    (1.3, 256, 60000, 3515, 1e-5, 1.19),
    (0.7, 256, 60000, 10546, 1e-5, 7.10),
    (4.0, 1, 100, 10000, 1e-5, 1.26),
]


@pytest.mark.parametrize("row", PUBLISHED)
def test_published_values_come_out_with_the_conversion_of_their_time(row):
    """And ours is not above them: it is the same bound, converted more tightly."""
    noise, batch, size, steps, delta, published = row
    orders = np.array([order for order in ORDERS if order < 64])
    rdp = compute_rdp(q=batch / size, noise_multiplier=noise, steps=steps, orders=orders)
    then = float(np.min(rdp + math.log(1 / delta) / (orders - 1)))
    assert then == pytest.approx(published, abs=0.01)
    assert epsilon([NoisySteps(noise, batch / size, steps)], delta) < published


def test_rounds_add_up_whatever_their_order():
    """A new accountant each round would say 1.12 after 50 rounds; true is 6.82."""
    rounds = [NoisySteps(1.0, 1 / 32, 32)] * 50
    assert epsilon(rounds, 1e-3) == pytest.approx(6.82, abs=0.01)
    assert epsilon(rounds[:1], 1e-3) == pytest.approx(1.12, abs=0.02)
    mixed = [NoisySteps(1.0, 0.1, 5), NoisySteps(2.0, 0.3, 9)]
    assert epsilon(mixed, 1e-3) == epsilon(mixed[::-1], 1e-3)
    assert epsilon(mixed, 1e-3) > max(epsilon([each], 1e-3) for each in mixed)


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon([], 1e-3) == 0
    assert epsilon([NoisySteps(1.0, 0.1, 0)], 1e-3) == 0
    assert epsilon([NoisySteps(0.0, 0.1, 1)], 1e-3) == math.inf
    assert epsilon([NoisySteps(0.0, 0.1, 1)], 1e-3, "prv") == math.inf


@pytest.mark.parametrize("budget", [0.5, 8.0])
@pytest.mark.parametrize(("rate", "steps"), [(0.01, 1000), (0.2, 60), (1.0, 20)])
def test_noise_for_a_budget_takes_nearly_all_of_it_and_never_more(budget, rate, steps):
    noise = noise_for(budget, 1e-3, rate, steps)
    assert 0.98 * budget <= epsilon([NoisySteps(noise, rate, steps)], 1e-3) <= budget


def test_a_budget_that_no_noise_keeps_is_an_error():
    with pytest.raises(ValueError, match="no noise keeps 1000000 steps"):
        noise_for(1e-3, 1e-9, 1.0, 1_000_000)


def test_the_slow_accountant_is_asked_only_where_it_is_quick(monkeypatch):
    spent = [NoisySteps(2.0, 0.1, 20)]
    assert tightest(spent, 1e-3) == (epsilon(spent, 1e-3, "prv"), "prv")
    many = [NoisySteps(noise, 0.1, 1) for noise in (1.0, 2.0, 3.0, 4.0)]
    little = [NoisySteps(0.3, 0.5, 50)]
    bounds = [epsilon(each, 1e-3) for each in (many, little)]
    monkeypatch.setattr(
        "medsa_model.privacy.accounting._convolved", lambda *_: pytest.fail("asked")
    )
    assert [tightest(each, 1e-3) for each in (many, little)] == [(each, "rdp") for each in bounds]
