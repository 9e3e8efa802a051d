"""What the live page shows of a recorded run, from its start to its end."""

import json
import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event
from unittest.mock import Mock

import httpx
import pytest

from medsa_model import audit_lines, figures
from medsa_model.logs import append_metrics
from server import page_curves, page_nodes, page_state
from server.flower_private import NodeRow
from server.page_lines import GrowingLines
from server.page_nodes import Nodes
from server.page_progress import SiteProgress
from server.page_tables import last_contact
from server.page_words import roughly
from server.status import ONLINE_FOR
from tests.server.page_run import RecordedRun


@pytest.fixture
def run(tmp_path, monkeypatch) -> RecordedRun:
    """Begun; every question is answered anew, and the sites of `run.online` are connected."""
    recorded = RecordedRun(tmp_path)
    recorded.online = []
    monkeypatch.setattr("server.page_state.FRESH", -1.0)
    monkeypatch.setattr(
        recorded.state.nodes, "latest",
        lambda link: {n: NodeRow(1, n, b"", "online", "", "", 0.0) for n in recorded.online},
    )  # fmt: skip
    recorded.state.link = object()
    recorded.state.begin(recorded.config, recorded.place)
    return recorded


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing here is to outlive a power failure."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def cells(run: RecordedRun, site: str) -> dict[str, str]:
    """Heading -> text of a site's row."""
    state = run.state.state()
    found = next(row for row in state["sites"] if row["name"] == site)
    texts = [cell["text"] for cell in found["cells"]]
    return dict(zip(state["columns"], [found["name"], *texts], strict=True))


def words(run: RecordedRun) -> str:
    return run.state.state()["words"]


def test_a_run_from_its_start_to_its_end(run):
    run.state.link, link = None, run.state.link
    assert words(run) == "The coordinator is starting"
    run.state.link = link
    run.online = ["south"]
    assert words(run) == "Waiting for sites: 1 of 3 are connected"
    assert "after 10 min, 2 sites are enough" in run.state.state()["detail"]
    assert cells(run, "south")["Connected"] == "yes"
    assert cells(run, "north")["What it does"] == "not connected"
    run.online = [*run.sites]
    assert words(run).startswith("All sites are connected")
    run.start()
    assert words(run) == "The sites introduce themselves"
    run.ask(1, "train")
    assert words(run).startswith("Round 1 of 4 is running since ")
    assert cells(run, "west")["What it does"] == "training, round 1"
    run.train(1, "west", 0.75)
    assert "updates of 1 of 3 sites are here" in run.state.state()["detail"]
    assert cells(run, "west") == {
        "Site": "west", "What it does": "update of round 1 delivered", "Connected": "yes",
        "Last contact": "0 s ago", "Loss": "0.750", "Dice": "\N{EN DASH}", "Up": "7.6 MB",
        "Down": "7.7 MB",
    }  # fmt: skip
    run.ask(1, "val")
    assert words(run).startswith("Round 1 of 4 is scored on validation cases since ")
    run.score(1, "west", 0.625)
    assert cells(run, "west")["Dice"] == "0.625"  # with the first prompt, not the second
    assert cells(run, "west")["Down"] == "15.4 MB"
    run.save(1, "west")
    state = run.state.state()
    assert state["words"] == "Round 1 of 4 is complete"
    assert (state["done"], state["rounds"]) == (1, 4)
    assert state["progress"] == "1 of 4 rounds are complete; about 4 min for the others"
    assert not state["over"] and state["events"][0]["text"].startswith("Round 1 is saved")
    for number in (2, 3, 4):
        run.whole_round(number)
    run.ask(4, "test")
    assert words(run).startswith("The final adapters are scored on test cases since ")
    run.finish(4)
    state = run.state.state()
    assert state["words"] == "The run polyps is complete" and not state["over"]
    assert state["detail"] == (
        "Mean Dice 0.875 (click; 30 test cases of 3 sites), worst site north 0.875."
    )
    assert cells(run, "north")["Dice"] == "0.875 test"
    run.online = []  # they leave, and that is no trouble
    assert cells(run, "north")["What it does"] == "test scores delivered"
    assert "trouble" not in str(state["sites"])
    run.state.end("", well=True)
    state = run.state.state()
    assert state["over"] and state["mood"] == "good" and len(state["events"]) == 42


