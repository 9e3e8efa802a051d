"""Training examples: a scene is used several times, and its masks turn with its image."""

import numpy as np

from medsa_model.scene_examples import WINDOW, SceneExamples


def examples(**more: object) -> SceneExamples:
    settings = {"seed": 3, "length": 4 * WINDOW, "size": 48, "prompts": 3, "uses": 2}
    return SceneExamples(**{**settings, "curriculum": 0, **more})


def pixels(image: np.ndarray) -> list[tuple[float, ...]]:
    return sorted(map(tuple, image.reshape(3, -1).T.tolist()))


def test_an_example_does_not_depend_on_what_was_read_before():
    fresh, used = examples(), examples()
    for index in (0, 5, WINDOW + 5, 2 * WINDOW + 5):
        used[index]
    image, masks, rows = fresh[5]
    again, same_masks, same_rows = used[5]
    assert np.array_equal(image, again) and np.array_equal(masks, same_masks) and rows == same_rows


def test_a_scene_comes_back_turned_and_is_then_replaced():
    data = examples()
    first, second, third = (data[5 + number * WINDOW][0].numpy() for number in range(3))
    assert pixels(first) == pixels(second)  # the same scene
    assert pixels(first) != pixels(third)
    looks = {
        data[i + WINDOW][0].numpy().tobytes() == data[i][0].numpy().tobytes() for i in range(8)
    }
    assert False in looks  # not always in the same position


def test_masks_lie_on_their_objects_whatever_the_turn():
    data = examples(uses=1)
    for index in range(8):
        image, masks, rows = data[index]
        whole = data._paint(index)
        objects = [pixels(whole.image[:, whole.objects == n]) for n in whole.prompted()]
        for mask, (points, _, box) in zip(masks.numpy(), rows, strict=True):
            assert pixels(image.numpy()[:, mask]) in objects
            for x, y in points:
                assert mask[int(y), int(x)]
            assert bool(points) != (box is not None)


def test_objects_become_more_over_the_curriculum():
    data = examples(curriculum=1.0, uses=1)
    early = max(data._paint(n).objects.max() for n in range(10))
    late = max(data._paint(4 * WINDOW - 1 - n).objects.max() for n in range(10))
    assert early == 1 and late > 4
