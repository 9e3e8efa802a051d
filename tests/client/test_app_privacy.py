"""A site's answers under differential privacy: charged first, and what is told of patients."""

import dataclasses
import json

import pytest

from client.config import Limits
from client.hospital import Site
from medsa_model.data.synthetic import Synthetic
from medsa_model.privacy.ledger import read_ledger
from medsa_model.refusals import Reason
from tests.client.messages import CPU, ask, configuration, metrics, order, reason

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
    assert set(content) == {"arrays", "metrics", "privacy", "ledger"}
    (entry,) = read_ledger(site.ledger)
    assert (entry.charge.steps, entry.charge.sampling_rate) == (2, 0.5)
    assert entry.charge.noise_multiplier == 1.0 and entry.charge.unit == "image"
    cost = dict(content.config_records["privacy"])
    assert 0 < cost["epsilon"] <= cost["epsilon_rdp"]
    assert (cost["accountant"], cost["unit"], cost["steps"]) == ("prv", "image", 2)
    told = dict(content.config_records["ledger"])
    assert (told["entries"], told["hashes"], told["ledger"]) == (1, [entry.hash], entry.ledger)


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


@pytest.mark.parametrize("by", ["run", "site"])
def test_a_private_site_rounds_its_first_answer_too(site, by):
    if by == "site":
        site.limits = Limits(epsilon=8.0)
        content = None
    else:
        content = order(private())
        content["config"]["private"] = True
    reply = ask(lambda _: site, "query", content) if content else ask(lambda _: site, "query")
    assert dict(reply.content.metric_records["cases"]) == {"train": 10, "val": 10, "test": 10}


def test_over_the_budget_nothing_is_trained_and_nothing_charged(site, monkeypatch):
    """The refusal names no number of patients."""
    config = private(noise_multiplier=None, epsilon=2.0)
    for round_ in range(config.rounds):
        assert not ask(lambda _: site, "train", order(config, round=str(round_))).has_error()
    before = site.ledger.read_bytes()
    monkeypatch.setattr("client.app.train_site", lambda *_: pytest.fail("trained"))
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
