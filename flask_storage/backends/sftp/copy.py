"""Copying on the server: no byte comes here where it knows ``copy-data``."""

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
"""Of what one request copies, in bytes: its answer comes when all is done, and must come in time."""
_BUFFER_SIZE = 4 * 1024 * 1024


def copy_bytes(session: Session, source: bytes, target: bytes, size: int, *, at: int = 0) -> None:
    """Copy the first *size* bytes of one open file into another, where they begin at byte *at*.

    Raises:
        IntegrityError: when there are fewer.
        StorageError: when the server fails.
    """
    if not size:
        return  # to copy-data, no length means all that comes
    if COPY_DATA in session.extensions:
        asked: deque[PendingReply] = deque()
        for start in range(0, size, _COPY_DATA_SIZE):
            length = min(_COPY_DATA_SIZE, size - start)
            fields = struct.pack(">QQ", start, length), pack_string(target), struct.pack(">Q", at + start)
            asked.append(session.extended(COPY_DATA, pack_string(source), *fields))
            try:
                if len(asked) == 2:
                    session.wait(asked.popleft())
            except StatusError as error:
                raise write_error(session, error) from error
        try:
            session.wait_for_all(asked)
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
        IntegrityError: when the file ends before.
    """
    step = session.read_size
    asked = deque(
        (start, min(start + step, len(view)), session.read(handle, offset + start, view[start : start + step]))
        for start in range(0, len(view), step)
    )
    while asked:
        start, end, pending = asked.popleft()
        count = session.byte_count(pending)
        if not count:
            raise IntegrityError(f"the file ends at byte {offset + start}, where more was promised")
        if start + count < end:
            start += count
            asked.append((start, end, session.read(handle, offset + start, view[start:end])))
