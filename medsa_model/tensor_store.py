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
        self._kept: dict[str, tuple[str, Tensor]] = {}  # with its content; oldest use first

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str, content: str) -> Tensor | None:
        """The tensor of `key` in memory, if it is there and made of `content`."""
        made_of, tensor = self._kept.get(key, (None, None))
        if tensor is None or made_of != content:
            return None
        self._kept[key] = self._kept.pop(key)
        return tensor

    def find(
        self, key: str, content: Callable[[], str], make: Callable[[], Tensor], pinned: bool = False
    ) -> Tensor:
        """The tensor of `key`: from memory, from the folder, or as `make` gives it, on its device.

        `content` identifies what it is made of: what was made of something else is made anew.
        `pinned`: kept in memory from which copies to a CUDA device need no waiting.
        """
        if not self.most and self.folder is None:
            return make()
        made_of = content()
        tensor = self.get(key, made_of)
        if tensor is not None:
            return tensor
        if self.folder is not None:
            tensor = self.folder.read(key, made_of)
        if tensor is None:
            tensor = make()
            if self.folder is not None:
                self.folder.write(key, made_of, tensor.cpu())
        if tensor.nbytes <= self.most:
            kept = tensor.cpu()
            self._keep(key, made_of, kept.pin_memory() if pinned else kept)
        return tensor

    def _keep(self, key: str, content: str, tensor: Tensor) -> None:
        if key in self._kept:  # of another content
            self._forget(key)
        self.bytes += tensor.nbytes
        self._kept[key] = content, tensor
        while self.bytes > self.most:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: str) -> None:
        self.bytes -= self._kept.pop(key)[1].nbytes
