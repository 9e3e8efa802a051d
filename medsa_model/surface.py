"""Distances between the surfaces of two volumes in millimetres: HD95 and the surface Dice.

HD95: the 95th percentile of surface distances, the larger of both directions (Huttenlocher et al.
1993; Taha and Hanbury 2015, BMC Medical Imaging 15:29). NSD: the share of both surfaces that lies
within a tolerance of the other (Nikolov et al. 2021, J Med Internet Res 23:e26151).
"""

import math
import warnings
from collections.abc import Sequence

import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

MARGIN = 2  # voxels around both structures; what lies outside changes no distance


def surface_scores(
    found: Tensor, truth: Tensor, spacing_mm: Sequence[float], tolerance_mm: float
) -> tuple[float, float]:
    """HD95 in mm and NSD of `found (D, H, W) bool` against `truth`, which is not empty.

    When nothing was found HD95 is the length of the volume's diagonal, the largest distance that
    there is, and NSD is 0: a miss then costs more than any answer.
    """
    if not bool(found.any()):
        extents = (size * mm for size, mm in zip(truth.shape, spacing_mm, strict=True))
        return math.hypot(*extents), 0.0
    box = _box(found | truth)
    one, other = found[box][None, None].float(), truth[box][None, None].float()
    with warnings.catch_warnings():  # MONAI about itself
        warnings.simplefilter("ignore", FutureWarning)
        return _distances(one, other, [float(mm) for mm in spacing_mm], tolerance_mm)


def _distances(
    one: Tensor, other: Tensor, spacing: list[float], tolerance_mm: float
) -> tuple[float, float]:
    """HD95 and NSD of `one` against `other (1, 1, D, H, W)`."""
    hd95 = compute_hausdorff_distance(
        one, other, include_background=True, percentile=95, spacing=spacing
    )
    nsd = compute_surface_dice(
        one, other, class_thresholds=[tolerance_mm], include_background=True, spacing=spacing
    )
    return float(hd95), float(nsd)


def _box(mask: Tensor) -> tuple[slice, ...]:
    """The bounding box of a mask that is not empty, with a margin."""
    slices = []
    for axis in range(mask.ndim):
        others = [other for other in range(mask.ndim) if other != axis]
        at = torch.nonzero(mask.amax(others))[:, 0]
        slices.append(slice(max(0, int(at[0]) - MARGIN), int(at[-1]) + 1 + MARGIN))
    return tuple(slices)
