"""Scores against hand-computed ones; prompts of evaluation are fixed; empty cases are counted."""

import pytest
import torch

from medsa_model.adapters import Msa
from medsa_model.data.sample import Case, Sample
from medsa_model.data.transforms import to_frame
from medsa_model.evaluate import Prediction, evaluate, fixed_prompts, predict, score
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
    result = score(Prediction("a", "click", found, truth))
    assert (result.dice, result.iou) == (pytest.approx(0.5), pytest.approx(1 / 3))


def test_a_case_is_the_mean_over_its_structures():
    truth = squares(0, 30)
    found = truth.clone()
    found[1] = False
    assert score(Prediction("a", "click", found, truth)).dice == pytest.approx(0.5)


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
