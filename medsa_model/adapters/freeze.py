"""Freezing: `requires_grad` is the only truth about what is trained and sent."""

import torch
from torch import nn


def freeze(module: nn.Module) -> None:
    """Freeze all parameters that `module` has now; what is added later is trained."""
    module.requires_grad_(False)


def round_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep frozen layers that multiply matrices in `dtype`, in place.

    Autocast to that precision rounds their weights in every step; rounded once they give the same.
    Layers that it computes in float32, such as norms, stay as they are.
    """
    for layer in module.modules():
        multiplies = isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        if multiplies and not any(p.requires_grad for p in layer.parameters()):
            layer.to(dtype)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained and sent, by name, in a fixed order."""
    return {n: p for n, p in module.named_parameters() if p.requires_grad}
