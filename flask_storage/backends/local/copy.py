"""Bytes from one descriptor to another, and the tag of what a descriptor holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_COPY_CHUNK = 8 * 1024 * 1024
_PLAIN = nullcontext()


def copy_bytes(
    source: int,
    target: int,
    *,
    offset: int = 0,
    progress: Callable[[int], None] | None = None,
    reading: AbstractContextManager[Any] = _PLAIN,
    writing: AbstractContextManager[Any] = _PLAIN,
) -> int:
    """Copy from one descriptor, from *offset* on, to another where it stands; return the number of bytes.

    The kernel copies (``copy_file_range``), without reading where the file system shares blocks; where it cannot,
    for whatever reason, the bytes go through this process, 8 MiB at a time, and a fault shows where it is.

    Args:
        source: A regular file.
        target: A regular file.
        offset: Where to begin, in bytes.
        progress: Called after each 8 MiB with the number of bytes so far.
        reading: Entered around every read, to translate its errors.
        writing: Entered around every write, likewise.
    """
    total = 0
    in_kernel = hasattr(os, "copy_file_range")
    while True:
        if in_kernel:
            try:
                count = os.copy_file_range(source, target, _COPY_CHUNK, offset_src=offset + total)
            except OSError:
                in_kernel = False
                continue
            if not count and not total:  # some kernels say so of what is no plain file, as in /proc: look oneself
                in_kernel = False
                continue
        else:
            with reading:
                chunk = os.pread(source, _COPY_CHUNK, offset + total)
            with writing:
                write_all(target, chunk)
            count = len(chunk)
        if not count:
            return total
        total += count
        if progress is not None:
            progress(total)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of *data*; a write to a nearly full disk may take only some."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def etag(status: os.stat_result) -> str:
    """Return a tag that changes with every version: each is a new inode with a stamp of its own."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
