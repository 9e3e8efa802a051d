"""Surface distances against numbers worked out by hand, and against a naive computation."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

import medsa_model.surface
from medsa_model.surface import surface_scores

SHAPE = (14, 16, 18)


def cube(*starts: int, side: int = 5) -> Tensor:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[tuple(slice(start, start + side) for start in starts)] = True
    return mask


def surface(mask: Tensor) -> NDArray[np.int64]:
    """Voxels of a mask of which a neighbour across a face is outside; so is all beyond the edge."""
    inside = mask.numpy()
    return np.argwhere(inside & ~ndimage.binary_erosion(inside))


def naive(found: Tensor, truth: Tensor, spacing: tuple[float, ...], tolerance: float):
    """HD95 and NSD from the distances of every surface voxel to every other."""
    one, other = (surface(mask) * np.array(spacing) for mask in (found, truth))
    between = np.linalg.norm(one[:, None] - other[None], axis=-1)
    there, back = between.min(1), between.min(0)
    within = (there <= tolerance).sum() + (back <= tolerance).sum()
    return (
        max(np.percentile(there, 95), np.percentile(back, 95)),
        within / (len(there) + len(back)),
    )


@pytest.mark.parametrize("tolerance", [0.5, 2.0])
def test_identical_masks_are_at_distance_0(tolerance):
    assert surface_scores(cube(3, 4, 5), cube(3, 4, 5), (3, 1, 1), tolerance) == (0.0, 1.0)


@pytest.mark.parametrize(("axis", "mm"), [(0, 3.0), (1, 1.5), (2, 0.5)])
def test_two_cubes_one_voxel_apart_by_hand(axis, mm):
    """Of the 98 surface voxels of a cube of 5, the 25 that stick out are one voxel away from the
    other's surface; so are the 9 inner ones of the opposite face, or nearer along another axis.
    The rest, 64, lie on it."""
    starts = [4, 4, 4]
    starts[axis] += 1
    found, truth, spacing = cube(*starts), cube(4, 4, 4), (3.0, 1.5, 0.5)
    hd95, nsd = surface_scores(found, truth, spacing, mm)
    assert hd95 == pytest.approx(mm) and nsd == 1.0  # the tolerance is part of what is allowed
    _, nsd = surface_scores(found, truth, spacing, 0.49)
    assert nsd == pytest.approx(64 / 98)


def test_a_miss_costs_the_diagonal_of_the_volume():
    spacing = (3.0, 1.5, 0.5)
    hd95, nsd = surface_scores(torch.zeros(SHAPE, dtype=torch.bool), cube(1, 2, 3), spacing, 2.0)
    assert hd95 == pytest.approx(math.sqrt((14 * 3) ** 2 + (16 * 1.5) ** 2 + (18 * 0.5) ** 2))
    assert nsd == 0.0
    worst = torch.zeros(SHAPE, dtype=torch.bool)
    corner = worst.clone()
    worst[-1, -1, -1] = corner[0, 0, 0] = True
    assert surface_scores(worst, corner, spacing, 2.0)[0] < hd95


@pytest.mark.parametrize("seed", range(8))
def test_random_masks_agree_with_a_naive_computation(seed):
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.5, 4, 3).tolist())
    tolerance = float(rng.uniform(0.5, 4))
    smooth = (ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5) for _ in range(2))
    found, truth = (torch.from_numpy(each > 0.6 * each.std()) for each in smooth)
    assert surface_scores(found, truth, spacing, tolerance) == pytest.approx(
        naive(found, truth, spacing, tolerance), rel=1e-5
    )


@pytest.mark.parametrize("start", [0, 5, 9])
def test_structures_at_the_edge_of_the_volume_and_a_box_around_them(start, monkeypatch):
    spacing = (2.0, 1.0, 1.0)
    found, truth = cube(start, start, start), cube(start, start + 1, start, side=4)
    cropped = surface_scores(found, truth, spacing, 1.0)
    assert cropped == pytest.approx(naive(found, truth, spacing, 1.0))
    monkeypatch.setattr(medsa_model.surface, "MARGIN", 99)
    assert surface_scores(found, truth, spacing, 1.0) == cropped