def test_the_end_tells_cases_sites_the_worst_site_and_the_report(run):
    """Of 3 sites one never came; the mean is over cases, computed here by hand."""
    run.sites = ("north", "south")
    run.online = [*run.sites]
    run.start()
    run.whole_round(1)
    for site, dice, cases in (("north", 0.75, 30), ("south", 0.5, 10)):
        append_metrics(run.place, "evaluate", round=1, site=site, part="test", prompt="click",
                       dice=dice, cases=cases)  # fmt: skip
    (run.place / "final").mkdir()
    told = "Mean Dice 0.688 (click; 40 test cases of 2 of 3 sites), worst site south 0.500."
    assert run.state.state()["detail"] == told
    (run.place / "report.html").write_text("")
    run.state.end("", well=True)
    state = run.state.state()
    assert state["detail"] == f"{told} The report is report.html in the run directory."
    assert cells(run, "west")["What it does"] == "never took part"
    assert cells(run, "west")["Last contact"] == "never" and "trouble" not in str(state["sites"])
    for site in run.sites:  # the SuperLink is gone, and ages would grow wrong on the screen
        row = cells(run, site)
        assert row["Connected"] == "no" and row["Last contact"].count(":") == 2
        assert row["What it does"] != "never took part"


def test_a_superlink_that_has_ended_with_the_run_is_no_problem(run, tmp_path):
    """It ends before the page does; a coordinator that serves still needs it."""
    run.state.nodes.answers = False
    assert "does not answer" in run.state.state()["problem"]
    run.state.end("It is over.")
    assert run.state.state()["problem"] == ""
    (tmp_path / "other").mkdir()
    serving = RecordedRun(tmp_path / "other", serve=True)
    serving.state.begin(serving.config, serving.place)
    serving.state.nodes.answers = False
    serving.state.end("It is over.")
    assert "does not answer" in serving.state.state()["problem"]
    serving.state.close()
    assert serving.state.state()["problem"] == ""


def test_who_was_connected_when_a_run_ended_early(run):
    run.online = ["north"]
    run.state.end("2 of 3 sites are too few.")
    assert cells(run, "north")["Connected"] == "until the end"
    assert cells(run, "west")["Connected"] == "no"


@pytest.mark.parametrize(
    ("status", "heartbeat", "left", "message", "expected"),
    [
        ("online", 20, None, 1, 1), ("online", 3, None, 40, 3), ("online", 20, None, None, 20),
        ("offline", 90, 50, 70, 50), ("offline", 90, 50, 5, 5), ("online", 9, 50, None, 9),
        ("online", None, None, None, None), (None, None, None, 8, 8),
    ],
)  # fmt: skip
def test_the_last_contact_is_the_newest_of_heartbeat_and_message(
    status, heartbeat, left, message, expected
):
    """All in seconds before this moment; of a site that was deactivated that moment counts."""
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    before = {s: moment - timedelta(seconds=s) for s in (heartbeat, left, message, expected) if s}
    node = status and NodeRow(
        1, "north", b"", status, "", before[left].isoformat() if left else "",
        before[heartbeat].timestamp() + ONLINE_FOR if heartbeat else 0.0,
    )  # fmt: skip
    found = last_contact(node, SiteProgress(heard=before.get(message)))
    assert found == before.get(expected)


