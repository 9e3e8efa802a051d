"""Masks against labels, in the keys of nnU-Net's `summary.json`.

As its `evaluate_predictions` (v2): counts of pixels or voxels for each structure of each case, Dice
and IoU of them, NaN where a structure is neither found nor in the labels; `mean` over the cases
without NaN, `foreground_mean` over the structures, which NaN makes NaN. Structures are keys by
their numbers, from "1". A case has the structures that were asked for there.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

Metrics = dict[str, float]
METRICS = ("Dice", "IoU", "FP", "TP", "FN", "TN", "n_pred", "n_ref")


def metrics_of(found: Tensor, truth: Tensor, structure: int) -> Metrics:
    """The metrics of `structure`, a number from 1, in two tensors of numbers of one shape."""
    one, other = found == structure, truth == structure
    tp, fp = int((one & other).sum()), int((one & ~other).sum())
    fn, tn = int((~one & other).sum()), int((~one & ~other).sum())
    union = tp + fp + fn
    return {
        "Dice": 2 * tp / (union + tp) if union else math.nan,
        "IoU": tp / union if union else math.nan,
        "FP": fp, "TP": tp, "FN": fn, "TN": tn, "n_pred": fp + tp, "n_ref": fn + tp,
    }  # fmt: skip


def summary(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of `summary.json`.

    Each of `cases` has `metrics` (number from 1 -> `Metrics`), `prediction_file`, `reference_file`.
    """
    structures = sorted({number for case in cases for number in case["metrics"]})
    mean = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of NaN alone is NaN
        for number in structures:
            having = [case["metrics"][number] for case in cases if number in case["metrics"]]
            mean[str(number)] = {
                name: float(np.nanmean([each[name] for each in having])) for name in METRICS
            }
    foreground = {
        name: float(np.mean([each[name] for each in mean.values()])) for name in METRICS
    }  # fmt: skip
    per_case = [
        {**case, "metrics": {str(number): each for number, each in case["metrics"].items()}}
        for case in cases
    ]
    return {"foreground_mean": foreground, "mean": mean, "metric_per_case": per_case}
