"""The files in the folder of `--out`, each whole or not at all.

    masks/CASE.png         8-bit grey, as large as the image is shown; one structure: 0 and 255,
                           several: their numbers from 1 (prediction.json has the key)
    masks/CASE.nii.gz      numbers from 1, with the affine and the shape of the image
    masks/CASE.dcm         with --dicom-seg: the same as DICOM SEG
    overlays/CASE.png      outlines for a person to look at
    volumes.csv            a line for each structure of each case
    summary.json           with --labels: scores, as nnU-Net writes them
    prediction.json        adapter, versions, cases, structures, prompts, what failed; the first
                           file of every call
    report.html            with --report

Masks are patients' data: the command runs with umask 077, so that no other account reads them.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from medsa_model.data.geometry import Geometry
from medsa_model.errors import DataError
from medsa_model.predict.overlays import largest_slice
from medsa_model.predict.places import file_slice

MASKS, OVERLAYS = "masks", "overlays"
VOLUMES, SUMMARY, FACTS, PAGE = "volumes.csv", "summary.json", "prediction.json", "report.html"


@dataclass(frozen=True)
class Size:
    """A line of `volumes.csv`: how large one structure of one case is.

    `voxels` counts pixels of an image. `area_mm2` is that of the largest slice, `largest_slice` its
    number along the file's axis of slices. Of images nothing is known in mm: the dots per inch of a
    picture file are for printing and say nothing of the body.
    """

    case: str
    structure: str
    voxels: int
    area_mm2: float | None
    volume_mm3: float | None
    largest_slice: int | None
    prompt: str


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is never there in part. Raises `DataError` when it cannot be."""
    draft = path.with_name(f".draft.{path.name}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        problem = error.strerror or type(error).__name__
        draft.unlink(missing_ok=True)
    else:
        return
    raise DataError(f"file {path.name} cannot be written: {problem}")


def mask_bytes(numbers: Tensor, structures: int) -> bytes:
    """The PNG of `numbers (H, W) uint8`; of one structure 0 and 255, so that it can be seen."""
    levels = numbers.numpy() * np.uint8(255 if structures == 1 else 1)
    return picture_bytes(Image.fromarray(levels))


def picture_bytes(picture: Image.Image, kind: str = "PNG") -> bytes:
    """A picture file of the `kind` PNG or JPEG."""
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


def sizes_of(
    case: str, numbers: Tensor, asked: Sequence[int], names: Sequence[str],
    prompts: Sequence[str], geometry: Geometry | None,
) -> list[Size]:  # fmt: skip
    """How large the structures `asked` (from 0) are in `numbers (H, W)` or `(D, H, W)`.

    `prompts` says what was asked for each of them.
    """
    sizes = []
    for structure, prompt in zip(asked, prompts, strict=True):
        found = numbers == structure + 1
        voxels = int(found.sum())
        area = volume = place = None
        if geometry is not None:
            largest = largest_slice(numbers, structure + 1)
            pixel = pixel_mm2(geometry)
            area = 0.0 if largest is None else int(found[largest].sum()) * pixel
            volume = voxels * float(abs(np.linalg.det(geometry.affine[:3, :3])))
            place = None if largest is None else file_slice(largest, geometry)
        sizes.append(Size(case, names[structure], voxels, area, volume, place, prompt))
    return sizes


def pixel_mm2(geometry: Geometry) -> float:
    """The area of a pixel of a slice; rows and columns need not be at right angles."""
    rows, columns = geometry.in_frame().affine[:3, 1:3].T
    return float(np.linalg.norm(np.cross(rows, columns)))


def _told(value: object) -> object:
    """A number with six digits that count and no exponent, which not every program reads."""
    if isinstance(value, float):
        return np.format_float_positional(value, precision=6, fractional=False, trim="-")
    return "" if value is None else value


def volumes_csv(sizes: Iterable[Size]) -> bytes:
    """The lines of `volumes.csv`; what is not known stays empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Size.__dataclass_fields__)
    for size in sizes:
        writer.writerow(_told(each) for each in astuple(size))
    return text.getvalue().encode()
