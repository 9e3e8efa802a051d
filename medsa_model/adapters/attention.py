"""Self-attention of a frozen SAM encoder block, without work on padding.

SAM pads its windows with zero tokens *after* the first norm, so the query, key and value of every
padding token are the bias of the projection: a constant, not a computation. Projections run on
real tokens only; the result is SAM's.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from medsa_model.sam import add_decomposed_rel_pos


def block_attention(attention: Any, tokens: Tensor, window: int) -> Tensor:
    """What SAM's `Block` adds to its input before any adapter.

    `tokens (B, H, W, C)` normalised; `window` in tokens, 0 for global attention. Returns
    (B, H, W, C) after un-partition and output projection.
    """
    count, height, width, channels = tokens.shape
    heads = int(attention.num_heads)
    projected: Tensor = attention.qkv(tokens)
    if not window:
        mixed = _attend(attention, projected.view(count, 1, height, width, 3, heads, -1))
        out: Tensor = attention.proj(mixed.view(count, height, width, channels))
        return out
    below, right = -height % window, -width % window
    if below or right:
        real = F.pad(projected.new_ones(1, height, width, 1), (0, 0, 0, right, 0, below))
        projected = F.pad(projected, (0, 0, 0, right, 0, below))
        projected = projected + (1 - real) * attention.qkv.bias.to(projected.dtype)
    rows, columns = (height + below) // window, (width + right) // window
    windows = projected.view(count, rows, window, columns, window, 3 * channels).transpose(2, 3)
    mixed = _attend(attention, windows.reshape(count, rows * columns, window, window, 3, heads, -1))
    mixed = mixed.view(count, rows, columns, window, window, channels).transpose(2, 3)
    whole = mixed.reshape(count, rows * window, columns * window, channels)
    out = attention.proj(whole[:, :height, :width])
    return out


def _attend(attention: Any, projected: Tensor) -> Tensor:
    """Attention inside each window, the operations of the packaged module in its order.

    `projected (B, windows, H, W, 3, heads, C / heads)`; returns (B * windows, H, W, C).
    """
    count, windows, height, width, _, heads, _ = projected.shape
    rows = projected.reshape(count * windows, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = rows.reshape(3, count * windows * heads, height * width, -1).unbind(0)
    scores = (q * attention.scale) @ k.transpose(-2, -1)
    size = (height, width)
    scores = add_decomposed_rel_pos(scores, q, attention.rel_pos_h, attention.rel_pos_w, size, size)
    mixed: Tensor = (scores.softmax(dim=-1) @ v).view(count * windows, heads, height, width, -1)
    return mixed.permute(0, 2, 3, 1, 4).reshape(count * windows, height, width, -1)
