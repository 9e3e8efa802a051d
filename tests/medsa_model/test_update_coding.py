"""States as bytes: lossless ones bit for bit, rounded ones within their bounds, others refused."""

import math
import typing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsa_model import quantised
from medsa_model.errors import ManifestError
from medsa_model.message import MessageSettings
from medsa_model.rejections import Rejected
from medsa_model.update_coding import HEAD, KINDS, decode, encode, largest_size

SHAPES = {"up.w": (6, 7), "up.b": (7,), "scale": (), "none": (0, 3), "conv": (3, 2, 2, 2)}
COUNT = 6 * 7 + 7 + 1 + 24


def state(seed: int, size: float = 1.0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: size * torch.randn(shape, generator=random) for name, shape in SHAPES.items()}


BEFORE = state(0)
AFTER = {name: value + 0.01 * state(1)[name] for name, value in BEFORE.items()}


def bits(of: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: value.reshape(-1).view(torch.int32).tolist() for name, value in of.items()}


def test_the_settings_name_the_kinds():
    assert typing.get_args(MessageSettings.model_fields["update"].annotation) == KINDS


SPECIAL = [0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000,
           0xFFC00001, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F7FFFFF, 0x3F800000]  # fmt: skip


@pytest.mark.parametrize("against", [True, False])
def test_special_numbers_come_back_bit_for_bit(against):
    """Every one of them against every one: -0, subnormals, infinities and NaN with their bits."""
    one, two = np.meshgrid(np.array(SPECIAL, np.uint32), np.array(SPECIAL, np.uint32))
    shapes = {"w": one.shape}
    sent = {"w": torch.from_numpy(one.view(np.float32).copy())}
    before = {"w": torch.from_numpy(two.view(np.float32).copy())} if against else None
    back = decode(encode(sent, before, shapes, "lossless"), before, shapes, "lossless")
    assert bits(back) == bits(sent) and back["w"].dtype == torch.float32


PATTERNS = st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8)


@given(PATTERNS, PATTERNS)
def test_any_bits_come_back(one, two):
    shapes = {"w": (2, 3), "b": (2,)}

    def made(patterns: list[int]) -> dict[str, torch.Tensor]:
        values = torch.from_numpy(np.array(patterns, np.uint32).view(np.float32))
        return {"w": values[:6].reshape(2, 3), "b": values[6:]}

    sent, before = made(one), made(two)
    assert bits(decode(encode(sent, before, shapes, "lossless"), before, shapes, "lossless")) == (
        bits(sent)
    )


def test_the_tensors_are_in_the_order_of_the_shapes_and_their_own():
    turned = dict(reversed(AFTER.items()))
    data = encode(turned, BEFORE, SHAPES, "lossless")
    back = decode(data, BEFORE, SHAPES, "lossless")
    assert list(back) == list(SHAPES) and bits(back) == bits(AFTER)
    back["up.b"] += 1
    assert bits(decode(data, BEFORE, SHAPES, "lossless")) == bits(AFTER)


def channels(change: torch.Tensor) -> list[torch.Tensor]:
    return list(change) if change.dim() > 1 else [change.reshape(-1)]


@pytest.mark.parametrize(("kind", "levels"), [("int8", 127), ("int4", 7)])
def test_whole_numbers_are_those_of_a_plain_loop(kind, levels):
    """And miss no change by more than half the scale of its channel."""
    back = decode(encode(AFTER, BEFORE, SHAPES, kind), BEFORE, SHAPES, kind)
    for name in SHAPES:
        rows = zip(channels(AFTER[name] - BEFORE[name]), channels(BEFORE[name]),
                   channels(back[name]), strict=True)  # fmt: skip
        for change, before, found in rows:
            scale = max((abs(float(c)) for c in change.reshape(-1)), default=0.0) / levels
            whole = [round(float(c) / scale) for c in change.reshape(-1)]
            expected = torch.tensor([scale * n for n in whole]) + before.reshape(-1)
            torch.testing.assert_close(found.reshape(-1), expected, atol=1e-6, rtol=0)
            missed = (found - before - change).abs().max() if change.numel() else 0.0
            assert float(missed) <= 0.5 * scale + 1e-6


def test_float16_is_the_rounded_change():
    back = decode(encode(AFTER, BEFORE, SHAPES, "float16"), BEFORE, SHAPES, "float16")
    for name in SHAPES:
        change = (AFTER[name] - BEFORE[name]).half().float()
        assert torch.equal(back[name], BEFORE[name] + change)