def test_answers_that_are_not_used_and_a_repeated_round(run):
    run.online = [*run.sites]
    run.start()
    run.ask(1, "train")
    run.note("rejected", round=1, site="north", code="ERROR", reason="over its limit",
             what="update", refusal="OVER_LIMIT")  # fmt: skip
    run.note("missing", round=1, site="south")
    run.train(1, "west", 0.5)
    assert cells(run, "north")["What it does"] == "refused, round 1: over its limit"
    assert cells(run, "south")["What it does"] == "no answer in time, round 1"
    run.note("repeated", round=1, sites=["west"])
    run.ask(1, "train", "south")
    state = run.state.state()
    assert state["words"].startswith("Round 1 of 4 is repeated since ") and state["mood"] == "open"
    assert cells(run, "south")["What it does"] == "training, round 1"
    assert cells(run, "west")["What it does"] == "update of round 1 delivered"
    assert "updates of 1 of 3 sites are here" in state["detail"]  # of all that were ever asked
    assert state["rejected"] == [["1", "north", "over its limit", "update", "OVER_LIMIT"]]
    told = {event["text"]: event["kind"] for event in state["events"]}
    assert told["Round 1: update of north not used: over its limit (OVER_LIMIT)"] == "trouble"
    assert told["Round 1 is repeated: 1 usable update is not enough"] == "trouble"
    assert told["Round 1: south is asked to train"] == ""


def test_quarantine_lasts_until_the_site_is_readmitted(run):
    run.online = [*run.sites]
    run.note("quarantined", round=1, site="north")
    assert cells(run, "north")["What it does"].startswith("in quarantine: not asked any more")
    run.note("readmitted", round=1, site="north")
    assert cells(run, "north")["What it does"] == "idle"


def test_epsilon_has_a_column_when_some_is_spent(run):
    assert "Epsilon" not in run.state.state()["columns"]
    run.note("privacy", round=1, site="north", epsilon=1.25, delta=0.001)
    run.note("privacy", round=2, site="north", epsilon=1.75, delta=0.001)
    assert cells(run, "north")["Epsilon"] == "1.750"
    assert cells(run, "west")["Epsilon"] == "\N{EN DASH}"


def test_what_an_earlier_process_asked_for_is_over(run):
    """After --resume: numbers stay, and nobody trains before he is asked again."""
    run.start()
    run.whole_round(1)
    run.ask(2, "train")
    run.online = [*run.sites]
    time.sleep(0.002)  # times of the log are whole milliseconds
    run.state.begin(run.config, run.place)
    assert words(run).startswith("All sites are connected")
    row = cells(run, "north")
    assert row["What it does"] == "idle" and row["Loss"] == "0.900"
    run.start(after=1)
    assert run.state.state()["events"][3]["text"] == "The run goes on after round 1"


def test_an_entry_of_the_same_millisecond_belongs_to_the_run(run, monkeypatch):
    """The audit log tells no shorter times."""
    begun = datetime(2026, 1, 2, 3, 4, 5, 678_900, UTC)
    clock = Mock(wraps=datetime, now=lambda zone=None: begun)
    with monkeypatch.context() as patched:
        patched.setattr(page_state, "datetime", clock)
        patched.setattr(audit_lines, "datetime", clock)
        run.state.begin(run.config, run.place)
        run.start()
    assert words(run) == "The sites introduce themselves"


def test_a_run_that_ends_early_says_so(run):
    run.state.end("2 of 3 sites connected, quorum is 3; missing: west.")
    state = run.state.state()
    assert (state["mood"], state["over"]) == ("bad", True)
    assert state["words"] == "2 of 3 sites connected, quorum is 3; missing: west."
    run.state.end("later")
    assert words(run).startswith("2 of 3")


def test_a_coordinator_that_serves_goes_on(tmp_path):
    run = RecordedRun(tmp_path, serve=True)
    run.state.begin(run.config, run.place)
    run.whole_round(1)
    run.finish(1)
    run.state.end("", well=True)
    state = run.state.state()
    assert not state["over"] and state["detail"].endswith("Waiting for the next run: "
                                                          "flower-server submit.")  # fmt: skip
    (tmp_path / "next").mkdir()
    run.state.begin(run.config.model_copy(update={"name": "next"}), tmp_path / "next")
    state = run.state.state()
    assert (state["run"], state["done"], state["events"]) == ("next", 0, [])


