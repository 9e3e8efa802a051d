"""`medsa-audit` as a user meets it: what it prints and writes, exit codes, messages."""

import json
import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import sim.audit
import sim.membership
from client.charged import charge_round, to_receipt, told_of
from client.config import Limits
from client.hospital import Site, train_site
from medsa_model.build import build
from medsa_model.config import load_run
from medsa_model.data.sample import Case
from medsa_model.errors import ManifestError
from medsa_model.privacy import canaries, dp_sgd, fit
from medsa_model.privacy.accounting import epsilon
from medsa_model.privacy.ledger import read_ledger, spent
from medsa_model.privacy.membership import (
    area,
    halves,
    likelihood_ratios,
    measure,
    memorable_cases,
    true_positive_rate,
)
from server.receipts import remember
from sim.audit_cli import main
from sim.membership import attack

SMALL = {
    "name": "small",
    "rounds": 2,
    "model": {"image_size": 32},
    "data": {"kind": "synthetic", "sites": 2, "cases_per_site": 6, "size": 64},
    "train": {"steps": 6, "batch_size": 12, "prompts_per_image": 1},
    "privacy": {"noise_multiplier": 0.6, "sampling_rate": 0.4, "clip_norm": 0.05},
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def run(config, *more: str) -> tuple[int, dict[str, Any]]:
    out = config.with_name("audit.json")
    code = main(["--config", str(config), "--canaries", "1000", "--out", str(out), *more])
    return code, json.loads(out.read_text())


def test_a_correct_trainer_is_consistent_with_the_claim(config, capsys):
    """Wrong by chance less than once in 25,000."""
    code, found = run(config)
    printed = capsys.readouterr().out
    assert code == 0 and found["problems"] == []
    assert (found["steps"], found["steps_of_run"]) == (12, 12)
    assert (found["noise_multiplier"], found["sampling_rate"]) == (0.6, 0.4)
    assert 0 < found["gaussian"] < found["claimed"]["prv"] < found["claimed"]["rdp"]
    assert found["limits"] == [0.75, 1.3]
    for told in (
        "Verdict: consistent with the claim", "cannot prove one", "12, all of the run",
        f"{found['claimed']['rdp']:.3f} (rdp), {found['claimed']['prv']:.3f} (prv)",
        f"{found['gaussian']:.3f} at 95 % confidence", f"{found['ratio']:.3f}",
    ):  # fmt: skip
        assert told in printed


def test_a_faulty_trainer_is_not(config, capsys, monkeypatch):
    whole = dp_sgd.DPOptimizer.add_noise

    def halved(self):
        self.noise_multiplier /= 2
        whole(self)
        self.noise_multiplier *= 2

    monkeypatch.setattr(dp_sgd.DPOptimizer, "add_noise", halved)
    code, found = run(config, "privacy.method=loop")
    assert code == 1 and found["method"] == "loop"
    assert "less noise than charged" in found["verdict"]
    assert "Verdict: NOT consistent: canaries stand out" in capsys.readouterr().out


def test_what_is_claimed_is_what_the_ledger_of_the_run_says(config, tmp_path):
    """And a ledger that was deleted and begun anew is noticed by the coordinator."""
    _, found = run(config)
    settings = load_run(config)
    ledger, receipts = tmp_path / "ledger.jsonl", tmp_path / "receipts.json"
    patients = [Case(f"c{n}", f"p{n}", None, None, lambda: None) for n in range(20)]  # type: ignore[arg-type,return-value]
    site: Any = SimpleNamespace(ledger=ledger, limits=Limits(), parts={"train": patients})
    for round_ in range(settings.rounds):
        told = told_of(charge_round(site, settings, round_), settings, round_)
        remember(receipts, "site_a", told["ledger"])
    entries = read_ledger(ledger)
    for by in ("rdp", "prv"):
        assert epsilon(spent(entries), found["delta"], by) == found["claimed"][by]
    for file in (ledger, tmp_path / "ledger.jsonl.head"):
        file.unlink()
    told = told_of(charge_round(site, settings, 1), settings, 1)
    assert told["privacy"]["epsilon"] < found["claimed"]["prv"]
    with pytest.raises(ManifestError, match="went backwards"):
        remember(receipts, "site_a", told["ledger"])
    other = SimpleNamespace(**vars(site) | {"ledger": tmp_path / "second.jsonl"})
    told = told_of(charge_round(other, settings, 0), settings, 0)
    with pytest.raises(ManifestError, match="went backwards"):
        remember(receipts, "site_a", told["ledger"])
    assert to_receipt(entries)["entries"] == 2


def test_training_gives_the_trainer_what_is_charged_and_audited(config, monkeypatch):
    """The canaries take the same function as patients, with the same settings."""
    assert fit.private_steps is canaries.private_steps is dp_sgd.private_steps
    seen = []
    monkeypatch.setattr(canaries, "private_steps", lambda *given: seen.append(given))
    sim.audit.run_audit(load_run(config), *sim.audit.audited_steps(load_run(config), 200), 200, 1)
    of_run = seen[-1]
    settings = load_run(config)
    site = Site("site_a", {"train": settings.data.open()[:6]}, torch.device("cpu"))
    monkeypatch.setattr(fit, "private_steps", lambda *given: seen.append(given))
    train_site(site, settings, site.built(settings).initial, 0)
    # steps, sampling rate, clipping norm, noise; then how many are computed together
    assert seen[-1][4:8] == of_run[4:8] == (6, 0.4, 0.05, 0.6)
    assert seen[-1][9] == of_run[9] == 12


def test_more_steps_than_time_are_cut_and_said(config, capsys, monkeypatch):
    monkeypatch.setattr(sim.audit, "LARGEST", {True: 2000, False: 1000})
    _, found = run(config, "rounds=9")
    # 0.4 of 500 patients in each of 10 steps: rounds of 6 and 4
    assert (found["steps"], found["steps_of_run"]) == (10, 54)
    assert "10 of 54, the first ones" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("changes", "told"),
    [(["privacy=null"], "has no section privacy.*privacy: {epsilon: 8}"),
     (["rounds=0"], "rounds is 0"), (["privacy.epsilon=-1"], "privacy.epsilon")],
)  # fmt: skip
def test_runs_that_cannot_be_audited_say_why(changes, told, config, capsys):
    assert main(["--config", str(config), *changes]) == 1
    error = capsys.readouterr().err
    assert re.search(told, error) and "Traceback" not in error


