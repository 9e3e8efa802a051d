"""NIfTI volumes in one frame: read from any orientation, write labels back into the file's own.

The frame (`Sample`): slices from inferior to superior, rows from anterior to posterior, columns
from the patient's right to left. The affine alone decides how a file is turned; voxels are turned
and mirrored by whole axes, never interpolated, so an oblique scan stays oblique.

A file is read in full, with the checksum of its compression. What cannot be trusted is refused
with a `DataError` that names the case and the file, never its folder.
"""

import gzip
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel import imageglobals
from numpy.typing import NDArray
from torch import Tensor

from medsa_model.data.geometry import Geometry
from medsa_model.data.nifti_checks import AGAIN, NiftiFile, check_affine, check_same, check_shape
from medsa_model.errors import DataError

MOST_BYTES = 2_000_000_000  # of a file, uncompressed
KINDS: tuple[Any, ...] = (nibabel.Nifti1Image, nibabel.Nifti2Image)
ROUNDED = 1e-3  # how far a label may be from a whole number: what scaling and float32 leave
LONGEST_HEADER = 540  # bytes; NIfTI-2 has this many, NIfTI-1 has 348
CHUNK = 2**20
GZIP = b"\x1f\x8b"


def read_volume(path: Path, case: str) -> tuple[NDArray[np.float32], Geometry]:
    """The voxels (D, H, W) of an image in the frame, in the file's units, and its geometry.

    Raises `DataError` for a file that is damaged or not one volume, says nothing about its
    orientation, or has voxels that are no numbers.
    """
    file = NiftiFile(path, case, "image")
    image, geometry = _read(file)
    return np.asarray(geometry.to_frame(_voxels(image, file)), np.float32), geometry


