"""DICOM series of CT: a folder of single-slice files becomes one volume in the frame of `Sample`.

Slices are ordered by their position along the normal of the slice (DICOM PS3.3, C.7.6.2), never by
file name or InstanceNumber, and stored numbers become Hounsfield units by rescale slope and
intercept (C.11.1). DICOM's axes lead to the patient's left, back and head; `Geometry` has the
right, the front and the head, as NIfTI.

Of each data set only the tags in `HEADER` and the pixels are read, so no name of a patient; the
identifier of the series is compared and never told. Messages give the case and counts.

pydicom is the optional extra `dicom`, and imported when a series is read.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsa_model.data.dicom_checks import (
    Series,
    Slice,
    check_alike,
    check_each,
    check_positions,
    described,
)
from medsa_model.data.geometry import Geometry
from medsa_model.data.pairing import list_files
from medsa_model.errors import DataError

MOST_BYTES = 2_000_000_000  # of a series, as stored
MOST_SLICE = 32_000_000  # bytes of a file; run lengths unpack to 64 times as many at most
MOST_FILES = 5_000
TOLERANCE = 0.1  # mm, between the corners of a series and those of its labels: positions are
# decimal text, often rounded, and converters take their step from two slices or from all
PLAIN = (  # transfer syntaxes of uncompressed pixels
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2",
)  # fmt: skip
DEFLATED = "1.2.840.10008.1.2.1.99"  # unpacks a whole file before anything can be looked at
INDEX = "DICOMDIR"  # a table of contents, which some exports put beside the slices
HEADER = (
    "Modality", "SeriesInstanceUID", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient",
    "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "RescaleType", "NumberOfFrames",
    "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PlanarConfiguration",
)  # fmt: skip
PIXELS = "PixelData"


def read_series(folder: Path, case: str) -> tuple[NDArray[np.float32], Geometry]:
    """The voxels (D, H, W) in HU of the series in `folder`, in the frame, and its geometry.

    The axes of the geometry are columns, rows and slices. Raises `DataError` for a folder that is
    not one whole series of CT slices at equal distances, and without pydicom.
    """
    if find_spec("pydicom") is None:
        raise DataError(
            f"case {case}: its image is a folder, read as a DICOM series by pydicom, which is not "
            'installed; expected the extra. Install it: pip install "fed-medsa[dicom]"'
        )
    series = Series(case)
    files = _files(folder, series)
    with _quiet():
        slices = [_header(path) for path in files]
        found = [each for each in slices if each is not None]
        if strangers := len(files) - len(found):
            raise series.refused(
                f"{strangers} of {len(files)} files "
                + ("is no DICOM image" if strangers == 1 else "are no DICOM images")
                + " that can be read: "
                + described([p for p, each in zip(files, slices, strict=True) if each is None])
                + "; expected the slices of one series alone. Move "
                + ("it" if strangers == 1 else "them")
                + " away, or export the series again."
            )
        check_each(found, series)
        check_alike(found, series)
        ordered, step = check_positions(found, series)
        geometry = _geometry(ordered, step)
        columns, rows, depth = geometry.shape
        voxels = np.empty((depth, rows, columns), np.float32)
        damaged = sum(not _decode(each, voxels[n]) for n, each in enumerate(ordered))
    if damaged:
        raise series.refused(
            f"{damaged} of {depth} slices have no pixels that can be decoded, as if truncated; "
            "expected whole files. Copy or export the series again."
        )
    if bad := int((~np.isfinite(voxels)).sum()):
        raise series.refused(f"{bad} voxel(s) are not finite; expected a number in each.")
    return np.asarray(geometry.to_frame(voxels.transpose(2, 1, 0))), geometry


def _files(folder: Path, series: Series) -> list[Path]:
    """The files of the series, whose number and size have limits."""
    files = [path for path in list_files(folder) if path.name != INDEX]
    try:
        inner = sum(not path.is_file() for path in folder.iterdir() if path.name[0] != ".")
        sizes = [path.stat().st_size for path in files]
        home = folder.resolve()
        outside = sum(path.resolve().parent != home for path in files)
    except OSError as error:
        problem = f"it cannot be read ({type(error).__name__}); check its permissions."
    else:
        if inner:
            problem = (
                f"{inner} folder(s), or links to nothing, lie in it; expected the slices of one "
                "series alone. Move them away, or copy the files in."
            )
        elif not files:
            problem = "it holds no file; expected the slices of one series. Export it again."
        elif outside:
            problem = f"{outside} of {len(files)} files are links to another place; copy them in."
        elif len(files) > MOST_FILES:
            problem = f"it holds {len(files)} files; expected at most {MOST_FILES}."
        elif sum(sizes) > MOST_BYTES or max(sizes) > MOST_SLICE:
            problem = (
                f"its files have {sum(sizes) / 1e9:.1f} GB, the largest {max(sizes) / 1e6:.0f} "
                f"MB; expected at most {MOST_BYTES / 1e9:g} GB in slices of {MOST_SLICE / 1e6:g} "
                "MB. Crop it to the abdomen."
            )
        else:
            return files
    raise series.refused(problem)


def _header(path: Path) -> Slice | None:
    """What the checks need of one file; `None` when it is none that can be read."""
    import pydicom

    try:
        syntax = pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID
        if syntax not in PLAIN and not _decodable(syntax):
            return Slice(path, syntax="another" if syntax.name == str(syntax) else syntax.name)
        tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER))
        return Slice(
            path,
            modality=str(tags.get("Modality") or ""),
            series=str(tags.get("SeriesInstanceUID") or ""),
            size=(int(tags.get("Rows") or 0), int(tags.get("Columns") or 0)),
            spacing=_numbers(tags, "PixelSpacing", 2),
            directions=_numbers(tags, "ImageOrientationPatient", 6),
            position=_numbers(tags, "ImagePositionPatient", 3),
            slope=_numbers(tags, "RescaleSlope", 1),
            intercept=_numbers(tags, "RescaleIntercept", 1),
            unit=str(tags.get("RescaleType") or "HU"),
            frames=int(tags.get("NumberOfFrames") or 1),
            colours=str(tags.get("PhotometricInterpretation") or ""),
            samples=int(tags.get("SamplesPerPixel") or 1),
        )
    except Exception:  # a damaged file can make the reader raise anything
        return None


def _decodable(syntax: Any) -> bool:
    """Whether a decoder of this compression is installed; none of a deflated file is used."""
    from pydicom.pixels.decoders.base import get_decoder

    try:
        return syntax != DEFLATED and bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _numbers(tags: Any, name: str, count: int) -> tuple[float, ...]:
    """The `count` finite numbers of a tag; empty when it is missing or holds something else."""
    found = tags.get(name)
    values = [found] if isinstance(found, int | float) else list(found or ())
    numbers = tuple(float(value) for value in values)
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def _geometry(slices: list[Slice], step: NDArray[np.float64]) -> Geometry:
    """`step` (3) leads from one slice to the next, in mm to the left, back and head."""
    first = slices[0]
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(first.directions[:3], first.spacing[1])  # to the next column
    affine[:3, 1] = np.multiply(first.directions[3:], first.spacing[0])  # to the next row
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    rows, columns = first.size
    return Geometry((columns, rows, len(slices)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _decode(each: Slice, plane: NDArray[np.float32]) -> bool:
    """Write the HU of one slice into `plane (H, W)`; false when it has no pixels to decode."""
    import pydicom

    try:
        tags = pydicom.dcmread(each.path, specific_tags=[*HEADER, PIXELS])
        plane[:] = tags.pixel_array
    except Exception:  # no pixels, fewer bytes than the header says, and whatever else
        return False
    plane *= np.float32(each.slope[0])
    plane += np.float32(each.intercept[0])
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what pydicom logs and warns about: it quotes values of tags."""
    heard = logging.getLogger("pydicom")
    before = heard.disabled
    heard.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        heard.disabled = before