def test_a_place_that_cannot_be_written_is_said(config, capsys):
    place = config.parent / "missing" / "audit.json"
    assert main(["--config", str(config), "--canaries", "200", "--out", str(place)]) == 1
    assert "No such file" in capsys.readouterr().err


def test_leaky_scores_have_area_one_and_others_half():
    generator = np.random.default_rng(0)
    inside = generator.random((8, 500)) < 0.5
    assert area(inside.astype(float), inside) == 1
    assert area(-inside.astype(float), inside) == 0
    assert area(np.zeros(inside.shape), inside) == 0.5
    assert true_positive_rate(inside.astype(float), inside, 0.05) == 1
    noise = generator.normal(size=inside.shape)
    assert area(noise, inside) == pytest.approx(0.5, abs=0.05)
    assert true_positive_rate(noise, inside, 0.05) == pytest.approx(0.05, abs=0.02)


def test_every_image_is_in_half_of_the_models():
    assert halves(8, 50, 0).sum(0).tolist() == [4] * 50


def naive_ratio(losses, inside, model: int, image: int, spreads: list[float]) -> float:
    """Of Gaussian densities, by plain loops."""
    value = [np.log(np.exp(-one) / (1 - np.exp(-one))) for one in losses[:, image]]
    total = 0.0
    for was, spread, sign in zip((True, False), spreads, (1, -1), strict=True):
        others = [v for m, v in enumerate(value) if m != model and inside[m, image] == was]
        mean = sum(others) / len(others)
        total += sign * (-((value[model] - mean) ** 2) / (2 * spread**2) - np.log(spread))
    return total


