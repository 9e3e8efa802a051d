"""Markdown from text and tables of others: what it shows is what was written, and nothing acts."""

import re
from collections.abc import Sequence

from medsa_model.report_tables import Table
from medsa_model.shown import clean

SPECIAL = re.compile(r"[\\`*_\[\]<>#!|~&@$]|:(?=//)|(?<=www)\.")
"""Signs with a meaning inside a line: markup, cells, elements, and what GitHub makes a link of."""


def escaped(value: object) -> str:
    """Text as one line that Markdown shows as it is: no link, no markup, no new cell."""
    return SPECIAL.sub(r"\\\g<0>", clean(str(value)))


def table(heading: Sequence[str], rows: Sequence[Sequence[object]], words: int = 1) -> str:
    """A table; the first `words` columns are words, the others numbers. Every cell is escaped."""
    lines = [map(escaped, heading), ["---"] * words + ["--:"] * (len(heading) - words)]
    lines += [map(escaped, row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_of(report: Table, of_words: bool = False) -> str:
    """A table of the report, whose columns after the first are numbers or else words."""
    rows = [[cell.text for cell in row] for row in report.rows]
    return table(report.header, rows, len(report.header) if of_words else 1)
