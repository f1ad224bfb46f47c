"""Reading a remote file by byte ranges, which are fetched on demand and, for sequential reads, ahead."""

from __future__ import annotations

import io
import operator
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Protocol, TypeAlias
from weakref import WeakSet

from .errors import IntegrityError
from .files import RemoteFile
from .types import FileInfo, FileMode

Fetch: TypeAlias = Callable[[int, int, io.BytesIO], object]
"""Called with start, stop and a buffer: writes exactly the bytes from *start* up to, excluding, *stop*, or raises.

The bytes are those of the version that was opened. The function resumes broken responses, and is called by several
threads. The buffer is allocated by the reading thread: memory allocated by a worker would stay in the malloc arena of
that worker after it is freed, and up to twice as much would be loaded.
"""


_STREAM_FETCH_SIZE = 1024 * 1024


class Stream(Protocol):
    """A response from which the fetch function takes ranges that are requested in order."""

    def is_fast(self) -> bool:
        """Whether the response is open, and fetching ranges in parallel would hardly be faster."""

    def pause(self) -> None:
        """Called at the end of each read: nothing is taken from the response until the next one."""


class ContentCheck(Protocol):
    """Verifies the content of a file at its end, for example by a running checksum."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add the next bytes of the file. No reference to them may be kept after the call."""

    def verify(self) -> None:
        """Verify the whole content. After a failure, every further call must fail too.

        Raises:
            IntegrityError: when the content is not the expected one.
        """


