"""What `prediction.json` says of a call beside its cases: which adapter, which versions."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medsa_model import __version__
from medsa_model.checkpoint import FACTS
from medsa_model.trained import Trained

ABOUT = "research software, not a medical device"


def facts_of(trained: Trained, name: str, device: torch.device, precision: str) -> dict[str, Any]:
    """`name` is what the adapter is called, the last part of its path; no path is told."""
    return {
        "about": ABOUT,
        "adapter": {
            "name": name or trained.folder.resolve().name,
            "round": round_of(trained.folder),
            "backbone": trained.model.backbone,
            "image_size": trained.manifest.image_size,
            "base_sha256": trained.manifest.base_sha256,
            "manifest_sha256": trained.manifest.sha256,
            "trained_on": list(trained.task.prompts),
        },
        "device": device.type,
        "precision": precision,
        "versions": {
            "fed-medsa": __version__, "torch": version("torch"), "Python": platform.python_version()
        },
    }  # fmt: skip


def round_of(folder: Path) -> int | None:
    """The round that an adapter is the result of, where it is known."""
    try:
        said = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    number = said.get("round") if isinstance(said, dict) else None
    return number if isinstance(number, int) else None
