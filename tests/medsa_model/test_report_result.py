"""The result in words: the numbers of the rows, and no gain where there is none."""

from typing import Any

import pytest

from medsa_model.report_result import result_in_words


def row(vienna: float, lyon: float) -> dict[str, Any]:
    scores = {
        "mean": (vienna + lyon) / 2,
        "worst_site": min(vienna, lyon),
        "gap": abs(vienna - lyon),
        "per_site": {"vienna": vienna, "lyon": lyon},
    }
    return {"dice": scores, "iou": scores, "cases": 24, "seconds": 75.0}


def four_rows() -> dict[str, Any]:
    return {
        "zero_shot": row(0.7011, 0.6022),
        "local": row(0.8613, 0.8014),
        "federated": row(0.8915, 0.8526),
        "centralized": row(0.9017, 0.8628),
    }


def words(rows: dict[str, Any], **others: Any) -> str:
    return " ".join(result_in_words({"click": rows}, others, "7"))


def test_result_names_the_numbers() -> None:
    text = words(four_rows())
    assert text.startswith("Federated: mean Dice 0.872, worst site 0.853; alone: 0.831 / 0.801;")
    assert "better than training alone: mean +0.041, worst site +0.052; higher at 2 of 2" in text
    assert "one run with seed 7" in text


@pytest.mark.parametrize(
    ("federated", "verdict"),
    [
        ((0.80, 0.79), "is not better than training alone: mean -0.035, worst site -0.010"),
        ((0.86, 0.80), "is not better than training alone: mean 0.000, worst site 0.000"),
        ((0.95, 0.78), "is better on average, but not at the worst site"),
        ((0.82, 0.82), "is better at the worst site, but not on average"),
    ],
)
def test_result_is_honest_when_federation_does_not_help(
    federated: tuple[float, float], verdict: str
) -> None:
    verdict = verdict.replace("-", "\N{MINUS SIGN}")
    rows = four_rows() | {"local": row(0.86, 0.80), "federated": row(*federated)}
    assert f"Training together {verdict}" in words(rows)


def test_result_names_what_does_as_well() -> None:
    rows = four_rows() | {"zero_shot": row(0.95, 0.95)}
    text = words(rows, otsu=row(0.5, 0.5), ellipse_in_box=row(0.9, 0.9))
    assert "not better than the model before adaptation" in text
    assert "equal or higher mean Dice: ellipse in box 0.900." in text


def test_result_names_a_prompt_with_which_federation_does_not_help() -> None:
    worse = four_rows() | {"federated": row(0.5, 0.5)}
    text = " ".join(result_in_words({"click": four_rows(), "box": worse}, {}, ""))
    assert "With the prompt box it is not better than alone: 0.500 against 0.831." in text


def test_a_missing_score_is_no_verdict() -> None:
    rows = four_rows()
    rows["local"]["dice"]["mean"] = float("nan")
    assert "cannot be compared" in words(rows)
