"""Med-SA adapters: step 0 is SAM, only adapters train, dimension 0 is the image."""

import copy

import pytest
import torch

from medsa_model.adapters import Full, Msa
from medsa_model.adapters.bottleneck import Bottleneck
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.backbone import load_base
from medsa_model.prompts import collate
from medsa_model.sam import MedSam
from medsa_model.section import Section

ROWS = [([(10.0, 20.0)], [1], None), ([], [], (4.0, 6.0, 30.0, 41.0)), ([], [], None)]


def images(count: int, size: int = 48) -> torch.Tensor:
    return 255 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "section", [Msa(), Msa(train_decoder=True), Msa(activation="gelu"), Full()]
)
@torch.no_grad()
def test_step_zero_equals_the_base_bit_for_bit(section, whole):
    before = whole.model(images(3, 64), collate(ROWS))
    section.inject(whole.model, 0)
    assert torch.equal(whole.model(images(3, 64), collate(ROWS)), before)


@torch.no_grad()
def test_step_zero_equals_the_base_up_to_rounding_where_windows_are_cut(tiny):
    before = tiny.model(images(3), collate(ROWS))
    Msa().inject(tiny.model, 0)
    found = tiny.model(images(3), collate(ROWS))
    torch.testing.assert_close(found, before, rtol=0, atol=1e-6 * float(before.abs().max()))


@torch.no_grad()
def test_step_zero_equals_vit_b_with_its_padded_windows(begun_vit_b):
    model = begun_vit_b  # other weights: up to rounding
    prompt = collate([([(100.0, 50.0)], [1], None)])
    before = model(images(1, 256), prompt)
    Msa(ratio=1 / 16).inject(model, 0)
    found = model(images(1, 256), prompt)
    torch.testing.assert_close(found, before, rtol=1e-5, atol=1e-8)


def test_a_trained_adapter_changes_the_answer(tiny):
    Msa().inject(tiny.model, 0)
    before = tiny.model(images(1), collate(ROWS[:1])).detach()
    with torch.no_grad():
        for parameter in trained_parameters(tiny.model).values():
            parameter.add_(0.05)
    assert not torch.equal(tiny.model(images(1), collate(ROWS[:1])), before)


def test_only_adapters_are_trained_and_every_one_gets_a_gradient(tiny):
    frozen = {name for name, _ in tiny.model.named_parameters()}
    Msa().inject(tiny.model, 0)
    trained = trained_parameters(tiny.model)
    assert not frozen & trained.keys()
    with torch.no_grad():  # away from zero, so that down-projections get gradients as well
        for name, parameter in trained.items():
            if ".up." in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    tiny.model(images(2), collate(ROWS[:2])).square().mean().backward()
    without = [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    assert without == []
    touched = [n for n, p in tiny.model.named_parameters() if p.grad is not None]
    assert sorted(touched) == sorted(trained)


@pytest.mark.parametrize("section", [Msa(train_decoder=True), Full()])
def test_everything_that_is_sent_is_used(section, tiny):
    """No dead weight in messages: each trained tensor gets a gradient from clicks and boxes."""
    section.inject(tiny.model, 0)
    rows = [([(10.0, 20.0), (5.0, 5.0)], [1, 0], None), ROWS[1]]
    tiny.model(images(2), collate(rows)).square().mean().backward()
    unused = [n for n, p in trained_parameters(tiny.model).items() if p.grad is None]
    assert unused == []


def changed_by_training(section: Section, model: MedSam) -> list[str]:
    """Inject, train three steps, and name every tensor of the base that is not what it was.

    The base is what `model` held before the injection, followed by identity: blocks get other
    names, and `requires_grad` must not decide what is looked at, because it is what is tested.
    """
    base = model.state_dict(keep_vars=True)
    before = {name: tensor.detach().clone() for name, tensor in base.items()}
    section.inject(model, 0)
    inside = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    assert all(id(tensor) in inside for tensor in base.values())  # no copy is looked at
    start = {n: p.detach().clone() for n, p in trained_parameters(model).items()}
    optimizer = torch.optim.SGD(trained_parameters(model).values(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        model(images(2), collate(ROWS[:2])).square().mean().backward()
        optimizer.step()
    assert any(not torch.equal(p, start[n]) for n, p in trained_parameters(model).items())
    return [name for name, tensor in base.items() if not torch.equal(tensor, before[name])]


def test_training_leaves_the_base_untouched(tiny):
    assert changed_by_training(Msa(), tiny.model) == []


def test_training_the_decoder_leaves_all_else_untouched(tiny):
    changed = changed_by_training(Msa(train_decoder=True), tiny.model)
    assert changed and all(name.startswith("sam.mask_decoder.") for name in changed)


def test_without_an_adapter_training_changes_the_base(tiny):
    """What the comparison finds where nothing is frozen."""
    changed = changed_by_training(Full(), tiny.model)
    for part in ("image_encoder", "prompt_encoder", "mask_decoder"):
        assert any(name.startswith(f"sam.{part}.") for name in changed)


def test_a_forgotten_freeze_would_be_noticed(tiny, monkeypatch):
    monkeypatch.setattr("medsa_model.adapters.msa.freeze", lambda _: None)
    assert any("image_encoder" in name for name in changed_by_training(Msa(), tiny.model))


def test_adapters_see_the_image_as_dimension_zero_even_in_windows(tiny):
    Msa().inject(tiny.model, 0)
    shapes = []
    for module in tiny.model.sam.image_encoder.modules():
        if isinstance(module, Bottleneck):
            module.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    tiny.model(images(3), collate(ROWS))
    assert len(shapes) == 12 and set(shapes) == {torch.Size([3, 36, 128])}


def test_gradients_of_a_batch_are_the_sum_over_its_images(tiny):
    Msa().inject(tiny.model, 0)
    with torch.no_grad():
        for name, parameter in trained_parameters(tiny.model).items():
            if ".up." in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    other = copy.deepcopy(tiny.model)
    tiny.model(images(3), collate(ROWS[:1] * 3)).square().sum().backward()
    for number in range(3):
        other(images(3)[number : number + 1], collate(ROWS[:1])).square().sum().backward()
    for name, parameter in trained_parameters(tiny.model).items():
        expected = trained_parameters(other)[name].grad
        assert parameter.grad is not None and expected is not None
        scale = expected.abs().max()
        assert (parameter.grad - expected).abs().max() <= 1e-4 * scale + 1e-6


def test_the_seed_decides_the_adapters(tiny):
    states = []
    for seed in (1, 1, 2):
        base = load_base("vit_tiny", 48, None, "random", 0)
        Msa().inject(base.model, seed)
        states.append(torch.cat([p.flatten() for p in trained_parameters(base.model).values()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("backbone", "size", "section", "percent"),
    [("vit_tiny", 128, Msa(), 8.5), ("vit_b", 256, Msa(ratio=1 / 16), 2.5)],
)
def test_the_share_of_trained_parameters(backbone, size, section, percent):
    model = load_base(backbone, size, None, "random", 0).model
    section.inject(model, 0)
    trained = sum(p.numel() for p in trained_parameters(model).values())
    assert 100 * trained / sum(p.numel() for p in model.parameters()) <= percent


@torch.no_grad()
def test_step_zero_equals_vit_b_as_it_is_begun_bit_for_bit():
    model = load_base("vit_b", 224, None, "random", 0).model
    prompt = collate([([(100.0, 50.0)], [1], None)])
    before = model(images(1, 224), prompt)
    Msa(ratio=1 / 16).inject(model, 0)
    assert torch.equal(model(images(1, 224), prompt), before)
