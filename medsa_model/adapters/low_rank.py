"""A frozen projection with low-rank changes: what LoRA adds to a layer.

    W x + scale * B A x,   A (rank, in) random, B (out, rank) zero at the start

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rank:
    """How a projection is changed: `parts` of "qkv" that are, rank, factor, and whether A stays."""

    parts: str
    rank: int
    scale: float
    frozen_a: bool


class LowRank(nn.Module):
    """What is added to a projection of `(B, T, width)` to `out` channels."""

    def __init__(self, width: int, out: int, how: Rank) -> None:
        super().__init__()
        self.a = nn.Linear(width, how.rank, bias=False)
        self.b = nn.Linear(how.rank, out, bias=False)
        self.scale = how.scale
        self.a.requires_grad_(not how.frozen_a)
        nn.init.zeros_(self.b.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens (B, T, width)` to (B, T, out)."""
        out: Tensor = self.scale * self.b(self.a(tokens))
        return out


class LowRankLinear(nn.Module):
    """A frozen projection whose output is `parts` side by side: "qkv" fused, or a single letter.

    Every part that is changed has an A and a B of its own.
    """

    def __init__(self, base: Any, parts: str, how: Rank) -> None:
        super().__init__()
        self.base: Any = base
        self.parts = parts
        width, out = base.in_features, base.out_features // len(parts)
        self.low_rank = nn.ModuleDict(
            {part: LowRank(width, out, how) for part in parts if part in how.parts}
        )

    @property
    def bias(self) -> Tensor:
        """What the projection makes of a zero token."""
        bias: Tensor = self.base.bias
        return bias

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens (B, T, width)` to (B, T, out); dimension 0 is the image or the volume."""
        projected = self.base(tokens).chunk(len(self.parts), -1)
        changed = [
            rows + self.low_rank[part](tokens) if part in self.low_rank else rows
            for part, rows in zip(self.parts, projected, strict=True)
        ]
        return torch.cat(changed, -1)
