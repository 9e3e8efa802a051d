"""The picture of the measurements: a bar for each ratio, in groups by figure."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from medsa_model.figures import BLACK, GREY, PALETTE, STYLE
from sim.bench.results import Row

WIDTH = 9.75  # inches


def draw_ratios(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write `bench.png` and `bench.svg` into `out`: plain over ours, by the minima.

    A line at 1 is where both are the same. Rows without a ratio, or with one to something that was
    computed and not measured, are left out; nothing is written when none is left.
    """
    drawn = [(row, row.ratio_of_minima) for row in rows if row.plain and not row.plain.computed]
    bars = [(row, ratio) for row, ratio in drawn if ratio]
    if not bars:
        return []
    places = [out / f"bench.{kind}" for kind in ("png", "svg")]
    figures = [*dict.fromkeys(row.name.partition(",")[0] for row, _ in bars)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.34 * len(bars)), layout="constrained")
        axes = figure.subplots()
        for position, (row, ratio) in enumerate(bars):
            colour = PALETTE[figures.index(row.name.partition(",")[0]) % len(PALETTE)]
            axes.barh(position, ratio - 1, left=1, height=0.7, color=colour)
            axes.annotate(f"{ratio:.3g}", (max(ratio, 1), position), xytext=(4, 0),
                          textcoords="offset points", va="center", color=BLACK)  # fmt: skip
        axes.axvline(1, color=GREY, linewidth=1)
        axes.set_yticks(range(len(bars)), [f"{row.name} ({row.unit})" for row, _ in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(left=False)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.margins(x=0.12)
        axes.set_xlabel("plain / ours, of the least samples")
        for place in places:
            place.write_bytes(_picture(figure, place.suffix[1:]))
    return places


def _picture(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    keys = ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
    figure.savefig(buffer, format=kind, dpi=150, metadata=dict.fromkeys(keys))
    return buffer.getvalue()
