"""The privacy ledger of a hospital: noisy training steps that its patients have paid for.

It covers all rounds, runs and restarts over the same patients, and is charged before the training,
so that a crash counts a step too many rather than one too few. `NAME.head` beside it says how many
entries there are: else lines cut from the end would be missed. Both are replaced as a whole, so a
torn file is damage, and damage is refused: nothing ever takes the place of a ledger that is there.
Deleting both files is noticed by who keeps a `Receipt`. Of the project this imports only errors,
files and `medsa_model/hash_chain.py`, which the audit log uses too.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medsa_model.errors import ConfigError, LedgerError
from medsa_model.hash_chain import (
    ID_DIGITS,
    alone,
    canonical,
    head_of,
    lock_of,
    open_lock,
    real,
    replace_whole,
    sealed,
)
from medsa_model.privacy.ledger_lines import (
    FORMAT,
    Charge,
    Entry,
    Receipt,
    Unit,
    damage,
    next_entry,
    parse_head,
    parse_ledger,
)

if TYPE_CHECKING:
    from medsa_model.privacy.accounting import NoisySteps

__all__ = ["Charge", "Entry", "Receipt", "Unit", "charge", "holds", "read_ledger", "receipt",
           "spent"]  # fmt: skip


def read_ledger(path: Path) -> list[Entry]:
    """All entries, oldest first, verified with the head; none when there is no ledger yet.

    Raises `LedgerError` when anything is damaged, missing or cannot be read.
    """
    path = real(path)
    if _content(path) is None and _content(head_of(path)) is None:
        return []
    with _alone(path):
        return _load(path)[1]


def charge(
    path: Path, what: Charge, allow: Callable[[Sequence[Entry]], object] | None = None
) -> Entry:
    """Append an entry; it is on the disk when this returns. The folder has to be there.

    `allow` sees the entries before it while nobody else can charge; when it raises, nothing is
    charged. Raises `LedgerError`.
    """
    path = real(path)
    with _alone(path):
        content, entries = _load(path)
        if allow:
            allow(entries)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if entries:
            # a crash may have left it one behind; two would be taken for damage
            if _content(head_of(path)) != _head_content(receipt(entries)):
                _replace(head_of(path), _head_content(receipt(entries)))
            ledger, before = entries[-1].ledger, entries[-1].hash
        else:
            ledger = secrets.token_hex(ID_DIGITS // 2)
            header = sealed({"format": FORMAT, "ledger": ledger, "created": now})
            content, before = canonical(header) + b"\n", str(header["hash"])
        entry, line = next_entry(len(entries) + 1, now, ledger, what, before)
        _replace(path, content + line)
        _replace(head_of(path), _head_content(receipt([entry])))
    return entry


def receipt(entries: Sequence[Entry]) -> Receipt:
    """What to remember of a ledger: of its last entry, or that it had none."""
    if not entries:
        return Receipt(0, "", "")
    return Receipt(entries[-1].number, entries[-1].hash, entries[-1].ledger)


def holds(entries: Sequence[Entry], remembered: Receipt) -> bool:
    """Whether a ledger still has what was remembered of it: one that went backwards has not."""
    place = remembered.entries
    return 0 <= place <= len(entries) and (not place or receipt(entries[:place]) == remembered)


def spent(entries: Sequence[Entry]) -> list["NoisySteps"]:
    """All that was charged, for `medsa_model.privacy.accounting.epsilon`."""
    from medsa_model.privacy.accounting import NoisySteps  # torch: a ledger works without

    charges = [entry.charge for entry in entries]
    return [NoisySteps(c.noise_multiplier, c.sampling_rate, c.steps) for c in charges]


def _load(path: Path) -> tuple[bytes, list[Entry]]:
    """The verified content of a ledger; for the holder of its lock."""
    content, known = _content(path), _content(head_of(path))
    if content is None and known is None:
        return b"", []
    if content is None:
        raise damage(path, 1, f"no file beside {head_of(path).name}", "the ledger")
    if os.stat(path).st_nlink > 1:
        raise LedgerError(
            f"{path} has a second name (a hard link), which would go on as another ledger: remove "
            "that one, or replace it by a symbolic link"
        )
    entries = parse_ledger(path, content)
    head = receipt([]) if known is None else parse_head(head_of(path), known)
    if not holds(entries, head) or len(entries) > head.entries + 1:
        raise damage(
            path, len(entries) + 1, f"{len(entries)} entries, the last with {entries[-1].hash}",
            f"{head.entries} entries by {head_of(path).name} and at most one more, number "
            f"{head.entries} with {head.hash or 'no hash'}",
        )  # fmt: skip
    return content, entries


def _head_content(known: Receipt) -> bytes:
    return canonical(asdict(known)) + b"\n"


def _content(place: Path) -> bytes | None:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"{place} cannot be read: {error.strerror}") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While one process at a time uses the ledger; waits for others."""
    try:
        descriptor = open_lock(path)
    except OSError as error:
        raise LedgerError(
            f"{lock_of(path)} cannot be opened ({error.strerror}): the folder has to be there, "
            "mounted, and writable for this account"
        ) from error
    with alone(descriptor):
        yield


def _replace(place: Path, content: bytes) -> None:
    """Write a private file, whole or not at all; it is on the disk when this returns."""
    try:
        replace_whole(place, content)
    except (ConfigError, OSError) as error:
        raise LedgerError(f"{place} cannot be written, so nothing is trained: {error}") from error
