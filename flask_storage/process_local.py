"""What a fork must not share: clients with their sockets, and pools of threads, made once in each process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ProcessLocal(Generic[T]):
    """Something that is made when it is first asked for, once in each process.

    A server that loads the app and then forks gives every worker a copy of what the parent made. Two processes that
    talk through one copied socket read each other's answers, and threads are not copied at all, so a child makes its
    own. What the parent made is kept untouched in the child: closing it could say goodbye on the parent's behalf.

    Args:
        factory: Makes the thing; called by one thread at a time.

    >>> pid = ProcessLocal(os.getpid)
    >>> pid() == os.getpid()
    True
    """

    def __init__(self, factory: Callable[[], T]) -> None:
        self._factory = factory
        self._values: dict[int, T] = {}
        # By process, since a lock that another thread held during the fork is never released in the child.
        self._locks: dict[int, threading.Lock] = {}

    def __call__(self) -> T:
        """Return this process's own."""
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            pass
        with self._locks.setdefault(pid, threading.Lock()):
            made = self._values.get(pid)
            if made is None:
                made = self._values[pid] = self._factory()
            return made

    def pop(self) -> T | None:
        """Return this process's own, if it has been made, and forget it: the next one who asks gets a new one."""
        return self._values.pop(os.getpid(), None)


def thread_pool(count: int) -> ProcessLocal[Executor]:
    """Return a pool of at most *count* threads, started as they are needed and idle in between."""
    return ProcessLocal(lambda: ThreadPoolExecutor(count, thread_name_prefix="flask-storage"))
