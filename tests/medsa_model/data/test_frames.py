"""Frames of cases: who comes when, what is read and when, and by which key it is known."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from medsa_model.data.frames import Batch, Frames, TrainingBatches, round_order
from medsa_model.data.sample import Case, Sample
from medsa_model.data.synthetic import Synthetic
from medsa_model.data.transforms import to_frame
from medsa_model.errors import DataError
from medsa_model.prompts import Box, ByClass, Click


@pytest.mark.parametrize(("cases", "steps", "batch_size"), [(5, 3, 2), (4, 2, 4), (3, 2, 8)])
def test_rounds_cut_one_list_of_shuffled_passes(cases, steps, batch_size):
    passes = [np.random.default_rng((7, 2, 0, number)).permutation(cases) for number in range(9)]
    whole = np.concatenate(passes).tolist()
    size = min(batch_size, cases)
    for round_ in range(4):
        order = round_order(cases, steps, batch_size, (7, 2, round_))
        assert order.shape == (steps, size)
        for step in range(steps):
            first = (round_ * steps + step) * size
            assert order[step].tolist() == whole[first : first + size]


def cases_of(count: int, reads: list[str], broken: tuple[int, ...] = ()) -> list[Case]:
    def load(number: int) -> Sample:
        time.sleep(0.002 * (count - number))  # the last is ready first
        reads.append(f"c{number}")
        if number in broken:
            raise DataError(f"case c{number} is broken")
        return Sample(torch.full((3, 8, 8), float(number)), torch.ones(1, 8, 8).bool(), "c", "p")

    return [Case(f"c{n}", f"c{n}", None, None, partial(load, n)) for n in range(count)]


@pytest.mark.parametrize("threads", [0, 4])
def test_each_case_is_read_once_and_is_itself(threads):
    reads: list[str] = []
    frames = Frames(cases_of(6, reads), 8, to_frame, threads=threads)
    frames.read([3, 1, 3])
    assert sorted(reads) == ["c1", "c3"]
    frames.read(range(6))
    frames.read(range(6))
    assert sorted(reads) == [f"c{number}" for number in range(6)]
    assert [int(frames[number].image[0, 0, 0]) for number in range(6)] == [*range(6)]
    assert len(reads) == 6


def test_batches_that_are_prepared_at_once_read_each_case_once():
    reads: list[str] = []
    frames = Frames(cases_of(5, reads), 8, to_frame, threads=2)
    batches = TrainingBatches(frames, (Click(),), 20, 3, 1, True, (0, 0, 0))
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(batches.__getitem__, range(20)))
    assert sorted(reads) == [f"c{number}" for number in range(5)]
    alone = TrainingBatches(Frames(cases_of(5, []), 8, to_frame), (Click(),), 20, 3, 1, True,
                            (0, 0, 0))  # fmt: skip
    for step, batch in enumerate(together):
        assert torch.equal(batch.image, alone[step].image) and batch.keys == alone[step].keys
        assert torch.equal(batch.prompt.points, alone[step].prompt.points)


@pytest.mark.parametrize("threads", [0, 4])
def test_of_several_broken_cases_the_first_is_told_and_the_others_can_be_read(threads):
    frames = Frames(cases_of(6, [], (2, 4)), 8, to_frame, threads=threads)
    with pytest.raises(DataError, match="case c2 is broken"):
        frames.read(range(6))
    with pytest.raises(DataError, match="case c4 is broken"):
        frames[4]
    assert int(frames[5].image[0, 0, 0]) == 5


def test_equal_keys_have_equal_pixels_and_the_variant_is_in_the_key():
    cases = Synthetic(sites=1, cases_per_site=2, size=64).open()
    frames = Frames(cases, 16, to_frame)
    batches = TrainingBatches(frames, (Click(),), 30, 2, 1, True, (0, 0, 0))
    seen: dict[str, torch.Tensor] = {}
    for step in range(30):
        for key, image in zip(batches[step].keys, batches[step].image, strict=True):
            assert torch.equal(seen.setdefault(key, image), image)
    assert len(seen) == 16  # eight variants of two cases
    pictures = {picture.numpy().tobytes() for picture in seen.values()}
    assert len(pictures) == 16
    plain = TrainingBatches(frames, (Click(),), 1, 2, 1, False, (0, 0, 0))[0]
    assert sorted(plain.keys) == sorted(f"0:{case.case}" for case in cases)


def test_for_cuda_every_tensor_of_a_batch_is_pinned_and_for_others_none(monkeypatch):
    """A copy stands for what CUDA would give."""
    cases = Synthetic(sites=1, cases_per_site=2, size=64).open()
    kinds = (Click(), Box(), ByClass())
    batch = TrainingBatches(Frames(cases, 32, to_frame), kinds, 1, 2, 4, False, (0, 1, 0))[0]
    assert batch.pinned(torch.device("cpu")) is batch
    made: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        made.append(tensor.clone())
        return made[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    pinned = batch.pinned(torch.device("cuda"))
    for one, other in zip(tensors_of(pinned), tensors_of(batch), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
        assert any(one is each for each in made)
    assert (pinned.seed, pinned.keys) == (batch.seed, batch.keys)


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    prompt = batch.prompt
    assert prompt.boxes is not None and prompt.classes is not None
    return [
        batch.image, batch.mask, batch.owner, prompt.points, prompt.labels, prompt.boxes,
        prompt.classes,
    ]  # fmt: skip
