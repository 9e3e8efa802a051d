"""When blocks are computed again: what they keep is measured, and compared with the memory."""

import math

import pytest
import torch

from medsa_model.adapters import Full, Lora, Msa
from medsa_model.recompute import SHARE, kept_bytes, must_recompute, resting_bytes


def kept_by_the_encoder(model, image) -> int:
    """Counted in a whole forward pass, not block by block."""
    own = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = model.prefix(image)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model.encode_from(tokens)
    del out
    return sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize("section", [Msa(), Msa(blocks="last-2"), Lora(), Full()])
def test_the_blocks_together_keep_what_the_encoder_keeps(section, tiny):
    section.inject(tiny.model, 0)
    image = 255 * torch.rand(2, 3, 48, 48)
    counted = kept_by_the_encoder(tiny.model, image)
    tokens = torch.zeros(2, 6, 6, 128)
    blocks = list(tiny.model.sam.image_encoder.blocks)[tiny.model.frozen_blocks :]
    found = sum(kept_bytes(block, tokens, 1, "float32") for block in blocks)
    assert found == pytest.approx(counted, rel=0.15)  # the neck, and what neighbours share


def test_a_memory_that_is_stated_decides(tiny):
    Msa().inject(tiny.model, 0)
    tokens = torch.zeros(2, 6, 6, 128)
    blocks = list(tiny.model.sam.image_encoder.blocks)
    needed = resting_bytes(tiny.model) + sum(
        kept_bytes(block, tokens, 1, "float32") for block in blocks
    )
    needed = math.ceil(needed / SHARE)
    assert must_recompute(tiny.model, 2, 1, "float32", needed - 1)
    assert not must_recompute(tiny.model, 2, 1, "float32", needed)
    assert not must_recompute(tiny.model, 1, 1, "float32", needed - 1)
    assert must_recompute(tiny.model, 1, 2, "float32", needed - 1)
    assert not must_recompute(tiny.model, 2, 1, "float32", None)  # the machine has enough


def test_looking_leaves_nothing_behind(tiny):
    Msa().inject(tiny.model, 0)
    must_recompute(tiny.model, 2, 1, "float32", 1.0)
    assert all(p.grad is None for p in tiny.model.parameters())
