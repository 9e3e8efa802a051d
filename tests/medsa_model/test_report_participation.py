"""Who took part and what it cost, against numbers counted by hand."""

from pathlib import Path

import pytest

from medsa_model.logs import read_metrics
from medsa_model.report_participation import (
    costs_table,
    incomplete_rounds_table,
    participation_in_words,
    quarantine_in_words,
    turns_table,
)
from medsa_model.report_tables import Table
from medsa_model.report_timeline import Timeline, Turn, timeline_of
from medsa_model.report_values import MISSING, Json
from tests.medsa_model.made_up_run import SITES, write_real_run


def texts(table: Table) -> list[list[str]]:
    assert all(len(cells) == len(table.header) for cells in table.rows)
    return [[cell.text for cell in cells] for cells in table.rows]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    run: Path = write_real_run(tmp_path_factory.mktemp("run"))
    return read_metrics(run)


@pytest.fixture(scope="module")
def timeline(events: list[Json]) -> Timeline:
    return timeline_of(events, SITES)


def test_rounds_are_counted_by_what_came_of_them(timeline: Timeline) -> None:
    table = turns_table(timeline)
    assert table.header == [
        "Site", "Delivered", "No answer in time", "Not connected", "Refused", "Rejected",
        "In quarantine",
    ]  # fmt: skip
    assert texts(table) == [
        ["lyon", "2", "1", "1", "0", "0", "0"],
        ["oslo", "0", "0", "0", "0", "3", "1"],
        ["rome", "2", "0", "0", "2", "0", "0"],
        ["vienna", "4", "0", "0", "0", "0", "0"],
    ]


def test_costs_are_means_shares_and_sums(timeline: Timeline, events: list[Json]) -> None:
    # vienna: (2 + 4 + 6 + 8) / 4 s; 4 trainings, 4 validations and the test went up and down
    assert texts(costs_table(timeline, events)) == [
        ["lyon", "5.0 s", "25 %", "1 GB", "3.1 kB", "7.5 kB"],
        ["oslo", MISSING, MISSING, MISSING, MISSING, MISSING],
        ["rome", "7.0 s", "25 %", "1 GB", "3.1 kB", "7.5 kB"],
        ["vienna", "5.0 s", "25 %", "1 GB", "6.5 kB", "22.5 kB"],
    ]


def test_a_round_that_was_repeated_is_sent_once(timeline: Timeline, events: list[Json]) -> None:
    assert costs_table(timeline, [*events, *events]) == costs_table(timeline, events)


def test_rounds_say_who_was_missing(timeline: Timeline) -> None:
    assert texts(incomplete_rounds_table(timeline)) == [
        ["1", "2 of 4", "10.0 s", "oslo: rejected; rome: refused"],
        ["2", "1 of 4", "40.0 s", "lyon: no answer in time; oslo: rejected; rome: refused"],
        ["3", "2 of 4", "9.0 s", "lyon: not connected; oslo: rejected"],
        ["4", "3 of 4", "12.5 s", "oslo: in quarantine"],
    ]


def test_equal_rounds_in_a_row_are_one_line() -> None:
    """`b` is away in rounds 1 to 3 and 6, late in round 4, and there in round 5."""
    of_b = dict.fromkeys((1, 2, 3, 6), Turn.ABSENT) | {4: Turn.LATE, 5: Turn.DELIVERED}
    rounds = range(1, 7)
    turns = {"a": dict.fromkeys(rounds, Turn.DELIVERED), "b": of_b}
    table = incomplete_rounds_table(Timeline(("a", "b"), rounds, turns, {}, {1: 2.0, 2: 4.0}))
    assert texts(table) == [
        ["1 to 3", "1 of 2", "3.0 s", "b: not connected"],
        ["4", "1 of 2", MISSING, "b: no answer in time"],
        ["6", "1 of 2", MISSING, "b: not connected"],
    ]
    assert [cells[0].sort for cells in table.rows] == [1, 4, 6]


def test_the_sentence_names_who_delivered_less(timeline: Timeline) -> None:
    assert participation_in_words(timeline) == (
        "Not every site delivered in all of 4 rounds: oslo in 0, lyon in 2, rome in 2; the other "
        "sites in all."
    )


def test_the_sentence_of_a_run_without_a_gap() -> None:
    turns = {site: {1: Turn.DELIVERED, 2: Turn.DELIVERED} for site in SITES}
    whole = Timeline(SITES, (1, 2), turns, {}, {})
    assert participation_in_words(whole) == "Every site delivered in each of the 2 rounds."
    assert incomplete_rounds_table(whole).rows == []
    assert participation_in_words(timeline_of([])) == ""


def test_many_sites_are_not_all_named() -> None:
    sites = [f"site {n}" for n in range(20)]
    said = participation_in_words(Timeline(sites, (1,), {site: {} for site in sites}, {}, {}))
    assert said.count("site ") <= 8 and "and others" in said and "the other sites" not in said


def test_quarantine_and_readmission_are_said(events: list[Json]) -> None:
    again = {"event": "readmitted", "round": 4, "site": "oslo"}
    assert quarantine_in_words([*events, again]) == [
        "oslo was put in quarantine after round 3: it is not asked any more.",
        "oslo was readmitted after round 4.",
    ]
