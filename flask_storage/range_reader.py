"""Reading a file that is far away: ranges of bytes, fetched as they are needed and, where it pays, ahead of that."""

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
"""Writes exactly the bytes from a first position up to, not including, a second one into a buffer, or raises.

They belong to the version of the file that was opened. It resumes what breaks off, and several threads may call it. The
buffer has room for them already, taken by the reading thread: memory that each worker took for itself would stay in the
worker's own arena when it is free again, and be held twice over.
"""


class ContentCheck(Protocol):
    """Whatever can say, at the end, whether the bytes were the right ones: a running checksum, for example."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes of the file; they may not be kept beyond the call."""

    def verify(self) -> None:
        """Say whether the whole content was right; once it was not, asking again must say so again.

        Raises:
            IntegrityError: when it was not.
        """


class RangeReader(RemoteFile):
    """A file in a remote storage, open for reading.

    A small read of a large file moves little: the first fetch after opening or seeking is what was asked for, at least
    64 KiB; from there on each is as long as what was read in one go before it, up to *chunk_size*, so no more than
    twice as much is moved as is read. Once a whole chunk has been read in one go, the next are fetched ahead as well:
    one at first, and twice as many, up to *concurrency*, each time the reader has to wait for one. So a near place
    keeps few threads busy and a far one all. One large read fetches its chunks in parallel at once.

    At most ``chunk_size * (concurrency + 1)`` bytes are held beyond what the caller asked for. :meth:`seek` costs
    nothing; only a read at another place gives up what was fetched ahead. A read that fails moves nothing on: the same
    read may be tried again, and fetches anew what could not be fetched.

    Args:
        fetch: Brings a range of the file. Its errors come out of the read that needs the range.
        info: What is known of the file; its size is the length.
        head: The first bytes of the file, as far as opening it has already brought them; at most *chunk_size*.
        chunk_size: The longest range that is fetched at a time, in bytes.
        concurrency: How many ranges are fetched at the same time, at most.
        workers: Returns the threads of this process that fetch ahead. It is asked only when there is something for
            them. What they have not begun when it is needed, the reading thread fetches itself.
        check: Told every byte once, in order, as it is delivered. When reading from the start has come to the end, the
            read that would deliver the last bytes raises what ``verify()`` raises. Going back is fine; a read that
            leaves out bytes ends the checking, for nothing can be said of the whole any more.
        eager: Whether the whole file is going to be read as fast as can be: *concurrency* chunks are fetched ahead from
            the first read.
    """

    min_fetch_size = 64 * 1024
    """How much a fetch brings at least, in bytes."""

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
    ) -> None:
        super().__init__(FileMode.read)
        self.info = info
        self.iter_chunk_size = chunk_size
        self._fetch = fetch
        self._size = info.size
        self._chunk_size = chunk_size
        self._min_fetch_size = min(self.min_fetch_size, chunk_size)
        self._concurrency = concurrency
        self._workers = workers
        self._content_check = check
        self._expected_end = info.size if eager else 0  # up to where all is going to be read
        self._position = 0
        self._checked = 0
        # Adjoining ranges, in order, the first with the bytes around the position. Only the first has its bytes.
        self._ranges: deque[_Range] = deque()
        self._fetch_position = len(head)  # where they end, and the next fetch begins
        self._sequential_start = 0  # since where, up to the position, all has been read in one go
        self._prefetch_count = concurrency if eager else min(1, concurrency)
        # What was given up and still runs: the pool alone keeps it alive, and it counts until it ends.
        self._abandoned: WeakSet[Future[object]] = WeakSet()
        self._futures_pid = os.getpid()
        if head:
            self._ranges.append(_Range(0, len(head), data=head))

    # -- Python's file contract -----------------------------------------------------------------------------------

    def seekable(self) -> bool:
        """Whether :meth:`seek` works: it does."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in bytes and return it. Nothing is fetched, and nothing given up, before the next read.

        Raises:
            ValueError: for a position before the first byte.
        """
        self._check(FileMode.read)
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in bases:
            raise ValueError(f"whence is {whence!r}: use io.SEEK_SET, io.SEEK_CUR or io.SEEK_END")
        position = bases[whence] + operator.index(offset)
        if position < 0:
            raise ValueError(f"there is no byte at position {position}")
        self._position = position
        return position

    def will_read(self, count: int, /) -> None:
        """Say that the next *count* bytes are going to be read: they are fetched ahead, and nothing beyond them is."""
        self._check(FileMode.read)
        self._expected_end = min(self._position + count, self._size)

    def tell(self) -> int:
        """Return the position in bytes."""
        self._check(FileMode.read)
        return self._position

    # -- hooks of the file ----------------------------------------------------------------------------------------

    def _read(self, size: int) -> bytes:
        start, end = self._position, self._end(size)
        data = b""
        if start < end:
            held = self._range_at(start, end)
            # All of a bytes object, cut out of it, is that very object: whole chunks are never copied.
            data = held.data[start - held.start : end - held.start] if end <= held.stop else self._join(start, end)
        self._advance(data)
        return data

    def _readinto(self, view: memoryview) -> int:
        start, end = self._position, self._end(len(view))
        place = start
        while place < end:
            part = self._part(place, end)
            view[place - start : place - start + len(part)] = part
            place += len(part)
            del part  # or this range would be held while the next one comes
        self._advance(view[: place - start])
        return place - start

    def _readline(self, limit: int) -> bytes:
        start, end = self._position, self._end(limit)
        place, asked, parts = start, start + 1, []
        while place < end:
            held = self._range_at(place, asked)
            begin = place - held.start
            stop = held.data.find(b"\n", begin, end - held.start) + 1
            parts.append(held.data[begin : stop or end - held.start])
            place += len(parts[-1])
            if stop:
                break
            asked = min(2 * place - start, end)  # where it ends is not known: as much again as there is of it
        line = b"".join(parts)
        self._advance(line)
        return line

    def _release(self) -> None:
        if self._futures_pid == os.getpid():
            for dropped in self._ranges:
                self._drop_range(dropped)
        self._ranges.clear()

    # -- what a read is made of -----------------------------------------------------------------------------------

    def _end(self, size: int) -> int:
        """Return the position where a read of *size* bytes ends."""
        return self._size if size < 0 else min(self._position + size, self._size)

    def _join(self, place: int, end: int) -> bytes:
        # This buffer gives its memory away as bytes, uncopied: the content is held once, also when it is large.
        buffer = io.BytesIO()
        while place < end:
            place += buffer.write(self._part(place, end))
        return buffer.getvalue()

    def _part(self, place: int, end: int) -> memoryview:
        """Return what lies at *place*, up to *end* or the end of its range."""
        held = self._range_at(place, end)
        return memoryview(held.data)[place - held.start : end - held.start]

    def _advance(self, data: bytes | memoryview) -> None:
        """Move the position past *data*; only here, so that a read that fails moves nothing."""
        if self._content_check is not None:
            self._update_check(data, self._content_check)
        self._position += len(data)

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

    def _range_at(self, place: int, end: int) -> _Range:
        """Return the range around *place*, with its bytes, for a read that goes on up to *end*."""
        if self._ranges:
            front = self._ranges[0]
            if front.start <= place < front.stop and front.data:
                return front
        return self._load_range(place, end)

    def _load_range(self, place: int, end: int) -> _Range:
        """Fetch, or wait for, the range around *place*; those behind it are sent for before and after."""
        if self._futures_pid != os.getpid():
            # Of the parent's threads nothing ever comes here; even asking its futures may wait for ever.
            self._futures_pid = os.getpid()
            self._ranges.clear()
            self._abandoned = WeakSet()
        while self._ranges and not self._ranges[0].start <= place < self._ranges[0].stop:
            self._drop_range(self._ranges.popleft())
        if not self._ranges:
            if place != self._fetch_position:
                self._sequential_start = place
                # Who reads the last bytes of an archive goes on with those before them.
                self._fetch_position = max(min(place, self._size - self._min_fetch_size), 0)
            self._ranges.append(self._next_range(end))
        front = self._ranges[0]
        if front.future is not None and not front.future.done():
            self._prefetch_count = min(self._prefetch_count * 2, self._concurrency)
        self._fetch_ahead(end)
        self._store_bytes(front)
        self._fetch_ahead(end)
        return front

    def _fetch_ahead(self, end: int) -> None:
        """Send for what a read up to *end* still needs, and for what will probably be read after it."""
        has_goal = self._position < self._expected_end
        goes_on = has_goal or self._position - self._sequential_start >= self._chunk_size
        while self._fetch_position < (max(self._expected_end, end) if has_goal else self._size):
            room = self._concurrency if self._fetch_position < end else self._prefetch_count if goes_on else 0
            missing = len(self._ranges) - bool(self._ranges[0].data)
            if missing + len(self._abandoned) >= room:
                return
            ahead = self._next_range(end)
            self._ranges.append(ahead)
            try:
                ahead.buffer = _allocate_buffer(ahead.stop - ahead.start)
                ahead.future = self._workers().submit(self._fetch, ahead.start, ahead.stop, ahead.buffer)
            except RuntimeError:
                pass  # no thread is to be had, as when the interpreter ends: it is fetched when the reader is there

    def _next_range(self, end: int) -> _Range:
        """Return the next range to fetch and move the frontier behind it."""
        start, length = self._fetch_position, self._chunk_size
        if self._position < self._expected_end:
            length = min(length, max(max(self._expected_end, end) - start, self._min_fetch_size))
            if start < end < start + length <= 2 * end - start:
                length = end - start  # chunks that end where reads end are handed out without a copy
        elif start < end:
            length = min(length, max(end - start, self._position - self._sequential_start, self._min_fetch_size))
        self._fetch_position = min(start + length, self._size)
        return _Range(start, self._fetch_position)

    def _store_bytes(self, front: _Range) -> None:
        """Put the bytes into the range. When that fails, the next read tries anew."""
        start, stop = front.start, front.stop
        future, front.future = front.future, None
        buffer, front.buffer = front.buffer or _allocate_buffer(stop - start), None
        try:
            # What is not begun is fetched here: all threads are busy, or this is one and would wait for itself.
            if future is None or future.cancel():
                self._fetch(start, stop, buffer)
            else:
                future.result()
        finally:
            del future  # its error knows this frame: they would keep each other alive
        if buffer.tell() != stop - start:
            raise IntegrityError(
                f"{buffer.tell()} bytes came where {stop - start} were asked for, from byte {start} on"
            )
        front.data = buffer.getvalue()

    def _drop_range(self, dropped: _Range) -> None:
        dropped.data, dropped.buffer = b"", None
        if dropped.future is not None and not dropped.future.cancel():
            self._abandoned.add(dropped.future)


class _Range:
    """A range of the file: its bytes when they are here (it is never empty), a future while they are on their way."""

    __slots__ = ("buffer", "data", "future", "start", "stop")

    def __init__(self, start: int, stop: int, *, data: bytes = b"") -> None:
        self.start = start
        self.stop = stop
        self.data = data
        self.buffer: io.BytesIO | None = None
        self.future: Future[object] | None = None


def _allocate_buffer(size: int) -> io.BytesIO:
    """Return a buffer that takes *size* bytes without growing, and gives them away uncopied."""
    buffer = io.BytesIO()
    buffer.seek(size - 1)
    buffer.write(b"\0")
    buffer.seek(0)
    return buffer
