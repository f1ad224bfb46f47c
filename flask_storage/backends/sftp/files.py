"""Open files on an SFTP server."""

from __future__ import annotations

import io
import operator
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any

from ...errors import IntegrityError, PreconditionFailedError
from ...files import RemoteFile
from ...multipart import MultipartWriter
from ...range_reader import RangeReader
from ...types import FileInfo, FileMode, WriteOptions
from .atomic_write import AtomicWrite
from .copy import copy_bytes, read
from .errors import unknown_outcome
from .pool import Pool
from .protocol import ConnectionLostError, PendingReply, Session
from .remote_tree import RemoteTree
from .upload import SFTPUpload, write

CHUNK_SIZE = 1024 * 1024
"""How much of a file is asked for at a time, in bytes."""
READAHEAD_CHUNKS = 12
"""How many chunks are on their way at once, at most: 12 MiB fill a line of 300 MiB/s whose answers take 40 ms."""
_MTIME_MARGIN = 2
"""Before how many seconds a file must have been written for its time to tell versions apart."""
PART_SIZE = 2 * 1024 * 1024
"""How much each session writes at a time, in bytes."""


class SFTPRemoteFile(RemoteFile):
    """A file on an SFTP server, open for reading, writing or both; see :class:`~flask_storage.files.RemoteFile`.

    What is read belongs to the version that was opened, which the server keeps for as long as it is open. What is
    written goes to a hidden file in the same folder, which closing renames.

    Attributes:
        path: The path in the storage.
    """

    path: str


class SFTPReader(RangeReader, SFTPRemoteFile):
    """Reads through one session; what will probably be read next is asked for before it is needed.

    Args:
        path: The file.
        tree: The door.
        pool: Lends the session.
        whole: All of it will be read, from the beginning.

    Raises:
        FileNotFoundInStorageError: when there is none.
    """

    def __init__(self, path: str, *, tree: RemoteTree, pool: Callable[[], Pool], whole: bool = False) -> None:
        self.path = path
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
            workers=lambda: source,  # not of self, which would then wait for the garbage collector
            eager=whole,
        )
        self.iter_chunk_size = RemoteFile.iter_chunk_size

    def _release(self) -> None:
        super()._release()
        self._source.close()

    def _finalize(self) -> None:
        self._source.release_from_finalizer()


class RemoteSource(Executor):
    """An open file of the server. To RangeReader it is the threads that fetch: here the line itself is what waits.

    Args:
        path: The file.
        tree: The door.
        pool: Lends the session.
    """

    def __init__(self, path: str, tree: RemoteTree, pool: Callable[[], Pool]) -> None:
        self._path = path
        self._tree = tree
        self._get_pool = pool
        self._pool: Pool | None = None
        self._session: Session | None = None
        self._handle = b""
        self._pid = 0
        self._opened_at = time.time()
        self.info: FileInfo
        self.head = b""

    def open(self, first: int = 0) -> Session:
        """Open the file, and return the session in which it is; :attr:`info` and :attr:`head` are known then.

        Args:
            first: How many bytes the head has, at most.
        """
        self._pid, self._pool = os.getpid(), self._get_pool()

        def opened(session: Session) -> Session:
            self._handle, attributes, self.head = self._tree.open_file(session, self._path, first)
            self.info = self._tree.file_info(self._path, attributes)
            return session

        self._session = self._pool.run_and_keep(opened)
        return self._session

    def submit(self, _: Any, /, start: int, stop: int, into: io.BytesIO) -> Future[Any]:  # type: ignore[override]  # one function alone is ever run
        """Ask for a range; what is returned waits for it. The function is always :meth:`fetch`."""
        return PendingRange(self, start, stop, into)

    def fetch(self, start: int, stop: int, into: io.BytesIO) -> None:
        """Bring a range."""
        PendingRange(self, start, stop, into).result()

    def session(self) -> tuple[Session, bytes]:
        """Return the session and the handle; in the child of a fork, or after the connection broke off, new ones.

        Raises:
            PreconditionFailedError: when the version that was open is not there any more; or when it was so new that
                another one of its size could have its time, which SFTP tells in whole seconds.
        """
        session = self._session
        if session is None or session.broken or self._pid != os.getpid():
            self.close()
            before = self.info
            session = self.open()
            is_new = before.last_modified.timestamp() > self._opened_at - _MTIME_MARGIN
            if is_new or self.info != before:
                self.info = before
                self.close()
                what = "the file may have been replaced" if is_new else "the file was replaced"
                raise PreconditionFailedError(f"{what} while it was read: open it anew")
        return session, self._handle

    def close(self) -> None:
        """Give the session back."""
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid() and self._pool is not None:
            if not session.broken:
                self._tree.close_handle(session, self._handle)
            self._pool.release(session)

    def release_from_finalizer(self) -> None:
        """Leave the session to whoever comes next."""
        session, self._session = self._session, None
        if session is not None and self._pool is not None:
            self._pool.release_from_finalizer(session)


