"""Two figures of a report: Dice at each site, and Dice and loss over the rounds.

Each is drawn for a `width` in inches. A narrow one has its parts below each other and its letters
as large as a wide one: scaled down, a wide figure cannot be read on a telephone.

In the library only this module and `figure_timeline` import matplotlib. Figures are made without
pyplot, so nothing global is kept and no display is needed. Colours are those of Okabe and Ito, told
apart by colour-blind readers; markers differ as well, for print without colour.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from medsa_model.report_values import label

Curves = Mapping[str, Mapping[int, float]]
"""Site -> round -> value."""

BLACK = "#1a1a1a"
GREY = "#8c8c8c"
PALETTE = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # bluish green
    "#E69F00",  # orange
    "#CC79A7",  # reddish purple
    "#56B4E9",  # sky blue
    "#A39400",  # the palette's yellow, darker: the original cannot be seen on white
    "#4D4D4D",  # grey
)
MARKERS = "osD^vP*X"
ROW_LOOKS: dict[str, dict[str, Any]] = {
    "zero_shot": {"color": GREY, "marker": "D"},
    "local": {"color": "#E69F00", "marker": "s"},
    "federated": {"color": "#0072B2", "marker": "o"},
    "centralized": {"color": "#009E73", "marker": "^"},
}
WIDTH = 9.75  # inches, as wide as the text of the page
NARROW = 3.73  # inches, as wide as the text on a telephone
MIDDLE = 6.0  # inches: a figure below it is narrow
MOST_LETTERS = 28
MOST_MARKERS = 40
LEGEND_LETTERS = 13  # in one inch of a line of the legend, with the space its lines take

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a site's name may hold a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.8,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "font.size": 9.5,
    "legend.frameon": False,
    "lines.markeredgewidth": 0.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "fed-medsa",  # the same run gives the same bytes
}


def draw_sites(
    sites: Sequence[str],
    rows: Mapping[str, Mapping[str, float]],
    prompt: str = "",
    width: float = WIDTH,
) -> bytes:
    """A dot plot as SVG: one line a site, one marker a row.

    Args:
        sites: from top to bottom.
        rows: row -> site -> Dice; a site without a value has no marker, other rows are not drawn.
        prompt: with which the Dice was reached, for the title; "" when unknown.
        width: in inches.
    """
    line = 0.38 if width > MIDDLE else 0.52  # inches
    with matplotlib.rc_context(STYLE):
        height = 1.15 + line * max(2, len(sites))
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(f"Test Dice, prompt: {plain(prompt)}" if prompt else "Test Dice")
        for position, site in enumerate(sites):
            values = [row[site] for row in rows.values() if site in row]
            if values:  # the span makes the rows of one site one thing to the eye
                axes.plot([min(values), max(values)], [position] * 2, color="#d0d0d0", zorder=1)
            else:
                axes.text(0.01, position, "no scores", color=GREY, va="center",
                          transform=axes.get_yaxis_transform())  # fmt: skip
        shown = [name for name in ROW_LOOKS if name in rows]
        for number, name in enumerate(shown):
            row = rows[name]
            known = [(row[site], position) for position, site in enumerate(sites) if site in row]
            # A little apart in height: equal scores must not hide each other.
            x = [value for value, _ in known]
            y = [position + _apart(number, len(shown)) for _, position in known]
            axes.scatter(x, y, s=52, edgecolor="white", label=label(name), **ROW_LOOKS[name])
        name_lines(axes, sites, 0.34, width)
        axes.set_ylim(len(sites) - 0.4, -0.6 if width > MIDDLE else -0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("Dice")
        if shown:
            figure.legend(loc="outside upper left", ncols=4 if width > MIDDLE else 2,
                          handletextpad=0.2, columnspacing=1.4)  # fmt: skip
        return picture_of(figure, "svg")


def name_lines(axes: Axes, sites: Sequence[str], above: float, width: float) -> None:
    """The sites' names beside their lines; in a narrow figure `above` them, in lines."""
    if width > MIDDLE:
        axes.set_yticks(range(len(sites)), [plain(site) for site in sites])
    else:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        for position, site in enumerate(sites):
            axes.text(0.0, position - above, plain(site), va="bottom",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    axes.tick_params(left=False)


def draw_progress(
    dice: Curves,
    mean: Mapping[int, float],
    loss: Curves,
    picture: Literal["svg", "png"],
    width: float = WIDTH,
) -> bytes:
    """Dice of each site with the mean, and loss of each site, over the rounds.

    Args:
        dice: validation Dice of each site.
        mean: Dice over the cases of all sites, by round.
        loss: training loss of each site.
        picture: the format of the returned bytes.
        width: in inches.
    """
    sites = list(dict.fromkeys([*dice, *loss]))
    beside = width > MIDDLE
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 3.9 if beside else 5.8), layout="constrained")
        left, right = figure.subplots(*((1, 2) if beside else (2, 1)))
        left.set_title("Dice on validation cases")
        right.set_title("Training loss")
        lines = _curves(right, sites, loss) | _curves(left, sites, dice)
        entries = [(plain(site), lines[site]) for site in sites if site in lines]
        if len(sites) > len(PALETTE):
            entries = [("one line a site", line) for _, line in entries[:1]]
        if mean:
            x, y = _points(mean)
            entries += [("mean over cases", *left.plot(x, y, color=BLACK, linewidth=2.6))]
        for axes, there in ((left, dice), (right, loss)):
            axes.set_xlabel("round")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if not there:
                where = {"ha": "center", "va": "center", "transform": axes.transAxes}
                axes.text(0.5, 0.5, "nothing recorded", color=GREY, **where)
        if entries:
            names, handles = zip(*entries, strict=True)
            columns = max(2, int(LEGEND_LETTERS * width) // (max(map(len, names)) + 7))
            lines_of_legend = math.ceil(len(names) / columns)
            columns = math.ceil(len(names) / lines_of_legend)  # no line with a single entry
            figure.legend(handles, names, loc="outside lower center", ncols=columns)
        return picture_of(figure, picture)


def _curves(axes: Axes, sites: Sequence[str], curves: Curves) -> dict[str, Line2D]:
    """Draw and return a line a site; with more sites than colours, all are thin and grey."""
    crowded = len(sites) > len(PALETTE)
    lines = {}
    for number, site in enumerate(sites):
        if not curves.get(site):
            continue
        x, y = _points(curves[site])
        if crowded:
            (lines[site],) = axes.plot(x, y, color=GREY, linewidth=0.8, alpha=0.6)
        else:
            marker = MARKERS[number] if len(x) <= MOST_MARKERS else ""
            colour = PALETTE[number]
            (lines[site],) = axes.plot(x, y, color=colour, marker=marker, ms=4, linewidth=1.3)
    return lines


def _points(curve: Mapping[int, float]) -> tuple[list[int], list[float]]:
    rounds = sorted(curve)
    return rounds, [curve[turn] for turn in rounds]


def _apart(number: int, count: int) -> float:
    """Offset of a row's markers from the line of their site, in sites."""
    return 0.13 * (number - (count - 1) / 2)


def plain(name: str) -> str:
    """A name that can stand in a figure: printable and short."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= MOST_LETTERS else shown[: MOST_LETTERS - 1] + "…"


def picture_of(figure: Figure, picture: Literal["svg", "png"]) -> bytes:
    """A figure as the bytes of a file, the same for the same figure."""
    buffer = io.BytesIO()
    keys = ("Date", "Creator", "Format", "Type") if picture == "svg" else ("Software",)
    with warnings.catch_warnings():
        # A name in a script that matplotlib's font lacks shows as boxes; the tables have it right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format=picture, dpi=150, metadata=dict.fromkeys(keys))
    return buffer.getvalue()
