"""A trained adapter as a folder to hand on: the file names of Hugging Face PEFT and a model card.

    adapter_model.safetensors   the tensors, every bit as trained
    adapter_config.json         what PEFT reads, and under `fed_medsa` what this project reads
    SHA256SUMS                  of these two, for `sha256sum --check` too
    README.md                   the model card

LoRA is in PEFT's own layout (`adapters/peft_layout.py`), which PEFT loads, with a warning that it
does not know the key `fed_medsa`. PEFT has nothing like the other kinds: their tensors have the
names of this project, and `peft_type` is MEDSA. The card is not among the sums, because its makers
complete it: what they may say about patients, and under which licence, no program knows.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from medsa_model import __version__
from medsa_model.adapters import Lora
from medsa_model.adapters.peft_layout import low_rank_state, to_peft
from medsa_model.backbone import file_sha256
from medsa_model.checkpoint import CONFIG, STATE, SUMS
from medsa_model.errors import CheckpointError, ConfigError
from medsa_model.sam import ARCHITECTURES, MedSam, build_sam
from medsa_model.trained import OWN, Trained

CARD = "README.md"
PYTORCH = {"format": "pt"}
OTHER_KINDS = "MEDSA"
"""`peft_type` of what PEFT does not know."""


def check_new(out: Path) -> None:
    """Raise `ConfigError` unless `out` is no path yet or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"--out {out} is {'not empty' if out.is_dir() else 'a file'} and nothing is ever "
            "overwritten: choose another folder, or remove it"
        )


def write_adapter(trained: Trained, card: str, out: Path) -> list[str]:
    """Write the folder `out`, which must be new or empty, whole or not at all.

    `card` is the text of README.md. Returns what was written, in words. Raises `ConfigError` for an
    `out` that holds anything, and `CheckpointError` when it cannot be written.
    """
    check_new(out)
    tensors, config = _content(trained)
    draft = out.with_name(f".{out.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        content = save({name: each.contiguous() for name, each in tensors.items()}, PYTORCH)
        (draft / STATE).write_bytes(content)
        (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        sums = [f"{file_sha256(draft / name)}  {name}\n" for name in (CONFIG, STATE)]
        (draft / SUMS).write_text("".join(sums), encoding="utf-8")
        (draft / CARD).write_text(card, encoding="utf-8")
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(
            f"--out {out} cannot be written: {error.strerror or error}"
        ) from error
    size = (out / STATE).stat().st_size
    return [
        f"{out / STATE}  {len(tensors)} tensors, {size:,} bytes",
        f"{out / CONFIG}  peft_type {config['peft_type']}",
        f"{out / SUMS}",
        f"{out / CARD}  model card: read it, and add its licence and what it leaves open",
    ]


def _content(trained: Trained) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors by name and adapter_config.json."""
    tensors: dict[str, Tensor] = dict(trained.state)
    like_peft: dict[str, object] = {
        "peft_type": OTHER_KINDS, "base_model_name_or_path": None, "inference_mode": True,
        "task_type": None,
    }  # fmt: skip
    if isinstance(trained.adapter, Lora):
        tensors, like_peft = to_peft(_low_rank(trained, trained.adapter), trained.adapter)
    own = {
        "version": __version__,
        # the path of the backbone is of the machine, and nobody else's
        "model": trained.model.model_dump(mode="json", exclude={"checkpoint"}),
        "adapter": trained.adapter.model_dump(mode="json"),
        "task": trained.task.model_dump(mode="json"),
        "manifest": asdict(trained.manifest),
        "manifest_sha256": trained.manifest.sha256,
    }
    name = {"base_model_name_or_path": trained.model.backbone}
    return tensors, {**like_peft, **name, OWN: own}


def _low_rank(trained: Trained, lora: Lora) -> dict[str, Tensor]:
    """The state with every A, also with those that stay as the seed made them."""
    if not lora.frozen_a:
        return dict(trained.state)
    architecture = ARCHITECTURES[trained.model.backbone]
    with torch.random.fork_rng(devices=[]):
        sam = build_sam(architecture, trained.model.frame)  # A is the same with any weights
    model = MedSam(sam, architecture.rasterised_prompts)
    lora.inject(model, trained.task.seed)
    return {**low_rank_state(model), **trained.state}
