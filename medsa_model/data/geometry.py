"""Geometry: from the axes of a volume's file to the frame of `Sample`, and back.

In the frame slices go from inferior to superior, rows from anterior to posterior, columns from the
patient's right to left. Axes are exchanged and mirrored, voxels never interpolated.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

FRAME = orientations.axcodes2ornt(("S", "P", "L"))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class Geometry:
    """How the voxels of a file lie in the patient.

    `shape` as in the file, with trailing axes of length 1 if it has any; `affine (4, 4) float64`
    from voxel numbers to mm to the right, anterior and superior, not singular.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @property
    def orientation(self) -> str:
        """nibabel's codes of the file's axes, such as LAS: where each of them leads."""
        return "".join(orientations.ornt2axcodes(self._axes))  # type: ignore[no-untyped-call]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels in the frame: (slice, row, column)."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        turn = orientations.ornt_transform(self._axes, FRAME)  # type: ignore[no-untyped-call]
        slice_, row, column = lengths[np.argsort(turn[:, 0])].tolist()
        return slice_, row, column

    def to_frame(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Voxels in the axes of the file as (D, H, W) in the frame."""
        turn = orientations.ornt_transform(self._axes, FRAME)  # type: ignore[no-untyped-call]
        volume = voxels.reshape(self.shape[:3])
        turned = orientations.apply_orientation(volume, turn)  # type: ignore[no-untyped-call]
        return np.ascontiguousarray(turned)

    def from_frame(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Voxels (D, H, W) of the frame in the axes and the shape of the file."""
        turn = orientations.ornt_transform(FRAME, self._axes)  # type: ignore[no-untyped-call]
        turned = orientations.apply_orientation(voxels, turn)  # type: ignore[no-untyped-call]
        return np.ascontiguousarray(turned).reshape(self.shape)

    def in_frame(self) -> "Geometry":
        """The same voxels as `to_frame` gives them: of shape (D, H, W), with their affine."""
        turn = orientations.ornt_transform(self._axes, FRAME)  # type: ignore[no-untyped-call]
        box = self.shape[:3]
        back = orientations.inv_ornt_aff(turn, box)  # type: ignore[no-untyped-call]
        slices, rows, columns = (box[axis] for axis in np.argsort(turn[:, 0]))
        return Geometry((slices, rows, columns), self.affine @ back)

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        return np.asarray(orientations.io_orientation(self.affine))  # type: ignore[no-untyped-call]
