"""Softmax attention whose memory grows with the number of tokens, not with its square.

Rows of queries are worked off in chunks, and the backward pass computes the weights of a chunk
again instead of keeping them (as Rabe and Staats 2021, "Self-attention does not need O(n^2)
memory", arXiv:2112.05682). Nothing is approximated: results differ from the plain formula by
rounding alone.

On a CUDA device PyTorch's own fused attention does the same.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medsa_model.device import in_autocast_precision

CHUNKED_FROM = 1024
"""Keys from which weights are not kept: 32 x 32 tokens, a frame of 512 pixels with vit_b."""
ROWS = 512
"""Queries of a chunk: with 4,096 keys their weights fill 4 MiB in bfloat16."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T) value, without a factor.

    `query (N, T, c)`, `key (N, U, c)`, `value (N, U, v)`; returns (N, T, v).
    """
    if query.is_cuda:
        return _fused(query, key, value)
    if key.shape[1] < CHUNKED_FROM:
        return (query @ key.transpose(1, 2)).softmax(-1) @ value
    out: Tensor = _Chunked.apply(*(in_autocast_precision(each) for each in (query, key, value)))
    return out


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by PyTorch's fused kernels, which want equal widths that are multiples of 8."""
    width = -(-max(query.shape[-1], value.shape[-1]) // 8) * 8
    padded = [F.pad(each, (0, width - each.shape[-1])) for each in (query, key, value)]
    q, k, v = (in_autocast_precision(each)[:, None] for each in padded)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return mixed[:, 0, :, : value.shape[-1]]


class _Chunked(torch.autograd.Function):
    """Attention of one sequence after the other, a chunk of queries at a time."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        out = value.new_empty(*query.shape[:2], value.shape[2])
        for number in range(len(query)):
            keys, values = key[number].t(), value[number]
            for rows in _chunks(query.shape[1]):
                weights = (query[number, rows] @ keys).softmax(-1)
                torch.mm(weights, values, out=out[number, rows])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        (gradient,) = gradients
        exact = torch.promote_types(value.dtype, torch.float32)
        of_query, of_key, of_value = (torch.empty_like(each) for each in (query, key, value))
        for number in range(len(query)):
            keys, values = key[number], value[number]
            # sums over chunks keep the digits of a single product
            sum_key = torch.zeros_like(keys, dtype=exact)
            sum_value = torch.zeros_like(values, dtype=exact)
            for rows in _chunks(query.shape[1]):
                queries, given = query[number, rows], gradient[number, rows]
                weights = (queries @ keys.t()).softmax(-1)
                sum_value += weights.t() @ given
                of_scores = torch._softmax_backward_data(
                    given @ values.t(), weights, -1, weights.dtype
                )
                torch.mm(of_scores, keys, out=of_query[number, rows])
                sum_key += of_scores.t() @ queries
            of_key[number], of_value[number] = sum_key, sum_value
        return of_query, of_key, of_value


def _chunks(length: int) -> list[slice]:
    return [slice(first, first + ROWS) for first in range(0, length, ROWS)]
