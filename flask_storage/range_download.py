"""HTTP bodies: reading responses into a buffer, resuming broken ones, and sending request bodies in pieces."""

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
"""How much is sent to a socket at a time, in bytes. The socket's time-out applies to each such piece."""
_READ_SIZE = 256 * 1024  # a socket seldom has more, and a larger read allocates more memory
_MIN_PROGRESS = 64 * 1024  # a broken response of at least this size resets the count of failures


def read_into(body: Any, size: int, into: io.BytesIO, timeout: float) -> None:
    """Write the next *size* bytes of a response into a buffer, or fewer if the connection breaks.

    Args:
        body: A response of urllib3, whose ``read1`` returns what has arrived instead of waiting for all bytes.
        size: In bytes.
        into: The buffer.
        timeout: In seconds, for the error message; the connection enforces it.

    Raises:
        StorageTimeoutError: when nothing is received within the time-out.
    """
    missing = size
    while missing > 0:
        piece = read_available(body, missing, timeout)
        if not piece:
            break
        missing -= into.write(piece)
    if missing > 0:
        body.close()  # the rest of a broken response must not be read as the next one


def read_available(body: Any, max_size: int, timeout: float) -> bytes:
    """Return the next bytes of a response that have arrived, at most *max_size*; none if the connection broke.

    Waits for the first byte. Arguments and errors are those of :func:`read_into`.
    """
    try:
        piece: bytes = body.read1(min(_READ_SIZE, max_size), decode_content=False)
    except Urllib3Timeout as error:
        raise StorageTimeoutError(f"nothing was received within {timeout:g} seconds (read_timeout)") from error
    except (Urllib3Error, OSError):
        return b""
    return piece


def download_range(
    get: Callable[[int, int], object],
    start: int,
    stop: int,
    into: io.BytesIO,
    *,
    attempts: int,
    max_request_size: int | None = None,
) -> None:
    """Download a range of bytes into a buffer; a broken response is resumed where it ended.

    Args:
        get: Called with start and stop: requests the bytes from *start* up to, excluding, *stop*, and writes what is
            received, possibly less, into the buffer.
        start: The position of the first byte.
        stop: The position after the last byte.
        into: The buffer; the change of its position is the number of bytes received.
        attempts: After so many broken responses in a row, each shorter than 64 KiB, the download fails.
        max_request_size: The largest range of one request, in bytes.

    Raises:
        StorageUnavailableError: when *attempts* responses in a row broke.
    """
    failures = 0
    while start < stop:
        before = into.tell()
        end = stop if max_request_size is None else min(stop, start + max_request_size)
        get(start, end)
        received = into.tell() - before
        start += received
        # Short responses count as failures: resuming after every few bytes could take hours.
        failures = 0 if received >= _MIN_PROGRESS or start == end else failures + 1
        if failures == attempts:
            raise StorageUnavailableError(f"the connection broke off {failures} times: try again later")


class Pieces(io.RawIOBase):
    """A request body that is sent in pieces, since a socket's time-out applies to each ``send``.

    Args:
        data: The body.
    """

    def __init__(self, data: ReadableBuffer) -> None:
        self._view = memoryview(data)
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int | None = -1, /) -> Any:
        """Return the next piece, without a copy, of at least :data:`SEND_CHUNK_SIZE`; http.client reads 16 KiB."""
        size = len(self._view) if size is None or size < 0 else max(size, SEND_CHUNK_SIZE)
        piece = self._view[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Set the position, so that the body can be sent again."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


class MD5Check:
    """Verifies content, as it is read, against the MD5 that the service stores.

    Args:
        expected: The digest in hexadecimal.
    """

    def __init__(self, expected: str) -> None:
        self._expected = expected
        self._hash = hashlib.md5(usedforsecurity=False)

    def update(self, data: ReadableBuffer, /) -> None:
        """Add the next bytes."""
        self._hash.update(data)

    def verify(self) -> None:
        """Compare the digest.

        Raises:
            IntegrityError: when it is not the expected one.
        """
        check_digest(self._hash.hexdigest(), self._expected)


def check_digest(found: str, expected: str) -> None:
    """Compare two digests.

    Raises:
        IntegrityError: when they differ.
    """
    if found != expected:
        raise IntegrityError("the downloaded content does not match the stored checksum: read the file again")
