"""Writing a hidden file, through one session or several, and giving it its name."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import StorageUnavailableError
from ...multipart import MultipartStore, Part, PartLimits, PendingUpload
from ...types import WriteOptions
from .atomic_write import POSIX_RENAME, AtomicWrite
from .codec import Attributes
from .errors import unknown_outcome, write_error
from .pool import Pool
from .protocol import CLOSE, FSTAT, ConnectionLostError, PendingReply, Session, StatusError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAX_OUTSTANDING_WRITES = 64
"""Requests of one part that are on their way; their answers are short, so that they never block each other."""


class SFTPUpload(MultipartStore):
    """What one writer does: the parts of a file, each at its place in a hidden file that grows.

    Every part is of one size. A line that was cut ends the upload: a server that was started anew may have forgotten
    what it had not written to its disk.

    Args:
        atomic_write: Makes hidden files, and publishes them.
        pool: Lends sessions.
        part_size: How long every part but the last is, in bytes.
        sessions: Through how many sessions one file is written, at most.
    """

    limits = PartLimits(max_count=1 << 40, uniform=True)

    def __init__(self, atomic_write: AtomicWrite, pool: Pool, *, part_size: int, sessions: int) -> None:
        self.part_size = part_size
        self._atomic_write = atomic_write
        self._pool = pool
        self._sessions = sessions
        self._upload: _ParallelUpload | None = None

    def put(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """Store a file in one go."""
        view = memoryview(data).cast("B")

        def stored(session: Session) -> None:
            temporary, handle = self._atomic_write.create(session, path)
            try:
                written: deque[PendingReply] = deque()
                start_write(session, handle, 0, view, written)
                self._atomic_write.commit(session, handle, len(view), temporary, path, options, written=written)
            except ConnectionLostError as error:
                raise unknown_outcome(error) from error
            except BaseException:
                if not session.broken:
                    self._atomic_write.discard(session, temporary, handle)
                raise

        self._pool.run(stored)

    def create(self, path: str, options: WriteOptions) -> str:
        """Make the hidden file."""
        self._upload = _ParallelUpload(self._atomic_write, self._pool, path, self._sessions)
        return self._upload.temporary

    def upload_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Write one part."""
        view = memoryview(data).cast("B")
        with self._started().acquire() as upload_session:
            upload_session.write((number - 1) * self.part_size, view)
        return Part(number=number, size=len(view), etag="")

    def complete(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Give the file its name."""
        self._started().finish(path, sum(part.size for part in parts), options)

    def abort(self, path: str, upload_id: str) -> None:
        """Delete the hidden file."""
        if self._upload is not None:
            self._upload.discard()

    def abandon(self) -> None:
        """Drop the sessions of a file that nobody finishes; the sweep takes the hidden file."""
        if self._upload is not None:
            self._upload.abandon()

    def list_parts(self, path: str, upload_id: str) -> list[Part]:
        """Return nothing: what a writer begins is known to nobody else."""
        return []

    def list_uploads(self, path: str = "") -> Iterator[PendingUpload]:
        """Yield nothing, likewise."""
        return iter(())

    def _started(self) -> _ParallelUpload:
        if self._upload is None:
            raise LookupError("begin() comes first")
        return self._upload


class _UploadSession:
    """A session in which a hidden file is open, and the writes whose answers are still to come."""

    def __init__(self, session: Session, handle: bytes) -> None:
        self.session = session
        self.handle = handle
        self.pending_writes: deque[PendingReply] = deque()

    def write(self, offset: int, view: memoryview) -> None:
        """Send bytes. That the last of them arrived is known when the upload is finished, and nobody waits before."""
        try:
            start_write(self.session, self.handle, offset, view, self.pending_writes)
            self.session.flush()
        except StatusError as error:
            raise write_error(self.session, error) from error


class _ParallelUpload:
    """A hidden file that is open in one session or more."""

    def __init__(self, atomic_write: AtomicWrite, pool: Pool, path: str, max_sessions: int) -> None:
        self._atomic_write = atomic_write
        self._pool = pool
        self._max_sessions = max_sessions
        self._condition = threading.Condition()
        self._first_error: BaseException | None = None
        self._is_closed = False
        self._outcome_unknown = False

        def opened(session: Session) -> tuple[_UploadSession, str, Attributes]:
            temporary, handle = atomic_write.create(session, path)
            if session.round_trip_time < NEAR_ROUND_TRIP:
                self._max_sessions = 1
                return _UploadSession(session, handle), temporary, Attributes()
            try:
                return _UploadSession(session, handle), temporary, session.wait(session.request(FSTAT, handle))
            except BaseException:
                if not session.broken:
                    atomic_write.discard(session, temporary, handle)
                raise

        first, self.temporary, self._created_attributes = pool.run_and_keep(opened)
        self._root, self._round_trip_time = first.session.root, first.session.round_trip_time
        self._free: deque[_UploadSession] = deque([first])
        self._count = 1

    @contextmanager
    def acquire(self) -> Iterator[_UploadSession]:
        """Lend a session in which the file is open."""
        upload_session = self._acquire()
        try:
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
                    self._condition.notify_all()  # also those who will hear that all is over, and take none

    def finish(self, path: str, size: int, options: WriteOptions) -> None:
        """See to it that all is there and stays there, and give it its name."""
        self._check()
        first, *others = self._free
        try:
            self._end(others)
            written = first.pending_writes
            self._atomic_write.commit(first.session, first.handle, size, self.temporary, path, options, written=written)
        except ConnectionLostError as error:
            self._outcome_unknown = POSIX_RENAME not in first.session.extensions
            raise unknown_outcome(error) from error
        self._free.clear()
        self._pool.release(first.session)

    def discard(self) -> None:
        """Delete it; but where the old file may have been set aside for it, leave it to the sweep."""
        session = self._free[0].session if self._free else None
        try:
            for upload_session in self._free:
                if not upload_session.session.broken:
                    self._atomic_write.tree.close_handle(upload_session.session, upload_session.handle)
            if session is not None and not session.broken:
                self._atomic_write.tree.try_remove_temporary(session, self.temporary)
            elif not self._outcome_unknown:
                self._pool.run(lambda another: self._atomic_write.tree.try_remove_temporary(another, self.temporary))
        finally:
            while self._free:
                self._pool.release(self._free.popleft().session)

    def abandon(self) -> None:
        """Drop the sessions, and wait for nothing; one that is lent follows as soon as it is given back."""
        with self._condition:
            self._is_closed = True
            while self._free:
                self._pool.release_from_finalizer(self._free.popleft().session)
            self._condition.notify_all()

    def _end(self, upload_sessions: Sequence[_UploadSession]) -> None:
        """Hear that all that went through some sessions has arrived, in one turn, and give the sessions back."""
        closed = [upload_session.session.request(CLOSE, upload_session.handle) for upload_session in upload_sessions]
        for upload_session in upload_sessions:
            upload_session.session.flush()
        for upload_session, last in zip(upload_sessions, closed, strict=True):
            try:
                upload_session.session.wait_for_all([*upload_session.pending_writes, last])
            except StatusError as error:
                raise write_error(upload_session.session, error) from error
            self._free.remove(upload_session)
            self._pool.release(upload_session.session)

    def _check(self) -> None:
        if isinstance(self._first_error, ConnectionLostError):
            raise StorageUnavailableError("the connection broke off: write the file anew") from self._first_error
        if self._first_error is not None:  # whichever part is asked first, the answer is that of the one that failed
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
                return _UploadSession(
                    session, self._atomic_write.reopen(session, self.temporary, self._created_attributes)
                )
            except BaseException:
                self._pool.release(session)
                raise
        except Exception:  # noqa: BLE001 - whatever it is, those that there are will do, or say what is wrong
            with self._condition:
                self._max_sessions = self._count = self._count - 1
                return self._wait_for_free()

    def _wait_for_free(self) -> _UploadSession:
        """Wait for a session that is not in use; only with the lock."""
        while not self._free:
            if self._is_closed:  # nobody gives any back
                raise StorageUnavailableError("the write was given up")
            self._condition.wait()
        self._check()
        return self._free.popleft()


NEAR_ROUND_TRIP = 0.01
"""Answers that come faster than this, in seconds, make a second session a burden: the line is never empty."""


def write(session: Session, handle: bytes, offset: int, view: memoryview) -> None:
    """Write bytes at an offset of an open file; it has been said of all of them that they arrived.

    Raises:
        StorageFullError, StatusError: when they did not.
    """
    asked: deque[PendingReply] = deque()
    try:
        start_write(session, handle, offset, view, asked)
        session.wait_for_all(asked)
    except StatusError as error:
        raise write_error(session, error) from error


def start_write(session: Session, handle: bytes, offset: int, view: memoryview, asked: deque[PendingReply]) -> None:
    """Write bytes at an offset of an open file.

    Args:
        session: In which it is open.
        handle: Of it.
        offset: Where.
        view: What.
        asked: The requests whose answers are still to come; those of these bytes are added.

    Raises:
        StatusError: when one of those before them was refused.
    """
    for start in range(0, len(view), session.write_size):
        if len(asked) == _MAX_OUTSTANDING_WRITES:
            session.wait(asked.popleft())
        asked.append(session.write(handle, offset + start, view[start : start + session.write_size]))
