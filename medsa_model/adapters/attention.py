"""Self-attention of a frozen SAM encoder block: within slices and across depth.

Both directions share one projection to query, key and value and one output projection, SAM's own.
Windows never meet the depth axis: `across_depth` sees slices of whole images.

SAM adds to the score of a query at (i, j) and a key at (k, l) a bias h_ik + w_jl that depends on
the query (Li et al. 2022, "MViTv2", arXiv:2112.01526, equation 4). Queries and keys are made longer
so that one product gives the sum:

    [s * q, h_i1 .. h_iH, w_j1 .. w_jW] . [k, one-hot(k), one-hot(l)] = s * q . k + h_ik + w_jl

SAM fills its last windows with zero tokens *after* the first norm, so the query, key and value of
every padding token are the bias of the projection: a constant. Nothing is computed for padding
queries, and all padding keys of a window are one key, since their scores differ by the bias alone:

    sum over padding (k, l) of exp(s * q . c + h_ik + w_jl) = exp(s * q . c + p_ij),
    exp(p_ij) = sum_{k padding} exp(h_ik) * sum_{all l} exp(w_jl)
              + sum_{k real} exp(h_ik) * sum_{l padding} exp(w_jl)

The result is SAM's: bit for bit in float32 where no window is cut, else up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medsa_model.adapters.exact_attention import attend
from medsa_model.adapters.layout import per_volume
from medsa_model.sam import relative_positions


def project(attention: Any, tokens: Tensor, slices: int) -> Tensor:
    """Query, key and value (B * slices, H, W, 3 * C) of `tokens (B * slices, H, W, C)`."""
    return per_volume(attention.qkv, tokens, slices)


def within_slices(attention: Any, projected: Tensor, window: int) -> Tensor:
    """What SAM's `Block` adds to its input before any adapter.

    `projected (B, H, W, 3 * C)`; `window` in tokens, 0 for global attention. Returns (B, H, W, C)
    after un-partition and output projection.
    """
    height, width = projected.shape[1:3]
    tall, wide = (window, window) if window else (height, width)
    of_rows = relative_positions(tall, attention.rel_pos_h).to(projected.dtype)
    of_columns = relative_positions(wide, attention.rel_pos_w).to(projected.dtype)
    rows, columns = cuts(height, tall), cuts(width, wide)
    bands = []
    for row, band in zip(rows, _split(projected, rows, 1), strict=True):
        parts = zip(columns, _split(band, columns, 2), strict=True)
        mixed = [_mix(attention, p, (of_rows, of_columns), row, column) for column, p in parts]
        bands.append(torch.cat(mixed, 2) if len(mixed) > 1 else mixed[0])
    out: Tensor = attention.proj(torch.cat(bands, 1) if len(bands) > 1 else bands[0])
    return out


@dataclass(frozen=True)
class Cut:
    """`count` neighbouring windows of `size` tokens along one axis."""

    count: int
    size: int


def cuts(length: int, window: int) -> list[Cut]:
    """Windows that cover `length` tokens: the whole ones, and the last one if it is cut."""
    whole, rest = divmod(length, window)
    found = [Cut(whole, window)] if whole else []
    return [*found, Cut(1, rest)] if rest else found


def _split(projected: Tensor, found: list[Cut], axis: int) -> Sequence[Tensor]:
    """The parts of the windows; unlike slices, their gradients are joined without a sum."""
    parts: Sequence[Tensor] = projected.split([cut.count * cut.size for cut in found], axis)
    return parts


def _mix(
    attention: Any, part: Tensor, tables: tuple[Tensor, Tensor], rows: Cut, columns: Cut
) -> Tensor:
    """Attention inside each window of one size, before the output projection.

    `part (B, H, W, 3 * C)` holds the tokens of these windows; returns (B, H, W, C). `tables (h, h,
    c)` and `(w, w, c)` are relative positions of a whole window.
    """
    count, heads = len(part), int(attention.num_heads)
    high, wide = rows.size, columns.size
    split = part.reshape(count, rows.count, high, columns.count, wide, 3, heads, -1)
    query, key, value = split.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
        3, -1, high, wide, split.shape[-1]
    )
    of_rows, of_columns = tables
    biases_h = torch.einsum("nhwc,hkc->nhwk", query, of_rows[:high])
    biases_w = torch.einsum("nhwc,wkc->nhwk", query, of_columns[:wide])
    longer = [attention.scale * query, biases_h[..., :high], biases_w[..., :wide]]
    ones = _one_hot_places(high, wide, key).expand(len(key), -1, -1)
    keys, values = torch.cat([key.flatten(1, 2), ones], -1), value.flatten(1, 2)
    if (high, wide) != (len(of_rows), len(of_columns)):
        longer += _padding_bias(biases_h, biases_w, high, wide)
        keys, values = _with_padding(attention, keys, values, heads)
    queries = torch.cat([each.to(query.dtype) for each in longer], -1).flatten(1, 2)
    mixed = attend(queries, keys, values, split.shape[-1])
    mixed = mixed.view(count, rows.count, columns.count, heads, high, wide, -1)
    return mixed.permute(0, 1, 4, 2, 5, 3, 6).reshape(*part.shape[:3], -1)


def _one_hot_places(high: int, wide: int, like: Tensor) -> Tensor:
    """Row and column of every token of a window, (high * wide, high + wide)."""
    rows = torch.eye(high, dtype=like.dtype, device=like.device)
    columns = torch.eye(wide, dtype=like.dtype, device=like.device)
    return torch.cat([rows.repeat_interleave(wide, 0), columns.repeat(high, 1)], 1)


def _padding_bias(biases_h: Tensor, biases_w: Tensor, high: int, wide: int) -> list[Tensor]:
    """The bias (N, high, wide, 1) of the one key that stands for all padding of a window.

    It is the sum of two numbers, of which the second is what rounding leaves out of the first: in
    bfloat16 a bias of 5 would be off by 0.01, and with it the weight of all padding.
    `biases_h (N, high, wide, h)` and `biases_w (N, high, wide, w)` of a whole window.
    """
    given = biases_h.dtype
    exact = torch.promote_types(given, torch.float32)
    biases_h, biases_w = biases_h.to(exact), biases_w.to(exact)
    found = []
    if high < biases_h.shape[-1]:
        found.append(biases_h[..., high:].logsumexp(-1) + biases_w.logsumexp(-1))
    if wide < biases_w.shape[-1]:
        found.append(biases_h[..., :high].logsumexp(-1) + biases_w[..., wide:].logsumexp(-1))
    bias = torch.stack(found).logsumexp(0)[..., None]
    rounded = bias.to(given)
    return [rounded, bias - rounded]


def _with_padding(
    attention: Any, keys: Tensor, values: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """`keys (N, T, c)` and `values (N, T, v)` with two features that only the padding key has."""
    _, of_key, of_value = attention.qkv.bias.to(values.dtype).view(3, heads, 1, -1)
    repeats = len(keys) // heads
    empty = F.pad(of_key, (0, keys.shape[-1] - of_key.shape[-1]))
    padding = F.pad(empty, (0, 2), value=1.0).repeat(repeats, 1, 1)
    keys = torch.cat([F.pad(keys, (0, 2)), padding], 1)
    return keys, torch.cat([values, of_value.repeat(repeats, 1, 1)], 1)


def across_depth(attention: Any, projected: Tensor, slices: int) -> Tensor:
    """Attention among the `slices` tokens of each location, after the output projection.

    `projected (B * slices, H, W, 3 * C)`, the slices of a volume one after the other; returns
    (B * slices, H, W, C). No position bias: SAM's tables are for rows and columns.
    """
    count, height, width, channels = projected.shape
    volumes, places, heads = count // slices, height * width, int(attention.num_heads)
    tokens = projected.view(volumes, slices, places, 3, heads, -1)
    q, k, v = tokens.permute(3, 0, 2, 4, 1, 5).flatten(1, 3)  # (B * H * W * heads, D, c) each
    mixed = attend(attention.scale * q, k, v, k.shape[-1])
    mixed = mixed.view(volumes, places, heads, slices, -1).permute(0, 3, 1, 2, 4)
    out: Tensor = attention.proj(mixed.reshape(count, height, width, channels // 3))
    return out
