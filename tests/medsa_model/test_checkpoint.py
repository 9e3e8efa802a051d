"""Round directories: whole or not there, self-explaining, refused when damaged or foreign."""

import hashlib
import json

import pytest
import torch

from medsa_model.checkpoint import Round, latest_round, link_round, load_round, save_round
from medsa_model.errors import CheckpointError
from medsa_model.state import Manifest

MANIFEST = Manifest({"b": (2,), "a": (3,)}, "0" * 64, 48)
STATE = {"b": torch.tensor([1.0, 2.0]), "a": torch.arange(3.0)}


def saved(run, number, **facts):
    return save_round(run, Round(number, STATE, {"first/a": torch.ones(3)}, facts), MANIFEST, {})


def test_a_round_comes_back_as_it_was(tmp_path):
    saved(tmp_path, 7, sites=["x"])
    back = load_round(tmp_path, 7, MANIFEST)
    assert back.number == 7 and back.facts == {"sites": ["x"]} and list(back.state) == ["b", "a"]
    assert all(torch.equal(back.state[n], STATE[n]) for n in STATE)
    assert torch.equal(back.memory["first/a"], torch.ones(3))


def test_a_draft_that_was_never_finished_does_not_count(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "rounds" / ".0002.draft").mkdir()
    assert latest_round(tmp_path) == 1


def test_no_run_has_no_round(tmp_path):
    assert latest_round(tmp_path) is None


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_truncated_file_is_named_with_what_to_do(tmp_path, name):
    path = saved(tmp_path, 3) / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"rounds/0003 cannot be read.*remove that folder"):
        load_round(tmp_path, 3, MANIFEST)


def test_a_round_of_another_model_is_refused(tmp_path):
    saved(tmp_path, 3)
    other = Manifest(MANIFEST.shapes, "1" * 64, 48)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_round(tmp_path, 3, other)


def test_a_round_explains_itself(tmp_path):
    place = saved(tmp_path, 2, validation_dice=0.5)
    config = json.loads((place / "adapter_config.json").read_text())
    assert config["manifest"]["base_sha256"] == "0" * 64
    facts = json.loads((place / "round.json").read_text())
    files = facts.pop("sha256")
    assert facts == {"round": 2, "validation_dice": 0.5}
    for name in ("adapter_model.safetensors", "memory.safetensors"):
        assert files.pop(name) == hashlib.sha256((place / name).read_bytes()).hexdigest()
    assert not files


def test_tensors_that_were_altered_are_refused(tmp_path):
    """A flipped bit is a finite number like any other; only the hash tells."""
    path = saved(tmp_path, 3) / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="other content than was written: adapter_model"):
        load_round(tmp_path, 3, MANIFEST)


def test_links_are_replaced(tmp_path):
    for number in (1, 2):
        saved(tmp_path, number)
        link_round(tmp_path, "final", number)
    assert (tmp_path / "final" / "round.json").exists()
    assert (tmp_path / "final").resolve().name == "0002"
