"""Items prepared beside the computation: in order, not too many, and with an end."""

import threading
import time
from collections.abc import Callable

import pytest
import torch

from medsa_model.data.prefetch import AHEAD, Prefetched, threads_for


def alive() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def use(items: Prefetched[int], each: Callable[[int], object]) -> None:
    with items:
        for item in items:
            each(item)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_items_come_in_order_whichever_is_ready_first(threads):
    def make(number: int) -> int:
        time.sleep(0.01 if number % 2 == 0 else 0)  # the second of two is ready first
        return number * number

    with Prefetched(make, 9, threads) as items:
        assert list(items) == [number * number for number in range(9)]
    assert alive() == 0 and items.waited > 0


def test_without_threads_an_item_is_made_when_it_is_asked_for():
    made = []
    with Prefetched(made.append, 5, 0) as items:
        assert made == []
        for number in range(5):
            next(items)
            assert made == [*range(number + 1)]


def test_the_next_items_are_made_ahead_and_no_more():
    made, free = [], threading.Semaphore(0)

    def make(number: int) -> int:
        made.append(number)
        free.release()
        return number

    with Prefetched(make, 20, 8) as items:
        assert next(items) == 0
        for _ in range(1 + AHEAD):  # without being asked for
            assert free.acquire(timeout=30)
        assert sorted(made) == [*range(1 + AHEAD)]
        assert not free.acquire(timeout=0.05)


@pytest.mark.parametrize("threads", [0, 3])
def test_an_error_comes_in_the_place_of_its_item_and_ends_the_threads(threads):
    def make(number: int) -> int:
        if number >= 3:
            raise ValueError(f"item {number}")
        return number

    seen: list[int] = []
    with pytest.raises(ValueError, match="item 3"):
        use(Prefetched(make, 9, threads), seen.append)
    assert seen == [0, 1, 2] and alive() == 0


def test_the_threads_end_when_the_caller_fails():
    calls: list[int] = []

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use(Prefetched(calls.append, 1000, 2), fail)
    assert alive() == 0 and len(calls) <= 1 + AHEAD


def test_a_processor_gets_no_threads_unless_they_are_wished():
    assert threads_for(None, torch.device("cpu")) == 0 < threads_for(None, torch.device("cuda"))
    assert [threads_for(n, torch.device("cuda")) for n in (0, 3)] == [0, 3]
