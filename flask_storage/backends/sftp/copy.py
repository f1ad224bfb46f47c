"""Copying between two open files: on the server if it supports ``copy-data``, through this process if not."""

from __future__ import annotations

import struct
from collections import deque

from ...errors import IntegrityError
from .codec import pack_string
from .errors import write_error
from .protocol import PendingReply, Session, StatusError
from .upload import write

COPY_DATA = b"copy-data"
_COPY_DATA_SIZE = 64 * 1024 * 1024
"""How much one request copies, in bytes: the server responds when all is copied, which must be within the time-out."""
_BUFFER_SIZE = 4 * 1024 * 1024


def copy_bytes(session: Session, source: bytes, target: bytes, size: int, *, at: int = 0) -> None:
    """Copy the first *size* bytes of one open file to position *at* of another.

    Raises:
        IntegrityError: when the source is shorter.
        StorageError: when the server reports an error.
    """
    if not size:
        return  # for copy-data, a length of 0 means "up to the end of the file"
    if COPY_DATA in session.extensions:
        pending: deque[PendingReply] = deque()
        for start in range(0, size, _COPY_DATA_SIZE):
            length = min(_COPY_DATA_SIZE, size - start)
            fields = struct.pack(">QQ", start, length), pack_string(target), struct.pack(">Q", at + start)
            pending.append(session.extended(COPY_DATA, pack_string(source), *fields))
            try:
                if len(pending) == 2:
                    session.wait(pending.popleft())
            except StatusError as error:
                raise write_error(session, error) from error
        try:
            session.wait_for_all(pending)
        except StatusError as error:
            raise write_error(session, error) from error
        return
    buffer = memoryview(bytearray(min(_BUFFER_SIZE, size)))
    for start in range(0, size, len(buffer)):
        view = buffer[: min(len(buffer), size - start)]
        read(session, source, start, view)
        write(session, target, at + start, view)


def read(session: Session, handle: bytes, offset: int, view: memoryview) -> None:
    """Fill *view* from an offset of an open file.

    Raises:
        IntegrityError: when the file ends before *view* is full.
    """
    step = session.read_size
    requests = deque(
        (start, min(start + step, len(view)), session.read(handle, offset + start, view[start : start + step]))
        for start in range(0, len(view), step)
    )
    while requests:
        start, end, pending = requests.popleft()
        count = session.byte_count(pending)
        if not count:
            raise IntegrityError(
                f"the file ends at byte {offset + start}, and more was expected: it was cut while it was read"
            )
        if start + count < end:
            start += count
            requests.append((start, end, session.read(handle, offset + start, view[start:end])))
