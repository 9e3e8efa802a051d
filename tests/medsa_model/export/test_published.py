"""Published weights become an adapter with the same function, and what is left out is told."""

import argparse
import json
import pathlib

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medsa_model.backbone import Model, embedded_backbone, load_base, read_tensors
from medsa_model.errors import CheckpointError
from medsa_model.export.published import import_published, read_published
from medsa_model.task import Task
from medsa_model.trained import build_trained

WIDTH, HIDDEN, DEPTH = 128, 32, 6
CPU = torch.device("cpu")
TASK = Task(structures=("lesion",), prompts=("click",))
VOLUMES = Task(structures=("lesion",), prompts=("click",), volumes=True, window=(-175, 250))
MODEL = Model(image_size=64)  # one window of 8 x 8 tokens: no padding


def weights(blocks=range(DEPTH), kinds=("MLP", "Space", "Depth"), hidden=HIDDEN):
    """Tensors as the published training program names them: backbone, adapters, a decoder."""
    numbers = torch.Generator().manual_seed(0)
    tensors = read_tensors(embedded_backbone())
    for block in blocks:
        for kind in kinds:
            for layer, shape in {"D_fc1": (hidden, WIDTH), "D_fc2": (WIDTH, hidden)}.items():
                name = f"image_encoder.blocks.{block}.{kind}_Adapter.{layer}"
                tensors[f"{name}.weight"] = 0.2 * torch.randn(shape, generator=numbers)
                tensors[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=numbers)
    return tensors


@pytest.fixture(scope="module")
def published():
    tensors = weights()
    name = "mask_decoder.transformer.layers.0.mlp.lin1.weight"
    return {**tensors, name: tensors[name] + 0.1}


@torch.no_grad()
def test_a_block_is_the_same_function_as_the_formula_of_the_published_code(published):
    """x = x + a + space(a), x = x + mlp(n) + 0.5 * parallel(n), with GELU, by hand."""
    trained, _ = import_published(published, MODEL, TASK)
    ours = build_trained(trained, None, CPU).model.sam.image_encoder.blocks[1]
    plain = load_base("vit_tiny", 64, None, "pretrained", 0).model.sam.image_encoder.blocks[1]

    def adapter(kind, tokens):
        layers = [
            [published[f"image_encoder.blocks.1.{kind}_Adapter.{layer}.{part}"]
             for part in ("weight", "bias")] for layer in ("D_fc1", "D_fc2")
        ]  # fmt: skip
        return F.linear(F.gelu(F.linear(tokens, *layers[0])), *layers[1])

    tokens = torch.randn(2, 8, 8, WIDTH, generator=torch.Generator().manual_seed(4))
    attended = plain.attn(plain.norm1(tokens))
    inner = tokens + attended + adapter("Space", attended)
    normed = plain.norm2(inner)
    expected = inner + plain.mlp(normed) + 0.5 * adapter("MLP", normed)
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, plain(tokens), atol=0.1)  # the adapters matter


def test_every_tensor_is_used_or_its_reason_is_told(published):
    changed = "image_encoder.neck.0.weight"
    tensors = {
        **published,
        changed: published[changed] + 0.5,
        "image_encoder.blocks.0.prompt.weight": torch.zeros(3),
        "image_encoder.pos_embed": torch.zeros(1, 32, 32, WIDTH),
        "mask_decoder.iou_prediction_head.layers.0.bias": torch.ones(128),
    }
    lacking = "image_encoder.blocks.3.Space_Adapter.D_fc2.weight"
    del tensors[lacking]
    trained, found = import_published(tensors, MODEL, TASK)
    assert len(found.mapped) + len(found.not_mapped) + found.same == len(tensors)
    for name, ours in found.mapped.items():
        assert torch.equal(trained.state[ours], tensors[name])
    adapters = {name: ours for name, ours in found.mapped.items() if "_Adapter" in name}
    assert adapters["image_encoder.blocks.2.MLP_Adapter.D_fc1.bias"] == (
        "sam.image_encoder.blocks.2.mlp_adapter.down.bias"
    )
    why = found.not_mapped
    assert "differs from the backbone (by up to 0.5)" in why[changed]
    assert why["image_encoder.blocks.0.prompt.weight"] == "has no counterpart here"
    assert "another --image-size?" in why["image_encoder.pos_embed"]
    assert "one mask" in why["mask_decoder.iou_prediction_head.layers.0.bias"]
    assert sum("give --window" in each for each in why.values()) == 4 * DEPTH
    assert found.lacking == ("sam.image_encoder.blocks.3.space_adapter.up.weight",)
    assert not trained.state[found.lacking[0]].any()  # so this adapter adds its bias alone


def test_names_and_shapes_say_which_adapter_it_is(published):
    section = import_published(published, MODEL, TASK)[0].adapter
    assert section.model_dump() == {
        "kind": "msa", "blocks": "all", "ratio": 0.25, "scale": 0.5, "decoder_width": 0,
        "train_decoder": True, "depth": False, "condition": "none", "condition_steps": 1,
        "activation": "gelu",
    }  # fmt: skip
    small = weights(blocks=(4, 5), kinds=("MLP",), hidden=8)
    trained, found = import_published(small, MODEL, TASK)
    assert (trained.adapter.blocks, trained.adapter.ratio) == ("last-2", 8 / WIDTH)
    assert not trained.adapter.train_decoder  # its decoder is the backbone's
    assert all("space_adapter" in name for name in found.lacking) and len(found.lacking) == 8


