"""Open files: a reader that reads ahead, a writer that uploads in parts, and an updater with a temporary copy.

The base classes :class:`RangeReader` and :class:`MultipartWriter` decide what is read and written when. Here reads
become requests of :mod:`.protocol`; writes go to :mod:`.upload`, and the updater's copy to :mod:`.atomic_write`.
"""

from __future__ import annotations

import io
import operator
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import IntegrityError, PreconditionFailedError
from ...files import RemoteFile
from ...multipart import MultipartWriter
from ...range_reader import RangeReader
from ...types import FileInfo, FileMode, WriteOptions
from .atomic_write import AtomicWrite
from .copy import copy_bytes, read
from .errors import unknown_outcome
from .pool import KeptSession, Pool
from .protocol import ConnectionLostError, PendingReply, Session
from .remote_tree import RemoteTree
from .upload import SFTPUpload, write

if TYPE_CHECKING:
    from ...range_reader import _Range

CHUNK_SIZE = 1024 * 1024
"""The size of the ranges in which a file is read, in bytes."""
READAHEAD_CHUNKS = 12
"""Maximum number of chunks in flight: 12 MiB saturate a connection of 300 MiB/s with a round-trip time of 40 ms."""
_MIN_FAST_BYTES = 8 * 1024 * 1024
"""How many bytes a caller must take, none of their chunks slowly, before more than two chunks are read ahead."""
_SLOW_CHUNK = 0.25
"""The time in which a fast caller takes a chunk, in seconds."""
_MTIME_MARGIN = 2
"""How old a file must be when it is opened, in seconds, so that its mtime identifies its version."""
PART_SIZE = 2 * 1024 * 1024
"""The size of the parts in which a file is written, in bytes."""


class SFTPRemoteFile(RemoteFile):
    """A file on an SFTP server, open for reading, writing or both; see :class:`~flask_storage.files.RemoteFile`.

    Reads return the version that was opened, which the server keeps as long as it is open. Writes go to a temporary
    file in the same directory, which closing renames.

    Attributes:
        path: The path in the storage.
    """

    path: str


class SFTPReader(RangeReader, SFTPRemoteFile):
    """Reads through one session, with read-ahead.

    How much is read ahead grows with what the caller has taken. The sockets of a slow client take some MiB at once, so
    the first 8 MiB say nothing about a caller, and neither do the first 8 MiB after a chunk that took it long.

    Args:
        path: The file.
        tree: The remote tree.
        pool: Returns the pool that provides the session.
        whole: Read ahead immediately, since the whole file will be read from the beginning.

    Raises:
        FileNotFoundInStorageError: when the file does not exist.
    """

    def __init__(self, path: str, *, tree: RemoteTree, pool: Callable[[], Pool], whole: bool = False) -> None:
        self.path = path
        self._fast_since = -_MIN_FAST_BYTES if whole else 0
        self._loaded_at = time.monotonic()
        self._source = RemoteSource(path, tree, pool)
        source = self._source
        source.open(first=RangeReader.min_fetch_size)
        RangeReader.__init__(
            self,
            source.fetch,
            source.info,
            head=source.head[: source.info.size],
            chunk_size=CHUNK_SIZE,
            concurrency=READAHEAD_CHUNKS,
            workers=lambda: source,  # a reference to self would be a cycle that only the garbage collector frees
            eager=whole,
        )
        self.iter_chunk_size = RemoteFile.iter_chunk_size

    def _load_range(self, position: int, end: int) -> _Range:
        if time.monotonic() - self._loaded_at > _SLOW_CHUNK:
            self._fast_since = position
        if position - self._fast_since < _MIN_FAST_BYTES:
            self._prefetch_count = 1
        loaded = super()._load_range(position, end)
        self._loaded_at = time.monotonic()
        return loaded

    def _release(self) -> None:
        super()._release()
        self._source.close()

    def _finalize(self) -> None:
        self._source.release_from_finalizer()


