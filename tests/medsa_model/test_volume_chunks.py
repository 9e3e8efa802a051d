"""Long volumes in chunks: every slice is covered, seams are blended, few slices at once."""

from itertools import pairwise

import pytest
import torch

from medsa_model.adapters import Full, Lora, Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.sam import MedSam
from medsa_model.volume_chunks import chunks, encode_in_chunks, sees_other_slices


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


@pytest.mark.parametrize(("size", "overlap"), [(4, 0), (4, 1), (5, 4)])
def test_with_depth_every_slice_is_the_mean_of_its_chunks_weighted_by_their_ends(
    size, overlap, deep
):
    image = volume(9)
    expected: list[torch.Tensor] = []
    with torch.no_grad():
        parts = chunks(9, size, overlap)
        found = [deep.encode_volume(image[None, :, p.start : p.stop])[0] for p in parts]
    for place in range(9):
        total, sum_ = torch.zeros_like(found[0][0]), 0
        for part, embedding in zip(parts, found, strict=True):
            if place in part:
                weight = 1 + min(place - part[0], part[-1] - place)
                total, sum_ = total + weight * embedding[place - part[0]], sum_ + weight
        expected.append(total / sum_)
    torch.testing.assert_close(encode_in_chunks(deep, image, size, overlap), torch.stack(expected))


def slices_encoded(model: MedSam, depth: int, size: int, overlap: int) -> list[int]:
    """How many slices every call of the encoder gets."""
    held: list[int] = []
    hook = model.sam.image_encoder.patch_embed.register_forward_pre_hook(
        lambda _, args: held.append(len(args[0]))
    )
    found = encode_in_chunks(model, volume(depth), size, overlap)
    hook.remove()
    assert len(found) == depth
    return held


def test_the_encoder_never_holds_more_slices_than_a_chunk(deep):
    assert slices_encoded(deep, 9, 4, 1) == [4, 4, 4]


@pytest.mark.parametrize("section", [None, Msa(), Lora()])
def test_without_depth_every_slice_is_encoded_once(section, tiny):
    if section is not None:
        section.inject(tiny.model, 0)
    assert slices_encoded(tiny.model, 9, 4, 1) == [4, 4, 1]
    assert slices_encoded(tiny.model, 8, 4, 3) == [4, 4]
    assert slices_encoded(tiny.model, 3, 4, 3) == [3]


@pytest.mark.parametrize("section", [None, Msa(), Msa(depth=True), Lora(), Full()])
@torch.no_grad()
def test_a_changed_slice_changes_others_where_the_model_says_so(section, tiny):
    if section is not None:
        section.inject(tiny.model, 0)
        for parameter in trained_parameters(tiny.model).values():
            parameter.add_(
                0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    image = volume(3)[None]
    before = tiny.model.encode_volume(image)[0]
    image[:, :, 1] = 255 - image[:, :, 1]
    changed = (tiny.model.encode_volume(image)[0] - before).flatten(1).abs().amax(1)
    assert changed[1] > 1e-3
    for other in (0, 2):
        assert changed[other] > 1e-3 if sees_other_slices(tiny.model) else changed[other] < 1e-5
    assert sees_other_slices(tiny.model) == (section == Msa(depth=True))
