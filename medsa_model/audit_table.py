"""An audit log for a terminal: its entries as a table, and in one line that it is whole."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from medsa_model.audit_log import Entry, Verified
from medsa_model.shown import clean


def entries_table(entries: Sequence[Entry]) -> Table:
    """A row for each entry, in the order of the log; times are UTC, to the second."""
    table = Table(title="audit log", title_justify="left")
    table.add_column("", justify="right")
    for heading in ("time (UTC)", "event", "what"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        facts = [f"{clean(name)} {_told(value)}" for name, value in entry.facts.items()]
        time = entry.time[:19].replace("T", " ")
        table.add_row(str(entry.number), clean(time), clean(entry.event), "\n".join(facts))
    return table


def in_one_line(place: Path, whole: Verified) -> str:
    """A verified log: file, entries, from and to, the hash to remember."""
    if not whole.entries:
        told = "no entry yet"
    else:
        entries = "1 entry" if whole.entries == 1 else f"{whole.entries} entries"
        told = (
            f"{entries}, {whole.first[:19]} to {whole.last[:19]} UTC, "
            f"last hash {whole.hash} (write it down: with --hash a log computed anew is found)"
        )
    lines = "1 line was" if whole.torn == 1 else f"{whole.torn} lines were"
    return f"{place}: {told}" + (f"; {lines} torn by a crash" if whole.torn else "")


def _told(value: object) -> str:
    """Printable, whoever wrote the log."""
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
