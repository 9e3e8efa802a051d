"""Volumes in the model frame: every slice one S x S picture, slices a chosen distance apart.

The longer physical side of a slice becomes S pixels, rows and columns alike, so that organs keep
their shape whatever the scanner's pixels; the rest is padding at the bottom and on the right.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from medsa_model.data.sample import Sample
from medsa_model.data.transforms import resize_mask
from medsa_model.errors import DataError


@dataclass(frozen=True)
class FramedVolume:
    """A volume in the model frame, of D slices.

    `image (D, S, S) uint8`, grey; `mask (K, D, S, S) bool`; `labelled (K) bool`, which structures
    were annotated; `content` (height, width) of a slice in the frame's upper left corner;
    `original` (slices, height, width) of the volume on disk.
    """

    image: Tensor
    mask: Tensor
    labelled: Tensor
    content: tuple[int, int]
    original: tuple[int, int, int]

    @cached_property
    def shown(self) -> Tensor:
        """Which slices show each structure (K, D) bool; looked for once."""
        return self.mask.flatten(2).any(2)


def to_volume_frame(sample: Sample, size: int, slice_distance: float | None) -> FramedVolume:
    """Resample a 3D `sample` to slices of `size` pixels that are `slice_distance` mm apart.

    `None` keeps the volume's own slices. The image is interpolated linearly (in the plane with
    antialiasing), the mask by nearest voxel. Raises `DataError` when sizes differ or the spacing
    is not known.
    """
    if sample.spacing_mm is None or sample.image.shape[1:] != sample.mask.shape[1:]:
        raise DataError(
            f"case {sample.case}: an image of {tuple(sample.image.shape[1:])} voxels, a mask of "
            f"{tuple(sample.mask.shape[1:])}, spacing {sample.spacing_mm}; expected equal sizes "
            "and the spacing in mm"
        )
    slices, height, width = sample.image.shape[1:]
    distance, row, column = sample.spacing_mm
    scale = size / max(height * row, width * column)  # pixels of the frame per mm
    content = (max(1, round(height * row * scale)), max(1, round(width * column * scale)))
    depth = max(1, round(slices * distance / slice_distance)) if slice_distance else slices
    plane = F.interpolate(
        sample.image[0][:, None], content, mode="bilinear", antialias=True, align_corners=False
    )[:, 0]
    shape = (depth, *content)
    if depth != slices:
        plane = F.interpolate(plane[None, None], shape, mode="trilinear", align_corners=False)[0, 0]
    image = torch.zeros(depth, size, size, dtype=torch.uint8)
    image[:, : content[0], : content[1]] = plane.round().clamp(0, 255).byte()
    mask = torch.zeros(len(sample.mask), depth, size, size, dtype=torch.bool)
    # a small section of an organ keeps a pixel, or its slice would have no prompt
    sections = resize_mask(sample.mask.flatten(0, 1), content).unflatten(0, (-1, slices))
    nearest = F.interpolate(sections[None].byte(), shape, mode="nearest-exact")[0]
    mask[:, :, : content[0], : content[1]] = nearest.bool()
    labelled = torch.tensor(sample.labelled or [True] * len(sample.mask))
    return FramedVolume(image, mask, labelled, content, (slices, height, width))


def from_volume_frame(logits: Tensor, framed: FramedVolume) -> Tensor:
    """Logits (D, S, S) of the model frame in the volume's own voxels, float32."""
    cut = logits[:, : framed.content[0], : framed.content[1]].float()
    resized: Tensor = F.interpolate(
        cut[None, None], framed.original, mode="trilinear", align_corners=False
    )
    return resized[0, 0]
