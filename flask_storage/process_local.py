"""Objects that processes must not share after a fork: clients with their sockets, and thread pools."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ProcessLocal(Generic[T]):
    """An object that is created on first use, once in each process.

    A server that loads the app and then forks gives every worker a copy of the objects of the parent. Two processes
    that use one socket read each other's responses, and threads do not exist after a fork, so each child creates its
    own. The child keeps a reference to the parent's object and never uses it: closing it could end a session of the
    parent.

    Args:
        factory: Creates the object; called by one thread at a time.

    >>> pid = ProcessLocal(os.getpid)
    >>> pid() == os.getpid()
    True
    """

    def __init__(self, factory: Callable[[], T]) -> None:
        self._factory = factory
        self._values: dict[int, T] = {}
        # One lock per process, since a lock that another thread holds during a fork is never released in the child.
        self._locks: dict[int, threading.Lock] = {}

    def __call__(self) -> T:
        """Return the object of this process."""
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            pass
        with self._locks.setdefault(pid, threading.Lock()):
            value = self._values.get(pid)
            if value is None:
                value = self._values[pid] = self._factory()
            return value

    def pop(self) -> T | None:
        """Remove the object of this process and return it, or None. The next call creates a new one."""
        return self._values.pop(os.getpid(), None)


def thread_pool(count: int) -> ProcessLocal[Executor]:
    """Return, per process, an executor of at most *count* threads, which are started on demand."""
    return ProcessLocal(lambda: ThreadPoolExecutor(count, thread_name_prefix="flask-storage"))
