"""Files of sealed JSON lines in a chain of hashes, with a head beside them.

Each line is canonical JSON (sorted keys, no spaces, ASCII), `hash` the sha256 of that of all its
other fields, so that no byte can differ unseen; `before` is the hash of the line above. `NAME.head`
says where the chain ends: else lines cut from the end would be missed. `NAME.lock` lets one process
at a time use both. What a line says, and how damage is met, is up to the privacy ledger and the
audit log. Of the project this imports only files.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from medsa_model.private_files import write_new

ID_DIGITS = 32
SHOWN = 60  # bytes of a line that cannot be read


class Unexpected(ValueError):
    """A line is not what it has to be: what was `found`, and what was `expected`."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")
        self.found, self.expected = found, expected


def canonical(content: Mapping[str, object]) -> bytes:
    """The one way to write `content`; raises `ValueError` when it is no JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def sealed(content: Mapping[str, object]) -> dict[str, object]:
    """`content` with its hash."""
    return {**content, "hash": hashlib.sha256(canonical(content)).hexdigest()}


def parse(text: bytes) -> dict[str, object] | None:
    """A JSON object in the one way to write it, else `None`."""
    try:
        found = json.loads(text)
        return found if isinstance(found, dict) and canonical(found) == text else None
    except (ValueError, RecursionError):
        return None


def parse_sealed(text: bytes, names: set[str]) -> dict[str, object]:
    """A line without its end, of fields `names` with the right hash; raises `Unexpected`."""
    found = parse(text)
    if found is None:
        raise Unexpected(repr(text[:SHOWN]), "canonical JSON")
    if found.keys() != names:
        raise Unexpected(f"fields {', '.join(found)}", ", ".join(sorted(names)))
    right = sealed({name: value for name, value in found.items() if name != "hash"})
    if found["hash"] != right["hash"]:
        raise Unexpected(f"content with hash {right['hash']}", str(found["hash"]))
    return found


def is_hash(value: object, digits: int = 64) -> bool:
    """Whether `value` is a sha256, or an id of so many hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None


def is_time(value: object) -> bool:
    """Whether `value` is a time in UTC, as ISO 8601 writes it."""
    try:
        return datetime.fromisoformat(str(value)).utcoffset() == timedelta(0)
    except ValueError:
        return False


def real(path: Path) -> Path:
    """The file itself: its companions lie beside it, and a link would be replaced."""
    return Path(os.path.realpath(path))


def head_of(path: Path) -> Path:
    """The file beside a chain that says where it ends."""
    return path.with_name(f"{path.name}.head")


def lock_of(path: Path) -> Path:
    """The file beside a chain that its lock is on."""
    return path.with_name(f"{path.name}.lock")


def open_lock(path: Path) -> int:
    """A descriptor for `alone`; raises `OSError`."""
    return os.open(lock_of(path), os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def alone(descriptor: int, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """While one process at a time uses the chain; waits for others, and closes `descriptor`."""
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def replace_whole(place: Path, content: bytes) -> None:
    """Write a private file, whole or not at all; it is on the disk when this returns.

    Raises `ConfigError` or `OSError`.
    """
    draft = place.with_name(f".{place.name}.draft")
    draft.unlink(missing_ok=True)
    write_new(draft, content)
    os.replace(draft, place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
