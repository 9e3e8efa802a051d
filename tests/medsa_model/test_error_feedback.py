"""What rounding leaves out is sent later: sums of updates against a plain loop."""

import math

import pytest
import torch

from medsa_model.error_feedback import encode_with_feedback, zeros
from medsa_model.state import AdapterState
from medsa_model.update_coding import LOSSY, decode, encode

SHAPES = {"w": (4, 6), "b": (5,)}
ROUNDS = 30


def changes() -> list[AdapterState]:
    """Of every round: one value is far larger than the others, which rounding forgets."""
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(ROUNDS):
        change = {
            name: 1e-3 + 1e-4 * torch.randn(s, generator=random) for name, s in SHAPES.items()
        }
        for value in change.values():
            value[..., 0] = 0.05
        found.append(change)
    return found


def sent_over_rounds(kind: str, feedback: bool) -> tuple[AdapterState, AdapterState, AdapterState]:
    """Sums of true and of decoded changes, and the last residue."""
    current, residue = zeros(SHAPES), zeros(SHAPES)
    true, told = zeros(SHAPES), zeros(SHAPES)
    for change in changes():
        trained = {name: current[name] + change[name] for name in SHAPES}
        if feedback:
            data, residue = encode_with_feedback(trained, residue, current, SHAPES, kind)
        else:
            data = encode(trained, current, SHAPES, kind)
        decoded = decode(data, current, SHAPES, kind)
        for name in SHAPES:
            true[name] += change[name]
            told[name] += decoded[name] - current[name]
        current = decoded
    return true, told, residue


@pytest.mark.parametrize("kind", LOSSY)
def test_the_sum_of_what_was_sent_misses_the_last_residue_alone(kind):
    true, told, residue = sent_over_rounds(kind, feedback=True)
    for name in SHAPES:
        torch.testing.assert_close(told[name] + residue[name], true[name], atol=3e-6, rtol=0)


def test_without_feedback_small_changes_are_never_sent():
    true, told, _ = sent_over_rounds("int4", feedback=False)
    _, better, _ = sent_over_rounds("int4", feedback=True)
    for name in SHAPES:
        missed, less = (true[name] - told[name]).norm(), (true[name] - better[name]).norm()
        assert float(less) < 0.2 * float(missed)
        assert float(told[name][..., 1:].abs().max()) == 0.0  # below half a scale in every round


def test_a_round_is_that_of_a_plain_loop():
    """One channel in eight bits, number by number in Python's own."""
    before, trained, residue = [1.0, -2.0, 0.5], [1.3, -2.1, 0.5004], [0.002, 0.0, -0.001]
    wanted = [t + e for t, e in zip(trained, residue, strict=True)]
    change = [w - b for w, b in zip(wanted, before, strict=True)]
    scale = max(map(abs, change)) / 127
    sent = [b + scale * round(c / scale) for b, c in zip(before, change, strict=True)]
    left = [w - s for w, s in zip(wanted, sent, strict=True)]
    shapes, states = {"w": (3,)}, [{"w": torch.tensor(v)} for v in (before, trained, residue)]
    data, found = encode_with_feedback(states[1], states[2], states[0], shapes, "int8")
    torch.testing.assert_close(decode(data, states[0], shapes, "int8")["w"], torch.tensor(sent))
    torch.testing.assert_close(found["w"], torch.tensor(left), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", LOSSY)
def test_what_is_not_finite_is_sent_once_and_leaves_nothing(kind):
    trained = {**zeros(SHAPES), "b": torch.tensor([0.1, math.nan, 0.2, 0.3, 0.4])}
    data, left = encode_with_feedback(trained, zeros(SHAPES), zeros(SHAPES), SHAPES, kind)
    assert not decode(data, zeros(SHAPES), SHAPES, kind, unchecked=True)["b"].isfinite().all()
    assert all(not value.any() for value in left.values())
