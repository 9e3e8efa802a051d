"""Shared fixtures: a small model of 48 x 48 pixels whose windows are padded (6 tokens, not 8)."""

import pytest
import torch

from medsa_model.backbone import Base, load_base

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other


@pytest.fixture
def tiny() -> Base:
    """`vit_tiny` with random weights in a frame of 48 pixels."""
    return begun(48)


@pytest.fixture
def whole() -> Base:
    """The same in a frame of 64 pixels, which are one window."""
    return begun(64)


def begun(size: int) -> Base:
    base = load_base("vit_tiny", size, None, "random", 3)
    with torch.no_grad():  # so that position tables and normalisation biases matter
        generator = torch.Generator().manual_seed(5)
        for name, parameter in base.model.named_parameters():
            if "rel_pos" in name or name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return base
