"""LoRA weights in the layout of Hugging Face PEFT: `adapter_model.safetensors` and
`adapter_config.json`, for the modules of the unmodified `segment_anything` package.

Names are changed and no number is, but for one thing. PEFT knows one A and one B for a module, and
SAM's encoder projects to query, key and value in a single module, of which each part has an A and a
B here. Written are the A below each other and the B as blocks of a matrix that is zero elsewhere:

    A = [A_q; A_v] (2 * rank, in),   B = [B_q 0; 0 0; 0 B_v] (3 * out, 2 * rank)

so that B A is the same change, at r = 2 * rank (3 * rank for "qkv") and with lora_alpha as many
times larger. Trained further by PEFT the zeros would fill, and the file would not be read here.

The embeddings of names of structures are trained whole and stand in `modules_to_save`. SAM has no
such module: who loads them with PEFT first gives it one beside `image_encoder`, `prompt_encoder`
and `mask_decoder`, `sam.class_embedding = nn.Embedding(structures, sam.prompt_encoder.embed_dim)`,
and appends the row of a structure to the sparse embeddings that the mask decoder gets.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medsa_model.adapters.lora import Lora
from medsa_model.errors import ManifestError
from medsa_model.shown import clean, short

PREFIX = "base_model.model."
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
WHOLE = "class_embedding"  # the module that is not LoRA
NAMES = f"{WHOLE}.weight"

Matrices = dict[str, dict[str, Tensor]]
"""Part ("q", "k", "v") -> matrix ("a", "b") -> tensor."""


def low_rank_state(model: nn.Module) -> dict[str, Tensor]:
    """Every A and B of a model by name, also an A that is neither trained nor sent, and the
    embeddings of names of structures if it has them."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if ".low_rank." in name or name == NAMES
    }


