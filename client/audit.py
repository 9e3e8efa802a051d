"""`client/run.py audit`: is the audit log as it was written, and what does it say."""

from pathlib import Path

from rich.console import Console

from medsa_model.audit_log import read, verify
from medsa_model.audit_table import entries_table, in_one_line
from medsa_model.errors import AuditError
from medsa_model.hash_chain import head_of


def show_audit(place: Path, known_hash: str | None, console: Console) -> None:
    """Print the log at `place`, newest entry last.

    Raises `AuditError`, after what can be read was printed, when the log is damaged or has no entry
    with the hash that somebody wrote down.
    """
    if place.exists():
        console.print(entries_table(read(place)))
    elif known_hash is None and not head_of(place).exists():
        told = f"There is no audit log yet at {place}: this site has not taken part."
        console.print(told, soft_wrap=True, highlight=False)
        return
    try:
        line = in_one_line(place, verify(place, known_hash))
    except AuditError as error:
        raise AuditError(f"the audit log cannot be relied on: {error}") from error
    console.print(line, soft_wrap=True, highlight=False)
    if known_hash is not None:
        console.print("the hash that was written down is that of one of its entries")
