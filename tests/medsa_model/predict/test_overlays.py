"""Overlays: outlines where the mask ends, and numbers where several structures have to be told."""

import numpy as np
from scipy import ndimage

from medsa_model.predict.legend import colour_of
from medsa_model.predict.overlays import Plane, draw_overlay

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


def test_what_is_lost_in_a_smaller_picture_is_a_dot_beside_its_number():
    numbers = np.zeros((2400, 1800), np.uint8)
    numbers[600, 900] = 1
    numbers[1200, 300:303] = 2
    numbers[1500:2100, 600:1500] = 2
    plane = Plane(np.full((2400, 1800, 3), 100, np.uint8), numbers, {})
    picture = np.asarray(draw_overlay([plane], {0: "nodule", 1: "cyst"}, "case")).astype(int)
    scale = 1024 / 2400
    for number, y, x in ((1, 600, 900), (2, 1200, 301)):
        row, column = int((y + 0.5) * scale), int((x + 0.5) * scale)
        near = picture[row - 8 : row + 9, column - 8 : column + 9]
        coloured = (near == colour_of(number - 1)).all(-1)
        assert coloured[8, 8] and 9 <= coloured.sum() <= 15
        assert (near[coloured.any(1)] == 0).all(-1).any()  # black around it


def test_words_of_a_narrow_picture_can_be_read():
    slim = Plane(
        np.full((300, 6, 3), 100, np.uint8), np.ones((300, 6), np.uint8), {}, words="slice 12"
    )
    for planes in ([slim], [slim] * 3, [Plane(np.zeros((1, 500, 3), np.uint8), NUMBERS[:1], {})]):
        words = "scan · prompt: box 1,2,3,4,5 · seen from the feet"
        picture = draw_overlay(planes, {0: "spleen", 1: "liver"}, words)
        wide = draw_overlay([PLANE], {0: "spleen", 1: "liver"}, words)
        lines = 2 * 24 + 4
        legend = np.asarray(picture)[-lines:, :512]
        assert np.array_equal(legend, np.asarray(wide)[-lines:, :512])
    head = np.asarray(draw_overlay([slim], {0: "spleen"}, ""))[:24]
    assert (head[:, 20:70] < 100).all(-1).any()  # the words go on beside the picture


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
