"""What a NIfTI file must be to be used, and the message for a file that is not.

Messages name the case and the file, never its folder.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsa_model.data.geometry import Geometry
from medsa_model.errors import DataError

MOST_VOXELS = 200_000_000  # 760 slices of 512 x 512; as float32 this is 800 MB
TOLERANCE = 1e-3  # mm, between the corners of an image and those of its labels
FLAT = 0.01  # volume spanned by the directions of the axes: 1 at right angles, 0 in one plane
AGAIN = "Copy or export it again."


@dataclass(frozen=True)
class NiftiFile:
    """The file of a case that is read; `what` is "image" or "label"."""

    path: Path
    case: str
    what: str

    def refused(self, problem: str) -> DataError:
        """The error that says what is wrong with the file; the caller raises it."""
        return DataError(f"case {self.case}: the {self.what} file {self.path.name} {problem}")


def check_shape(shape: tuple[int, ...], file: NiftiFile) -> None:
    """Raise `DataError` unless `shape` is that of one volume, trailing axes of length 1 allowed."""
    size = " x ".join(map(str, shape)) or "no"
    if any(length < 1 for length in shape):
        problem = f"expected at least one voxel along each axis. {AGAIN}"
    elif len(shape) < 3:
        problem = "expected a volume of three axes. Pictures belong in the layout folder."
    elif any(length > 1 for length in shape[3:]):
        problem = "expected one volume of three axes. Save the phase that is meant as its own file."
    elif np.prod([float(length) for length in shape]) > MOST_VOXELS:
        problem = f"expected at most {MOST_VOXELS / 1e6:g} million. Crop it to the abdomen."
    else:
        return
    raise file.refused(f"has {size} voxels; {problem}")


def check_affine(affine: NDArray[np.float64], oriented: bool, unit: str, file: NiftiFile) -> None:
    """Raise `DataError` unless the affine says where each voxel is, in mm."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all():
        problem = "has an affine that is not finite"
    elif not oriented:
        problem = "does not say how its axes lie in the patient (sform_code and qform_code are 0)"
    elif not (lengths > 0).all():
        problem = "has a singular affine: a voxel has no size"
    elif abs(np.linalg.det(affine[:3, :3] / lengths)) < FLAT:
        problem = "has a singular affine: its axes lie in one plane"
    elif unit not in ("mm", "unknown"):
        problem = f"measures in the unit {unit}"
    else:
        return
    raise file.refused(
        f"{problem}; expected an affine in mm with three independent axes, or left and right could "
        "be confused. Convert it again from DICOM."
    )


def check_same(
    image: Geometry, label: Geometry, file: NiftiFile, tolerance: float = TOLERANCE
) -> None:
    """Raise `DataError` unless the voxels of `label` lie on those of `image`.

    `tolerance` is the largest distance of their corners in mm.
    """
    if label.shape[:3] != image.shape[:3]:
        sizes = [" x ".join(map(str, geometry.shape[:3])) for geometry in (label, image)]
        raise file.refused(
            f"has {sizes[0]} voxels, the image {sizes[1]}; expected the same. Export the labels on "
            "the voxels of the image, or check that they belong together."
        )
    ends = ((0, length - 1) for length in image.shape[:3])
    corners = np.array([(*corner, 1) for corner in product(*ends)]).T
    away = float(np.linalg.norm((label.affine - image.affine) @ corners, axis=0).max())
    if away > tolerance:
        raise file.refused(
            f"lies elsewhere than the image: up to {away:.3g} mm apart by their affines (axes "
            f"{label.orientation} and {image.orientation}); expected at most {tolerance:g} mm. "
            "Export the labels on the voxels of the image."
        )
