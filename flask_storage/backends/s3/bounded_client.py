"""Limits the connections of a boto3 client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakSet

MAX_LATENCY = 0.03
"""The longest time until a response begins, in seconds, with which one connection is about as fast as several."""


class PausedStream(Protocol):
    """A response that holds a connection while its reader does something else."""

    def end(self) -> None:
        """Release the connection."""


class BoundedClient:
    """A boto3 client that never has more concurrent requests than pooled connections; further callers block.

    Without the limit, urllib3 opens and discards a connection for each request beyond the size of the pool.
    """

    def __init__(self, client: Any, max_connections: int) -> None:
        self.client = client
        self.latency = 0.0
        """How long the response to the latest request for content took to begin, in seconds."""
        self._slots = threading.BoundedSemaphore(max_connections)
        self._lock = threading.Lock()
        self._waiting = 0
        # Paused streams, any of which may be closed for a caller that waits. One that is never closed releases its
        # connection when it is garbage collected.
        self._paused: WeakSet[PausedStream] = WeakSet()

    @property
    def is_far(self) -> bool:
        """Whether several connections are faster than one."""
        return self.latency > MAX_LATENCY

    @contextmanager
    def acquire(self) -> Iterator[Any]:
        """Reserve one connection while the block runs; the block reads the response to its end."""
        if not self._slots.acquire(blocking=False):
            self._wait()
        try:
            yield self.client
        finally:
            self._slots.release()

    def pause(self, stream: PausedStream) -> bool:
        """Permit closing a stream while its reader does something else; False if a caller waits for its connection."""
        with self._lock:
            if self._waiting:
                return False
            self._paused.add(stream)
            return True

    def resume(self, stream: PausedStream) -> bool:
        """Forbid closing a stream again; False if it is closed."""
        with self._lock:
            is_open = stream in self._paused
            self._paused.discard(stream)
            return is_open

    def _wait(self) -> None:
        """Wait for a connection; a paused stream gives up its own."""
        with self._lock:
            self._waiting += 1
            stream = self._paused.pop() if self._paused else None
        try:
            if stream is not None:
                stream.end()
            self._slots.acquire()
        finally:
            with self._lock:
                self._waiting -= 1
