"""A privacy ledger as text: what a line says, the chain of hashes, and all that can be wrong.

    {"created": ..., "format": ..., "hash": ..., "ledger": a random id}
    {"before": hash of the line above, ..., "hash": ..., "number": 1, ...}

The chain (`medsa_model/hash_chain.py`) is no signature: who computes it anew is found out by what
others remember of it, see `Receipt`.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from medsa_model.errors import LedgerError
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

__all__ = ["FORMAT", "ID_DIGITS", "Charge", "Entry", "Receipt", "Unit", "damage", "is_hash",
           "next_entry", "parse_head", "parse_ledger"]  # fmt: skip

FORMAT = "fed-medsa privacy ledger 1"
ADVICE = (
    "restore the ledger and its .head from the latest backup; never delete, edit or begin it anew: "
    "what its patients have lost would be forgotten"
)
Unit = Literal["patient", "image", "volume"]


@dataclass(frozen=True)
class Charge:
    """Noisy steps of one round (0 is the first) of a run; raises `ValueError`.

    `sha256` is the run's, `noise_multiplier` in units of `clip_norm`, `sampling_rate` the
    probability of each `unit` to be in a step.
    """

    run: str
    sha256: str
    round: int
    noise_multiplier: float
    sampling_rate: float
    steps: int
    clip_norm: float
    delta: float
    unit: Unit

    def __post_init__(self) -> None:
        for name, (expected, fits) in VALUES.items():
            if not fits(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)!r}, expected {expected}")


@dataclass(frozen=True)
class Entry:
    """A line: `number` counts from 1, `time` is UTC in ISO 8601, `ledger` the id of the whole."""

    number: int
    time: str
    ledger: str
    charge: Charge
    before: str
    hash: str


@dataclass(frozen=True)
class Receipt:
    """What others remember of a ledger: how many entries it had, and the hash of the last one."""

    entries: int
    hash: str
    ledger: str


def is_number(value: object) -> bool:
    """Whether `value` is a finite number as JSON has them."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


VALUES: dict[str, tuple[str, Callable[..., bool]]] = {
    "run": ("a name", lambda v: isinstance(v, str) and v != ""),
    "sha256": ("64 hexadecimal digits", is_hash),
    "round": ("a whole number from 0", lambda v: type(v) is int and v >= 0),
    "noise_multiplier": ("a number from 0", lambda v: is_number(v) and v >= 0),
    "sampling_rate": ("a number above 0, at most 1", lambda v: is_number(v) and 0 < v <= 1),
    "steps": ("a whole number from 1", lambda v: type(v) is int and v >= 1),
    "clip_norm": ("a number above 0", lambda v: is_number(v) and v > 0),
    "delta": ("a number between 0 and 1", lambda v: is_number(v) and 0 < v < 1),
    "unit": ("patient, image or volume", lambda v: v in ("patient", "image", "volume")),
}
HEADER = {"format", "ledger", "created", "hash"}
LINE = {"number", "time", "ledger", "before", "hash", *(field.name for field in fields(Charge))}


def damage(place: Path, line: int, found: str, expected: str) -> LedgerError:
    """What is wrong in a line of a file, counted from 1."""
    return LedgerError(f"{place}, line {line}: found {found}, expected {expected}; {ADVICE}")


def parse_ledger(place: Path, content: bytes) -> list[Entry]:
    """All entries of a ledger's file, at least one; raises `LedgerError`."""
    *lines, rest = content.split(b"\n")
    if rest:
        raise damage(place, len(lines) + 1, "a line without its end", "a newline")
    if len(lines) < 2:
        raise damage(place, len(lines) + 1, "the end of the file", "a first line and an entry")
    header = _parse_line(place, 1, lines[0], HEADER)
    if header["format"] != FORMAT:
        raise damage(place, 1, f"format {header['format']!r}", repr(FORMAT))
    if not is_hash(header["ledger"], ID_DIGITS):
        raise damage(place, 1, f"ledger {header['ledger']!r}", f"{ID_DIGITS} hexadecimal digits")
    entries: list[Entry] = []
    before = str(header["hash"])
    for line, text in enumerate(lines[1:], start=2):
        found = _parse_line(place, line, text, LINE)
        expected = {"number": line - 1, "ledger": header["ledger"], "before": before}
        for name, value in expected.items():
            if type(found[name]) is not type(value) or found[name] != value:
                raise damage(place, line, f"{name} {found[name]!r}", repr(value))
        if not is_time(found["time"]):
            raise damage(place, line, f"time {found['time']!r}", "a time in UTC")
        try:
            charge = Charge(**{field.name: found[field.name] for field in fields(Charge)})  # type: ignore[arg-type]
        except ValueError as error:
            value, _, wanted = str(error).partition(", expected ")
            raise damage(place, line, value, wanted) from error
        before = str(found["hash"])
        entries.append(
            Entry(line - 1, str(found["time"]), str(found["ledger"]), charge, str(found["before"]),
                  before)
        )  # fmt: skip
    return entries


def next_entry(
    number: int, time: str, ledger: str, charge: Charge, before: str
) -> tuple[Entry, bytes]:
    """A new entry with its hash, and its line."""
    place = {"number": number, "time": time, "ledger": ledger, "before": before}
    content = sealed({**place, **asdict(charge)})
    entry = Entry(number, time, ledger, charge, before, str(content["hash"]))
    return entry, canonical(content) + b"\n"


def parse_head(place: Path, content: bytes) -> Receipt:
    """The companion file, one line; raises `LedgerError`."""
    found = parse(content.removesuffix(b"\n")) if content.endswith(b"\n") else None
    if not (
        found is not None
        and found.keys() == {field.name for field in fields(Receipt)}
        and type(found["entries"]) is int
        and found["entries"] >= 1
        and is_hash(found["hash"])
        and is_hash(found["ledger"], ID_DIGITS)
    ):
        raise damage(place, 1, repr(content[:60]), "entries, hash and ledger")
    return Receipt(found["entries"], str(found["hash"]), str(found["ledger"]))


def _parse_line(place: Path, line: int, text: bytes, names: set[str]) -> dict[str, object]:
    try:
        return parse_sealed(text, names)
    except Unexpected as error:
        raise damage(place, line, error.found, error.expected) from error
