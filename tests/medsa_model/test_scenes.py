"""Generated scenes: exact repetition, sane pixels, prompted objects that can be seen."""

import numpy as np
import pytest
from scipy import ndimage

from medsa_model.scenes import (
    LARGEST_PIECE,
    LEAST_CONTRAST,
    SMALLEST_OBJECT,
    Scene,
    generate_scene,
)


def test_a_scene_is_a_function_of_seed_and_index():
    one, two = generate_scene(1, 5, 64), generate_scene(1, 5, 64)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.objects, two.objects)
    assert not np.array_equal(one.image, generate_scene(1, 6, 64).image)
    assert not np.array_equal(one.image, generate_scene(2, 5, 64).image)


@pytest.mark.parametrize("index", range(8))
def test_pixels_and_prompted_objects(index):
    scene = generate_scene(3, index, 96)
    assert scene.image.shape == (3, 96, 96)
    assert scene.image.dtype == np.float32
    assert scene.image.min() >= 0
    assert scene.image.max() <= 255
    assert scene.prompted()
    for number in scene.prompted():
        inside = scene.objects == number
        assert inside.mean() > SMALLEST_OBJECT
        assert scene._contrast(number) > LEAST_CONTRAST
        pieces, _ = ndimage.label(inside)
        assert np.bincount(pieces[inside]).max() >= LARGEST_PIECE * inside.sum()


def test_an_object_cut_in_two_is_not_prompted():
    objects = np.zeros((96, 96), np.int16)
    objects[10:80, 10:40], objects[10:80, 50:80] = 1, 2
    image = np.where(objects == 0, 0, 200).astype(np.float32)[None].repeat(3, 0)
    assert Scene(image, objects).prompted() == [1, 2]
    objects[40:50, 10:40] = 0
    assert Scene(np.where(objects == 0, 0, image), objects).prompted() == [2]


def test_the_number_of_objects_can_be_set():
    assert generate_scene(4, 0, 96, objects=1).objects.max() == 1
