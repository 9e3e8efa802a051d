"""Bottleneck adapters of the mask decoder: three in each two-way block, one on the final attention.

In a block: after token-to-image attention, parallel to the MLP, after image-to-token attention,
each before its residual sum. The first one may depend on the prompt (`conditioned.py`). Wu et al.
2025, "Medical SAM Adapter", Medical Image Analysis 102:103547, figure 2(c).

A row is one prompt; `rows` consecutive ones belong to one image or volume.
"""

from typing import Any

from torch import Tensor, nn

from medsa_model.adapters.bottleneck import Bottleneck
from medsa_model.adapters.conditioned import Condition, ConditionedBottleneck
from medsa_model.adapters.layout import per_volume


class AdaptedTwoWayBlock(nn.Module):
    """A frozen two-way block of SAM with three bottlenecks of `hidden` channels."""

    sees_volumes = True  # for MedSam: takes `prompt` and `rows`

    def __init__(
        self, block: Any, width: int, hidden: int, scale: float, condition: Condition, steps: int
    ) -> None:
        super().__init__()
        self.block: Any = block
        self.token_adapter = (
            Bottleneck(width, hidden)
            if condition == "none"
            else ConditionedBottleneck(width, hidden, condition, steps)
        )
        self.mlp_adapter = Bottleneck(width, hidden)
        self.image_adapter = Bottleneck(width, hidden)
        self.scale = scale

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_pe: Tensor,
        key_pe: Tensor,
        prompt: Tensor,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        """The packaged block's steps.

        `queries (B * rows, T, C)` tokens, `keys (B * rows, h * w, C)` image, `prompt (B * rows, C)`
        the mean prompt.
        """
        block = self.block
        if block.skip_first_layer_pe:
            queries = block.self_attn(q=queries, k=queries, v=queries)
        else:
            q = queries + query_pe
            queries = queries + block.self_attn(q=q, k=q, v=queries)
        queries = block.norm1(queries)

        attended = block.cross_attn_token_to_image(q=queries + query_pe, k=keys + key_pe, v=keys)
        queries = block.norm2(queries + (attended + self._token_change(attended, prompt, rows)))

        adapted = self.scale * per_volume(self.mlp_adapter, queries, rows)
        queries = block.norm3(queries + (block.mlp(queries) + adapted))

        attended = block.cross_attn_image_to_token(q=keys + key_pe, k=queries + query_pe, v=queries)
        keys = block.norm4(keys + (attended + per_volume(self.image_adapter, attended, rows)))
        return queries, keys

    def _token_change(self, attended: Tensor, prompt: Tensor, rows: int) -> Tensor:
        if isinstance(self.token_adapter, Bottleneck):
            return per_volume(self.token_adapter, attended, rows)
        by_volume = (-1, rows)
        change: Tensor = self.token_adapter(
            attended.unflatten(0, by_volume), prompt.unflatten(0, by_volume)
        )
        return change.flatten(0, 1)


class AdaptedAttention(nn.Module):
    """The decoder's final attention with a bottleneck on its output."""

    sees_volumes = True  # for MedSam: takes `rows`

    def __init__(self, attention: Any, width: int, hidden: int) -> None:
        super().__init__()
        self.attention: Any = attention
        self.adapter = Bottleneck(width, hidden)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, rows: int) -> Tensor:
        """`q (B * rows, T, C)`, `k` and `v (B * rows, h * w, C)` to (B * rows, T, C)."""
        attended: Tensor = self.attention(q=q, k=k, v=v)
        return attended + per_volume(self.adapter, attended, rows)


def adapt_decoder(
    decoder: Any, hidden: int, scale: float, condition: Condition, steps: int
) -> None:
    """Replace the two-way blocks and the final attention by their adapted forms, in place."""
    transformer = decoder.transformer
    width = transformer.embedding_dim
    for number, block in enumerate(transformer.layers):
        transformer.layers[number] = AdaptedTwoWayBlock(
            block, width, hidden, scale, condition, steps
        )
    transformer.final_attn_token_to_image = AdaptedAttention(
        transformer.final_attn_token_to_image, width, hidden
    )
