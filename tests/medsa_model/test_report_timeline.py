"""What came of each site in each round, against what was written down by hand."""

from pathlib import Path

import pytest

from medsa_model.logs import read_metrics
from medsa_model.report_timeline import Timeline, Turn, timeline_of
from tests.medsa_model.made_up_run import SECONDS, SITES, write_real_run

D, L, A, X, Q, R = (
    Turn.DELIVERED, Turn.LATE, Turn.ABSENT, Turn.REJECTED, Turn.EXCLUDED, Turn.REFUSED,
)  # fmt: skip


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    run: Path = write_real_run(tmp_path_factory.mktemp("run"))
    return timeline_of(read_metrics(run), SITES)


def test_every_round_of_every_site_has_its_turn(timeline: Timeline) -> None:
    assert timeline.sites == list(SITES) and timeline.rounds == [1, 2, 3, 4]
    found = {site: [timeline.turns[site][n] for n in timeline.rounds] for site in SITES}
    assert found == {
        "vienna": [D, D, D, D], "lyon": [D, L, A, D], "oslo": [X, X, X, Q], "rome": [R, R, D, D],
    }  # fmt: skip
    assert not timeline.whole
    assert timeline.rounds_with("oslo", X, Q) == [1, 2, 3, 4]


def test_seconds_are_of_rounds_and_of_training(timeline: Timeline) -> None:
    assert timeline.seconds == SECONDS
    assert timeline.trained == {
        "vienna": {1: 2, 2: 4, 3: 6, 4: 8}, "lyon": {1: 2, 4: 8}, "rome": {3: 6, 4: 8},
    }  # fmt: skip


def of(*events: dict[str, object]) -> dict[str, dict[int, Turn]]:
    return timeline_of([{"round": 1, "site": "a", **event} for event in events]).turns


def test_the_last_word_counts() -> None:
    missing, train = {"event": "missing"}, {"event": "train", "seconds": 1.0}
    assert of(missing, train) == {"a": {1: D}}
    assert of(train, missing) == {"a": {1: L}}
    far = {"event": "rejected", "what": "update", "code": "NORM"}
    assert of(train, far) == {"a": {1: X}}


def test_rejected_scores_are_no_turn_of_training() -> None:
    scores = {"event": "rejected", "what": "scores", "code": "ERROR"}
    assert of({"event": "train"}, scores) == {"a": {1: D}}


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [("OVER_LIMIT", R), ("FAILED", Turn.FAILED), (None, Turn.FAILED)],
)
def test_a_site_that_will_not_is_told_from_one_that_cannot(
    refusal: str | None, expected: Turn
) -> None:
    event = {"event": "rejected", "what": "update", "code": "ERROR", "refusal": refusal}
    assert of(event) == {"a": {1: expected}}


@pytest.mark.parametrize("kind", ["skipped", "discarded"])
def test_what_was_delivered_to_a_round_without_a_mean_was_not_used(kind: str) -> None:
    ended = {"event": "round", "site": "", "sites": [], "missing": ["a", "b"], "seconds": 1.0}
    turns = of({"event": "train"}, {"event": kind, "site": ""}, ended)
    assert turns == {"a": {1: Turn.UNUSED}, "b": {1: A}}


def test_a_readmitted_site_that_is_away_is_not_in_quarantine() -> None:
    away = {"event": "round", "site": "", "sites": [], "missing": ["a"], "round": 2}
    out, again = {"event": "quarantined"}, {"event": "readmitted"}
    assert of(out, away)["a"][2] is Q
    assert of(out, again, away)["a"][2] is A


def test_a_round_that_is_under_way_has_no_turn_of_who_has_not_answered() -> None:
    timeline = timeline_of([{"event": "train", "round": 1, "site": "a"}], ["a", "b"])
    assert timeline.turns == {"a": {1: D}, "b": {}} and timeline.seconds == {}
    assert not timeline.whole


@pytest.mark.parametrize("wrong", [{"round": "x"}, {"round": None}, {"seconds": "a"}, {"sites": 3}])
def test_lines_of_another_kind_are_no_error(wrong: dict[str, object]) -> None:
    of({"event": "round", **wrong}, {"event": "train", **wrong}, {"event": ["x"], **wrong})


def test_a_round_that_was_skipped_before_an_interruption_and_then_made_counts() -> None:
    turns = of(
        {"event": "train"}, {"event": "skipped"},
        {"event": "train", "site": "b"}, {"event": "round", "sites": ["b"], "missing": ["a"]},
    )  # fmt: skip
    assert turns == {"a": {1: A}, "b": {1: D}}
