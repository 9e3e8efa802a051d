"""Overlays: outlines where the mask ends, and numbers where several structures have to be told."""

import numpy as np
from scipy import ndimage

from medsa_model.predict.overlays import Plane, colour_of, draw_overlay

NUMBERS = np.zeros((60, 80), np.uint8)
NUMBERS[10:50, 5:35] = 1
NUMBERS[10:50, 45:75] = 2
PLANE = Plane(np.full((60, 80, 3), 100, np.uint8), NUMBERS, {})


def drawn(names: dict[int, str]) -> np.ndarray:
    """The picture alone, of 512 pixels across, without its legend."""
    return np.asarray(draw_overlay([PLANE], names, "click"))[:384].astype(int)


def test_outlines_lie_on_the_edge_of_each_structure():
    picture = drawn({0: "spleen", 1: "liver"})
    mask = np.kron(NUMBERS, np.ones((7, 7), np.uint8))  # 6.4 pixels there for one here, about
    mask = mask[np.linspace(0, 419, 384).astype(int)][:, np.linspace(0, 559, 512).astype(int)]
    for number in (1, 2):
        coloured = (picture == colour_of(number - 1)).all(-1)
        inside = mask == number
        edge = ndimage.binary_dilation(inside, iterations=5) & ~ndimage.binary_erosion(
            inside, iterations=8
        )
        assert coloured.sum() > 500 and not (coloured & ~edge).any()


def test_several_structures_have_their_numbers_on_them_and_one_has_none():
    several, single = drawn({0: "spleen", 1: "liver"}), drawn({0: "spleen"})
    differs = (several != single).any(-1)
    for number in (1, 2):
        place = ndimage.distance_transform_edt(number == NUMBERS).argmax()
        y, x = (np.array(np.unravel_index(place, NUMBERS.shape)) * 6.4).astype(int)
        near = np.zeros_like(differs)
        near[max(0, y - 20) : y + 20, max(0, x - 20) : x + 20] = True
        white = (several == 255).all(-1)
        assert (differs & near & white).any()
        differs &= ~near
    assert not differs.any()
