"""What the adapter tests share: volumes, their prompts, and weights as after training."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medsa_model.adapters.freeze import trained_parameters
from medsa_model.prompts import Prompt, collate
from medsa_model.sam import ARCHITECTURES, MedSam, build_sam


@pytest.fixture
def volumes() -> Callable[..., Tensor]:
    """`volumes(count, depth, size)`: random images (count, 3, depth, size, size)."""

    def make(count: int, depth: int, size: int = 48) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        return 255 * torch.rand(count, 3, depth, size, size, generator=generator)

    return make


@pytest.fixture
def clicks() -> Callable[[int], Prompt]:
    """`clicks(count)`: as many prompts, no two alike."""
    return lambda count: collate([([(5.0 + 4 * n, 40.0 - 3 * n)], [1], None) for n in range(count)])


@pytest.fixture
def begun_vit_b() -> MedSam:
    """vit_b with its first three blocks, random weights: windows of 14, which do not divide the 16
    patches of a frame of 256 pixels, and a block that attends everywhere."""
    model = MedSam(build_sam(replace(ARCHITECTURES["vit_b"], depth=3), 256), False).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    return model


@pytest.fixture
def shake() -> Callable[..., None]:
    """`shake(model, size)`: move everything that is trained away from its first value."""

    def move(model: nn.Module, size: float = 0.05) -> None:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in trained_parameters(model).values():
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))

    return move
