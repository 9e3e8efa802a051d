"""Load the frozen base: the embedded `vit_tiny` or an official SAM file of the user's.

Position embeddings are resized once here, to the wished frame size, so that no forward pass does
it again. Nothing is downloaded, and a PyTorch file is read with `weights_only=True`.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from medsa_model.errors import CheckpointError
from medsa_model.sam import ARCHITECTURES, MedSam, build_sam
from medsa_model.section import Section
from medsa_model.shown import clean, short

Backbone = Literal["vit_tiny", "vit_b", "vit_l", "vit_h"]
PLAIN = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
"""Types of the numbers that are read; all become float32."""


class Model(Section):
    """The frozen Segment Anything Model."""

    backbone: Backbone = "vit_tiny"
    """Architecture; `vit_tiny` is embedded, the others need `checkpoint`."""
    image_size: int | None = Field(None, ge=32, le=2048)
    """Side of the model frame in pixels, a multiple of the patch (8 for vit_tiny, else 16);
    empty: what the backbone was pre-trained with."""
    checkpoint: Path | None = None
    """An official SAM file or a safetensors file with the same names; empty: the embedded one."""
    frozen: Literal["float32", "bfloat16"] = "float32"
    """Precision in which frozen layers are kept: `bfloat16` saves half of their memory and the
    rounding in every step, needs `train.precision: bfloat16`, and changes no bit of the result."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` is for speed measurements and for training from scratch."""

    @field_validator("image_size")
    @classmethod
    def _whole_patches(cls, size: int | None, fields: ValidationInfo) -> int | None:
        backbone = fields.data.get("backbone")  # missing when it is not valid itself
        if size and backbone and size % (patch := ARCHITECTURES[backbone].patch):
            raise ValueError(f"{backbone} needs a multiple of its patch, {patch} pixels")
        return size

    @property
    def lacks_checkpoint(self) -> bool:
        """Whether `checkpoint` is empty but needed: true at a site, whose path never travels."""
        embedded = ARCHITECTURES[self.backbone].official_file is None
        return self.weights == "pretrained" and self.checkpoint is None and not embedded

    @property
    def frame(self) -> int:
        """Side of the model frame in pixels."""
        return self.image_size or ARCHITECTURES[self.backbone].pretrained_size

    def build(self, seed: int) -> "Base":
        """Read the weights; `seed` matters for random ones only. Raises `CheckpointError`."""
        return load_base(self.backbone, self.frame, self.checkpoint, self.weights, seed)


@dataclass(frozen=True)
class Base:
    """A model on the processor and the sha256 that identifies its weights (of the file)."""

    model: MedSam
    sha256: str


