"""`flower-server audit`: are the audit logs as they were written, and what do they say."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from medsa_model.audit_log import NAME, read, verify
from medsa_model.audit_table import entries_table, in_one_line
from medsa_model.errors import AuditError
from medsa_model.hash_chain import head_of, is_hash
from server.config import Federation


def logs_of(federation: Federation) -> list[Path]:
    """Audit logs in the folder of a federation and below its runs, also those that are missing.

    A head without its log stands for a log that somebody took away.
    """
    places = [federation.folder / NAME, *federation.runs.rglob(NAME)]
    places += [head.with_name(NAME) for head in federation.runs.rglob(head_of(Path(NAME)).name)]
    return sorted({log for log in places if log.exists() or head_of(log).exists()})


def verify_logs(places: Sequence[Path], known_hash: str | None, console: Console) -> int:
    """Print a line for each log; 1 when one is damaged, or none has the hash that is known.

    Raises `AuditError` when `known_hash` cannot be one.
    """
    if known_hash is not None and not is_hash(known_hash):
        raise AuditError(f"--hash is {known_hash!r}, expected 64 hexadecimal digits")
    good, holders = True, []
    for place in places:
        try:
            line = in_one_line(place, verify(place))
            if known_hash is not None:
                holders += [(place, e) for e in read(place) if e.hash == known_hash]
        except AuditError as error:
            good, line = False, f"NOT VERIFIED: {error}"
        console.print(line, soft_wrap=True, highlight=False)
    if not places:
        console.print("There is no audit log yet.", highlight=False)
    if known_hash is None:
        return 0 if good else 1
    for place, entry in holders:
        told = f"the hash that was written down is that of entry {entry.number} of {place}"
        console.print(told, soft_wrap=True, highlight=False)
    if not holders:
        console.print(
            f"NOT VERIFIED: no whole log has an entry with hash {known_hash}, expected one: a log "
            "was computed anew or taken away, or the hash is of one elsewhere (name its FILE)",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    return 0 if good and holders else 1


def show_log(place: Path, console: Console) -> int:
    """Print all entries that can be read, newest last, and whether the log is whole."""
    console.print(entries_table(read(place)))
    return verify_logs([place], None, console)