def read_labels(
    path: Path, case: str, geometry: Geometry, structures: Sequence[str],
    tolerance: float | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """The numbers (D, H, W) of the structures in the frame; 0 is background, 1 `structures[0]`.

    `geometry` is the image's and must be the file's: the same shape, and corners of the volume
    within 1e-3 mm. For an image that is no NIfTI file give a `tolerance` in mm: then both are
    compared in the frame, since every program that writes the labels chooses axes of its own.
    Values within 1e-3 of a whole number are that number. Raises `DataError` for another geometry,
    and for values that are no such number.
    """
    file = NiftiFile(path, case, "label")
    image, found = _read(file)
    if tolerance is None:
        check_same(geometry, found, file)
    else:
        check_same(geometry.in_frame(), found.in_frame(), file, tolerance)
    values = _voxels(image, file)
    if values.dtype.kind == "f":
        whole = np.rint(values)
        values = np.where(np.abs(values - whole) <= ROUNDED, whole, values)
    wrong = (values < 0) | (values > len(structures))
    if values.dtype.kind == "f":
        wrong |= values != np.floor(values)
    if wrong.any():
        others = np.unique(values[wrong])
        shown = ", ".join(f"{value:.6g}" for value in others[:5])
        declared = ", ".join(f"{number} {name}" for number, name in enumerate(structures, 1))
        advice = "Renumber the structures, or set the others to 0."
        if (others != np.floor(others)).any():
            advice = "Fractions come from smooth resampling: use nearest neighbour."
        raise file.refused(
            f"has {len(others)} value(s) that stand for no structure ({shown}"
            f"{', ...' if len(others) > 5 else ''}) in {100 * wrong.mean():.3g} % of its voxels; "
            f"expected 0 background, {declared}. {advice}"
        )
    return np.asarray(found.to_frame(values.astype(np.uint8)))


def write_labels(path: Path, labels: Tensor, geometry: Geometry) -> None:
    """Write `labels (D, H, W)`, integers of the frame from 0 on, beside the image they belong to.

    The file has the affine, the axes and the shape of `geometry`, so it lies on the image in any
    viewer. Written whole or not at all; compressed when `path` ends with .gz. Raises `DataError`
    when it cannot be written.
    """
    voxels = labels.detach().cpu().numpy()
    if voxels.dtype.kind not in "iu" or voxels.min(initial=0) < 0:
        raise ValueError(f"labels are {voxels.dtype}; expected integers from 0 on")
    small = np.uint8 if voxels.max(initial=0) < 256 else np.int32
    with _quiet():
        image = KINDS[0](geometry.from_frame(voxels.astype(small)), geometry.affine)
        image.header.set_xyzt_units("mm")
        content = image.to_bytes()
    draft = path.with_name(f".draft.{path.name}")
    try:
        draft.write_bytes(gzip.compress(content, 6) if path.suffix == ".gz" else content)
        draft.replace(path)
    except OSError as error:
        problem = type(error).__name__
    else:
        return
    with suppress(OSError):
        draft.unlink()
    raise DataError(
        f"file {path.name}: it cannot be written ({problem}); check that its folder is there, that "
        "it may be written and that the disk has room."
    )


def _read(file: NiftiFile) -> tuple[Any, Geometry]:
    """The nibabel image, its voxels not yet decoded, and its geometry, checked."""
    content = _content(file)
    kind = next((k for k in KINDS if k.header_class.may_contain_header(content)), None)
    if kind is None:
        raise file.refused("is no NIfTI file; expected .nii or .nii.gz. Convert it to NIfTI.")
    try:
        with _quiet():
            raw = kind.header_class(content[: kind.header_class.sizeof_hdr], check=False)
            steps = np.asarray(raw["pixdim"][1:4], np.float64)
            single = bool(raw["magic"].item().startswith(b"n+"))
            image = kind.from_bytes(content)
            shape = tuple(int(length) for length in image.shape)
            affine = np.asarray(image.affine, np.float64)
            unit = image.header.get_xyzt_units()[0]
            oriented = bool(image.header["sform_code"] or image.header["qform_code"])
            plain = image.get_data_dtype().kind in "iuf"
    except Exception as error:  # a damaged header can make the reader raise anything
        problem = type(error).__name__
    else:
        if single and plain:
            check_shape(shape, file)
            if not (steps > 0).all():
                raise file.refused(
                    f"has the voxel size {', '.join(f'{step:g}' for step in steps)}; expected "
                    "millimetres above 0. Correct pixdim in its header."
                )
            check_affine(affine, oriented, unit, file)
            return image, Geometry(shape, affine)
        problem = "voxels that are no plain numbers" if single else "voxels in a second file"
    raise file.refused(
        f"has a header that cannot be used ({problem}); expected one NIfTI file with one number in "
        f"a voxel. {AGAIN}"
    )


def _content(file: NiftiFile) -> bytes:
    """The uncompressed bytes of a file."""
    try:
        with file.path.open("rb") as stored:
            packed = stored.read(2) == GZIP
            stored.seek(0)
            with gzip.GzipFile(fileobj=stored) if packed else stored as stream:
                head = stream.read(LONGEST_HEADER)
                content = head + stream.read(_promised(head, file) - len(head))
                surplus = 0
                while chunk := stream.read(CHUNK):  # to its end, for the checksum
                    surplus += len(chunk)
                    if len(content) + surplus > MOST_BYTES:
                        break
    except DataError:
        raise
    except FileNotFoundError:
        problem = "is missing; was it moved after the data set was opened?"
    except EOFError:
        problem = f"is truncated; expected a complete .nii.gz file. {AGAIN}"
    except Exception as error:  # zlib.error, BadGzipFile, PermissionError, MemoryError
        problem = f"cannot be read ({type(error).__name__}); expected a complete file. {AGAIN}"
    else:
        if len(content) + surplus <= MOST_BYTES:
            return content
        problem = f"has over {MOST_BYTES / 1e9:g} GB; expected less. Crop it to the abdomen."
    raise file.refused(problem)  # outside `except`: no chained error with a path


def _promised(head: bytes, file: NiftiFile) -> int:
    """How many bytes the header says there are; a few, when it says nothing that can be used.

    Raises `DataError` when they are more than may be unpacked: a small file can promise terabytes.
    """
    kind = next((k for k in KINDS if k.header_class.may_contain_header(head)), None)
    if kind is None:
        return len(head)
    try:
        with _quiet():
            raw = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
            shape = tuple(int(length) for length in raw.get_data_shape())
            start = max(int(raw["vox_offset"]), raw.sizeof_hdr + 4)  # 0 stands for the least
            promised = start + raw.get_data_dtype().itemsize * math.prod(shape)
    except Exception:  # `_read` says what is wrong
        return len(head)
    if promised > MOST_BYTES:
        raise file.refused(
            f"has over {MOST_BYTES / 1e9:g} GB; expected less: its header promises "
            f"{promised / 1e9:.3g} GB. Crop it to the abdomen."
        )
    check_shape(shape, file)
    return int(max(len(head), promised))


def _voxels(image: Any, file: NiftiFile) -> NDArray[Any]:
    """All voxels in the file's axes, finite; those of an image as float32."""
    try:
        with _quiet():
            stored: NDArray[Any] = np.asanyarray(image.dataobj)
            voxels = stored.astype(np.float32) if file.what == "image" else stored
    except Exception as error:  # fewer bytes than the header says, and whatever else
        problem = type(error).__name__
    else:
        if voxels.dtype.kind == "f" and (bad := int((~np.isfinite(voxels)).sum())):
            raise file.refused(
                f"has {bad} voxel(s) that are not finite (NaN or infinite); expected a number in "
                "each. Set them to the value of air or of background."
            )
        return voxels
    raise file.refused(
        f"has no voxels that can be read ({problem}), as if truncated; expected a complete file. "
        f"{AGAIN}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what nibabel logs and warns about: what matters is checked here."""
    level = imageglobals.logger.level
    imageglobals.logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        imageglobals.logger.setLevel(level)
