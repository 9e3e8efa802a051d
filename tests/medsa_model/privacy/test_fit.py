"""Training one site with differential privacy, end to end on the small model."""

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from medsa_model.adapters import Full, Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.data.frames import Frames, TrainingBatches
from medsa_model.data.phantom import Phantom
from medsa_model.data.sample import Case
from medsa_model.data.synthetic import Synthetic
from medsa_model.data.transforms import to_frame
from medsa_model.data.volume_batches import VolumeBatches
from medsa_model.data.volume_frames import to_volume_frame
from medsa_model.errors import PrivacyError
from medsa_model.losses import Loss
from medsa_model.privacy.fit import fit_privately
from medsa_model.privacy.patients import Patients, patients_of
from medsa_model.privacy.section import Privacy
from medsa_model.prompts import Box, ByClass, Click, Clicks, collate, widened
from medsa_model.state import adapter_state, load_adapter_state
from medsa_model.train import Train

KINDS = (Click(), Clicks(), Box(overlap=0.75))
TRAIN = Train(steps=2, batch_size=3, optimizer="sgd", rate=1.0, weight_decay=0.0,
              prompts_per_image=2, precision="float32")  # fmt: skip


@pytest.fixture(scope="module")
def batches() -> TrainingBatches:
    frames = Frames(Synthetic(sites=1, cases_per_site=6).open(), 48, to_frame)
    return TrainingBatches(frames, KINDS, 2, 2, 2, True, (0, 0, 0))


@pytest.fixture
def model(tiny):
    Msa().inject(tiny.model, 0)
    return tiny.model


def train(model, batches, patients: Patients, noise: float, *, steps=2, train=TRAIN, **more):
    privacy = Privacy(**{"noise_multiplier": 1.0, "sampling_rate": 1.0, "clip_norm": 0.1} | more)
    start = adapter_state(model)
    result = fit_privately(
        model, batches, patients, Loss().build(), train, privacy, noise, steps, 0.0
    )
    load_adapter_state(model, start)
    change = {name: result.state[name] - start[name] for name in start}
    return result, torch.cat([each.flatten() for each in change.values()])


ALONE = Patients(tuple((number,) for number in range(6)), "image")


@pytest.mark.parametrize("method", ["loop", "hooks"])
def test_without_noise_a_step_is_the_clipped_mean(method, model, batches):
    """Six patients with gradients far above the norm: each adds at most a sixth of a tenth.

    Ten is what is public of their number.
    """
    _, change = train(model, batches, ALONE, 0.0, steps=1, method=method, clip_norm=1e-3)
    assert 0 < float(change.norm()) <= 6 * 1e-3 / 10 * (1 + 1e-4)


def test_what_is_told_is_public(model, batches):
    result, _ = train(model, batches, ALONE, 1.0, sampling_rate=0.5, views=2)
    assert result.loss is None
    assert result.examples == 10
    assert result.images == 2 * 5 * 2


def test_noise_differs_with_the_same_seed_and_has_its_size(model, batches):
    torch.manual_seed(0)
    _, one = train(model, batches, ALONE, 1.0, steps=1, clip_norm=0.01)
    torch.manual_seed(0)
    _, two = train(model, batches, ALONE, 1.0, steps=1, clip_norm=0.01)
    # the same gradients up to prompts, so mostly noise: 0.01 / 10 in each coordinate
    assert float((one - two).std()) == pytest.approx(2**0.5 * 1e-3, rel=0.1)


def test_a_step_without_anybody_is_noise_and_not_an_error(model, batches):
    """SAM cannot compute an empty batch."""
    _, change = train(model, batches, ALONE, 1.0, steps=3, sampling_rate=1e-4, clip_norm=0.01)
    # divided by one, which is public: three steps of noise
    assert float(change.std()) == pytest.approx(3**0.5 * 0.01, rel=0.1)


@pytest.mark.parametrize("method", ["loop", "hooks"])
def test_a_patient_with_many_images_counts_once(method, model, batches):
    """Six images of one patient move the adapters no more than one image."""
    together = Patients((tuple(range(6)),), "patient")
    for views in (1, 4):
        _, change = train(model, batches, together, 0.0, steps=1, method=method, views=views,
                          clip_norm=1e-3)  # fmt: skip
        assert float(change.norm()) <= 1e-3 / 10 * (1 + 1e-4)


