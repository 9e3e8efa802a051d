"""An adapter on disk is found, checked in every tensor, and built on its own backbone alone."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from medsa_model.adapters import Full, Lora, Msa
from medsa_model.backbone import Model, embedded_backbone, file_sha256
from medsa_model.checkpoint import CONFIG, STATE
from medsa_model.errors import CheckpointError, ManifestError
from medsa_model.export.adapter_folder import write_adapter
from medsa_model.task import Task
from medsa_model.trained import build_trained, find_adapter, read_trained
from tests.medsa_model.small_adapter import MODEL, save, small

CPU = torch.device("cpu")
NAMED = Task(structures=("liver", "spleen"), named=2, prompts=("class",), seed=4)


@pytest.fixture(scope="module")
def trained():
    return small()


def altered(place, change):
    """Let `change` edit the configuration; the sums are then those of no file."""
    content = json.loads((place / CONFIG).read_text())
    change(content)
    (place / CONFIG).write_text(json.dumps(content))
    (place / "SHA256SUMS").unlink()


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_stands_for_its_final_adapter_and_its_folders_for_theirs(trained, tmp_path):
    first = save(tmp_path, trained, 1, final=False)
    assert find_adapter(first) == (first / STATE, first / CONFIG)
    assert find_adapter(first / STATE) == (first / STATE, first / CONFIG)
    save(tmp_path, trained, 2)
    assert find_adapter(tmp_path) == (tmp_path / "final" / STATE, tmp_path / "final" / CONFIG)


def test_a_run_that_is_not_complete_stands_for_its_last_round(
    trained, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("medsa_model.trained.logger.propagate", True)  # set_up() turns it off
    save(tmp_path, trained, 1, final=False)
    last = save(tmp_path, trained, 12, final=False)
    assert find_adapter(tmp_path) == (last / STATE, last / CONFIG)
    assert "round 12 is used" in caplog.text


def test_where_no_adapter_is_it_says_what_was_expected(tmp_path):
    with pytest.raises(CheckpointError, match=r"no adapter is there; expected a run directory, a"):
        find_adapter(tmp_path)


def test_an_adapter_comes_back_bit_for_bit(trained, tmp_path):
    found = read_trained(save(tmp_path, trained))
    assert same(found.state, trained.state)
    for part in ("model", "adapter", "task", "manifest"):
        assert getattr(found, part) == getattr(trained, part)


def test_a_file_under_another_name_is_read_too(trained, tmp_path):
    place = save(tmp_path, trained)
    other = (place / STATE).rename(place / "from_vienna.safetensors")
    assert same(read_trained(other).state, trained.state)


@pytest.mark.parametrize("name", [STATE, CONFIG])
def test_a_file_that_was_altered_is_refused(trained, tmp_path, name):
    path = save(tmp_path, trained) / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"other content than was written: {name}.*again"):
        read_trained(tmp_path)


@pytest.mark.parametrize("name", [STATE, CONFIG])
def test_a_file_that_is_missing_is_named(trained, tmp_path, name):
    place = save(tmp_path, trained)
    (place / "SHA256SUMS").unlink()
    kept = place / (CONFIG if name == STATE else STATE)
    (place / name).unlink()
    with pytest.raises(CheckpointError, match=r"no adapter is there|config.json is missing; an"):
        read_trained(kept if name == CONFIG else place)


def test_two_files_that_were_handed_on_with_all_sums_of_a_round_are_an_adapter(trained, tmp_path):
    place = save(tmp_path / "run", trained)
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in (STATE, CONFIG, "SHA256SUMS"):
        shutil.copy(place / name, alone)
    assert same(read_trained(alone).state, trained.state)
    (alone / CONFIG).write_text((alone / CONFIG).read_text() + " ")
    with pytest.raises(CheckpointError, match=f"other content than was written: {CONFIG}"):
        read_trained(alone)


def test_a_configuration_of_another_program_is_refused(trained, tmp_path):
    altered(save(tmp_path, trained), lambda content: content.pop("adapter"))
    with pytest.raises(CheckpointError, match=r"expected the keys model, adapter, task and manif"):
        read_trained(tmp_path)


def test_a_configuration_that_is_nested_too_deep_is_refused(trained, tmp_path):
    place = save(tmp_path, trained)
    (place / CONFIG).write_text("[" * 100_000)
    (place / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read as an adapter \(RecursionError"):
        read_trained(tmp_path)


def test_names_of_tensors_that_act_on_a_terminal_are_refused(trained, tmp_path):
    place = save(tmp_path, trained)
    save_file({**trained.state, "a\x1b[31m": torch.zeros(1)}, place / STATE)
    (place / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be shown \(a\[31m\)"):
        read_trained(tmp_path)


def test_every_tensor_that_does_not_fit_is_named(trained, tmp_path):
    place = save(tmp_path, trained)
    tensors = load_file(place / STATE)
    gone, bent = sorted(tensors)[:2]
    del tensors[gone]
    save_file({**tensors, bent: torch.zeros(7)}, place / STATE)
    (place / "SHA256SUMS").unlink()
    with pytest.raises(ManifestError, match=r"\(2 problems\)") as told:
        read_trained(tmp_path)
    assert f"missing {gone}" in str(told.value) and f"{bent} is (7,), expected" in str(told.value)


def test_another_version_of_the_program_is_guessed_where_the_model_is_another(trained, tmp_path):
    """The tensors fit what the manifest says, but not the model that the sections make."""
    altered(save(tmp_path, trained), lambda content: content["model"].update(image_size=64))
    with pytest.raises(ManifestError, match=r"was it written by another version of fed-medsa\?"):
        build_trained(read_trained(tmp_path), None, CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"model": Model(backbone="vit_h", image_size=2048, weights="random")},
        {"model": Model(image_size=64)},
        {"adapter": Lora(rank=256)},
        {"adapter": Full()},
        {"task": NAMED},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_model_is_refused_before_it_gets_any_memory(change, trained, monkeypatch):
    monkeypatch.setattr(Model, "build", None)
    with pytest.raises(ManifestError, match=r"was it written by another version of fed-medsa\?"):
        build_trained(replace(trained, **change), None, CPU)


def test_blocks_that_the_backbone_has_not_are_told(trained):
    hostile = replace(trained, adapter=Msa(blocks="last-99"))
    with pytest.raises(ManifestError, match="configuration asks for"):
        build_trained(hostile, None, CPU)


def test_two_adapters_of_equal_sections_are_two_models(trained):
    name = next(iter(trained.state))
    other = replace(trained, state={**trained.state, name: trained.state[name] + 1})
    models = [build_trained(each, None, CPU).model for each in (trained, other)]
    found = [dict(model.named_parameters())[name] for model in models]
    assert torch.equal(found[0] + 1, found[1]) and torch.equal(found[0], trained.state[name])


def test_frozen_layers_that_were_rounded_in_training_are_whole_again(trained):
    rounded = replace(trained, model=MODEL.model_copy(update={"frozen": "bfloat16"}))
    found, whole = (
        build_trained(each, None, CPU).model.state_dict() for each in (rounded, trained)
    )
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_another_backbone_is_refused_with_both_hashes(trained, tmp_path):
    other = tmp_path / "other.safetensors"
    tensors = load_file(embedded_backbone())
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, other)
    with pytest.raises(CheckpointError) as told:
        build_trained(read_trained(save(tmp_path, trained)), other, CPU)
    assert str(told.value) == (
        "the adapter was trained on the vit_tiny with sha256 "
        f"{file_sha256(embedded_backbone())}, but other.safetensors has {file_sha256(other)}; with "
        "another backbone its answers would be wrong: vit_tiny comes with fed-medsa, so leave "
        "--checkpoint out"
    )


def test_an_adapter_that_reads_weights_while_it_is_put_in_is_told(trained, monkeypatch):
    """A kind of somebody's own: shapes are checked where weights have no values."""
    monkeypatch.setattr(Msa, "inject", lambda self, model, seed: next(model.parameters()).item())
    with pytest.raises(ManifestError, match=r"kind msa reads weights.*the meta device"):
        build_trained(trained, None, CPU)


