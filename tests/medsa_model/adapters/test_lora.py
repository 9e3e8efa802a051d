"""LoRA: step 0 is SAM, the change is B A by parts, a frozen A makes averaging exact."""

import copy

import pytest
import torch
from torch import nn

from medsa_model.adapters import Lora
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.adapters.low_rank import LowRankLinear, Rank
from medsa_model.adapters.peft_layout import low_rank_state
from medsa_model.backbone import load_base
from medsa_model.prompts import collate
from medsa_model.state import adapter_state, load_adapter_state

SECTIONS = [
    Lora(), Lora(targets="qkv"), Lora(frozen_a=True), Lora(decoder=False, rank=2, alpha=3.0)
]  # fmt: skip
ROWS = [([(10.0, 20.0)], [1], None), ([], [], (4.0, 6.0, 30.0, 41.0)), ([], [], None)]


def images(count: int, size: int = 48) -> torch.Tensor:
    return 255 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("weights", ["random", "pretrained"])
@torch.no_grad()
def test_step_zero_equals_the_base_bit_for_bit(section, weights):
    model = load_base("vit_tiny", 64, None, weights, 0).model
    before = model(images(3, 64), collate(ROWS))
    section.inject(model, 0)
    assert torch.equal(model(images(3, 64), collate(ROWS)), before)


@torch.no_grad()
def test_step_zero_equals_vit_b_with_its_padded_windows(begun_vit_b):
    model = begun_vit_b  # other weights: up to rounding
    before = model(images(1, 256), collate(ROWS[:1]))
    Lora().inject(model, 0)
    found = model(images(1, 256), collate(ROWS[:1]))
    torch.testing.assert_close(found, before, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("section", SECTIONS)
@torch.no_grad()
def test_trained_changes_equal_a_base_whose_weights_they_were_added_to(section, tiny, shake):
    """The whole model, with padded windows and decoder, against SAM with W + alpha / r * B A."""
    merged = copy.deepcopy(tiny.model)
    section.inject(tiny.model, 0)
    shake(tiny.model, 0.3)
    state, factor = low_rank_state(tiny.model), section.alpha / section.rank
    before = merged(images(3), collate(ROWS))
    changed = 0
    for name in state:
        if not name.endswith(".a.weight"):
            continue
        module, _, part = name.removesuffix(".a.weight").rpartition(".")
        update = factor * state[f"{module}.{part}.b.weight"] @ state[name]
        module = module.removesuffix(".low_rank").replace(".block.", ".")
        rows = slice(None)
        if module.endswith(".qkv"):
            start = 128 * "qkv".index(part)
            rows = slice(start, start + 128)
        else:
            module = f"{module.removesuffix(f'.projections.{part}')}.{part}_proj"
        merged.get_submodule(module).weight[rows] += update
        changed += 1
    assert changed == len(section.targets) * (6 + (7 if section.decoder else 0))
    found = tiny.model(images(3), collate(ROWS))
    error = (found - merged(images(3), collate(ROWS))).abs().max()
    assert error < 1e-3 * (found - before).abs().max()


def test_gradients_pass_a_changed_projection_as_they_pass_its_sum(shake):
    layer = LowRankLinear(nn.Linear(6, 9), "qkv", Rank("qv", 2, 1.5, False))
    shake(layer, 0.5)
    weight = layer.base.weight.detach().clone()
    for part, start in (("q", 0), ("v", 6)):
        change = layer.low_rank[part]
        weight[start : start + 3] += 1.5 * (change.b.weight @ change.a.weight).detach()
    tokens = torch.randn(2, 4, 6, requires_grad=True)
    (found,) = torch.autograd.grad(layer(tokens).square().sum(), tokens)
    expected = 2 * (tokens @ weight.T + layer.bias) @ weight
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("section", SECTIONS)
def test_only_the_changes_are_trained_and_every_one_gets_a_gradient(section, tiny, shake):
    frozen = {id(parameter) for parameter in tiny.model.parameters()}
    section.inject(tiny.model, 0)
    trained = trained_parameters(tiny.model)
    assert not frozen & {id(parameter) for parameter in trained.values()}
    matrices = ("b",) if section.frozen_a else ("a", "b")
    assert {name.split(".")[-2] for name in trained} == set(matrices)
    shake(tiny.model)
    tiny.model(images(2), collate(ROWS[:2])).square().mean().backward()
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []
    touched = {n for n, p in tiny.model.named_parameters() if p.grad is not None}
    assert touched == trained.keys()


def test_a_frozen_a_is_a_function_of_the_seed_and_is_not_sent():
    found = []
    for seed in (1, 1, 2):
        model = load_base("vit_tiny", 48, None, "random", 0).model
        Lora(frozen_a=True).inject(model, seed)
        assert not [name for name in adapter_state(model) if ".a." in name]
        first = {n: t for n, t in low_rank_state(model).items() if n.endswith(".a.weight")}
        found.append(torch.cat([tensor.flatten() for tensor in first.values()]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("frozen_a", [True, False])
@torch.no_grad()
def test_the_mean_of_sites_is_exact_when_a_is_frozen_and_only_then(frozen_a, tiny):
    Lora(frozen_a=frozen_a, decoder=False).inject(tiny.model, 0)
    generator = torch.Generator().manual_seed(3)
    sites = [
        {n: torch.randn(t.shape, generator=generator) for n, t in adapter_state(tiny.model).items()}
        for _ in range(3)
    ]
    change = tiny.model.sam.image_encoder.blocks[0].block.attn.qkv.low_rank["v"]

    def product() -> torch.Tensor:
        return change.b.weight @ change.a.weight

    products = []
    for state in sites:
        load_adapter_state(tiny.model, state)
        products.append(product().clone())
    load_adapter_state(tiny.model, {n: sum(s[n] for s in sites) / 3 for n in sites[0]})
    error = (product() - sum(products) / 3).abs().max()
    assert error < 1e-5 if frozen_a else error > 0.1


def test_frozen_tensors_never_change(tiny):
    """Three steps of a large rate: the base and a frozen A are what they were."""
    Lora(frozen_a=True).inject(tiny.model, 0)
    trained = trained_parameters(tiny.model)
    before = {n: t.clone() for n, t in tiny.model.state_dict().items()}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        tiny.model(images(2), collate(ROWS[:2])).square().mean().backward()
        optimizer.step()
    after = tiny.model.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == trained.keys()


@torch.no_grad()
def test_step_zero_equals_vit_b_as_it_is_begun_bit_for_bit():
    model = load_base("vit_b", 224, None, "random", 0).model
    before = model(images(1, 224), collate(ROWS[:1]))
    Lora().inject(model, 0)
    assert torch.equal(model(images(1, 224), collate(ROWS[:1])), before)
