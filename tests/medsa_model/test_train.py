"""fit(): reproducible, its batches cover all cases, FedProx pulls, the base stays frozen."""

import dataclasses

import numpy as np
import pytest
import torch

from medsa_model.adapters import Full, Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.data.batch_parts import parts_of
from medsa_model.data.frames import Batch, Frames, TrainingBatches
from medsa_model.data.phantom import Phantom
from medsa_model.data.sample import Case, Sample
from medsa_model.data.synthetic import Synthetic
from medsa_model.data.transforms import to_frame
from medsa_model.data.volume_batches import VolumeBatches
from medsa_model.data.volume_frames import to_volume_frame
from medsa_model.errors import DataError
from medsa_model.losses import Loss
from medsa_model.prompts import Box, ByClass, Click, corrected
from medsa_model.state import adapter_state, load_adapter_state
from medsa_model.train import Train, batch_loss, correction_draws, fit

KINDS = (Click(), Box(overlap=0.75))


@pytest.fixture(scope="module")
def frames() -> Frames:
    cases = Synthetic(sites=1, cases_per_site=6).open()
    return Frames(cases, 48, to_frame)


@pytest.fixture
def model(tiny):
    Msa().inject(tiny.model, 0)
    return tiny.model


def run(model, frames, seed=(0, 1, 0), steps=3, **more):
    # float32 whatever the processor: with bfloat16 nothing could be compared with plain loops
    train = Train(steps=steps, batch_size=2, rate=1e-2, precision="float32")
    batches = TrainingBatches(frames, KINDS, steps, 2, train.prompts_per_image, True, seed)
    return fit(model, batches, Loss().build(), train, 0.0, **more)


def test_the_same_seed_trains_the_same_state_bit_for_bit(model, frames):
    start = adapter_state(model)
    one = run(model, frames)
    load_adapter_state(model, start)
    two = run(model, frames)
    assert one.loss == two.loss
    assert all(torch.equal(one.state[n], two.state[n]) for n in start)


def test_another_round_sees_other_batches(model, frames):
    start = adapter_state(model)
    one = run(model, frames, (0, 1, 0))
    load_adapter_state(model, start)
    assert run(model, frames, (0, 1, 1)).loss != one.loss


def test_training_lowers_the_loss(model, frames):
    first = run(model, frames, steps=2).loss
    run(model, frames, (0, 1, 1), steps=30)
    assert run(model, frames, (0, 1, 2), steps=2).loss < first


@pytest.mark.parametrize(("section", "frozen"), [(Msa(), True), (Full(), False)])
def test_training_leaves_the_base_where_it_is_frozen(section, frozen, tiny, frames):
    """The same parameter objects before the injection and after training, whatever their names."""
    before = [(p, p.detach().clone()) for p in tiny.model.parameters()]
    section.inject(tiny.model, 0)
    inside = {id(p) for p in tiny.model.parameters()}
    assert all(id(p) in inside for p, _ in before)
    start = adapter_state(tiny.model)
    state = run(tiny.model, frames).state
    assert any(not torch.equal(state[name], start[name]) for name in start)
    assert all(torch.equal(p, clone) for p, clone in before) == frozen


def test_a_strong_proximal_term_keeps_the_state_near_the_start(model, frames):
    def moved(proximal: float) -> float:
        load_adapter_state(model, start)
        state = run(model, frames, steps=8, proximal=proximal).state
        return float(sum((state[n] - start[n]).square().sum() for n in start))

    start = adapter_state(model)
    assert moved(100.0) < moved(0.0)


