"""Tensors in memory by key, bounded in bytes; what was not used longest goes first."""

from collections.abc import Callable

from torch import Tensor

from medsa_model.tensor_folder import TensorFolder


class TensorStore:
    """At most `most` bytes of tensors in the processor's memory, and a `folder` with more.

    With `most` of 0 and no folder nothing is kept.
    """

    def __init__(self, most: int, folder: TensorFolder | None = None) -> None:
        self.most, self.folder = most, folder
        self.bytes = 0
        self._kept: dict[str, Tensor] = {}  # oldest use first

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Tensor | None:
        """The tensor of `key` in memory, if it is there."""
        tensor = self._kept.pop(key, None)
        if tensor is not None:
            self._kept[key] = tensor
        return tensor

    def find(
        self, key: str, content: Callable[[], str], make: Callable[[], Tensor], pinned: bool = False
    ) -> Tensor:
        """The tensor of `key`: from memory, from the folder, or as `make` gives it.

        `content` identifies what it is made of: a file that was made of something else is made
        anew. `pinned`: kept in memory from which copies to a CUDA device need no waiting.
        """
        tensor = self.get(key)
        if tensor is not None:
            return tensor
        if self.folder is None:
            tensor = make()
        else:
            made_of = content()
            tensor = self.folder.read(key, made_of)
            if tensor is None:
                tensor = make()
                self.folder.write(key, made_of, tensor)
        if pinned:
            tensor = tensor.pin_memory()
        self._keep(key, tensor)
        return tensor

    def _keep(self, key: str, tensor: Tensor) -> None:
        if tensor.nbytes > self.most:
            return
        self.bytes += tensor.nbytes
        self._kept[key] = tensor
        while self.bytes > self.most:
            self.bytes -= self._kept.pop(next(iter(self._kept))).nbytes
