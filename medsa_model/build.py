"""From a run configuration to the adapted model on a device. One per process is kept."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from medsa_model.adapters import Adapter
from medsa_model.adapters.freeze import round_frozen
from medsa_model.backbone import Model
from medsa_model.sam import MedSam
from medsa_model.state import AdapterState, Manifest, adapter_state, manifest_of


@dataclass(frozen=True)
class Built:
    """The adapted model on its device, its manifest, and the adapters' first state."""

    model: MedSam
    manifest: Manifest
    initial: AdapterState


@lru_cache(maxsize=2)
def build(
    model: Model, adapter: Adapter, seed: int, device: torch.device, classes: int = 0
) -> Built:
    """Read the backbone and add adapters, and embeddings of `classes` names of structures; equal
    arguments give the same object.

    Virtual sites of one process share it: the frozen weights are in memory once, and every
    message begins with loading the adapters.
    """
    base = model.build(seed)
    adapter.inject(base.model, seed)
    if classes:
        base.model.learn_classes(classes, seed)
    if model.frozen == "bfloat16":
        round_frozen(base.model, torch.bfloat16)
    base.model.to(device)
    manifest = manifest_of(base.model, base.sha256, model.frame)
    return Built(base.model, manifest, adapter_state(base.model))