def test_what_float16_cannot_hold_becomes_its_largest_number():
    shapes = {"w": (5,)}
    before = {"w": torch.zeros(5)}
    sent = {"w": torch.tensor([1e5, -9e5, 65504.0, 65519.9, math.inf])}
    back = decode(encode(sent, before, shapes, "float16"), before, shapes, "float16")
    assert back["w"].tolist() == [65504.0, -65504.0, 65504.0, 65504.0, math.inf]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(kind, value):
    bad = {name: tensor.clone() for name, tensor in AFTER.items()}
    bad["up.w"][2, 3] = value
    data = encode(bad, BEFORE, SHAPES, kind)
    if kind in quantised.LEVELS:
        with pytest.raises(Rejected, match="not finite"):
            decode(data, BEFORE, SHAPES, kind)
    back = decode(data, BEFORE, SHAPES, kind, unchecked=True)
    assert not back["up.w"][2, 3].isfinite() and back["up.w"][1].isfinite().all()


@pytest.mark.parametrize("kind", KINDS[2:])
@pytest.mark.parametrize("change", [0.0, 1e-45, 3e-44, 1e-38])
def test_tiny_changes_do_no_harm(kind, change):
    shapes = {"w": (2, 3)}
    before, sent = {"w": torch.zeros(2, 3)}, {"w": torch.full((2, 3), change)}
    back = decode(encode(sent, before, shapes, kind), before, shapes, kind)
    assert bool(((back["w"] - change).abs() <= max(change, 0.0)).all())


@pytest.mark.parametrize("count", [1, 2, 3, 176, 177])
def test_pairs_of_numbers_may_be_odd(count):
    shapes = {"w": (count,)}
    before = {"w": torch.zeros(count)}
    sent = {"w": (torch.arange(count) % 15 - 7.0)}
    back = decode(encode(sent, before, shapes, "int4"), before, shapes, "int4")
    torch.testing.assert_close(back["w"], sent["w"])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_larger_than_it_may_be(kind):
    random = np.random.default_rng(0)
    noise = {name: torch.from_numpy(random.standard_cauchy(shape).astype(np.float32))
             for name, shape in SHAPES.items()}  # fmt: skip
    for reference in (BEFORE, noise):
        assert len(encode(noise, reference, SHAPES, kind)) <= largest_size(SHAPES, kind)
    assert decode(encode({}, {}, {}, kind), {}, {}, kind) == {}


def test_smaller_kinds_are_smaller():
    """Of an encoder's bottlenecks, changes of each channel of a size of its own: four bits take
    less than half a byte a value."""
    random = torch.Generator().manual_seed(0)
    shapes = {"down": (192, 768), "up": (768, 192)}
    before = {name: 0.02 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    after = {
        name: value + 1e-3 * torch.rand(len(value), 1, generator=random)
        * torch.randn(value.shape, generator=random)
        for name, value in before.items()
    }  # fmt: skip
    count = 2 * 192 * 768
    sizes = [len(encode(after, before, shapes, kind)) / count for kind in KINDS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < 3.2 and sizes[1] < 1.9 and sizes[2] < 0.97 and sizes[3] < 0.45


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_others_is_refused(kind):
    data = encode(AFTER, BEFORE, SHAPES, kind)
    for wrong, message in (
        (data[:9], "it has 9 bytes"),
        (b"\x02" + data[1:], "its version is 2, expected 1"),
        (data + b"\0", "1 bytes stand behind"),
        (data[:-1], "cut off"),
        (HEAD.pack(1, KINDS.index(kind), COUNT + 1, 0) + data[HEAD.size :], "75 values, expected"),
    ):
        with pytest.raises(ManifestError, match=message):
            decode(wrong, BEFORE, SHAPES, kind)
    with pytest.raises(ManifestError, match="the change of another state"):
        decode(data, AFTER, SHAPES, kind)
    for other in KINDS:
        if other != kind:
            with pytest.raises(ManifestError, match=f"is of kind {kind}, expected {other}"):
                decode(data, BEFORE, SHAPES, other)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from(KINDS), st.booleans())
def test_any_bytes_are_read_or_refused(data, kind, unchecked):
    """Arbitrary ones, and honest ones with a part replaced: nothing but `ManifestError` is raised,
    and what is read has the shapes of the manifest."""
    honest = encode(AFTER, BEFORE, SHAPES, kind)
    at = data.draw(st.integers(0, len(honest)))
    end = data.draw(st.integers(at, len(honest)))
    some = data.draw(st.binary(max_size=60))
    for given_ in (honest[:at] + some + honest[end:], some, honest[: HEAD.size] + some):
        try:
            back = decode(given_, BEFORE, SHAPES, kind, unchecked)
        except ManifestError:
            continue
        assert {name: tuple(tensor.shape) for name, tensor in back.items()} == SHAPES
        assert all(tensor.dtype == torch.float32 for tensor in back.values())
