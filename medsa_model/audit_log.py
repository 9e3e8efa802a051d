"""The audit log of a coordinator or a hospital: what happened, one sealed JSON line after another.

Only appended to, and in a chain of hashes (`hash_chain.py`), so that `verify` finds a byte, a line
or a tail that was changed, taken out or put in. Whoever computes the whole chain anew, or cuts it
and its head alike, is found by who wrote an earlier last hash down. `NAME.head` follows each entry,
so after a crash it may be one behind. What a crash has torn is told by an entry of its own
(`audit_lines.py`).

Damage stops no training: it is logged, and a continuation begins in the same file, which `verify`
reports for good. A full disk is an `AuditError`, and the caller chooses.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from medsa_model.audit_lines import (
    TORN,
    End,
    Entry,
    check_event,
    check_head,
    entry_line,
    head_content,
    header_line,
    parse_entry,
    parse_head,
    parse_header,
    plain,
    torn_facts,
)
from medsa_model.audit_reading import ADVICE, Verified, content_of, read, verify
from medsa_model.errors import AuditError, ConfigError
from medsa_model.hash_chain import Unexpected, alone, head_of, open_lock, real, replace_whole
from medsa_model.logs import logger
from medsa_model.shown import clean

__all__ = ["NAME", "Entry", "Verified", "read", "record", "verify"]

NAME = "audit.jsonl"
CHUNK = 2**16  # bytes that are read at a time, from the end


def record(place: Path, event: str, /, **facts: object) -> str:
    """Append an event and return its hash; it is on the disk when this returns.

    Processes may write at once. `facts` are plain JSON values; their texts become one printable
    line. The folder has to be there. Raises `AuditError` when the event or a fact cannot be
    written, or the disk does not take it; it may then be in the log all the same.
    """
    check_event(event)
    told = {clean(name): plain(value, f"{event}.{clean(name)}") for name, value in facts.items()}
    path = real(place)
    try:
        with alone(open_lock(path)):
            end, torn = _end(path)
            if torn:
                end = _add(path, end, TORN, torn_facts(torn))
            return _add(path, end, event, told).hash
    except (ConfigError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise AuditError(
            f"{path}: the event {event} cannot be recorded: {reason or error}; the folder has to "
            "be there, writable for this account, with room on its disk"
        ) from error


def _end(path: Path) -> tuple[End, bytes]:
    """Where to go on, and the torn bytes after that; for the holder of the lock.

    Begins the log when there is none, and the continuation of a damaged one.
    """
    content = content_of(head_of(path))
    torn = b""
    try:
        head = None if content is None else parse_head(content)
        if not path.exists():
            if head and head.entries:
                raise Unexpected(f"no file beside {head_of(path).name}", "the log")
            return _begin(path, ""), b""
        line, torn = _tail(path)
        end, before = _parse_last(line)
        check_head(end, before, head)
    except Unexpected as error:
        logger.error("%s is damaged (%s), and is continued as such; %s", path, error, ADVICE)
        return _begin(path, str(error)), b""
    if end != head:  # a crash has left it one behind; two would be taken for damage
        replace_whole(head_of(path), head_content(end))
    return end, torn


def _begin(path: Path, after: str) -> End:
    """Write a first line, in an order in which a crash makes no damage look like none."""
    end, line = header_line(after)
    if not after:
        replace_whole(head_of(path), head_content(end))
    if path.exists():
        _append(path, (b"\n" if _tail(path)[1] else b"") + line)
    else:
        replace_whole(path, line)
    if after:
        replace_whole(head_of(path), head_content(end))
    return end


def _add(path: Path, end: End, event: str, facts: Mapping[str, object]) -> End:
    """Append an entry, then let the head follow."""
    after, line = entry_line(end, event, facts)
    _append(path, line)
    replace_whole(head_of(path), head_content(after))
    return after


def _append(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tail(path: Path) -> tuple[bytes, bytes]:
    """The last whole line without its end, and the bytes of an unfinished one after it."""
    found = b""
    with path.open("rb") as file:
        place = file.seek(0, os.SEEK_END)
        while place and found.count(b"\n") < 2:
            size = min(place, CHUNK)
            place -= size
            file.seek(place)
            found = file.read(size) + found
    *lines, torn = found.split(b"\n")
    return lines[-1] if lines else b"", torn


def _parse_last(line: bytes) -> tuple[End, str]:
    """Where a log with this last line ends, and the hash of the line above; `Unexpected`."""
    try:
        return End(0, parse_header(line).hash), ""
    except Unexpected:
        entry = parse_entry(line)
        return End(entry.number, entry.hash), entry.before
