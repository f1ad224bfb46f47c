"""Threads that carry out the calls of coroutines: one pool for each storage, and files that are used in it."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from types import TracebackType
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar

from ..backends.base import StorageBackend
from ..process_local import ProcessLocal, thread_pool

P = ParamSpec("P")
T = TypeVar("T")

_pools: weakref.WeakKeyDictionary[StorageBackend, ProcessLocal[Executor]] = weakref.WeakKeyDictionary()


class SupportsClose(Protocol):
    """An object with ``close()``."""

    def close(self) -> object:
        """Release what the object holds."""


ClosableT = TypeVar("ClosableT", bound=SupportsClose)


class StorageThreads:
    """The threads of one storage, shared by all objects that are made for it: a view may make one for each request.

    No other storage uses them, nor the resolver of host names, which asyncio runs in a pool of a few threads. So a
    service that does not respond blocks no other calls.

    Args:
        storage: The storage. The threads end when it is garbage-collected.
        count: The greatest number of threads; that of the first object counts.
    """

    def __init__(self, storage: StorageBackend, count: int) -> None:
        self._pool = _pools.get(storage) or _pools.setdefault(storage, thread_pool(count))

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call *function* in a thread, with the context variables of the caller."""
        return self._pool().submit(contextvars.copy_context().run, partial(function, *args, **kwargs))

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function* in a thread and return its result.

        A cancelled caller does not wait: a call that has begun goes on in its thread, one that has not is dropped.
        """
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))


class ThreadedFile(Generic[ClosableT]):
    """A file that is opened, used and closed in threads, by one call at a time; use it in ``async with``.

    After a cancellation a call may still run. The file is closed when that call has ended, and the caller does not
    wait for it.

    Args:
        threads: The threads.
        open_file: Opens the file; called in a thread.
    """

    file: ClosableT

    def __init__(self, threads: StorageThreads, open_file: Callable[[], ClosableT]) -> None:
        self._threads = threads
        self._open_file = open_file
        self._last_call: Future[Any]

    async def __aenter__(self) -> Self:
        try:
            await self.run(self._open)
        except BaseException:
            self._close_after_last_call()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_after_last_call()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function*, which uses the file, in a thread and return its result."""
        call = self._last_call = self._threads.submit(function, *args, **kwargs)
        return await asyncio.wrap_future(call)

    def _open(self) -> None:
        self.file = self._open_file()

    def _close_after_last_call(self) -> None:
        if self._last_call.done():  # this is the thread of the event loop, which closing could block
            self._threads.submit(self._close)
        else:
            self._last_call.add_done_callback(lambda _: self._close())

    def _close(self) -> None:
        if hasattr(self, "file"):
            self.file.close()
