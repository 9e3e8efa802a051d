"""What the frozen first blocks of the encoder make of an image, computed once and kept.

With adapters in the last blocks alone, the blocks before the first adapter (`MedSam.prefix`) are a
function of the frozen model and the image. Their tokens are kept for each image and each of its
eight turned variants, or for each slice of a volume, and training begins with them.

Tokens are kept in the precision of the run: float32, or bfloat16 under autocast, to which they are
also rounded when they are just computed. Each image is computed by itself, one after the other:
those of a batch that are not kept are not computed together, as their last bits would then depend
on how many they are. So what training gets is the same whatever is kept, also when nothing is; in
float32 it is that of a model without a cache. What is just computed stays on the device for its
step, but the step waits for the copy that is kept.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from medsa_model import __version__
from medsa_model.adapters.encoder import AdaptedBlock
from medsa_model.sam import MedSam
from medsa_model.tensor_store import TensorStore


@dataclass(frozen=True)
class PrefixCache:
    """Tokens of one frozen model and one way to make frames, in a `store` that others may share.

    `base` is the sha256 of the frozen weights; `frames` says how frames are made of cases: their
    size, the distance of slices.
    """

    store: TensorStore
    base: str
    frames: tuple[object, ...]

    def tokens(self, model: MedSam, image: Tensor, keys: Sequence[str]) -> Tensor:
        """`model.prefix(image)` (n, S/p, S/p, C) on the model's device, float32.

        `image (B, 3, S, S)` or `(B, 3, D, S, S) float32 in [0, 255]`, whole numbers, best on the
        processor: pixels are compared there with those of what is kept, and only what is not kept
        goes to the device. `keys` has one for each image or slice.
        """
        device = model.sam.device
        flat = image.transpose(1, 2).flatten(0, 1) if image.dim() == 5 else image
        dtype, scope = _precision(device), self._scope(model)
        found = [
            self.store.find(
                hashlib.sha256(f"{scope}\n{key}".encode()).hexdigest(),
                partial(_content, picture),
                partial(_compute, model, picture, dtype),
                device.type == "cuda",
            )
            for picture, key in zip(flat, keys, strict=True)
        ]
        # blocks compute with float32 between them, also under autocast
        return torch.stack([each.to(device, non_blocking=True) for each in found]).float()

    def _scope(self, model: MedSam) -> str:
        """All that the tokens of an image depend on beside its pixels.

        The last bits differ between devices and versions.
        """
        device = model.sam.device
        return json.dumps(
            [
                self.base, model.frozen_blocks, str(_precision(device)), device.type,
                torch.__version__, __version__, *map(str, self.frames),
            ]
        )  # fmt: skip


def has_prefix(model: MedSam) -> bool:
    """Whether there are frozen first blocks, each of which sees one slice at a time."""
    count = model.frozen_blocks
    modules = (m for block in model.sam.image_encoder.blocks[:count] for m in block.modules())
    across = any(isinstance(m, AdaptedBlock) and m.depth_adapter is not None for m in modules)
    return count > 0 and not across


def _precision(device: torch.device) -> torch.dtype:
    """In which numbers the run computes just now."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.float32


@torch.no_grad()
def _compute(model: MedSam, picture: Tensor, dtype: torch.dtype) -> Tensor:
    """The tokens (S/p, S/p, C) of one picture (3, S, S), on the model's device."""
    tokens = model.prefix(picture[None].to(model.sam.device, non_blocking=True))[0]
    return tokens.to(dtype).contiguous()


def _content(picture: Tensor) -> str:
    """sha256 of the pixels: a case of the same name may have another image later."""
    return hashlib.sha256(picture.byte().cpu().numpy().tobytes()).hexdigest()
