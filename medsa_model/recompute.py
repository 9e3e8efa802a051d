"""Whether the encoder's blocks must be computed a second time, in the backward pass, to fit.

What a block keeps for its gradient is measured on one block of each kind; with all blocks it is
compared with the memory that there is. Computing again takes about a third more time and gives the
same bits (Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174).
"""

import os

import torch
from torch import Tensor

from medsa_model.device import autocast
from medsa_model.sam import MedSam

SHARE = 0.8  # of a device's memory; the rest is for the decoder, the batch and what is short-lived
LARGE = 1024  # float32 numbers for each number of a token: more than any block keeps of it


def must_recompute(
    model: MedSam, images: int, slices: int, precision: str, memory: float | None
) -> bool:
    """Whether training on `images` of `slices` slices would keep more than `SHARE` of `memory`.

    In bytes; `None` is all memory of the device. Weights, gradients and optimiser states count too.
    """
    encoder, device = model.sam.image_encoder, model.sam.device
    blocks = list(encoder.blocks)[model.frozen_blocks :]
    left = SHARE * (total_memory(device) if memory is None else memory) - resting_bytes(model)
    side = model.image_size // encoder.patch_embed.proj.stride[0]
    tokens = torch.zeros(images * slices, side, side, encoder.pos_embed.shape[-1], device=device)
    if len(blocks) * LARGE * tokens.nbytes < left:
        return False
    kinds: dict[object, int] = {}
    needed = 0
    for block in blocks:
        kind = (type(block), _window(block))
        if kind not in kinds:
            kinds[kind] = kept_bytes(block, tokens, slices, precision)
        needed += kinds[kind]
    return needed > left


def kept_bytes(block: torch.nn.Module, tokens: Tensor, slices: int, precision: str) -> int:
    """Bytes that `block` keeps for its gradient, weights apart.

    `tokens (B * slices, H, W, C)` are what it gets; only their shape matters.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        autocast(tokens.device, precision),
    ):
        seen = getattr(block, "sees_volumes", False)
        given = (tokens.requires_grad_(), slices) if seen else (tokens.requires_grad_(),)
        out = block(*given)
    del out
    return sum(size for place, size in kept.items() if place not in own)


def resting_bytes(model: torch.nn.Module) -> int:
    """Bytes of all weights, and of gradients and two moments of the trained ones."""
    return sum(p.nbytes * (4 if p.requires_grad else 1) for p in model.parameters())


def total_memory(device: torch.device) -> int:
    """Bytes of memory of `device`, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _window(block: torch.nn.Module) -> object:
    """Side of the windows of a block of SAM's or around one."""
    return getattr(getattr(block, "block", block), "window_size", None)
