"""LoRA: low-rank changes of the attention projections, the rest frozen.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685. With
`frozen_a` A stays as the seed made it (FFA-LoRA, Sun et al. 2024, "Improving LoRA in
Privacy-preserving Federated Learning", arXiv:2403.12313): the mean of the sites' products B A is
then the mean of their B times A, so averaging is exact. Otherwise it is not.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medsa_model.adapters.depth import Blocks, chosen_blocks
from medsa_model.adapters.encoder import EncoderBlock
from medsa_model.adapters.freeze import freeze
from medsa_model.adapters.layout import per_volume
from medsa_model.adapters.low_rank import LowRankLinear, Rank
from medsa_model.sam import MedSam
from medsa_model.section import Section


class Lora(Section):
    """Low-rank changes of attention; only they are trained and sent."""

    kind: Literal["lora"] = "lora"
    blocks: Blocks = "all"
    """Changed blocks of the encoder: `all`, `last-3` (the last three; any number), or a list of
    numbers from 0. What comes before the first of them is computed once for a case and kept."""
    rank: int = Field(4, ge=1, le=256)
    """Rank of every change."""
    alpha: float = Field(4.0, gt=0, le=1024)
    """Changes are multiplied by alpha / rank."""
    targets: Literal["qv", "qkv"] = "qv"
    """Projections that are changed: query and value, or key as well."""
    frozen_a: bool = False
    """Train and send B alone; A is a function of the run's seed. Averaging is then exact."""
    decoder: bool = True
    """Also change the attention of the mask decoder."""

    @property
    def how(self) -> Rank:
        """The same for one projection."""
        return Rank(self.targets, self.rank, self.alpha / self.rank, self.frozen_a)

    def inject(self, model: MedSam, seed: int) -> None:
        """Freeze `model` and add changes, in place; their weights are a function of `seed`."""
        freeze(model)
        encoder, transformer = model.sam.image_encoder, model.sam.mask_decoder.transformer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed = chosen_blocks(self.blocks, len(encoder.blocks))
            for number, block in enumerate(encoder.blocks):
                if number in changed:
                    block.attn.qkv = LowRankLinear(block.attn.qkv, "qkv", self.how)
                encoder.blocks[number] = EncoderBlock(block)
            if self.decoder:
                for number, block in enumerate(transformer.layers):
                    transformer.layers[number] = LowRankTwoWayBlock(block, self.how)
                transformer.final_attn_token_to_image = LowRankAttention(
                    transformer.final_attn_token_to_image, self.how
                )


class LowRankAttention(nn.Module):
    """A decoder attention with changed input projections.

    They run before the packaged module, which gets the identity in their place: it would call
    them with prompts as dimension 0.
    """

    sees_volumes = True  # takes `rows`

    def __init__(self, attention: Any, how: Rank) -> None:
        super().__init__()
        self.attention: Any = attention
        self.projections = nn.ModuleDict()
        for part in how.parts:
            base = getattr(attention, f"{part}_proj")
            self.projections[part] = LowRankLinear(base, part, how)
            setattr(attention, f"{part}_proj", nn.Identity())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, rows: int) -> Tensor:
        """`q`, `k` and `v (B * rows, T, C)`; `rows` prompts belong to one image or volume."""
        given = {"q": q, "k": k, "v": v}
        for part, projection in self.projections.items():
            given[part] = per_volume(projection, given[part], rows)
        out: Tensor = self.attention(**given)
        return out


class LowRankTwoWayBlock(nn.Module):
    """A frozen two-way block of SAM with changed projections in its three attentions."""

    sees_volumes = True  # for MedSam: takes `prompt` and `rows`

    def __init__(self, block: Any, how: Rank) -> None:
        super().__init__()
        self.block: Any = block
        for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            setattr(block, name, LowRankAttention(getattr(block, name), how))

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_pe: Tensor,
        key_pe: Tensor,
        prompt: Tensor,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        """The packaged block's steps; shapes as in `AdaptedTwoWayBlock`, `prompt` is not used."""
        block = self.block
        if block.skip_first_layer_pe:
            queries = block.self_attn(q=queries, k=queries, v=queries, rows=rows)
        else:
            q = queries + query_pe
            queries = queries + block.self_attn(q=q, k=q, v=queries, rows=rows)
        queries = block.norm1(queries)
        q, k = queries + query_pe, keys + key_pe
        queries = queries + block.cross_attn_token_to_image(q=q, k=k, v=keys, rows=rows)
        queries = block.norm2(queries)
        queries = block.norm3(queries + block.mlp(queries))
        q = queries + query_pe
        keys = keys + block.cross_attn_image_to_token(q=k, k=q, v=queries, rows=rows)
        return queries, block.norm4(keys)
