"""What travels: the trained tensors by name, and the manifest of what they must look like."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from medsa_model.adapters.freeze import trained_parameters
from medsa_model.errors import ManifestError

AdapterState = dict[str, Tensor]
"""Trained tensors by name: float32, on the processor, in the model's order."""


@dataclass(frozen=True)
class Manifest:
    """Names and shapes of an adapter state, the base that it belongs to, and how updates cross.

    `updates` is one of `update_coding.KINDS`. On disk, where states are float32, it is "lossless".
    """

    shapes: dict[str, tuple[int, ...]]
    base_sha256: str
    image_size: int
    updates: str = "lossless"

    def sent_as(self, kind: str) -> "Manifest":
        """The manifest of messages whose updates are of `kind`."""
        return self if kind == self.updates else replace(self, updates=kind)

    @cached_property
    def sha256(self) -> str:
        """Identity of the manifest: two sites with another one cannot be averaged."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    @cached_property
    def size_in_bytes(self) -> int:
        """Bytes of the tensors as float32, without any framing."""
        return 4 * sum(torch.Size(shape).numel() for shape in self.shapes.values())


def manifest_of(model: nn.Module, base_sha256: str, image_size: int) -> Manifest:
    """The manifest of everything in `model` that is trained."""
    shapes = {name: tuple(p.shape) for name, p in trained_parameters(model).items()}
    return Manifest(shapes, base_sha256, image_size)


def adapter_state(model: nn.Module) -> AdapterState:
    """A copy of the trained tensors."""
    parameters = trained_parameters(model).items()
    return {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in parameters}


def load_adapter_state(model: nn.Module, state: AdapterState) -> None:
    """Put `state` into `model`; raises `ManifestError` unless it fits exactly."""
    parameters = trained_parameters(model)
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    check_state(state, shapes)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def check_state(state: AdapterState, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a state with other names, shapes or types, or with values that are not finite."""
    problems = [f"missing {name}" for name in shapes if name not in state]
    for name, tensor in state.items():
        if name not in shapes:
            problems.append(f"unknown {name}")
        elif tuple(tensor.shape) != shapes[name]:
            problems.append(f"{name} is {tuple(tensor.shape)}, expected {shapes[name]}")
        elif tensor.dtype != torch.float32:
            problems.append(f"{name} is {tensor.dtype}, expected torch.float32")
        elif not bool(tensor.isfinite().all()):
            problems.append(f"{name} has values that are not finite")
    if problems:
        listed = "\n  ".join(problems[:10])
        raise ManifestError(
            f"the adapter state does not fit this model ({len(problems)} problems):\n  {listed}\n"
            "every site needs the same backbone and the same adapter section"
        )