def load_base(
    backbone: str, image_size: int, checkpoint: Path | None, weights: str, seed: int
) -> Base:
    """Build `backbone` for frames of `image_size` pixels with its weights, in float32."""
    architecture = ARCHITECTURES[backbone]
    if image_size % architecture.patch:
        raise CheckpointError(
            f"model.image_size is {image_size}, but {backbone} needs a multiple of its patch, "
            f"{architecture.patch} pixels"
        )
    if weights == "pretrained" and checkpoint is None and architecture.official_file:
        raise CheckpointError(
            f"model.checkpoint is empty, but {backbone} is not embedded: give the path of "
            f"{architecture.official_file} (or set model.weights to random)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build_sam(architecture, image_size)
        if weights == "random":
            initialise(sam)
    sam.eval()
    if weights == "random":
        return Base(MedSam(sam, architecture.rasterised_prompts), tensors_sha256(sam.state_dict()))
    path = checkpoint or embedded_backbone()
    sha256 = file_sha256(path)
    verify_official_name(path, sha256)
    state = read_tensors(path)
    fit_position_embeddings(state, sam.state_dict(), architecture.global_blocks)
    check_names(path, state, sam.state_dict())
    sam.load_state_dict(state)
    return Base(MedSam(sam, architecture.rasterised_prompts), sha256)


def base_parameters(backbone: str, image_size: int) -> int:
    """Parameters of the whole model before any adapter, counted without allocating them."""
    with torch.device("meta"):
        sam = build_sam(ARCHITECTURES[backbone], image_size)
    return sum(parameter.numel() for parameter in sam.parameters())


def embedded_backbone() -> Path:
    """The weights file of `vit_tiny` inside the installed package."""
    return Path(str(resources.files("medsa_model") / "weights" / "vit_tiny.safetensors"))


def initialise(sam: nn.Module) -> None:
    """Random weights as in vision transformers: truncated normal of deviation 0.02."""
    encoder = sam.get_submodule("image_encoder")
    for name, parameter in encoder.named_parameters():
        if name == "pos_embed" or (name.startswith("blocks.") and parameter.dim() == 2):
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.startswith("blocks.") and name.endswith(".bias"):
            nn.init.zeros_(parameter)


def file_sha256(path: Path) -> str:
    """sha256 of a file; raises `CheckpointError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"weights file {path.name}: {error.strerror}") from error


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def verify_official_name(path: Path, sha256: str) -> None:
    """Official files carry the first digits of their sha256 in their name: they must agree."""
    found = re.fullmatch(r"sam_vit_[blh]_([0-9a-f]{6})\.pth", path.name)
    if found and not sha256.startswith(found[1]):
        raise CheckpointError(
            f"{path.name}: its name promises a sha256 that starts with {found[1]}, found "
            f"{sha256[:6]}; the file is damaged or not the official one: fetch it again"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or official PyTorch file, as float32.

    Raises `CheckpointError` for a file that is damaged or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # where bytes are flipped the readers raise anything
        raise CheckpointError(
            f"{path.name} cannot be read as weights ({type(error).__name__}): it is truncated, "
            "damaged, or holds more than tensors; expected an official SAM file or safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path.name}: expected names and tensors, found something else")
    if problem := not_plain(state):
        raise CheckpointError(f"{path.name}: {problem}")
    return {name: tensor.detach().float() for name, tensor in state.items()}


def not_plain(tensors: Mapping[Any, Tensor]) -> str:
    """Why these are no plain numbers in memory, by printable names; empty: they are.

    A view can repeat a few bytes terabytes long, which any copy of it would need.
    """
    storages: dict[int, int] = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name.isprintable():
            return f"{short(name)} is no name of a tensor; expected printable text"
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in PLAIN:
            where = "nowhere" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
            return f"{clean(name)} is {tensor.dtype}, {where}; expected plain numbers"
        storage = tensor.untyped_storage()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            return (
                f"{clean(name)} is {tuple(tensor.shape)}, but only {storage.nbytes():,} bytes are "
                "there; expected a tensor that is written whole"
            )
        storages[storage.data_ptr()] = storage.nbytes()
    if (total := sum(tensor.nbytes for tensor in tensors.values())) > 4 * sum(storages.values()):
        return f"its tensors are {total:,} bytes that repeat {sum(storages.values()):,}"
    return ""


def check_names(path: Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not the architecture's."""
    problems = [f"missing {name}" for name in expected.keys() - state.keys()]
    problems += [f"unknown {name}" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        listed = "\n  ".join(sorted(problems)[:10])
        raise CheckpointError(
            f"{path.name} does not fit model.backbone ({len(problems)} differences):\n  {listed}"
        )


def fit_position_embeddings(
    state: dict[str, Tensor], expected: dict[str, Tensor], global_blocks: tuple[int, ...]
) -> None:
    """Resize, in place, what depends on the frame size: pos_embed and the global blocks' tables.

    Absolute embeddings bicubic, relative ones linear: as SAM itself interpolates the latter.
    """
    name = "image_encoder.pos_embed"
    fits = name in state and state[name].dim() == 4 and state[name].numel() > 0
    if fits and state[name].shape != expected[name].shape:
        size = tuple(expected[name].shape[1:3])
        grid = F.interpolate(state[name].permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)
        state[name] = grid.permute(0, 2, 3, 1).contiguous()
    for block in global_blocks:
        for axis in "hw":
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            fits = name in state and state[name].dim() == 2 and state[name].numel() > 0
            if fits and state[name].shape[0] != expected[name].shape[0]:
                table = state[name].T[None]
                resized = F.interpolate(table, expected[name].shape[0], mode="linear")
                state[name] = resized[0].T.contiguous()