def test_volumes_are_trained_one_patient_after_the_other(tiny):
    cases = Phantom(sites=1, cases_per_site=2, size=32, slices=8).open()
    tiny.model.learn_classes(13, 0)
    Msa(depth=True, condition="hyper").inject(tiny.model, 0)
    tiny.model.class_embedding.requires_grad_(True)
    frames = Frames(cases, 48, lambda sample, size: to_volume_frame(sample, size, None))
    volumes = VolumeBatches(frames, (Click(), ByClass()), 1, 1, 2, True, 3, (0, 0, 0))
    result, change = train(tiny.model, volumes, patients_of(cases), 0.0, steps=1, clip_norm=1e-3)
    assert 0 < float(change.norm()) <= 2 * 1e-3 / 10 * (1 + 1e-4)
    assert result.state.keys() == trained_parameters(tiny.model).keys()


def test_everything_can_be_trained_by_the_loop_and_not_by_hooks(tiny, batches):
    """The decoder's tokens are read as tables, which Opacus' hooks do not see."""
    Full().inject(tiny.model, 0)
    slow = TRAIN.model_copy(update={"prompts_per_image": 1})
    with pytest.raises(PrivacyError, match=r"privacy\.method to loop"):
        train(tiny.model, batches, ALONE, 0.0, steps=1, method="hooks", train=slow)
    _, change = train(tiny.model, batches, ALONE, 0.0, steps=1, method="loop", clip_norm=1e-3,
                      train=slow)  # fmt: skip
    assert 0 < float(change.norm()) <= 6e-4 * (1 + 1e-4)


@pytest.mark.parametrize(("memory", "hooks"), [(1.0, False), (1e15, True)])
def test_for_want_of_memory_patients_are_computed_one_by_one(
    memory, hooks, model, batches, monkeypatch
):
    used = []
    monkeypatch.setattr(
        "medsa_model.privacy.fit.hooked", lambda model: used.append(1) or nullcontext()
    )
    monkeypatch.setattr("medsa_model.privacy.fit.check_gradients", lambda *_: None)
    monkeypatch.setattr("medsa_model.privacy.fit.private_steps", lambda *_: None)
    privacy = Privacy(noise_multiplier=1.0, sampling_rate=0.5, clip_norm=1.0, method="auto")
    fit_privately(model, batches, ALONE, Loss().build(), TRAIN, privacy, 1.0, 1, 0.0, memory=memory)
    assert bool(used) == hooks and model.recompute == (not hooks)


def test_what_others_are_asked_does_not_change_a_patients_gradient(model):
    """SAM sees padding: of a batch with three clicks a single click would get another loss."""
    frames = Frames(Synthetic(sites=1, cases_per_site=2).open(), 48, to_frame)

    def loss_of_first(kinds, other) -> float:
        first, second = frames[0].mask[0].numpy(), frames[1].mask[0].numpy()
        rows = [Click().draw(first, np.random.default_rng(0))]
        rows.append(other.draw(second, np.random.default_rng(0)))
        batch = TrainingBatches(frames, (Click(),), 1, 2, 1, False, (0, 0, 0))[0]
        mask = torch.stack([frames[0].mask[0], frames[1].mask[0]])
        image = torch.stack([frames[0].image, frames[1].image]).float()
        prompt = collate(rows)
        batch = dataclasses.replace(
            batch, image=image, mask=mask, prompt=widened(prompt, kinds) if kinds else prompt
        )
        only = [0]
        whole = model.decode(model.encode(image), batch.prompt)[0][only]
        return float(whole.detach().double().sum())

    kinds = (Click(), Clicks(), Box())
    assert loss_of_first((), Click()) != pytest.approx(loss_of_first((), Clicks()), rel=1e-6)
    assert loss_of_first(kinds, Click()) == pytest.approx(loss_of_first(kinds, Clicks()), rel=1e-5)
    assert loss_of_first(kinds, Click()) == pytest.approx(loss_of_first(kinds, Box()), rel=1e-5)


def test_patients_are_those_of_the_data_set_or_its_cases():
    def case(name: str, patient: str, volume: bool = False) -> Case:
        return Case(name, patient, None, None, lambda: None, volume)  # type: ignore[arg-type]

    known = patients_of([case("a", "p"), case("b", "q"), case("c", "p")])
    assert known.cases == ((0, 2), (1,)) and known.unit == "patient"
    assert patients_of([case("a", "a"), case("b", "b")]).unit == "image"
    volumes = patients_of([case("a", "a", True), case("b", "b", True)])
    assert volumes.unit == "volume" and len(volumes) == 2
