"""The plain side of the measurements: Med-SA's bottlenecks around the packaged encoder blocks.

The same formula as `medsa_model/adapters/encoder.py`, as one writes it down at first: windows are
padded, and padding tokens take part in every projection; position tables act as packaged; attention
keeps whole score matrices; depth attention projects its tokens a second time; nothing is computed
again in the backward pass. Same weights, same trained tensors, same decoder, same result.
"""

import copy
import sys
from typing import Any

from torch import Tensor, nn

from medsa_model.adapters.encoder import AdaptedBlock, EncoderBlock
from medsa_model.sam import MedSam


class PlainBlock(nn.Module):
    """The packaged block's steps with the adapters of `adapted` in between; it keeps its names."""

    def __init__(self, adapted: AdaptedBlock) -> None:
        super().__init__()
        self.block: Any = adapted.block
        self.space_adapter = adapted.space_adapter
        self.mlp_adapter = adapted.mlp_adapter
        self.depth_adapter = adapted.depth_adapter
        self.scale = adapted.scale

    def forward(self, tokens: Tensor, slices: int = 1) -> Tensor:
        """`tokens (B * slices, H, W, C)` to the same shape; a single slice has no depth."""
        block = self.block
        normed = block.norm1(tokens)
        attended = packaged_attention(block, normed)
        change = attended + self.space_adapter(attended)
        if self.depth_adapter is not None and slices > 1:
            change = change + self.depth_adapter(depth_attention(block.attn, normed, slices))
        tokens = tokens + change
        normed = block.norm2(tokens)
        out: Tensor = tokens + block.mlp(normed) + self.scale * self.mlp_adapter(normed)
        return out


def packaged_attention(block: Any, normed: Tensor) -> Tensor:
    """What the packaged block adds to its input, by its own window functions and attention."""
    if not block.window_size:
        out: Tensor = block.attn(normed)
        return out
    package = sys.modules[type(block).__module__]
    windows, padded = package.window_partition(normed, block.window_size)
    size = tuple(normed.shape[1:3])
    out = package.window_unpartition(block.attn(windows), block.window_size, padded, size)
    return out


def depth_attention(attention: Any, normed: Tensor, slices: int) -> Tensor:
    """Attention among the slices at each place, by a projection of its own with SAM's weights.

    `normed (B * slices, H, W, C)` to the same shape.
    """
    count, height, width, channels = normed.shape
    places = normed.view(-1, slices, height * width, channels).transpose(1, 2)
    projected = attention.qkv(places.reshape(-1, slices, channels))
    q, k, v = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (q * attention.scale) @ k.transpose(-2, -1)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    projected = attention.proj(mixed).view(-1, height * width, slices, channels)
    out: Tensor = projected.transpose(1, 2).reshape(count, height, width, channels)
    return out


class PlainSam(MedSam):
    """A `MedSam` whose encoder is the plain one; the decoder is the same code."""

    def encode(self, image: Tensor) -> Tensor:
        """Embedding (B, C, S/p, S/p) of `image (B, 3, S, S) float32 in [0, 255]`."""
        return self._encode(image, 1)

    def encode_volume(self, image: Tensor) -> Tensor:
        """Embedding (B, D, C, S/p, S/p) of `image (B, 3, D, S, S) float32 in [0, 255]`."""
        slices = image.shape[2]
        embedding = self._encode(image.transpose(1, 2).flatten(0, 1), slices)
        volumes: Tensor = embedding.unflatten(0, (-1, slices))
        return volumes

    def _encode(self, image: Tensor, slices: int) -> Tensor:
        encoder = self.sam.image_encoder
        tokens = encoder.patch_embed((image - self.sam.pixel_mean) / self.sam.pixel_std)
        tokens = tokens + encoder.pos_embed
        for block in encoder.blocks:
            tokens = block(tokens, slices) if isinstance(block, PlainBlock) else block(tokens)
        embedding: Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
        return embedding


def plain_copy(model: MedSam) -> PlainSam:
    """A plain model with weights of its own, equal to those of `model`."""
    sam = copy.deepcopy(model.sam)
    for number, block in enumerate(sam.image_encoder.blocks):
        if isinstance(block, AdaptedBlock):
            sam.image_encoder.blocks[number] = PlainBlock(block)
        elif isinstance(block, EncoderBlock):
            sam.image_encoder.blocks[number] = block.block
    plain = PlainSam(sam, model.rasterised_prompts)
    plain.class_embedding = copy.deepcopy(model.class_embedding)
    return plain.train(model.training)
