"""Prompts: where clicks fall, what boxes overlap, what happens to empty masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsa_model.prompts import (
    Box,
    ByClass,
    Click,
    Clicks,
    NoPrompt,
    box_iou,
    choose,
    collate,
    corrected,
    corrective_click,
    tight_box,
)

KINDS = [Click(), Clicks(number=3), Box(), Box(overlap=0.5), NoPrompt(), ByClass()]


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


def test_names_travel_beside_the_rows():
    rows = [([], [], None), ([(1.0, 2.0)], [1], None)]
    prompt = collate(rows, [3, -1])
    assert prompt.classes is not None and prompt.classes.tolist() == [3, -1]
    assert prompt.classes.dtype == torch.int64
    moved = prompt.to("cpu")
    assert moved.classes is not None and moved.classes.tolist() == [3, -1]
    assert collate(rows, [0, -1]).classes is not None  # the first name is a name
    assert collate(rows, [-1, -1]).classes is None and collate(rows).classes is None


def test_a_name_is_asked_without_a_drawing():
    assert ByClass().draw(random_mask(1), np.random.default_rng(0)) == ([], [], None)
    assert ByClass().by_class and not any(kind.by_class for kind in KINDS[:-1])


@pytest.mark.parametrize("kind", [Click(), Clicks(number=2), Box(overlap=0.5)])
def test_a_followed_prompt_has_a_name_of_its_own(kind):
    followed = kind.model_copy(update={"followed": True})
    assert followed.name == f"{kind.name} followed" and not kind.followed
    assert not ByClass().followed and not NoPrompt().followed


def test_equal_weights_draw_as_if_there_were_none():
    """The stream of runs without weights is not changed by any weight that is the same for all."""
    kinds = [Click(weight=2), Box(weight=2), NoPrompt(weight=2)]
    drawn = [choose(kinds, rng) for rng in [np.random.default_rng(4)] for _ in range(40)]
    rng = np.random.default_rng(4)
    assert drawn == [kinds[int(rng.integers(3))] for _ in range(40)]


def test_kinds_are_drawn_by_their_weights():
    kinds = [Click(weight=1), Box(weight=6), ByClass(weight=3)]
    rng = np.random.default_rng(0)
    drawn = [choose(kinds, rng) for _ in range(4000)]
    shares = [drawn.count(kind) / 4000 for kind in kinds]
    assert shares == pytest.approx([0.1, 0.6, 0.3], abs=0.03)


def test_every_row_gets_a_click_on_its_larger_error():
    mask = np.zeros((7, 10, 10), bool)
    mask[:, :5] = True
    mask[4] = False
    answers = np.zeros_like(mask)
    answers[1] = True  # too much
    answers[2] = mask[2]  # right
    answers[4, 3] = True  # of an empty mask
    answers[5, 1:10] = True  # 10 missed, 50 too many
    rows = [([(1.0, 2.0)], [1], None)] * 6 + [([], [], None)]
    prompt = collate(rows, [-1] * 6 + [0])  # the last asks by name
    after = corrected(prompt, mask, answers, np.random.default_rng(0))
    assert after.points.shape == (7, 2, 2)
    assert torch.equal(after.points[:, :1], prompt.points)
    assert torch.equal(after.labels[:, :1], prompt.labels)
    assert after.labels[:, 1].tolist() == [1, 0, -1, 1, -1, 0, -1]
    y = after.points[:, 1, 1]
    assert y[0] < 5 and y[3] < 5 and y[1] >= 5 and y[5] >= 5
    assert not after.points[[2, 4, 6], 1].any()
    assert after.classes is prompt.classes and after.boxes is None


def test_corrections_keep_boxes_and_are_a_function_of_the_generator():
    mask = random_mask(2)[None]
    prompt = collate([([], [], tight_box(mask[0]))])
    one, again, other = (
        corrected(prompt, mask, ~mask, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert prompt.boxes is not None and one.boxes is prompt.boxes
    assert torch.equal(one.points, again.points) and not torch.equal(one.points, other.points)
    twice = corrected(one, mask, np.zeros_like(mask), np.random.default_rng(3))
    assert twice.labels.tolist() == [[0, 1]]
