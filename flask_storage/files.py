"""An open file in a storage: a binary file object that is published atomically when it is closed."""

from __future__ import annotations

import enum
import hashlib
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .errors import IntegrityError, StorageError
from .streams import CHUNK_SIZE
from .types import FileInfo, FileMode, WriteOptions

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

logger = logging.getLogger("flask_storage")


_PYTHON_MODES = {FileMode.read: "rb", FileMode.write: "wb", FileMode.read | FileMode.write: "rb+"}
_LINE_LOOKAHEAD = 8192
_CHECKSUM = re.compile(r"([^:]+):([0-9A-Fa-f]+)")


class _State(enum.Enum):
    OPEN = "open"
    CLOSING = "closed inside a with block, published on its exit"
    CLOSED = "closed"
    PUBLISHED = "published"
    DISCARDED = "discarded"


def parse_checksum(checksum: object) -> tuple[Any, str]:
    """Return a new hash object and the expected hexadecimal digest, in lower case.

    Raises:
        ValueError: when *checksum* is not ``<algorithm>:<hex digest>``, or the digest does not have the right length.
    """
    match = _CHECKSUM.fullmatch(checksum) if isinstance(checksum, str) else None
    if match is not None:
        with suppress(ValueError):  # an unknown algorithm
            hasher = hashlib.new(match[1], usedforsecurity=False)
            if len(match[2]) == 2 * hasher.digest_size > 0:
                return hasher, match[2].lower()
    raise ValueError(
        "a checksum must be '<algorithm>:<hex digest>', for example 'sha256:' and the 64 digits of a SHA-256"
    )


