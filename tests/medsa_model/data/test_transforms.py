"""The model frame: image, mask and prompt agree, and logits find their way back."""

import numpy as np
import pytest
import torch

from medsa_model.data.sample import Sample
from medsa_model.data.transforms import PADDING, draw_variant, from_frame, to_frame, turned
from medsa_model.errors import DataError


def sample(height: int, width: int, structures: int = 1) -> Sample:
    """A grey image with bright rectangles, which are the structures."""
    mask = torch.zeros(structures, height, width, dtype=torch.bool)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = True
    image = 50 + 150 * mask[0].float().expand(3, -1, -1)
    return Sample(image.contiguous(), mask, "case_7", "case_7")


@pytest.mark.parametrize(
    ("size", "content"),
    [((60, 80), (24, 32)), ((80, 60), (32, 24)), ((16, 16), (32, 32)), ((1000, 3), (32, 1))],
)
def test_the_longest_side_fills_the_frame(size: tuple[int, int], content: tuple[int, int]) -> None:
    framed = to_frame(sample(*size), 32)
    assert framed.content == content
    assert framed.original == size
    assert framed.image.shape == (3, 32, 32)
    assert framed.image.dtype == torch.uint8
    assert framed.mask.shape == (1, 32, 32)
    assert framed.mask.dtype == torch.bool


def test_padding_is_the_pixel_mean_and_no_structure() -> None:
    framed = to_frame(sample(60, 80), 32)
    below = framed.image[:, 24:]
    assert torch.equal(
        below, torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].expand_as(below)
    )
    assert not framed.mask[:, 24:].any()


def test_the_same_size_changes_nothing() -> None:
    original = sample(32, 32, structures=2)
    framed = to_frame(original, 32)
    assert torch.equal(framed.image.float(), original.image)
    assert torch.equal(framed.mask, original.mask)


def test_image_and_mask_stay_on_each_other() -> None:
    framed = to_frame(sample(400, 640), 64)
    bright = framed.image[0, :40] > 125
    assert (bright != framed.mask[0, :40]).sum() == 0


def test_shrinking_is_antialiased() -> None:
    checks = torch.zeros(3, 64, 64)
    checks[:, ::2, 1::2] = checks[:, 1::2, ::2] = 200
    framed = to_frame(Sample(checks, torch.zeros(1, 64, 64, dtype=torch.bool), "a", "a"), 16)
    assert framed.image[:, 2:-2, 2:-2].float().sub(100).abs().max() <= 2


def test_a_tiny_structure_keeps_one_pixel_at_its_place() -> None:
    original = sample(300, 400, structures=3)
    original.mask[1:] = False
    original.mask[1, 151, 202] = True
    mask = to_frame(original, 40).mask
    assert mask[1].nonzero().tolist() == [[15, 20]]
    assert not mask[2].any()  # an empty channel stays empty


def test_other_sizes_are_an_error() -> None:
    wrong = Sample(torch.zeros(3, 6, 8), torch.zeros(1, 5, 8, dtype=torch.bool), "case_7", "p")
    with pytest.raises(DataError, match=r"case case_7: the image is 8 x 6 .* mask 8 x 5"):
        to_frame(wrong, 16)


@pytest.mark.parametrize("size", [(60, 80), (300, 200), (20, 31)])
def test_there_and_back(size: tuple[int, int]) -> None:
    original = sample(*size, structures=2)
    framed = to_frame(original, 64)
    logits = framed.mask.float() - 0.5
    logits[:, framed.content[0] :] = 9  # what is answered on the padding does not matter
    logits[:, :, framed.content[1] :] = 9
    found = from_frame(logits, framed.content, framed.original)
    assert found.shape == original.mask.shape
    shared = ((found > 0) & original.mask).sum() / ((found > 0) | original.mask).sum()
    assert shared > 0.9


def test_leading_dimensions_are_kept() -> None:
    assert from_frame(torch.zeros(2, 5, 16, 16), (12, 16), (30, 40)).shape == (2, 5, 30, 40)
    assert from_frame(torch.zeros(16, 16).bfloat16(), (16, 16), (8, 8)).dtype == torch.float32


def test_the_eight_variants_turn_image_and_mask_together() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 1, 2] = mask[1, 6, 3] = True
    image = torch.stack([200 * mask[0], 100 * mask[1], 0 * mask[0]]).byte()
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(80):
        variant = draw_variant(generator)
        turned_image, turned_mask = turned(image, variant), turned(mask, variant)
        assert torch.equal(turned_image[0] > 0, turned_mask[0])
        assert torch.equal(turned_image[1] > 0, turned_mask[1])
        seen.add(tuple(turned_mask[0].nonzero()[0].tolist()))
    assert len(seen) == 8


def test_variants_are_a_function_of_the_generator_and_zero_changes_nothing() -> None:
    first, second = (np.random.default_rng(5) for _ in range(2))
    drawn = [draw_variant(first) for _ in range(40)]
    assert drawn == [draw_variant(second) for _ in range(40)] and len(set(drawn)) == 8
    image = torch.arange(48).reshape(3, 4, 4)
    assert torch.equal(turned(image, 0), image)
    assert len({tuple(turned(image, variant).flatten().tolist()) for variant in range(8)}) == 8
