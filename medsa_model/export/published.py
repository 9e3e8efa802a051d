"""Weights of the published Medical SAM Adapter: read them, and find our tensor for each of theirs.

Names and shapes are all that is used of that project. Its encoder blocks have

    image_encoder.blocks.N.Space_Adapter.D_fc1   width -> hidden   weight and bias
    image_encoder.blocks.N.Space_Adapter.D_fc2   hidden -> width   likewise MLP_Adapter,
                                                                   Depth_Adapter

with GELU between the layers; the adapter beside the MLP is added half. The whole mask decoder is
trained, under the names of `segment_anything`, and has no adapters. With `activation: gelu`,
`scale: 0.5` and `train_decoder` a block here is the same function for images. For volumes it is
not: what is found across slices is mixed in another way there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from medsa_model.adapters import Msa
from medsa_model.backbone import (
    Model,
    embedded_backbone,
    fit_position_embeddings,
    not_plain,
    read_tensors,
)
from medsa_model.errors import CheckpointError
from medsa_model.sam import ARCHITECTURES, build_sam
from medsa_model.shown import clean
from medsa_model.state import adapter_state, check_state, manifest_of
from medsa_model.task import Task
from medsa_model.trained import Trained

INSIDE = ("state_dict", "model", "net")
"""Keys under which a training program keeps the state dict, beside other things."""
ADAPTER = re.compile(
    r"image_encoder\.blocks\.(0|[1-9][0-9]{0,3})\.(Space|MLP|Depth)_Adapter\.D_fc([12])\.(weight|bias)"
)
OURS = {"Space": "space_adapter", "MLP": "mlp_adapter", "Depth": "depth_adapter"}
LAYERS = {"1": "down", "2": "up"}
DECODER = "mask_decoder."
UNUSED = re.compile(r"mask_decoder\.(output_hypernetworks_mlps\.[1-9]|iou_prediction_head)\.")
"""Of the decoder what one mask for each prompt never uses: our models do not train it."""


@dataclass(frozen=True)
class Published:
    """What became of a file: name there -> name here, name there -> why it is not used, names here
    that it lacks, and how many frozen tensors are those of the backbone."""

    mapped: dict[str, str]
    not_mapped: dict[str, str] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    same: int = 0


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch or safetensors file by name, as they are, without `module.`.

    Raises `CheckpointError` for a file that cannot be read, and for one with more than tensors that
    only a program could unpack.
    """
    try:
        content: object = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"--weights {path}: no such file") from error
    except Exception as error:  # where bytes are flipped the readers raise anything
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path.name} holds {found[1]}, which is no tensor; such a file could run any "
                "program while it is read, and is refused. Expected a state dict: those who trust "
                "the file can write one with torch.save(model.state_dict(), NEW_FILE)"
            ) from error
        raise CheckpointError(
            f"{path.name} cannot be read as weights ({type(error).__name__}): it is cut, damaged, "
            "or no file of PyTorch or safetensors; get it again"
        ) from error
    state = content
    if isinstance(content, Mapping):
        state = next((content[k] for k in INSIDE if isinstance(content.get(k), Mapping)), content)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{path.name}: expected names and tensors, or these under "
            f"{', '.join(INSIDE)}; found {type(state).__name__}"
        )
    if others := [clean(str(k)) for k, each in state.items() if not isinstance(each, Tensor)]:
        raise CheckpointError(
            f"{path.name} has other things than tensors ({', '.join(others[:5])}); expected names "
            f"and tensors, or these under {', '.join(INSIDE)}"
        )
    if problem := not_plain(state):
        raise CheckpointError(f"{path.name}: {problem}")
    return {name.removeprefix("module."): tensor.detach() for name, tensor in state.items()}


def import_published(
    tensors: Mapping[str, Tensor], model: Model, task: Task
) -> tuple[Trained, Published]:
    """The adapter that `tensors` describe, and what became of each of them.

    `model` names the backbone, with its file, and the frame. What the tensors lack is as before
    training: adapters that add nothing, a decoder as in the backbone. Raises `CheckpointError` when
    they have no adapters, or adapters of another backbone.
    """
    base = read_tensors(model.checkpoint or embedded_backbone())
    adapter = _adapter(tensors, base, model, task.volumes)
    built = model.build(task.seed)
    adapter.inject(built.model, task.seed)
    manifest = manifest_of(built.model, built.sha256, model.frame)
    state = adapter_state(built.model)
    mapped, why = {}, {}
    for name, tensor in tensors.items():
        ours = _our_name(name)
        if ours in state and state[ours].shape == tensor.shape:
            state[ours] = tensor.to(torch.float32).contiguous()
            mapped[name] = ours
        elif ours in state:
            why[name] = f"is {tuple(tensor.shape)}, expected {tuple(state[ours].shape)}"
    frozen, same = _frozen(tensors.keys() - mapped.keys() - why.keys(), tensors, base, model)
    lacking = tuple(name for name in state if name not in set(mapped.values()))
    check_state(state, manifest.shapes)
    section = model.model_copy(update={"checkpoint": None})
    trained = Trained(Path(), section, adapter, task, manifest, state)
    return trained, Published(mapped, {**why, **frozen}, lacking, same)


