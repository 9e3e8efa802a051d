"""The headline arithmetic, against numbers computed by hand."""

import pytest

from medsa_model.logs import append_metrics
from medsa_model.run_rows import communication, foreground_mean, row, training_seconds
from medsa_model.run_rows import final_scores as scores_of

SCORES = {
    "a": {"dice": 0.9, "iou": 0.8, "cases": 1},
    "b": {"dice": 0.5, "iou": 0.4, "cases": 3},
}


def test_the_mean_is_over_cases_and_the_worst_site_over_sites():
    result = row(SCORES, 12.5)  # type: ignore[arg-type]
    assert result["dice"] == {
        "mean": pytest.approx((0.9 + 3 * 0.5) / 4),
        "worst_site": 0.5,
        "gap": pytest.approx(0.4),
        "per_site": {"a": 0.9, "b": 0.5},
    }
    assert (result["cases"], result["seconds"]) == (4, 12.5)


def test_structures_of_images_have_no_surface_and_are_there_all_the_same():
    scores = {
        "a": {**SCORES["a"], "structures": {"disc": {"dice": 0.8, "iou": 0.7, "cases": 1}}},
        "b": {**SCORES["b"], "structures": {"disc": {"dice": 0.4, "iou": 0.3, "cases": 3},
                                            "cup": {"dice": 0.2, "iou": 0.1, "cases": 2}}},
    }  # fmt: skip
    result = row(scores, 0.0)  # type: ignore[arg-type]
    assert result["structures"] == {
        "disc": {"cases": 4, "dice": pytest.approx(0.5), "iou": pytest.approx(0.4)},
        "cup": {"cases": 2, "dice": pytest.approx(0.2), "iou": pytest.approx(0.1)},
    }
    assert result["per_class"] == {"disc": pytest.approx(0.5), "cup": pytest.approx(0.2)}
    assert "structures" not in row(SCORES, 0.0)  # type: ignore[arg-type]


def test_foreground_means_have_the_names_of_nnunet():
    expected = {"Dice": pytest.approx(0.6), "IoU": pytest.approx(0.5)}
    assert foreground_mean(row(SCORES, 0.0)) == expected  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path):
    for number, up in ((1, 100), (1, 120), (2, 110)):  # round 1 was repeated after a crash
        append_metrics(tmp_path, "train", round=number, site="a", up_bytes=up, down_bytes=200,
                       images=8, memory=5)  # fmt: skip
        append_metrics(tmp_path, "round", round=number, seconds=2.0)
    append_metrics(tmp_path, "traffic", round=2, site="a", part="test", up_bytes=7, down_bytes=200)
    for dice in (0.4, 0.6):  # scored twice: the last one counts
        append_metrics(tmp_path, "evaluate", round=2, site="a", part="test", prompt="click",
                       dice=dice, iou=0.3, cases=2)  # fmt: skip
    append_metrics(tmp_path, "evaluate", round=2, site="a", part="val", prompt="click", dice=0.1,
                   iou=0.1, cases=2)  # fmt: skip
    return tmp_path


def test_traffic_counts_repeated_rounds_once_and_scoring_as_well(run):
    assert communication(run, 5000) == {
        "up_bytes_per_site_round": 120,
        "down_bytes_per_site_round": 200,
        "full_model_bytes": 5000,
        "total_up_bytes": 120 + 110 + 7,
        "total_down_bytes": 600,
        "peak_memory_bytes": 5,
    }


def test_time_counts_repeated_rounds_once(run):
    assert training_seconds([run]) == 4.0


def test_only_the_last_test_scores_count(run):
    assert scores_of(run) == {"click": {"a": {"dice": 0.6, "iou": 0.3, "cases": 2}}}
