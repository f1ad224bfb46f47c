"""A file in a storage that is, underneath, one of Python's own binary files."""

from __future__ import annotations

import io

from .files import RemoteFile
from .values import FileInfo, FileMode


class WrappedFile(RemoteFile):
    """A storage's file on top of a Python binary file: reading, seeking and writing go straight to it.

    Args:
        fp: The file underneath; closed with this one.
        mode: What this file is opened for.
        info: What is known of the file, for a reader.
    """

    def __init__(self, fp: io.BufferedIOBase, mode: FileMode | str, *, info: FileInfo | None = None) -> None:
        super().__init__(mode)
        self.fp = fp
        self.info = info

    def seekable(self) -> bool:
        """Whether :meth:`seek` works: wherever the file can be read."""
        return self.readable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in bytes and return it."""
        self._check(FileMode.read)
        if self.writable():
            with self._undone_by_failure():
                self.fp.flush()  # what is in the buffer is written first, and may fail
        if whence == io.SEEK_SET and offset < 0:
            raise ValueError(f"there is no byte at position {offset}")  # and no disk is to blame for it
        with self._guard:
            return self.fp.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self.fp.tell() if self.readable() and not self.closed else super().tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Cut an edited file, or extend it with zeros, to *size* bytes (None: to the position); return the size."""
        self._check(FileMode.write)
        self._check(FileMode.read)
        with self._undone_by_failure():
            return self.fp.truncate(size)

    def fileno(self) -> int:
        """Return the descriptor of a reader, where there is one.

        A writer has none to give: what goes around its buffer and its count would be lost or end up elsewhere.
        """
        self._check(FileMode.read)
        if self.writable():
            raise io.UnsupportedOperation("fileno")
        return self.fp.fileno()

    def _read(self, size: int) -> bytes:
        return self.fp.read(size)

    def _readinto(self, view: memoryview) -> int:
        return self.fp.readinto(view)

    def _readline(self, limit: int) -> bytes:
        return self.fp.readline(limit)

    def _write(self, view: memoryview) -> None:
        self.fp.write(view)

    def _release(self) -> None:
        self.fp.close()
