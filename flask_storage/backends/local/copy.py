"""Copies bytes between file descriptors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_COPY_CHUNK = 8 * 1024 * 1024
_NO_TRANSLATION = nullcontext()


def copy_bytes(
    source: int,
    target: int,
    *,
    offset: int = 0,
    progress: Callable[[int], None] | None = None,
    reading: AbstractContextManager[Any] = _NO_TRANSLATION,
    writing: AbstractContextManager[Any] = _NO_TRANSLATION,
) -> int:
    """Copy from *offset* of one descriptor to the current position of another; return the number of bytes.

    The kernel copies (``copy_file_range``); a file system that can share blocks does not even read them. If the kernel
    fails for any reason, this process copies the rest, 8 MiB at a time, so that an error comes from the read or the
    write that failed. The holes of a sparse file stay holes where they are appended to the target.

    Args:
        source: A regular file.
        target: A regular file.
        offset: In bytes.
        progress: Called after each 8 MiB, and after a hole, with the number of bytes copied so far.
        reading: Context manager around every read, which translates its errors.
        writing: Context manager around every write, which translates its errors.
    """
    position = offset
    keeps_holes = _is_sparse(source) and _is_at_end(target)
    while True:
        start, stop = _next_data(source, position) if keeps_holes else (position, None)
        if start > position:
            with writing:
                os.ftruncate(target, os.lseek(target, start - position, os.SEEK_CUR))
            position = start
            if progress is not None:
                progress(position - offset)
        copied = 0
        for copied in _copy_range(source, target, start, stop, reading, writing):
            if progress is not None:
                progress(start + copied - offset)
        position += copied
        if stop is None or not copied:
            return position - offset


def _copy_range(
    source: int,
    target: int,
    start: int,
    stop: int | None,
    reading: AbstractContextManager[Any],
    writing: AbstractContextManager[Any],
) -> Iterator[int]:
    """Copy from *start* to *stop* (None: the end of the file); yield the number of bytes so far after each chunk."""
    total = 0
    in_kernel = hasattr(os, "copy_file_range")
    while stop is None or start + total < stop:
        size = _COPY_CHUNK if stop is None else min(_COPY_CHUNK, stop - start - total)
        if in_kernel:
            try:
                count = os.copy_file_range(source, target, size, offset_src=start + total)
            except OSError:
                in_kernel = False
                continue
            if not count and not total:  # some kernels return 0 for pseudo files, such as those in /proc
                in_kernel = False
                continue
        else:
            with reading:
                chunk = os.pread(source, size, start + total)
            with writing:
                write_all(target, chunk)
            count = len(chunk)
        if not count:
            return
        total += count
        yield total


def _is_sparse(fd: int) -> bool:
    """Return whether a file may have holes: less is allocated than its size."""
    status = os.fstat(fd)
    return status.st_blocks * 512 < status.st_size and hasattr(os, "SEEK_DATA")


def _is_at_end(fd: int) -> bool:
    """Return whether the next write appends; elsewhere, a hole would have to be written over what is there."""
    return os.lseek(fd, 0, os.SEEK_CUR) == os.fstat(fd).st_size


def _next_data(fd: int, position: int) -> tuple[int, int | None]:
    """Return start and end of the next data from *position* on; after the last data, the size of the file twice.

    The position of the descriptor does not change: it belongs to the caller's file object.
    """
    before = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
        return start, os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno != errno.ENXIO:  # the file system does not tell: everything is data
            return position, None
        end = max(position, os.fstat(fd).st_size)
        return end, end
    finally:
        os.lseek(fd, before, os.SEEK_SET)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of *data*; a single write may be short when the disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
