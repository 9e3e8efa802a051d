"""What an audit log says, and whether it is as it was written; nothing is changed.

A log is read up to where it ended when the reading began, so that it may grow meanwhile.
"""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medsa_model.audit_lines import (
    TORN,
    End,
    Entry,
    check_head,
    next_of,
    parse_entry,
    parse_head,
    parse_header,
)
from medsa_model.errors import AuditError
from medsa_model.hash_chain import Unexpected, alone, head_of, is_hash, lock_of, real
from medsa_model.shown import clean

ADVICE = (
    "keep the log and its .head as they are, compare them with a backup, and find out who or what "
    "has changed them"
)


@dataclass(frozen=True)
class Verified:
    """A whole log: times of its first and last entry (empty: none), hash of its last line.

    `torn` is how many lines a crash has torn, one that still stands at the end included.
    """

    entries: int
    first: str
    last: str
    hash: str
    log: str
    torn: int


def verify(place: Path, known_hash: str | None = None) -> Verified:
    """Read a whole log; raises `AuditError` with the first line that is not as it was written.

    With `known_hash` also when no entry has that hash, which somebody wrote down earlier.
    """
    if known_hash is not None and not is_hash(known_hash):
        raise AuditError(f"the hash is {clean(known_hash)!r}, expected 64 hexadecimal digits")
    path = real(place)
    size, content = _as_it_is(path)
    line, torn, known = 0, 0, False
    log, first, last, before = "", "", "", ""
    end: End | None = None
    try:
        for text in _lines(path, size):
            line += 1
            if not text.endswith(b"\n"):
                torn += 1
                break
            if end is None:
                header = parse_header(text[:-1])
                if header.after:
                    raise Unexpected(f"a continuation after damage ({clean(header.after)})", "none")
                log, end = header.log, End(0, header.hash)
                continue
            entry = next_of(end, text[:-1])
            first, last = first or entry.time, entry.time
            before, end = entry.before, End(entry.number, entry.hash)
            torn += entry.event == TORN
            known |= entry.hash == known_hash
        line += 1
        if end is None:
            raise Unexpected("the end of the file", "a whole first line")
        check_head(end, before, None if content is None else parse_head(content))
    except Unexpected as error:
        raise _damage(path, line, error) from error
    if known_hash is not None and not known:
        raise AuditError(
            f"{path}: found no entry with hash {known_hash}, expected the one that was written "
            "down: the log was computed anew, or that hash is of another one"
        )
    return Verified(end.entries, first, last, end.hash, log, torn)


def read(place: Path) -> list[Entry]:
    """All entries that can be read, in the order of the file, also of a damaged log.

    Nothing says that they are what was written: that is `verify`'s. Raises `AuditError` when there
    is no log.
    """
    path, entries = real(place), []
    for text in _lines(path, _as_it_is(path)[0]):
        try:
            entries.append(parse_entry(text.removesuffix(b"\n")))
        except Unexpected:
            continue
    return entries


def content_of(place: Path) -> bytes | None:
    """The content of a file, `None` when there is none."""
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None


def _as_it_is(path: Path) -> tuple[int, bytes | None]:
    """Bytes of a log, and its head, between two entries; raises `AuditError`."""
    try:
        if lock_of(path).exists():
            with alone(os.open(lock_of(path), os.O_RDONLY), fcntl.LOCK_SH):
                size, head = _size(path), content_of(head_of(path))
        else:  # a copy, perhaps where nothing can be written
            size, head = _size(path), content_of(head_of(path))
    except OSError as error:
        raise AuditError(f"{path} cannot be read: {error.strerror}") from error
    if size is not None:
        return size, head
    try:
        expected = parse_head(head).entries if head is not None else 0
    except Unexpected:
        expected = 1
    if expected:
        raise _damage(path, 1, Unexpected(f"no file beside {head_of(path).name}", "the log"))
    raise AuditError(f"{path}: there is no audit log (yet)")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _lines(path: Path, size: int) -> Iterator[bytes]:
    """The lines of the first `size` bytes, each with its end."""
    try:
        with path.open("rb") as file:
            while size > 0 and (text := file.readline(size)):
                size -= len(text)
                yield text
    except OSError as error:
        raise AuditError(f"{path} cannot be read: {error.strerror}") from error


def _damage(path: Path, line: int, what: Unexpected) -> AuditError:
    return AuditError(
        f"{path}, line {line}: found {clean(what.found)}, expected {clean(what.expected)}; {ADVICE}"
    )
