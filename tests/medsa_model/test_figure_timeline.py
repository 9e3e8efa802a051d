"""The figure of the time line: readable for any number of rounds, in grey too."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from medsa_model.figure_timeline import LOOKS, MOST_ROUNDS, draw_timeline
from medsa_model.figures import NARROW, WIDTH
from medsa_model.report_timeline import Timeline, Turn


def texts(svg: bytes) -> set[str]:
    root = ElementTree.fromstring(svg)
    return {element.text or "" for element in root.iter() if element.text}


def of(turns: dict[str, dict[int, Turn]]) -> Timeline:
    rounds = sorted({n for each in turns.values() for n in each})
    return Timeline([*turns], rounds, turns, {"a": dict.fromkeys(rounds, 2.0)},
                    dict.fromkeys(rounds, 4.0))  # fmt: skip


def test_the_legend_names_what_there_is_and_nothing_else() -> None:
    shown = texts(draw_timeline(of({"a": {1: Turn.DELIVERED}, "b<i>": {1: Turn.LATE}})))
    assert {"a", "b<i>", "delivered", "no answer in time", "round", "seconds"} <= shown
    assert not shown & {"refused", "rejected", "not connected", "in quarantine"}


def test_a_narrow_figure_says_the_same() -> None:
    timeline = of({"a": {1: Turn.DELIVERED}, "b": {1: Turn.LATE}})
    wide, narrow = draw_timeline(timeline), draw_timeline(timeline, NARROW)
    assert texts(narrow) >= {"a", "b", "delivered", "no answer in time", "round", "seconds"}
    widths = [ElementTree.fromstring(svg).attrib["width"] for svg in (wide, narrow)]
    assert [float(width.removesuffix("pt")) / 72 for width in widths] == [WIDTH, NARROW]


def test_every_turn_can_be_told_without_its_colour() -> None:
    assert {*LOOKS} == {*Turn}
    marks = [(look.hatch, look.marker) for look in LOOKS.values()]
    assert len({*marks}) == len(marks)


@pytest.mark.thorough
def test_a_long_run_shows_its_last_rounds() -> None:
    rounds = range(1, 2 * MOST_ROUNDS + 1)
    svg = draw_timeline(of({"a": dict.fromkeys(rounds, Turn.REJECTED)}))
    numbers = {int(text) for text in texts(svg) if re.fullmatch(r"\d{3}", text)}
    assert min(numbers) > MOST_ROUNDS and max(numbers) <= rounds[-1]


@pytest.mark.thorough
@pytest.mark.parametrize("turns", [{"a": {1: turn}} for turn in Turn])
def test_one_cell_alone_is_a_figure(turns: dict[str, dict[int, Turn]]) -> None:
    assert turns["a"][1].value in texts(draw_timeline(of(turns)))
