"""A site keeps the adapters that its test cases were scored with, and can use them."""

import dataclasses
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from client import result
from client.hospital import Site
from client.result import keep_result, result_folder
from medsa_model.refusals import Reason, Refused
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
    kept = result_folder(site.results, CONFIG)
    assert kept.name == f"small-{CONFIG.sha256[:8]}"
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
    assert (result_folder(site.results, CONFIG) / "adapter_model.safetensors").exists()


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


def test_runs_of_one_name_with_other_settings_are_kept_beside_each_other(site):
    has = built(CONFIG)
    other = configuration(seed=7)
    first = keep_result(site.results, CONFIG, has.initial, has.manifest)
    second = keep_result(site.results, other, has.initial, has.manifest)
    assert first != second and first.exists() and second.exists()


def test_an_order_that_is_refused_replaces_nothing(site, tmp_path, monkeypatch):
    _, content = sent(part="test")
    assert not ask(lambda _: site, "evaluate", content).has_error()
    kept = result_folder(site.results, CONFIG) / "adapter_model.safetensors"
    before = kept.read_bytes()

    def refuse(*given: object) -> None:
        raise Refused(Reason.OVER_LIMIT, "too often")

    monkeypatch.setattr("client.app.count_evaluation", refuse)
    content = order(CONFIG, part="test")
    assert ask(lambda _: site, "evaluate", content).has_error()
    assert kept.read_bytes() == before


def test_a_disk_that_cannot_rename_any_more_keeps_nobody_from_answering(site, monkeypatch):
    has = built(CONFIG)
    keep_result(site.results, CONFIG, has.initial, has.manifest)
    left = {"moves": 1}
    rename = Path.rename

    def read_only(self: Path, target: Path) -> Path:
        if not self.name.endswith(".json.draft"):
            left["moves"] -= 1
            if left["moves"] < 0:
                raise OSError(30, "Read-only file system")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", read_only)
    assert keep_result(site.results, CONFIG, has.initial, has.manifest) is None


@pytest.mark.parametrize("fails", ["draft", "space"])
def test_when_the_new_one_cannot_be_put_there_the_old_one_stays(site, fails, monkeypatch):
    has = built(CONFIG)
    place = keep_result(site.results, CONFIG, has.initial, has.manifest)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".draft") and not self.name.endswith(".json.draft"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    if fails == "draft":
        monkeypatch.setattr(Path, "rename", failing)
    else:
        monkeypatch.setattr(result, "SPARE", 10**12)
    changed = {name: tensor + 1 for name, tensor in has.initial.items()}
    assert keep_result(site.results, CONFIG, changed, has.manifest) is None
    written = load_file(place / "adapter_model.safetensors")
    assert all(torch.equal(written[name], has.initial[name]) for name in changed)
    assert [*site.results.iterdir()] == [place]


def test_what_an_interruption_left_blocks_nothing(site):
    has = built(CONFIG)
    left = site.results / f".{result_folder(site.results, CONFIG).name}.draft"
    left.mkdir(parents=True)
    (left / "old").touch()
    place = keep_result(site.results, CONFIG, has.initial, has.manifest)
    assert [*site.results.iterdir()] == [place] and not (place / "old").exists()


def test_the_audit_log_says_that_it_was_kept(site, tmp_path):
    site.audit = tmp_path / "audit.jsonl"
    _, content = sent(part="test")
    assert not ask(lambda _: site, "evaluate", content).has_error()
    assert '"event":"kept"' in site.audit.read_text()
