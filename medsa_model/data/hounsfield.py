"""CT numbers (Hounsfield units, HU) as grey values of a picture."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WINDOW = (-175.0, 250.0)  # HU; soft tissue and contrast agent, as is usual for BTCV


def to_grey(volume: NDArray[np.float32], window: tuple[float, float] = WINDOW) -> Tensor:
    """`volume (D, H, W)` in HU as `(3, D, H, W) float32 in [0, 255]`, three times the same memory.

    `window` (lowest, highest) goes linearly to (0, 255); what is beyond is clipped.
    """
    lowest, highest = window
    grey = np.clip(volume, lowest, highest)
    grey -= np.float32(lowest)
    grey *= np.float32(255 / (highest - lowest))
    np.clip(grey, 0, 255, out=grey)  # rounding
    return torch.from_numpy(grey).expand(3, -1, -1, -1)
