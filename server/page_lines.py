"""A file of lines that grows while others read it: nobody reads a line twice."""

import os
from pathlib import Path


class GrowingLines:
    """The lines of `path` that were not given before; the file may not be there yet.

    With `last` the reading begins at most so many bytes before the end of the file.
    """

    def __init__(self, path: Path, last: int | None = None) -> None:
        self.path, self.last = path, last
        self.place: int | None = None

    def read(self) -> list[bytes]:
        """Whole new lines without their ends; one that is still being written comes later."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if self.place is None:
                    self.place = max(0, size - self.last) if self.last else 0
                    file.seek(self.place)
                    if self.place:  # the middle of a line
                        self.place += len(file.readline())
                if size <= self.place:
                    return []
                file.seek(self.place)
                content = file.read(size - self.place)
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self.place += len(whole)
        return whole.splitlines()
