"""Attention without work on padding against SAM's own block, whatever is cut."""

from dataclasses import replace

import pytest
import torch

from medsa_model.adapters import exact_attention
from medsa_model.adapters.attention import Cut, cuts
from medsa_model.adapters.encoder import EncoderBlock
from medsa_model.sam import ARCHITECTURES, build_sam


def block(window: int, height: int) -> torch.nn.Module:
    """A block of SAM with random weights for `height` x `height` tokens, in float64."""
    small = replace(
        ARCHITECTURES["vit_tiny"], width=16, depth=1, heads=2, window=window,
        global_blocks=() if window else (0,),
    )  # fmt: skip
    found = build_sam(small, height * small.patch).image_encoder.blocks[0].double()
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return found.requires_grad_(False)


@pytest.mark.parametrize(
    ("window", "height", "width"),
    [(4, 8, 8), (4, 9, 9), (4, 9, 11), (4, 7, 8), (4, 8, 5), (4, 3, 2), (4, 4, 3), (0, 6, 6)],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_block_equals_sams_with_gradients(window, height, width, chunked, monkeypatch):
    """Whole windows, windows that are cut below, on the right, and both; frames in one window."""
    if chunked:
        monkeypatch.setattr(exact_attention, "CHUNKED_FROM", 0)
        monkeypatch.setattr(exact_attention, "ROWS", 3)
    packaged = block(window, max(height, width))
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, height, width, 16, dtype=torch.float64, generator=generator)
    one, other = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    found, expected = EncoderBlock(packaged)(one), packaged(other)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-9)


def test_no_padding_is_projected():
    packaged = block(4, 9)
    seen = []
    packaged.attn.qkv.register_forward_hook(lambda _, args, __: seen.append(args[0].numel()))
    packaged.attn.proj.register_forward_hook(lambda _, args, __: seen.append(args[0].numel()))
    EncoderBlock(packaged)(torch.randn(1, 9, 9, 16, dtype=torch.float64))
    assert seen == [9 * 9 * 16] * 2  # SAM's own: 12 x 12 tokens


def test_windows_cover_an_axis():
    assert cuts(64, 14) == [Cut(4, 14), Cut(1, 8)]
    assert cuts(28, 14) == [Cut(2, 14)] and cuts(6, 8) == [Cut(1, 6)] and cuts(5, 5) == [Cut(1, 5)]
