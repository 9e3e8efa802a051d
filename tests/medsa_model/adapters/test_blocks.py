"""Adapters in some of the encoder's blocks, and what comes before them."""

import pytest
import torch

from medsa_model.adapters import Full, Lora, Msa
from medsa_model.adapters.depth import chosen_blocks
from medsa_model.adapters.freeze import round_frozen, trained_parameters
from medsa_model.config import RunConfig
from medsa_model.prompts import collate


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [("all", (0, 1, 2, 3, 4, 5)), ("last-2", (4, 5)), ("last-6", (0, 1, 2, 3, 4, 5)),
     ((5, 2), (2, 5))],
)  # fmt: skip
def test_which_blocks(blocks, expected):
    assert chosen_blocks(blocks, 6) == expected


@pytest.mark.parametrize(
    ("blocks", "said"),
    [("last-7", "last-7 of an encoder with 6 blocks"), ([1, 6], "block 6 of"), ("last-0", "blocks"),
     ("first-2", "blocks"), ([], "blocks"), ([-1], "blocks"), ([2, 2], "different"),
     ([[2]], "blocks"), ([True], "blocks"), (3, "blocks"), ({}, "blocks")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["msa", "lora"])
def test_blocks_that_there_are_not_are_a_mistake_in_the_settings(blocks, said, kind):
    content = {"name": "x", "data": {"kind": "synthetic"}}
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate({**content, "adapter": {"kind": kind, "blocks": blocks}})


@pytest.mark.parametrize(
    ("section", "frozen", "tensors"),
    [(Msa(blocks="last-2"), 4, 2), (Msa(blocks=(1, 5)), 1, 2), (Msa(), 0, 6), (Full(), 0, 6),
     (Lora(blocks="last-1"), 5, 1), (Lora(blocks=(3,)), 3, 1)],
)  # fmt: skip
def test_only_the_chosen_blocks_are_trained(section, frozen, tensors, tiny):
    section.inject(tiny.model, 0)
    names = [n for n in trained_parameters(tiny.model) if ".image_encoder.blocks." in n]
    assert len({name.split(".blocks.")[1].split(".")[0] for name in names}) == tensors
    assert tiny.model.frozen_blocks == frozen


@pytest.mark.parametrize("section", [Msa(blocks="last-2"), Msa(blocks=(3, 4)), Lora(blocks=(4,))])
@pytest.mark.parametrize("slices", [1, 3])
def test_the_encoder_in_two_parts(section, slices, tiny, volumes, shake):
    """The first part has no gradient, both together give every bit of the whole."""
    section.inject(tiny.model, 0)
    shake(tiny.model)
    image = volumes(2, slices)
    whole = tiny.model.encode_volume(image)
    before = tiny.model.prefix(image)
    assert not before.requires_grad and before.shape == (2 * slices, 6, 6, 128)
    parts = tiny.model.encode_from(before, slices).unflatten(0, (2, slices))
    assert parts.requires_grad and torch.equal(parts, whole)


def test_a_frozen_block_is_not_run_again(tiny, volumes):
    Msa(blocks="last-1").inject(tiny.model, 0)
    before = tiny.model.prefix(volumes(1, 1))
    calls = []
    for number, block in enumerate(tiny.model.sam.image_encoder.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    tiny.model.encode_from(before)
    assert calls == [5]


@pytest.mark.parametrize("section", [Msa(), Msa(blocks="last-2"), Lora(blocks="last-3")])
def test_blocks_that_are_computed_again_give_the_same_gradients(section, tiny, volumes, shake):
    section.inject(tiny.model, 0)
    shake(tiny.model)
    kept, gradients = [], []
    for again in (False, True):
        tiny.model.recompute = again
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = tiny.model.encode_volume(volumes(2, 3)).square().mean()
        trained = [p for n, p in trained_parameters(tiny.model).items() if "image_encoder" in n]
        gradients.append(torch.autograd.grad(loss, trained))
        own = {p.data_ptr() for p in tiny.model.parameters()}
        kept.append(sum(size for place, size in sizes.items() if place not in own))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("section", [Msa(), Lora()])
def test_frozen_layers_in_bfloat16_change_no_bit(section, tiny, shake):
    section.inject(tiny.model, 0)
    shake(tiny.model)
    image = 255 * torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    prompt = collate([([(10.0, 20.0)], [1], None)] * 2)
    found = []
    for rounded in (False, True):
        if rounded:
            round_frozen(tiny.model, torch.bfloat16)
        tiny.model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = tiny.model(image, prompt)
        logits.square().mean().backward()
        gradients = [p.grad.clone() for p in trained_parameters(tiny.model).values()]
        found.append([logits, *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    dtypes = {p.dtype for p in tiny.model.sam.image_encoder.blocks[0].block.mlp.parameters()}
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in trained_parameters(tiny.model).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("more", "said"),
    [({}, "train.precision is auto"), ({"train": {"steps": 1, "precision": "float32"}}, "float32"),
     ({"train": {"steps": 1, "precision": "bfloat16"},
       "privacy": {"epsilon": 8.0, "clip_norm": 1.0}}, "privacy")],
)  # fmt: skip
def test_frozen_layers_in_bfloat16_need_bfloat16(more, said):
    content = {"name": "x", "data": {"kind": "synthetic"}, "model": {"frozen": "bfloat16"}}
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate(content | more)


def test_bfloat16_points_where_float32_does(tiny, shake):
    """Gradients of all adapters, with windows that are cut."""
    Msa().inject(tiny.model, 0)
    shake(tiny.model)
    image = 255 * torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    prompt = collate([([(10.0, 20.0)], [1], None), ([], [], (4.0, 6.0, 30.0, 41.0))])
    gradients = []
    for enabled in (False, True):
        tiny.model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            tiny.model(image, prompt).square().mean().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in trained_parameters(tiny.model).values()])
        )
    assert torch.cosine_similarity(*gradients, dim=0) > 0.998  # of the plain attention 0.9985
