"""HyP-Adpt: the prompt acts on the first adapter of a decoder block, padding does not."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from medsa_model.adapters import Msa
from medsa_model.adapters.conditioned import ConditionedBottleneck
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.backbone import load_base
from medsa_model.prompts import collate

CONDITIONS = [("add", 1), ("concat", 1), ("hyper", 1), ("hyper", 3)]
CLICK = ([(10.0, 20.0)], [1], None)
CLICKS = ([(10.0, 20.0), (30.0, 5.0)], [1, 0], None)
BOX = ([], [], (4.0, 6.0, 30.0, 41.0))
NOTHING = ([], [], None)


def images(count: int, size: int = 48) -> torch.Tensor:
    return 255 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("condition", "steps"), CONDITIONS)
@pytest.mark.parametrize("weights", ["random", "pretrained"])
@torch.no_grad()
def test_step_zero_equals_the_base_bit_for_bit(condition, steps, weights):
    model = load_base("vit_tiny", 64, None, weights, 0).model
    prompt = collate([CLICKS, BOX, NOTHING])
    before = model(images(3, 64), prompt)
    Msa(condition=condition, condition_steps=steps).inject(model, 0)
    assert torch.equal(model(images(3, 64), prompt), before)


@pytest.mark.parametrize(("condition", "steps"), CONDITIONS)
@torch.no_grad()
def test_the_formulas_token_by_token(condition, steps, shake):
    adapter = ConditionedBottleneck(16, 4, condition, steps)
    shake(adapter)
    tokens, prompt = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 16)
    found = adapter(tokens, prompt)
    for volume, row, token in [(0, 0, 0), (0, 2, 4), (1, 1, 3)]:
        e, p = adapter.down(tokens[volume, row, token]), prompt[volume, row]
        for layer, norm in zip(adapter.maps, adapter.norms, strict=True):
            if condition == "hyper":
                weights = (layer.weight @ p + layer.bias).reshape(4, 4)
                e = torch.stack([sum(e[i] * weights[i, o] for i in range(4)) for o in range(4)])
            elif condition == "add":
                e = e + layer.weight @ p + layer.bias
            else:
                e = layer.weight @ torch.cat([e, p]) + layer.bias
            e = F.layer_norm(e, (4,), norm.weight, norm.bias).relu()
        expected = adapter.up.weight @ e + adapter.up.bias
        torch.testing.assert_close(found[volume, row, token], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("condition", "steps"), CONDITIONS)
def test_the_first_step_moves_the_up_projection_and_the_second_everything(condition, steps, tiny):
    Msa(condition=condition, condition_steps=steps).inject(tiny.model, 0)
    trained = trained_parameters(tiny.model)
    for step in range(2):
        tiny.model.zero_grad()
        tiny.model(images(2), collate([CLICK, BOX])).square().mean().backward()
        moved = {n for n, p in trained.items() if p.grad is not None and bool(p.grad.any())}
        if step == 0:
            assert {name for name in trained if "token_adapter.up." in name} <= moved
        with torch.no_grad():
            for parameter in trained.values():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad / (parameter.grad.norm() + 1e-12)
    assert moved == trained.keys()


@torch.no_grad()
def test_weight_maps_start_near_the_identity_and_depend_on_the_prompt(tiny):
    Msa(condition="hyper").inject(tiny.model, 0)
    layer = tiny.model.sam.mask_decoder.transformer.layers[0].token_adapter.maps[0]
    sparse, _ = tiny.model.embed_prompt(collate([CLICKS, BOX]))
    first, second = layer(tiny.model.mean_prompt(sparse)).view(2, 32, 32)
    assert not torch.equal(first, second)
    for weights in (first, second):
        assert 0 < torch.linalg.matrix_norm(weights - torch.eye(32), ord=2) < 0.3


@torch.no_grad()
def test_another_prompt_changes_what_the_conditioned_adapter_adds(shake):
    for condition, steps in CONDITIONS:
        adapter = ConditionedBottleneck(16, 4, condition, steps)
        shake(adapter)
        tokens, prompt = torch.randn(1, 1, 5, 16), torch.randn(1, 1, 16)
        assert not torch.equal(adapter(tokens, prompt), adapter(tokens, -prompt))


@torch.no_grad()
def test_the_mean_prompt_counts_clicks_and_corners_and_no_padding(tiny):
    model = tiny.model
    alone, _ = model.embed_prompt(collate([CLICK]))
    assert torch.equal(model.mean_prompt(alone)[0], alone[0, 0])  # the click, not SAM's padding
    mixed, _ = model.embed_prompt(collate([CLICK, CLICKS, BOX, NOTHING]))
    means = model.mean_prompt(mixed)
    torch.testing.assert_close(means[0], alone[0, 0])
    torch.testing.assert_close(means[1], mixed[1, :2].mean(0))
    torch.testing.assert_close(means[2], mixed[2, 2:].mean(0))
    assert not means[3].any()


@torch.no_grad()
def test_more_padding_does_not_change_the_mean_prompt(tiny):
    sparse, _ = tiny.model.embed_prompt(collate([CLICKS, BOX]))
    padding = tiny.model.sam.prompt_encoder.not_a_point_embed.weight.expand(2, 9, -1)
    found = tiny.model.mean_prompt(torch.cat([sparse, padding], 1))
    assert torch.equal(found, tiny.model.mean_prompt(sparse))


@torch.no_grad()
def test_without_any_token_the_mean_prompt_is_zero(tiny):
    tiny.model.rasterised_prompts = False
    sparse, _ = tiny.model.embed_prompt(collate([NOTHING, NOTHING]))
    assert sparse.shape[1] == 0
    assert torch.equal(tiny.model.mean_prompt(sparse), torch.zeros(2, 128))


@torch.no_grad()
def test_prompts_of_one_image_may_be_grouped_and_the_answer_stays(tiny, shake):
    """`rows` is for the layout of gradients: with it, each prompt still meets its own weights."""
    Msa(condition="hyper").inject(tiny.model, 0)
    shake(tiny.model)
    embedding = tiny.model.encode(images(2)).repeat_interleave(2, 0)
    prompt = collate([CLICK, BOX, CLICKS, NOTHING])
    alone, _ = tiny.model.decode(embedding, prompt)
    grouped, _ = tiny.model.decode(embedding, prompt, rows=2)
    torch.testing.assert_close(grouped, alone, atol=1e-5, rtol=1e-5)


def test_none_keeps_the_names_and_the_number_of_parameters(tiny):
    Msa(condition="none").inject(tiny.model, 0)
    names = {n.partition("layers.0.")[2] for n in trained_parameters(tiny.model)}
    adapters = ("token_adapter", "mlp_adapter", "image_adapter")
    layers = ("down.weight", "down.bias", "up.weight", "up.bias")
    assert names - {""} == {f"{adapter}.{layer}" for adapter in adapters for layer in layers}


def test_nothing_is_averaged_over_a_batch_of_patients(tiny):
    Msa(condition="hyper", condition_steps=3, depth=True).inject(tiny.model, 0)
    assert not [m for m in tiny.model.modules() if "BatchNorm" in type(m).__name__]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"condition": "hyper", "decoder_width": 0}, "decoder_width is 0"),
        ({"condition": "add", "condition_steps": 2}, "only condition hyper"),
        ({"condition": "hyper", "condition_steps": 4}, "less than or equal to 3"),
    ],
)
def test_a_condition_that_cannot_act_is_refused(fields, told):
    with pytest.raises(ValidationError, match=told):
        Msa(**fields)