class PendingRange(Future[Any]):
    """A range that is on its way. Asking for the result is what brings it."""

    def __init__(self, source: RemoteSource, start: int, stop: int, into: io.BytesIO) -> None:
        super().__init__()
        self._source = source
        self._start = start
        self._stop = stop
        self._into = into
        self._pending: deque[tuple[int, int, PendingReply]] = deque()
        self._session: Session | None = None
        self._buffer = into.getbuffer()
        self._is_finished = False
        with suppress(ConnectionLostError):
            self._request(start, stop)

    def done(self) -> bool:
        """Whether it is here."""
        return self._is_finished or all(pending.is_done for _, _, pending in self._pending)

    def cancel(self) -> bool:
        """Nothing that was asked can be taken back."""
        return False

    def result(self, timeout: float | None = None) -> None:
        """Wait for the range.

        Raises:
            IntegrityError: when the file is shorter than it was.
            PreconditionFailedError: when the connection broke off, and the file is another now.
        """
        try:
            try:
                self._collect()
            except ConnectionLostError:
                self._pending.clear()
                self._session = None
                self._request(self._start, self._stop)
                self._collect()
        finally:
            self._pending.clear()
            self._is_finished = True
            self._buffer.release()
        self._into.seek(self._stop - self._start)

    def _request(self, start: int, stop: int) -> None:
        session, handle = self._source.session()
        if self._session not in (None, session):
            raise ConnectionLostError("the session was replaced")
        self._session = session
        while start < stop:
            end = min(start + session.read_size, stop)
            place = self._buffer[start - self._start : end - self._start]
            self._pending.append((start, end, session.read(handle, start, place)))
            start = end
        session.flush()

    def _collect(self) -> None:
        if not self._pending or self._session is None or self._session.broken:
            raise ConnectionLostError("the session ended")
        while self._pending:
            start, end, pending = self._pending.popleft()
            count = self._session.byte_count(pending)
            if not count:
                raise IntegrityError(f"the file ends at byte {start}, where more was promised")
            if start + count < end:  # a server may give less than it was asked for
                self._request(start + count, end)


class SFTPWriter(MultipartWriter, SFTPRemoteFile):
    """Writes a file in parts, each at its place in one hidden file; over a far line through several sessions at once.

    Args:
        path: The file.
        options: How it is written.
        upload: What opens, fills and publishes the hidden file.
        concurrency: Through how many sessions at most.
        workers: Gives the threads that write.
        size: How much will come, as far as anybody knows.
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
    """A private copy of a file, read and written in place; closing renames it.

    Args:
        path: The file.
        options: How it is written.
        atomic_write: Makes the copy, and publishes it.
        pool: Lends the session.
    """

    def __init__(
        self,
        path: str,
        options: WriteOptions,
        *,
        atomic_write: AtomicWrite,
        pool: Pool,
    ) -> None:
        def opened(session: Session) -> Session:
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
            return session

        self._session = pool.run_and_keep(opened)
        super().__init__(FileMode.read | FileMode.write)
        self.path = path
        self._options = options
        self._atomic_write = atomic_write
        self._pool = pool
        self._position = 0

    def seekable(self) -> bool:
        """Whether :meth:`seek` works: it does."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in bytes, also beyond the end, and return it."""
        self._check(FileMode.read)
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in starts:
            raise ValueError(f"whence is 0, 1 or 2, not {whence!r}")
        self._position = _position(starts[whence] + operator.index(offset))
        return self._position

    def tell(self) -> int:
        """Return the position in bytes."""
        self._check(FileMode.read)
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        """Make the file so long, in bytes; None for up to here."""
        self._check(FileMode.write)
        size = _position(self._position if size is None else operator.index(size))
        with self._discard_on_error():
            self._atomic_write.resize(self._session, self._handle, size)
        self._size = size
        return size

    def _read(self, size: int) -> bytes:
        stop = self._size if size < 0 else min(self._position + size, self._size)
        data = bytearray(max(stop - self._position, 0))
        self._readinto(memoryview(data))
        return bytes(data)

    def _readinto(self, view: memoryview) -> int:
        count = max(min(len(view), self._size - self._position), 0)
        for start in range(0, count, _COPY_BUFFER_SIZE):
            read(
                self._session, self._handle, self._position + start, view[start : min(start + _COPY_BUFFER_SIZE, count)]
            )
        self._position += count
        return count

    def _write(self, view: memoryview) -> None:
        write(self._session, self._handle, self._position, view)
        self._position += len(view)
        self._size = max(self._size, self._position)

    def _publish(self) -> None:
        try:
            self._atomic_write.commit(
                self._session, self._handle, self._size, self._temporary, self.path, self._options
            )
        except ConnectionLostError as error:
            raise unknown_outcome(error) from error
        self._pool.release(self._session)

    def _discard(self) -> None:
        try:
            if self._session.broken:
                self._pool.run(lambda session: self._atomic_write.tree.try_remove_temporary(session, self._temporary))
            else:
                self._atomic_write.discard(self._session, self._temporary, self._handle)
        finally:
            self._pool.release(self._session)

    def _release(self) -> None:
        if self._pid == os.getpid():
            self._pool.release_from_finalizer(self._session)


def _position(number: int) -> int:
    if not 0 <= number <= _LAST_POSITION:
        raise ValueError(f"there is no byte at position {number}")
    return number


_LAST_POSITION = (1 << 63) - 1 - (1 << 40)
"""What comes after it has to fit into the numbers of the server's file system too."""
_COPY_BUFFER_SIZE = 8 * 1024 * 1024
"""How much is asked for before any of it is waited for, in bytes."""
