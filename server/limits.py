"""How much the door carries at a time: requests of one site, and bytes of all bodies."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.stamps import Refusal

AT_ONCE = 16
"""Most requests of one site at a time. A SuperNode has three (two threads with objects and the
heartbeat), and three times as many while requests of connections that broke are not over yet."""
BODIES = 2**30  # most bytes of bodies in memory, of all sites together


@dataclass
class Load:
    """What the door carries now."""

    requests: Counter[str] = field(default_factory=Counter)
    """Requests by site."""
    size: int = 0
    """Bytes of bodies."""
    answers: Counter[str] = field(default_factory=Counter)
    """Bytes of the answer that a site has under way."""

    def begin_answer(self, site: str) -> None:
        """A new answer of `site` was announced."""
        self.answers[site] = 0

    def add_part(self, site: str, size: int, most: int) -> None:
        """Count a part of its answer; raises `Refusal` beyond `most` bytes, which fill the disk."""
        if self.answers[site] + size > most:
            raise Refusal(
                413, 9015, f"the answer of {site} is larger than {most} bytes; where updates are "
                "as large as this, the coordinator raises `megabytes` in its federation YAML",
            )  # fmt: skip
        self.answers[site] += size

    @contextmanager
    def request(self, site: str) -> Iterator[Callable[[int], None]]:
        """One request of `site`, to whose bytes of body the given function adds some.

        Both raise `Refusal` when it would be too much. All is released at the end.
        """
        if self.requests[site] >= AT_ONCE:
            raise Refusal(
                503, 9013, f"{site} has {AT_ONCE} requests under way, which is the most at a time; "
                "end other programs that use its key, or try again",
            )  # fmt: skip
        self.requests[site] += 1
        mine = 0

        def add(size: int) -> None:
            nonlocal mine
            if self.size + size > BODIES:
                raise Refusal(503, 9014, "the coordinator has too much to receive; try again")
            mine += size
            self.size += size

        try:
            yield add
        finally:
            self.requests[site] -= 1
            self.size -= mine
