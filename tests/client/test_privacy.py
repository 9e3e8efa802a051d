"""What a site's patients may lose: refused before anything is charged, charged before training."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client.config import Limits, load_site
from client.privacy import charge_training, require_privacy
from medsa_model.config import RunConfig
from medsa_model.privacy.accounting import NoisySteps, epsilon
from medsa_model.privacy.ledger import Charge, read_ledger
from medsa_model.privacy.section import Privacy
from medsa_model.refusals import Reason, Refused

PLANNED = NoisySteps(1.0, 1 / 32, 32)


def run(limit: float | None = None, delta: float = 1e-3) -> Any:
    """What is read of a run; its `limit` is not the one that the planned noise was chosen for."""
    noise = None if limit else PLANNED.noise_multiplier
    privacy = Privacy(epsilon=limit, noise_multiplier=noise, delta=delta, clip_norm=0.1)
    return SimpleNamespace(name="small", sha256="a" * 64, privacy=privacy)


def train(
    ledger: Path, config: Any, limit: float | None = None, round_: int = 0, patients: int = 500,
    delta: float | None = None,
) -> tuple[Any, float]:  # fmt: skip
    limits = Limits(epsilon=limit, delta=delta)
    account = charge_training(ledger, limits, config, PLANNED, round_, patients, "patient")
    assert account.entries[-1] in read_ledger(ledger)
    return account.entries[-1], account.epsilon


def refusal(reason: Reason, *arguments: Any, **more: Any) -> str:
    """What crosses the wire; the ledger is the same byte for byte."""
    ledger = arguments[0]
    before = ledger.read_bytes() if ledger.exists() else None
    with pytest.raises(Refused) as caught:
        train(*arguments, **more)
    assert caught.value.reason == reason
    assert (ledger.read_bytes() if ledger.exists() else None) == before
    assert str(ledger.parent) not in str(caught.value) and ledger.name not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_what_is_planned_is_charged(ledger):
    entry, total = train(ledger, run(8.0), round_=3)
    assert read_ledger(ledger) == [entry]
    assert entry.charge == Charge("small", "a" * 64, 3, 1.0, 1 / 32, 32, 0.1, 1e-3, "patient")
    assert total == epsilon([PLANNED], 1e-3)


def test_50_rounds_cost_what_their_steps_cost_together(ledger):
    """Not 1.12, which a fresh accountant in every round would say: 6.82 over 1600 steps."""
    config = run()
    for round_ in range(50):
        _, total = train(ledger, config, round_=round_)
    assert total == pytest.approx(6.82, abs=0.01)
    assert len(read_ledger(ledger)) == 50


@pytest.mark.parametrize(("of_run", "of_site"), [(2.0, None), (None, 2.0), (2.0, 9.0), (9.0, 2.0)])
def test_the_smaller_limit_is_held_and_the_ledger_stays_as_it_is(ledger, of_run, of_site):
    """Rounds pass as long as all of them together cost at most 2."""
    fitting = 0
    while epsilon([replace(PLANNED, steps=32 * (fitting + 1))], 1e-3) <= 2.0:
        train(ledger, run(of_run), of_site, round_=fitting)
        fitting += 1
    assert fitting > 2
    said = refusal(Reason.EPSILON, ledger, run(of_run), of_site, round_=fitting)
    assert "would be over 2," in said and "nothing was trained" in said
    assert len(read_ledger(ledger)) == fitting


def test_the_refused_epsilon_is_in_the_log_alone(ledger, caplog, monkeypatch):
    monkeypatch.setattr("client.privacy.logger.propagate", True)  # set_up() turns it off
    said = refusal(Reason.EPSILON, ledger, run(0.5))
    cost = f"{epsilon([PLANNED], 1e-3):.4f}"
    assert cost in caplog.text and cost[:4] not in said


def test_a_limit_that_is_met_exactly_is_not_exceeded(ledger):
    train(ledger, run(epsilon([PLANNED], 1e-3)))


def test_a_run_whose_noise_was_chosen_for_its_limit_has_room_for_its_rounds_alone(ledger):
    """A real run: what `noise` promises is what the check counts, to the last step."""
    section = {"epsilon": 2.0, "delta": 1e-3, "sampling_rate": 0.2}
    config = RunConfig.model_validate(
        {"name": "small", "rounds": 3, "data": {"kind": "synthetic"}, "train": {"steps": 5},
         "privacy": section}
    )  # fmt: skip
    assert config.privacy is not None
    planned = NoisySteps(config.privacy.noise(15), 0.2, 5)
    for round_ in range(3):
        account = charge_training(ledger, Limits(), config, planned, round_, 90, "patient")
    assert account.entries[-1].charge.sha256 == config.sha256 and 1.9 < account.epsilon <= 2.0
    with pytest.raises(Refused, match="would be over 2,"):
        charge_training(ledger, Limits(), config, planned, 2, 90, "patient")


def test_earlier_runs_and_repeated_rounds_count(ledger):
    for _ in range(2):
        train(ledger, run(9.0))
    other = run(9.0)
    other.name, other.sha256 = "other", "b" * 64
    _, total = train(ledger, other)
    assert total == epsilon([replace(PLANNED, steps=96)], 1e-3)


def test_the_smallest_delta_of_ledger_and_run_is_composed_at(ledger):
    train(ledger, run(delta=1e-6))
    _, total = train(ledger, run(delta=1e-3))
    assert total == epsilon([replace(PLANNED, steps=64)], 1e-6)
    _, total = train(ledger, run(delta=1e-8))
    assert total == epsilon([replace(PLANNED, steps=96)], 1e-8)


def test_the_sites_delta_is_held_and_no_run_can_make_it_smaller(ledger):
    """Else one harmless run at a tiny delta would end the site's part in all later ones."""
    train(ledger, run(delta=1e-12), delta=1e-3)
    _, total = train(ledger, run(delta=1e-3), delta=1e-3)
    assert total == epsilon([replace(PLANNED, steps=64)], 1e-3)
    said = refusal(Reason.OVER_LIMIT, ledger, run(delta=2e-3), delta=1e-3, patients=10)
    assert "limits.delta 0.001" in said


