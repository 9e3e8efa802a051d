"""PEFT's layout: applied as PEFT does it, the packaged model gives the adapted model's answer."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medsa_model.adapters import Lora, Msa
from medsa_model.adapters.peft_layout import (
    from_peft,
    low_rank_state,
    to_peft,
)
from medsa_model.errors import ManifestError
from medsa_model.prompts import collate
from medsa_model.state import adapter_state, load_adapter_state

SECTIONS = [
    Lora(), Lora(targets="qkv", rank=3, alpha=6.0), Lora(frozen_a=True), Lora(decoder=False)
]  # fmt: skip


def write(folder: Path, state: dict[str, torch.Tensor], section: Lora) -> None:
    """Both files, as an export has them."""
    tensors, config = to_peft(state, section)
    files = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(files, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))


def read(folder: Path, section: Lora) -> dict[str, torch.Tensor]:
    config = json.loads((folder / "adapter_config.json").read_text())
    return from_peft(load_file(folder / "adapter_model.safetensors"), config, section)


@pytest.mark.parametrize("section", SECTIONS)
@torch.no_grad()
def test_the_written_files_mean_the_same_model(section, tiny, shake, volumes, clicks, tmp_path):
    merged, image = copy.deepcopy(tiny.model), volumes(1, 3)[0].transpose(0, 1)
    before = merged(image, clicks(3))
    section.inject(tiny.model, 0)
    shake(tiny.model, 0.3)
    write(tmp_path, low_rank_state(tiny.model), section)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors, _ = to_peft(low_rank_state(tiny.model), section)
    for name in tensors:
        if ".lora_A." not in name:
            continue
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        kind = module.rpartition(".")[2]
        assert kind in config["target_modules"]
        rank = config["rank_pattern"].get(kind, config["r"])
        alpha = config["alpha_pattern"].get(kind, config["lora_alpha"])
        assert tensors[name].shape[0] == rank
        update = tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
        merged.sam.get_submodule(module).weight += alpha / rank * update
    expected = tiny.model(image, clicks(3))
    error = (merged(image, clicks(3)) - expected).abs().max()
    assert error < 1e-3 * (expected - before).abs().max()


@pytest.mark.parametrize("section", SECTIONS)
def test_what_was_written_is_read_bit_for_bit(section, tiny, shake, tmp_path):
    section.inject(tiny.model, 0)
    shake(tiny.model)
    state = low_rank_state(tiny.model)
    write(tmp_path, state, section)
    found = read(tmp_path, section)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_names_are_those_of_the_package(tiny):
    packaged = {name for name, _ in tiny.model.sam.named_modules()}
    Lora().inject(tiny.model, 0)
    tensors, config = to_peft(adapter_state(tiny.model), Lora())
    assert "base_model.model.image_encoder.blocks.0.attn.qkv.lora_A.weight" in tensors
    modules = {n.removeprefix("base_model.model.").rpartition(".lora_")[0] for n in tensors}
    assert modules <= packaged and len(modules) == 6 + 7 * 2
    targeted = {n for n in packaged if n.rpartition(".")[2] in config["target_modules"]}
    assert modules == targeted


def test_a_state_without_its_frozen_a_says_where_it_is(tiny):
    Lora(frozen_a=True).inject(tiny.model, 0)
    with pytest.raises(ManifestError, match=r"blocks\.0\.attn\.qkv: A or B is missing"):
        to_peft(adapter_state(tiny.model), Lora(frozen_a=True))


def test_a_state_of_another_adapter_is_refused(tiny):
    Msa().inject(tiny.model, 0)
    with pytest.raises(ManifestError, match="no A or B of LoRA"):
        to_peft(adapter_state(tiny.model), Lora())


@pytest.mark.parametrize(
    ("other", "told"),
    [(Lora(rank=8), "r is 8, expected 16"), (Lora(targets="qkv"), "r is 8, expected 12")],
)
def test_files_of_another_section_are_refused(other, told, tiny):
    Lora().inject(tiny.model, 0)
    with pytest.raises(ManifestError, match=told):
        from_peft(*to_peft(adapter_state(tiny.model), Lora()), other)


def test_a_fused_b_whose_parts_share_an_a_is_refused(tiny):
    Lora().inject(tiny.model, 0)
    tensors, config = to_peft(adapter_state(tiny.model), Lora())
    name = "base_model.model.image_encoder.blocks.3.attn.qkv.lora_B.weight"
    tensors[name] = torch.ones_like(tensors[name])
    with pytest.raises(ManifestError, match=r"blocks\.3\.attn\.qkv: lora_B changes qv"):
        from_peft(tensors, config, Lora())


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("image_encoder.blocks.0.attn.qkv.lora_B.weight", (384, 4), r"lora_B is \(384, 4\)"),
        ("image_encoder.blocks.0.attn.qkv.lora_E.weight", (4, 4), "unknown"),
        ("image_encoder.blocks.0.attn.qkv.lora_B.weight", (383, 8), r"lora_B is \(383, 8\), expec"),
        ("image_encoder.blocks.0.attn.qkv.lora_B.weight", (0, 8), r"lora_B is \(0, 8\), expected"),
        ("image_encoder.blocks.0.attn.qkv.lora_B.weight", (8,), r"is \(8,\).*expected a matrix"),
        ("image_encoder.blocks.0.attn.qkv.lora_A.weight", (), r"is \(\).*expected a matrix"),
        ("\x1b[31m", (4, 4), r"unknown base_model\.model\.\[31m, expected"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, shape, told, tiny):
    Lora().inject(tiny.model, 0)
    tensors, config = to_peft(adapter_state(tiny.model), Lora())
    tensors[f"base_model.model.{name}"] = torch.zeros(shape)
    with pytest.raises(ManifestError, match=told):
        from_peft(tensors, config, Lora())


@pytest.mark.parametrize("modules", [[1, "qkv"], [["qkv"]], "qkv", {"qkv": 1}, None])
def test_a_list_of_targets_that_is_none_is_refused(modules, tiny):
    Lora(decoder=False).inject(tiny.model, 0)
    tensors, config = to_peft(adapter_state(tiny.model), Lora(decoder=False))
    with pytest.raises(ManifestError, match=r"target_modules is .*, expected \['qkv'\]"):
        from_peft(tensors, config | {"target_modules": modules}, Lora(decoder=False))


def test_a_read_state_gives_the_same_answer(tiny, shake, volumes, clicks):
    Lora().inject(tiny.model, 0)
    shake(tiny.model)
    image = volumes(1, 1)[:, :, 0]
    prompt = collate([([(9.0, 9.0)], [1], None)])
    before = tiny.model(image, prompt).detach()
    state = from_peft(*to_peft(adapter_state(tiny.model), Lora()), Lora())
    shake(tiny.model)
    assert not torch.equal(tiny.model(image, prompt), before)
    tiny.model.load_state_dict(state, strict=False)
    assert torch.equal(tiny.model(image, prompt), before)


NAMES = "base_model.model.class_embedding.weight"


@pytest.mark.parametrize("section", [Lora(), Lora(frozen_a=True)])
def test_names_of_structures_are_a_module_that_peft_trains_whole(section, tiny, shake, tmp_path):
    section.inject(tiny.model, 0)
    plain, without = to_peft(low_rank_state(tiny.model), section)
    tiny.model.learn_classes(3, 0)
    shake(tiny.model)
    state = low_rank_state(tiny.model)
    names = tiny.model.class_embedding.weight.detach()
    write(tmp_path, state, section)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert set(tensors) - set(plain) == {NAMES} and torch.equal(tensors[NAMES], names)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config == without | {"modules_to_save": ["class_embedding"]}
    assert without["modules_to_save"] is None
    found = read(tmp_path, section)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_a_read_state_asks_by_name_as_before(tiny, shake, volumes):
    Lora().inject(tiny.model, 0)
    tiny.model.learn_classes(3, 0)
    shake(tiny.model)
    image, prompt = volumes(1, 1)[:, :, 0], collate([([], [], None)], [2])
    before = tiny.model(image, prompt).detach()
    state = from_peft(*to_peft(adapter_state(tiny.model), Lora()), Lora())
    shake(tiny.model)
    assert not torch.equal(tiny.model(image, prompt), before)
    load_adapter_state(tiny.model, state)
    assert torch.equal(tiny.model(image, prompt), before)


def test_sam_has_no_other_module_that_peft_takes_for_the_names(tiny):
    """PEFT compares the ends of names."""
    assert not [n for n, _ in tiny.model.sam.named_modules() if n.endswith("class_embedding")]


@pytest.mark.parametrize(
    ("saved", "written", "told"),
    [
        (None, True, "modules_to_save is None, expected ['class_embedding']"),
        (["class_embedding"], False, "modules_to_save is ['class_embedding'], expected None"),
        (["class_embedding", "mask_tokens"], True, "expected ['class_embedding']"),
        (["mask_tokens"], False, "modules_to_save is ['mask_tokens'], expected None"),
    ],
)
def test_another_list_of_modules_than_the_weights_have_is_refused(saved, written, told, tiny):
    Lora().inject(tiny.model, 0)
    tiny.model.learn_classes(3, 0)
    tensors, config = to_peft(adapter_state(tiny.model), Lora())
    if not written:
        del tensors[NAMES]
    with pytest.raises(ManifestError, match=re.escape(told)):
        from_peft(tensors, config | {"modules_to_save": saved}, Lora())


def test_a_list_of_modules_that_is_absent_means_none(tiny):
    """As PEFT reads it, and as files were written before there were names."""
    Lora().inject(tiny.model, 0)
    state = adapter_state(tiny.model)
    tensors, config = to_peft(state, Lora())
    del config["modules_to_save"]
    assert from_peft(tensors, config, Lora()).keys() == state.keys()
