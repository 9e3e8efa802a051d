"""A trained adapter on disk: find it, read it, and build the model that it belongs to.

It is a folder with `adapter_model.safetensors` and `adapter_config.json`: a round directory of a
run, what `medsa-export adapter` writes, or the two files that a coordinator sent to a hospital.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medsa_model.adapter_config import in_one_line, read_sections
from medsa_model.adapters import Adapter, Lora
from medsa_model.adapters.peft_layout import from_peft
from medsa_model.backbone import Model, embedded_backbone, file_sha256
from medsa_model.build import Built, build
from medsa_model.checkpoint import CONFIG, STATE, check_files, latest_round
from medsa_model.errors import CheckpointError, ManifestError
from medsa_model.logs import logger
from medsa_model.sam import ARCHITECTURES, MedSam, build_sam
from medsa_model.shown import clean
from medsa_model.state import AdapterState, Manifest, check_state, load_adapter_state, manifest_of
from medsa_model.task import Task

OWN = "fed_medsa"
"""The key of an `adapter_config.json` in PEFT's layout under which this project's sections are."""


@dataclass(frozen=True)
class Trained:
    """An adapter state with all that is needed to use it, but for the weights of the backbone.

    `frozen` are tensors of the file that are no part of the state: the model must have the same.
    """

    folder: Path
    model: Model
    adapter: Adapter
    task: Task
    manifest: Manifest
    state: AdapterState
    frozen: AdapterState = field(default_factory=dict)


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
            check_files(tensors.parent, (CONFIG, STATE))
        content = json.loads(config.read_text(encoding="utf-8"))
        state = load_file(tensors)
    except FileNotFoundError as error:
        missing = next((each.name for each in (tensors, config) if not each.is_file()), "a file")
        raise CheckpointError(
            f"{path}: {missing} is missing; an adapter is two files, {STATE} and {CONFIG}: ask for "
            "both"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as an adapter ({in_one_line(error)}); expected {STATE} and "
            f"{CONFIG} as they were written: copy them again"
        ) from error
    if strange := [clean(name) for name in state if not name.isprintable()]:
        raise CheckpointError(
            f"{tensors.name} has names of tensors that cannot be shown ({', '.join(strange[:3])}); "
            "it was not written by fed-medsa"
        )
    own = content.get(OWN, content) if isinstance(content, dict) else {}
    model, adapter, task, manifest = read_sections(own, tensors.parent)
    frozen: AdapterState = {}
    if content.get("peft_type") == "LORA":
        if not isinstance(adapter, Lora):
            raise CheckpointError(f"{config.name}: PEFT's LORA, but the adapter is {adapter.kind}")
        state = from_peft(state, content, adapter)
        if adapter.frozen_a:  # in PEFT's file, and not in a state: the seed gives the same
            others = [n for n in state if n not in manifest.shapes and n.endswith(".a.weight")]
            frozen = {name: state.pop(name) for name in others}
    check_state(state, manifest.shapes)
    state = {name: state[name] for name in manifest.shapes}  # the model's order
    return Trained(tensors.parent, model, adapter, task, manifest, state, frozen)


def build_trained(trained: Trained, checkpoint: Path | None, device: torch.device) -> Built:
    """The backbone with the trained adapters on `device`, its frozen layers in float32; the
    caller's own.

    `checkpoint` is the backbone's file, of the embedded one none. Raises `CheckpointError` when it
    is not the one that the adapters were trained on, with both hashes, and `ManifestError` when the
    configuration describes another model than the tensors are of.
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
            advice = "give the same file with --checkpoint"
            if not official and checkpoint and file_sha256(embedded_backbone()) == needed:
                advice = f"{section.backbone} comes with fed-medsa, so leave --checkpoint out"
            raise CheckpointError(
                f"the adapter was trained on the {section.backbone} with sha256 {needed}, but "
                f"{file.name} has {found}; with another backbone its answers would be wrong: "
                f"{advice}"
            )
    check_described(trained)
    whole = section.model_copy(update={"checkpoint": checkpoint, "frozen": "float32"})
    # not the one that `build` keeps: what is put into it is this caller's
    built = build.__wrapped__(whole, trained.adapter, trained.task.seed, device, trained.task.named)
    if built.manifest.sha256 != trained.manifest.sha256:
        raise ManifestError(_another_model(trained, built.manifest.sha256))
    check_frozen(trained, built.model.state_dict())
    load_adapter_state(built.model, trained.state)
    built.model.eval()
    return built


def check_described(trained: Trained) -> None:
    """Raise `ManifestError` unless the sections describe a model with the manifest's tensors.

    That model gets no memory: what a hostile file describes may be of any size.
    """
    section, said = trained.model, trained.manifest
    architecture = ARCHITECTURES[section.backbone]
    try:
        with torch.device("meta"):
            sam = build_sam(architecture, section.frame)
            model = MedSam(sam, architecture.rasterised_prompts)
            trained.adapter.inject(model, trained.task.seed)
            if named := trained.task.named:
                model.class_embedding = nn.Embedding(named, architecture.decoder_width)
    except ValueError as error:  # blocks that the backbone has not
        raise ManifestError(f"the adapter's configuration asks for {error}") from error
    except RuntimeError as error:  # of a kind of somebody's own
        raise ManifestError(
            f"adapter kind {trained.adapter.kind} reads weights while it is put in "
            f"({type(error).__name__}), but shapes are checked before there are any; let its "
            "inject work on the meta device"
        ) from error
    described = manifest_of(model, said.base_sha256, section.frame)
    if (described.shapes, described.image_size) != (said.shapes, said.image_size):
        raise ManifestError(_another_model(trained, described.sha256))


def _another_model(trained: Trained, described: str) -> str:
    return (
        f"the adapter's manifest is {trained.manifest.sha256}, that of the model which its "
        f"configuration describes {described}; was it written by another version of fed-medsa?"
    )


def check_frozen(trained: Trained, tensors: Mapping[str, Tensor]) -> None:
    """Raise `ManifestError` unless the model's `tensors` have what the file has beside its state,
    bit for bit."""
    others = [
        name
        for name, tensor in trained.frozen.items()
        if name not in tensors or not torch.equal(tensor, tensors[name].cpu())
    ]
    if others:
        raise ManifestError(
            f"{len(others)} frozen tensors are not those that seed {trained.task.seed} makes, the "
            f"first {clean(others[0])}: with others than in training the answers would be wrong. "
            "The file was altered, or PyTorch draws other numbers in this version: ask for the "
            "adapter again, with the version of PyTorch that it was trained with"
        )
