"""What the files of a DICOM series must be to be one CT volume, and the messages when not.

Messages give the case, what was counted and what to do; never an identifier, a name or a path.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsa_model.data.nifti_checks import MOST_VOXELS
from medsa_model.errors import DataError

SAME = 0.01  # mm: slices nearer than this are at one place
UNEVEN = 0.1  # of the slice distance, largest deviation of a slice from its place
ALIKE = 1e-3  # largest difference of direction cosines, and of pixel sizes in mm
UPRIGHT = 0.9998  # cosine of the angle between the normal and the way through the slices (1 degree)
CODE = re.compile(r"[A-Z]{2}")  # a modality that may be shown
SHOWN = 3  # files that are no images, in a message
ENDINGS = {
    ".txt", ".pdf", ".xml", ".json", ".csv", ".html", ".htm", ".inf", ".ini", ".db", ".exe", ".md",
    ".doc", ".docx", ".xls", ".xlsx", ".zip", ".gz", ".tar", ".nii", ".nrrd", ".mha", ".png",
    ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".log", ".tmp", ".part", ".bak",
    ".dcm", ".dicom", ".ima", ".img",
}  # fmt: skip
"""Endings of file names that may be shown: whatever else stands behind a dot may be a name."""
NEEDED = {
    "PixelSpacing": "spacing", "ImageOrientationPatient": "directions",
    "ImagePositionPatient": "position", "SeriesInstanceUID": "series", "Modality": "modality",
}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """One file: its header as needed. What is missing or no number is empty.

    `size` (rows, columns); `spacing` (row, column) in mm; `directions` along a row and along a
    column, and `position` of the first voxel, to the patient's left, back and head; `syntax`: the
    compression, when it cannot be undone here.
    """

    path: Path
    syntax: str = ""
    modality: str = ""
    series: str = ""
    size: tuple[int, int] = (0, 0)
    spacing: tuple[float, ...] = ()
    directions: tuple[float, ...] = ()
    position: tuple[float, ...] = ()
    slope: tuple[float, ...] = ()
    intercept: tuple[float, ...] = ()
    unit: str = "HU"
    frames: int = 1
    colours: str = ""
    samples: int = 1


@dataclass(frozen=True)
class Series:
    """The series of a case that is read."""

    case: str

    def refused(self, problem: str) -> DataError:
        """The error that says what is wrong with the series; the caller raises it."""
        return DataError(f"case {self.case}: the folder of its DICOM series: {problem}")


def described(strangers: Sequence[Path]) -> str:
    """How to find files that are no images: ending and size, and never a name."""
    found = []
    for path in strangers[:SHOWN]:
        ending = path.suffix.lower()
        kind = f"a {ending}" if ending in ENDINGS else "one with another ending"
        kind = kind if path.suffix else "one without an ending"
        found.append(f"{kind} of {path.stat().st_size} bytes")
    more = len(strangers) - SHOWN
    return ", ".join([*found, *([f"{more} more"] if more > 0 else [])])


def check_each(slices: Sequence[Slice], series: Series) -> None:
    """Raise `DataError` unless every file is a grey CT slice that can be decoded."""
    total = len(slices)

    def refuse(count: int, problem: str) -> None:
        if count:
            raise series.refused(f"{count} of {total} files {problem}")

    packed = [each.syntax for each in slices if each.syntax]
    refuse(
        len(packed),
        f"are compressed in a way that cannot be undone here ({', '.join(sorted(set(packed)))}); "
        "expected slices without compression. Decompress them, as with gdcmconv --raw or dcmdjpeg.",
    )
    others = [each.modality for each in slices if each.modality not in ("CT", "")]
    shown = sorted({code if CODE.fullmatch(code) else "another" for code in others})
    refuse(
        len(others),
        f"are of modality {', '.join(shown)}; expected CT, whose numbers have a scale of their "
        "own. Choose a CT series.",
    )
    refuse(
        sum(each.frames != 1 for each in slices),
        "hold several frames (multi-frame); expected one slice in a file. Export the series as "
        "classic single-frame CT, or convert it to NIfTI.",
    )
    for tag, name in NEEDED.items():
        refuse(
            sum(not getattr(each, name) for each in slices),
            f"have no usable {tag}; expected it in each. Export the series again, or convert it "
            "to NIfTI.",
        )
    refuse(
        sum(not each.slope or not each.intercept or each.slope[0] <= 0 for each in slices),
        "have no rescale slope above 0 with an intercept; expected both, or their numbers are no "
        "Hounsfield units: water would be 1024 instead of 0. Export the original series again.",
    )
    refuse(
        sum(each.unit not in ("HU", "HU_MOD") for each in slices),
        "declare a RescaleType other than HU; expected Hounsfield units. Export the series of "
        "CT numbers.",
    )
    refuse(
        sum(each.colours == "MONOCHROME1" for each in slices),
        "are MONOCHROME1 (white is low); expected MONOCHROME2, since programs that write CT so "
        "differ in whether the numbers themselves are inverted. Export the original series.",
    )
    refuse(
        sum(each.samples != 1 or each.colours != "MONOCHROME2" for each in slices),
        "are pictures in colour or of no declared kind; expected MONOCHROME2. Screenshots and "
        "reports do not belong in the folder.",
    )
    refuse(
        sum(min(each.size) < 1 or min(each.spacing) <= 0 for each in slices),
        "have no pixels or pixels of no size; expected rows, columns and millimetres above 0. "
        "Export the series again.",
    )
    refuse(
        sum(not _right_angled(each.directions) for each in slices),
        "have rows and columns that are not at right angles; expected two unit vectors in "
        "ImageOrientationPatient. Export the series again.",
    )


def check_alike(slices: Sequence[Slice], series: Series) -> None:
    """Raise `DataError` unless all are of one series, size, spacing and orientation."""
    several = "expected one. Keep the series that was annotated, and move the others away."
    if (count := len({each.series for each in slices})) > 1:
        raise series.refused(f"its {len(slices)} files are of {count} series; {several}")
    if (count := len({each.size for each in slices})) > 1:
        raise series.refused(f"its {len(slices)} slices have {count} sizes in pixels; {several}")
    first = slices[0]
    for what, name in (("pixel spacing", "spacing"), ("orientation", "directions")):
        wanted = np.asarray(getattr(first, name))
        other = sum(np.abs(getattr(each, name) - wanted).max() > ALIKE for each in slices)
        if other:
            raise series.refused(
                f"{other} of {len(slices)} slices have another {what} than the first; expected "
                "the same. A localizer, or a second series, may be among them: move it away."
            )
    if (voxels := len(slices) * first.size[0] * first.size[1]) > MOST_VOXELS:
        raise series.refused(
            f"it has {voxels / 1e6:.0f} million voxels; expected at most {MOST_VOXELS / 1e6:g} "
            "million. Crop it to the abdomen."
        )


def check_positions(
    slices: Sequence[Slice], series: Series
) -> tuple[list[Slice], NDArray[np.float64]]:
    """The slices along their normal, and the way from one to the next: (3) float64 in mm.

    Raises `DataError` unless there are two or more at equal distances in one line.
    """
    total = len(slices)
    if total < 2:
        raise series.refused(
            "it holds 1 slice; expected two or more, since their distance gives the depth of a "
            "voxel. Export the whole series."
        )
    normal = np.cross(slices[0].directions[:3], slices[0].directions[3:])
    ordered = sorted(slices, key=lambda each: float(np.dot(each.position, normal)))
    places = np.array([each.position for each in ordered])
    steps = np.diff(places @ normal)
    if twice := int((steps < SAME).sum()):
        raise series.refused(
            f"{twice} of {total} slices lie where another one does; expected one at each place. "
            "Files may be there twice, or several phases or reconstructions in one series: keep "
            "one."
        )
    usual = float(np.median(steps))
    wide = steps > 1.5 * usual
    if wide.any():
        missing = int((np.rint(steps[wide] / usual) - 1).clip(1).sum())
        raise series.refused(
            f"about {missing} slice(s) are missing in {int(wide.sum())} gap(s) of up to "
            f"{steps.max():.4g} mm between {total} slices; expected the usual {usual:.4g} mm. Copy "
            "or export the whole series again."
        )
    step = (places[-1] - places[0]) / (total - 1)
    length = float(np.linalg.norm(step))
    if step @ normal < UPRIGHT * length:
        angle = np.degrees(np.arccos(step @ normal / length))
        raise series.refused(
            f"its slices are displaced against each other by {angle:.3g} degrees (a tilted "
            "gantry); expected a box. Convert it to NIfTI with the tilt corrected, as dcm2niix "
            "does."
        )
    away = np.linalg.norm(places - places[0] - np.outer(np.arange(total), step), axis=1)
    if uneven := int((away > UNEVEN * length).sum()):
        raise series.refused(
            f"{uneven} of {total} slices are up to {away.max():.3g} mm away from equal distances "
            f"of {length:.4g} mm; expected equal ones. Reconstruct or resample the series."
        )
    return ordered, step


def _right_angled(directions: Sequence[float]) -> bool:
    axes = np.reshape(directions, (2, 3))
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() <= ALIKE)
