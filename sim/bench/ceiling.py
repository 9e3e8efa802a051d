"""How much of this machine a training step uses, beside its products of matrices alone.

A row has the seconds that the step's floating point operations would take at the machine's best
rate, and those that the step takes: the ratio is the share that is reached, at most 1.
"""

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from medsa_model.adapters import Msa
from medsa_model.adapters.freeze import round_frozen
from medsa_model.sam import ARCHITECTURES
from sim.bench.models import Settings, adapted, made_up, precisions, training_step
from sim.bench.results import Row, Side
from sim.bench.timing import in_turn, seconds_of, unit_of

ROUNDED = "bfloat16, frozen layers too"
LEAST_SECONDS = 0.05  # of one measurement of a product
TRIES = 5  # measurements of a product, of which the best counts


def ceiling(
    settings: Settings, backbone: str = "vit_b", image_size: int = 256, batch: int = 2,
    side: int = 2048,
) -> list[Row]:  # fmt: skip
    """A row for each precision, and one with the frozen layers kept in bfloat16.

    `side` is that of the square matrices that are multiplied.
    """
    device = settings.device
    model = adapted(backbone, image_size, Msa(), settings.seed, device)
    examples = made_up(batch, 0, image_size, settings.seed)
    shapes = [(side, side, side), *shapes_of(backbone, image_size, batch)]
    rows = []
    ways = [(precision, precision) for precision in precisions(device)]
    if "bfloat16" in precisions(device):
        ways.append(("bfloat16", ROUNDED))
    for precision, way in ways:
        if way == ROUNDED:  # the last one, since it changes the model
            round_frozen(model, torch.bfloat16)
        step = training_step(model, examples, precision)
        with FlopCounterMode(display=False) as counter:
            step()
        operations = counter.get_total_flops()
        rates = {shape: rate(shape, precision, device) for shape in shapes}
        best = max(rates, key=lambda shape: rates[shape])
        taken = in_turn({"step": step}, settings.repeats, device)["step"]
        facts = {
            "operations": operations, "best_rate": rates[best], "best_shape": str(best),
            "square_rate": rates[shapes[0]], "step_rate": operations / min(taken),
        }  # fmt: skip
        least = Side("computed: at the best rate", [operations / rates[best]], computed=True)
        ours = Side(f"ours, {way}", taken)
        rows.append(Row(f"ceiling, {way}", unit_of(device), least, ours, facts))
    return rows


def shapes_of(backbone: str, image_size: int, batch: int) -> Sequence[tuple[int, int, int]]:
    """The products of a block's layers (rows, from, to): attention and MLP."""
    made = ARCHITECTURES[backbone]
    rows, width = batch * (image_size // made.patch) ** 2, made.width
    return [(rows, width, 3 * width), (rows, width, width), (rows, width, 4 * width),
            (rows, 4 * width, width)]  # fmt: skip


def rate(shape: tuple[int, int, int], precision: str, device: torch.device) -> float:
    """Most floating point operations a second, of products (rows, from) by (from, to)."""
    rows, into, out = shape
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left = torch.randn(rows, into, device=device).to(kind)
    right = torch.randn(into, out, device=device).to(kind)
    operations, count = 2 * rows * into * out, 1

    def multiply() -> None:
        for _ in range(count):
            left @ right

    while (seconds := seconds_of(multiply, device)) < LEAST_SECONDS:
        count *= 2
    seconds = min(seconds, *(seconds_of(multiply, device) for _ in range(TRIES)))
    return count * operations / seconds
