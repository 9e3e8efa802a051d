"""Every measurement at a small size: that it measures what it says, not how much."""

import mmap
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import sim.bench.ceiling
import sim.bench.models
import sim.bench.prefix
import sim.bench.server
import sim.bench.sites
import sim.bench.step_memory
import sim.bench.steps
from medsa_model.adapters import Msa
from medsa_model.backbone import base_parameters, load_base
from medsa_model.errors import MedsaError
from medsa_model.state import Manifest, adapter_state, manifest_of
from medsa_model.train import batch_loss
from sim.bench.ceiling import ROUNDED, ceiling, rate, shapes_of
from sim.bench.child import in_child, watched
from sim.bench.inference import inference, segment, segment_packaged
from sim.bench.messages import coded, message_bytes
from sim.bench.models import Settings, adapted, made_up, precisions, training_step
from sim.bench.plain import PlainSam
from sim.bench.prefix import prefix
from sim.bench.results import Row
from sim.bench.server import server_memory, take_answers
from sim.bench.sites import round_overhead, seconds_by_round, simulated_memory, sites_memory
from sim.bench.step_memory import OURS, PLAIN, SAVING, measured_step
from sim.bench.steps import step_2d, step_3d, step_1024

CPU = torch.device("cpu")
TINY = {"backbone": "vit_tiny", "image_size": 48}
MEGABYTE = 10**6


@pytest.fixture
def settings(tmp_path):
    return Settings(CPU, tmp_path, repeats=2)


def names(rows: list[Row]) -> list[str]:
    assert all(min(side.samples) > 0 for row in rows for side in (row.plain, row.ours) if side)
    return [row.name for row in rows]


def test_made_up_images_are_prompted_on_their_disc():
    for slices in (0, 3):
        batch = made_up(2, slices, 48, 1)
        assert batch.image.shape == ((2, 3, 3, 48, 48) if slices else (2, 3, 48, 48))
        assert batch.image.min() >= 0 and batch.image.max() <= 255
        for mask, (x, y) in zip(batch.mask, batch.prompt.points[:, 0].round().int(), strict=True):
            assert mask[y, x] and not mask.all()


def test_a_step_trains():
    model = adapted(**TINY, adapter=Msa(), seed=0, device=CPU)
    before = adapter_state(model)
    training_step(model, made_up(1, 0, 48, 0), "float32")()
    after = adapter_state(model)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_steps(settings):
    kinds = precisions(CPU)
    assert names(step_2d(settings, **TINY)) == [f"step_2d, {kind}" for kind in kinds]
    found = step_3d(settings, **TINY, slices=2)
    assert names(found) == [f"step_3d, {kind}" for kind in kinds]
    assert all(len(row.ours.samples) == len(row.plain.samples) == 2 for row in found)
    (large,) = step_1024(settings, **TINY)
    assert large.name == f"step_1024, {kinds[0]}"
    assert len(large.ours.samples) == len(large.plain.samples) == 2


def test_plain_and_ours_begin_with_the_same_weights(settings, monkeypatch):
    seen = []

    def spy(model, batch, precision):
        seen.append({name: tensor.clone() for name, tensor in adapter_state(model).items()})
        return lambda: None

    monkeypatch.setattr(sim.bench.steps, "training_step", spy)
    step_2d(settings, **TINY)
    for other in seen[1:]:
        assert all(torch.equal(seen[0][name], tensor) for name, tensor in other.items())


def test_prefix_keeps_what_comes_before_the_last_three_blocks(settings, monkeypatch):
    stores = []
    made = sim.bench.prefix.store_for
    monkeypatch.setattr(
        sim.bench.prefix, "store_for", lambda model: stores.append(made(model)) or stores[-1]
    )
    found = prefix(settings, **TINY)
    best, kinds = precisions(CPU)[0], precisions(CPU)
    assert names(found) == [
        f"prefix, plain, float32 / ours, {best}", f"prefix, plain, float32 / kept, {best}",
        *(f"prefix, ours, {kind} / kept, {kind}" for kind in kinds),
    ]  # fmt: skip
    assert found[0].facts["frozen_blocks"] == 3  # of six
    assert [len(cache.store) for cache in stores] == [2] * len(kinds)  # the images of the batch


def test_ceiling(settings, monkeypatch):
    monkeypatch.setattr(sim.bench.ceiling, "LEAST_SECONDS", 0.001)
    found = ceiling(settings, **TINY, side=64)
    expected = [*precisions(CPU), *([ROUNDED] if "bfloat16" in precisions(CPU) else [])]
    assert names(found) == [f"ceiling, {kind}" for kind in expected]
    for row in found:
        share = row.facts["step_rate"] / row.facts["best_rate"]
        assert row.ratio_of_minima == pytest.approx(share)
    assert found[0].facts["operations"] == found[-1].facts["operations"] > 0
    assert shapes_of("vit_b", 256, 2)[0] == (512, 768, 2304)
    assert rate((64, 64, 64), "float32", CPU) > 0


