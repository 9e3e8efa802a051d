"""Reading one image or mask file: everything is decoded in full, nothing is guessed.

A file that does not hold what a training run needs is refused with a `DataError` that names the
case, what was found, what was expected and what to do. Paths never appear in a message: folder
and file names at a hospital can contain patient names, and messages may leave the site.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from medsa_model.data.sample import Sample
from medsa_model.errors import DataError

MOST_PIXELS = 80_000_000  # as float32 RGB this is 960 MB; Pillow itself warns from 89 million on
MOST_BYTES = 500_000_000
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
UPRIGHT = 1
ORIENTATIONS = {  # EXIF 2.32, tag 0x0112: how a viewer shows the stored pixels
    UPRIGHT: "as stored",
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and turned by a quarter",
    6: "turned by a quarter, clockwise",
    7: "mirrored and turned by a quarter",
    8: "turned by a quarter, counterclockwise",
}


def read_image(path: Path, case: str) -> tuple[Tensor, int]:
    """The image `(3, H, W) float32 in [0, 255]`, RGB, and the EXIF orientation applied to it.

    Grey, 1-bit, palette and CMYK files are converted; an alpha channel must be opaque. Raises
    `DataError` for what cannot be converted without a choice: more than 8 bits, transparency.
    """
    picture, orientation = _decode(path, case, "image")
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    return pixels.permute(2, 0, 1).contiguous().float(), orientation


def read_mask(path: Path, case: str, size: tuple[int, int], orientation: int) -> Tensor:
    """The mask `(H, W) bool` of an image of `size` (height, width) in pixels, upright.

    Its values must be 0 and 255, or 0 and 1; a mask of one value is 0 (nothing) or 255
    (everything). Raises `DataError` for any other value, size or EXIF orientation.
    """
    levels = read_levels(path, case, size, orientation)
    pixels = np.bincount(levels.ravel(), minlength=256)
    values = {int(value) for value in np.flatnonzero(pixels)}
    if values == {1}:
        raise DataError(
            f"case {case}: every pixel of the mask is 1, which may mean all or nothing; expected "
            "0 for background and 255 (or 1) for the structure. Write this mask with 0 or 255."
        )
    if not (values <= {0, 255} or values <= {0, 1}):
        others = sorted(values - {0, 255})
        share = 100 * pixels[others].sum() / levels.size
        raise DataError(
            f"case {case}: the mask has {len(others)} value(s) besides 0 and 255 on {share:.3g} % "
            f"of its pixels ({_some(others)}); expected only 0 and 255, or only 0 and 1. Such "
            "values come from smooth resizing or JPEG: export the mask again as PNG, resized with "
            "nearest neighbour. For several labels in one file use dataset.json."
        )
    return torch.from_numpy(levels > 0)


def read_levels(
    path: Path, case: str, size: tuple[int, int], orientation: int
) -> NDArray[np.uint8]:
    """The grey levels `(H, W) uint8` of a mask or label file, upright.

    `size` (height, width) and the EXIF `orientation` of the image must be the file's own: a mask
    without the image's orientation may have been drawn before or after the image was turned. A
    colour file is accepted when its channels are equal. Raises `DataError` otherwise.
    """
    picture, found = _decode(path, case, "mask")
    if found != orientation:
        turned = "mask" if orientation == UPRIGHT else "image"
        raise DataError(
            f"case {case}: the image has EXIF orientation {orientation} "
            f"({ORIENTATIONS[orientation]}), its mask {found} ({ORIENTATIONS[found]}); expected "
            "the same, because the mask may lie in another frame than the image. Write the "
            f"{turned} with its rotation applied, so that image and mask have the same pixels, "
            "and look at both together."
        )
    height, width = size
    if picture.size != (width, height):
        raise DataError(
            f"case {case}: the image is {width} x {height} pixels (width x height), its mask "
            f"{picture.width} x {picture.height}; expected the same size. Export the mask at the "
            "size of the image (nearest neighbour, never smooth), or check that they belong "
            "together."
        )
    levels = np.array(picture)
    if levels.ndim == 2:
        return levels
    if (levels != levels[..., :1]).any():
        raise DataError(
            f"case {case}: the mask is a colour picture with channels that differ; expected one "
            "grey channel. Export it as an 8-bit grey PNG of 0 and 255."
        )
    return levels[..., 0]


def read_pair(image: Path, mask: Path, case: str, patient: str) -> Sample:
    """Read an image with its binary mask: a `Sample` with one mask channel."""
    pixels, orientation = read_image(image, case)
    height, width = pixels.shape[1:]
    structure = read_mask(mask, case, (height, width), orientation)
    return Sample(pixels, structure[None], case, patient, blank=is_blank(pixels))


def is_blank(image: Tensor) -> bool:
    """Whether an `image (3, H, W)` has one colour alone."""
    return bool((image == image[:, :1, :1]).all())


def _decode(path: Path, case: str, what: str) -> tuple[Image.Image, int]:
    """The whole picture in mode L or RGB, upright, and the EXIF orientation applied to it.

    `what` is "image" or "mask".
    """
    try:
        stored = path.stat().st_size
        if stored > MOST_BYTES:
            raise DataError(
                f"case {case}: the {what} file has {stored / 1e6:.0f} MB; expected at most "
                f"{MOST_BYTES / 1e6:.0f} MB. Export a smaller version."
            )
        with Image.open(path, formats=FORMATS) as file:
            _check_header(file, case, what)
            # asked before `load`, in which Pillow turns a TIFF and forgets its orientation
            orientation = file.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
            file.load()
            upright = ImageOps.exif_transpose(file)
            known = orientation if orientation in ORIENTATIONS else UPRIGHT  # as Pillow has it
            return _grey_or_rgb(upright, case, what), known
    except DataError:
        raise
    except FileNotFoundError:
        reason = f"the {what} file is missing; was it moved after the data set was opened?"
    except Image.DecompressionBombError:
        reason = (
            f"the {what}'s header claims far more than {MOST_PIXELS / 1e6:.0f} million pixels; "
            "expected at most that. It may be damaged: export it again, or a smaller version."
        )
    except Exception as error:  # a damaged file can make a decoder raise anything
        truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
        kind = type(error).__name__
        unknown = "empty, or no picture by its content"
        state = unknown if kind == "UnidentifiedImageError" else f"unreadable ({kind})"
        state = "truncated" if truncated else state
        reason = (
            f"the {what} file is {state}; expected a complete {', '.join(FORMATS)} file. "
            "Copy or export it again."
        )
    raise DataError(f"case {case}: {reason}")  # outside `except`: no chained error with a path


def _check_header(file: Image.Image, case: str, what: str) -> None:
    """Refuse, before any pixel is decoded, what must not or cannot be decoded."""
    if file.width * file.height > MOST_PIXELS:
        raise DataError(
            f"case {case}: the {what} has {file.width} x {file.height} pixels; expected at most "
            f"{MOST_PIXELS / 1e6:.0f} million. Export a smaller version."
        )
    if file.format == "TIFF" and getattr(file, "n_frames", 1) > 1:
        raise DataError(
            f"case {case}: the {what} is a TIFF of several pages; expected one picture in a file. "
            "Save each page as its own case."
        )
    # Pillow cuts 16-bit colour to its high byte without saying so; only the raw mode shows it.
    # In a BMP ";16" means 16 bits for all three colours, which is less than 8 for each.
    deep = file.format != "BMP" and any(";16" in str(tile[3]) for tile in getattr(file, "tile", []))
    if deep or file.mode.startswith(("I", "F")):
        raise DataError(
            f"case {case}: the {what} has more than 8 bits in a channel (mode {file.mode}); "
            "expected 8 bits. Choose the window of grey values that matters, scale it to 0..255 "
            "and save as 8-bit PNG: scaled blindly, most pixels would become black or white."
        )


def _grey_or_rgb(picture: Image.Image, case: str, what: str) -> Image.Image:
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        share = float((np.asarray(picture.getchannel("A")) < 255).mean())
        if share > 0:
            raise DataError(
                f"case {case}: {100 * share:.3g} % of the {what}'s pixels are transparent (alpha "
                "below 255); expected an opaque picture, because hidden pixels hold arbitrary "
                "colours. Put it on its true background and save it without alpha."
            )
    elif picture.mode not in {"1", "L", "P", "RGB", "CMYK", "YCbCr"}:
        raise DataError(
            f"case {case}: the {what} has colour mode {picture.mode}; expected grey or RGB. "
            "Convert it to 8-bit RGB."
        )
    return picture.convert("L" if picture.mode in {"1", "L"} else "RGB")


def _some(values: list[int]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown}, ..."
