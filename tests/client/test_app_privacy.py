"""A site's answers under differential privacy: charged first, and what is told of patients."""

import dataclasses
import json

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from client.config import Limits
from client.hospital import Site
from medsa_model.build import build
from medsa_model.data.synthetic import Synthetic
from medsa_model.errors import DataError, ManifestError
from medsa_model.privacy.ledger import read_ledger
from medsa_model.records import unique
from medsa_model.refusals import Reason
from server.cost import read_cost
from tests.client.messages import CPU, ask, configuration, metrics, order, raising, reason

PRIVACY = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "delta": 1e-3, "clip_norm": 0.1}


@pytest.fixture
def site(tmp_path) -> Site:
    cases = Synthetic(sites=1, cases_per_site=6, size=64).open()
    parts = {"train": cases[:3], "val": cases[3:4], "test": cases[4:]}
    return Site("site_a", parts, CPU, ledger=tmp_path / "ledger.jsonl")


def private(**more: object):
    return configuration(privacy=PRIVACY | more)


def test_a_training_is_charged_and_its_answer_says_what_it_cost(site):
    content = ask(lambda _: site, "train", order(private())).content
    assert set(content) == {"arrays", "metrics", "echo", "privacy", "ledger"}
    (entry,) = read_ledger(site.ledger)
    assert (entry.charge.steps, entry.charge.sampling_rate) == (2, 0.5)
    assert entry.charge.noise_multiplier == 1.0 and entry.charge.unit == "image"
    cost = dict(content.config_records["privacy"])
    assert 0 < cost["epsilon"] == cost["epsilon_rdp"]
    assert (cost["accountant"], cost["unit"], cost["steps"]) == ("rdp", "image", 2)
    told = dict(content.config_records["ledger"])
    assert (told["entries"], told["hashes"], told["ledger"]) == (1, [entry.hash], entry.ledger)


def test_the_coordinator_reads_the_cost_as_it_travels(site):
    """With what makes records of real messages unlike any other."""
    content = unique(ask(lambda _: site, "train", order(private())).content)
    facts = content.config_records["privacy"]
    cost = read_cost(facts, private())
    assert (cost.noise_multiplier, cost.sampling_rate, cost.steps) == (1.0, 0.5, 2)
    with pytest.raises(ManifestError, match=r"noise_multiplier 1\.0, the run asks for 2\.0"):
        read_cost(facts, private(noise_multiplier=2.0))
    for wrong in (None, {}, {**facts, "epsilon": -1.0}, {**facts, "more": 1}):
        with pytest.raises(ManifestError, match="does not say what its training cost"):
            read_cost(wrong, private())


def test_after_the_last_round_the_tighter_accountant_is_told(site):
    content = ask(lambda _: site, "train", order(private(), round="1")).content
    cost = dict(content.config_records["privacy"])
    assert cost["accountant"] == "prv" and 0 < cost["epsilon"] < cost["epsilon_rdp"]


def test_of_patients_only_rounded_numbers_are_told(site):
    found = metrics(ask(lambda _: site, "train", order(private())))
    assert "loss" not in found
    assert found["num-examples"] == 10  # of 3
    assert found["images"] == 2 * 5
    scores = metrics(ask(lambda _: site, "evaluate", order(private(), part="test")))
    assert scores["num-examples"] == 10  # of 2
    for name, value in scores.items():
        if name.endswith(("dice", "iou")):
            assert value == round(value, 2), name
        if name.endswith("cases"):
            assert value == 10, name
    assert {"click/cases", "click/nodule/cases"} <= set(scores)


def test_names_are_weighed_by_what_is_annotated_not_by_what_patients_have(site):
    """No structure is in the mask of the first case, which is told to nobody."""
    sample = site.parts["train"][0].load()
    bare = dataclasses.replace(sample, mask=sample.mask & torch.tensor([[[False]]] * 3))
    first = dataclasses.replace(site.parts["train"][0], load=lambda: bare)
    site.parts = {"train": [first] * 3}
    prompts = {"train": [{"kind": "class"}], "evaluate": [{"kind": "class"}]}
    config = private().model_copy(update={"prompt": configuration(prompt=prompts).prompt})
    content = order(config, build(config.model, config.adapter, config.seed, CPU, 3))
    found = metrics(ask(lambda _: site, "train", content))
    assert [found[f"cases/{name}"] for name in config.data.classes] == [10, 10, 10]


