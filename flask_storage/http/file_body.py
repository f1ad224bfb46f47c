"""The body of a response that sends a file, in chunks. Readers of remote storages read ahead for fast clients only."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from ..errors import IntegrityError
from ..files import RemoteFile
from ..range_reader import RangeReader

CHUNK_BYTES = 256 * 1024
"""The size of the chunks of a body, in bytes."""

_READ_AHEAD = 2 * 1024 * 1024  # bytes
_TRIAL_BYTES = 6 * 1024 * 1024  # more than the sockets take at once, also if the client reads nothing
_TRIAL_SECONDS = 0.75  # the server has sent them: 8 MiB/s
_SLOW_CHUNK = 0.25  # seconds


def file_body(reader: RemoteFile, count: int) -> FileBody:
    """Return an iterator over the next *count* bytes of a reader. The WSGI server closes it, and so the reader."""
    return RemoteFileBody(reader, count) if isinstance(reader, RangeReader) else FileBody(reader, count)


class FileBody(Iterator[bytes]):
    """Iterates over the next *count* bytes of a reader, in chunks.

    The WSGI server closes it, also when the client disconnects.
    """

    def __init__(self, reader: RemoteFile, count: int) -> None:
        self._reader = reader
        self._remaining = count

    def __next__(self) -> bytes:
        if not self._remaining:
            self.close()  # not every test client calls close()
            raise StopIteration
        chunk = self._reader.read(min(CHUNK_BYTES, self._remaining))
        if not chunk:
            # Without an error, a client that does not compare lengths would treat this as the whole file.
            raise IntegrityError(f"the file ended {self._remaining} bytes early: it was truncated while it was sent")
        self._remaining -= len(chunk)
        return chunk

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


class RemoteFileBody(FileBody):
    """The body for a reader of a remote storage.

    At most 2 MiB are read ahead, so that a slow client costs little memory. Once a client has taken 6 MiB at 8 MiB/s or
    more, the reader reads ahead as much as it can, until the server needs more than 0.25 s to send a chunk.
    """

    def __init__(self, reader: RangeReader, count: int) -> None:
        super().__init__(reader, count)
        self._range_reader = reader
        self._is_fast = False
        self._announced = 0
        self._returned_at: float | None = None  # when the server got the last chunk
        self._trial_bytes = 0
        self._trial_seconds = 0.0

    def __next__(self) -> bytes:
        if self._returned_at is not None:
            self._classify(monotonic() - self._returned_at)
        if self._announced <= 0:
            self._announced = self._remaining if self._is_fast else min(_READ_AHEAD, self._remaining)
            self._range_reader.will_read(self._announced)
        chunk = super().__next__()
        self._announced -= len(chunk)
        self._trial_bytes += len(chunk)
        self._returned_at = monotonic()
        return chunk

    def _classify(self, seconds: float) -> None:
        """Decide whether the client is fast, after the server needed so many seconds to send a chunk."""
        self._trial_seconds += seconds
        if seconds > _SLOW_CHUNK:
            if self._is_fast:
                self._announced = min(_READ_AHEAD, self._remaining)
                self._range_reader.trim(self._announced)
            self._is_fast = False
        elif self._is_fast or self._trial_bytes < _TRIAL_BYTES:
            return
        elif self._trial_seconds < _TRIAL_SECONDS:
            self._is_fast = True
            self._announced = 0
        self._trial_bytes, self._trial_seconds = 0, 0.0
