"""Many threads at once, which must come to an end."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Barrier, Thread
from typing import Any

import pytest

TIMEOUT = 120
"""Seconds after which threads that wait for each other are called a deadlock."""


def run_concurrently(work: Callable[[int], Any], threads: int = 8) -> list[Any]:
    """Run *work* in so many threads that begin at the same moment, and return what each returns.

    Args:
        work: Given the number of its thread, from 0 on.
        threads: How many.

    The first error of any is raised after all have ended. When one never ends, the test fails; the thread is left
    behind, for nothing can end it.

    >>> run_concurrently(lambda number: number * 2, 3)
    [0, 2, 4]
    """
    barrier = Barrier(threads)
    ended: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def begin(number: int) -> None:
        try:
            barrier.wait(TIMEOUT)
            ended.put((number, work(number), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            ended.put((number, None, error))

    for number in range(threads):
        # Not a pool: it would wait for its threads, and so would the interpreter, were they no daemons.
        Thread(target=begin, args=(number,), daemon=True).start()
    results, errors = dict[int, Any](), []
    while len(results) < threads:
        try:
            number, results[number], error = ended.get(timeout=TIMEOUT)
        except Empty:
            pytest.fail(f"{threads - len(results)} of {threads} threads wait for ever")
        if error is not None:
            errors.append(error)
    if errors:
        raise errors[0]
    return [results[number] for number in range(threads)]
