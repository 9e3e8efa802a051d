"""Curves from the lines of metrics.jsonl: the values that stand there, each once."""

import itertools

import pytest

from medsa_model.tracking_points import Lines, note_of, part_of_tag, time_of

TIME = "2026-01-02T03:04:05+00:00"
SECONDS = 1767323045.0  # of that time, by `date -u -d ... +%s`


def line(event: str, number: int, **facts) -> dict:
    return {"time": TIME, "event": event, "round": number, **facts}


def scored(number: int, site: str, part: str = "val", **facts) -> dict:
    told = {"prompt": "click", "dice": 0.5, "iou": 0.4, "cases": 1, "hd95": None, "nsd": None}
    return line("evaluate", number, site=site, part=part, **{**told, "structures": {}, **facts})


def told(events: list[dict], complete: bool = True) -> dict[tuple[str, int], float]:
    """All points; none twice."""
    lines = Lines()
    points = [point for event in events for point in lines.add(event)]
    points += lines.test_scores() if complete else []
    values = {(tag, step): value for tag, step, value, _ in points}
    assert len(values) == len(points)
    return values


def test_values_are_those_of_the_lines():
    train = {"loss": 0.7, "norm": None, "seconds": 2.5, "waited": 0.1, "memory": 10**9}
    values = told([
        line("train", 1, site="a", up_bytes=100, down_bytes=1000, examples=4, state="f", **train),
        line("privacy", 1, site="a", epsilon=0.5, epsilon_rdp=0.75, steps=3),
        line("traffic", 1, site="a", part="val", up_bytes=1, down_bytes=10),
        scored(1, "a", dice=0.9, cases=3, hd95=2.0),
        scored(1, "b", dice=0.5, cases=1, hd95=6.0),
        line("rejected", 1, site="c", code="ERROR", what="update", refusal="BUDGET"),
        line("rejected", 1, site="c", code="NORM", what="update"),
        line("site_privacy", 1, epsilon=3.5, delta=1e-5),
        line("round", 1, sites=["a", "b"], missing=["c"], seconds=4.25),
    ])  # fmt: skip
    expected = {
        "train/loss/a": 0.7, "train/seconds/a": 2.5, "train/waited/a": 0.1, "train/memory/a": 1e9,
        "bytes/up/a": 101, "bytes/down/a": 1010, "privacy/epsilon/a": 0.5,
        "privacy/epsilon_rdp/a": 0.75, "privacy/site_epsilon": 3.5, "rejected/c": 2,
        "round/seconds": 4.25, "round/sites": 2, "round/missing": 1, "round/rejected": 2,
        "round/refused": 1,
        "validation/dice/click/a": 0.9, "validation/dice/click/b": 0.5,
        "validation/dice/click/mean": 0.8, "validation/dice/click/worst_site": 0.5,
        "validation/hd95/click/a": 2, "validation/hd95/click/b": 6,
        "validation/hd95/click/mean": 3, "validation/hd95/click/worst_site": 6,
        "validation/iou/click/a": 0.4, "validation/iou/click/b": 0.4,
        "validation/iou/click/mean": 0.4, "validation/iou/click/worst_site": 0.4,
    }  # fmt: skip
    assert values == pytest.approx({(tag, 1): value for tag, value in expected.items()})


def test_structures_have_curves_of_their_own():
    liver = {"liver": {"dice": 0.25, "iou": 0.1, "cases": 2, "hd95": None, "nsd": 0.5}}
    values = told([scored(3, "a", "test", prompt="box 0.75", structures=liver)])
    assert values["test/dice/box 0.75/a", 3] == 0.5
    assert values["test/dice/box 0.75/liver/a", 3] == 0.25
    assert values["test/nsd/box 0.75/liver/worst_site", 3] == 0.5


def test_of_an_interrupted_round_the_last_attempt_counts():
    """Also where the crash came between the round and its line, or in the midst of the tests."""
    events = [line("train", 1, site="a", loss=1.0), line("train", 1, site="a", loss=2.0)]
    assert told(events) == {}
    events += [line("train", 2, site="a", loss=3.0)]
    assert told(events)["train/loss/a", 1] == 2.0
    events += [line("round", 2, sites=["a"], missing=[], seconds=1)]
    events += [line("round", 2, sites=["a"], missing=[], seconds=1)]  # once more
    events += [scored(2, "a", "test", dice=0.1), scored(2, "a", "test", dice=0.2)]
    values = told(events)
    assert values["train/loss/a", 2] == 3.0
    assert values["test/dice/click/a", 2] == values["test/dice/click/mean", 2] == 0.2
    assert ("test/dice/click/a", 2) not in told(events, complete=False)


def test_test_scores_are_told_again_only_where_they_changed():
    lines = Lines()
    lines.add(scored(2, "a", "test", dice=0.5))
    assert len(lines.test_scores()) == 6
    assert lines.test_scores() == []
    lines.add(scored(2, "b", "test", dice=0.25, iou=0.4))  # a site that could not be scored before
    changed = {point.tag: point.value for point in lines.test_scores()}
    assert changed == {
        "test/dice/click/b": 0.25, "test/iou/click/b": 0.4, "test/dice/click/mean": 0.375,
        "test/dice/click/worst_site": 0.25,
    }  # fmt: skip


def test_zero_rounds_have_test_scores():
    assert told([scored(0, "a", "test")])["test/dice/click/a", 0] == 0.5


def test_any_name_is_one_level_of_a_tag_and_no_two_are_the_same():
    odd = [
        "site_a", "site a", "site/a", "site\\a", "a", "A", "mean", "worst_site", "", " ", ".", "..",
        "a/../b", "a b ", "ä", "a\n", "\ud800", "x" * 48, "x" * 49, "x" * 5000, "🏥", "%41", "a:b",
    ]  # fmt: skip
    parts = [part_of_tag(name) for name in odd]
    assert parts[:2] == ["site_a", "site a"]
    assert len({*parts}) == len(odd)
    for part in parts:
        assert part.strip() == part and 0 < len(part) <= 60
        assert part.isascii() and part.isprintable() and not {*part} & {*"/\\:%"}
        assert part not in {".", "..", "mean", "worst_site"}
    for one, other in itertools.combinations(("mean", "a/b", "a_b"), 2):
        values = told([scored(1, one), scored(1, other, dice=0.25), line("round", 1)])
        assert values[f"validation/dice/click/{part_of_tag(one)}", 1] == 0.5
        assert values[f"validation/dice/click/{part_of_tag(other)}", 1] == 0.25
        assert values["validation/dice/click/mean", 1] == 0.375


def test_notes_say_what_the_line_says():
    note = note_of(line("rejected", 2, site="b", reason="its\nnorm", what="update"))
    assert note == ("rejected", 2, "round: 2\nsite: b\nreason: its\nnorm\nwhat: update", SECONDS)
    assert note_of(line("train", 2, site="b")) is None


@pytest.mark.parametrize("event", [
    {}, {"event": None, "round": None}, {"event": "train", "round": "x", "site": None},
    {"event": "evaluate", "round": 1, "part": "test"}, {"event": "round", "round": 1, "sites": 5},
    {"event": "evaluate", "part": "val", "structures": {"a": None}, "dice": "high", "cases": -1},
    {"event": "rejected"}, {"event": "train", "loss": float("nan"), "time": 5},
])  # fmt: skip
def test_lines_of_another_version_break_nothing(event):
    lines = Lines()
    lines.add(event)
    note_of(event)
    lines.add(line("round", 9))
    lines.test_scores()
    assert time_of({"time": "yesterday"}) == 0.0
