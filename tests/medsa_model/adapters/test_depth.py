"""SD-Trans: attention across depth, against a naive block, and one volume as dimension 0."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from medsa_model.adapters import Full, Lora, Msa
from medsa_model.adapters.attention import across_depth, project
from medsa_model.adapters.bottleneck import Bottleneck
from medsa_model.adapters.conditioned import ConditionedBottleneck
from medsa_model.adapters.encoder import AdaptedBlock
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.adapters.low_rank import LowRank
from medsa_model.backbone import load_base
from medsa_model.prompts import Prompt, collate

WINDOWED, GLOBAL = 0, 2
DEEP = Msa(depth=True, condition="hyper", condition_steps=2)


def random_tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(13))


def deep_block(number: int, size: int, shake) -> AdaptedBlock:
    model = load_base("vit_tiny", size, None, "pretrained", 0).model
    Msa(depth=True).inject(model, 0)
    shake(model)
    block = model.sam.image_encoder.blocks[number]
    assert bool(block.block.window_size) == (number == WINDOWED)
    return block


def naive_heads(attention, rows: Tensor, side: int = 0) -> Tensor:
    """Attention among `rows (N, C)` normed tokens, head by head; a table of a square of `side`."""
    q, k, v = (rows @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, -1)
    heads, width = attention.num_heads, q.shape[-1] // attention.num_heads
    found = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / width**0.5
        if side:
            y, x = torch.arange(side * side) // side, torch.arange(side * side) % side
            down = attention.rel_pos_h[y[:, None] - y + side - 1]
            right = attention.rel_pos_w[x[:, None] - x + side - 1]
            scores = scores + ((down + right) * q[:, None, part]).sum(-1)
        found.append(torch.softmax(scores, -1) @ v[:, part])
    return torch.cat(found, -1) @ attention.proj.weight.T + attention.proj.bias


def naive_bottleneck(adapter: Bottleneck, rows: Tensor) -> Tensor:
    reduced = (rows @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    return reduced @ adapter.up.weight.T + adapter.up.bias


def naive_block(adapted: AdaptedBlock, tokens: Tensor) -> Tensor:
    """`tokens (D, H, W, C)` of one volume through one block, by loops."""
    block, attention = adapted.block, adapted.block.attn
    normed = block.norm1(tokens)
    depth, height, width, _ = tokens.shape
    side = block.window_size or height
    inside, deep = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for z in range(depth):
        for top in range(0, height, side):
            for left in range(0, width, side):
                window = tokens.new_zeros(side, side, tokens.shape[-1])
                piece = normed[z, top : top + side, left : left + side]
                window[: piece.shape[0], : piece.shape[1]] = piece
                found = naive_heads(attention, window.flatten(0, 1), side).view(window.shape)
                inside[z, top : top + side, left : left + side] = found[
                    : piece.shape[0], : piece.shape[1]
                ]
    for y in range(height):
        for x in range(width):
            deep[:, y, x] = naive_heads(attention, normed[:, y, x])
    assert adapted.depth_adapter is not None
    tokens = tokens + inside + naive_bottleneck(adapted.space_adapter, inside)
    tokens = tokens + naive_bottleneck(adapted.depth_adapter, deep)
    normed = block.norm2(tokens)
    adapter = naive_bottleneck(adapted.mlp_adapter, normed)
    return tokens + block.mlp(normed) + adapted.scale * adapter


@pytest.mark.parametrize("number", [WINDOWED, GLOBAL])
@pytest.mark.parametrize("size", [48, 64, 80])  # 6, 8 and 10 tokens; windows have 8
@torch.no_grad()
def test_a_block_equals_a_naive_one_of_loops(number, size, shake):
    block, side = deep_block(number, size, shake).double(), size // 8
    tokens = random_tokens(2, 3, side, side, 128).double()
    expected = torch.stack([naive_block(block, volume) for volume in tokens])
    found = block(tokens.flatten(0, 1), 3).view(tokens.shape)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_every_depth_sequence_holds_the_slices_of_one_volume_at_one_location(monkeypatch):
    """Each token carries its volume, slice, row and column through a projection that copies."""
    volumes, slices, height, width = 2, 3, 4, 5
    places = [torch.arange(n) for n in (volumes, slices, height, width)]
    tokens = torch.stack(torch.meshgrid(*places, indexing="ij"), -1).float()
    seen: list[Tensor] = []

    def capture(q: Tensor, k: Tensor, v: Tensor, varying: int) -> Tensor:
        seen.extend((q, k, v))
        return v

    monkeypatch.setattr("medsa_model.adapters.attention.attend", capture)
    copies = SimpleNamespace(
        num_heads=1, scale=1.0, qkv=lambda t: torch.cat([t, t, t], -1), proj=nn.Identity()
    )
    rows = tokens.flatten(0, 1)
    out = across_depth(copies, project(copies, rows, slices), slices)
    assert torch.equal(out, rows)  # every value goes back to where it came from
    assert len(seen) == 3
    for sequences in seen:
        assert sequences.shape == (volumes * height * width, slices, 4)
        assert (sequences[:, :, [0, 2, 3]] == sequences[:, :1, [0, 2, 3]]).all()
        assert (sequences[:, :, 1] == torch.arange(slices)).all()
        assert len(sequences[:, 0].unique(dim=0)) == volumes * height * width


@pytest.mark.parametrize("number", [WINDOWED, GLOBAL])
@torch.no_grad()
def test_a_changed_token_reaches_other_slices_at_its_own_location_alone(number, shake):
    block = deep_block(number, 80, shake)
    tokens = random_tokens(2 * 4, 10, 10, 128)
    before = block(tokens, 4)
    tokens[1, 9, 3] += 1
    changed = (block(tokens, 4) != before).any(-1)
    assert not changed[4:].any()  # another volume
    for other in (0, 2, 3):
        assert changed[other].nonzero().tolist() == [[9, 3]]


@torch.no_grad()
def test_query_key_and_value_are_computed_once_for_both_directions(shake):
    block, calls = deep_block(WINDOWED, 48, shake), []
    block.block.attn.qkv.register_forward_hook(lambda *_: calls.append(1))
    block(random_tokens(3, 6, 6, 128), 3)
    assert len(calls) == 1


@pytest.mark.parametrize("weights", ["random", "pretrained"])
@pytest.mark.parametrize(
    "section", [Msa(), DEEP, Msa(depth=True, train_decoder=True), Lora(), Full()]
)
@torch.no_grad()
def test_step_zero_is_sam_on_each_slice_bit_for_bit(weights, section, volumes, clicks):
    model = load_base("vit_tiny", 64, None, weights, 0).model
    image, prompt = volumes(2, 3, 64), clicks(6)
    before = model(image.transpose(1, 2).flatten(0, 1), prompt)
    section.inject(model, 0)
    found = model(image, prompt)
    assert found.shape == (2, 1, 3, 64, 64)
    assert torch.equal(found.transpose(1, 2).flatten(0, 1), before)


@torch.no_grad()
def test_step_zero_of_vit_b_with_its_padded_windows(volumes, clicks, begun_vit_b):
    model = begun_vit_b  # other weights: up to rounding
    image = volumes(1, 2, 256)
    before = model(image[0].transpose(0, 1), clicks(2))
    Msa(ratio=1 / 16, depth=True, condition="hyper").inject(model, 0)
    found = model(image, clicks(2))[0].transpose(0, 1)
    torch.testing.assert_close(found, before, rtol=1e-5, atol=1e-8)


@torch.no_grad()
def test_a_single_slice_equals_the_image_bit_for_bit_with_any_weights(tiny, volumes, clicks, shake):
    DEEP.inject(tiny.model, 0)
    shake(tiny.model)
    image = volumes(2, 1)
    flat = tiny.model(image[:, :, 0], clicks(2))
    assert torch.equal(tiny.model(image, clicks(2))[:, :, 0], flat)
    for block in tiny.model.sam.image_encoder.blocks:  # and the depth adapters play no part in it
        assert block.depth_adapter is not None
        block.depth_adapter = None
    assert torch.equal(tiny.model(image[:, :, 0], clicks(2)), flat)


@pytest.mark.parametrize("section", [Msa(), Lora(), Full()])
@torch.no_grad()
def test_without_depth_adapters_a_volume_is_its_slices(section, tiny, volumes, shake):
    section.inject(tiny.model, 0)
    shake(tiny.model)
    image = volumes(2, 3)
    expected = tiny.model.encode(image.transpose(1, 2).flatten(0, 1))
    assert torch.equal(tiny.model.encode_volume(image).flatten(0, 1), expected)


@torch.no_grad()
def test_with_depth_adapters_slices_learn_from_each_other_and_volumes_do_not(
    tiny, volumes, shake
):  # fmt: skip
    DEEP.inject(tiny.model, 0)
    shake(tiny.model)
    image = volumes(2, 3)
    before = tiny.model.encode_volume(image)
    image[0, :, 2] = 0
    after = tiny.model.encode_volume(image)
    assert all(not torch.equal(after[0, z], before[0, z]) for z in range(3))
    torch.testing.assert_close(after[1], before[1], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_slices_have_no_order_of_their_own(tiny, volumes, shake):
    """No position bias on the depth axis: a reversed volume has the reversed embedding."""
    DEEP.inject(tiny.model, 0)
    shake(tiny.model)
    image = volumes(1, 4)
    found = tiny.model.encode_volume(image.flip(2)).flip(1)
    torch.testing.assert_close(found, tiny.model.encode_volume(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("section", [DEEP, Msa(condition="add"), Msa(condition="concat"), Lora()])
def test_every_adapter_sees_the_volume_as_dimension_zero(section, tiny, volumes, clicks):
    section.inject(tiny.model, 0)
    seen = {}
    for name, module in tiny.model.named_modules():
        if isinstance(module, Bottleneck | ConditionedBottleneck | LowRank):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: [a.shape for a in args]})
            )
    tiny.model(volumes(2, 3), clicks(6))
    parts = {name.rpartition(".")[0] for name in trained_parameters(tiny.model)}
    assert parts and all(any(part.startswith(name) for name in seen) for part in parts)
    assert all(shape[0] == 2 for shapes in seen.values() for shape in shapes)
    encoder = [shapes for name, shapes in seen.items() if "image_encoder" in name]
    assert encoder and all(shapes == [torch.Size([2, 3 * 36, 128])] for shapes in encoder)


def gradients(model, image: Tensor, prompt: Prompt) -> dict[str, Tensor]:
    model.zero_grad()
    model(image, prompt).square().sum().backward()
    return {n: p.grad.clone() for n, p in trained_parameters(model).items() if p.grad is not None}


def smooth(model: nn.Module) -> None:
    """GELU for ReLU: at a kink, rounding alone would decide whether a gradient is there."""
    for module in model.modules():
        for name in ("activation", "act"):
            if isinstance(getattr(module, name, None), nn.ReLU):
                setattr(module, name, nn.GELU())


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        limit = 1e-4 * gradient.abs().max() + 1e-6
        assert (found[name] - gradient).abs().max() <= limit, name


@pytest.mark.parametrize(
    "section", [DEEP, Msa(depth=True, condition="concat"), Lora(), Lora(frozen_a=True)]
)
def test_gradients_of_a_batch_are_those_of_its_volumes(section, tiny, volumes, clicks, shake):
    """Their sum; and by row of dimension 0 each volume's own, as differential privacy needs it."""
    section.inject(tiny.model, 0)
    shake(tiny.model)
    smooth(tiny.model)
    image, prompt = volumes(2, 3), clicks(6)
    halves = [Prompt(prompt.points[:3], prompt.labels[:3])]
    halves += [Prompt(prompt.points[3:], prompt.labels[3:])]
    alone = [gradients(tiny.model, image[n : n + 1], half) for n, half in enumerate(halves)]
    assert alone[0].keys() == trained_parameters(tiny.model).keys()

    together, calls = copy.deepcopy(tiny.model), []

    def keep(name: str, given: Tensor, out: Tensor) -> None:
        out.retain_grad()
        calls.append((name, given.detach(), out))

    for name, module in together.named_modules():
        if isinstance(module, nn.Linear) and module.weight.requires_grad:
            module.register_forward_hook(lambda _, i, o, name=name: keep(name, i[0], o))
    total = gradients(together, image, prompt)
    assert_equal_gradients(total, {n: g + alone[1][n] for n, g in alone[0].items()})
    assert len({name for name, _, _ in calls}) == len(calls)
    matrices = {f"{name}.weight" for name, _, _ in calls}
    assert matrices == {n for n, p in trained_parameters(together).items() if p.dim() == 2}
    for number in range(2):
        found = {
            f"{name}.weight": out.grad[number].flatten(0, -2).T @ given[number].flatten(0, -2)
            for name, given, out in calls
        }
        assert_equal_gradients(found, {name: alone[number][name] for name in matrices})