def test_an_adapter_of_a_file_of_its_own_needs_that_file(trained, tmp_path):
    """One that was trained on a vit_tiny that is not the embedded one."""
    own = replace(trained, manifest=replace(trained.manifest, base_sha256="0" * 64))
    with pytest.raises(CheckpointError, match=r"give the same file with --checkpoint$"):
        build_trained(own, None, CPU)


def test_a_backbone_that_is_not_embedded_is_asked_for(trained, tmp_path):
    altered(save(tmp_path, trained), lambda content: content["model"].update(backbone="vit_b"))
    with pytest.raises(CheckpointError, match=r"give the path of sam_vit_b_01ec64.pth \(sha256"):
        build_trained(read_trained(tmp_path), None, CPU)


def test_the_built_model_holds_the_trained_tensors(trained, tmp_path):
    built = build_trained(read_trained(save(tmp_path, trained)), None, CPU)
    parameters = dict(built.model.named_parameters())
    assert all(torch.equal(parameters[name], each) for name, each in trained.state.items())
    assert not built.model.training


@pytest.mark.parametrize(
    "adapter", [Lora(rank=2), Lora(rank=2, targets="qkv", frozen_a=True), Full()], ids=repr
)
def test_other_kinds_come_back_from_a_run_and_from_an_exported_folder(adapter, tmp_path):
    random = MODEL.model_copy(update={"weights": "random"})
    given = small(adapter, random, NAMED)
    assert same(read_trained(save(tmp_path / "run", given)).state, given.state)
    write_adapter(given, "", tmp_path / "out")
    found = read_trained(tmp_path / "out")
    assert same(found.state, given.state) and found.manifest == given.manifest
    built = build_trained(found, None, CPU)
    assert built.manifest == given.manifest


