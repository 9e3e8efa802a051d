"""The measurements on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sim.bench.results import Row

HEADINGS = ("measurement", "unit", "plain", "ours", "ratio", "by medians", "spread")


def show(rows: Sequence[Row], console: Console) -> None:
    """Print a line for each row: least samples, ratios, and the larger spread of both sides."""
    table = Table(title="plain / ours", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right",
                         overflow="fold")  # fmt: skip
    for row in rows:
        table.add_row(*cells(row))
    console.print(table, highlight=False)


def cells(row: Row) -> list[str]:
    """What is printed of a row; bytes in millions."""
    large = row.unit == "bytes"
    sides = [side for side in (row.plain, row.ours) if side]
    least = [f"{side.minimum / 1e6:,.1f}" if large else f"{side.minimum:.3g}" for side in sides]
    if row.plain is None:
        least.insert(0, "")
    elif row.plain.computed:
        least[0] += " (computed)"
    ratios = [
        "" if ratio is None else f"{ratio:.2f}x"
        for ratio in (row.ratio_of_minima, row.ratio_of_medians)
    ]
    repeated = any(len(side.samples) > 1 for side in sides)
    return [row.name, "MB" if large else row.unit, *least, *ratios,
            f"{100 * row.spread:.0f} %" if repeated else ""]  # fmt: skip
