"""A trained adapter on disk: find it, read it, and build the model that it belongs to.

It is a folder with `adapter_model.safetensors` and `adapter_config.json`: a round directory of a
run, what `medsa-export adapter` writes, or the two files that a coordinator sent to a hospital.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from medsa_model.adapters import Adapter, Lora
from medsa_model.adapters.peft_layout import from_peft
from medsa_model.backbone import Model, embedded_backbone, file_sha256
from medsa_model.build import Built, build
from medsa_model.checkpoint import CONFIG, STATE, check_files, latest_round
from medsa_model.errors import CheckpointError, ManifestError
from medsa_model.logs import logger
from medsa_model.sam import ARCHITECTURES
from medsa_model.state import AdapterState, Manifest, check_state, load_adapter_state
from medsa_model.task import Task

OWN = "fed_medsa"
"""The key of an `adapter_config.json` in PEFT's layout under which this project's sections are."""


@dataclass(frozen=True)
class Trained:
    """An adapter state with all that is needed to use it, but for the weights of the backbone."""

    folder: Path
    model: Model
    adapter: Adapter
    task: Task
    manifest: Manifest
    state: AdapterState


def find_adapter(path: Path) -> tuple[Path, Path]:
    """The tensor file and the configuration that `path` stands for.

    `path` is a run directory (its `final`; of one that is not complete the last round), a folder
    with the two files, or the tensor file, which has `adapter_config.json` beside it. Raises
    `CheckpointError` when there is none.
    """
    if path.is_file():
        return path, path.with_name(CONFIG)
    if (path / STATE).is_file():
        return path / STATE, path / CONFIG
    if (path / "final" / STATE).is_file():
        return path / "final" / STATE, path / "final" / CONFIG
    if (number := latest_round(path)) is not None:
        place = path / "rounds" / f"{number:04d}"
        logger.warning("%s is not complete: round %d is used", path, number)
        return place / STATE, place / CONFIG
    raise CheckpointError(
        f"{path}: no adapter is there; expected a run directory, a folder with {STATE} and "
        f"{CONFIG}, or the file {STATE} with {CONFIG} beside it"
    )


def read_trained(path: Path) -> Trained:
    """Read what `find_adapter` finds, checked: sums where there are any, and every tensor.

    Raises `CheckpointError` for files that are damaged or not of this project, `ManifestError` for
    tensors that are not those that the configuration describes.
    """
    tensors, config = find_adapter(path)
    try:
        if tensors.name == STATE:
            check_files(tensors.parent)
        content = json.loads(config.read_text(encoding="utf-8"))
        state = load_file(tensors)
    except FileNotFoundError as error:
        missing = next((each.name for each in (tensors, config) if not each.is_file()), "a file")
        raise CheckpointError(
            f"{path}: {missing} is missing; an adapter is two files, {STATE} and {CONFIG}: ask for "
            "both"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as an adapter ({type(error).__name__}: {error}); expected "
            f"{STATE} and {CONFIG} as they were written: copy them again"
        ) from error
    own = content.get(OWN, content) if isinstance(content, dict) else {}
    try:
        model = Model.model_validate(own["model"])
        adapter: Adapter = TypeAdapter(Adapter).validate_python(own["adapter"])
        task = Task.model_validate(own["task"])
        manifest = _manifest(own["manifest"])
    except (LookupError, TypeError, ValidationError) as error:
        raise CheckpointError(
            f"{config.name} beside {tensors.name} does not say what the adapter belongs to "
            f"({type(error).__name__}: {error}); expected the keys model, adapter, task and "
            "manifest, as this version of fed-medsa writes them"
        ) from error
    if content.get("peft_type") == "LORA":
        if not isinstance(adapter, Lora):
            raise CheckpointError(f"{config.name}: PEFT's LORA, but the adapter is {adapter.kind}")
        # an A that is frozen is in PEFT's file and not in a state: the seed gives the same one
        found = from_peft(state, content, adapter)
        state = {name: tensor for name, tensor in found.items() if name in manifest.shapes}
    check_state(state, manifest.shapes)
    state = {name: state[name] for name in manifest.shapes}  # the model's order
    return Trained(tensors.parent, model, adapter, task, manifest, state)


def _manifest(said: Mapping[str, Any]) -> Manifest:
    shapes = {name: tuple(shape) for name, shape in said["shapes"].items()}
    return Manifest(shapes, said["base_sha256"], said["image_size"], said["updates"])


def build_trained(trained: Trained, checkpoint: Path | None, device: torch.device) -> Built:
    """The backbone with the trained adapters on `device`, its frozen layers in float32.

    `checkpoint` is the backbone's file, of the embedded one none. Raises `CheckpointError` when it
    is not the one that the adapters were trained on, with both hashes.
    """
    section, needed = trained.model, trained.manifest.base_sha256
    if section.weights == "pretrained":
        official = ARCHITECTURES[section.backbone].official_file
        if official and checkpoint is None:
            raise CheckpointError(
                f"the adapter belongs to {section.backbone}, which is not embedded: give the path "
                f"of {official} (sha256 {needed}) with --checkpoint"
            )
        file = checkpoint or embedded_backbone()
        found = file_sha256(file)
        if found != needed:
            raise CheckpointError(
                f"the adapter was trained on the {section.backbone} with sha256 {needed}, but "
                f"{file.name} has {found}; with another backbone its answers would be wrong: give "
                "the same file with --checkpoint"
            )
    whole = section.model_copy(update={"checkpoint": checkpoint, "frozen": "float32"})
    built = build(whole, trained.adapter, trained.task.seed, device, trained.task.named)
    if built.manifest.sha256 != trained.manifest.sha256:
        raise ManifestError(
            f"the adapter's manifest is {trained.manifest.sha256}, that of the model which its "
            f"configuration describes {built.manifest.sha256}; was it written by another version "
            "of fed-medsa?"
        )
    load_adapter_state(built.model, trained.state)
    built.model.eval()
    return built