def test_without_a_run_directory_there_is_still_a_page(run, tmp_path):
    run.state.begin(run.config, tmp_path / "gone")
    assert run.state.state()["done"] == 0
    run.state.stage = None
    assert run.state.state()["run"] == "no run yet"


def test_lines_are_read_once_and_when_they_are_whole(tmp_path):
    place = tmp_path / "lines"
    lines = GrowingLines(place)
    assert lines.read() == []
    place.write_bytes(b"one\ntw")
    assert lines.read() == [b"one"]
    with place.open("ab") as file:
        file.write(b"o\nthree\n")
    assert lines.read() == [b"two", b"three"] and lines.read() == []
    assert GrowingLines(place, last=8).read() == [b"three"]
    assert GrowingLines(place, last=100).read() == [b"one", b"two", b"three"]


def test_a_torn_or_foreign_line_is_left_out(run):
    run.train(1, "north", 0.5)
    for name, torn in (("metrics.jsonl", b'\xff{"event": "tr\n[1]\n{"event": "train", "si'),
                       ("audit.jsonl", b'{"before":"12')):  # fmt: skip
        with (run.place / name).open("ab") as file:
            file.write(torn)
    run.train(2, "north", 0.25)
    assert cells(run, "north")["Loss"] == "0.250"
    assert "has torn a line" in run.state.state()["events"][1]["text"]


def test_what_was_read_is_not_read_again(run, monkeypatch):
    for number in range(1, 4):
        run.whole_round(number)
    run.state.state()
    parsed: list[str] = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
    run.state.state()
    assert parsed == []
    run.train(4, "north", 0.5)
    run.state.state()
    assert len([line for line in parsed if b'"event": "train"' in bytes(line)]) == 1


def test_the_superlink_is_asked_seldom_and_may_fail(monkeypatch):
    asked: list[int] = []
    clock = [100.0]

    @contextmanager
    def control(link):
        asked.append(link)
        if len(asked) == 2:
            raise httpx.ConnectError("no")
        yield

    rows = [NodeRow(1, "north", b"", "online", "", "", 0.0),
            NodeRow(2, "old", b"", "unregistered", "", "", 0.0)]  # fmt: skip
    monkeypatch.setattr(page_nodes, "control", control)
    monkeypatch.setattr(page_nodes, "list_nodes", lambda client: rows)
    monkeypatch.setattr(page_nodes.time, "monotonic", lambda: clock[0])
    nodes = Nodes()
    for _ in range(5):
        assert nodes.latest(7) == {"north": rows[0]}
    assert asked == [7] and nodes.answers
    clock[0] += 2.1
    assert nodes.latest(7) == {"north": rows[0]} and not nodes.answers  # those of before
    clock[0] += 2.1
    nodes.latest(None)
    assert len(asked) == 2


def test_of_any_error_who_is_connected_is_told_as_of_before(monkeypatch):
    """A protocol that changed is no reason to call sites connected for good."""

    def control(link):
        raise KeyError("status")

    monkeypatch.setattr(page_nodes, "control", control)
    nodes = Nodes()
    assert nodes.latest(7) == {} and not nodes.answers


def test_a_superlink_that_hangs_is_asked_by_one_thread_alone(monkeypatch):
    asked: list[int] = []
    clock, let_go = [100.0], Event()

    @contextmanager
    def control(link):
        asked.append(link)
        let_go.wait(10)
        yield

    monkeypatch.setattr(page_nodes, "control", control)
    monkeypatch.setattr(page_nodes, "list_nodes", lambda client: [])
    monkeypatch.setattr(page_nodes, "PATIENCE", 0.01)
    monkeypatch.setattr(page_nodes.time, "monotonic", lambda: clock[0])
    nodes = Nodes()
    for _ in range(4):
        nodes.latest(7)
        clock[0] += 2 * page_nodes.EVERY
    assert asked == [7]
    let_go.set()
    nodes.thread.join()
    nodes.latest(7)
    assert asked == [7, 7]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.31, 0.38, [0.3, 0.32, 0.34, 0.36, 0.38]),
     (3, 40, [0, 10, 20, 30, 40]), (-2, 2, [-2, -1, 0, 1, 2])],
)  # fmt: skip
def test_ticks_are_round_and_enclose(low, high, expected):
    assert page_curves.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 1e-12])
