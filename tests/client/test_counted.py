"""How often a site did what it was asked for: again is answered, on and on is refused."""

import json

import pytest

from client.counted import EVALUATIONS, REPEATS, count_evaluation, count_training
from medsa_model.config import RunConfig
from medsa_model.errors import CheckpointError
from medsa_model.refusals import Reason, Refused


def configuration(seed: int = 0) -> RunConfig:
    content = {"name": "small", "rounds": 2, "seed": seed, "data": {"kind": "synthetic"}}
    return RunConfig.model_validate(content)


def test_every_round_of_every_run_is_counted_by_itself(tmp_path):
    place, one, other = tmp_path / "counted.json", configuration(), configuration(seed=1)
    for _ in range(REPEATS):
        count_training(place, one, 0)
    with pytest.raises(Refused, match=f"the round was trained {REPEATS} times already") as caught:
        count_training(place, one, 0)
    assert caught.value.reason is Reason.OVER_LIMIT
    assert "moves counted.json out" in str(caught.value) and str(tmp_path) not in str(caught.value)
    count_training(place, one, 1)
    count_training(place, other, 0)
    assert json.loads(place.read_text()) == {
        one.sha256: {"train 0": REPEATS, "train 1": 1}, other.sha256: {"train 0": 1},
    }  # fmt: skip


def test_the_parts_of_a_run_are_counted_over_its_rounds(tmp_path):
    place, config = tmp_path / "counted.json", configuration()
    for _ in range(EVALUATIONS * 3):
        count_evaluation(place, config, "val")
    with pytest.raises(Refused, match="val cases were evaluated 12 times"):
        count_evaluation(place, config, "val")
    count_evaluation(place, config, "test")
    count_training(place, config, 0)


def test_a_repeated_round_over_restarts_stays_below_the_bound():
    """server/exchange.py sends a message up to 3 times, and a round may be repeated."""
    assert REPEATS >= 3 * 4


def test_without_a_file_nothing_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(REPEATS + 1):
        count_training(None, configuration(), 0)
        count_evaluation(None, configuration(), "val")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": {"train 0": "x"}}'])
def test_counts_that_cannot_be_read_are_not_begun_anew(tmp_path, content):
    place = tmp_path / "counted.json"
    place.write_text(content)
    with pytest.raises(CheckpointError, match="holds no counts"):
        count_training(place, configuration(), 0)
    assert place.read_text() == content
