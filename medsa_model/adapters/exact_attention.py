"""Softmax attention whose memory grows with the number of tokens, not with its square.

Rows of queries are worked off in chunks, and the backward pass computes the weights of a chunk
again instead of keeping them (as Rabe and Staats 2021, "Self-attention does not need O(n^2)
memory", arXiv:2112.05682). Nothing is approximated: results differ from the plain formula by
rounding alone.

On a CUDA device PyTorch's own fused attention does the same.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medsa_model.device import in_autocast_precision

CHUNKED_FROM = 1024
"""Keys from which weights are not kept: 32 x 32 tokens, a frame of 512 pixels with vit_b."""
FEW = 64
"""Keys from which a CUDA device takes a fused kernel. Of shorter sequences, such as across depth,
there are so many that a kernel's grid cannot count them, and a product is as fast."""
ROWS = 256
"""Queries of a chunk: with 4,096 keys their weights fill 2 MiB in bfloat16."""


def attend(query: Tensor, key: Tensor, value: Tensor, varying: int) -> Tensor:
    """softmax(query key^T) value, without a factor.

    `query (N, T, c)`, `key (N, U, c)`, `value (N, U, v)`; returns (N, T, v). The features of `key`
    from number `varying` on are constants: their gradient is not needed, and may be zero.
    """
    if torch.compiler.is_compiling():  # an exported graph has the formula, its runtime the memory
        return (query @ key.transpose(1, 2)).softmax(-1) @ value
    few = FEW if query.is_cuda else CHUNKED_FROM
    if query.is_cuda and key.shape[1] >= few:
        return _fused(query, key, value)
    if key.shape[1] < few:
        return (query @ key.transpose(1, 2)).softmax(-1) @ value
    given = [in_autocast_precision(each) for each in (query, key, value)]
    out: Tensor = _Chunked.apply(*given, varying)
    return out


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by PyTorch's fused kernels, which want equal widths that are multiples of 8."""
    width = -(-max(query.shape[-1], value.shape[-1]) // 8) * 8
    padded = [F.pad(each, (0, width - each.shape[-1])) for each in (query, key, value)]
    q, k, v = (in_autocast_precision(each)[:, None] for each in padded)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return mixed[:, 0, :, : value.shape[-1]]


class _Chunked(torch.autograd.Function):
    """Attention of one sequence after the other, a chunk of queries at a time.

    The weights of all chunks are written into the same memory.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, varying: int) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.varying = varying
        out = value.new_empty(*query.shape[:2], value.shape[2])
        scores = query.new_empty(min(ROWS, query.shape[1]), key.shape[1])
        weights = torch.empty_like(scores)
        for number in range(len(query)):
            keys, values = key[number].t(), value[number]
            for queries, mixed in _in_chunks(query[number], out[number]):
                torch.mm(queries, keys, out=scores[: len(queries)])
                torch.softmax(scores[: len(queries)], -1, out=weights[: len(queries)])
                torch.mm(weights[: len(queries)], values, out=mixed)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        (gradient,) = gradients
        exact = torch.promote_types(value.dtype, torch.float32)
        of_query, of_key, of_value = (torch.zeros_like(each) for each in (query, key, value))
        scores = query.new_empty(min(ROWS, query.shape[1]), key.shape[1])
        weights, of_weights = torch.empty_like(scores), torch.empty_like(scores)
        for number in range(len(query)):
            keys, values = key[number], value[number]
            # transposed, and exact: sums over chunks keep the digits of a single product
            sum_key = torch.zeros(ctx.varying, len(keys), dtype=exact, device=key.device)
            sum_value = torch.zeros(values.shape[1], len(keys), dtype=exact, device=key.device)
            chunks = _in_chunks(query[number], gradient[number], of_query[number])
            for queries, given, wanted in chunks:
                s, w, g = (each[: len(queries)] for each in (scores, weights, of_weights))
                torch.mm(queries, keys.t(), out=s)
                torch.softmax(s, -1, out=w)
                sum_value += given.t() @ w
                torch.mm(given, values.t(), out=g)
                torch._softmax_backward_data(g, w, -1, w.dtype, grad_input=s)
                torch.mm(s, keys, out=wanted)
                sum_key += queries[:, : ctx.varying].t() @ s
            of_key[number, :, : ctx.varying], of_value[number] = sum_key.t(), sum_value.t()
        return of_query, of_key, of_value, None


def _in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """`ROWS` rows of all `tensors` at a time."""
    return zip(*(tensor.split(ROWS) for tensor in tensors), strict=True)