class RemoteFile(io.BufferedIOBase):
    """A file in a storage, opened for reading, writing or both.

    It implements the interface of Python's binary files, so :class:`io.TextIOWrapper`, :mod:`csv`, :mod:`gzip`,
    :mod:`zipfile` and Pillow work on it. ``mode`` is the text that those expect (``"rb"``, ``"wb"``, ``"rb+"``);
    ``file_mode`` is the flag. Iterating yields lines; :meth:`iter_chunks` yields chunks.

    Closing a writer **publishes** its content, which is visible under its path only then. Leaving a ``with`` block by
    an exception discards it; so do :meth:`abort` and any failed write. Inside a ``with`` block only the clean exit
    publishes: an earlier ``close()``, by a wrapper for example, is deferred to it. A writer that is garbage-collected
    without being closed emits a :class:`ResourceWarning` and publishes nothing. A writer inherited through ``fork``
    publishes nothing in the child.

    Do not write ``with io.TextIOWrapper(writer):`` alone: after an exception, the wrapper closes the writer, which
    publishes. Write ``with backend.open(path, "w") as writer, io.TextIOWrapper(writer) as text:``.

    A subclass implements the underscored methods of its mode: :meth:`_read` (and :meth:`seek`, :meth:`tell`),
    :meth:`_write`, :meth:`_publish`, :meth:`_discard`, :meth:`_finalize`, :meth:`_release`.

    Args:
        mode: What the file is opened for.
    """

    iter_chunk_size = CHUNK_SIZE
    """The default chunk size of :meth:`iter_chunks`, in bytes."""
    name: str = ""
    """The path in the storage, for people to read. What a writer publishes under is its own, so this may be changed."""
    info: FileInfo | None = None
    """Of a reader: the attributes of the file when it was opened. The content that is read belongs to this version."""

    def __init__(self, mode: FileMode | str) -> None:
        self.file_mode = FileMode.as_mode(mode)
        self._state = _State.OPEN
        self._pid = os.getpid()
        self._depth = 0
        self._count = 0
        self._expected: int | None = None
        self._checksum: str | None = None
        self._digest: Any = None
        self._error_translator: AbstractContextManager[Any] = nullcontext()
        self._on_published: Callable[[], None] | None = None

    # -- called by the storage interface --------------------------------------------------------------------------

    def set_expected(self, options: WriteOptions) -> None:
        """Set the expected size and checksum of a writer from *options*; they are checked before it publishes.

        Raises:
            ValueError: when the checksum is not ``<algorithm>:<hex digest>`` of a known algorithm.
        """
        self._expected = options.size
        if options.checksum:
            self._digest, self._checksum = parse_checksum(options.checksum)

    def attach(
        self, name: str, translator: AbstractContextManager[Any], on_published: Callable[[], None] | None = None
    ) -> Self:
        """Set the file's name, the context manager that translates its errors, and a function called once published."""
        self.name = name
        self._error_translator = translator
        self._on_published = on_published
        return self

    # -- Python's file contract -----------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """The mode as Python spells it."""
        return _PYTHON_MODES[self.file_mode]

    @property
    def closed(self) -> bool:
        """Whether the file is closed, published or discarded, or closed inside a ``with`` block that is still open."""
        return self._state is not _State.OPEN

    @property
    def published(self) -> bool:
        """Whether the content was published under the file's path."""
        return self._state is _State.PUBLISHED

    def readable(self) -> bool:
        """Whether the file was opened for reading."""
        return bool(self.file_mode & FileMode.read)

    def writable(self) -> bool:
        """Whether the file was opened for writing."""
        return bool(self.file_mode & FileMode.write)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to *size* bytes, all that is left when *size* is negative or None; ``b""`` at the end.

        Fewer bytes than *size* are returned only at the end of the file.
        """
        self._check(FileMode.read)
        with self._error_translator:
            return self._read(-1 if size is None else size)

    def read1(self, size: int = -1, /) -> bytes:
        """Read up to *size* bytes, or one chunk."""
        return self.read(size if size >= 0 else self.iter_chunk_size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read into *buffer* and return the number of bytes."""
        self._check(FileMode.read)
        view = memoryview(buffer).cast("B")
        with self._error_translator:
            return self._readinto(view)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """The same as :meth:`readinto`."""
        return self.readinto(buffer)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read one line, at most *size* bytes of it."""
        self._check(FileMode.read)
        limit = -1 if size is None else size
        with self._error_translator:
            return self._readline(limit)

    def iter_chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Yield the rest of the file in chunks.

        Args:
            chunk_size: In bytes; None or 0 for :attr:`iter_chunk_size`. One chunk is held at a time.
        """
        while chunk := self.read(chunk_size or self.iter_chunk_size):
            yield chunk

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of *data* and return its length in bytes. A failed write discards the file."""
        self._check(FileMode.write)
        view = memoryview(data).cast("B")
        count = len(view)
        if self._pid != os.getpid():
            # Parent and child share the descriptor's position, so the child would write into the parent's file.
            raise ValueError("a writer cannot be used after a fork: open the file in the process that writes it")
        with self._discard_on_error():
            if self._expected is not None and not self.readable() and self._count + count > self._expected:
                raise IntegrityError(f"more than the expected {self._expected} bytes were written")
            self._write(view)
        self._count += count
        if self._digest is not None:
            self._digest.update(view)
        return count

    def will_read(self, count: int, /) -> None:
        """Announce that the next *count* bytes will be read. Readers of remote backends prefetch them."""

    def tell(self) -> int:
        """Return the position in bytes; for a writer, the number of bytes written so far."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self.readable():
            raise io.UnsupportedOperation("tell")
        return self._count

    def flush(self) -> None:
        """Do nothing: content is published by closing, not by flushing."""
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def close(self) -> None:
        """Close a reader; publish a writer, unless a ``with`` block around it is still open.

        Closing again does nothing. A reader is closed immediately.

        Raises:
            IntegrityError: when size or checksum are not the expected ones; nothing is published.
            StorageError: when publishing failed. The file that was stored before is unchanged, unless the message says
                that the new content was published but may not be durable.
        """
        if not self._is_unfinished():
            return
        if self._depth and self.writable():
            # `closed` is true from here on: BufferedWriter closes a second time in its finalizer, which must not fail.
            self._state = _State.CLOSING
        elif not self.writable():
            self._state = _State.CLOSED
            self._release()
        elif self._pid != os.getpid():
            self._state = _State.DISCARDED
            self._release()
        else:
            try:
                with self._error_translator:
                    self._check_expected()
                    self._publish()
            except BaseException:
                self.abort()
                raise
            self._state = _State.PUBLISHED
            if self._on_published is not None:
                self._on_published()

    def abort(self) -> None:
        """Discard what was written; nothing is published. After closing, or for a reader, the same as :meth:`close`."""
        if not self._is_unfinished():
            return
        if not self.writable():
            self.close()
            return
        self._state = _State.DISCARDED
        if self._pid != os.getpid():
            self._release()
            return
        try:
            with self._error_translator:
                self._discard()
        except StorageError as error:
            # An error of the cleanup must not hide the error that caused the abort.
            logger.warning("could not remove an unfinished write, which sweep will remove: %s", error)

    def __enter__(self) -> Self:
        """Enter a block whose clean exit closes, and so publishes, the file."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close on a clean exit, discard on an exception."""
        self._depth = max(self._depth - 1, 0)
        if kind is not None:
            self.abort()
        elif not self._depth:
            self.close()

    def __del__(self) -> None:
        """Warn about an unclosed writer and delete its local temporary file. Publishes nothing and sends no request."""
        if getattr(self, "_state", None) is None or not self._is_unfinished():
            return
        self._state = _State.DISCARDED
        if not self.writable():
            self._finalize()
            return
        if self._pid == os.getpid():
            warnings.warn(
                f"unclosed writer {self!r}: nothing was published", ResourceWarning, stacklevel=2, source=self
            )
            self._finalize()
        else:
            self._release()

    # -- methods of subclasses ------------------------------------------------------------------------------------

    def _read(self, size: int) -> bytes:
        """Return up to *size* bytes (-1: all that are left). The file is open and readable."""
        raise io.UnsupportedOperation("read")

    def _readinto(self, view: memoryview) -> int:
        """Fill *view*, less only at the end of the file, and return the number of bytes."""
        data = self._read(len(view))
        view[: len(data)] = data
        return len(data)

    def _readline(self, limit: int) -> bytes:
        """Return the next line. Override it where something is cheaper than reading ahead and seeking back."""
        line = bytearray()
        while limit < 0 or len(line) < limit:
            ahead = self._read(_LINE_LOOKAHEAD if limit < 0 else min(_LINE_LOOKAHEAD, limit - len(line)))
            end = ahead.find(b"\n") + 1
            if end:
                line += ahead[:end]
                self.seek(end - len(ahead), io.SEEK_CUR)
                break
            line += ahead
            if not ahead:
                break
        return bytes(line)

    def _write(self, view: memoryview) -> None:
        """Write all of *view*, and keep no reference: the caller reuses the buffer. The file is open and writable."""
        raise io.UnsupportedOperation("write")

    def _publish(self) -> None:
        """Publish the content under the file's path, atomically and durably, and release all resources."""
        raise io.UnsupportedOperation("write")

    def _discard(self) -> None:
        """Discard the content; may send requests. Also called after a failed :meth:`_publish`."""

    def _finalize(self) -> None:
        """Release local resources; called by the garbage collector. Must not block, send requests or publish."""
        self._release()

    def _release(self) -> None:
        """Release local resources, such as a descriptor, and nothing else; must not raise."""

    # -- private --------------------------------------------------------------------------------------------------

    @contextmanager
    def _discard_on_error(self) -> Iterator[None]:
        """Discard the file when the block fails: it is not known how much was written."""
        try:
            with self._error_translator:
                yield
        except BaseException:
            self.abort()
            raise

    def _check(self, needed: FileMode) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not self.file_mode & needed:
            raise io.UnsupportedOperation("not readable" if needed is FileMode.read else "not writable")

    def _is_unfinished(self) -> bool:
        return self._state in (_State.OPEN, _State.CLOSING)

    def _check_expected(self) -> None:
        if self.readable():
            return  # an edited file has no expected size: the count is of bytes written, not of its length
        if self._expected is not None and self._count != self._expected:
            raise IntegrityError(
                f"{self._count} bytes were written where {self._expected} were expected; nothing was published"
            )
        if self._digest is not None and self._digest.hexdigest() != self._checksum:
            raise IntegrityError("the content does not have the expected checksum; nothing was published")