def test_a_refused_delta_tells_the_number_of_patients_in_tens_alone(ledger):
    for patients in (481, 490):
        refusal(Reason.OVER_LIMIT, ledger, run(delta=1 / 489), patients=patients)
    train(ledger, run(delta=1 / 491), patients=481)


@pytest.mark.parametrize("patients", [0, 480, 1000])
def test_a_delta_of_one_over_the_patients_is_refused_without_their_number(
    ledger, patients, caplog, monkeypatch
):
    monkeypatch.setattr("client.privacy.logger.propagate", True)
    delta = 1 / patients if patients else 1e-9
    said = refusal(Reason.OVER_LIMIT, ledger, run(delta=delta), patients=patients)
    assert "one over the number of the site's training patients" in said
    assert f"1/{patients}" in caplog.text and str(patients) not in said.partition("expected")[2]
    assert not ledger.exists()
    if patients:
        train(ledger, run(delta=delta * 0.999), patients=patients)


def test_a_damaged_ledger_is_refused_and_its_place_is_in_the_log(ledger, caplog, monkeypatch):
    monkeypatch.setattr("client.privacy.logger.propagate", True)
    train(ledger, run())
    ledger.write_bytes(ledger.read_bytes()[:-1])
    said = refusal(Reason.LEDGER, ledger, run())
    assert "engineer" in said and str(ledger) in caplog.text


def test_a_ledger_that_cannot_be_written_is_refused(tmp_path):
    refusal(Reason.LEDGER, tmp_path / "nowhere" / "ledger.jsonl", run())


def test_two_sites_at_once_never_take_the_same_rest(ledger):
    """The limit has room for 5 rounds, and two sites over the same patients ask for 6 each."""
    limit = epsilon([replace(PLANNED, steps=160)], 1e-3) + 1e-6

    def ask(_: int) -> Reason | None:
        try:
            train(ledger, run(limit))
        except Refused as refused:
            return refused.reason
        return None

    with ThreadPoolExecutor(2) as sites:
        answers = [*sites.map(ask, range(12))]
    assert answers.count(None) == 5 and answers.count(Reason.EPSILON) == 7
    assert len(read_ledger(ledger)) == 5


def test_a_site_with_a_limit_refuses_runs_without_privacy():
    config = RunConfig.model_validate({"name": "small", "data": {"kind": "synthetic"}})
    require_privacy(config, Limits())
    private = config.model_copy(update={"privacy": Privacy(noise_multiplier=1.0)})
    require_privacy(private, Limits(epsilon=3))
    with pytest.raises(Refused, match=r"limits\.epsilon is 3") as caught:
        require_privacy(config, Limits(epsilon=3))
    assert caught.value.reason is Reason.NO_PRIVACY


def test_the_ledger_lies_in_the_state_folder_or_where_the_yaml_says(tmp_path):
    path = tmp_path / "site.yaml"
    content = {"site": "a", "coordinator": {"address": "a:1"}, "data": {"kind": "folder"}}
    path.write_text(json.dumps(content))
    assert load_site(path).ledger_file == tmp_path / "state" / "ledger.jsonl"
    assert load_site(path, ["state=s"]).ledger_file == tmp_path / "s" / "ledger.jsonl"
    shared = load_site(path, ["ledger=../shared/l.jsonl"]).ledger_file
    assert shared == tmp_path.parent / "shared" / "l.jsonl"
