"""What the frozen blocks make of an image is computed once, and it is the same."""

import numpy as np
import pytest
import torch
from torch import Tensor

from medsa_model.adapters import Full, Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.data.frames import Frames, TrainingBatches
from medsa_model.data.phantom import Phantom
from medsa_model.data.synthetic import Synthetic
from medsa_model.data.transforms import to_frame
from medsa_model.data.volume_batches import VolumeBatches
from medsa_model.data.volume_frames import to_volume_frame
from medsa_model.evaluate import evaluate
from medsa_model.losses import Loss
from medsa_model.prefix_cache import PrefixCache, has_prefix
from medsa_model.privacy.fit import fit_privately
from medsa_model.privacy.patients import Patients
from medsa_model.privacy.section import Privacy
from medsa_model.prompts import Box, Click
from medsa_model.sam import MedSam
from medsa_model.state import adapter_state, load_adapter_state
from medsa_model.tensor_folder import TensorFolder
from medsa_model.tensor_store import TensorStore
from medsa_model.train import Train, batch_loss, fit

KINDS = (Click(), Box(overlap=0.75))
CPU = torch.device("cpu")
CASES = Synthetic(sites=1, cases_per_site=6).open()


@pytest.fixture
def model(tiny) -> MedSam:
    """Adapters in the last two of six blocks, moved away from zero."""
    Msa(blocks="last-2").inject(tiny.model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained_parameters(tiny.model).values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return tiny.model


@pytest.fixture
def computed(model, monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the images that went through the frozen blocks."""
    shapes, whole = [], model.prefix

    def noted(image: Tensor) -> Tensor:
        shapes.append(tuple(image.shape))
        return whole(image)

    monkeypatch.setattr(model, "prefix", noted)
    return shapes


def images(steps: int = 4, augmented: bool = True, prompts: int = 2) -> TrainingBatches:
    frames = Frames(CASES, 48, to_frame)
    return TrainingBatches(frames, KINDS, steps, 3, prompts, augmented, (0, 1, 0))


def volumes(augmented: bool = False) -> VolumeBatches:
    cases = Phantom(sites=1, cases_per_site=2, size=48, slices=8).open()
    frames = Frames(cases, 48, lambda sample, size: to_volume_frame(sample, size, None))
    return VolumeBatches(frames, KINDS, 4, 2, 1, augmented, 3, (0, 1, 0))


def cache_of(most: int = 10**9, folder: TensorFolder | None = None, base: str = "b") -> PrefixCache:
    return PrefixCache(TensorStore(most, folder), base, (48, None))


def gradients(model, batch, cache=None, precision=torch.float32) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        batch_loss(model, batch, Loss().build(), CPU, cache=cache).backward()
    found = {name: p.grad for name, p in trained_parameters(model).items() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_a_prefix_is_there_when_the_first_blocks_are_as_they_were(tiny, model):
    assert model.frozen_blocks == 4 and has_prefix(model)


@pytest.mark.parametrize("section", [Msa(), Full(), Msa(blocks=(0, 5))])
def test_no_prefix_is_there_when_the_first_block_is_trained(tiny, section):
    section.inject(tiny.model, 0)
    assert not has_prefix(tiny.model)


@pytest.mark.parametrize("make", [images, volumes])
def test_in_float32_losses_and_gradients_are_those_without_a_cache_bit_for_bit(model, make):
    cache, batches = cache_of(), make()
    for _ in range(2):  # first computed, then kept
        for step in range(len(batches)):
            batch = batches[step]
            expected, found = gradients(model, batch), gradients(model, batch, cache)
            assert expected.keys() == found.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_training_ends_in_the_same_state_bit_for_bit(model):
    train = Train(steps=4, batch_size=3, rate=1e-2, precision="float32")
    start = adapter_state(model)

    def trained(cache: PrefixCache | None) -> tuple[dict[str, Tensor], float | None]:
        load_adapter_state(model, start)
        result = fit(model, images(), Loss().build(), train, 0.0, cache=cache)
        return result.state, result.loss

    (expected, loss), cache = trained(None), cache_of()
    few = cache_of(3 * 4 * 36 * 128)  # room for three images
    for each in (cache, cache, few):
        state, found = trained(each)
        assert found == loss and all(torch.equal(state[n], expected[n]) for n in expected)
    assert 0 < few.store.bytes <= few.store.most and len(few.store) == 3


def test_bfloat16_is_kept_in_half_the_bytes_and_nearly_the_same(model):
    whole, half, batch = cache_of(), cache_of(), images()[0]
    gradients(model, batch, whole)
    for _ in range(2):
        expected = gradients(model, batch, None, torch.bfloat16)
        found = gradients(model, batch, half, torch.bfloat16)
        one, other = (torch.cat([g.flatten() for g in e.values()]) for e in (expected, found))
        assert float(torch.cosine_similarity(one, other, dim=0)) >= 0.999
    assert 2 * half.store.bytes == whole.store.bytes > 0


def test_tokens_do_not_depend_on_what_is_kept(model):
    """Computed, kept and read from a file they are the same, also under autocast."""
    batch = images()[0]
    with torch.autocast("cpu", torch.bfloat16):
        cache = cache_of()
        first, second = (cache.tokens(model, batch.image, batch.keys) for _ in range(2))
        alone = cache_of().tokens(model, batch.image[1:2], batch.keys[1:2])
        nothing = cache_of(0).tokens(model, batch.image, batch.keys)
    assert torch.equal(first, nothing) and torch.equal(first, first.bfloat16().float())
    assert torch.equal(first, second) and torch.equal(first[1:2], alone)
    assert first.dtype == torch.float32


def test_each_image_is_computed_once_in_each_of_its_variants(model, computed):
    cache, batches = cache_of(), images(steps=12)
    for step in range(12):
        gradients(model, batches[step], cache)
    used = [key for step in range(12) for key in batches[step].keys]
    assert computed == [(1, 3, 48, 48)] * len(set(used)) and len(set(used)) < len(used)


def test_slices_of_overlapping_runs_are_computed_once(model, computed):
    cache, batches = cache_of(), volumes()
    for step in range(4):
        gradients(model, batches[step], cache)
    used = [key for step in range(4) for key in batches[step].keys]
    assert computed == [(1, 3, 48, 48)] * len(set(used)) and len(set(used)) < len(used)


def test_volumes_whose_brightness_changes_are_computed_anew(model, computed):
    cache, batches = cache_of(), volumes(augmented=True)
    gradients(model, batches[0], cache)
    gradients(model, batches[0], cache)
    assert computed == [(2, 3, 3, 48, 48)] * 2 and len(cache.store) == 0


def test_an_image_that_was_repaired_under_its_name_is_computed_anew(model, computed):
    cache, batch = cache_of(), images()[0]
    expected = cache.tokens(model, batch.image, batch.keys)
    repaired = batch.image.clone()
    repaired[1, 0, 0, 0] = 255 - repaired[1, 0, 0, 0]
    found = cache.tokens(model, repaired, batch.keys)
    assert len(computed) == 4 and len(cache.store) == 3
    assert torch.equal(found, cache_of().tokens(model, repaired, batch.keys))
    assert not torch.equal(found[1], expected[1])


def test_another_base_frame_precision_or_number_of_blocks_finds_nothing(tiny, model, computed):
    batch, store = images()[0], TensorStore(10**9)
    for base, frames in (("b", (48, None)), ("c", (48, None)), ("b", (48, 3.0))):
        PrefixCache(store, base, frames).tokens(model, batch.image, batch.keys)
    assert len(computed) == 9
    with torch.autocast("cpu", torch.bfloat16):
        PrefixCache(store, "b", (48, None)).tokens(model, batch.image, batch.keys)
    assert len(computed) == 12
    model.sam.image_encoder.blocks[3].requires_grad_(True)
    PrefixCache(store, "b", (48, None)).tokens(model, batch.image, batch.keys)
    assert len(computed) == 15
    model.sam.image_encoder.blocks[3].requires_grad_(False)
    PrefixCache(store, "b", (48, None)).tokens(model, batch.image, batch.keys)
    assert len(computed) == 15


def test_files_serve_a_later_process_and_not_another_image_of_the_same_name(
    model, computed, tmp_path
):
    batch = images()[0]
    kept = cache_of(10**9, TensorFolder(tmp_path / "cache", 10**9))
    expected = kept.tokens(model, batch.image, batch.keys)
    again = cache_of(10**9, TensorFolder(tmp_path / "cache", 10**9))
    assert torch.equal(again.tokens(model, batch.image, batch.keys), expected)
    assert len(computed) == 3
    changed = batch.image.clone()
    changed[0, 0, 0, 0] = 255 - changed[0, 0, 0, 0]
    later = cache_of(10**9, TensorFolder(tmp_path / "cache", 10**9))
    found = later.tokens(model, changed, batch.keys)
    assert len(computed) == 4 and not torch.equal(found[0], expected[0])
    assert torch.equal(found[1:], expected[1:])


@pytest.mark.parametrize("method", ["loop", "hooks"])
def test_private_training_is_the_same_with_a_cache(method, model, monkeypatch, computed):
    """With the same draws of images and prompts, and no noise."""
    train = Train(steps=2, batch_size=3, optimizer="sgd", rate=1.0, weight_decay=0.0,
                  precision="float32")  # fmt: skip
    privacy = Privacy(
        noise_multiplier=1.0, sampling_rate=1.0, clip_norm=0.1, method=method, views=2
    )
    people = Patients(tuple((number,) for number in range(6)), "image")
    start, fresh = adapter_state(model), np.random.default_rng

    def trained(cache: PrefixCache | None) -> dict[str, Tensor]:
        monkeypatch.setattr("numpy.random.default_rng", lambda *seed: fresh(*(seed or (5,))))
        load_adapter_state(model, start)
        return fit_privately(
            model, images(), people, Loss().build(), train, privacy, 0.0, 2, 0.0, cache=cache
        ).state

    expected, cache = trained(None), cache_of()
    computed.clear()
    state = trained(cache)
    assert len(cache.store) > 6  # six patients, in several variants
    assert computed.count((1, 3, 48, 48)) >= len(cache.store)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-7, rtol=1e-5)
    assert any(not torch.equal(state[name], start[name]) for name in start)


def test_scores_are_the_same_and_cases_are_encoded_once(model, computed):
    cases, cache = CASES[:3], cache_of()
    expected = evaluate(model, cases, KINDS, 0, "float32")
    computed.clear()
    for _ in range(3):
        assert evaluate(model, cases, KINDS, 0, "float32", cache=cache) == expected
    assert len(computed) == 3
