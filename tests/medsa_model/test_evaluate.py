"""Scores against hand-computed ones; prompts of evaluation are fixed; empty cases are counted."""

import pytest
import torch

from medsa_model.adapters import Msa
from medsa_model.data.sample import Case, Sample
from medsa_model.data.transforms import to_frame
from medsa_model.evaluate import (
    Evaluation,
    Prediction,
    StructureScore,
    evaluate,
    fixed_prompts,
    predict,
    score,
)
from medsa_model.prompts import Box, Click


def case(name: str, mask: torch.Tensor) -> Case:
    image = torch.full((3, *mask.shape[-2:]), 128.0)
    return Case(name, name, None, None, lambda: Sample(image, mask, name, name))


def squares(*corners: int) -> torch.Tensor:
    mask = torch.zeros(len(corners), 60, 90, dtype=torch.bool)
    for channel, corner in enumerate(corners):
        mask[channel, corner : corner + 20, corner : corner + 20] = True
    return mask


def test_dice_and_iou_by_hand():
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[0, :2] = True  # 8 pixels
    found = torch.zeros(1, 4, 4, dtype=torch.bool)
    found[0, 1:3] = True  # 8 pixels, 4 shared
    (result,) = score(Prediction("a", "click", found, truth, (0,)))
    assert (result.dice, result.iou) == (pytest.approx(0.5), pytest.approx(1 / 3))


def test_a_case_is_the_mean_over_its_structures():
    truth = squares(0, 30)
    found = truth.clone()
    found[1] = False
    rows = score(Prediction("a", "click", found, truth, (0, 1)))
    assert [(row.structure, row.dice) for row in rows] == [(0, 1.0), (1, 0.0)]
    assert Evaluation(tuple(rows), 0).summary()["click"]["dice"] == pytest.approx(0.5)


def test_predictions_have_the_size_of_the_image(tiny):
    Msa().inject(tiny.model, 0)
    (prediction,) = predict(tiny.model, case("a", squares(5, 30)), [Click()], 0)
    assert prediction.found.shape == prediction.truth.shape == (2, 60, 90)


def test_the_prompt_is_a_function_of_seed_and_case():
    frame = to_frame(case("a", squares(5)).load(), 48)

    def draw(seed: int, name: str) -> object:
        return fixed_prompts(Click(), frame, [0], seed, name)

    assert draw(0, "a") == draw(0, "a")
    assert len({str(draw(seed, name)) for seed in (0, 1) for name in ("a", "b")}) == 4


def test_a_case_without_structures_is_counted_and_not_scored(tiny):
    cases = [case("empty", torch.zeros(1, 60, 90, dtype=torch.bool)), case("full", squares(5))]
    evaluation = evaluate(tiny.model, cases, [Click(), Box()], 0)
    assert evaluation.empty == 1
    assert {(row.case, row.prompt) for row in evaluation.rows} == {
        ("full", "click"),
        ("full", "box"),
    }
    assert evaluation.summary()["click"]["cases"] == 1


def test_absent_structures_of_a_case_are_left_out(tiny):
    mask = squares(5, 30)
    mask[0] = False
    (prediction,) = predict(tiny.model, case("a", mask), [Click()], 0)
    assert prediction.truth.shape[0] == 1
    assert torch.equal(prediction.truth[0], mask[1])


ROWS = (
    StructureScore("a", "click", 0, 0.8, 0.7, 2.0, 0.9),
    StructureScore("a", "click", 1, 0.4, 0.3, 6.0, 0.5),
    StructureScore("b", "click", 1, 0.2, 0.1, 10.0, 0.1),
    StructureScore("a", "class", 0, 1.0, 1.0, 0.0, 1.0),
)


def test_a_mean_is_over_the_structures_of_a_case_first_then_over_cases():
    found = Evaluation(ROWS, 0).summary()
    assert list(found) == ["click", "class"]
    assert found["click"] == pytest.approx(
        {"dice": 0.4, "iou": 0.3, "hd95": 7.0, "nsd": 0.4, "cases": 2}
    )
    assert found["class"] == {"dice": 1.0, "iou": 1.0, "hd95": 0.0, "nsd": 1.0, "cases": 1}


def test_a_mean_of_a_structure_is_over_the_cases_that_have_it():
    found = Evaluation(ROWS, 0).by_structure()
    assert list(found["click"]) == [0, 1] and list(found["class"]) == [0]
    assert found["click"][0] == {"dice": 0.8, "iou": 0.7, "hd95": 2.0, "nsd": 0.9, "cases": 1}
    assert found["click"][1] == pytest.approx(
        {"dice": 0.3, "iou": 0.2, "hd95": 8.0, "nsd": 0.3, "cases": 2}
    )


def test_a_metric_that_some_row_lacks_has_no_mean():
    flat = StructureScore("c", "click", 0, 0.6, 0.5)
    for rows in ((flat,), (*ROWS, flat), (flat, *ROWS)):
        evaluation = Evaluation(rows, 0)
        assert set(evaluation.summary()["click"]) == {"dice", "iou", "cases"}
        assert set(evaluation.by_structure()["click"][0]) == {"dice", "iou", "cases"}
    assert "hd95" in Evaluation((*ROWS, flat), 0).by_structure()["click"][1]
    assert Evaluation((), 3).summary() == Evaluation((), 3).by_structure() == {}


def test_structures_of_too_few_cases_are_left_out_of_all_means():
    found = Evaluation(ROWS, 4).with_at_least(2)
    assert found.rows == (ROWS[1], ROWS[2]) and found.empty == 4
    assert Evaluation(ROWS, 4).with_at_least(1) == Evaluation(ROWS, 4)
    assert Evaluation(ROWS, 4).with_at_least(3).rows == ()


def test_images_have_no_surface_distances(tiny):
    evaluation = evaluate(tiny.model, [case("full", squares(5))], [Click()], 0)
    assert [(row.hd95, row.nsd) for row in evaluation.rows] == [(None, None)]


def test_volumes_are_scored_in_their_own_voxels():
    truth = torch.zeros(2, 6, 8, 8, dtype=torch.bool)
    truth[:, 1:4, 2:6, 2:6] = True
    found = truth.roll(1, 1)
    found[1] = False
    rows = score(Prediction("a", "click", found, truth, (0, 4), (3.0, 1.0, 1.0)))
    assert [row.structure for row in rows] == [0, 4]
    assert (rows[0].dice, rows[0].hd95) == (pytest.approx(2 / 3), pytest.approx(3.0))
    assert (rows[1].dice, rows[1].nsd) == (0.0, 0.0)
    assert rows[1].hd95 == pytest.approx((18**2 + 8**2 + 8**2) ** 0.5)
