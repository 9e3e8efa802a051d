"""Files that are written once: never over another one, and private from their first moment.

A private key that is written first and closed afterwards can be read in between, so the mode is
given when the file is created.
"""

import os
from pathlib import Path

from medsa_model.errors import ConfigError

PRIVATE, PUBLIC = 0o600, 0o644


def write_new(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a file that must not be there yet; it is on disk when this returns.

    Raises `ConfigError` when `path` is there already, also as a link, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already and is never overwritten: use it, or move it away"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:  # also Ctrl-C: half a key would be taken for a key later
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        raise


def read_file(path: Path) -> bytes:
    """The content of a file; raises `ConfigError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def check_private(path: Path) -> None:
    """Raise `ConfigError` when others than the owner can read or use `path`, file or folder."""
    mode = path.stat().st_mode & 0o777
    expected = 0o700 if path.is_dir() else PRIVATE
    if mode & 0o077:
        raise ConfigError(
            f"{path} is open to other accounts (mode {mode:o}), expected {expected:o}: "
            f"chmod {expected:o} {path}"
        )
