"""The next items are prepared by threads while the device computes.

Decoding, resizing and array operations let go of Python's lock, so threads are enough: processes
would each hold a copy of the frames and decode them anew.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
AHEAD = 2  # items that may wait to be used: batches of large frames fill memory
THREADS = 4  # beside a GPU


class Prefetched(AbstractContextManager["Prefetched[T]"], Iterator[T], Generic[T]):
    """The items `make(0)` to `make(count - 1)`, in this order.

    The next `AHEAD` are made by `threads` before they are asked for, or one when there is a single
    thread; with 0 threads each is made when it is asked for. So the items must not depend on each
    other. The error of an item is raised where the item would be. When the `with` is left, the
    threads have ended. `waited` is the time in seconds that asking has taken so far.
    """

    def __init__(self, make: Callable[[int], T], count: int, threads: int) -> None:
        self.waited = 0.0
        self._make, self._count, self._given = make, count, 0
        self._ahead: deque[Future[T]] = deque()
        self._most = min(threads, AHEAD)
        self._pool = ThreadPoolExecutor(self._most, "prefetch") if threads else None

    def __next__(self) -> T:
        if self._given == self._count:
            raise StopIteration
        started = time.monotonic()
        try:
            return self._take(self._given)
        finally:
            self._given += 1
            self.waited += time.monotonic() - started

    def _take(self, number: int) -> T:
        if self._pool is None:
            return self._make(number)
        last = min(self._count, number + 1 + self._most)
        for following in range(number + len(self._ahead), last):
            self._ahead.append(self._pool.submit(self._make, following))
        return self._ahead.popleft().result()

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def threads_for(workers: int | None, device: torch.device) -> int:
    """How many threads prepare batches for `device`; `workers` is the wish for them.

    Without a wish a processor that computes itself gets none: it has no time to spare.
    """
    if workers is not None:
        return workers
    return THREADS if device.type == "cuda" else 0