def test_inference_gives_one_mask_both_ways(settings):
    rows = inference(settings, **TINY)
    assert names(rows) == [f"inference, {kind}" for kind in precisions(CPU)]
    sam = load_base("vit_tiny", 64, None, "random", 4).model.sam
    model = adapted("vit_tiny", 64, Msa(), 4, CPU)
    model.rasterised_prompts = False  # which the package does not know
    packaged, ours = segment_packaged(sam, 64, 4)(), segment(model, 64, 4, "float32")()
    assert packaged.shape == ours.shape == (1, 1, 64, 64)
    assert (packaged != ours).float().mean() < 0.01 < packaged.float().mean()


def test_messages(settings):
    found = message_bytes(settings, **TINY)
    assert names(found) == [f"message_bytes, {k}" for k in ("lossless", "float16", "int8", "int4")]
    assert {row.plain.minimum for row in found} == {4 * base_parameters(**TINY)}
    errors = [row.facts["relative_error"] for row in found]
    assert errors[0] == 0 < errors[1] < errors[2] < errors[3] < 0.5
    sizes = [row.ours.minimum for row in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < found[0].plain.minimum
    assert {row.facts["steps"] for row in found} == {30} and found[0].plain.computed
    numbers = found[0].facts["float32_bytes"] / 4
    # a first step of AdamW, up or down by the rate, would take 0.6 and 0.4 bytes a number
    assert sizes[2] > 0.9 * numbers and sizes[3] > 0.45 * numbers


def test_an_answer_is_trained_by_one_optimiser_on_different_images(settings, monkeypatch):
    optimizers, lengths, images = [], [], []

    def steep(model, batch, *words, **more):
        """A thousand times the loss: nothing but clipping keeps its gradient short."""
        images.append(batch.image.numpy().tobytes())
        return 1000 * batch_loss(model, batch, *words, **more)

    def look(optimizer, *_):
        optimizers.append(optimizer)
        gradients = [p.grad.flatten() for p in optimizer.param_groups[0]["params"]]
        lengths.append(float(torch.cat(gradients).double().norm()))

    monkeypatch.setattr(sim.bench.models, "batch_loss", steep)
    hook = register_optimizer_step_pre_hook(look)
    try:
        message_bytes(settings, **TINY, steps=4)
    finally:
        hook.remove()
    assert all(each is optimizers[0] for each in optimizers) and len(set(images)) == 4
    assert lengths == pytest.approx([1.0] * 4, rel=1e-3)


def bits(values: torch.Tensor) -> float:
    """Shannon entropy of the histogram of whole numbers: no coding of each alone takes less."""
    _, counts = values.unique(return_counts=True)
    shares = counts.double() / len(values)
    return float(-(shares * shares.log2()).sum())


@pytest.mark.parametrize(("kind", "levels"), [("int8", 127), ("int4", 7)])
def test_the_size_of_a_message_is_that_of_its_numbers(kind, levels):
    before = {"one": torch.zeros(300, 200), "two": torch.zeros(5000)}
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(t.shape, generator=generator) for name, t in before.items()}
    manifest = Manifest({name: tuple(t.shape) for name, t in before.items()}, "0" * 64, 48)
    channels = [*state["one"], state["two"]]
    numbers = torch.cat([(each / (each.abs().max() / levels)).round() for each in channels])
    expected = bits(numbers) * len(numbers) / 8 + 4 * len(channels)  # with the scales, float32
    found = coded(state, before, manifest, kind, 1, 1).ours.minimum
    assert found == pytest.approx(expected, rel=0.03)


def test_the_error_of_a_message_is_that_of_its_change():
    model = adapted(**TINY, adapter=Msa(), seed=0, device=CPU)
    before, manifest = adapter_state(model), manifest_of(model, "", 48)
    generator = torch.Generator().manual_seed(0)
    state = {n: t + 1e-3 * torch.randn(t.shape, generator=generator) for n, t in before.items()}
    row = coded(state, before, manifest, "float16", 1, 1)
    exact, rounded = [], []
    for name, tensor in state.items():  # what float16 leaves of the change
        exact.append((tensor - before[name]).double().flatten())
        rounded.append((before[name] + (tensor - before[name]).half()).double().flatten())
    true = torch.cat([tensor.double().flatten() for tensor in state.values()])
    expected = (torch.cat(rounded) - true).norm() / torch.cat(exact).norm()
    assert row.facts["relative_error"] == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("way", [PLAIN, OURS, SAVING])
