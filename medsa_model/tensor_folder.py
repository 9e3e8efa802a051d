"""Tensors in files of a private folder, bounded in bytes; what was not used longest goes first.

It is a memory of what can be computed again: a file that is missing, damaged or belongs to
something else counts as nothing. A disk that is full, or cannot be written any more, stops nobody.
"""

import os
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medsa_model.errors import ConfigError
from medsa_model.logs import logger
from medsa_model.private_files import PRIVATE, check_private

ENDING, TENSOR, CONTENT = ".safetensors", "tensor", "content"


class TensorFolder:
    """One file for each tensor in `place`, of `most` bytes together.

    Files are readable by their owner alone. Raises `ConfigError` when the folder cannot be made,
    when files of it that are too many cannot be removed, or when it is open to other accounts.
    """

    def __init__(self, place: Path, most: int) -> None:
        self.place, self.most = place, most
        self._told = False
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_private(place)
            for draft in place.glob(f".*{ENDING}.draft"):  # of a process that was ended
                draft.unlink(missing_ok=True)
            found = [(path.stat(), path) for path in place.glob(f"*{ENDING}")]
            found.sort(key=lambda each: each[0].st_mtime_ns)
            self._sizes = {path.name: facts.st_size for facts, path in found}  # oldest use first
            self._bytes = sum(self._sizes.values())
            self._forget(most)
        except OSError as error:
            raise ConfigError(
                f"the cache folder {place} cannot be used: {error.strerror}; choose another one"
            ) from error

    def read(self, name: str, content: str) -> Tensor | None:
        """The tensor `name`, if what was written with it is `content`; else nothing."""
        path = self.place / (name + ENDING)
        if path.name not in self._sizes:
            return None
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get(CONTENT) != content:
                    return None
                tensor: Tensor = file.get_tensor(TENSOR).clone()  # not mapped: the file may go
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        self._sizes[path.name] = self._sizes.pop(path.name)
        return tensor

    def write(self, name: str, content: str, tensor: Tensor) -> None:
        """Keep `tensor`, in place of what has the name; `content` says what it is of."""
        data = save({TENSOR: tensor.contiguous()}, {CONTENT: content})
        if len(data) > self.most:
            return
        path = self.place / (name + ENDING)
        draft = path.with_name(f".{path.name}.draft")
        try:
            self._remove(path.name)
            self._forget(self.most - len(data))
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            draft.replace(path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)  # it would take room that nobody counts
            self._tell(error)
            return
        self._sizes[path.name] = len(data)
        self._bytes += len(data)

    def _forget(self, most: int) -> None:
        """Remove files until `most` bytes are left."""
        while self._bytes > most:
            self._remove(next(iter(self._sizes)))

    def _remove(self, name: str) -> None:
        """Remove a file, which counts until it is gone."""
        (self.place / name).unlink(missing_ok=True)
        self._bytes -= self._sizes.pop(name, 0)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            logger.warning("nothing is kept in the cache folder %s: %s", self.place, error.strerror)
        self._told = True
