"""The parts of a batch hold all of it, each prompt with its own image."""

import pytest
import torch

from medsa_model.data.batch_parts import parts_of
from medsa_model.data.frames import Batch
from medsa_model.prompts import Prompt


def batch(owner: list[int], images: int, slices: int = 0) -> Batch:
    """Image n has the value n everywhere (slice d of volume b: b * slices + d), and prompt k has
    the point (k, owner)."""
    count = len(owner)
    value = torch.arange(float(images * max(slices, 1)))
    shape = (images, 1, slices, 1, 1) if slices else (images, 1, 1, 1)
    image = value.view(shape).expand(images, 3, *shape[2:-2], 4, 4)
    points = torch.tensor([[[float(k), float(o)]] for k, o in enumerate(owner)])
    prompt = Prompt(
        points, torch.ones(count, 1, dtype=torch.int64), points.flatten(1).repeat(1, 2),
        torch.arange(count),
    )  # fmt: skip
    mask = (torch.arange(count) % 2 == 0)[:, None, None].expand(count, 4, 4)
    keys = tuple(f"k{int(v)}" for v in value)
    return Batch(image, mask, prompt, torch.tensor(owner), (1, 2), keys)


def check(whole: Batch, parts: list[Batch]) -> None:
    seen = []
    for part in parts:
        image = part.image.transpose(1, 2).flatten(0, 1) if part.image.dim() == 5 else part.image
        assert part.seed == whole.seed
        assert [f"k{int(each[0, 0, 0])}" for each in image] == list(part.keys)
        for row, owner in enumerate(part.owner.tolist()):
            number, of = (int(v) for v in part.prompt.points[row, 0])
            assert image[owner].eq(of).all()
            assert bool(part.mask[row].all()) == (number % 2 == 0)
            assert part.prompt.labels[row].tolist() == [1]
            assert part.prompt.boxes is not None and part.prompt.classes is not None
            assert part.prompt.boxes[row].tolist() == [number, of, number, of]
            assert int(part.prompt.classes[row]) == number
            seen.append(number)
    assert seen == [*range(len(whole.owner))]  # each once, in their order


@pytest.mark.parametrize(("count", "sizes"), [(1, [5]), (2, [2, 3]), (3, [1, 2, 2]), (9, [1] * 5)])
def test_images_are_dealt_in_their_order(count, sizes):
    whole = batch([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 5)
    parts = parts_of(whole, count)
    assert [len(part.image) for part in parts] == sizes
    check(whole, parts)


def test_volumes_stay_whole_and_may_differ_in_prompts():
    whole = batch([0, 1, 2, 0, 1, 3, 8, 7], 3, slices=3)
    parts = parts_of(whole, 3)
    assert [len(part.owner) for part in parts] == [5, 1, 2]
    assert [part.image.shape for part in parts] == [(1, 3, 3, 4, 4)] * 3
    check(whole, parts)


def test_a_part_without_prompts_is_left_out():
    whole = batch([0, 1, 7], 3, slices=3)
    assert [list(part.keys) for part in parts_of(whole, 3)] == [["k0", "k1", "k2"],
                                                              ["k6", "k7", "k8"]]  # fmt: skip


def test_what_is_missing_stays_missing():
    points = torch.zeros(2, 0, 2)
    prompt = Prompt(points, torch.zeros(2, 0, dtype=torch.int64))
    whole = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4), prompt, torch.arange(2))
    for part in parts_of(whole, 2):
        assert part.prompt.boxes is None and part.prompt.classes is None and part.keys == ()
