"""`medsa-audit --membership`: attack small models of a run's kind, with and without privacy.

It takes between four and five minutes of one core, longer where others compute on it too.
"""

import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from medsa_model.backbone import Model
from medsa_model.build import build
from medsa_model.config import RunConfig
from medsa_model.privacy.accounting import NoisySteps, epsilon
from medsa_model.privacy.membership import halves, measure, memorable_cases, shadow_losses
from medsa_model.train import Train

MODELS, IMAGES, SIZE, STEPS = 8, 32, 48, 250
POWER = 0.9
"""Area under the curve that the attack has to reach without privacy; else it shows nothing."""


def attack(
    config: RunConfig, models: int = MODELS, images: int = IMAGES, steps: int = STEPS
) -> dict[str, Any]:
    """Membership inference as JSON, on generated images; see `medsa_model/privacy/membership.py`.

    The model is vit_tiny with the run's loss and the run's adapters, in all blocks whatever
    `adapter.blocks` says (a list is of the blocks of another backbone), and without `depth`.
    Without privacy it is overfitted by settings of its own; with it, the run's `train` and
    `privacy` train it, where `privacy.epsilon` is spent on `steps` steps.
    """
    privacy = config.privacy
    assert privacy is not None
    fields = type(config.adapter).model_fields
    replaced = {"blocks": "all", "depth": False}  # vit_tiny has fewer, and images have no depth
    replaced = {name: value for name, value in replaced.items() if name in fields}
    adapter = config.adapter.model_copy(update=replaced)
    built = build(Model(image_size=SIZE), adapter, config.seed, torch.device("cpu"))
    cases, inside = memorable_cases(images, SIZE, config.seed), halves(models, images, config.seed)
    loss, noise = config.loss.build(), privacy.noise(steps)
    plain = Train(steps=steps, batch_size=8, augment=False)
    private = config.train.model_copy(update={"augment": False})
    started = time.monotonic()
    without = shadow_losses(built.model, built.initial, cases, inside, loss, plain, steps)
    within = shadow_losses(
        built.model, built.initial, cases, inside, loss, private, steps, privacy, noise
    )
    spent = [NoisySteps(noise, privacy.sampling_rate, steps)]
    return {
        "models": models, "images": images, "steps": steps, "image_size": SIZE,
        "noise_multiplier": noise, "epsilon": epsilon(spent, privacy.delta, "prv"),
        "delta": privacy.delta, "seconds": time.monotonic() - started,
        "without_privacy": vars(measure(without, inside)),
        "with_privacy": vars(measure(within, inside)),
    }  # fmt: skip


def show_attack(result: dict[str, Any], console: Console) -> None:
    """Print how well the attack does."""
    table = Table(title="membership inference", title_justify="left")
    headings = ("training", "area, loss", "area, LiRA", "true positives at 5 %", "loss gap")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "training" else "right")
    for name in ("without_privacy", "with_privacy"):
        found = result[name]
        values = (found[key] for key in ("loss_auc", "auc", "true_positives", "gap"))
        table.add_row(name.replace("_", " "), *(f"{value:.3f}" for value in values))
    console.print(table)
    told = (
        f"{result['models']} models, {result['images']} generated images with random masks, "
        f"{result['steps']} steps; with privacy epsilon is {result['epsilon']:.2f} at delta "
        f"{result['delta']:g}. An area of 0.5 is guessing."
    )
    if result["without_privacy"]["auc"] < POWER:
        told += " The attack fails even without privacy, so it shows nothing."
    console.print(told, highlight=False, soft_wrap=True)