def test_ticks_of_a_single_value_enclose_it(value):
    found = page_curves.ticks(value, value)
    assert found[0] <= value <= found[-1] and len(found) >= 2


def test_lines_go_through_their_values():
    drawn = page_curves.chart("t", {"a": {1: 0.0, 3: 1.0}, "b": {}}, {1: 0.0, 3: 1.0}, 5)
    one, mean = drawn["lines"]
    assert (one["site"], mean["site"]) == ("a", "") and one["path"] == mean["path"]
    (x0, y0), (x1, y1) = (map(float, p.split()) for p in one["path"][1:].split("L"))
    ticks = {tick["text"]: tick["at"] for tick in drawn["y"]}
    assert (y0, y1) == (ticks["0.0"], ticks["1.0"])
    rounds = {tick["text"]: tick["at"] for tick in drawn["x"]}
    assert (x0, x1) == (rounds["1"], rounds["3"]) and [*rounds] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("values", "decimals", "expected"),
    [([0.6, 0.62, 0.64], 3, ["0.600", "0.620", "0.640"]), ([0.5, 0.5005], 3, ["0.5000", "0.5005"]),
     ([0, 10, 20], 0, ["0", "10", "20"]), ([0, 2.5], 0, ["0.0", "2.5"]),
     ([0, 1e-6], 3, ["0", "1e-06"])],
)  # fmt: skip
def test_numbers_at_an_axis_have_the_same_decimals(values, decimals, expected):
    assert page_curves.texts(values, decimals) == expected


@pytest.mark.parametrize("count", [2, len(page_curves.PALETTE) + 1])
def test_a_single_validation_can_be_seen(count):
    """A path of one point is drawn as nothing, so every line of one point has a marker there."""
    curves = {f"site_{n}": {10: 0.5 + n / 100} for n in range(count)}
    lines = page_curves.chart("t", curves, {10: 0.505}, 20)["lines"]
    assert len(lines) == count + 1 and lines[-1]["colour"] == page_curves.BLACK
    for line in lines:
        x, y = map(float, line["path"][1:].split())
        assert line["mark"], line["site"]
        start = line["mark"][1:].split("L")[0].split("a")[0].split()
        assert max(abs(x - float(start[0])), abs(y - float(start[1]))) <= 6.0
    two = page_curves.chart("t", curves, {10: 0.505, 11: 0.5}, 20)["lines"]
    assert two[-1]["mark"] == ""


def test_sites_can_be_told_apart_without_colours():
    count = len(page_curves.PALETTE)
    looks = [page_curves.look(place, count) for place in range(count)]
    assert len({look["dash"] for look in looks}) == len({look["mark"] for look in looks}) == count
    assert page_curves.PALETTE == figures.PALETTE
    assert {page_curves.look(place, count + 1)["mark"] for place in range(count + 1)} == {""}


def test_many_rounds_of_many_sites_stay_small():
    curves = {f"site_{n}": {turn: turn / 999 for turn in range(1, 1000)} for n in range(50)}
    drawn = page_curves.chart("t", curves, {}, 999)
    assert sum(line["path"].count("L") for line in drawn["lines"]) < 2 * page_curves.POINTS
    assert {line["path"].rsplit("L", 1)[1] for line in drawn["lines"]} == {"448.0 8.0"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (119, "119 s"), (7000, "117 min"), (10_000, "3 h")]
)
def test_a_duration_is_told_roughly(seconds, text):
    assert roughly(seconds) == text
