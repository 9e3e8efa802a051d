"""A checkout of the public Medical-SAM-Adapter code beside ours, on a step of training.

Its code is foreign: it runs in a process of its own, because the user asks for it with `--against`.
Nothing of it is known here but its documented interface: `models.sam.sam_model_registry`, whose
entries take a namespace of settings, and the three parts of the net that they return.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medsa_model.adapters import Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.backbone import load_base
from medsa_model.errors import ConfigError, MedsaError
from medsa_model.losses import Loss
from medsa_model.train import Train, make_optimizer
from sim.bench.child import in_child
from sim.bench.models import Settings, adapted, made_up, precisions, training_step
from sim.bench.results import Fact, Row, Side
from sim.bench.timing import in_turn, unit_of

LOOKED_FOR = ("models/sam/__init__.py", "models/sam.py")


def against(
    settings: Settings, backbone: str = "vit_b", image_size: int = 256, batch: int = 2
) -> list[Row]:
    """A row for each precision of ours; raises `ConfigError` when there is no such checkout."""
    place = check_checkout(settings.against)
    found = in_child(
        timed_beside, settings.threads, place=str(place), backbone=backbone, image_size=image_size,
        batch=batch, device=str(settings.device), repeats=settings.repeats, seed=settings.seed,
    )  # fmt: skip
    facts: dict[str, Fact] = {
        "backbone": backbone, "image_size": image_size, "batch": batch, **found["facts"]
    }  # fmt: skip
    theirs, unit = Side("checkout, float32", found["samples"]["checkout"]), found["unit"]
    return [
        Row(f"against, {precision}", unit, theirs,
            Side(f"ours, {precision}", found["samples"][precision]), facts)
        for precision in found["samples"] if precision != "checkout"
    ]  # fmt: skip


def check_checkout(place: Path | None) -> Path:
    """The checkout's folder; raises `ConfigError` with what was looked for."""
    if place is None:
        raise ConfigError("against: give the checkout's folder, --against PATH")
    if not any((place / name).is_file() for name in LOOKED_FOR):
        raise ConfigError(
            f"--against {place}: found no {' and no '.join(LOOKED_FOR)} there, expected the folder "
            "of a checkout of Medical-SAM-Adapter, whose models.sam has sam_model_registry"
        )
    return place.resolve()


def timed_beside(
    place: str, backbone: str, image_size: int, batch: int, device: str, repeats: int, seed: int
) -> Mapping[str, Any]:
    """In a process of its own: seconds of both, taken in turn, and what of the weights is equal.

    Trained are the mask decoder and what the checkout's image encoder has beside SAM's tensors, and
    of ours the mask decoder and the adapters of the encoder. Raises `MedsaError`.
    """
    chosen = torch.device(device)
    base = load_base(backbone, image_size, None, "random", seed).model.sam
    ours = adapted(backbone, image_size, Msa(train_decoder=True, decoder_width=0), seed, chosen)
    images = made_up(batch, 0, image_size, seed)
    try:
        net = open_checkout(place, backbone, image_size, batch)
        facts = copy_weights(base.state_dict(), net)
        train_as_ours(net, base.state_dict())
        net.to(chosen)
        pixels = (images.image.to(chosen) - ours.sam.pixel_mean) / ours.sam.pixel_std
        step = checkout_step(net, pixels, images.mask.to(chosen), images.prompt.to(chosen))
        step()
    except (Exception, SystemExit) as error:  # whatever foreign code does
        raise MedsaError(
            f"--against {place}: a training step of its code failed ({type(error).__name__}: "
            f"{error}); its packages must be installed in this environment, and its net must be "
            f"built by sam_model_registry[{backbone!r}](args, checkpoint=None)"
        ) from error
    facts["checkout_trained"] = sum(p.numel() for p in trained_parameters(net).values())
    facts["ours_trained"] = sum(p.numel() for p in trained_parameters(ours).values())
    sides = {"checkout": step}
    sides |= {kind: training_step(ours, images, kind) for kind in precisions(chosen)}
    samples = in_turn(sides, repeats, chosen)
    return {"samples": samples, "facts": facts, "unit": unit_of(chosen)}


class Arguments(argparse.Namespace):
    """The checkout's settings; one that is not known here is `None`."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def open_checkout(place: str, backbone: str, image_size: int, batch: int) -> Any:
    """The net of the checkout, for images."""
    sys.path.insert(0, place)
    sys.argv = ["medsa-bench"]  # of what it may read itself
    registry = importlib.import_module("models.sam").sam_model_registry
    settings = Arguments(
        image_size=image_size, out_size=image_size, mod="sam_adpt", thd=False, chunk=None,
        mid_dim=None, multimask_output=1, b=batch,
    )  # fmt: skip
    return registry[backbone](settings, checkpoint=None)


def copy_weights(sam: Mapping[str, torch.Tensor], net: nn.Module) -> dict[str, Fact]:
    """Copy every tensor of `sam` that `net` has by the same name and shape; how many they are."""
    theirs = net.state_dict()
    equal = [name for name in theirs if name in sam and theirs[name].shape == sam[name].shape]
    for name in equal:
        theirs[name].copy_(sam[name])
    return {
        "weights_matched": len(equal), "weights_of_sam_missing": len(sam) - len(equal),
        "weights_of_its_own": len(theirs) - len(equal),
    }  # fmt: skip


def train_as_ours(net: Any, sam: Mapping[str, torch.Tensor]) -> None:
    """Freeze SAM's image and prompt encoder in `net`, and train the rest."""
    net.requires_grad_(False)
    net.mask_decoder.requires_grad_(True)
    for name, parameter in net.image_encoder.named_parameters():
        parameter.requires_grad_(f"image_encoder.{name}" not in sam)


def checkout_step(net: Any, pixels: torch.Tensor, mask: torch.Tensor, prompt: Any) -> Any:
    """A step in float32 with the loss, the clipping and the optimiser of ours."""
    loss, train = Loss().build(), Train(steps=1)
    parameters = list(trained_parameters(net).values())
    optimizer = make_optimizer(train, parameters, 0.0)

    def step() -> None:
        embedding = net.image_encoder(pixels)
        with torch.no_grad():
            points = (prompt.points, prompt.labels)
            sparse, dense = net.prompt_encoder(points=points, boxes=None, masks=None)
        logits, _ = net.mask_decoder(
            image_embeddings=embedding, image_pe=net.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        target = F.interpolate(
            mask[:, None].float(), logits.shape[-2:], mode="bilinear", antialias=True
        )
        loss(logits[:, :1], target).backward()
        nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
