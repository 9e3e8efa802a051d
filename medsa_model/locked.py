"""A folder that one process at a time may use."""

import fcntl
import os
from pathlib import Path

from medsa_model.errors import ConfigError


class Lock:
    """Held from construction to `release` or the end of the process, however it ends."""

    def __init__(self, path: Path, holder: str) -> None:
        """Raises `ConfigError` when another process holds `path`."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise ConfigError(
                f"{path.parent} is in use by another {holder} process; end that one first"
            ) from error

    def release(self) -> None:
        """Let others have it."""
        os.close(self._file)
