"""Pre-training: it runs, it resumes, its card tells the truth."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from medsa_model import pretrain
from medsa_model.backbone import file_sha256, load_base


def run(monkeypatch, out, steps, *more):
    words = ["--steps", str(steps), "--batch", "1", "--prompts", "2", "--workers", "0"]
    given = [*words, "--save-every", "2", "--held-out", "2", "--out", str(out), *more]
    monkeypatch.setattr(sys, "argv", ["pretrain", *given])
    monkeypatch.setattr(pretrain, "score_held_out", lambda *_: {"click": 0.0})
    assert pretrain.main() == 0


def test_a_run_ends_with_weights_that_load_and_a_card(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path, 2)
    path = tmp_path / "vit_tiny.safetensors"
    card = json.loads((tmp_path / "vit_tiny.json").read_text())
    assert card["sha256"] == file_sha256(path)
    assert card["steps"] == 2
    assert card["finished"]
    assert "--steps 2" in card["command"]
    assert load_base("vit_tiny", 128, path, "pretrained", 0).sha256 == card["sha256"]


def test_an_interrupted_run_goes_on_with_the_same_result(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path / "whole", 4, "--curriculum", "0")
    state = tmp_path / "parts" / "state.safetensors"

    class Stop(Exception):
        """Stands for a power cut after the second step was saved."""

    write = pretrain._write_backbone

    def cut(*arguments: object) -> None:
        write(*arguments)
        raise Stop

    monkeypatch.setattr(pretrain, "_write_backbone", cut)
    with pytest.raises(Stop):
        run(monkeypatch, tmp_path / "parts", 4, "--curriculum", "0")
    assert state.exists()
    monkeypatch.setattr(pretrain, "_write_backbone", write)
    run(monkeypatch, tmp_path / "parts", 4, "--curriculum", "0")
    whole = load_file(tmp_path / "whole" / "vit_tiny.safetensors")
    parts = load_file(tmp_path / "parts" / "vit_tiny.safetensors")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_loss_is_low_for_a_right_answer_and_high_for_a_wrong_one():
    masks = torch.zeros(1, 128, 128, dtype=torch.bool)
    masks[:, 32:96, 32:96] = True
    right = torch.full((1, 1, 64, 64), -8.0)
    right[:, :, 16:48, 16:48] = 8.0
    iou = torch.ones(1, 1)
    for balance in (0.0, 1.0):
        good = pretrain.loss_of(right, iou, masks, balance)
        bad = pretrain.loss_of(-right, iou, masks, balance)
        assert good < 0.1
        assert bad > 2
