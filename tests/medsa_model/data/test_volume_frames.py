"""Volumes in the model frame: shapes stay, nothing moves, and the way back is the same."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from medsa_model.data.sample import Sample
from medsa_model.data.transforms import resize_mask
from medsa_model.data.volume_frames import from_volume_frame, to_volume_frame
from medsa_model.errors import DataError

Spacing = tuple[float, float, float]


def sample(mask: torch.Tensor, spacing: Spacing | None, **more: object) -> Sample:
    """A volume whose image is white where the first structure is."""
    image = (255 * mask[0].float()).expand(3, *mask.shape[1:])
    return Sample(image, mask, "case_7", "case_7", spacing, **more)  # type: ignore[arg-type]


def block(shape: tuple[int, int, int], *ranges: tuple[int, int]) -> torch.Tensor:
    """A mask (1, D, H, W) of one block, its `ranges` along slices, rows and columns."""
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[(0, *(slice(*each) for each in ranges))] = True
    return mask


def extents(mask: torch.Tensor) -> list[tuple[int, int]]:
    """The first voxel of a block (D, H, W) along every axis, and the first one after it."""
    at = mask.nonzero()
    first, after = at.amin(0).tolist(), (at.amax(0) + 1).tolist()
    return list(zip(first, after, strict=True))


def test_a_square_in_mm_is_square_in_the_frame_whatever_the_pixels():
    # 40 rows of 1 mm, 20 columns of 4 mm: 40 x 80 mm; the block is 16 x 16 mm
    framed = to_volume_frame(
        sample(block((3, 40, 20), (1, 2), (8, 24), (4, 8)), (5, 1, 4)), 80, None
    )
    assert framed.content == (40, 80) and framed.original == (3, 40, 20)
    assert extents(framed.mask(0)) == [(1, 2), (8, 24), (16, 32)]


def test_the_rest_is_padding_at_the_bottom_or_on_the_right():
    wide = to_volume_frame(sample(torch.ones(1, 2, 10, 20, dtype=torch.bool), (1, 1, 1)), 40, None)
    tall = to_volume_frame(sample(torch.ones(1, 2, 10, 20, dtype=torch.bool), (1, 4, 1)), 40, None)
    for framed, content in ((wide, (20, 40)), (tall, (40, 20))):
        assert framed.content == content
        assert framed.image.shape == (2, 40, 40) and framed.mask(0).shape == (2, 40, 40)
        inside = torch.zeros(40, 40, dtype=torch.bool)
        inside[: content[0], : content[1]] = True
        assert torch.equal(framed.mask(0)[1], inside)
        assert framed.image[:, inside].eq(255).all() and not framed.image[:, ~inside].any()


@pytest.mark.parametrize(
    ("distance", "depth"), [(None, 10), (3.0, 10), (1.5, 20), (6.0, 5), (4.0, 8), (1e6, 1)]
)
def test_slices_are_resampled_to_the_wished_distance(distance, depth):
    framed = to_volume_frame(
        sample(block((10, 8, 8), (2, 6), (0, 8), (0, 8)), (3, 1, 1)), 8, distance
    )
    assert len(framed.image) == len(framed.mask(0)) == depth
    assert framed.original == (10, 8, 8)
    if distance in (1.5, 6.0):  # whole factors: the block is where it was, in mm
        assert extents(framed.mask(0))[0] == (2 * 3 / distance, 6 * 3 / distance)


@pytest.mark.parametrize("size", [24, 48, 96])
@pytest.mark.parametrize("distance", [None, 1.0, 4.0])
def test_image_and_mask_are_resampled_without_a_shift(size, distance):
    """The centre of mass, in mm, of a structure and of the white that it was painted with."""
    mask = block((12, 48, 32), (2, 6), (8, 24), (12, 28))
    spacing = (2.0, 1.0, 1.5)
    framed = to_volume_frame(sample(mask, spacing), size, distance)
    depth, scale = len(framed.image), size / 48
    assert framed.content == (48 * scale, 48 * scale)
    step = torch.tensor([24 / depth, 1 / scale, 1 / scale])

    def centre(weight: torch.Tensor) -> torch.Tensor:
        at = weight.nonzero()
        values = weight[at.unbind(1)].double()[:, None]
        return ((at + 0.5) * step * values).sum(0) / values.sum()

    expected = torch.tensor([4 * 2.0, 16 * 1.0, 20 * 1.5], dtype=torch.float64)
    torch.testing.assert_close(centre(framed.mask(0)), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(centre(framed.image), expected, atol=0.02, rtol=0)


def test_sizes_that_do_not_divide_leave_image_and_mask_on_the_same_voxels():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 3, 5, 6, generator=generator) > 0.5
    mask = torch.nn.functional.interpolate(coarse.byte(), (13, 50, 61), mode="nearest")[0].bool()
    framed = to_volume_frame(sample(mask, (2.3, 1.1, 0.9)), 37, 2.9)
    white = framed.image > 127
    assert 0.3 < framed.mask(0).float().mean() / 0.5 < 1.2
    agree = (white == framed.mask(0)).float().mean()
    moved = (white.roll(1, 2) == framed.mask(0)).float().mean()
    assert agree > 0.97 and agree > moved + 0.02


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_mask_comes_back_where_it_was(size):
    mask = block((9, 60, 40), (2, 6), (15, 45), (10, 30))
    framed = to_volume_frame(sample(mask, (3, 1, 1.5)), size, None)
    back = from_volume_frame(framed.mask(0).float() - 0.5, framed)
    assert back.shape == (9, 60, 40) and back.dtype == torch.float32
    wrong = (back > 0) ^ mask[0]
    around = block((9, 60, 40), (2, 6), (13, 47), (8, 32))
    within = block((9, 60, 40), (2, 6), (17, 43), (12, 28))
    assert not (wrong & ~(around & ~within)[0]).any()  # slices are exact, edges within two pixels
    assert (size == 32) or wrong.float().sum() <= 0.05 * mask.sum()


def test_the_way_back_knows_nothing_of_the_padding():
    framed = to_volume_frame(
        sample(block((2, 10, 20), (0, 2), (0, 10), (0, 20)), (1, 1, 1)), 40, None
    )
    logits = torch.full((2, 40, 40), -1e6)
    logits[:, :20] = 3.0
    torch.testing.assert_close(from_volume_frame(logits, framed), torch.full((2, 10, 20), 3.0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_of_three_slices_the_middle_one_counts_and_in_a_slice_nothing_is_lost(axis):
    """The frame's voxels are three times as long as the file's, along all axes."""
    for place in (3, 4, 5):
        ranges = [(0, 12)] * 3
        ranges[axis] = (place, place + 1)
        framed = to_volume_frame(sample(block((12, 12, 12), *ranges), (1, 1, 1)), 4, 3.0)
        assert framed.mask(0).shape == (4, 4, 4)
        shown = framed.mask(0).movedim(axis, 0).flatten(1)
        assert shown.any(1).tolist() == [False, axis > 0 or place == 4, False, False]


@pytest.mark.parametrize(("size", "distance"), [(12, 6.0), (24, 3.0), (48, 1.0), (96, 0.75)])
def test_a_slope_comes_back_at_the_place_where_it_was(size, distance):
    """Logits that grow by 1 for every mm; beyond the outer centres they cannot go on growing."""
    framed = to_volume_frame(sample(block((12, 24, 16), *[(0, 2)] * 3), (3, 2, 3)), size, distance)
    depth = len(framed.image)
    steps = (36 / depth, 48 / size, 48 / size)  # mm
    for axis, (step, own) in enumerate(zip(steps, (3, 2, 3), strict=True)):
        shape = [1, 1, 1]
        shape[axis] = -1
        length = (depth, size, size)[axis]
        slope = ((torch.arange(length) + 0.5) * step).view(shape).expand(depth, size, size)
        back = from_volume_frame(slope, framed)
        expected = (torch.arange(framed.original[axis]) + 0.5) * own
        mm = (36, 48, 48)[axis]
        sure = (expected >= step / 2) & (expected <= mm - step / 2)
        found = back.movedim(axis, 0).flatten(1)
        assert sure.sum() > 5
        torch.testing.assert_close(
            found[sure], expected[sure][:, None].expand_as(found[sure]), atol=1e-3, rtol=0
        )


def test_resampled_slices_come_back_in_the_files_number():
    framed = to_volume_frame(sample(block((10, 8, 8), (2, 6), (0, 8), (0, 8)), (4, 1, 1)), 8, 2.0)
    back = from_volume_frame(framed.mask(0).float() - 0.5, framed)
    assert extents(back > 0) == [(2, 6), (0, 8), (0, 8)]


@pytest.mark.parametrize("labelled", [None, (True, False)])
def test_what_was_annotated_is_kept(labelled):
    mask = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    framed = to_volume_frame(sample(mask, (1, 1, 1), labelled=labelled), 8, None)
    assert framed.labelled.tolist() == list(labelled or (True, True))
    assert framed.labelled.dtype == torch.bool


def test_a_volume_without_spacing_or_with_another_mask_is_refused_by_name():
    mask = torch.ones(1, 2, 4, 4, dtype=torch.bool)
    with pytest.raises(DataError, match=r"case_7: .*\(2, 4, 4\) voxels.* spacing None; expected"):
        to_volume_frame(sample(mask, None), 8, None)
    wrong = Sample(torch.zeros(3, 2, 4, 5), mask, "case_7", "p", (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match=r"\(2, 4, 5\) voxels, a mask of \(2, 4, 4\)"):
        to_volume_frame(wrong, 8, None)


def overlapping(structures: int) -> torch.Tensor:
    """Masks (K, 7, 10, 6) of noise; the first structure is one voxel, the last is everywhere."""
    mask = torch.rand(structures, 7, 10, 6, generator=torch.Generator().manual_seed(2)) > 0.9
    mask[0] = False
    mask[0, 3, 4, 5] = True
    mask[-1] = True
    return mask


@pytest.mark.parametrize("structures", [2, 8, 9, 13, 16, 32, 63])
@pytest.mark.parametrize(("size", "distance"), [(5, None), (23, None), (5, 3.1), (23, 0.7)])
def test_bits_say_what_resized_masks_say_even_where_structures_overlap(structures, size, distance):
    mask = overlapping(structures)
    framed = to_volume_frame(sample(mask, (2, 1, 1)), size, distance)
    height, width = framed.content
    depth = len(framed.image)
    planes = resize_mask(mask.flatten(0, 1), framed.content).unflatten(0, (structures, 7))
    resized = F.interpolate(planes[None].byte(), (depth, height, width), mode="nearest-exact")
    expected = F.pad(resized[0].bool(), (0, size - width, 0, size - height))
    assert (expected.sum(0) > 1).any()
    for structure in range(structures):
        found = framed.mask(structure)
        assert found.dtype == torch.bool and torch.equal(found, expected[structure])
        for run in ((1, 3), (0, depth), (depth - 1, depth)):
            assert torch.equal(framed.mask(structure, *run), expected[structure, slice(*run)])
    assert framed.shown.tolist() == [[bool(p.any()) for p in planes] for planes in expected]


@pytest.mark.parametrize(
    ("structures", "size"),
    [(1, 1), (8, 1), (9, 2), (13, 2), (15, 2), (16, 4), (31, 4), (32, 8), (63, 8)],
)
def test_a_voxel_is_kept_as_the_smallest_integer_with_a_bit_for_each_structure(structures, size):
    framed = to_volume_frame(sample(overlapping(structures), (1, 1, 1)), 10, None)
    assert framed.bits.shape == (7, 10, 10) and framed.bits.element_size() == size
    assert int(framed.bits.min()) == 0  # of the padding; no sign


def test_more_structures_than_bits_are_refused_by_name():
    with pytest.raises(DataError, match="case_7: 64 structures, expected 63 at most"):
        to_volume_frame(sample(overlapping(64), (1, 1, 1)), 10, None)


class Largest(TorchDispatchMode):
    """Notes the most bytes of one tensor among the results of all operations."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.numel() * result.element_size())
        return result


def test_masks_of_all_structures_are_never_held_at_the_size_of_the_frame():
    given, largest = sample(overlapping(13), (1, 1, 1)), Largest()
    with largest:
        to_volume_frame(given, 64, None)
    assert 0 < largest.size < 13 * 7 * 64 * 38  # 64 x 38: the content of a slice
