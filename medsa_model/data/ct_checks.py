"""What is implausible about a CT volume that can be read all the same: reasons for a warning.

A volume in other numbers than Hounsfield units gives pictures, too, and a model learns from them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

AIR = -500.0  # HU; air has -1000, and every scan of a body shows some around it or in its bowels
MOST_OUTSIDE = 0.99  # of the voxels, on one side of the window
SPACING_MM = (0.1, 20.0)


def implausible(
    voxels: NDArray[np.float32], spacing_mm: Sequence[float], window: tuple[float, float]
) -> tuple[str, ...]:
    """What a warning says about `voxels (D, H, W)`, which should be in HU; empty: nothing.

    `spacing_mm` (slice, row, column); `window` (lowest, highest) in HU, as `hounsfield.to_grey`
    takes it.
    """
    lowest, highest = window
    said = []
    for where, share in (
        (f"below the window ({lowest:g} HU)", float((voxels < lowest).mean())),
        (f"above the window ({highest:g} HU)", float((voxels > highest).mean())),
    ):
        if share > MOST_OUTSIDE:
            said.append(
                f"{100 * share:.3g} % of its voxels lie {where}: almost nothing can be seen"
            )
    least, most = float(voxels.min()), float(voxels.max())
    if least == most:
        said.append(
            f"every voxel has the same value ({least:g}), so that nothing can be seen: its export "
            "may have failed"
        )
    elif least >= AIR:
        said.append(
            f"no voxel is below {AIR:g} HU (the lowest is {least:g}), as if there were no air: the "
            "numbers may be shifted, or no Hounsfield units"
        )
    if not all(SPACING_MM[0] <= step <= SPACING_MM[1] for step in spacing_mm):
        said.append(
            f"its voxels measure {' x '.join(f'{step:.3g}' for step in spacing_mm)} mm, expected "
            f"{SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm: the unit may be another"
        )
    return tuple(said)
