"""Attention in chunks and by the fused kernel against the plain formula, with gradients."""

import pytest
import torch

from medsa_model.adapters import exact_attention
from medsa_model.adapters.exact_attention import attend

VARYING = 4  # of 7 features of a key


def inputs(queries: int, keys: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    shapes = [(3, queries, 7), (3, keys, 7), (3, keys, 5)]
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """One query at a time, by exp and division."""
    rows = []
    for q in query.unbind(1):
        weights = torch.exp((q[:, None] * key).sum(-1))
        rows.append((weights[..., None] * value).sum(1) / weights.sum(1, keepdim=True))
    return torch.stack(rows, 1)


@pytest.mark.parametrize(("queries", "keys"), [(10, 10), (7, 12), (1, 1)])
@pytest.mark.parametrize("kind", ["plain", "chunked", "fused"])
def test_the_answer_and_its_gradients(queries, keys, kind, monkeypatch):
    dtype = torch.float32 if kind == "fused" else torch.float64
    if kind == "chunked":
        monkeypatch.setattr(exact_attention, "CHUNKED_FROM", 0)
        monkeypatch.setattr(exact_attention, "ROWS", 4)  # the last chunk is short
    given = inputs(queries, keys, dtype)
    expected = plain(*given)
    found = exact_attention._fused(*given) if kind == "fused" else attend(*given, VARYING)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if kind == "fused" else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found, expected, **tolerance)
    weight = torch.linspace(-1, 2, found.numel(), dtype=dtype).view_as(found)
    gradients = [torch.autograd.grad((out * weight).sum(), given) for out in (found, expected)]
    for one, other, width in zip(*gradients, (7, VARYING, 5), strict=True):
        torch.testing.assert_close(one[..., :width], other[..., :width], **tolerance)


def test_chunks_keep_no_weights(monkeypatch):
    """What waits for the backward pass grows with the tokens, not with their square."""
    monkeypatch.setattr(exact_attention, "CHUNKED_FROM", 0)
    kept = []
    for tokens in (64, 128):
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        given = inputs(tokens, tokens, torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            attend(*given, VARYING)
        kept.append(sum(sizes.values()))
    assert 0 < kept[1] == 2 * kept[0]


def test_autocast_rounds_what_the_chunks_multiply(monkeypatch):
    given = inputs(6, 6, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = attend(*given, VARYING)
        monkeypatch.setattr(exact_attention, "CHUNKED_FROM", 0)
        found = attend(*given, VARYING)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
