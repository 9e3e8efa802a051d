"""The arithmetic of a comparison, against numbers computed by hand."""

import pytest

from medsa_model.logs import append_metrics
from sim.summary import images_seen, off_site_mean

SCORES = {
    "a": {"dice": 0.9, "iou": 0.8, "cases": 1},
    "b": {"dice": 0.5, "iou": 0.4, "cases": 3},
}


def test_local_models_on_other_sites_are_weighted_by_cases():
    models = {
        "a": {"click": {**SCORES}},
        "b": {"click": {"a": {"dice": 0.1, "iou": 0.1, "cases": 1}, "b": SCORES["b"]}},
    }
    assert off_site_mean(models, "click") == pytest.approx((3 * 0.5 + 1 * 0.1) / 4)  # type: ignore[arg-type]


def test_images_count_repeated_rounds_once(tmp_path):
    for number in (1, 1, 2):  # round 1 was repeated after a crash
        append_metrics(tmp_path, "train", round=number, site="a", images=8)
    assert images_seen([tmp_path]) == 16