def test_a_frozen_matrix_in_the_file_must_be_that_of_the_model(tmp_path):
    given = small(Lora(rank=2, frozen_a=True, decoder=False))
    write_adapter(given, "", tmp_path / "out")
    path = tmp_path / "out" / STATE
    build_trained(read_trained(tmp_path / "out"), None, CPU)
    tensors = load_file(path)
    name = next(each for each in tensors if ".lora_A." in each)
    save_file({**tensors, name: tensors[name] + 1}, path)
    (tmp_path / "out" / "SHA256SUMS").unlink()
    found = read_trained(tmp_path / "out")
    assert len(found.frozen) == 12  # of query and value in six blocks
    with pytest.raises(ManifestError, match=r"2 frozen tensors are not those that seed 3 makes"):
        build_trained(found, None, CPU)


def test_a_matrix_that_the_state_does_not_have_is_not_dropped_without_a_word(tmp_path):
    write_adapter(small(Lora(rank=2, decoder=False)), "", tmp_path / "out")
    path = tmp_path / "out" / STATE
    more = "base_model.model.image_encoder.blocks.9.attn.qkv.lora_A.weight"
    save_file({**load_file(path), more: torch.zeros(4, 128)}, path)
    (tmp_path / "out" / "SHA256SUMS").unlink()
    with pytest.raises(ManifestError, match=r"unknown sam\.image_encoder\.blocks\.9"):
        read_trained(tmp_path / "out")


def test_a_lora_file_with_other_settings_than_it_says_is_refused(tmp_path):
    given = small(Lora(rank=2, decoder=False))
    write_adapter(given, "", tmp_path / "out")
    altered(tmp_path / "out", lambda content: content.update(r=12))
    with pytest.raises(ManifestError, match=re.escape("r is 12, expected 4")):
        read_trained(tmp_path / "out")