def test_a_case_that_cannot_be_read_fails_before_anything_is_charged(site):
    """Whether it would have been drawn or not: else the failure would tell who was."""
    site.parts["train"] = [*site.parts["train"], raising(DataError("x"))]
    reason(ask(lambda _: site, "train", order(private(sampling_rate=1e-4))))
    assert not site.ledger.exists()


@pytest.mark.parametrize("other", [
    {"prompt": {"corrections": 2}}, {"adapter": {"kind": "msa", "train_decoder": True}},
])  # fmt: skip
def test_what_hooks_cannot_do_is_done_one_patient_after_the_other(site, other):
    config = configuration(privacy=PRIVACY, **other)
    assert not ask(lambda _: site, "train", order(config)).has_error()
    assert len(read_ledger(site.ledger)) == 1


def test_hooks_that_do_not_see_a_tensor_are_refused_before_anything_is_charged(site):
    config = configuration(
        privacy=PRIVACY | {"method": "hooks"}, adapter={"kind": "msa", "train_decoder": True}
    )
    assert "PrivacyError" in reason(ask(lambda _: site, "train", order(config)))
    assert not site.ledger.exists()


@pytest.mark.parametrize("by", ["run", "site"])
def test_a_private_site_rounds_its_first_answer_too(site, by):
    if by == "site":
        site.limits = Limits(epsilon=8.0)
        content = None
    else:
        content = RecordDict({"config": ConfigRecord({"private": True})})
    reply = ask(lambda _: site, "query", content) if content else ask(lambda _: site, "query")
    assert dict(reply.content.metric_records["cases"]) == {"train": 10, "val": 10, "test": 10}


def test_over_the_budget_nothing_is_trained_and_nothing_charged(site, monkeypatch):
    """The refusal names no number of patients."""
    config = private(noise_multiplier=None, epsilon=2.0)
    for round_ in range(config.rounds):
        assert not ask(lambda _: site, "train", order(config, round=str(round_))).has_error()
    before = site.ledger.read_bytes()
    monkeypatch.setattr("medsa_model.privacy.fit.private_steps", lambda *_: pytest.fail("stepped"))
    for _ in range(2):
        said = reason(ask(lambda _: site, "train", order(config)), Reason.EPSILON)
        assert "over 2" in said and "nothing was trained" in said
    assert site.ledger.read_bytes() == before


def test_another_run_on_the_same_patients_starts_where_the_first_ended(site):
    """A run that asks for the same epsilon finds it spent."""
    first = private(noise_multiplier=None, epsilon=2.0)
    for round_ in range(first.rounds):
        ask(lambda _: site, "train", order(first, round=str(round_)))
    second = configuration(name="second", privacy=dict(PRIVACY, noise_multiplier=None, epsilon=2.0))
    assert reason(ask(lambda _: site, "train", order(second)), Reason.EPSILON)
    assert len(read_ledger(site.ledger)) == first.rounds


def test_the_sites_own_limit_is_held(site):
    site.limits = Limits(epsilon=0.1)
    assert reason(ask(lambda _: site, "train", order(private())), Reason.EPSILON)
    assert not site.ledger.exists()
    assert reason(ask(lambda _: site, "train", order(configuration())), Reason.NO_PRIVACY)
    assert reason(ask(lambda _: site, "evaluate", order(configuration(), part="test")),
                  Reason.NO_PRIVACY)  # fmt: skip


def test_a_damaged_ledger_is_refused_and_left_as_it_is(site):
    ask(lambda _: site, "train", order(private()))
    text = site.ledger.read_text().replace('"steps":2', '"steps":1')
    site.ledger.write_text(text)
    said = reason(ask(lambda _: site, "train", order(private(), round="1")), Reason.LEDGER)
    assert str(site.ledger.parent) not in said
    assert site.ledger.read_text() == text


def test_without_a_ledger_a_site_takes_part_in_no_private_run(site):
    bare = dataclasses.replace(site, ledger=None)
    assert reason(ask(lambda _: bare, "train", order(private())), Reason.LEDGER)


def test_a_delta_that_gives_a_patient_away_is_refused(site):
    said = reason(ask(lambda _: site, "train", order(private(delta=0.4))), Reason.OVER_LIMIT)
    assert "delta" in said and "3" not in said.replace("0.4", "")
    assert not site.ledger.exists()


def test_equal_orders_have_other_noise(site):
    config, states = private(), []
    for _ in range(2):
        states.append(ask(lambda _: site, "train", order(config)).content.array_records["arrays"])
    assert states[0]["adapters"].data != states[1]["adapters"].data
    lines = [json.loads(line) for line in site.ledger.read_text().splitlines()]
    assert len(lines) == 3  # a repeated round is paid again
