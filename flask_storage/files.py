"""An open file in a storage: a binary file object whose content appears all at once, or not at all."""

from __future__ import annotations

import enum
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


class _State(enum.Enum):
    OPEN = "open"
    CLOSING = "closed inside a block, whose exit decides"
    CLOSED = "closed"
    PUBLISHED = "published"
    DISCARDED = "discarded"


def parse_checksum(checksum: str) -> tuple[Any, str]:
    """Return a fresh hash and the digest, in lower case, that it must come to.

    Raises:
        ValueError: when *checksum* is not ``<algorithm>:<hex digest>``, or the digest has not the algorithm's length.
    """
    algorithm, _, digest = checksum.partition(":")
    try:
        computed = hashlib.new(algorithm, usedforsecurity=False)
        if len(bytes.fromhex(digest)) == computed.digest_size > 0:
            return computed, digest.lower()
    except ValueError:
        pass
    raise ValueError(
        "a checksum is written '<algorithm>:<hex digest>', for example 'sha256:' and the 64 digits of a SHA-256"
    )


class RemoteFile(io.BufferedIOBase):
    """A file in a storage, opened for reading, writing or both.

    It follows the contract of Python's own binary files, so :class:`io.TextIOWrapper`, :mod:`csv`, :mod:`gzip`,
    :mod:`zipfile` and Pillow work on it. ``mode`` is the text that those expect (``"rb"``, ``"wb"``, ``"rb+"``);
    ``file_mode`` is the flag. Iterating yields lines; :meth:`iter_chunks` yields chunks.

    What is written is **published by closing** and is visible under its name only then. Leaving a ``with`` block by an
    exception discards it; so do :meth:`abort` and any failed write. Inside a ``with`` block only the clean exit
    publishes: a wrapper's early ``close()`` waits for it. A writer that is forgotten warns with
    :class:`ResourceWarning` and publishes nothing. A writer inherited through ``fork`` publishes nothing in the child.

    One case cannot be saved: ``with io.TextIOWrapper(writer):`` alone tells the writer of no exception. Write
    ``with backend.open(path, "w") as writer, io.TextIOWrapper(writer) as text:`` instead.

    A subclass supplies the underscored hooks of its mode: :meth:`_read` (and :meth:`seek`, :meth:`tell`),
    :meth:`_write`, :meth:`_publish`, :meth:`_discard`, :meth:`_finalize`, :meth:`_release`.

    Args:
        mode: What the file is opened for.
    """

    iter_chunk_size = CHUNK_SIZE
    """How much :meth:`iter_chunks` yields at a time, in bytes."""
    name: str = ""
    """The path in the storage."""
    info: FileInfo | None = None
    """Of a reader: what was known of the file when it was opened; the content read belongs to it."""

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

    # -- what the wall adds ---------------------------------------------------------------------------------------

    def set_expected(self, options: WriteOptions) -> None:
        """Hold the writer to the size and checksum that *options* promise; checked before it publishes.

        Raises:
            ValueError: when the checksum names no known algorithm.
        """
        self._expected = options.size
        if options.checksum:
            self._digest, self._checksum = parse_checksum(options.checksum)

    def attach(
        self, name: str, translator: AbstractContextManager[Any], on_published: Callable[[], None] | None = None
    ) -> Self:
        """Name the file, run its hooks inside *translator*, which translates errors, and tell *on_published* afterwards."""
        self.name = name
        self._error_translator = translator
        self._on_published = on_published
        return self

    # -- Python's file contract -----------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """The mode in Python's own spelling."""
        return _PYTHON_MODES[self.file_mode]

    @property
    def closed(self) -> bool:
        """Whether the file takes no more: closed, published or discarded, or closed inside a ``with`` block."""
        return self._state is not _State.OPEN

    @property
    def published(self) -> bool:
        """Whether what was written is visible under the file's name."""
        return self._state is _State.PUBLISHED

    def readable(self) -> bool:
        """Whether the file was opened for reading."""
        return bool(self.file_mode & FileMode.read)

    def writable(self) -> bool:
        """Whether the file was opened for writing."""
        return bool(self.file_mode & FileMode.write)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to *size* bytes, all that is left when *size* is negative or None; ``b""`` at the end.

        Fewer bytes than asked come only at the end of the file.
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
            # Parent and child share the descriptor's position: a byte from here would land amid the parent's.
            raise ValueError("a writer belongs to the process that opened it: open the file anew after forking")
        with self._discard_on_error():
            if self._expected is not None and not self.readable() and self._count + count > self._expected:
                raise IntegrityError(f"more than the promised {self._expected} bytes were written")
            self._write(view)
        self._count += count
        if self._digest is not None:
            self._digest.update(view)
        return count

    def will_read(self, count: int, /) -> None:
        """Say that the next *count* bytes are going to be read. A far place fetches them ahead; a near one does not."""

    def tell(self) -> int:
        """Return the position: of a writer, the bytes written so far."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self.readable():
            raise io.UnsupportedOperation("tell")
        return self._count

    def flush(self) -> None:
        """Do nothing: what is written becomes visible by closing, not by flushing."""
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def close(self) -> None:
        """Close a reader; publish a writer, unless a ``with`` block around it is still open.

        Closing again does nothing. A reader closes at once.

        Raises:
            IntegrityError: when not what was promised came; nothing is published.
            StorageError: when publishing failed; what was stored before is still there, unless the text says that the
                new content is in place and only not durable.
        """
        if not self._is_unfinished():
            return
        if self._depth and self.writable():
            # Whoever asks is told "closed": BufferedWriter closes once more when it goes, and would fail at that.
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
        """Discard what was written; nothing becomes visible. After closing, or on a reader, the same as ``close``."""
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
            # Whatever made us give up matters more than what could not be cleared away; the sweep will take it.
            logger.warning("an unfinished write was left behind for the sweep: %s", error)

    def __enter__(self) -> Self:
        """Enter the block whose clean exit closes (and publishes) the file."""
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
        """Warn of a forgotten writer and drop its local temporary file; never publish, never use the network."""
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

    # -- hooks ----------------------------------------------------------------------------------------------------

    def _read(self, size: int) -> bytes:
        """Return up to *size* bytes (-1: all that is left). The file is open and readable."""
        raise io.UnsupportedOperation("read")

    def _readinto(self, view: memoryview) -> int:
        """Fill *view* as far as there is content, and return the number of bytes."""
        data = self._read(len(view))
        view[: len(data)] = data
        return len(data)

    def _readline(self, limit: int) -> bytes:
        """Return the next line. Overridden where the place can do better than reading ahead and seeking back."""
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
        """Take all of *view*; it may be reused by the caller afterwards. The file is open and writable."""
        raise io.UnsupportedOperation("write")

    def _publish(self) -> None:
        """Make everything written visible under the file's name, atomically and for good, and free what was held."""
        raise io.UnsupportedOperation("write")

    def _discard(self) -> None:
        """Undo everything written; may use the network. Also called after a failed :meth:`_publish`."""

    def _finalize(self) -> None:
        """From the garbage collector: free what is local and quick; never use the network, never publish."""
        self._release()

    def _release(self) -> None:
        """Free local resources (a descriptor) and touch nothing else; must not fail."""

    # -- inner ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _discard_on_error(self) -> Iterator[None]:
        """Discard what was written when the block fails: nobody knows how much of it arrived."""
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
            return  # an edited file has no promised length: what counts is not how much was written
        if self._expected is not None and self._count != self._expected:
            raise IntegrityError(
                f"{self._count} bytes were written where {self._expected} were promised; nothing was published"
            )
        if self._digest is not None and self._digest.hexdigest() != self._checksum:
            raise IntegrityError("the content does not have the promised checksum; nothing was published")


class FileAdapter(RemoteFile):
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
            with self._discard_on_error():
                self.fp.flush()  # what is in the buffer is written first, and may fail
        if whence == io.SEEK_SET and offset < 0:
            raise ValueError(f"there is no byte at position {offset}")  # and no disk is to blame for it
        with self._error_translator:
            return self.fp.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self.fp.tell() if self.readable() and not self.closed else super().tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Cut an edited file, or extend it with zeros, to *size* bytes (None: to the position); return the size."""
        self._check(FileMode.write)
        self._check(FileMode.read)
        with self._discard_on_error():
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
