"""`volumes.csv`: sizes in mm of what was found."""

import numpy as np
import pytest
import torch

from medsa_model.data.geometry import Geometry
from medsa_model.predict.results import Size, sizes_of, volumes_csv


def test_the_area_of_a_sheared_slice_is_that_of_parallelograms():
    affine = np.array([[-2.0, -1, 0, 9], [0, 2.5, 0, 5], [0, 0.75, 4, 1], [0, 0, 0, 1]])
    numbers = torch.zeros(6, 20, 24, dtype=torch.uint8)
    numbers[2, 3:8, 4:11] = 1
    (size,) = sizes_of("a", numbers, [0], ["liver"], ["none"], Geometry((24, 20, 6), affine))
    side, other = affine[:3, 0], affine[:3, 1]
    cosine = side @ other / np.linalg.norm(side) / np.linalg.norm(other)
    pixel = np.linalg.norm(side) * np.linalg.norm(other) * np.sin(np.arccos(cosine))
    assert size.area_mm2 == pytest.approx(35 * pixel) and abs(cosine) > 0.3


def test_numbers_have_no_exponent_and_six_digits():
    size = Size("a", "liver", 79926, 22528.123456, 1213876.54, 46, "by name")
    assert volumes_csv([size]).decode().splitlines()[1] == (
        "a,liver,79926,22528.1,1213880,46,by name"
    )
    size = Size("a", "liver", 1, 0.000012345678, None, None, "by name")
    assert volumes_csv([size]).decode().splitlines()[1] == "a,liver,1,0.0000123457,,,by name"
