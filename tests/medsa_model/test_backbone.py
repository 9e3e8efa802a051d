"""Loading the base: names, hashes, sizes, damaged files."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from medsa_model.backbone import (
    embedded_backbone,
    file_sha256,
    fit_position_embeddings,
    load_base,
    read_tensors,
    tensors_sha256,
)
from medsa_model.errors import CheckpointError
from medsa_model.sam import ARCHITECTURES, build_sam


def test_the_embedded_file_is_small_and_its_card_has_its_hash():
    import json

    path = embedded_backbone()
    card = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 5_000_000
    assert card["sha256"] == file_sha256(path)
    assert load_base("vit_tiny", 128, None, "pretrained", 0).sha256 == card["sha256"]


def test_an_official_name_must_agree_with_its_hash(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"starts with 01ec64, found [0-9a-f]{6}"):
        load_base("vit_b", 64, path, "pretrained", 0)


def test_without_a_file_the_large_backbones_say_which_one_is_needed():
    with pytest.raises(CheckpointError, match=r"sam_vit_h_4b8939\.pth"):
        load_base("vit_h", 1024, None, "pretrained", 0)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "executed"

    class Harmful:
        def __reduce__(self):
            return (trace.touch, ())

    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_base("vit_tiny", 128, path, "pretrained", 0)
    assert not trace.exists()


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "half.safetensors"
    path.write_bytes(embedded_backbone().read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"half\.safetensors cannot be read"):
        load_base("vit_tiny", 128, path, "pretrained", 0)


def test_bytes_that_are_flipped_are_told(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(3)}, path)
    content = path.read_bytes()
    told = 0
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 65]) + content[place + 1 :])
        try:
            read_tensors(path)
        except CheckpointError:  # whatever the reader raised
            told += 1
    assert told > 3
    path.write_text("error 404: not found")
    with pytest.raises(CheckpointError, match=r"weights\.pth cannot be read as weights"):
        read_tensors(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of quantised and sparse tensors
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: torch.zeros(1).expand(10**12),
            r"a is \(1000000000000,\), but only 4 bytes are th",
        ),
        (lambda: torch.zeros(3, device="meta"), "a is torch.float32, nowhere; expected plain"),
        (lambda: torch.zeros(3, dtype=torch.complex64), "a is torch.complex64, strided; expected"),
        (lambda: torch.eye(3).to_sparse(), "a is torch.float32, sparse_coo; expected plain"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "is torch.qint8"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(make, told, tmp_path):
    torch.save({"a": make()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=told):
        read_tensors(tmp_path / "weights.pth")


def test_few_bytes_that_many_tensors_repeat_are_refused(tmp_path):
    numbers = torch.zeros(100)
    torch.save({str(each): numbers for each in range(50)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"20,000 bytes that repeat 400"):
        read_tensors(tmp_path / "weights.pth")


@pytest.mark.parametrize(("name", "told"), [(3, "3 is no"), ("a\x1b[2J", r"'a\\x1b\[2J' is no")])
def test_names_that_cannot_be_shown_are_refused(name, told, tmp_path):
    torch.save({name: torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=f"{told} name of a tensor"):
        read_tensors(tmp_path / "weights.pth")


def test_weights_of_another_architecture_are_refused_by_name(tmp_path):
    state = load_file(embedded_backbone())
    del state["image_encoder.neck.0.weight"]
    state["surprise"] = torch.zeros(1)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"2 differences") as caught:
        load_base("vit_tiny", 128, tmp_path / "other.safetensors", "pretrained", 0)
    assert "missing image_encoder.neck.0.weight" in str(caught.value)
    assert "unknown surprise" in str(caught.value)


def test_an_official_file_is_read_and_resized(tmp_path):
    """The same path as for the official files, with a vit_b of random weights at 64 pixels."""
    torch.manual_seed(0)
    official = build_sam(ARCHITECTURES["vit_b"], 64)
    torch.save(official.state_dict(), tmp_path / "vit_b.pth")
    base = load_base("vit_b", 32, tmp_path / "vit_b.pth", "pretrained", 0)
    assert base.model.sam.image_encoder.pos_embed.shape == (1, 2, 2, 768)
    assert base.model.sam.image_encoder.blocks[2].attn.rel_pos_h.shape == (3, 64)
    assert base.sha256 == file_sha256(tmp_path / "vit_b.pth")


def test_resized_tables_are_what_the_package_would_interpolate_in_every_forward():
    from segment_anything.modeling.image_encoder import get_rel_pos

    name = "image_encoder.blocks.2.attn.rel_pos_h"
    table = torch.randn(31, 8)
    state = {name: table}
    fit_position_embeddings(state, {name: torch.zeros(11, 8)}, (2,))
    assert torch.equal(get_rel_pos(6, 6, state[name]), get_rel_pos(6, 6, table))


def test_a_size_that_the_patch_does_not_divide_is_refused():
    with pytest.raises(CheckpointError, match="multiple of its patch, 8 pixels"):
        load_base("vit_tiny", 100, None, "pretrained", 0)


def test_the_hash_of_tensors_sees_names_shapes_and_values():
    one = {"a": torch.zeros(2, 3)}
    hashes = {
        tensors_sha256(tensors)
        for tensors in (
            one, {"b": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.ones(2, 3)}
        )
    }  # fmt: skip
    assert len(hashes) == 4 and tensors_sha256({"a": torch.zeros(2, 3)}) in hashes