class FileAdapter(RemoteFile):
    """A :class:`RemoteFile` that reads, seeks and writes a Python binary file.

    Args:
        fp: The Python file; closed with this one.
        mode: What this file is opened for.
        info: The attributes of the file, for a reader.
    """

    def __init__(self, fp: io.BufferedIOBase, mode: FileMode | str, *, info: FileInfo | None = None) -> None:
        super().__init__(mode)
        self.fp = fp
        self.info = info

    def seekable(self) -> bool:
        """Whether :meth:`seek` works: for every file that is readable."""
        return self.readable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in bytes and return it."""
        self._check(FileMode.read)
        if self.writable():
            with self._discard_on_error():
                self.fp.flush()  # seeking writes the buffer, which may fail and must discard the file
        if whence == io.SEEK_SET and offset < 0:
            raise ValueError(f"the position {offset} is negative")  # a wrong argument, so it is not translated
        with self._error_translator:
            return self.fp.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self.fp.tell() if self.readable() and not self.closed else super().tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Truncate or extend (with zeros) an edited file to *size* bytes (None: the position); return the size."""
        self._check(FileMode.write)
        self._check(FileMode.read)
        with self._discard_on_error():
            return self.fp.truncate(size)

    def fileno(self) -> int:
        """Return the descriptor of a reader, if it has one.

        A writer does not expose its descriptor: writes to it would bypass the buffer and the count.
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
