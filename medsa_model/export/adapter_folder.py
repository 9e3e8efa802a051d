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

import errno
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
from medsa_model.trained import OWN, Trained, check_described, check_frozen

CARD = "README.md"
PYTORCH = {"format": "pt"}
OTHER_KINDS = "MEDSA"
"""`peft_type` of what PEFT does not know."""


def check_new(out: Path) -> None:
    """Raise `ConfigError` unless `out` is no path yet or an empty folder that can be replaced."""
    try:
        exists, is_folder = out.exists(), out.is_dir()
        if exists and (not is_folder or any(out.iterdir())):
            raise ConfigError(
                f"--out {out} is {'not empty' if is_folder else 'a file'} and nothing is ever "
                "overwritten: choose another folder, or remove it"
            )
        kept = exists and (out.is_mount() or Path.cwd().is_relative_to(out.resolve()))
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be used: {error.strerror or error}") from error
    if kept:
        raise ConfigError(_not_replaced(out))


def _not_replaced(out: Path) -> str:
    """A finished folder takes the place of `out`, so that it is there whole or not at all."""
    return (
        f"--out {out} is a mount point, or the folder in which you are, and cannot be replaced by "
        f"the finished one: choose a new folder inside it, such as {out / 'adapter'}"
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
        if error.errno == errno.EBUSY:
            raise ConfigError(_not_replaced(out)) from error
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
    check_described(trained)
    architecture = ARCHITECTURES[trained.model.backbone]
    with torch.device("meta"):  # A is the same with any weights, and with none
        sam = build_sam(architecture, trained.model.frame)
    model = MedSam(sam, architecture.rasterised_prompts)
    lora.inject(model, trained.task.seed)
    tensors = low_rank_state(model)
    check_frozen(trained, tensors)
    return {**tensors, **trained.state}
