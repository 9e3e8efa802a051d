"""An audit log as text: what a line says, what an event may tell, and what a torn line is.

    {"after": "", "created": ..., "format": ..., "hash": ..., "log": a random id}
    {"before": hash of the line above, "event": ..., "facts": {...}, "hash": ..., "number": 1, ...}

A crash may tear the last line. The entry `torn` is then written right behind the torn bytes, on
their line, and tells their number and sha256; however often that is torn too, what is unfinished
stays one line. A first line with a text in `after` continues a log that was damaged: there is
never a right one.
"""

import hashlib
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime

from medsa_model.errors import AuditError
from medsa_model.hash_chain import (
    ID_DIGITS,
    Unexpected,
    canonical,
    is_hash,
    is_time,
    parse,
    parse_sealed,
    sealed,
)
from medsa_model.shown import clean

FORMAT = "fed-medsa audit log 1"
TORN = "torn"
START = b'{"before":"'  # of an entry; a quote inside of a text would follow a backslash


@dataclass(frozen=True)
class Header:
    """The first line; `after` tells the damage that it continues, empty when there was none."""

    format: str
    log: str
    created: str
    after: str
    hash: str


@dataclass(frozen=True)
class Entry:
    """A line: `number` counts from 1, `time` is UTC in ISO 8601, `facts` are plain JSON values."""

    number: int
    time: str
    event: str
    facts: dict[str, object]
    before: str
    hash: str


@dataclass(frozen=True)
class End:
    """Where a log ends: how many entries it has, and the hash of the last line."""

    entries: int
    hash: str


HEADER, LINE, HEAD = ({field.name for field in fields(kind)} for kind in (Header, Entry, End))


def header_line(after: str) -> tuple[End, bytes]:
    """The first line of a new log, or of the continuation of a damaged one."""
    content = sealed(
        {"format": FORMAT, "log": secrets.token_hex(ID_DIGITS // 2), "created": _now(),
         "after": clean(after)}
    )  # fmt: skip
    return End(0, str(content["hash"])), canonical(content) + b"\n"


def entry_line(end: End, event: str, facts: Mapping[str, object]) -> tuple[End, bytes]:
    """The line that follows `end`, and where the log ends with it."""
    number = end.entries + 1
    content = sealed(
        {"number": number, "time": _now(), "event": event, "facts": facts, "before": end.hash}
    )
    return End(number, str(content["hash"])), canonical(content) + b"\n"


def parse_header(text: bytes) -> Header:
    """A first line without its end; raises `Unexpected`."""
    found = parse_sealed(text, HEADER)
    if found["format"] != FORMAT:
        raise Unexpected(f"format {found['format']!r}", repr(FORMAT))
    if not is_hash(found["log"], ID_DIGITS):
        raise Unexpected(f"log {found['log']!r}", f"{ID_DIGITS} hexadecimal digits")
    return Header(**{name: str(found[name]) for name in HEADER})


def parse_entry(text: bytes) -> Entry:
    """A line without its end, torn bytes before `torn` included; raises `Unexpected`."""
    start = text.rfind(START) if parse(text) is None else 0
    found = parse_sealed(text[max(start, 0) :], LINE)
    number, event, facts = found["number"], found["event"], found["facts"]
    if type(number) is not int or number < 1:
        raise Unexpected(f"number {number!r}", "a whole number from 1")
    if not is_time(found["time"]):
        raise Unexpected(f"time {found['time']!r}", "a time in UTC")
    if not isinstance(event, str) or not isinstance(facts, dict):
        raise Unexpected(f"event {event!r} with facts {facts!r}", "a name with an object")
    torn = text[: max(start, 0)]
    if event == TORN and canonical(facts) != canonical(torn_facts(torn)):
        raise Unexpected(f"torn bytes {torn_facts(torn)}", str(facts))
    if torn and event != TORN:
        raise Unexpected(f"{len(torn)} bytes before the entry", "none")
    return Entry(number, str(found["time"]), event, facts, str(found["before"]), str(found["hash"]))


def torn_facts(torn: bytes) -> dict[str, object]:
    """What the entry `torn` tells of the bytes before it."""
    return {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}


def head_content(end: End) -> bytes:
    """The companion file."""
    return canonical(asdict(end)) + b"\n"


def parse_head(content: bytes) -> End:
    """The companion file, one line; raises `Unexpected`."""
    found = parse(content.removesuffix(b"\n")) if content.endswith(b"\n") else None
    if (
        found is None
        or found.keys() != HEAD
        or type(found["entries"]) is not int
        or found["entries"] < 0
        or not is_hash(found["hash"])
    ):
        raise Unexpected(f"{content[:60]!r} in its head", "entries and hash")
    return End(found["entries"], str(found["hash"]))


def next_of(end: End, text: bytes) -> Entry:
    """The entry that follows `end`, from its line; raises `Unexpected`."""
    entry = parse_entry(text)
    if entry.number != end.entries + 1:
        raise Unexpected(f"number {entry.number}", str(end.entries + 1))
    if entry.before != end.hash:
        raise Unexpected(f"before {entry.before}", end.hash)
    return entry


def check_head(end: End, before: str, head: End | None) -> None:
    """Raise `Unexpected` unless the head is of the last line, or of that before it (`before`)."""
    if head is None or head not in (end, End(end.entries - 1, before)):
        told = f"{head.entries} by its head, the last with {head.hash}" if head else "a head"
        raise Unexpected(f"{end.entries} entries, the last with {end.hash}", told)


def check_event(event: str) -> None:
    """Raise `AuditError` for a name that no event can have."""
    if event == TORN or not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", event):
        raise AuditError(
            f"the event is {clean(event)!r}, expected lower-case letters, digits, - and _, and not "
            f"{TORN!r}, which the log itself records"
        )


def plain(value: object, where: str) -> object:
    """A fact as JSON has it, texts as one printable line; raises `AuditError` with its key."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(each, f"{where}[{place}]") for place, each in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        facts = {clean(key): plain(each, f"{where}.{clean(key)}") for key, each in value.items()}
        if len(facts) < len(value):
            raise AuditError(f"{where} has keys that differ in unprintable characters alone")
        return facts
    found = value if isinstance(value, float) else f"of type {type(value).__name__}"
    raise AuditError(
        f"{where} is {found}, expected a plain JSON value: text, truth, null, a finite number, a "
        "whole one of 64 bits, a list or an object of these"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
