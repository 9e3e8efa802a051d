"""Prompts: where clicks fall, what boxes overlap, what happens to empty masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsa_model.prompts import (
    Box,
    Click,
    Clicks,
    NoPrompt,
    box_iou,
    collate,
    corrective_click,
    tight_box,
)

KINDS = [Click(), Clicks(number=3), Box(), Box(overlap=0.5), NoPrompt()]


def random_mask(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.zeros((40, 64), bool)
    y, x = rng.integers(0, 30), rng.integers(0, 50)
    mask[y : y + rng.integers(1, 10), x : x + rng.integers(1, 14)] = True
    return mask


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_empty_mask_gets_no_click_and_no_box(kind):
    points, labels, box = kind.draw(np.zeros((8, 8), bool), np.random.default_rng(0))
    assert (points, labels, box) == ([], [], None)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_clicks_are_positive_and_on_the_object_as_x_y(seed):
    mask = random_mask(seed)
    points, labels, _ = Clicks(number=4).draw(mask, np.random.default_rng(seed))
    assert labels == [1] * 4
    assert all(mask[int(y), int(x)] for x, y in points)


@given(st.integers(0, 10_000), st.floats(0.3, 0.99))
@settings(max_examples=50, deadline=None)
def test_a_box_has_exactly_the_wished_overlap(seed, overlap):
    mask = random_mask(seed)
    _, _, box = Box(overlap=overlap).draw(mask, np.random.default_rng(seed))
    assert box is not None
    assert box_iou(tight_box(mask), box) == pytest.approx(overlap, abs=1e-3)


def test_a_tight_box_has_both_corners_inside():
    mask = np.zeros((10, 10), bool)
    mask[2:5, 3:9] = True
    assert tight_box(mask) == (3.0, 2.0, 8.0, 4.0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_same_generator_gives_the_same_prompt(kind):
    mask = random_mask(3)
    draws = [kind.draw(mask, np.random.default_rng(7)) for _ in range(2)]
    assert draws[0] == draws[1]


def test_a_correction_is_positive_where_missed_and_negative_where_too_much():
    mask = np.zeros((10, 10), bool)
    mask[:5] = True
    rng = np.random.default_rng(0)
    (_, y), label = corrective_click(mask, np.zeros_like(mask), rng)  # type: ignore[misc]
    assert label == 1 and y < 5
    (_, y), label = corrective_click(mask, np.ones_like(mask), rng)  # type: ignore[misc]
    assert label == 0 and y >= 5
    assert corrective_click(mask, mask, rng) is None


def test_collate_pads_and_marks_missing_boxes():
    prompt = collate([([(1.0, 2.0)], [1], None), ([], [], (0.0, 0.0, 3.0, 3.0))])
    assert prompt.labels.tolist() == [[1], [-1]]
    assert prompt.boxes is not None and prompt.boxes[0].isnan().all()
    assert collate([([(1.0, 2.0)], [1], None)]).boxes is None
