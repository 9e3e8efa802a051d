"""Self-attention of a frozen SAM encoder block: within slices and across depth.

Both directions share one projection to query, key and value and one output projection, SAM's own.

SAM pads its windows with zero tokens *after* the first norm, so the query, key and value of every
padding token are the bias of the projection: a constant, not a computation. Projections run on
real tokens only; the result is SAM's. Windows never meet the depth axis: `across_depth` sees
slices of whole images.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from medsa_model.adapters.layout import per_volume
from medsa_model.sam import add_decomposed_rel_pos


def project(attention: Any, tokens: Tensor, slices: int) -> Tensor:
    """Query, key and value (B * slices, H, W, 3 * C) of `tokens (B * slices, H, W, C)`."""
    return per_volume(attention.qkv, tokens, slices)


def within_slices(attention: Any, projected: Tensor, window: int) -> Tensor:
    """What SAM's `Block` adds to its input before any adapter.

    `projected (B, H, W, 3 * C)`; `window` in tokens, 0 for global attention. Returns (B, H, W, C)
    after un-partition and output projection.
    """
    count, height, width, channels = projected.shape
    heads, channels = int(attention.num_heads), channels // 3
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


def across_depth(attention: Any, projected: Tensor, slices: int) -> Tensor:
    """Attention among the `slices` tokens of each location, after the output projection.

    `projected (B * slices, H, W, 3 * C)`, the slices of a volume one after the other; returns
    (B * slices, H, W, C). No position bias: SAM's tables are for rows and columns.
    """
    count, height, width, channels = projected.shape
    volumes, places, heads = count // slices, height * width, int(attention.num_heads)
    tokens = projected.view(volumes, slices, places, 3, heads, -1)
    q, k, v = tokens.permute(3, 0, 2, 4, 1, 5).flatten(1, 2).unbind(0)  # (B * H * W, heads, D, c)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    mixed = mixed.view(volumes, places, heads, slices, -1).permute(0, 3, 1, 2, 4)
    out: Tensor = attention.proj(mixed.reshape(count, height, width, channels // 3))
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