class RemoteSource(Executor):
    """An open file of the server, and the executor of its RangeReader: it pipelines requests and needs no threads.

    Args:
        path: The file.
        tree: The remote tree.
        pool: Returns the pool that provides the session.
    """

    def __init__(self, path: str, tree: RemoteTree, pool: Callable[[], Pool]) -> None:
        self._path = path
        self._tree = tree
        self._get_pool = pool
        self._kept: KeptSession | None = None
        self._handle = b""
        self._pid = 0
        self._opened_at = time.time()
        self.info: FileInfo
        self.head = b""

    def open(self, first: int = 0) -> KeptSession:
        """Open the file, set :attr:`info` and :attr:`head`, and return the session in which it is open.

        Args:
            first: Maximum number of bytes in the head.
        """

        def open_file(session: Session) -> Callable[[], None]:
            self._handle, attributes, self.head = self._tree.open_file(session, self._path, first)
            self.info = self._tree.file_info(self._path, attributes)
            return partial(self._tree.close_handle, session, self._handle)

        self._pid = os.getpid()
        self._kept = self._get_pool().run_and_keep(open_file)
        return self._kept

    def submit(self, _: Any, /, start: int, stop: int, into: io.BytesIO) -> Future[Any]:  # type: ignore[override]  # RangeReader submits one function only
        """Request a range; the future that is returned waits for it. The function is always :meth:`fetch`."""
        return PendingRange(self, start, stop, into)

    def fetch(self, start: int, stop: int, into: io.BytesIO) -> None:
        """Read a range into a buffer."""
        PendingRange(self, start, stop, into).result()

    @contextmanager
    def use(self) -> Iterator[tuple[Session, bytes]]:
        """Use the session in the block, with the handle; new ones in the child of a fork, or after a lost connection.

        Raises:
            PreconditionFailedError: when the version that was open was replaced, or was so new that another version of
                the same size could have the same mtime, which SFTP has in whole seconds.
        """
        kept = self._kept
        if kept is None or kept.session.broken or self._pid != os.getpid():
            self.close()
            old_info = self.info
            kept = self.open()
            is_new = old_info.last_modified.timestamp() > self._opened_at - _MTIME_MARGIN
            if is_new or self.info != old_info:
                self.info = old_info
                self.close()
                problem = "the file may have been replaced" if is_new else "the file was replaced"
                raise PreconditionFailedError(f"{problem} while it was read: open it again")
        with kept as session:
            yield session, self._handle

    def close(self) -> None:
        """Close the file, and release the session."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.release()

    def release_from_finalizer(self) -> None:
        """Release the session; see :meth:`KeptSession.release_from_finalizer`."""
        if self._kept is not None:
            self._kept.release_from_finalizer()


class PendingRange(Future[Any]):
    """A range that was requested. :meth:`result` reads the responses."""

    def __init__(self, source: RemoteSource, start: int, stop: int, into: io.BytesIO) -> None:
        super().__init__()
        self._source = source
        self._start = start
        self._stop = stop
        self._into = into
        self._pending: deque[tuple[int, int, PendingReply]] = deque()
        self._session: Session | None = None
        # Not `into.getbuffer()`: Python 3.13 reports a BytesIO that is collected before the memory views on it, and the
        # traceback of an error may hold some. Until the range has arrived, only one of the two needs memory.
        into.truncate(0)
        self._content = bytearray(stop - start)
        self._is_finished = False
        with suppress(ConnectionLostError), source.use() as (session, handle):
            self._session = session
            self._request(session, handle, start, stop)

    def done(self) -> bool:
        """Whether all responses have arrived, even if they were not read yet."""
        missing = sum(end - start for start, end, pending in self._pending if not pending.is_done)
        return self._is_finished or (self._session is not None and self._session.arrived_bytes >= missing)

    def cancel(self) -> bool:
        """Return False: a request cannot be cancelled."""
        return False

    def result(self, timeout: float | None = None) -> None:
        """Wait for the range. If the connection was lost, it is requested once more.

        Raises:
            IntegrityError: when the file has become shorter.
            PreconditionFailedError: when the connection was lost, and the file was replaced since.
        """
        try:
            try:
                self._collect()
            except ConnectionLostError:
                self._pending.clear()
                self._session = None
                self._collect()
        finally:
            self._pending.clear()
            self._is_finished = True
        self._into.write(self._content)
        self._content = bytearray()

    def _request(self, session: Session, handle: bytes, start: int, stop: int) -> None:
        while start < stop:
            end = min(start + session.read_size, stop)
            buffer = memoryview(self._content)[start - self._start : end - self._start]
            self._pending.append((start, end, session.read(handle, start, buffer)))
            start = end
        session.flush()

    def _collect(self) -> None:
        with self._source.use() as (session, handle):
            if self._session is None:
                self._session = session
                self._request(session, handle, self._start, self._stop)
            elif self._session is not session:
                raise ConnectionLostError("the session was replaced")
            while self._pending:
                start, end, pending = self._pending.popleft()
                count = session.byte_count(pending)
                if not count:
                    raise IntegrityError(
                        f"the file ends at byte {start}, and more was expected: it was cut while it was read"
                    )
                if start + count < end:  # a server may return less than was requested
                    self._request(session, handle, start + count, end)


class SFTPWriter(MultipartWriter, SFTPRemoteFile):
    """Writes a file in parts, each at its offset in one temporary file.

    If the round-trip time is long, several sessions write concurrently.

    Args:
        path: The file.
        options: The options of the write.
        upload: Creates, writes and commits the temporary file.
        concurrency: Maximum number of parts that are written concurrently.
        workers: Returns the thread pool in which parts are written.
        size: The size of the file in bytes, or None if it is unknown.
    """

    def __init__(
        self,
        path: str,
        options: WriteOptions,
        *,
        upload: SFTPUpload,
        concurrency: int,
        workers: Callable[[], Executor],
        size: int | None = None,
    ) -> None:
        self.path = path
        self._file_upload = upload
        MultipartWriter.__init__(
            self,
            upload,
            path,
            options,
            chunk_size=upload.part_size,
            concurrency=concurrency,
            workers=workers,
            size=size,
        )

    def _release(self) -> None:
        super()._release()
        if self._pid == os.getpid():
            self._file_upload.abandon()


class SFTPUpdater(SFTPRemoteFile):
    """Reads and writes a temporary copy of a file; closing renames the copy to the file.

    Args:
        path: The file.
        options: The options of the write.
        atomic_write: Creates the copy, and commits it.
        pool: Provides the session.
    """

    def __init__(
        self,
        path: str,
        options: WriteOptions,
        *,
        atomic_write: AtomicWrite,
        pool: Pool,
    ) -> None:
        def copy_original(session: Session) -> Callable[[], None]:
            tree = atomic_write.tree
            original, attributes, _ = tree.open_file(session, path)
            self._size = attributes.size or 0
            try:
                self._temporary, self._handle = atomic_write.create(session, path, readable=True)
                try:
                    copy_bytes(session, original, self._handle, self._size)
                except BaseException:
                    if not session.broken:
                        atomic_write.discard(session, self._temporary, self._handle)
                    raise
            finally:
                tree.close_handle(session, original)
            return partial(tree.close_handle, session, self._handle)

        self._kept = pool.run_and_keep(copy_original)
        super().__init__(FileMode.read | FileMode.write)
        self.path = path
        self._options = options
        self._atomic_write = atomic_write
        self._pool = pool
        self._position = 0

    def seekable(self) -> bool:
        """Return True: :meth:`seek` is supported."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in bytes, also beyond the end, and return it."""
        self._check(FileMode.read)
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in starts:
            raise ValueError(f"whence is {whence!r}: use io.SEEK_SET, io.SEEK_CUR or io.SEEK_END")
        self._position = _checked_position(starts[whence] + operator.index(offset))
        return self._position

    def tell(self) -> int:
        """Return the position in bytes."""
        self._check(FileMode.read)
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file, in bytes; None stands for the current position."""
        self._check(FileMode.write)
        size = _checked_position(self._position if size is None else operator.index(size))
        with self._discard_on_error(), self._kept as session:
            self._atomic_write.resize(session, self._handle, size)
        self._size = size
        return size

    def _read(self, size: int) -> bytes:
        stop = self._size if size < 0 else min(self._position + size, self._size)
        data = bytearray(max(stop - self._position, 0))
        self._readinto(memoryview(data))
        return bytes(data)

    def _readinto(self, view: memoryview) -> int:
        count = max(min(len(view), self._size - self._position), 0)
        with self._kept as session:
            for start in range(0, count, _COPY_BUFFER_SIZE):
                part = view[start : min(start + _COPY_BUFFER_SIZE, count)]
                read(session, self._handle, self._position + start, part)
        self._position += count
        return count

    def _write(self, view: memoryview) -> None:
        with self._kept as session:
            write(session, self._handle, self._position, view)
        self._position += len(view)
        self._size = max(self._size, self._position)

    def _publish(self) -> None:
        try:
            with self._kept as session:
                self._kept.close = None  # the commit closes the file, also if it fails
                self._atomic_write.commit(session, self._handle, self._size, self._temporary, self.path, self._options)
        except ConnectionLostError as error:
            raise unknown_outcome(error) from error
        self._kept.release()

    def _discard(self) -> None:
        self._kept.release()
        self._pool.run(lambda session: self._atomic_write.tree.try_remove_temporary(session, self._temporary))

    def _release(self) -> None:
        self._kept.release_from_finalizer()


def _checked_position(position: int) -> int:
    if not 0 <= position <= _LAST_POSITION:
        raise ValueError(f"position {position} is out of range: it is at least 0 and at most {_LAST_POSITION}")
    return position


_LAST_POSITION = (1 << 63) - 1 - (1 << 40)
"""A write that starts here must still end within the 63 bits of a file position on the server."""
_COPY_BUFFER_SIZE = 8 * 1024 * 1024
"""How much is requested before the responses are waited for, in bytes."""
