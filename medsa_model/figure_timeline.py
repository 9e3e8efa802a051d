"""The figure of a run's time line: one line a site, one cell a round.

Above, how long each round took. A cell says what came of asking the site, by colour, hatch and
marker, so that it can be read in grey too; the bar in it is the share of the round in which the
site trained.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from medsa_model.figures import GREY, MIDDLE, STYLE, WIDTH, name_lines, picture_of
from medsa_model.report_timeline import Timeline, Turn

MOST_ROUNDS = 150  # the last ones are shown
CELL = (0.9, 0.66)  # rounds, sites
LOW_CELL = (0.9, 0.46)  # in a narrow figure, below the name of its site
BLUE, LIGHT_BLUE = "#0072B2", "#d6e8f4"


@dataclass(frozen=True)
class Look:
    """A cell: colours of its face and edge, hatch, and a marker of the edge's colour."""

    face: str
    edge: str
    hatch: str = ""
    marker: str = ""


LOOKS = {
    Turn.DELIVERED: Look(LIGHT_BLUE, LIGHT_BLUE),
    Turn.UNUSED: Look(LIGHT_BLUE, BLUE, "..."),
    Turn.LATE: Look("#fdf0d2", "#B87700", "////"),
    Turn.ABSENT: Look("white", GREY, "", "_"),
    Turn.REFUSED: Look("white", "#9A4A78", "", "s"),
    Turn.FAILED: Look("#f6e6ef", "#9A4A78", "", "v"),
    Turn.REJECTED: Look("#fbe0d1", "#C24E00", "", "X"),
    Turn.EXCLUDED: Look("#b5b5b5", "#4D4D4D", "xxxx"),
}


def draw_timeline(timeline: Timeline, width: float = WIDTH) -> bytes:
    """The last `MOST_ROUNDS` rounds as SVG, `width` inches wide; sites from top to bottom."""
    wide = width > MIDDLE
    line = 0.3 if wide else 0.46  # inches
    rounds = list(timeline.rounds[-MOST_ROUNDS:])
    with matplotlib.rc_context(STYLE | {"hatch.linewidth": 0.7}):
        handles, names = _legend(timeline, rounds)
        height = 2.3 + line * max(2, len(timeline.sites)) + (0.0 if wide else 0.19 * len(names))
        figure = Figure(figsize=(width, height), layout="constrained")
        ratios = [1.0, max(1.0, line * len(timeline.sites))]
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
        _draw_seconds(above, timeline, rounds)
        _draw_cells(below, timeline, rounds, width)
        figure.legend(handles, names, loc="outside lower center", ncols=4 if wide else 1,
                      columnspacing=1.6, handlelength=1.8,
                      handler_map={tuple: HandlerTuple()})  # fmt: skip
        return picture_of(figure, "svg")


def _draw_seconds(axes: Axes, timeline: Timeline, rounds: list[int]) -> None:
    """How long the rounds took, and how long the site trained that took longest."""
    whole = [timeline.seconds.get(turn, 0.0) for turn in rounds]
    longest = [
        max((each[turn] for each in timeline.trained.values() if turn in each), default=0.0)
        for turn in rounds
    ]
    axes.bar(rounds, whole, CELL[0], color="#d9d9d9")
    axes.bar(rounds, [min(pair) for pair in zip(longest, whole, strict=True)], CELL[0], color=BLUE)
    axes.set_title("Duration of the rounds")
    axes.set_ylabel("seconds")
    axes.grid(axis="x", visible=False)
    axes.tick_params(bottom=False)


def _draw_cells(axes: Axes, timeline: Timeline, rounds: list[int], width: float) -> None:
    wide, high = CELL if width > MIDDLE else LOW_CELL
    for turn, look in LOOKS.items():
        cells, bars = [], []
        for place, site in enumerate(timeline.sites):
            for number in rounds:
                if timeline.turns[site].get(number) is not turn:
                    continue
                corner = (number - wide / 2, place - high / 2)
                cells.append(Rectangle(corner, wide, high))
                whole = timeline.seconds.get(number, 0.0)
                share = timeline.trained.get(site, {}).get(number, 0.0) / whole if whole else 0.0
                bars.append(Rectangle(corner, wide * min(share, 1.0), high))
        if not cells:
            continue
        axes.add_collection(PatchCollection(
            cells, facecolor=look.face, edgecolor=look.edge, hatch=look.hatch or None,
            linewidth=0.8,
        ))  # fmt: skip
        if turn is Turn.DELIVERED:
            axes.add_collection(PatchCollection(bars, facecolor=BLUE, linewidth=0))
        if look.marker:
            size = max(1.0, min(7.0, 26.7 * width / len(rounds)))  # points, less than a cell
            middles = [(cell.get_x() + wide / 2, cell.get_y() + high / 2) for cell in cells]
            x, y = zip(*middles, strict=True)
            axes.plot(x, y, look.marker, color=look.edge, markersize=size, linestyle="")
    axes.set_title("What came of each site in each round")
    name_lines(axes, timeline.sites, high / 2 + 0.03, width)
    axes.set_ylim(len(timeline.sites) - 0.45, -0.55 if width > MIDDLE else -0.8)
    axes.set_xlim(min(rounds, default=1) - 0.6, max(rounds, default=1) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("round")
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _legend(timeline: Timeline, rounds: list[int]) -> tuple[list[Any], list[str]]:
    """Entries for what there is in these rounds, and for the two parts of a bar above."""
    there = {timeline.turns[site].get(turn) for site in timeline.sites for turn in rounds}
    handles: list[Any] = [Patch(color=BLUE), Patch(color="#d9d9d9")]
    names = ["training (above: the longest)", "rest of the round"]
    for turn, look in LOOKS.items():
        if turn in there:
            patch = Patch(facecolor=look.face, edgecolor=look.edge, hatch=look.hatch or None,
                          linewidth=0.8)  # fmt: skip
            marker = Line2D([], [], color=look.edge, marker=look.marker, markersize=6, linestyle="")
            handles.append((patch, marker) if look.marker else patch)
            names.append(turn.value)
    return handles, names
