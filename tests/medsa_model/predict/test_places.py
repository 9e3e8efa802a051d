"""Coordinates: from a file's pixels and voxels to the model frame, against naive computations."""

import itertools

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medsa_model.data.geometry import Geometry
from medsa_model.data.sample import Sample
from medsa_model.data.transforms import to_frame
from medsa_model.errors import DataError
from medsa_model.predict.asked import Given
from medsa_model.predict.places import (
    file_slice,
    image_rows,
    in_model,
    slice_in_model,
    volume_rows,
)
from medsa_model.prompts import tight_box

SHAPE = (5, 6, 7)
ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*axes)
]


def geometry(codes: str) -> Geometry:
    """A file of `SHAPE` whose axes lead to `codes`; voxels of 1, 2 and 3 mm."""
    ornt = nibabel.orientations
    turn = ornt.axcodes2ornt(tuple(codes))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (towards, sign) in enumerate(turn):
        affine[int(towards), axis] = sign * (axis + 1)
    return Geometry(SHAPE, affine)


@pytest.mark.parametrize(("old", "new"), [(12, 30), (30, 64), (64, 64)])
def test_a_click_lies_where_the_resized_image_shows_its_pixel(old, new):
    ramp = torch.arange(old, dtype=torch.float64)[None, None]
    resized = F.interpolate(ramp, new, mode="linear", align_corners=False)[0, 0].numpy()
    for x in range(1, old - 1):  # at the border nothing lies beyond to interpolate with
        ((place, _),), labels, box = in_model(([(x, 0)], [1], None), (1, new), (1, old))
        assert np.interp(place, np.arange(new), resized) == pytest.approx(x, abs=1e-9)
        assert labels == [1] and box is None


@pytest.mark.parametrize(("height", "width"), [(16, 32), (64, 128), (128, 96), (64, 64)])
def test_a_box_is_the_box_around_the_resized_pixels(height, width):
    rng = np.random.default_rng(0)
    scale = 64 / max(height, width)
    step = max(1, round(1 / scale))  # whole pixels of the frame, where nothing is rounded
    for _ in range(20):
        x0, x1 = np.sort(rng.choice(width // step + 1, 2, replace=False)) * step
        y0, y1 = np.sort(rng.choice(height // step + 1, 2, replace=False)) * step
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        for y in range(y0, y1):
            for x in range(x0, x1):
                mask[0, y, x] = True
        frame = to_frame(Sample(torch.zeros(3, height, width), mask, "c", "c"), 64)
        given = Given(0, "box", (float(x0), float(y0), float(x1 - 1), float(y1 - 1)))
        rows = image_rows([given], (height, width), "c")
        _, _, box = in_model(rows[0][0], frame.content, frame.original)
        assert box == pytest.approx(tight_box(frame.mask[0].numpy()))


def test_a_box_smaller_than_a_pixel_of_the_frame_does_not_turn_around():
    _, _, box = in_model(([], [], (100.0, 10.0, 101.0, 400.0)), (64, 64), (1024, 1024))
    assert box is not None
    assert box[0] == box[2] == pytest.approx(101 * 64 / 1024 - 0.5)
    assert box[1] < box[3]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_voxels_of_any_orientation_are_found_in_the_frame(codes):
    place = geometry(codes)
    rng = np.random.default_rng(1)
    for _ in range(4):
        voxel = tuple(int(rng.integers(length)) for length in SHAPE)
        marked = np.zeros(SHAPE, bool)
        marked[voxel] = True
        ((z, y, x),) = np.argwhere(place.to_frame(marked)).tolist()
        rows = volume_rows([Given(2, "click", tuple(map(float, voxel)))], place, "c")
        assert rows == {2: {z: ([(x, y)], [1], None)}}
        (along,) = (axis for axis in range(3) if codes[axis] in "IS")
        assert file_slice(z, place) == voxel[along]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_boxes_of_any_orientation_are_found_in_the_frame(codes):
    place = geometry(codes)
    along = next(axis for axis in range(3) if codes[axis] in "IS")
    first, second = (axis for axis in range(3) if axis != along)
    marked = np.zeros(SHAPE, bool)
    index: list[object] = [0, 0, 0]
    index[first], index[second], index[along] = slice(1, 4), slice(2, 5), 3
    marked[tuple(index)] = True
    turned = place.to_frame(marked)
    (z,) = np.flatnonzero(turned.any((1, 2)))
    rows = volume_rows([Given(0, "box", (1.0, 2.0, 3.0, 4.0, 3.0))], place, "c")
    assert rows == {0: {int(z): ([], [], tight_box(turned[z]))}}


def test_what_lies_outside_is_refused_with_the_size():
    with pytest.raises(DataError, match=r"case c: click 80,4 lies outside.*80 x 48 pixels"):
        image_rows([Given(0, "click", (80.0, 4.0))], (48, 80), "c")
    image_rows([Given(0, "click", (79.0, 47.0))], (48, 80), "c")
    with pytest.raises(DataError, match="5 x 6 x 7 voxels"):
        volume_rows([Given(0, "click", (1.0, 6.0, 2.0))], geometry("RAS"), "c")
    with pytest.raises(DataError, match="between two slices"):
        volume_rows([Given(0, "click", (1.0, 2.0, 2.5))], geometry("RAS"), "c")


def test_marks_of_a_slice_make_one_prompt_and_contradictions_are_refused():
    place = geometry("LPS")
    marks = [Given(0, "click", (1.0, 2.0, 3.0)), Given(0, "not", (4.0, 2.0, 3.0)),
             Given(0, "box", (0.0, 1.0, 2.0, 4.0, 3.0))]  # fmt: skip
    assert volume_rows(marks, place, "c") == {
        0: {3: ([(1.0, 2.0), (4.0, 2.0)], [1, 0], (0.0, 1.0, 2.0, 4.0))}
    }
    with pytest.raises(DataError, match="two boxes"):
        volume_rows([*marks, marks[-1]], place, "c")
    with pytest.raises(DataError, match="off the structure alone"):
        volume_rows([*marks, Given(0, "not", (1.0, 1.0, 5.0))], place, "c")


def test_slices_at_another_distance():
    for depth, slices in ((6, 6), (12, 6), (3, 6), (7, 4)):
        for place in range(slices):
            number = slice_in_model(place, depth, slices)
            # the slice of the frame whose extent in mm holds the middle of this one
            assert number / depth <= (place + 0.5) / slices < (number + 1) / depth