def _our_name(name: str) -> str:
    """The name that a tensor of the published model would have here."""
    if found := ADAPTER.fullmatch(name):
        block, kind, layer, part = found.groups()
        return f"sam.image_encoder.blocks.{block}.{OURS[kind]}.{LAYERS[layer]}.{part}"
    return f"sam.{name}"


def _adapter(
    tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], model: Model, volumes: bool
) -> Msa:
    """The adapter section that names and shapes describe."""
    architecture = ARCHITECTURES[model.backbone]
    down = {n: t for n, t in tensors.items() if (f := ADAPTER.fullmatch(n)) and f[3] == "1"}
    down = {name: tensor for name, tensor in down.items() if tensor.dim() == 2}
    if not down:
        raise CheckpointError(
            "the weights have no adapters of Medical SAM Adapter; expected names such as "
            "image_encoder.blocks.0.MLP_Adapter.D_fc1.weight, found "
            f"{', '.join(map(clean, list(tensors)[:3]))}"
        )
    sizes = sorted({tuple(tensor.shape) for tensor in down.values()})
    hidden, width = sizes[0]
    if len(sizes) > 1 or width != architecture.width or not 0 < hidden <= width:
        raise CheckpointError(
            f"D_fc1 of the adapters is {' and '.join(map(str, sizes))} (hidden channels, width); "
            f"expected one size with the width of {model.backbone}, {architecture.width}: is "
            "--backbone the one that they were trained with?"
        )
    numbers = sorted({int(found[1]) for name in down if (found := ADAPTER.fullmatch(name))})
    if numbers[-1] >= architecture.depth:
        raise CheckpointError(
            f"the weights have adapters in block {numbers[-1]}, but {model.backbone} has "
            f"{architecture.depth} blocks; is --backbone the one that they were trained with?"
        )
    deep = volumes and any("Depth_Adapter" in name for name in down)
    decoder = {n for n in tensors.keys() & base if n.startswith(DECODER) and not UNUSED.match(n)}
    changed = any(not torch.equal(tensors[name].float(), base[name]) for name in decoder)
    return Msa(
        blocks=_blocks(numbers, architecture.depth),
        ratio=hidden / width, scale=0.5, decoder_width=0, depth=deep, activation="gelu",
        train_decoder=changed,  # one that is the backbone's need not be trained and sent
    )  # fmt: skip


def _blocks(numbers: list[int], count: int) -> str | tuple[int, ...]:
    """The key `blocks` for these of `count` blocks."""
    if numbers == list(range(count)):
        return "all"
    last = numbers == list(range(count - len(numbers), count))
    return f"last-{len(numbers)}" if last else tuple(numbers)


def _frozen(
    names: set[str], tensors: Mapping[str, Tensor], base: dict[str, Tensor], model: Model
) -> tuple[dict[str, str], int]:
    """Why tensors that are trained by no adapter are not used, but for those that are equal to the
    backbone's, of which the number is returned."""
    architecture = ARCHITECTURES[model.backbone]
    fitted = dict(base)
    with torch.device("meta"):
        expected = build_sam(architecture, model.frame).state_dict()
    fit_position_embeddings(fitted, expected, architecture.global_blocks)
    why, same = {}, 0
    for name in sorted(names):
        tensor, theirs = tensors[name].float(), (base.get(name), fitted.get(name))
        if any(each is not None and torch.equal(tensor, each) for each in theirs):
            same += 1
        elif ADAPTER.fullmatch(name):
            why[name] = "acts across slices; give --window to import an adapter for volumes"
        elif UNUSED.match(name):
            why[name] = "not used: one mask is computed for each prompt"
        elif (of_base := fitted.get(name)) is None:
            why[name] = "has no counterpart here"
        elif of_base.shape != tensor.shape:
            shape = tuple(of_base.shape)
            why[name] = f"is {tuple(tensor.shape)}, expected {shape}: another --image-size?"
        else:
            largest = float((tensor - of_base).abs().max())
            why[name] = f"differs from the backbone (by up to {largest:.2g}): answers will differ"
    return why, same
