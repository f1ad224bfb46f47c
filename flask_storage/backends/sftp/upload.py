"""Uploads of one file: write the content to a temporary file through one or more sessions, then commit it.

:meth:`SFTPUpload.put` stores content that is in memory. :class:`SFTPUpload` as a :class:`MultipartStore` serves
:class:`~.files.SFTPWriter`, which sends a file of any length in parts. Sessions come from :mod:`.pool`; creating the
temporary file and renaming it is done by :mod:`.atomic_write`; writes are requests of :mod:`.protocol`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ...errors import StorageUnavailableError
from ...multipart import MultipartStore, Part, PartLimits, PendingUpload
from ...types import WriteOptions
from .atomic_write import POSIX_RENAME, AtomicWrite
from .codec import Attributes
from .errors import unknown_outcome, write_error
from .pool import KeptSession, Pool
from .protocol import CLOSE, FSTAT, ConnectionLostError, PendingReply, Session, StatusError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAX_OUTSTANDING_WRITES = 64
"""Maximum number of writes without a response. Responses to writes are short, so they never block the requests."""


class SFTPUpload(MultipartStore):
    """The upload of one writer: each part is written at its offset in one temporary file.

    All parts but the last have the same size. A lost connection ends the upload, because a server that was restarted
    may have lost what it had not written to its disk.

    Args:
        atomic_write: Creates temporary files, and commits them.
        pool: Provides sessions.
        part_size: The size of every part but the last, in bytes.
        sessions: Maximum number of sessions that write one file.
    """

    limits = PartLimits(max_count=1 << 40, uniform=True)

    def __init__(self, atomic_write: AtomicWrite, pool: Pool, *, part_size: int, sessions: int) -> None:
        self.part_size = part_size
        self._atomic_write = atomic_write
        self._pool = pool
        self._sessions = sessions
        self._upload: _ParallelUpload | None = None

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """Store a file that is in memory: create a temporary file, write the content, and commit it."""
        view = memoryview(data).cast("B")

        def store(session: Session) -> None:
            temporary, handle = self._atomic_write.create(session, path)
            try:
                writes: deque[PendingReply] = deque()
                start_write(session, handle, 0, view, writes)
                self._atomic_write.commit(session, handle, len(view), temporary, path, options, pending_writes=writes)
            except ConnectionLostError as error:
                raise unknown_outcome(error) from error
            except BaseException:
                if not session.broken:
                    self._atomic_write.discard(session, temporary, handle)
                raise

        self._pool.run(store)

    def create(self, path: str, options: WriteOptions) -> str:
        """Create the temporary file."""
        self._upload = _ParallelUpload(self._atomic_write, self._pool, path, self._sessions)
        return self._upload.temporary

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Write one part."""
        view = memoryview(data).cast("B")
        with self._started().acquire() as upload_session:
            upload_session.write((number - 1) * self.part_size, view)
        return Part(number=number, size=len(view), etag="")

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Rename the temporary file to *path*."""
        self._started().complete(path, sum(part.size for part in parts), options)

    def abort(self, path: str, upload_id: str) -> None:
        """Delete the temporary file."""
        if self._upload is not None:
            self._upload.abort()

    def abandon(self) -> None:
        """Drop the sessions of a writer that was never closed; `sweep` removes the temporary file."""
        if self._upload is not None:
            self._upload.abandon()

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return nothing: the upload of a writer is not visible to other clients."""
        return []

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield nothing; see :meth:`list_parts`."""
        return iter(())

    def _started(self) -> _ParallelUpload:
        if self._upload is None:
            raise LookupError("this upload was not created: call create() first")
        return self._upload


class _UploadSession:
    """A session in which the temporary file is open, and its writes without a response."""

    def __init__(self, kept: KeptSession, handle: bytes) -> None:
        self.kept = kept
        self.session = kept.session
        self.handle = handle
        self.pending_writes: deque[PendingReply] = deque()

    def write(self, offset: int, view: memoryview) -> None:
        """Send bytes. Responses to the last writes are not waited for before the upload is completed."""
        try:
            start_write(self.session, self.handle, offset, view, self.pending_writes)
            self.session.flush()
        except StatusError as error:
            raise write_error(self.session, error) from error


class _ParallelUpload:
    """A temporary file that is open in one or more sessions, each used by one thread at a time."""

    def __init__(self, atomic_write: AtomicWrite, pool: Pool, path: str, max_sessions: int) -> None:
        self._atomic_write = atomic_write
        self._pool = pool
        self._max_sessions = max_sessions
        self._condition = threading.Condition()
        self._created_attributes = Attributes()
        self._first_error: BaseException | None = None
        self._is_closed = False
        self._outcome_unknown = False

        def create(session: Session) -> Callable[[], None]:
            self.temporary, self._handle = atomic_write.create(session, path)
            if session.round_trip_time < NEAR_ROUND_TRIP:
                self._max_sessions = 1
            else:
                try:
                    self._created_attributes = session.wait(session.request(FSTAT, self._handle))
                except BaseException:
                    if not session.broken:
                        atomic_write.discard(session, self.temporary, self._handle)
                    raise
            return partial(atomic_write.tree.close_handle, session, self._handle)

        first = _UploadSession(pool.run_and_keep(create), self._handle)
        self._root, self._round_trip_time = first.session.root, first.session.round_trip_time
        self._free: deque[_UploadSession] = deque([first])
        self._count = 1

    @contextmanager
    def acquire(self) -> Iterator[_UploadSession]:
        """Yield a session in which the file is open, for exclusive use in the block."""
        upload_session = self._acquire()
        try:
            with upload_session.kept:
                yield upload_session
        except BaseException as error:
            self._first_error = self._first_error or error
            raise
        finally:
            with self._condition:
                self._free.append(upload_session)
                if self._is_closed:
                    self.abandon()
                else:
                    self._condition.notify_all()  # after an error, every waiting thread raises it

    def complete(self, path: str, size: int, options: WriteOptions) -> None:
        """Wait for all writes, and commit the temporary file as *path*."""
        self._check()
        first, *others = self._free
        try:
            with ExitStack() as stack:
                for upload_session in self._free:
                    stack.enter_context(upload_session.kept)
                self._close_sessions(others)
                first.kept.close = None  # the commit closes the file, also if it fails
                self._atomic_write.commit(
                    first.session,
                    first.handle,
                    size,
                    self.temporary,
                    path,
                    options,
                    pending_writes=first.pending_writes,
                )
        except ConnectionLostError as error:
            self._outcome_unknown = POSIX_RENAME not in first.session.extensions
            raise unknown_outcome(error) from error
        self._release_sessions()

    def abort(self) -> None:
        """Delete the temporary file. After a rename whose outcome is unknown, leave that to `sweep`."""
        self._release_sessions()
        if not self._outcome_unknown:
            self._pool.run(lambda session: self._atomic_write.tree.try_remove_temporary(session, self.temporary))

    def abandon(self) -> None:
        """Drop the sessions without waiting; one that is in use is dropped when it is returned."""
        with self._condition:
            self._is_closed = True
            while self._free:
                self._free.popleft().kept.release_from_finalizer()
            self._condition.notify_all()

    def _close_sessions(self, upload_sessions: Sequence[_UploadSession]) -> None:
        """Wait for all writes of some sessions, in one round trip."""
        closed = [upload_session.session.request(CLOSE, upload_session.handle) for upload_session in upload_sessions]
        for upload_session in upload_sessions:
            upload_session.kept.close = None
            upload_session.session.flush()
        for upload_session, close in zip(upload_sessions, closed, strict=True):
            try:
                upload_session.session.wait_for_all([*upload_session.pending_writes, close])
            except StatusError as error:
                raise write_error(upload_session.session, error) from error

    def _release_sessions(self) -> None:
        while self._free:  # the first one last, so that the next operation uses it
            self._free.pop().kept.release()

    def _check(self) -> None:
        if isinstance(self._first_error, ConnectionLostError):
            raise StorageUnavailableError(
                "the connection was lost during the upload: write the file again"
            ) from self._first_error
        if self._first_error is not None:  # every later part reports the error of the one that failed
            raise self._first_error

    def _acquire(self) -> _UploadSession:
        with self._condition:
            self._check()
            if not self._free and self._count < self._max_sessions:
                self._count += 1
            else:
                return self._wait_for_free()
        try:
            session, _ = self._pool.acquire(nowait=True)
            try:
                if session.root is None:
                    session.root, session.round_trip_time = self._root, self._round_trip_time
                handle = self._atomic_write.reopen(session, self.temporary, self._created_attributes)
            except BaseException:
                self._pool.release(session)
                raise
            close = partial(self._atomic_write.tree.close_handle, session, handle)
            return _UploadSession(self._pool.keep(session, close), handle)
        except Exception:  # noqa: BLE001 - the open sessions suffice; if the server fails, they report the error
            with self._condition:
                self._max_sessions = self._count = self._count - 1
                return self._wait_for_free()

    def _wait_for_free(self) -> _UploadSession:
        """Wait for a session that is not in use. The caller holds the lock."""
        while not self._free:
            if self._is_closed:  # returned sessions are dropped
                raise StorageUnavailableError("the upload was abandoned: write the file again")
            self._condition.wait()
        self._check()
        return self._free.popleft()


NEAR_ROUND_TRIP = 0.01
"""With a round-trip time below this, in seconds, one session saturates the connection; more would slow it down."""


def write(session: Session, handle: bytes, offset: int, view: memoryview) -> None:
    """Write bytes at an offset of an open file, and wait until the server has confirmed all of them.

    Raises:
        StorageFullError, StatusError: when a write failed.
    """
    writes: deque[PendingReply] = deque()
    try:
        start_write(session, handle, offset, view, writes)
        session.wait_for_all(writes)
    except StatusError as error:
        raise write_error(session, error) from error


def start_write(session: Session, handle: bytes, offset: int, view: memoryview, writes: deque[PendingReply]) -> None:
    """Request writes at an offset of an open file, without waiting for the last responses.

    Args:
        session: The session in which the file is open.
        handle: The handle of the file.
        offset: The position of the first byte.
        view: The bytes.
        writes: The writes without a response; the new ones are added.

    Raises:
        StatusError: when the server refused an earlier write.
    """
    for start in range(0, len(view), session.write_size):
        if len(writes) == _MAX_OUTSTANDING_WRITES:
            session.wait(writes.popleft())
        writes.append(session.write(handle, offset + start, view[start : start + session.write_size]))
