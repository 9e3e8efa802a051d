"""Who comes when: the order of cases over the rounds of a site."""

import numpy as np
import pytest

from medsa_model.data.frames import round_order


@pytest.mark.parametrize(("cases", "steps", "batch_size"), [(5, 3, 2), (4, 2, 4), (3, 2, 8)])
def test_rounds_cut_one_list_of_shuffled_passes(cases, steps, batch_size):
    passes = [np.random.default_rng((7, 2, 0, number)).permutation(cases) for number in range(9)]
    whole = np.concatenate(passes).tolist()
    size = min(batch_size, cases)
    for round_ in range(4):
        order = round_order(cases, steps, batch_size, (7, 2, round_))
        assert order.shape == (steps, size)
        for step in range(steps):
            first = (round_ * steps + step) * size
            assert order[step].tolist() == whole[first : first + size]
