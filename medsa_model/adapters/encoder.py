"""Med-SA adapters of the image encoder: two bottlenecks in every block of the frozen ViT.

One acts on what attention adds, before the residual sum; one runs parallel to the MLP, scaled:

    a = attention(norm1(x));  x = x + a + space(a)
    n = norm2(x);             x = x + mlp(n) + scale * parallel(n)

Wu et al. 2025, "Medical SAM Adapter", Medical Image Analysis 102:103547, figure 2(b).
"""

from typing import Any

from torch import Tensor, nn

from medsa_model.adapters.attention import block_attention
from medsa_model.adapters.bottleneck import Bottleneck


class AdaptedBlock(nn.Module):
    """A frozen SAM encoder block with a space adapter and an MLP adapter of `hidden` channels."""

    def __init__(self, block: Any, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.block: Any = block
        self.space_adapter = Bottleneck(width, hidden)
        self.mlp_adapter = Bottleneck(width, hidden)
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens (B, H, W, C)` to the same shape.

        The adapters see (B, H * W, C), after window un-partition: token-wise maps commute with
        it, and dimension 0 stays the image.
        """
        block = self.block
        attended = block_attention(block.attn, block.norm1(tokens), block.window_size)
        tokens = tokens + (attended + _per_image(self.space_adapter, attended))
        normed = block.norm2(tokens)
        adapted = _per_image(self.mlp_adapter, normed)
        out: Tensor = tokens + (block.mlp(normed) + self.scale * adapted)
        return out


def _per_image(adapter: Bottleneck, tokens: Tensor) -> Tensor:
    out: Tensor = adapter(tokens.flatten(1, 2))
    return out.view(tokens.shape)


def adapt_encoder(encoder: Any, ratio: float, scale: float) -> None:
    """Replace every block of an image encoder by its adapted form, in place."""
    for number, block in enumerate(encoder.blocks):
        width = block.attn.qkv.in_features
        hidden = max(1, round(width * ratio))
        encoder.blocks[number] = AdaptedBlock(block, width, hidden, scale)
