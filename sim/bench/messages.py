"""Bytes of one site's answer by its coding, beside those of the whole model."""

import time
from collections.abc import Callable
from typing import TypeVar

from medsa_model.adapters import Msa
from medsa_model.backbone import base_parameters
from medsa_model.records import size_in_bytes, to_arrays, to_state
from medsa_model.state import AdapterState, Manifest, adapter_state, manifest_of
from medsa_model.update_coding import KINDS
from server.strategy import distance
from sim.bench.models import Settings, adapted, made_up, precision_of, training_step
from sim.bench.results import Fact, Row, Side

Result = TypeVar("Result")


def message_bytes(
    settings: Settings, backbone: str = "vit_b", image_size: int = 256, steps: int = 30
) -> list[Row]:
    """The arrays of an answer after `steps` of training, each on other images, for each coding.

    A first step of AdamW changes every number by the learning rate, up or down, which takes hardly
    a bit: it takes as many steps as in a round for the changes to differ as they do there.
    """
    device = settings.device
    model = adapted(backbone, image_size, Msa(), settings.seed, device)
    before, manifest = adapter_state(model), manifest_of(model, "random weights", image_size)
    batches = [made_up(2, 0, image_size, settings.seed + number) for number in range(steps)]
    step = training_step(model, batches[0], precision_of(device))
    for batch in batches:
        step(batch)
    whole, state = 4 * base_parameters(backbone, image_size), adapter_state(model)
    return [
        coded(state, before, manifest, kind, whole, settings.repeats, steps=steps) for kind in KINDS
    ]


def coded(
    state: AdapterState, before: AdapterState, manifest: Manifest, kind: str, whole: int,
    repeats: int, **more: Fact,
) -> Row:  # fmt: skip
    """The update from `before` to `state` in one coding, and back again; `whole` is the model's
    bytes, `more` are further facts. The error is that of the change, over all tensors: norm of the
    difference by norm."""
    shapes = manifest.shapes
    arrays, encoding = fastest(lambda: to_arrays(state, shapes, before, kind), repeats)
    read, decoding = fastest(lambda: to_state(arrays, shapes, before, kind), repeats)
    change = distance(state, before)
    facts: dict[str, Fact] = {
        "encode_seconds": encoding, "decode_seconds": decoding,
        "relative_error": distance(read, state) / change if change else 0.0,
        "float32_bytes": manifest.size_in_bytes, **more,
    }  # fmt: skip
    ours = Side(f"answer, {kind}", [size_in_bytes(arrays)])
    model = Side("computed: whole model, float32", [whole], computed=True)
    return Row(f"message_bytes, {kind}", "bytes", model, ours, facts)


def fastest(work: Callable[[], Result], repeats: int) -> tuple[Result, float]:
    """What `work` returns, and the least seconds that it took the processor."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
    return result, min(seconds)
