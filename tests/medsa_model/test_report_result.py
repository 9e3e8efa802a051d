"""The result in words: the numbers of the rows, and no gain where there is none."""

from typing import Any

import pytest

from medsa_model.report_result import references_in_words, result_in_words


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
    return " ".join(result_in_words({"click": rows}, {"click": others}, "7"))


def test_result_names_the_numbers() -> None:
    text = words(four_rows())
    assert text.startswith("Federated: mean Dice 0.872, worst site 0.853; alone: mean 0.831, ")
    assert "; zero-shot: mean 0.652, worst site 0.602 (prompt: click)." in text
    assert "better than training alone: mean +0.041, worst site +0.052; higher at 2 of 2" in text
    assert "one run with seed 7" in text


@pytest.mark.parametrize(
    ("federated", "verdict"),
    [
        ((0.80, 0.79), "is not better than training alone: mean -0.035, worst site -0.010"),
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


@pytest.mark.parametrize(
    ("federated", "verdict"),
    [
        ((0.86, 0.80), "mean 0.000, worst site 0.000; higher at 0 of 2 sites."),
        ((0.861, 0.801), "mean +0.001, worst site +0.001; higher at 0 of 2 sites."),
        ((0.869, 0.809), "mean +0.009, worst site +0.009; higher at 0 of 2 sites."),
        ((0.852, 0.80), "mean -0.004, worst site 0.000; higher at 0 of 2 sites."),
        ((0.88, 0.792), "mean +0.006, worst site -0.008; higher at 1 of 2 sites."),
        ((0.84, 0.80), "mean -0.010, worst site 0.000; higher at 0 of 2 sites, lower at 1."),
    ],
)
def test_a_small_difference_is_none(federated: tuple[float, float], verdict: str) -> None:
    verdict = verdict.replace("-", "\N{MINUS SIGN}")
    text = words(four_rows() | {"local": row(0.86, 0.80), "federated": row(*federated)})
    clear = "\N{MINUS SIGN}0.010" in verdict
    told = "Training together is not better" if clear else "No clear difference between training"
    assert told in text and verdict in text


@pytest.mark.parametrize(
    ("federated", "verdict"),
    [
        ((0.90, 0.805), "is better on average, with no clear difference at the worst site"),
        ((0.83, 0.815), "is better at the worst site, with no clear difference on average"),
        ((0.89, 0.785), "is worse at the worst site, with no clear difference on average"),
    ],
)
def test_the_mean_and_the_worst_site_are_judged_apart(
    federated: tuple[float, float], verdict: str
) -> None:
    text = words(four_rows() | {"local": row(0.86, 0.80), "federated": row(*federated)})
    assert f"Training together {verdict}: mean" in text


def test_the_result_says_what_was_compared() -> None:
    text = words(four_rows())
    assert "each site's own model on 24 test cases with the prompt click" in text
    assert "a difference below 0.010, of means or at a site, counts as none" in text


def test_a_thousandth_is_no_gain_over_the_model_before_adaptation() -> None:
    text = words(four_rows() | {"zero_shot": row(0.891, 0.852)})
    assert "The federated model is not clearly better than the model before adaptation." in text


def test_another_prompt_without_a_clear_difference_is_named() -> None:
    close = four_rows() | {"federated": row(0.866, 0.806)}
    text = " ".join(result_in_words({"click": four_rows(), "box": close}, {}, ""))
    assert "With the prompt box there is no clear difference between training together" in text
    assert "0.836 against 0.831." in text


def test_result_names_what_does_as_well() -> None:
    rows = four_rows() | {"zero_shot": row(0.95, 0.95)}
    text = words(rows, otsu=row(0.5, 0.5), ellipse_in_box=row(0.9, 0.9))
    assert "not better than the model before adaptation" in text
    assert (
        "the reference ellipse in box (0.900) is better than the federated model (0.872)." in text
    )
    assert "otsu" not in text


def test_references_of_every_prompt_are_told_apart() -> None:
    ahead = {"ellipse_in_box": row(0.9, 0.9), "otsu": row(0.95, 0.95), "scratch": row(0.87, 0.87)}
    prompts = {"click": four_rows(), "box": four_rows()}
    sentences = result_in_words(prompts, {"click": {"otsu": row(0.1, 0.1)}, "box": ahead}, "")
    told = [sentence for sentence in sentences if "reference" in sentence]
    assert told == [
        "With the prompt box the references ellipse in box (0.900) and otsu (0.950) are better "
        "than the federated model (0.872).",
        "With the prompt box there is no clear difference between the federated model (0.872) and "
        "the reference scratch (0.870).",
    ]


def test_a_reference_is_told_where_no_site_trained_alone() -> None:
    rows = {name: each for name, each in four_rows().items() if name in ("zero_shot", "federated")}
    assert "the reference otsu (0.900) is better" in words(rows, otsu=row(0.9, 0.9))


def test_what_references_are_is_said_of_those_that_are_there() -> None:
    told = references_in_words(["ellipse_in_box", "scratch", "of another version"])
    assert told.startswith("References. Ellipse in box: the ellipse that fills")
    assert "scratch: the same federation" in told and "otsu" not in told
    assert references_in_words([]) == ""


def test_result_names_a_prompt_with_which_federation_does_not_help() -> None:
    worse = four_rows() | {"federated": row(0.5, 0.5)}
    text = " ".join(result_in_words({"click": four_rows(), "box": worse}, {}, ""))
    assert "With the prompt box training together is not better than training alone: 0.500" in text


def test_a_missing_score_is_no_verdict() -> None:
    rows = four_rows()
    rows["local"]["dice"]["mean"] = float("nan")
    assert "cannot be compared" in words(rows)