def test_the_likelihood_ratio_is_that_of_plain_loops():
    generator = np.random.default_rng(1)
    losses, inside = generator.uniform(0.1, 2, (6, 40)), halves(6, 40, 2)
    found = likelihood_ratios(losses, inside)
    value = np.log(np.exp(-losses) / (1 - np.exp(-losses)))
    for model in (0, 5):
        spreads = []
        for was in (True, False):
            squares, free = 0.0, 0
            for image in range(40):
                rows = [m for m in range(6) if m != model and inside[m, image] == was]
                mean = value[rows, image].mean()
                squares += float(((value[rows, image] - mean) ** 2).sum())
                free += len(rows) - 1
            spreads.append((squares / free) ** 0.5)
        for image in (0, 17, 39):
            expected = naive_ratio(losses, inside, model, image, spreads)
            assert found[model, image] == pytest.approx(expected, rel=1e-6)


def test_memorised_losses_give_the_images_away_and_equal_ones_do_not():
    generator = np.random.default_rng(3)
    inside = halves(8, 100, 0)
    # images are as hard as they are, which the loss alone mistakes for membership
    losses = generator.uniform(0.5, 3, 100) + generator.normal(0, 0.05, (8, 100))
    blind, leaky = measure(losses, inside), measure(losses - 0.25 * inside, inside)
    assert 0.4 < blind.auc < 0.6
    assert leaky.auc > 0.95 > 0.7 > leaky.loss_auc
    assert leaky.true_positives > 0.7 and leaky.gap == pytest.approx(0.25, abs=0.02)


def test_too_few_models_are_an_error():
    with pytest.raises(ValueError, match="inside of two models"):
        likelihood_ratios(np.ones((2, 5)), halves(2, 5, 0))


def test_masks_have_nothing_to_do_with_images_and_are_the_same_again():
    one, again = (memorable_cases(3, 48, 0)[1].load() for _ in range(2))
    assert torch.equal(one.image, again.image) and torch.equal(one.mask, again.mask)
    assert one.image.shape == (3, 48, 48) and one.mask.shape == (1, 48, 48)
    assert 0.4 < float(one.mask.float().mean()) < 0.6
    other = memorable_cases(3, 48, 0)[2].load()
    assert not torch.equal(one.mask, other.mask)


@pytest.mark.parametrize(
    "adapter",
    [{"kind": "msa", "blocks": "last-8", "depth": True}, {"kind": "msa", "blocks": [0, 11]},
     {"kind": "lora", "blocks": "last-8"}, {"kind": "full"}],
)  # fmt: skip
def test_the_small_model_is_adapted_in_all_of_its_blocks(config, monkeypatch, adapter):
    built = []
    monkeypatch.setattr(
        sim.membership, "build", lambda *words: built.append(build(*words)) or built[-1]
    )
    losses = np.random.default_rng(0).random((4, 6))
    monkeypatch.setattr(sim.membership, "shadow_losses", lambda *_: losses)  # not trained here
    words = ["model.backbone=vit_b", "data={kind: phantom}", f"adapter={json.dumps(adapter)}"]
    attack(load_run(config, words), models=4, images=6, steps=1)
    trained = {name for name in built[0].initial if "image_encoder.blocks." in name}
    assert {int(name.split("blocks.")[1].split(".")[0]) for name in trained} == {*range(6)}
    assert not any("depth_adapter" in name for name in trained)


def test_a_tiny_attack_runs_and_its_numbers_are_in_range(config, capsys, monkeypatch):
    monkeypatch.setattr(sim.audit, "attack", partial(attack, models=4, images=6, steps=1))
    code, whole = run(config, "--membership")
    found, printed = whole["membership"], capsys.readouterr().out
    assert code == 0 and "membership inference" in printed
    for name in ("without_privacy", "with_privacy"):
        assert all(0 <= found[name][key] <= 1 for key in ("loss_auc", "auc", "true_positives"))
        assert abs(found[name]["gap"]) < 1
        assert f"{found[name]['auc']:.3f}" in printed
    assert found["noise_multiplier"] == 0.6 and 0 < found["epsilon"] < 20
    weak = found["without_privacy"]["auc"] < 0.9
    assert ("shows nothing" in " ".join(printed.split())) == weak