@pytest.mark.parametrize("section", [Msa(depth=True), DEEP, Lora(), Lora(frozen_a=True)])
def test_after_one_step_every_trained_tensor_has_a_gradient_and_no_other_changes(
    section, tiny, volumes, clicks
):
    before = {id(t): t.detach().clone() for t in tiny.model.state_dict(keep_vars=True).values()}
    section.inject(tiny.model, 0)
    trained = trained_parameters(tiny.model)
    optimizer = torch.optim.SGD(trained.values(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        tiny.model(volumes(1, 3), collate([([(9.0, 9.0)], [1], None)] * 3)).sum().backward()
        optimizer.step()
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []
    inside = {id(t): t for t in tiny.model.state_dict(keep_vars=True).values()}
    assert all(torch.equal(inside[key], tensor) for key, tensor in before.items())


def test_depth_adapters_exist_only_when_asked_for(tiny):
    Msa().inject(tiny.model, 0)
    assert sum(p.numel() for p in trained_parameters(tiny.model).values()) == 158_688
    assert not [name for name in trained_parameters(tiny.model) if "depth" in name]


@torch.no_grad()
def test_step_zero_of_vit_b_as_it_is_begun_bit_for_bit(volumes, clicks):
    model = load_base("vit_b", 224, None, "random", 0).model
    image = volumes(1, 2, 224)
    before = model(image[0].transpose(0, 1), clicks(2))
    Msa(ratio=1 / 16, depth=True, condition="hyper").inject(model, 0)
    assert torch.equal(model(image, clicks(2))[0].transpose(0, 1), before)
