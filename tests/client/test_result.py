"""A site keeps the adapters that its test cases were scored with, and can use them."""

import dataclasses
import stat

import pytest
import torch
from safetensors.torch import load_file

from client.hospital import Site
from client.result import keep_result
from medsa_model.trained import build_trained, read_trained
from tests.client.messages import CPU, ask, built, configuration, order

CONFIG = configuration()


@pytest.fixture
def site(tmp_path):
    cases = CONFIG.data.open()[:4]
    return Site("site_a", {"train": cases[:2], "test": cases[2:]}, CPU, results=tmp_path / "kept")


def sent(**more):
    """The order for the test scores of a state that is not the first one."""
    has = built(CONFIG)
    trained = {name: tensor + 0.25 for name, tensor in has.initial.items()}
    return trained, order(CONFIG, dataclasses.replace(has, initial=trained), **more)


def test_the_final_state_is_kept_for_this_account_and_can_be_used(site):
    state, content = sent(part="test")
    assert not ask(lambda _: site, "evaluate", content).has_error()
    kept = site.results / "small"
    assert {path.name for path in kept.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json",
    }  # fmt: skip
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    found = read_trained(kept)
    assert list(found.state) == list(state) and found.task == CONFIG.task
    assert all(torch.equal(found.state[name], state[name]) for name in state)
    model = build_trained(found, None, CPU).model
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], state[name]) for name in state)


def test_a_validation_keeps_nothing(site):
    _, content = sent(part="val")
    site.parts = {**site.parts, "val": site.parts["test"]}
    assert not ask(lambda _: site, "evaluate", content).has_error()
    assert not site.results.exists()


def test_a_site_with_too_few_test_cases_for_scores_keeps_it_too(site):
    site.limits = site.limits.model_copy(update={"least_evaluated_cases": 5})
    _, content = sent(part="test")
    assert ask(lambda _: site, "evaluate", content).has_error()
    assert (site.results / "small" / "adapter_model.safetensors").exists()


def test_the_last_end_of_a_run_counts(site):
    has = built(CONFIG)
    first = keep_result(site.results, CONFIG, has.initial, has.manifest)
    (first / "old").touch()
    changed = {name: tensor + 1 for name, tensor in has.initial.items()}
    assert keep_result(site.results, CONFIG, changed, has.manifest) == first
    written = load_file(first / "adapter_model.safetensors")
    assert all(torch.equal(written[name], changed[name]) for name in changed)
    assert not (first / "old").exists() and [*site.results.iterdir()] == [first]


def test_a_disk_that_cannot_take_it_keeps_nobody_from_answering(site, caplog, monkeypatch):
    monkeypatch.setattr("medsa_model.logs.logger.propagate", True)
    site.results.parent.mkdir(exist_ok=True)
    site.results.write_text("a file where the folder should be")
    _, content = sent(part="test")
    assert not ask(lambda _: site, "evaluate", content).has_error()
    assert "ask the coordinator for the two files" in caplog.text
