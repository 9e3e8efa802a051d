"""Freezing: `requires_grad` is the only truth about what is trained and sent."""

from torch import nn


def freeze(module: nn.Module) -> None:
    """Freeze all parameters that `module` has now; what is added later is trained."""
    module.requires_grad_(False)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained and sent, by name, in a fixed order."""
    return {n: p for n, p in module.named_parameters() if p.requires_grad}
