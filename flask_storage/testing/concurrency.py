"""Runs a function in many threads concurrently, with a time-out."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Barrier, Thread
from typing import Any

import pytest

TIMEOUT = 120
"""In seconds; threads that have not ended by then are reported as a deadlock."""


def run_concurrently(work: Callable[[int], Any], threads: int = 8) -> list[Any]:
    """Run *work* in threads that start at the same time, and return the result of each.

    Args:
        work: Called with the number of the thread, from 0 on.
        threads: The number of threads.

    When all threads have ended, the first error of any of them is raised. If one does not end within the time-out, the
    test fails and the thread keeps running.

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
        # Not a thread pool, which waits for its threads; the interpreter waits for threads that are no daemons.
        Thread(target=begin, args=(number,), daemon=True).start()
    results, errors = dict[int, Any](), []
    while len(results) < threads:
        try:
            number, results[number], error = ended.get(timeout=TIMEOUT)
        except Empty:
            pytest.fail(f"{threads - len(results)} of {threads} threads did not end within {TIMEOUT} seconds")
        if error is not None:
            errors.append(error)
    if errors:
        raise errors[0]
    return [results[number] for number in range(threads)]