def test_the_proximal_term_is_the_gradient_of_the_penalty(model, frames):
    """Two steps by hand on loss + mu / 2 |w - w0|^2, differentiated by autograd."""
    start, mu = adapter_state(model), 3.0
    result = run(model, frames, steps=2, proximal=mu).state

    load_adapter_state(model, start)
    train = Train(steps=2, batch_size=2, rate=1e-2)
    trained = trained_parameters(model)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=train.weight_decay)
    loss = Loss().build()
    for batch in TrainingBatches(frames, KINDS, 2, 2, train.prompts_per_image, True, (0, 1, 0)):
        distance = sum((p - start[n]).square().sum() for n, p in trained.items())
        (batch_loss(model, batch, loss, torch.device("cpu")) + mu / 2 * distance).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    for name, tensor in adapter_state(model).items():
        torch.testing.assert_close(result[name], tensor, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("memory", [1.0, None])
def test_too_little_memory_changes_no_bit(memory, model, frames):
    start = adapter_state(model)
    before = run(model, frames, memory=1e15).state
    assert not model.recompute
    load_adapter_state(model, start)
    after = run(model, frames, memory=memory).state
    assert model.recompute == (memory is not None)
    assert all(torch.equal(before[name], after[name]) for name in start)


def test_batches_use_every_case_equally_often(frames):
    batches = TrainingBatches(frames, KINDS, 6, 2, 1, True, (3, 1, 0))
    counts = np.bincount(batches.order.flatten(), minlength=6)
    assert batches.order.shape == (6, 2) and counts.tolist() == [2] * 6


def test_a_batch_is_a_function_of_its_step(frames):
    one, two = (TrainingBatches(frames, KINDS, 4, 2, 2, True, (3, 1, 0))[2] for _ in range(2))
    assert torch.equal(one.image, two.image) and torch.equal(one.mask, two.mask)
    assert one.mask.shape[0] == 4 and len(one.prompt) == 4


def test_epochs_become_steps_by_the_number_of_cases():
    train = Train(epochs=2, batch_size=8)
    assert train.steps_for(16) == 4 and train.steps_for(20) == 5 and train.steps_for(3) == 2


def test_the_order_of_cases_goes_on_from_round_to_round(frames):
    rounds = [TrainingBatches(frames, KINDS, 2, 2, 1, True, (3, 1, n)).order for n in range(6)]
    used = np.concatenate([order.flatten() for order in rounds])
    assert np.bincount(used, minlength=6).tolist() == [4] * 6
    for passed in used.reshape(4, 6):
        assert sorted(passed) == list(range(6))
    assert len({tuple(passed) for passed in used.reshape(4, 6)}) > 1
    other = TrainingBatches(frames, KINDS, 2, 2, 1, True, (3, 2, 0)).order
    assert not np.array_equal(other, rounds[0])


def test_a_name_is_asked_of_images_that_show_it_alone():
    """Of an empty image nobody says whether the structure is absent or was not annotated."""
    mask = torch.zeros(3, 48, 48, dtype=torch.bool)
    mask[2, 10:30, 10:30] = True
    shown, empty = (Sample(torch.zeros(3, 48, 48), m, "c", "c") for m in (mask, mask & False))
    cases = [Case(name, name, None, None, lambda sample=sample: sample)
             for name, sample in (("shown", shown), ("empty", empty))]  # fmt: skip
    batches = TrainingBatches(Frames(cases, 48, to_frame), (ByClass(),), 1, 2, 2, False, (0, 1, 0))
    batch = batches[0]
    first = int(batches.order[0][0])  # 0 when the image that shows the structure comes first
    expected = [2, 2, -1, -1] if first == 0 else [-1, -1, 2, 2]
    assert batch.prompt.classes is not None and batch.prompt.classes.tolist() == expected


def test_a_batch_draws_how_often_it_is_corrected(model, frames, monkeypatch):
    """From never to as often as allowed: evaluation asks both ways."""
    calls: list[int] = []
    monkeypatch.setattr("medsa_model.train.corrected", lambda prompt, *_: calls.append(1) or prompt)
    times = []
    for batch in (TrainingBatches(frames, KINDS, 12, 2, 1, True, (0, 1, 0))[n] for n in range(12)):
        calls.clear()
        draws = correction_draws(batch.seed, 2)
        batch_loss(model, batch, Loss().build(), torch.device("cpu"), draws)
        times.append(len(calls))
    assert set(times) == {0, 1, 2}


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_no_bit(workers, model, frames):
    start = adapter_state(model)
    one = run(model, frames, steps=4)
    load_adapter_state(model, start)
    fresh = Frames(frames.cases, 48, to_frame, threads=workers)
    other = run(model, fresh, steps=4, workers=workers)
    assert one.loss == other.loss
    assert all(torch.equal(one.state[name], other.state[name]) for name in start)


def test_waiting_for_batches_is_a_part_of_the_time(model, frames):
    result = run(model, frames)
    assert result.waited is not None and 0 < result.waited < result.seconds


@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_that_cannot_be_read_ends_training_with_its_error(workers, model, frames):
    def broken() -> Sample:
        raise DataError("case x is broken")

    cases = [*frames.cases[:2], Case("x", "x", None, None, broken)]
    with pytest.raises(DataError, match="case x is broken"):
        run(model, Frames(cases, 48, to_frame), steps=6, workers=workers)


def whole_gradient(model, batch: Batch) -> dict[str, torch.Tensor]:
    """By hand, in one piece."""
    batch_loss(model, batch, Loss().build(), torch.device("cpu")).backward()
    found = {name: p.grad for name, p in trained_parameters(model).items() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


class OneStep:
    """Batches with a single one, made elsewhere."""

    slices = 1

    def __init__(self, batch: Batch) -> None:
        self.batch, self.frames, self.order = batch, [None], np.zeros((1, 1))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, step: int) -> Batch:
        return self.batch


@pytest.mark.parametrize("kind", ["images", "volumes"])
@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(kind, accumulate, model, frames):
    """Volumes have different numbers of prompts; a step of plain descent shows the gradient."""
    if kind == "images":
        batch = TrainingBatches(frames, KINDS, 1, 4, 3, True, (0, 1, 0))[0]
    else:
        cases = Phantom(sites=1, cases_per_site=4, size=48, slices=8).open()
        cut = Frames(cases, 48, lambda sample, size: to_volume_frame(sample, size, None))
        batch = VolumeBatches(cut, KINDS, 1, 4, 2, True, 2, (0, 1, 0))[0]
        sizes = {len(part.owner) for part in parts_of(batch, 4)}
        assert len(sizes) > 1
    expected, start = whole_gradient(model, batch), adapter_state(model)
    train = Train(steps=1, batch_size=4, rate=1.0, optimizer="sgd", weight_decay=0.0,
                  clip_norm=1e9, precision="float32", accumulate=accumulate)  # fmt: skip
    result = fit(model, OneStep(batch), Loss().build(), train, 0.0)  # type: ignore[arg-type]
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        off = (start[name] - result.state[name] - gradient).norm()
        assert float(off) <= 1e-5 * float(norm), name


def test_the_loss_of_a_round_in_parts_is_that_of_the_whole(model, frames):
    start, losses = adapter_state(model), []
    for accumulate in (1, 2):
        load_adapter_state(model, start)
        train = Train(steps=2, batch_size=3, precision="float32", accumulate=accumulate)
        batches = TrainingBatches(frames, KINDS, 2, 3, 2, True, (0, 1, 0))
        losses.append(fit(model, batches, Loss().build(), train, 0.0, corrections=2).loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_corrections_of_the_parts_are_those_of_the_whole(model, frames, monkeypatch):
    """Each click is drawn by its generator in the order of the prompts, however they are cut."""
    batches = TrainingBatches(frames, (Click(),), 12, 3, 2, True, (0, 1, 0))
    batch = next(
        b for b in (batches[n] for n in range(12)) if len(correction_draws(b.seed, 2)) == 2
    )
    clicks: list[torch.Tensor] = []

    def noted(prompt, *rest):
        found = corrected(prompt, *rest)
        clicks.append(found.points[:, -1])
        return found

    monkeypatch.setattr("medsa_model.train.corrected", noted)
    whole = correction_draws(batch.seed, 2)
    batch_loss(model, batch, Loss().build(), torch.device("cpu"), whole)
    parted = correction_draws(batch.seed, 2)
    for part in parts_of(batch, 3):
        batch_loss(model, part, Loss().build(), torch.device("cpu"), parted)
    for click in (0, 1):
        assert torch.equal(clicks[click], torch.cat(clicks[2 + click :: 2]))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parts_are_pinned_after_they_are_cut(accumulate, model, frames, monkeypatch):
    """Rows that are picked of a pinned tensor lie in ordinary memory."""
    pinned, used = [], []

    def pin(batch: Batch, device: torch.device) -> Batch:
        pinned.append(dataclasses.replace(batch))
        return pinned[-1]

    def noted(model, batch, *rest, **more):
        used.append(batch)
        return batch_loss(model, batch, *rest, **more)

    monkeypatch.setattr(Batch, "pinned", pin)
    monkeypatch.setattr("medsa_model.train.batch_loss", noted)
    train = Train(steps=2, batch_size=2, precision="float32", accumulate=accumulate)
    batches = TrainingBatches(frames, KINDS, 2, 2, 2, True, (0, 1, 0))
    fit(model, batches, Loss().build(), train, 0.0)
    assert len(used) == 2 * accumulate
    assert all(one is other for one, other in zip(used, pinned, strict=True))


@pytest.mark.parametrize("clicks", [0, 1])
def test_what_a_step_needs_is_on_its_way_before_the_encoder_is_launched(
    clicks, model, frames, monkeypatch
):
    batch = TrainingBatches(frames, KINDS, 1, 2, 2, True, (0, 1, 0))[0]
    given = (batch.image, batch.mask, batch.owner, batch.prompt.points, batch.prompt.labels,
             batch.prompt.boxes)  # fmt: skip
    names = {id(tensor): number for number, tensor in enumerate(given)}
    events: list[int | str] = []
    move, prefix = torch.Tensor.to, model.prefix

    def moved(tensor, *arguments, **named):
        if id(tensor) in names and named.get("non_blocking"):
            events.append(names[id(tensor)])
        return move(tensor, *arguments, **named)

    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(model, "prefix", lambda image: events.append("encoder") or prefix(image))
    draws = [np.random.default_rng(0)] * clicks
    batch_loss(model, batch, Loss().build(), torch.device("cpu"), draws)
    assert batch.prompt.boxes is not None
    before = events[: events.index("encoder")]
    assert sorted(before) == [0, 1, 2, 3, 4, 5] and events == [*before, "encoder"]


def test_more_parts_than_images_are_refused():
    with pytest.raises(ValueError, match=r"accumulate is 5, but a batch has 4 images; expected"):
        Train(steps=1, batch_size=4, accumulate=5)
