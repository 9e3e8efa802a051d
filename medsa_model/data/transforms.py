"""The model frame: one S x S picture in which image, mask and prompt agree.

The longest side of the image becomes S, the rest is padding at the bottom and on the right, as in
the `segment-anything` package. That package pads with zeros after it has subtracted the pixel
mean; here the padding is the pixel mean itself (rounded), which is the same and stays uint8.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medsa_model.data.sample import Sample
from medsa_model.errors import DataError

PADDING = (124, 116, 104)  # SAM's pixel mean (123.675, 116.28, 103.53), rounded


@dataclass(frozen=True)
class Framed:
    """A sample in the model frame.

    `image (3, S, S) uint8`, `mask (K, S, S) bool`; `content` (height, width) of the resized image
    in the frame's upper left corner; `original` (height, width) of the image on disk, in pixels.
    """

    image: Tensor
    mask: Tensor
    content: tuple[int, int]
    original: tuple[int, int]


def to_frame(sample: Sample, size: int) -> Framed:
    """Resize and pad a 2D `sample` to the frame of `size` pixels.

    The image is resized with antialiased bilinear interpolation, the mask by nearest pixel: it
    stays a mask. A structure too small to be hit keeps one pixel at its place. Raises `DataError`
    when image and mask differ in size.
    """
    height, width = sample.image.shape[-2:]
    if sample.mask.shape[-2:] != (height, width):
        raise DataError(
            f"case {sample.case}: the image is {width} x {height} pixels (width x height), its "
            f"mask {sample.mask.shape[-1]} x {sample.mask.shape[-2]}; expected the same size."
        )
    scale = size / max(height, width)
    content = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    resized = F.interpolate(
        sample.image[None], content, mode="bilinear", antialias=True, align_corners=False
    )
    image = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
    image[:, : content[0], : content[1]] = resized[0].round().clamp(0, 255).byte()
    mask = torch.zeros(len(sample.mask), size, size, dtype=torch.bool)
    mask[:, : content[0], : content[1]] = resize_mask(sample.mask, content)
    return Framed(image, mask, content, (height, width))


def from_frame(logits: Tensor, content: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Logits (..., S, S) of the model frame in the image's own pixels (..., H, W), float32.

    `content` and `original` are those of `Framed`: the padding is cut off, the rest resized with
    bilinear interpolation, as SAM does.
    """
    cut = logits[..., : content[0], : content[1]].float()
    planes = cut.reshape(1, -1, *content)
    resized = F.interpolate(planes, original, mode="bilinear", align_corners=False)
    return resized.reshape(*logits.shape[:-2], *original)


def draw_variant(generator: np.random.Generator) -> int:
    """The number of one of the eight flips and quarter turns of a square; 0 changes nothing."""
    turns, flip = int(generator.integers(4)), int(generator.integers(2))
    return turns + 4 * flip


def turned(picture: Tensor, variant: int) -> Tensor:
    """`picture (..., S, S)` of any dtype in the flip and quarter turn of number `variant`.

    Padding turns with the image; so draw the prompt afterwards.
    """
    if variant == 0:
        return picture
    picture = torch.rot90(picture, variant % 4, (-2, -1))
    return (picture.flip(-1) if variant >= 4 else picture).contiguous()


def resize_mask(mask: Tensor, content: tuple[int, int]) -> Tensor:
    """Nearest-pixel resize of `mask (K, H, W) bool`; no structure disappears."""
    # uint8 is resized as it is: nearest neighbour copies values and needs no arithmetic
    resized = F.interpolate(mask[None].byte(), content, mode="nearest-exact")[0].bool()
    height, width = mask.shape[-2:]
    for channel in range(len(mask)):
        if mask[channel].any() and not resized[channel].any():
            pixels = mask[channel].nonzero().float()
            middle = (pixels - pixels.mean(0)).square().sum(1).argmin()
            y, x = (pixels[middle] + 0.5).tolist()
            resized[channel, int(y * content[0] / height), int(x * content[1] / width)] = True
    return resized
