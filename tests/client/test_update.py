"""What a site sends in runs whose updates are rounded."""

from pathlib import Path

import pytest
import torch

from client.hospital import Site
from client.update import to_update
from medsa_model.audit_log import read
from medsa_model.data.synthetic import Synthetic
from medsa_model.records import fingerprint, size_in_bytes, to_arrays, to_state
from medsa_model.refusals import Reason
from medsa_model.state import AdapterState, Manifest
from medsa_model.validation import read_state
from tests.client.messages import CPU, ask, built, configuration, metrics, order, reason

SHAPES = {"w": (4, 8)}
PRIVACY = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "delta": 1e-3, "clip_norm": 0.1}
SENT = {"w": torch.zeros(4, 8)}


@pytest.fixture
def site(tmp_path) -> Site:
    cases = Synthetic(sites=1, cases_per_site=6, size=64).open()
    return Site("site_a", {"train": cases[:3], "test": cases[4:]}, CPU,
                residues=tmp_path / "residues", audit=tmp_path / "audit.jsonl",
                ledger=tmp_path / "ledger.jsonl")  # fmt: skip


def trained(seed: int) -> AdapterState:
    return {"w": torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))}


def update(site: Site, round_: int, kind: str = "int4", feedback: bool = True) -> AdapterState:
    config = configuration(message={"update": kind, "error_feedback": feedback})
    manifest = Manifest(SHAPES, "0" * 64, 32, kind)
    arrays = to_update(site, config, manifest, trained(round_), SENT, round_)
    return read_state(arrays, manifest, reference=SENT)


def test_the_residue_of_a_round_is_in_the_next_update(site):
    first = update(site, 0)["w"]
    left = trained(0)["w"] - first
    assert float(left.abs().max()) > 0.01
    second = update(site, 1)["w"]
    target = {"w": trained(1)["w"] + left}
    expected = to_state(to_arrays(target, SHAPES, SENT, "int4"), SHAPES, SENT, "int4")["w"]
    torch.testing.assert_close(second, expected)
    assert not torch.equal(second, update(site, 1, feedback=False)["w"])


def test_a_repeated_round_is_the_same_bit_for_bit(site):
    """The residue with which it began is that of the round before, not its own."""
    update(site, 0)
    one, again = update(site, 1)["w"], update(site, 1)["w"]
    assert torch.equal(one, again)
    after = update(site, 2)["w"]
    assert torch.equal(update(site, 2)["w"], after) and not torch.equal(after, again)


def test_of_a_lossless_update_nothing_is_kept(site):
    assert torch.equal(update(site, 0, "lossless")["w"], trained(0)["w"])
    assert not site.residues.exists()
    update(site, 0, feedback=False)
    assert not site.residues.exists()


@pytest.mark.parametrize("kind", ["float16", "int8", "int4"])
def test_a_site_answers_as_the_run_says(site, kind):
    config = configuration(message={"update": kind})
    reply = ask(lambda _: site, "train", order(config))
    assert metrics(reply)
    manifest = built(config).manifest.sent_as(kind)
    arrays = reply.content.array_records["arrays"]
    assert arrays["adapters"].stype == f"fed-medsa {kind}"
    first = built(config).initial
    state = read_state(arrays, manifest, reference=first)
    exact = ask(lambda _: site, "train", order(configuration())).content.array_records["arrays"]
    assert size_in_bytes(arrays) < 0.7 * size_in_bytes(exact)
    plain = to_state(exact, manifest.shapes, first)
    missed = torch.cat([(state[n] - plain[n]).reshape(-1) for n in plain]).norm()
    change = torch.cat([(plain[n] - first[n]).reshape(-1) for n in plain]).norm()
    assert 0 < float(missed) < {"float16": 1e-2, "int8": 0.02, "int4": 0.3}[kind] * float(change)
    answered = next(entry for entry in read(site.audit) if entry.event == "answered")
    assert answered.facts["state"] == fingerprint(arrays)
    assert answered.facts["bytes"] == size_in_bytes(arrays)


def test_site_and_coordinator_agree_on_the_kind_or_the_site_refuses(site):
    config = configuration(message={"update": "int8"})
    content = order(config)
    content.config_records["config"]["manifest"] = built(config).manifest.sha256  # lossless
    assert "manifest" in reason(ask(lambda _: site, "train", content), Reason.OTHER_ADAPTERS)


def test_a_residue_that_cannot_be_kept_is_no_answer(site, tmp_path):
    (tmp_path / "residues").write_text("no folder")
    config = configuration(message={"update": "int8"})
    said = reason(ask(lambda _: site, "train", order(config)))
    assert said == "CheckpointError (details in the site's log)"


def test_a_residue_under_privacy_is_made_of_what_dp_sgd_put_out(site, monkeypatch):
    """The state after the noise, the state that was sent, and the residue before; nothing else."""
    import client.app

    config = configuration(message={"update": "int8"}, privacy=PRIVACY)
    results, works = [], client.app.train_site
    monkeypatch.setattr(
        client.app, "train_site", lambda *all_: results.append(works(*all_)) or results[-1]
    )
    first = built(config).initial
    reply = ask(lambda _: site, "train", order(config))
    manifest = built(config).manifest.sent_as("int8")
    sent = read_state(reply.content.array_records["arrays"], manifest, reference=first)
    from medsa_model.residues import load_residue

    left = load_residue(Path(site.residues), config.sha256, "site_a", 1, manifest.shapes)
    (result,) = results
    for name in manifest.shapes:
        assert torch.equal(left[name], (result.state[name].double() - sent[name]).float())