def test_ways_to_take_a_step_in_little_memory(way, monkeypatch):
    """Blocks are computed once or, to save memory, twice, then with frozen layers rounded."""
    models, computed, held = [], [], []

    def watched_step(model, batch, precision):
        models.append(model)
        for number, block in enumerate(model.sam.image_encoder.blocks):
            block.register_forward_pre_hook(lambda *_, number=number: computed.append(number))
        step = training_step(model, batch, precision)
        return lambda: (step(), held.append(b"x" * 64 * MEGABYTE))

    monkeypatch.setattr(sim.bench.step_memory, "training_step", watched_step)
    found = measured_step(way, "vit_tiny", 48, "float32" if way == PLAIN else "bfloat16", "cpu", 0)
    (model,) = models
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert found["before"] > weights and found["rise"] > 60 * MEGABYTE and found["seconds"] > 0
    assert isinstance(model, PlainSam) == (way == PLAIN)
    assert sorted(computed) == [number for number in range(6) for _ in range(1 + (way == SAVING))]
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            rounded = way == SAVING and not layer.weight.requires_grad
            assert layer.weight.dtype == (torch.bfloat16 if rounded else torch.float32)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_the_most_memory_is_seen_though_it_is_given_back():
    with watched(CPU) as memory, mmap.mmap(-1, 64 * MEGABYTE) as pages:
        pages.write(b"x" * (64 * MEGABYTE))
        time.sleep(0.05)
    assert 60 * MEGABYTE < memory.rise < 300 * MEGABYTE


def test_the_coordinator_holds_few_answers_at_a_time(tmp_path):
    found = take_answers(str(tmp_path), 12, 1.2, 0)
    assert found["answers"] == 12 and found["answer_bytes"] == 2 * 4 * 768 * 192
    assert 1 <= found["most_alive"] <= 3


def test_what_is_computed_is_said(settings, monkeypatch):
    monkeypatch.setattr(sim.bench.server, "in_child", same_process)
    few = replace(settings, answers=3)
    (row,) = server_memory(few, megabytes=1.2)
    assert row.plain.computed and row.plain.label == "computed: all answers together"
    assert row.plain.samples == [3 * 2 * 4 * 768 * 192] and not row.ours.computed


def same_process(work, threads, exact=False, **arguments):
    """No child: starting one takes longer than all that is measured."""
    return work(**arguments)


def test_one_simulated_round(settings):
    (row,) = round_overhead(settings, sites=2, rounds=2, backbone="vit_tiny", image_size=32)
    assert len(row.ours.samples) == 2 and row.plain is None and min(row.ours.samples) > 0
    assert row.facts["training_seconds"] > 0


def test_seconds_of_a_round_are_those_of_its_sites_together():
    told = [("train", 1, 1.5), ("train", 1, 2), ("round", 1, 4.25), ("train", 2, 1)]
    events = [{"event": name, "round": number, "seconds": s} for name, number, s in told]
    assert seconds_by_round(events, "train") == {1: 3.5, 2: 1.0}
    assert seconds_by_round(events, "round") == {1: 4.25}


def test_what_is_looked_at_is_the_memory_of_the_simulation(monkeypatch):
    held = []

    def hold(config, run):
        assert config.sim.partition.sites == 2 and config.rounds == 1
        held.append(b"x" * 64 * MEGABYTE)

    monkeypatch.setattr(sim.bench.sites, "simulate_federation", hold)
    found = simulated_memory(2, "vit_tiny", 32, "cpu", 0)
    assert found["most"] > found["rise"] > 60 * MEGABYTE


@pytest.mark.thorough
def test_memory_of_a_simulation():
    """In a process of its own: in this one there may be room that others gave back."""
    arguments = {"sites": 2, "backbone": "vit_tiny", "image_size": 32, "device": "cpu", "seed": 0}
    found = in_child(simulated_memory, 1, **arguments)
    model = 4 * base_parameters("vit_tiny", 32)
    assert found["rise"] > model and found["most"] > found["rise"] + model


def test_memory_of_sites_is_that_of_the_process_and_its_rise(settings, monkeypatch):
    taken = {1: {"most": 500, "rise": 100}, 9: {"most": 520, "rise": 120}}
    monkeypatch.setattr(sim.bench.sites, "in_child", lambda work, threads, sites, **_: taken[sites])
    whole, rise = sites_memory(settings, sites=9)
    assert (whole.name, rise.name) == ("sites_memory, whole process", "sites_memory, rise")
    assert whole.ratio_of_minima == pytest.approx(500 / 520)
    assert rise.ratio_of_minima == pytest.approx(100 / 120)


@pytest.mark.thorough
def test_a_child_answers():
    assert in_child(dict, 1, word="right") == {"word": "right"}


@pytest.mark.thorough
def test_a_child_says_what_is_wrong_or_is_gone(tmp_path):
    with pytest.raises(MedsaError, match="No such file"):
        in_child(os.listdir, 1, path=str(tmp_path / "nothing"))
    with pytest.raises(MedsaError, match="measures _exit ended with code 7"):
        in_child(os._exit, 1, status=7)
