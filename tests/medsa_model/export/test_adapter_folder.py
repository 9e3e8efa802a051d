"""What `medsa-export adapter` writes is whole, names no machine, and is over nothing else."""

import errno
import getpass
import json
import shutil
import socket
import subprocess
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from medsa_model.adapters import Lora
from medsa_model.backbone import embedded_backbone
from medsa_model.checkpoint import CONFIG, STATE
from medsa_model.errors import CheckpointError, ConfigError, ManifestError
from medsa_model.export.adapter_folder import write_adapter
from medsa_model.export.model_card import model_card
from medsa_model.export.run_scores import find_origin
from medsa_model.trained import read_trained
from tests.medsa_model.small_adapter import MODEL, save, small, write_facts


@pytest.fixture(scope="module")
def trained():
    return small()


def test_the_sums_are_those_of_the_system_and_leave_the_card_to_its_makers(trained, tmp_path):
    out = tmp_path / "out"
    write_adapter(trained, "a card", out)
    (out / "README.md").write_text("license: mit\n")
    if shutil.which("sha256sum"):
        checked = subprocess.run(
            ["sha256sum", "--check", "SHA256SUMS"], cwd=out, capture_output=True, text=True
        )
        assert checked.stdout == f"{CONFIG}: OK\n{STATE}: OK\n" and checked.returncode == 0
    read_trained(out)
    (out / CONFIG).write_text((out / CONFIG).read_text() + " ")
    with pytest.raises(CheckpointError, match=f"other content than was written: {CONFIG}"):
        read_trained(out)


def test_what_peft_reads_stands_beside_what_this_project_reads(tmp_path):
    write_adapter(small(Lora(rank=2)), "", tmp_path / "out")
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    own = config.pop("fed_medsa")
    assert config["peft_type"] == "LORA" and config["r"] == 4
    assert config["base_model_name_or_path"] == own["model"]["backbone"] == "vit_tiny"
    names = load_file(tmp_path / "out" / STATE)
    assert all(name.startswith("base_model.model.") for name in names)
    assert "base_model.model.image_encoder.blocks.0.attn.qkv.lora_A.weight" in names


def test_other_kinds_say_that_peft_does_not_know_them(trained, tmp_path):
    write_adapter(trained, "", tmp_path / "out")
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (config["peft_type"], config["task_type"], config["inference_mode"]) == (
        "MEDSA", None, True,
    )  # fmt: skip
    assert load_file(tmp_path / "out" / STATE).keys() == trained.state.keys()


def test_no_file_names_the_machine_or_who_works_on_it(tmp_path):
    run = tmp_path / "of_mrs_miller"
    backbone = tmp_path / "her_backbone.safetensors"
    shutil.copy(embedded_backbone(), backbone)
    trained = small(model=MODEL.model_copy(update={"checkpoint": backbone}))
    save(run, trained)
    write_facts(run)
    found = read_trained(run)
    card = model_card(found, find_origin(found.folder))
    assert "| Run | pilot |" in card  # the run around it was found
    for number, each in enumerate((found, trained)):  # one that knows the path, too
        out = tmp_path / f"out{number}"
        write_adapter(each, card, out)
        for path in out.iterdir():
            content = path.read_bytes() if path.name != STATE else path.read_bytes()[:20000]
            for secret in (str(tmp_path), run.name, backbone.name, f"/{getpass.getuser()}/"):
                assert secret.encode() not in content
            if len(name := socket.gethostname()) > 5:
                assert name.encode() not in content


def test_a_folder_that_holds_anything_is_left_alone(trained, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"is not empty and nothing is ever overwritten: choose"):
        write_adapter(trained, "", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="is a file"):
        write_adapter(trained, "", tmp_path / "thesis.txt")


def test_an_empty_folder_is_filled(trained, tmp_path):
    (tmp_path / "out").mkdir()
    write_adapter(trained, "", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "SHA256SUMS", CONFIG, STATE]


def test_a_mount_point_is_told(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.is_mount", lambda path: path == tmp_path)
    with pytest.raises(ConfigError, match=r"is a mount point, or .* such as"):
        write_adapter(trained, "", tmp_path)
    monkeypatch.undo()

    def busy(path):  # one that looks like any folder, as in a container
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("pathlib.Path.rmdir", busy)
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="is a mount point, or"):
        write_adapter(trained, "", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_frozen_matrix_that_was_altered_is_not_written_as_another(tmp_path):
    given = small(Lora(rank=2, frozen_a=True, decoder=False))
    name = next(iter(given.state)).replace(".b.", ".a.")
    altered = replace(given, frozen={name: torch.zeros(2, 128)})
    with pytest.raises(ManifestError, match=r"1 frozen tensors are not those that seed 3 makes"):
        write_adapter(altered, "", tmp_path / "out")


def test_a_disk_that_is_full_leaves_nothing(trained, tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medsa_model.export.adapter_folder.file_sha256", full)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        write_adapter(trained, "", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
