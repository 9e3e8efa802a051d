"""Line charts as plain data: what an SVG element needs, the same for the template and the script.

Lengths are units of the chart's own view box. Sites differ by colour, by dashes and by markers, so
that they can be told apart without colours too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from medsa_model.report_values import Json

HEIGHT, EMPTY = 240, 60  # of a chart, and of one without a line; all are 460 wide
LEFT, RIGHT, TOP, BOTTOM = 48, 452, 8, 212  # of the area that is drawn in
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#A39400", "#4D4D4D",
)  # fmt: skip
"""As in `medsa_model.figures`."""
DASHES = ("", "7 3", "2 3", "10 3 2 3", "4 2", "1 2", "12 4", "6 2 2 2 2 2")
GREY, BLACK = "#8c8c8c", "#1a1a1a"
POINTS = 2400  # of all lines of a chart
MARKS = 12  # of a line, about
SHORT = 30  # rounds that are shown whole from the start
SIZE = 3.5  # half of a marker
RING = 6.0, 4.2  # radii of the marker of a mean; those of a site find room in it

T = TypeVar("T")


def look(place: int, count: int) -> Json:
    """Of the site number `place` from 0; of more sites than colours all are grey."""
    if count > len(PALETTE):
        return {"colour": GREY, "dash": "", "mark": ""}
    return {"colour": PALETTE[place], "dash": DASHES[place], "mark": mark(place, 12, 6)}


def circle(x: float, y: float, radius: float, turn: int = 0) -> str:
    """As a path around (x, y); one inside another of another `turn` (0 or 1) is a hole."""
    r, half = radius, f"0 1 {turn}"
    return f"M{x - r:.1f} {y:.1f}a{r} {r} {half} {2 * r} 0a{r} {r} {half} {-2 * r} 0z"


def mark(place: int, x: float, y: float) -> str:
    """A marker as a path around (x, y)."""
    s = SIZE
    if place == 0:
        return circle(x, y, s)
    corners = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.2), (1.2, 1), (-1.2, 1)),
        3: ((0, -1.4), (1.2, 0), (0, 1.4), (-1.2, 0)),
        4: ((0, 1.2), (1.2, -1), (-1.2, -1)),
        5: ((-1.5, -0.5), (1.5, -0.5), (1.5, 0.5), (-1.5, 0.5)),
        6: ((-0.5, -1.5), (0.5, -1.5), (0.5, 1.5), (-0.5, 1.5)),
        7: ((-1.2, -1.2), (1.2, 1.2), (1.2, -1.2), (-1.2, 1.2)),
    }[place]
    return "M" + "L".join(f"{x + s * dx:.1f} {y + s * dy:.1f}" for dx, dy in corners) + "z"


def end_of_axis(last: int, rounds: int) -> int:
    """The last round that has room, of a run of `rounds` that has come to round `last`."""
    ahead = rounds if rounds <= SHORT else min(rounds, max(SHORT, math.ceil(1.25 * last)))
    return max(last, ahead)


def chart(
    title: str, curves: Mapping[str, Mapping[int, float]], mean: Mapping[int, float], end: int,
    decimals: int = 0,
) -> Json:  # fmt: skip
    """A chart of `curves` (site -> round -> value) and their `mean` over rounds up to `end`.

    A site without a value keeps its place in the order of looks, and has no line. A line of a
    single point has a marker in any case: nothing else of it could be seen. Values at the axis
    have at least so many `decimals`.
    """
    turns = {turn for curve in curves.values() for turn in curve}
    values = [value for curve in curves.values() for value in curve.values()]
    if not values:
        return {"title": title, "height": EMPTY, "lines": [], "x": [], "y": []}
    first = min(1, *turns)
    ys = ticks(min(values), max(values))
    xs = [turn for turn in ticks(first, max(end, first + 1), whole=True) if first <= turn <= end]

    def place(turn: float, value: float) -> tuple[float, float]:
        across = (turn - first) / max(end - first, 1)
        up = (value - ys[0]) / (ys[-1] - ys[0])
        return LEFT + across * (RIGHT - LEFT - 8) + 4, BOTTOM - up * (BOTTOM - TOP)

    most = max(2, POINTS // max(12, len(curves)))
    lines = []
    for number, (site, curve) in enumerate(curves.items()):
        if curve:
            points = [place(*point) for point in thinned(sorted(curve.items()), most)]
            marked = thinned(points, MARKS) if len(points) > 3 * MARKS else points
            seen = look(number, len(curves))
            if seen["mark"]:
                seen["mark"] = "".join(mark(number, *at) for at in marked)
            elif len(points) == 1:
                seen["mark"] = mark(0, *points[0])
            lines.append({"site": site, "path": path(points), **seen})
    if mean and len(curves) > 1:
        points = [place(*point) for point in thinned(sorted(mean.items()), most)]
        rings = [circle(*points[0], radius, turn) for turn, radius in enumerate(RING)]
        ring = "".join(rings) if len(points) == 1 else ""
        lines.append({"site": "", "path": path(points), "colour": BLACK, "dash": "", "mark": ring})
    return {
        "title": title, "height": HEIGHT, "lines": lines,
        "x": [{"at": round(place(turn, ys[0])[0], 1), "text": f"{turn:g}"} for turn in xs],
        "y": [{"at": round(place(first, value)[1], 1), "text": text}
              for value, text in zip(ys, texts(ys, decimals), strict=True)],
    }  # fmt: skip


def texts(values: Sequence[float], decimals: int) -> list[str]:
    """Numbers with the same count of decimals, at least `decimals`; tiny ones as `1e-06`."""
    short = [f"{value:g}" for value in values]
    if any("e" in text for text in short):
        return short
    places = max(decimals, *(len(text.partition(".")[2]) for text in short))
    return [f"{value:.{places}f}" for value in values]


def path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def thinned(points: Sequence[T], most: int) -> list[T]:
    """At most about `most` of them, the last one always."""
    step = max(1, math.ceil(len(points) / most))
    return list(points[::-step][::-1])


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers from `low` or below to `high` or above, at least two, about five."""
    if high - low < 1e-9:
        low, high = low - 0.05 * max(abs(low), 1), high + 0.05 * max(abs(high), 1)
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= raw * 0.999)
    if whole:
        step = max(1, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * each, 10) for each in range(first, max(last, first + 1) + 1)]
