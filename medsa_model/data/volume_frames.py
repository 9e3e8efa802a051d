"""Volumes in the model frame: every slice one S x S picture, slices a chosen distance apart.

The longer physical side of a slice becomes S pixels, rows and columns alike, so that organs keep
their shape whatever the scanner's pixels; the rest is padding at the bottom and on the right.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medsa_model.data.sample import Sample
from medsa_model.data.transforms import resize_mask
from medsa_model.errors import DataError


@dataclass(frozen=True)
class FramedVolume:
    """A volume in the model frame, of D slices.

    `image (D, S, S) uint8`, grey; `bits (D, S, S)` of the smallest integers that hold K structures:
    bit k of a voxel says that structure k is there, and a voxel may have several; `shown (K, D)
    bool`, which slices show each structure; `labelled (K) bool`, which structures were annotated;
    `content` (height, width) of a slice in the frame's upper left corner; `original` (slices,
    height, width) of the volume on disk.
    """

    image: Tensor
    bits: Tensor
    shown: Tensor
    labelled: Tensor
    content: tuple[int, int]
    original: tuple[int, int, int]

    def mask(self, structure: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Where one structure is on the slices `start` to `stop`: (n, S, S) bool.

        The slice `stop` itself is not among them; without it all from `start` on are.
        """
        return (self.bits[start:stop] >> structure & 1).bool()


def to_volume_frame(sample: Sample, size: int, slice_distance: float | None) -> FramedVolume:
    """Resample a 3D `sample` to slices of `size` pixels that are `slice_distance` mm apart.

    `None` keeps the volume's own slices. The image is interpolated linearly (in the plane with
    antialiasing), the mask by nearest voxel. Raises `DataError` when sizes differ, the spacing is
    not known, or there are more structures than an integer has bits.
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
    structures = len(sample.mask)
    bits = torch.zeros(depth, size, size, dtype=_integer(structures, sample.case))
    inside = bits[:, : content[0], : content[1]]
    shown = torch.zeros(structures, depth, dtype=torch.bool)
    for structure, planes in enumerate(sample.mask):  # one by one, to save memory
        # a small section of an organ keeps a pixel, or its slice would have no prompt
        sections = resize_mask(planes, content)[None, None].byte()
        nearest = F.interpolate(sections, shape, mode="nearest-exact")[0, 0]
        inside |= nearest.to(bits.dtype) << structure
        shown[structure] = nearest.flatten(1).any(1)
    labelled = torch.tensor(sample.labelled or [True] * structures)
    return FramedVolume(image, bits, shown, labelled, content, (slices, height, width))


def _integer(structures: int, case: str) -> torch.dtype:
    """The smallest integers with a bit for each structure; a sign bit is none."""
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        if structures <= torch.iinfo(dtype).max.bit_length():
            return dtype
    raise DataError(
        f"case {case}: {structures} structures, expected 63 at most, since a voxel of the model "
        "frame has one bit for each; list fewer in data.classes"
    )


def from_volume_frame(logits: Tensor, framed: FramedVolume) -> Tensor:
    """Logits (D, S, S) of the model frame in the volume's own voxels, float32."""
    cut = logits[:, : framed.content[0], : framed.content[1]].float()
    resized: Tensor = F.interpolate(
        cut[None, None], framed.original, mode="trilinear", align_corners=False
    )
    return resized[0, 0]
