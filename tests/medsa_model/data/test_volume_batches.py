"""Batches of volumes: what is asked where, and that it is a function of the seed."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from medsa_model.data.frames import Batch, Frames
from medsa_model.data.sample import Case, Sample
from medsa_model.data.volume_batches import VolumeBatches, choose_run
from medsa_model.data.volume_frames import to_volume_frame
from medsa_model.prompts import Box, ByClass, Click, NoPrompt

SIZE = 16


def case(name: str, depth: int, shown: dict[int, range], labelled: tuple[bool, ...]) -> Case:
    """A volume whose slice z has the grey value 10 + z, and structure k on the slices shown[k]."""
    image = (10.0 + torch.arange(depth))[:, None, None].expand(3, -1, SIZE, SIZE)
    mask = torch.zeros(len(labelled), depth, SIZE, SIZE, dtype=torch.bool)
    for structure, slices in shown.items():
        for place in slices:
            mask[structure, place, 2 + structure : 6 + structure, 3:9] = True
    sample = Sample(image, mask, name, name, (1.0, 1.0, 1.0), labelled)
    return Case(name, name, None, None, lambda: sample, volume=True)


TWO = [
    case("a", 20, {0: range(3, 5), 1: range(12, 18)}, (True, True, True)),
    case("b", 20, {0: range(18, 20)}, (True, False, True)),
]


def batches(cases: list[Case] = TWO, *kinds: object, **changed: object) -> VolumeBatches:
    settings: dict[str, object] = {
        "steps": 6, "batch_size": 2, "prompts": 3, "augmented": False, "slices": 5,
        "seed": (1, 2, 0),
    }  # fmt: skip
    frames = Frames(cases, SIZE, lambda sample, size: to_volume_frame(sample, size, None))
    return VolumeBatches(frames, kinds or (Click(),), **settings | changed)  # type: ignore[arg-type]


def start_of(batch: Batch, number: int) -> int:
    """The first slice of volume `number`, read from its grey values."""
    return int(batch.image[number, 0, 0, 0, 0]) - 10


def same(one: Batch, other: Batch) -> bool:
    pairs = [(one.image, other.image), (one.mask, other.mask), (one.owner, other.owner),
             (one.prompt.points, other.prompt.points)]  # fmt: skip
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("augmented", [False, True])
def test_a_batch_is_a_function_of_seed_and_step(augmented):
    one, again = (batches(augmented=augmented) for _ in range(2))
    assert same(one[3], again[3]) and one[3].seed == again[3].seed  # whatever was drawn before
    others = [one[2], *(batches(augmented=augmented, seed=seed)[3]
                        for seed in ((9, 2, 0), (1, 9, 0), (1, 2, 9)))]  # fmt: skip
    assert not any(same(one[3], other) for other in others)
    assert len({one[3].seed, *(other.seed for other in others)}) == 5


def test_brightness_changes_and_grey_values_stay_in_range():
    plain, changed = batches()[0].image, batches(augmented=True)[0].image
    assert not torch.equal(plain, changed)
    assert changed.min() >= 0 and changed.max() <= 255


@pytest.mark.parametrize("depth", [1, 5, 20])
def test_a_run_lies_in_the_volume_around_a_slice_that_shows_something(depth):
    volume = to_volume_frame(TWO[0].load(), SIZE, None)
    rng = np.random.default_rng(0)
    starts = Counter(choose_run(volume, depth, rng) for _ in range(600))
    shown = {3, 4, *range(12, 18)}
    assert all(0 <= start <= 20 - depth for start in starts)
    assert all(shown & set(range(start, start + depth)) for start in starts)
    if depth == 5:  # every run that has such a slice can be drawn, at either end too
        expected = {s for s in range(16) if shown & set(range(s, s + 5))}
        assert set(starts) == expected
    if depth == 1:  # the small structure as often as the large one
        assert 200 < starts[3] + starts[4] < 400


def test_a_structure_that_is_not_annotated_draws_no_run():
    frame = to_volume_frame(TWO[0].load(), SIZE, None)
    hidden = replace(frame, labelled=torch.tensor([True, False, True]))
    starts = {choose_run(hidden, 1, np.random.default_rng(seed)) for seed in range(50)}
    assert starts == {3, 4}


def test_each_prompt_belongs_to_its_slice():
    made = batches()
    for step in range(len(made)):
        batch = made[step]
        assert batch.image.shape == (2, 3, 5, SIZE, SIZE)
        assert len(batch.owner) == len(batch.mask) == len(batch.prompt)
        for row, (owner, mask) in enumerate(zip(batch.owner.tolist(), batch.mask, strict=True)):
            number, place = divmod(owner, 5)
            volume = made.frames[int(made.order[step][number])]
            truth = [volume.mask(k)[start_of(batch, number) + place] for k in range(3)]
            assert any(torch.equal(mask, plane) and bool(plane.any()) for plane in truth)
            x, y = batch.prompt.points[row, 0].int().tolist()
            assert mask[y, x] and batch.prompt.labels[row].tolist() == [1]
        assert batch.prompt.classes is None


def test_names_are_asked_on_every_slice_of_the_run_and_of_annotated_structures_alone():
    made = batches(TWO, ByClass(), steps=20)
    asked: dict[str, set[int]] = {"a": set(), "b": set()}
    for step in range(len(made)):
        batch = made[step]
        assert batch.owner.tolist() == [*list(range(5)) * 3, *list(range(5, 10)) * 3]
        assert batch.prompt.points.shape[1] == 0 and batch.prompt.boxes is None
        assert batch.prompt.classes is not None
        for owner, structure, mask in zip(
            batch.owner.tolist(), batch.prompt.classes.tolist(), batch.mask, strict=True
        ):
            number, place = divmod(owner, 5)
            index = int(made.order[step][number])
            truth = made.frames[index].mask(structure)[start_of(batch, number) + place]
            assert torch.equal(mask, truth)
            asked[TWO[index].case].add(structure)
    assert asked == {"a": {0, 1, 2}, "b": {0, 2}}  # structure 2 is annotated, and nowhere


def test_without_any_prompt_every_slice_of_the_run_is_asked_and_no_name():
    batch = batches(TWO[:1], NoPrompt(), prompts=1)[0]
    assert batch.owner.tolist() == [0, 1, 2, 3, 4] and batch.prompt.classes is None
    assert batch.prompt.points.shape == (5, 0, 2) and batch.prompt.boxes is None


def test_kinds_are_mixed_and_drawn_by_weight():
    made = batches(TWO, Click(), ByClass(weight=3), steps=100, batch_size=1, prompts=1)
    named = [made[step].prompt.classes is not None for step in range(100)]
    assert 60 < sum(named) < 90


@pytest.mark.parametrize("kind", [Click(), Box(), ByClass()])
def test_a_volume_about_which_nothing_is_known_gives_an_empty_question(kind):
    nothing = case("c", 8, {}, (False, False))
    batch = batches([nothing], kind)[0]
    assert batch.image.shape == (1, 3, 5, SIZE, SIZE)
    assert batch.owner.tolist() == [0] and not batch.mask.any()
    assert batch.prompt.points.shape == (1, 0, 2)
    assert batch.prompt.boxes is None and batch.prompt.classes is None


def test_an_empty_volume_beside_another_one_is_not_asked_about():
    nothing = case("c", 20, {}, (True, True, True))
    batch = batches([TWO[0], nothing], Click())[0]
    empty = 1 if int(batch.owner[0]) < 5 else 0
    assert set((batch.owner // 5).tolist()) == {1 - empty}


def test_a_batch_is_as_deep_as_its_shortest_volume():
    short = case("s", 3, {0: range(1, 2)}, (True, True, True))
    batch = batches([TWO[0], short])[0]
    assert batch.image.shape == (2, 3, 3, SIZE, SIZE)
    assert int(batch.owner.max()) < 6
    assert batches([short], batch_size=1)[0].image.shape[2] == 3


def test_every_case_is_used_before_one_is_used_again():
    cases = [case(name, 6, {0: range(6)}, (True,)) for name in "abcde"]
    order = np.concatenate([batches(cases, seed=(1, 2, round_)).order.ravel() for round_ in (0, 1)])
    assert [sorted(order[n : n + 5]) for n in range(0, 20, 5)] == [[0, 1, 2, 3, 4]] * 4


def test_keys_are_of_slices_and_there_are_none_with_brightness():
    made = batches()
    for step in range(len(made)):
        batch = made[step]
        grey = batch.image[:, 0, :, 0, 0].flatten().tolist()
        numbers = [int(n) for n in made.order[step] for _ in range(5)]
        assert batch.keys == tuple(
            f"{int(value) - 10}:{TWO[number].case}"
            for value, number in zip(grey, numbers, strict=True)
        )
    assert batches(augmented=True)[0].keys == ()
