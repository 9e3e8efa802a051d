"""Bytes of one site's answer by its coding, beside those of the whole model."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from medsa_model.adapters import Msa
from medsa_model.backbone import base_parameters
from medsa_model.records import size_in_bytes, to_arrays, to_state
from medsa_model.state import AdapterState, Manifest, adapter_state, manifest_of
from medsa_model.update_coding import KINDS
from sim.bench.models import Settings, adapted, made_up, precision_of, training_step
from sim.bench.results import Fact, Row, Side

Result = TypeVar("Result")


def message_bytes(
    settings: Settings, backbone: str = "vit_b", image_size: int = 256, steps: int = 4
) -> list[Row]:
    """The arrays of an answer after `steps` of training, each on other images, for each coding."""
    device = settings.device
    model = adapted(backbone, image_size, Msa(), settings.seed, device)
    before, manifest = adapter_state(model), manifest_of(model, "random weights", image_size)
    for number in range(steps):
        batch = made_up(2, 0, image_size, settings.seed + number)
        training_step(model, batch, precision_of(device))()
    whole = 4 * base_parameters(backbone, image_size)
    rows = (
        coded(adapter_state(model), before, manifest, kind, whole, settings.repeats)
        for kind in KINDS
    )
    return [*rows]


def coded(
    state: AdapterState, before: AdapterState, manifest: Manifest, kind: str, whole: int,
    repeats: int,
) -> Row:  # fmt: skip
    """The update from `before` to `state` in one coding, and back again; `whole` is the model's
    bytes. The error is that of the change, over all tensors: norm of the difference by norm."""
    shapes = manifest.shapes
    arrays, encoding = fastest(lambda: to_arrays(state, shapes, before, kind), repeats)
    read, decoding = fastest(lambda: to_state(arrays, shapes, before, kind), repeats)
    change = norm(state, before)
    facts: dict[str, Fact] = {
        "encode_seconds": encoding, "decode_seconds": decoding,
        "relative_error": norm(read, state) / change if change else 0.0,
        "float32_bytes": manifest.size_in_bytes,
    }  # fmt: skip
    ours = Side(f"answer, {kind}", [size_in_bytes(arrays)])
    return Row(
        f"message_bytes, {kind}", "bytes", Side("whole model, float32", [whole]), ours, facts
    )


def fastest(work: Callable[[], Result], repeats: int) -> tuple[Result, float]:
    """What `work` returns, and the least seconds that it took the processor."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
    return result, min(seconds)


def norm(state: AdapterState, other: AdapterState) -> float:
    """Euclidean norm of the difference over all tensors."""
    squares = ((state[name].double() - other[name].double()).square().sum() for name in state)
    return float(torch.stack([*squares]).sum().sqrt())