class RangeReader(RemoteFile):
    """A file in a remote storage, open for reading.

    A small read of a large file transfers little: the first fetch after opening or seeking is as long as the read, at
    least 64 KiB. Each further fetch is as long as the sequential reads before it, up to *chunk_size*, so at most twice
    as much is transferred as is read. After a whole chunk of sequential reads, chunks are prefetched: one at first, and
    twice as many, up to *concurrency*, each time the reader has to wait for one. So a low latency needs few threads,
    and a high one uses all. A single large read fetches its chunks in parallel.

    At most ``chunk_size * (concurrency + 1)`` bytes are held beyond what the caller asked for. :meth:`seek` itself
    does nothing; only a read at another position discards prefetched chunks. A read that fails does not move the
    position: it can be retried, and fetches the missing ranges again.

    Args:
        fetch: Fetches a range of the file. The read that needs the range raises its errors.
        info: The attributes of the file; its size is the length.
        head: The first bytes of the file, if opening it has fetched them; at most *chunk_size*.
        chunk_size: The longest range of one fetch, in bytes.
        concurrency: The largest number of concurrent fetches.
        workers: Returns the executor of this process that prefetches. Called only when there is something to prefetch.
            The reading thread itself fetches a range that is needed and that no worker has started.
        check: Gets each byte once, in order, as it is returned. At the end of a complete sequential read, the read that
            would return the last bytes raises what ``verify()`` raises. Seeking back is allowed; a read that skips
            bytes ends the verification, since the content can no longer be verified as a whole.
        eager: Whether the whole file will be read as fast as possible: *concurrency* chunks are prefetched from the
            first read on.
        read_ahead_from: The number of bytes of sequential reads after which ranges are prefetched, for a service that
            is far away; by default *chunk_size*. Until a whole chunk is read, about as much is prefetched as was read.
        stream: As long as it is fast, the reading thread fetches ranges of 1 MiB one after the other, and none is
            prefetched.
    """

    min_fetch_size = 64 * 1024
    """The shortest range of one fetch, in bytes."""

    def __init__(
        self,
        fetch: Fetch,
        info: FileInfo,
        *,
        head: bytes = b"",
        chunk_size: int,
        concurrency: int,
        workers: Callable[[], Executor],
        check: ContentCheck | None = None,
        eager: bool = False,
        read_ahead_from: int | None = None,
        stream: Stream | None = None,
    ) -> None:
        super().__init__(FileMode.read)
        self.info = info
        self._stream = stream if stream is not None and stream.is_fast() else None
        self.iter_chunk_size = chunk_size if self._stream is None else min(_STREAM_FETCH_SIZE, chunk_size)
        self._read_ahead_from = min(read_ahead_from or chunk_size, chunk_size)
        self._fetch = fetch
        self._size = info.size
        self._chunk_size = chunk_size
        self._min_fetch_size = min(self.min_fetch_size, chunk_size)
        self._concurrency = concurrency
        self._workers = workers
        self._content_check = check
        self._expected_end = info.size if eager else 0  # the position up to which everything will be read
        self._position = 0
        self._checked = 0
        # Adjacent ranges, in order. The first contains the position, and only the first can hold its bytes.
        self._ranges: deque[_Range] = deque()
        self._fetch_position = len(head)  # the end of the last range, where the next fetch begins
        self._sequential_start = 0  # where the sequential reads up to the position began
        self._prefetch_count = concurrency if eager else min(1, concurrency)
        # Dropped fetches that still run. Only the executor references them; they count as concurrent until they end.
        self._abandoned: WeakSet[Future[object]] = WeakSet()
        self._futures_pid = os.getpid()
        if head:
            self._ranges.append(_Range(0, len(head), data=head))

    # -- Python's file contract -----------------------------------------------------------------------------------

    def seekable(self) -> bool:
        """Whether :meth:`seek` works: always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in bytes and return it. Nothing is fetched or discarded before the next read.

        Raises:
            ValueError: for a position before the first byte.
        """
        self._check(FileMode.read)
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in bases:
            raise ValueError(f"whence is {whence!r}: use io.SEEK_SET, io.SEEK_CUR or io.SEEK_END")
        position = bases[whence] + operator.index(offset)
        if position < 0:
            raise ValueError(f"the position {position} is negative")
        self._position = position
        return position

    def will_read(self, count: int, /) -> None:
        """Announce that the next *count* bytes will be read: they are prefetched, and nothing beyond them."""
        self._check(FileMode.read)
        self._expected_end = min(self._position + count, self._size)

    def trim(self, count: int, /) -> None:
        """Release what was read ahead beyond the next *count* bytes, and announce only these."""
        self.will_read(count)
        while len(self._ranges) > 1:
            self._drop_range(self._ranges.pop())
        if self._ranges:
            front = self._ranges.pop()
            is_current = front.start <= self._position  # not after seeking back
            data = front.data[self._position - front.start : self._expected_end - front.start] if is_current else b""
            self._drop_range(front)
            if data:
                self._ranges.append(_Range(self._position, self._position + len(data), data=data))
            self._fetch_position = self._position + len(data)

    def tell(self) -> int:
        """Return the position in bytes."""
        self._check(FileMode.read)
        return self._position

    # -- methods that RemoteFile calls ----------------------------------------------------------------------------

    def _read(self, size: int) -> bytes:
        start, end = self._position, self._end(size)
        data = b""
        if start < end:
            loaded = self._range_at(start, end)
            # A slice of a whole bytes object is the same object, so whole chunks are not copied.
            data = (
                loaded.data[start - loaded.start : end - loaded.start] if end <= loaded.stop else self._join(start, end)
            )
        self._advance(data)
        return data

    def _readinto(self, view: memoryview) -> int:
        start, end = self._position, self._end(len(view))
        position = start
        while position < end:
            part = self._part(position, end)
            view[position - start : position - start + len(part)] = part
            position += len(part)
            del part  # releases this range before the next one is fetched
        self._advance(view[: position - start])
        return position - start

    def _readline(self, limit: int) -> bytes:
        start, end = self._position, self._end(limit)
        position, fetch_end, parts = start, start + 1, []
        while position < end:
            loaded = self._range_at(position, fetch_end)
            begin = position - loaded.start
            stop = loaded.data.find(b"\n", begin, end - loaded.start) + 1
            parts.append(loaded.data[begin : stop or end - loaded.start])
            position += len(parts[-1])
            if stop:
                break
            # The end of the line is not known: fetch as many bytes again as the line has so far.
            fetch_end = min(2 * position - start, end)
        line = b"".join(parts)
        self._advance(line)
        return line

    def _release(self) -> None:
        if self._futures_pid == os.getpid():
            for dropped in self._ranges:
                self._drop_range(dropped)
        self._ranges.clear()

    # -- reading from the ranges ----------------------------------------------------------------------------------

    def _end(self, size: int) -> int:
        """Return the position where a read of *size* bytes ends."""
        return self._size if size < 0 else min(self._position + size, self._size)

    def _join(self, position: int, end: int) -> bytes:
        # getvalue() shares the memory of the buffer, so the content is held only once.
        buffer = io.BytesIO()
        while position < end:
            position += buffer.write(self._part(position, end))
        return buffer.getvalue()

    def _part(self, position: int, end: int) -> memoryview:
        """Return the bytes at *position*, up to *end* or the end of their range."""
        loaded = self._range_at(position, end)
        return memoryview(loaded.data)[position - loaded.start : end - loaded.start]

    def _advance(self, data: bytes | memoryview) -> None:
        """Move the position past *data*; called last, so that a failed read does not move it."""
        if self._content_check is not None:
            self._update_check(data, self._content_check)
        self._position += len(data)
        if self._stream is not None:
            self._stream.pause()

    def _update_check(self, data: bytes | memoryview, check: ContentCheck) -> None:
        known = self._checked - self._position
        if known < 0:
            if data:
                self._content_check = None
            return
        fresh = memoryview(data)[known:] if known else data
        if fresh:
            check.update(fresh)
            self._checked += len(fresh)
        if self._position + len(data) == self._size == self._checked:
            check.verify()
            self._content_check = None

    # -- ranges ---------------------------------------------------------------------------------------------------

    def _range_at(self, position: int, end: int) -> _Range:
        """Return the range that contains *position*, with its bytes, for a read up to *end*."""
        if self._ranges:
            front = self._ranges[0]
            if front.start <= position < front.stop and front.data:
                return front
        return self._load_range(position, end)

    def _load_range(self, position: int, end: int) -> _Range:
        """Fetch, or wait for, the range that contains *position*; prefetch the next ones before and after."""
        if self._futures_pid != os.getpid():
            # The parent's threads do not run in a forked child, and even reading its futures may block for ever.
            self._futures_pid = os.getpid()
            self._ranges.clear()
            self._abandoned = WeakSet()
        if self._stream is not None and not self._stream.is_fast():
            self._stream = None
        while self._ranges and not self._ranges[0].start <= position < self._ranges[0].stop:
            self._drop_range(self._ranges.popleft())
        if not self._ranges:
            if position != self._fetch_position:
                self._sequential_start = position
                # Readers of archives read the last bytes first, and then those before them.
                self._fetch_position = max(min(position, self._size - self._min_fetch_size), 0)
            self._ranges.append(self._next_range(end))
        front = self._ranges[0]
        if front.future is not None and not front.future.done():
            self._prefetch_count = min(self._prefetch_count * 2, self._concurrency)
        self._fetch_ahead(end)
        self._store_bytes(front)
        self._fetch_ahead(end)
        return front

    def _fetch_ahead(self, end: int) -> None:
        """Start fetching what a read up to *end* still needs, and what will probably be read next."""
        if self._stream is not None:
            return
        is_announced = self._position < self._expected_end
        run = self._position - self._sequential_start
        is_sequential = is_announced or run >= self._read_ahead_from
        # Until a whole chunk is read, about as much is prefetched as was read.
        last = self._size if run >= self._chunk_size else min(end + max(run, 1), self._size)
        while self._fetch_position < (max(self._expected_end, end) if is_announced else last):
            limit = self._concurrency if self._fetch_position < end else self._prefetch_count if is_sequential else 0
            missing = len(self._ranges) - bool(self._ranges[0].data)
            if missing + len(self._abandoned) >= limit:
                return
            ahead = self._next_range(end)
            self._ranges.append(ahead)
            try:
                ahead.buffer = _allocate_buffer(ahead.stop - ahead.start)
                ahead.future = self._workers().submit(self._fetch, ahead.start, ahead.stop, ahead.buffer)
            except RuntimeError:
                pass  # no thread can be started, as at interpreter shutdown: the reader fetches the range itself

    def _next_range(self, end: int) -> _Range:
        """Return the next range to fetch, and move the fetch position to its end."""
        start, length = self._fetch_position, self._chunk_size
        if self._stream is not None:
            length = min(length, _STREAM_FETCH_SIZE)
        if self._position < self._expected_end:
            length = min(length, max(max(self._expected_end, end) - start, self._min_fetch_size))
            if start < end < start + length <= 2 * end - start:
                length = end - start  # chunks that end where the read ends are returned without a copy
        else:
            run = self._position - self._sequential_start
            if run >= self._read_ahead_from:  # several ranges, so that they are fetched in parallel
                run = max(run // max(self._prefetch_count, 1), self._read_ahead_from)
            length = min(length, max(end - start, run, self._min_fetch_size))
        self._fetch_position = min(start + length, self._size)
        return _Range(start, self._fetch_position)

    def _store_bytes(self, front: _Range) -> None:
        """Store the bytes in the range. When that fails, the next read retries."""
        start, stop = front.start, front.stop
        future, front.future = front.future, None
        buffer, front.buffer = front.buffer or _allocate_buffer(stop - start), None
        try:
            # A fetch that has not started runs here: all workers are busy, or this thread is one and would deadlock.
            if future is None or future.cancel():
                self._fetch(start, stop, buffer)
            else:
                future.result()
        finally:
            del future  # its exception references this frame: avoids a reference cycle
        if buffer.tell() != stop - start:
            raise IntegrityError(
                f"{buffer.tell()} bytes were received where {stop - start} were requested, from byte {start} on"
            )
        front.data = buffer.getvalue()

    def _drop_range(self, dropped: _Range) -> None:
        dropped.data, dropped.buffer = b"", None
        if dropped.future is not None and not dropped.future.cancel():
            self._abandoned.add(dropped.future)


class _Range:
    """A range of the file, never empty: with its bytes once they are fetched, with a future until then."""

    __slots__ = ("buffer", "data", "future", "start", "stop")

    def __init__(self, start: int, stop: int, *, data: bytes = b"") -> None:
        self.start = start
        self.stop = stop
        self.data = data
        self.buffer: io.BytesIO | None = None
        self.future: Future[object] | None = None


def _allocate_buffer(size: int) -> io.BytesIO:
    """Return a buffer that holds *size* bytes without reallocation, and returns them without a copy."""
    buffer = io.BytesIO()
    buffer.seek(size - 1)
    buffer.write(b"\0")
    buffer.seek(0)
    return buffer
