"""Copies bytes between file descriptors."""

from __future__ import annotations

import os
from collections.abc import Callable
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
    write that failed.

    Args:
        source: A regular file.
        target: A regular file.
        offset: In bytes.
        progress: Called after each 8 MiB with the number of bytes copied so far.
        reading: Context manager around every read, which translates its errors.
        writing: Context manager around every write, which translates its errors.
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
            if not count and not total:  # some kernels return 0 for pseudo files, such as those in /proc
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
    """Write all of *data*; a single write may be short when the disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
