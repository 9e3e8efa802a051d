"""Med-SA adapters of the image encoder: bottlenecks in blocks of the frozen ViT.

One acts on what attention adds, before the residual sum; one runs parallel to the MLP, scaled. For
volumes (SD-Trans) a third one acts on what the same attention finds across depth:

    a = attention within slices (norm1(x));  d = attention across depth (norm1(x))
    x = x + a + space(a) + depth(d)
    n = norm2(x);  x = x + mlp(n) + scale * parallel(n)

Wu et al. 2025, "Medical SAM Adapter", Medical Image Analysis 102:103547, section 3 and figure 2(b).
What depth finds comes through its adapter alone, without a skip: the adapter starts at zero, so an
adapted model starts as SAM on each slice.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from medsa_model.adapters.attention import across_depth, project, within_slices
from medsa_model.adapters.bottleneck import Activation, Bottleneck
from medsa_model.adapters.layout import per_volume
from medsa_model.device import in_autocast_precision


class EncoderBlock(nn.Module):
    """A SAM encoder block as it is, without the work on padding."""

    sees_volumes = True  # for MedSam: takes `slices`

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block: Any = block

    def forward(self, tokens: Tensor, slices: int = 1) -> Tensor:
        """`tokens (B * slices, H, W, C)` to the same shape, each slice by itself."""
        block = self.block
        projected = project(block.attn, block.norm1(tokens), slices)
        tokens = tokens + within_slices(block.attn, projected, block.window_size)
        out: Tensor = tokens + block.mlp(block.norm2(tokens))
        return out


class AdaptedBlock(nn.Module):
    """A frozen SAM encoder block with adapters of `hidden` channels, in 3D also across depth."""

    sees_volumes = True  # for MedSam: takes `slices`

    def __init__(
        self, block: Any, width: int, hidden: int, scale: float, depth: bool,
        activation: Activation = "relu",
    ) -> None:  # fmt: skip
        super().__init__()
        self.block: Any = block
        self.space_adapter = Bottleneck(width, hidden, activation)
        self.mlp_adapter = Bottleneck(width, hidden, activation)
        self.depth_adapter = Bottleneck(width, hidden, activation) if depth else None
        self.scale = scale

    def forward(self, tokens: Tensor, slices: int = 1) -> Tensor:
        """`tokens (B * slices, H, W, C)` to the same shape; a single slice has no depth.

        The adapters see (B, slices * H * W, C), after window un-partition: token-wise maps commute
        with it, and dimension 0 stays the image or the volume.
        """
        block = self.block
        projected = project(block.attn, block.norm1(tokens), slices)
        attended = within_slices(block.attn, projected, block.window_size)
        tokens = tokens + (attended + per_volume(self.space_adapter, attended, slices))
        if self.depth_adapter is not None and slices > 1:
            deep = across_depth(block.attn, projected, slices)
            tokens = tokens + per_volume(self.depth_adapter, deep, slices)
        normed = in_autocast_precision(block.norm2(tokens))  # once, for both that read it
        adapted = per_volume(self.mlp_adapter, normed, slices)
        out: Tensor = tokens + torch.add(block.mlp(normed), adapted, alpha=self.scale)
        return out


def adapt_encoder(
    encoder: Any, ratio: float, scale: float, depth: bool, adapted: Collection[int],
    activation: Activation = "relu",
) -> None:  # fmt: skip
    """Replace every block of an image encoder, in place: those of the numbers `adapted` (0 is the
    first) by their adapted form."""
    for number, block in enumerate(encoder.blocks):
        width = block.attn.qkv.in_features
        hidden = max(1, round(width * ratio))
        encoder.blocks[number] = (
            AdaptedBlock(block, width, hidden, scale, depth, activation)
            if number in adapted
            else EncoderBlock(block)
        )
