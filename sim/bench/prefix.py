"""Seconds of a step with adapters in the last three blocks, where what comes before is kept."""

from medsa_model.adapters import Msa
from medsa_model.prefix_cache import PrefixCache
from medsa_model.sam import MedSam
from medsa_model.tensor_store import TensorStore
from sim.bench.models import Settings, adapted, made_up, precisions, training_step
from sim.bench.plain import plain_copy
from sim.bench.results import Fact, Row, Side
from sim.bench.timing import in_turn, unit_of

MOST = 10**9  # bytes of what is kept


def prefix(
    settings: Settings, backbone: str = "vit_b", image_size: int = 256, batch: int = 2
) -> list[Row]:
    """The same images in every step: the plain way in float32, ours with nothing kept, and ours
    with what the warm-up kept. Rows say which two of these they compare."""
    device = settings.device
    model = adapted(backbone, image_size, Msa(blocks="last-3"), settings.seed, device)
    examples = made_up(batch, 0, image_size, settings.seed)
    sides = {"plain, float32": training_step(plain_copy(model), examples, "float32")}
    found = precisions(device)
    for kind in found:
        sides[f"ours, {kind}"] = training_step(model, examples, kind)
        sides[f"kept, {kind}"] = training_step(model, examples, kind, store_for(model))
    taken = in_turn(sides, settings.repeats, device)
    best = found[0]
    pairs = [("plain, float32", f"ours, {best}"), ("plain, float32", f"kept, {best}")]
    pairs += [(f"ours, {kind}", f"kept, {kind}") for kind in found]
    facts: dict[str, Fact] = {
        "backbone": backbone, "image_size": image_size, "batch": batch,
        "frozen_blocks": model.frozen_blocks,
    }  # fmt: skip
    return [
        Row(f"prefix, {first} / {second}", unit_of(device), Side(first, taken[first]),
            Side(second, taken[second]), facts)
        for first, second in pairs
    ]  # fmt: skip


def store_for(model: MedSam) -> PrefixCache:
    """An empty store of its own for what the frozen first blocks of `model` give."""
    return PrefixCache(TensorStore(MOST), "random weights", (model.image_size,))
