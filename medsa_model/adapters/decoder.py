"""Bottleneck adapters of the mask decoder: three in each two-way block, one on the final attention.

In a block: after token-to-image attention, parallel to the MLP, after image-to-token attention,
each before its residual sum. Wu et al. 2025, "Medical SAM Adapter", Medical Image Analysis
102:103547, figure 2(c), without the hyper-prompting of the first one.
"""

from typing import Any

from torch import Tensor, nn

from medsa_model.adapters.bottleneck import Bottleneck


class AdaptedTwoWayBlock(nn.Module):
    """A frozen two-way block of SAM with three bottlenecks of `hidden` channels."""

    def __init__(self, block: Any, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.block: Any = block
        self.token_adapter = Bottleneck(width, hidden)
        self.mlp_adapter = Bottleneck(width, hidden)
        self.image_adapter = Bottleneck(width, hidden)
        self.scale = scale

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The packaged block's steps: `queries (B, T, C)` tokens, `keys (B, h * w, C)` image."""
        block = self.block
        if block.skip_first_layer_pe:
            queries = block.self_attn(q=queries, k=queries, v=queries)
        else:
            q = queries + query_pe
            queries = queries + block.self_attn(q=q, k=q, v=queries)
        queries = block.norm1(queries)

        attended = block.cross_attn_token_to_image(q=queries + query_pe, k=keys + key_pe, v=keys)
        queries = block.norm2(queries + (attended + self.token_adapter(attended)))

        adapted = self.scale * self.mlp_adapter(queries)
        queries = block.norm3(queries + (block.mlp(queries) + adapted))

        attended = block.cross_attn_image_to_token(q=keys + key_pe, k=queries + query_pe, v=queries)
        keys = block.norm4(keys + (attended + self.image_adapter(attended)))
        return queries, keys


class AdaptedAttention(nn.Module):
    """The decoder's final attention with a bottleneck on its output."""

    def __init__(self, attention: Any, width: int, hidden: int) -> None:
        super().__init__()
        self.attention: Any = attention
        self.adapter = Bottleneck(width, hidden)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`q (B, T, C)`, `k` and `v (B, h * w, C)` to (B, T, C)."""
        attended: Tensor = self.attention(q=q, k=k, v=v)
        adapted: Tensor = self.adapter(attended)
        return attended + adapted


def adapt_decoder(decoder: Any, hidden: int, scale: float) -> None:
    """Replace the two-way blocks and the final attention by their adapted forms, in place."""
    transformer = decoder.transformer
    width = transformer.embedding_dim
    for number, block in enumerate(transformer.layers):
        transformer.layers[number] = AdaptedTwoWayBlock(block, width, hidden, scale)
    transformer.final_attn_token_to_image = AdaptedAttention(
        transformer.final_attn_token_to_image, width, hidden
    )
