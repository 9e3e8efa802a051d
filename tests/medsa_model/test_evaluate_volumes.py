"""Segmenting volumes: who is asked what on which slice, and that answers fit the file."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import medsa_model.evaluate_volumes
from medsa_model.backbone import load_base
from medsa_model.config import RunConfig, validate
from medsa_model.data.phantom import Phantom
from medsa_model.data.sample import Sample
from medsa_model.data.volume_frames import FramedVolume, to_volume_frame
from medsa_model.errors import ConfigError
from medsa_model.evaluate import evaluate
from medsa_model.evaluate_volumes import (
    NOTHING,
    Volume,
    ask,
    predict_volume,
    present_in_volume,
    prompts_of,
)
from medsa_model.prompts import Box, ByClass, Click, Clicks, NoPrompt, Row

SIZE = 12
Asked = tuple[list[int], list[Row], int]


def framed(*widths: int) -> FramedVolume:
    """Two structures; the second is a bar of 3 x `widths[z]` pixels on slice z."""
    mask = torch.zeros(2, len(widths), SIZE, SIZE, dtype=torch.bool)
    mask[0, 0, 0, 0] = True
    for place, width in enumerate(widths):
        mask[1, place, 4:7, :width] = True
    image = torch.zeros(3, len(widths), SIZE, SIZE)
    return to_volume_frame(Sample(image, mask, "c", "c", (1.0, 1.0, 1.0)), SIZE, None)


class Oracle:
    """A stub of the model: answers with the truth, and notes what it was asked."""

    def __init__(self, volume: FramedVolume, structure: int = 1) -> None:
        self.planes = volume.mask(structure)
        self.asked: list[Asked] = []

    def __call__(self, places: Sequence[int], rows: Sequence[Row], structure: int) -> Tensor:
        self.asked.append((list(places), list(rows), structure))
        assert len(places) == len(rows)
        return torch.where(self.planes[list(places)], 5.0, -5.0)


def test_a_drawn_prompt_asks_on_the_slices_that_show_the_structure_alone():
    volume = framed(0, 4, 0, 8, 2)
    oracle = Oracle(volume)
    logits = ask(Click(), volume, 1, np.random.default_rng(0), oracle)
    ((places, rows, structure),) = oracle.asked
    assert (places, structure) == ([1, 3, 4], -1)
    for place, (((x, y),), labels, box) in zip(places, rows, strict=True):
        assert volume.mask(1)[place, int(y), int(x)] and labels == [1] and box is None
    assert torch.equal(logits > 0, volume.mask(1))
    assert logits[[0, 2]].eq(NOTHING).all()


def test_a_name_asks_on_every_slice():
    volume = framed(0, 4, 0)
    oracle = Oracle(volume)
    logits = ask(ByClass(), volume, 1, np.random.default_rng(0), oracle)
    assert oracle.asked == [([0, 1, 2], [([], [], None)] * 3, 1)]
    assert torch.equal(logits, torch.where(volume.mask(1), 5.0, -5.0))


def test_without_any_prompt_every_slice_is_asked_and_no_name():
    volume = framed(0, 4, 0)
    oracle = Oracle(volume)
    ask(NoPrompt(), volume, 1, np.random.default_rng(0), oracle)
    assert oracle.asked == [([0, 1, 2], [([], [], None)] * 3, -1)]


def test_a_followed_prompt_starts_at_the_largest_area_and_goes_both_ways():
    volume = framed(3, 4, 9, 5, 2)
    oracle = Oracle(volume)
    logits = ask(Click(followed=True), volume, 1, np.random.default_rng(0), oracle)
    assert [places for places, _, _ in oracle.asked] == [[2], [3], [4], [1], [0]]
    assert all(structure == -1 for _, _, structure in oracle.asked)
    rows = [rows[0] for _, rows, _ in oracle.asked]
    assert rows[0][1] == [1] and rows[0][2] is None  # the only drawn prompt
    # the box around what was found on the slice before: x0, y0, x1, y1
    boxes = [(0, 4, 8, 6), (0, 4, 4, 6), (0, 4, 8, 6), (0, 4, 3, 6)]
    assert rows[1:] == [([], [], box) for box in boxes]
    assert torch.equal(logits > 0, volume.mask(1))


def test_a_followed_answer_ends_where_hardly_anything_is_found():
    volume = framed(6, 0, 7, 1, 5)
    oracle = Oracle(volume)
    logits = ask(Box(followed=True), volume, 1, np.random.default_rng(0), oracle)
    # slice 3 has 3 pixels, fewer than lead on; on slice 1 there is nothing
    assert [places for places, _, _ in oracle.asked] == [[2], [3], [1]]
    assert logits[[0, 4]].eq(NOTHING).all() and logits[3].max() > 0
    lonely = framed(7)
    assert torch.equal(ask(Box(followed=True), lonely, 1, np.random.default_rng(0),
                           Oracle(lonely))[0] > 0, lonely.mask(1)[0])  # fmt: skip


@pytest.mark.parametrize("kind", [Click(), Clicks(), Box(overlap=0.6), Click(followed=True)])
def test_prompts_are_a_function_of_seed_structure_and_case(kind):
    volume = framed(2, 5, 9)

    def rows(seed: int, structure: int, case: str) -> list[Row]:
        oracle = Oracle(volume)
        ask(kind, volume, 1, prompts_of(seed, structure, case), oracle)
        return [row for _, rows, _ in oracle.asked for row in rows]

    assert rows(0, 1, "a") == rows(0, 1, "a")
    others = [rows(*given) for given in ((1, 1, "a"), (0, 2, "a"), (0, 1, "b"))]
    assert sum(other != rows(0, 1, "a") for other in others) >= 2


def test_what_is_unknown_or_absent_or_lost_in_the_frame_is_not_asked_for():
    mask = torch.zeros(4, 6, 40, 40, dtype=torch.bool)
    mask[0, 1:5, 4:20, 4:20] = True  # there
    mask[1, 1, 4:20, 4:20] = True  # not annotated
    mask[3, 2, 5, 5] = True  # on one slice, which the frame does not have when it has two
    sample = Sample(torch.zeros(3, 6, 40, 40), mask, "c", "c", (1.0, 1.0, 1.0),
                    (True, False, True, True))  # fmt: skip
    assert present_in_volume(sample, to_volume_frame(sample, 40, None)) == [0, 3]
    assert present_in_volume(sample, to_volume_frame(sample, 40, 3.0)) == [0]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"slices": 0}, "volume.slices"),
        ({"slices": 4, "overlap": 4}, r"overlap is 4, expected less than volume.slices \(4\)"),
        ({"overlap": -1}, "volume.overlap"),
        ({"slice_distance": 0}, "volume.slice_distance"),
        ({"slice_distance": float("inf")}, "volume.slice_distance"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(keys, expected):
    content = {"name": "x", "data": {"kind": "phantom"}, "volume": keys}
    with pytest.raises(ConfigError, match=expected):
        validate(RunConfig, content, [], "f")
    assert Volume(slices=1, overlap=0).slices == 1


PHANTOM = Phantom(
    sites=1, cases_per_site=1, size=40, slices=8, classes=("liver", "aorta", "spleen")
)
KINDS = (Box(), Click(followed=True), ByClass())


@pytest.fixture(scope="module")
def model():
    base = load_base("vit_tiny", 48, None, "pretrained", 0)
    base.model.learn_classes(3, 0)
    return base.model.eval()


@pytest.fixture(scope="module")
def predictions(model):
    (case,) = PHANTOM.open()
    return predict_volume(model, case, KINDS, 0, "float32", Volume(slices=8, overlap=2))


def test_answers_have_the_shape_of_the_file(predictions):
    sample = PHANTOM.open()[0].load()
    assert [each.prompt for each in predictions] == ["box", "click followed", "class"]
    for each in predictions:
        assert each.found.shape == each.truth.shape == (3, 8, 40, 40)
        assert each.found.dtype == torch.bool and torch.equal(each.truth, sample.mask)
        assert each.structures == (0, 1, 2) and each.spacing_mm == sample.spacing_mm
    box = predictions[0]
    shown = box.truth.flatten(2).any(2)
    assert not shown.all() and not box.found.flatten(2).any(2)[~shown].any()
    overlap = 2 * (box.found & box.truth).sum() / (box.found.sum() + box.truth.sum())
    assert overlap > 0.5  # boxes at the right places: another order or axis finds nothing


@pytest.mark.parametrize(("slices", "overlap"), [(1, 0), (3, 1), (100, 2)])
def test_chunks_change_nothing_when_slices_know_nothing_of_each_other(
    model, predictions, slices, overlap
):
    (case,) = PHANTOM.open()
    cut = Volume(slices=slices, overlap=overlap)
    for kind, whole in zip(KINDS[::2], predictions[::2], strict=True):
        (found,) = predict_volume(model, case, [kind], 0, "float32", cut)
        assert (found.found ^ whole.found).sum() <= 3  # voxels on the very threshold


def test_other_slices_are_asked_and_the_answer_fits_the_file(model):
    (case,) = PHANTOM.open()
    cut = Volume(slices=4, overlap=1, slice_distance=60.0)
    (found,) = predict_volume(model, case, [Box()], 0, "float32", cut)
    assert found.found.shape == (3, 8, 40, 40) and found.found.any()


def test_unlabelled_structures_are_not_scored(model):
    (case,) = PHANTOM.open()
    sample = replace(case.load(), labelled=(False, True, False))
    cut = Volume()

    def segment(*given):
        return predict_volume(*given, volume=cut)

    known = replace(case, load=lambda: sample)
    unknown = replace(case, load=lambda: replace(sample, labelled=(False,) * 3))
    evaluation = evaluate(model, [known, unknown], [Box(), ByClass()], 0, "float32", segment)
    assert [(row.prompt, row.structure) for row in evaluation.rows] == [("box", 1), ("class", 1)]
    assert evaluation.empty == 1
    assert all(row.hd95 is not None and row.nsd is not None for row in evaluation.rows)


def test_it_does_not_matter_how_many_slices_are_decoded_at_once(model, predictions, monkeypatch):
    monkeypatch.setattr(medsa_model.evaluate_volumes, "TOGETHER", 3)
    (case,) = PHANTOM.open()
    for kind, whole in zip(KINDS, predictions, strict=True):
        (found,) = predict_volume(model, case, [kind], 0, "float32", Volume())
        assert (found.found ^ whole.found).sum() <= 3  # voxels on the very threshold