def test_for_volumes_adapters_across_slices_come_along(published):
    trained, found = import_published(published, MODEL, VOLUMES)
    assert trained.adapter.depth and found.not_mapped == {}
    name = "image_encoder.blocks.5.Depth_Adapter.D_fc2.weight"
    ours = trained.state["sam.image_encoder.blocks.5.depth_adapter.up.weight"]
    assert torch.equal(ours, published[name])
    without = {name: tensor for name, tensor in published.items() if "Depth" not in name}
    assert not import_published(without, MODEL, VOLUMES)[0].adapter.depth


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"image_encoder.neck.0.weight": torch.zeros(1)}, r"have no adapters.*found image_encoder"),
        (weights(blocks=(9,)), r"block 9, but vit_tiny has 6 blocks; is --backbone"),
        (weights(blocks=(0,)) | {k: v for k, v in weights(blocks=(1,), hidden=8).items()
                                 if "_Adapter" in k}, r"\(8, 128\) and \(32, 128\)"),
        ({"image_encoder.blocks.0.MLP_Adapter.D_fc1.weight": torch.zeros(192, 768)},
         r"is \(192, 768\) .* the width of vit_tiny, 128: is --backbone"),
        ({"image_encoder.blocks.0.MLP_Adapter.D_fc1.weight": torch.zeros(0, 128)},
         r"is \(0, 128\) .*expected one size"),
        ({f"image_encoder.blocks.{'9' * 5000}.MLP_Adapter.D_fc1.weight": torch.zeros(8, 128)},
         r"have no adapters"),
        ({"\x1b[31m": torch.zeros(1)}, r"found \[31m"),
    ],
    ids=["no adapters", "too many blocks", "two sizes", "another backbone", "no channels",
         "a block of many digits", "a name that acts"],
)  # fmt: skip
def test_weights_of_something_else_are_refused(tensors, message):
    with pytest.raises(CheckpointError, match=message):
        import_published(tensors, MODEL, TASK)


def test_half_precision_becomes_float32_whole_in_memory():
    half = {name: tensor.half() for name, tensor in weights(blocks=(5,), kinds=("MLP",)).items()}
    name = "image_encoder.blocks.5.MLP_Adapter.D_fc1.weight"
    half[name] = half[name].T.contiguous().T  # as it is in memory after some programs
    ours = "sam.image_encoder.blocks.5.mlp_adapter.down.weight"
    found = import_published(half, MODEL, TASK)[0].state[ours]
    assert found.dtype == torch.float32 and found.is_contiguous()
    assert torch.equal(found, half[name].float())


def test_positions_in_the_frame_of_the_training_are_those_of_the_backbone():
    """A published file holds them resized, as the backbone's are here before they are used."""
    tensors = weights(blocks=(5,), kinds=("MLP",))
    model = load_base("vit_tiny", 64, None, "pretrained", 0).model.sam
    resized = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in tensors and tensor.shape != tensors[name].shape
    }
    assert "image_encoder.pos_embed" in resized
    found = import_published({**tensors, **resized}, MODEL, TASK)[1]
    assert found.not_mapped == {} and found.same == len(tensors) - 4


SMALL = {"image_encoder.a": torch.arange(3.0), "mask_decoder.b": torch.ones(2)}


@pytest.mark.parametrize(
    "content",
    [
        SMALL,
        {f"module.{name}": tensor for name, tensor in SMALL.items()},
        {"epoch": 3, "model": "sam", "state_dict": SMALL, "optimizer": {"lr": 0.1}},
        {"net": SMALL},
    ],
    ids=["plain", "of several devices", "beside other things", "net"],
)
def test_tensors_are_found_where_training_programs_put_them(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    found = read_published(tmp_path / "weights.pth")
    assert found.keys() == SMALL.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in SMALL.items())


def test_safetensors_are_read_too(tmp_path):
    save_file(SMALL, tmp_path / "weights.safetensors")
    assert read_published(tmp_path / "weights.safetensors").keys() == SMALL.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": SMALL, "args": argparse.Namespace()}, r"holds argparse.Namespace.*refused"),
        ({"state_dict": SMALL, "path": pathlib.PurePosixPath("a")}, r"holds pathlib\.P"),
        (torch.nn.Linear(2, 2), r"holds torch.nn.modules.linear.Linear, which is no tensor"),
        ({"epoch": 3, "weights": SMALL}, r"other things than tensors \(epoch, weights\)"),
        ([1, 2], r"expected names and tensors.*found list"),
        ({}, r"expected names and tensors"),
    ],
    ids=["namespace", "path", "module", "elsewhere", "list", "empty"],
)
def test_a_file_with_more_than_tensors_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        read_published(tmp_path / "weights.pth")


def test_a_program_in_a_pickle_does_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"state_dict": SMALL, "extra": Harmful()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="could run any program"):
        read_published(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_cut_or_no_weights_at_all_is_told(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(SMALL, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_published(path)
    path.write_text(json.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_published(path)
    path.write_text("error 404: not found")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_published(path)


def test_a_few_bytes_that_would_become_terabytes_are_refused(tmp_path):
    torch.save({"net": {"a": torch.zeros(1).expand(10**12)}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="but only 4 bytes are there"):
        read_published(tmp_path / "weights.pth")