def to_peft(state: Mapping[str, Tensor], lora: Lora) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors and configuration in PEFT's layout; raises `ManifestError` when an A is missing.

    `state` is an adapter state; with `frozen_a` it has no A: take `low_rank_state`.
    """
    modules: dict[str, Matrices] = {}
    tensors = {}
    for name, tensor in state.items():
        if name == NAMES:
            tensors[PREFIX + NAMES] = tensor
            continue
        module, part, matrix = _place(name)
        modules.setdefault(module, {}).setdefault(part, {})[matrix] = tensor
    for module, parts in modules.items():
        if any(len(matrices) < 2 for matrices in parts.values()):
            raise ManifestError(
                f"{module}: A or B is missing, expected both; when A is frozen, it is in the model "
                "and not in the adapter state"
            )
        a, b = _joined(parts) if module.endswith(".qkv") else _only(parts)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
    return tensors, _config(lora, NAMES in state)


def from_peft(
    tensors: Mapping[str, Tensor], config: Mapping[str, object], lora: Lora
) -> dict[str, Tensor]:
    """The inverse of `to_peft`: every A and B, and the names of structures, as in this model.

    Raises `ManifestError` for what `lora` does not describe.
    """
    expected = _config(lora, PREFIX + NAMES in tensors)
    for key in (
        "peft_type", "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern",
        "modules_to_save",
    ):  # fmt: skip
        found = config.get(key)
        if key == "target_modules" and isinstance(found, list):
            found = sorted(found, key=str)
        if found != expected[key]:
            raise ManifestError(f"{CONFIG}: {key} is {short(found)}, expected {expected[key]}")
    state = {}
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or tensor.dtype != torch.float32:
            raise ManifestError(
                f"{WEIGHTS}: {clean(name)} is {tuple(tensor.shape)}, {tensor.dtype}; expected a "
                "matrix, torch.float32"
            )
        if name == PREFIX + NAMES:
            state[NAMES] = tensor
            continue
        found_name = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight", name)
        if not found_name:
            raise ManifestError(
                f"{WEIGHTS}: unknown {clean(name)}, expected {PREFIX}*.lora_A.weight"
            )
        module, matrix = found_name[1], found_name[2].lower()
        parts = _split(module, matrix, tensor, lora) if module.endswith(".qkv") else {"": tensor}
        for part, piece in parts.items():
            state[_name(module, part, matrix)] = piece
    return state


def _config(lora: Lora, names: bool) -> dict[str, object]:
    parts = len(lora.targets)
    single = [f"{part}_proj" for part in sorted(lora.targets)] if lora.decoder else []
    return {
        "peft_type": "LORA",
        "r": parts * lora.rank,
        "lora_alpha": parts * lora.alpha,
        "target_modules": sorted(["qkv", *single]),
        "rank_pattern": dict.fromkeys(single, lora.rank),
        "alpha_pattern": dict.fromkeys(single, lora.alpha),
        "modules_to_save": [WHOLE] if names else None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "task_type": None,
        "inference_mode": True,
        "base_model_name_or_path": None,
    }


def _place(name: str) -> tuple[str, str, str]:
    """Module of the package, part and matrix of a tensor of this model."""
    found = re.fullmatch(r"sam\.(.+)\.low_rank\.([qkv])\.([ab])\.weight", name)
    if not found:
        raise ManifestError(f"{name} is no A or B of LoRA; expected the state of adapter kind lora")
    module = re.sub(r"\.(blocks|layers)\.(\d+)\.block\.", r".\1.\2.", found[1])
    return re.sub(r"\.projections\.([qkv])$", r".\1_proj", module), found[2], found[3]


def _name(module: str, part: str, matrix: str) -> str:
    """The inverse of `_place`."""
    module = re.sub(r"\.(blocks|layers)\.(\d+)\.", r".\1.\2.block.", module)
    if single := re.search(r"\.([qkv])_proj$", module):
        part = single[1]
        module = f"{module.removesuffix(single[0])}.projections.{part}"
    return f"sam.{module}.low_rank.{part}.{matrix}.weight"


def _only(parts: Matrices) -> tuple[Tensor, Tensor]:
    ((_, matrices),) = parts.items()
    return matrices["a"], matrices["b"]


def _joined(parts: Matrices) -> tuple[Tensor, Tensor]:
    """A and B of a fused projection as PEFT applies them."""
    names = [part for part in "qkv" if part in parts]
    a = torch.cat([parts[part]["a"] for part in names])
    out, rank = parts[names[0]]["b"].shape
    b = a.new_zeros(3, out, len(names), rank)
    for column, part in enumerate(names):
        b["qkv".index(part), :, column] = parts[part]["b"]
    return a, b.view(3 * out, len(names) * rank)


def _split(module: str, matrix: str, tensor: Tensor, lora: Lora) -> dict[str, Tensor]:
    """The inverse of `_joined` for one of its matrices."""
    names, rank = [part for part in "qkv" if part in lora.targets], lora.rank
    of_ranks, other = tensor.shape if matrix == "a" else tensor.shape[::-1]
    if of_ranks != len(names) * rank or other == 0 or (matrix == "b" and other % 3):
        thrice = ", of three projections beside each other" if matrix == "b" else ""
        raise ManifestError(
            f"{clean(module)}: lora_{matrix.upper()} is {tuple(tensor.shape)}, expected "
            f"{len(names) * rank} for {len(names)} parts of rank {rank}{thrice}"
        )
    if matrix == "a":
        return dict(zip(names, tensor.split(rank), strict=True))
    blocks = tensor.unflatten(0, (3, -1)).unflatten(-1, (len(names), rank))
    own = {part: blocks["qkv".index(part), :, column] for column, part in enumerate(names)}
    if sum(int(block.count_nonzero()) for block in own.values()) != int(tensor.count_nonzero()):
        raise ManifestError(
            f"{clean(module)}: lora_B changes {lora.targets} through an A that they share, "
            "expected one A for each; such weights were not written here and cannot be told apart"
        )
    return {part: block.clone() for part, block in own.items()}
