"""Long volumes in chunks: every slice is covered, seams are blended, few slices at once."""

from itertools import pairwise

import pytest
import torch

from medsa_model.adapters import Msa
from medsa_model.volume_chunks import chunks, encode_in_chunks


@pytest.mark.parametrize("depth", [1, 2, 7, 8, 9, 16, 31])
@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (8, 0), (8, 3), (8, 7), (5, 2)])
def test_chunks_cover_every_slice_and_overlap_enough(depth, size, overlap):
    parts = chunks(depth, size, overlap)
    assert {z for part in parts for z in part} == set(range(depth))
    assert all(len(part) == min(size, depth) for part in parts)
    for one, after in pairwise(parts):
        assert after.start > one.start and one.stop - after.start >= overlap


def test_known_chunks():
    assert chunks(10, 4, 1) == [range(0, 4), range(3, 7), range(6, 10)]
    assert chunks(9, 4, 1) == [range(0, 4), range(3, 7), range(5, 9)]
    assert chunks(3, 4, 1) == [range(3)]


@pytest.mark.parametrize("wrong", [(0, 4, 1), (9, 0, 0), (9, 4, 4), (9, 4, -1)])
def test_sizes_that_make_no_sense_are_refused(wrong):
    depth, size, overlap = wrong
    told = f"{depth} slices in chunks of {size} that share {overlap}"
    with pytest.raises(ValueError, match=told):
        chunks(depth, size, overlap)


@pytest.fixture
def deep(tiny):
    """A model whose slices learn from each other."""
    Msa(depth=True).inject(tiny.model, 0)
    with torch.no_grad():
        for name, parameter in tiny.model.named_parameters():
            if "depth_adapter.up" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return tiny.model


def volume(depth: int) -> torch.Tensor:
    return 255 * torch.rand(3, depth, 48, 48, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("size", [5, 9])
def test_one_chunk_equals_the_whole_volume(size, deep):
    image = volume(5)
    found = encode_in_chunks(deep, image, size, 2)
    assert torch.equal(found, deep.encode_volume(image[None])[0]) and not found.requires_grad


def test_two_chunks_are_blended_linearly(deep):
    image = volume(6)
    with torch.no_grad():
        first = deep.encode_volume(image[None, :, :4])[0]
        second = deep.encode_volume(image[None, :, 2:])[0]
    found = encode_in_chunks(deep, image, 4, 2)
    assert torch.equal(found[:2], first[:2]) and torch.equal(found[4:], second[2:])
    torch.testing.assert_close(found[2], (2 * first[2] + second[0]) / 3)
    torch.testing.assert_close(found[3], (first[3] + 2 * second[1]) / 3)
    assert (first[2] - second[0]).abs().max() > 1e-3  # there was something to blend


def test_slices_that_know_nothing_of_each_other_do_not_notice_chunks(tiny):
    image = volume(7)
    expected = tiny.model.encode_volume(image[None])[0]
    found = encode_in_chunks(tiny.model, image, 3, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_encoder_never_holds_more_slices_than_a_chunk(deep):
    held = []
    deep.sam.image_encoder.patch_embed.register_forward_pre_hook(
        lambda _, args: held.append(len(args[0]))
    )
    encode_in_chunks(deep, volume(9), 4, 1)
    assert held == [4, 4, 4]
