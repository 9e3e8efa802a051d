"""Embeddings of long volumes, a part of the slices at a time.

Attention across depth needs all slices of a volume in memory. A long volume is cut into chunks that
overlap, and where they do their embeddings are blended: the nearer a slice is to the middle of a
chunk, the more that chunk counts. So no seam shows where one chunk ends. Without attention across
depth there is nothing to blend, and every slice is encoded once.
"""

import torch
from torch import Tensor

from medsa_model.adapters.encoder import AdaptedBlock
from medsa_model.sam import MedSam


def chunks(depth: int, size: int, overlap: int) -> list[range]:
    """Cover `depth` slices with ranges of `size` that share at least `overlap` with the next.

    The last one is moved back to end with the volume, so that none is short. A volume of `size`
    slices or fewer is one range. Raises `ValueError` for sizes that make no sense.
    """
    if depth < 1 or size < 1 or not 0 <= overlap < size:
        raise ValueError(
            f"{depth} slices in chunks of {size} that share {overlap}: expected one slice or more, "
            "chunks of one or more, and an overlap smaller than a chunk"
        )
    if depth <= size:
        return [range(depth)]
    starts = [*range(0, depth - size, size - overlap), depth - size]
    return [range(start, start + size) for start in starts]


def sees_other_slices(model: MedSam) -> bool:
    """Whether the embedding of a slice depends on the other slices of its volume.

    That is so where a block of the encoder has an adapter across depth. `sees_volumes` does not say
    it: such a block is told how many slices a volume has, and may still treat them one by one.
    """
    blocks = model.sam.image_encoder.modules()
    return any(isinstance(b, AdaptedBlock) and b.depth_adapter is not None for b in blocks)


@torch.no_grad()
def encode_in_chunks(model: MedSam, image: Tensor, size: int, overlap: int) -> Tensor:
    """Embedding (D, C, S/p, S/p) of one volume `image (3, D, S, S) float32 in [0, 255]`.

    The device of the model holds one chunk; the answer is on that of `image`. Equal to
    `encode_volume` when `size` is D or more. Slices that do not see each other are cut without an
    overlap, and the last chunk may be short: blending their equal embeddings would give the same
    up to rounding, in the last bits of the precision in use (float32 or bfloat16).
    """
    depth = image.shape[1]
    parts = chunks(depth, size, overlap)
    if not sees_other_slices(model):
        parts = [range(depth)[first : first + size] for first in range(0, depth, size)]
    weights = _weights(parts, depth).to(image.device)
    blended = None
    for part, weight in zip(parts, weights, strict=True):
        window = slice(part.start, part.stop)
        found = model.encode_volume(image[None, :, window].to(model.sam.device))[0].to(image.device)
        if blended is None:
            blended = found.new_zeros(depth, *found.shape[1:])
        blended[window] += weight[window, None, None, None] * found
    assert blended is not None  # there is always one chunk
    return blended


def _weights(parts: list[range], depth: int) -> Tensor:
    """Share (chunks, D) of every chunk in every slice: 0 outside, linear to its ends, sum 1."""
    slices = torch.arange(depth)
    start = torch.tensor([part.start for part in parts])[:, None]
    stop = torch.tensor([part.stop for part in parts])[:, None]
    height = torch.minimum(slices - start + 1, stop - slices).clamp(min=0).float()
    return height / height.sum(0)
