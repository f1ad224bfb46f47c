"""The bodies of HTTP: answers on their way into a buffer, taken up where they break off; requests, sent in pieces."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import HTTPError as Urllib3Error, ReadTimeoutError as Urllib3Timeout

from .errors import IntegrityError, StorageTimeoutError, StorageUnavailableError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SEND_CHUNK_SIZE = 256 * 1024
"""How much goes to a socket at a time, in bytes: its time-out counts for all of that."""
_READ_SIZE = 256 * 1024  # a socket seldom has more, and asking for more takes memory for more
_MIN_PROGRESS = 64 * 1024  # so much must come before an answer breaks off, to count as getting on


def read_into(body: Any, size: int, into: io.BytesIO, timeout: float) -> None:
    """Write the next *size* bytes of an answer into a buffer, or those that come before it breaks off.

    Args:
        body: urllib3's own response: it gives what has arrived, where others wait until all has.
        size: In bytes.
        into: The buffer.
        timeout: In seconds, for the text of the error; the connection has its own time-out.

    Raises:
        StorageTimeoutError: when nothing comes for too long.
    """
    missing = size
    while missing > 0:
        try:
            piece = body.read1(min(_READ_SIZE, missing), decode_content=False)
        except Urllib3Timeout as error:
            raise StorageTimeoutError(f"nothing came within {timeout:g} seconds (read_timeout)") from error
        except (Urllib3Error, OSError):
            break
        if not piece:
            break
        missing -= into.write(piece)
    if missing > 0:
        body.close()  # what is left of a broken answer must not be read as the next one


def download_range(
    get: Callable[[int, int], object],
    start: int,
    stop: int,
    into: io.BytesIO,
    *,
    attempts: int,
    max_request_size: int | None = None,
) -> None:
    """Have a range of bytes written into a buffer; an answer that breaks off is taken up where it ended.

    Args:
        get: Asks for the bytes from a first position up to, not including, a second one, and writes what comes of
            them, which may be fewer, into the buffer.
        start: The first byte.
        stop: The byte behind the last.
        into: The buffer, for counting.
        attempts: How often in a row an answer may break off before much of it has come.
        max_request_size: How much one request may ask for, in bytes.

    Raises:
        StorageUnavailableError: when that does not get on.
    """
    failures = 0
    while start < stop:
        before = into.tell()
        end = stop if max_request_size is None else min(stop, start + max_request_size)
        get(start, end)
        arrived = into.tell() - before
        start += arrived
        # A few bytes at a time would go on for hours.
        failures = 0 if arrived >= _MIN_PROGRESS or start == end else failures + 1
        if failures == attempts:
            raise StorageUnavailableError(f"the connection broke off {failures} times: try again later")


class Pieces(io.RawIOBase):
    """A body that is sent in pieces, since a socket's time-out counts for whatever is sent at once.

    Args:
        data: All of it.
    """

    def __init__(self, data: ReadableBuffer) -> None:
        self._view = memoryview(data)
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int | None = -1, /) -> Any:
        """Return the next piece without copying it; a larger one than the 16 KiB that http.client asks for."""
        size = len(self._view) if size is None or size < 0 else max(size, SEND_CHUNK_SIZE)
        piece = self._view[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move, so that it can be sent again."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


class MD5Check:
    """Compares content, as it is read, with an MD5 that the service has of it.

    Args:
        expected: In hex.
    """

    def __init__(self, expected: str) -> None:
        self._expected = expected
        self._hash = hashlib.md5(usedforsecurity=False)

    def update(self, data: ReadableBuffer, /) -> None:
        """Take the next bytes."""
        self._hash.update(data)

    def verify(self) -> None:
        """Refuse content that is not the right one.

        Raises:
            IntegrityError: when it is not.
        """
        check_digest(self._hash.hexdigest(), self._expected)


def check_digest(found: str, expected: str) -> None:
    """Refuse a checksum that is not the right one.

    Raises:
        IntegrityError: when it is not.
    """
    if found != expected:
        raise IntegrityError("the bytes that arrived are not the ones that were stored: read the file again")
