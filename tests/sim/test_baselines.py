"""Baselines on pictures whose answer is known."""

import numpy as np
import pytest
import torch

from medsa_model.data.phantom import Phantom
from medsa_model.data.sample import Case, Sample
from medsa_model.data.synthetic import Synthetic
from medsa_model.evaluate_volumes import Volume
from medsa_model.prompts import Box, ByClass, Click
from sim.baselines import (
    baselines_for,
    ellipse_in_box,
    evaluate_baseline,
    otsu,
    otsu_threshold,
)


@pytest.fixture
def two_discs() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:64, :64]
    left, right = np.hypot(x - 16, y - 30) < 9, np.hypot(x - 46, y - 30) < 12
    image = np.full((3, 64, 64), 200, np.uint8)
    image[:, left | right] = 60
    return image, left


def test_otsu_finds_the_part_under_the_click(two_discs):
    image, left = two_discs
    found = otsu(image, ([(16.0, 30.0)], [1], None))
    assert found is not None
    assert (found & left).sum() / (found | left).sum() > 0.9
    assert not found[:, 32:].any()


def test_otsu_stays_in_the_box(two_discs):
    image, left = two_discs
    found = otsu(image, ([], [], (8.0, 22.0, 24.0, 38.0)))
    assert found is not None
    assert (found & left).sum() / (found | left).sum() > 0.85


def test_the_threshold_lies_between_two_classes():
    values = np.concatenate([np.full(100, 10.0), np.full(50, 90.0)]).astype(np.float32)
    assert 10 < otsu_threshold(values) <= 90


def test_a_constant_image_is_no_error():
    assert otsu(np.full((3, 8, 8), 7, np.uint8), ([(1.0, 1.0)], [1], None)) is not None


def test_the_ellipse_fills_pi_quarters_of_its_box():
    found = ellipse_in_box(np.zeros((3, 100, 100), np.uint8), ([], [], (10.0, 20.0, 69.0, 59.0)))
    assert found is not None
    assert found.sum() == pytest.approx(np.pi / 4 * 60 * 40, rel=0.02)


def test_a_click_is_no_box():
    assert ellipse_in_box(np.zeros((3, 9, 9), np.uint8), ([(1.0, 1.0)], [1], None)) is None


def test_scores_cover_the_prompts_that_the_baseline_can_use():
    cases = Synthetic(sites=1, cases_per_site=2, size=64).open()
    ellipse = evaluate_baseline(ellipse_in_box, cases, (Click(), Box()), 48, 0, Volume())
    assert set(ellipse.summary()) == {"box"}
    assert ellipse.summary()["box"]["dice"] > 0.4
    assert set(evaluate_baseline(otsu, cases, (Click(), Box()), 48, 0, Volume()).summary()) == {
        "click",
        "box",
    }


def test_padding_does_not_move_the_threshold():
    image = torch.full((3, 60, 80), 240.0)
    mask = torch.zeros(1, 60, 80, dtype=torch.bool)
    mask[0, 20:40, 30:60] = True
    image[:, mask[0]] = 200.0  # both lighter than the padding's 104
    case = Case("c", "c", "a", None, lambda: Sample(image, mask, "c", "c"))
    scores = evaluate_baseline(otsu, [case], (Box(),), 80, 0, Volume()).summary()
    assert scores["box"]["dice"] > 0.95


def test_a_volume_is_answered_slice_by_slice_with_the_prompts_that_a_model_gets():
    cases = Phantom(sites=1, cases_per_site=1, size=48, slices=8, classes=("liver", "aorta")).open()
    found = evaluate_baseline(ellipse_in_box, cases, (Box(), Click(), ByClass()), 48, 0, Volume())
    assert {row.prompt for row in found.rows} == {"box"}
    assert [row.structure for row in found.rows] == [0, 1]
    assert all(row.dice > 0.5 and row.hd95 is not None for row in found.rows)


def test_otsu_is_no_reference_for_volumes():
    assert list(baselines_for(volumes=False)) == ["ellipse_in_box", "otsu"]
    assert list(baselines_for(volumes=True)) == ["ellipse_in_box"]
