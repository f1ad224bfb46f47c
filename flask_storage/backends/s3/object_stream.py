"""The content of an object that arrives in one response, as long as one connection is fast enough."""

from __future__ import annotations

import io
import os
import time
from contextlib import ExitStack
from typing import Any

from ...range_download import read_into
from .bounded_client import BoundedClient

_MEASURED = 4 * 1024 * 1024  # bytes after which the rate is judged
_MIN_RATE = 200 * 1024 * 1024  # bytes per second


def waiting_time() -> float:
    """Return a time in seconds that passes only while this thread waits: boto3 loads a lot for its first request."""
    return time.monotonic() - time.thread_time()


class ObjectStream:
    """A response with the first bytes of an object, or all of them; it holds a connection until it is closed.

    While its reader does something else, another caller that needs the connection may close it. The reader then
    requests the rest by ranges.

    Args:
        response: The response to GET, without its body.
        body: The body, of which *position* bytes are read.
        position: The position of the next byte.
        end: The position of the end of the body.
        client: The client to which the connection belongs.
        connection: Closing it closes the body, and releases the connection.
        read_timeout: In seconds, for the error message.
    """

    def __init__(
        self,
        response: Any,
        body: Any,
        *,
        position: int,
        end: int,
        client: BoundedClient,
        connection: ExitStack,
        read_timeout: float,
    ) -> None:
        self.response = response
        self._body = body
        self._position = position
        self._end = end
        self._received = 0
        self._seconds = 0.0
        self._client = client
        self._is_near = not client.is_far
        self._connection = connection
        self._read_timeout = read_timeout
        self._pid = os.getpid()
        self._is_paused = False
        self._is_open = True
        if position >= end:
            self.close()

    def is_fast(self) -> bool:
        """Whether the stream is open, and several connections would hardly be faster."""
        is_slow = self._received >= _MEASURED and self._received < self._seconds * _MIN_RATE
        return self._is_open and self._is_near and not is_slow

    def read(self, start: int, stop: int, into: io.BytesIO) -> None:
        """Write the bytes from *start* to *stop* into a buffer, or fewer if the connection breaks.

        None are written if *start* is not the next byte, or the connection is closed.

        Raises:
            StorageTimeoutError: when nothing is received within the time-out.
        """
        # In a forked child, the connection belongs to the parent.
        if start != self._position or self._pid != os.getpid() or not self._resume():
            return
        self._position = -1
        before, began = into.tell(), time.monotonic()
        try:
            read_into(self._body, stop - start, into, self._read_timeout)
            received = into.tell() - before
            self._received += received
            self._seconds += time.monotonic() - began
            if received == stop - start and stop < self._end and self.is_fast():
                self._position = stop
        finally:
            if self._position < 0:
                self.close()

    def pause(self) -> None:
        """Let another caller that waits for the connection have it."""
        if self._is_open:
            self._is_paused = self._client.pause(self)
            if not self._is_paused:
                self.close()

    def close(self) -> None:
        """Release the connection; the rest of the content is dropped."""
        if self._is_open and self._resume():
            self.end()

    def end(self) -> None:
        """Close a stream that is not paused any more. The client calls this for another caller."""
        # Without the body: a reference cycle in it would keep the socket until the garbage collector runs.
        self._is_open, self._position, self._body = False, -1, None
        self._connection.close()

    def _resume(self) -> bool:
        """Return whether the stream still has its connection, and is not paused any more."""
        was_paused, self._is_paused = self._is_paused, False
        return not was_paused or self._client.resume(self)
