"""Writing a hidden file, through one session or several, and giving it its name."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import StorageUnavailableError
from ...parts import Part, PartLimits, PartStore, PendingUpload
from ...values import WriteOptions
from .drafts import POSIX_RENAME, Drafts
from .errors import not_written, unknown
from .packing import Attributes
from .pool import Pool
from .protocol import CLOSE, FSTAT, ConnectionLostError, Pending, Session, StatusError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_AT_ONCE = 64
"""Requests of one part that are on their way; their answers are short, so that they never block each other."""


class SFTPWrites(PartStore):
    """What one writer does: the parts of a file, each at its place in a hidden file that grows.

    Every part is of one size. A line that was cut ends the upload: a server that was started anew may have forgotten
    what it had not written to its disk.

    Args:
        drafts: Makes hidden files, and publishes them.
        pool: Lends sessions.
        part_size: How long every part but the last is, in bytes.
        sessions: Through how many sessions one file is written, at most.
    """

    limits = PartLimits(max_count=1 << 40, uniform=True)

    def __init__(self, drafts: Drafts, pool: Pool, *, part_size: int, sessions: int) -> None:
        self.part_size = part_size
        self._drafts = drafts
        self._pool = pool
        self._sessions = sessions
        self._upload: _Upload | None = None

    def put_whole(self, path: str, data: ReadableBuffer, options: WriteOptions) -> None:
        """Store a file in one go."""
        view = memoryview(data).cast("B")

        def stored(session: Session) -> None:
            temporary, handle = self._drafts.create(session, path)
            try:
                written: deque[Pending] = deque()
                start_writing(session, handle, 0, view, written)
                self._drafts.finish(session, handle, len(view), temporary, path, options, written=written)
            except ConnectionLostError as error:
                raise unknown(error) from error
            except BaseException:
                if not session.broken:
                    self._drafts.give_up(session, temporary, handle)
                raise

        self._pool.run(stored)

    def begin(self, path: str, options: WriteOptions) -> str:
        """Make the hidden file."""
        self._upload = _Upload(self._drafts, self._pool, path, self._sessions)
        return self._upload.temporary

    def put_part(self, path: str, upload_id: str, number: int, data: ReadableBuffer) -> Part:
        """Write one part."""
        view = memoryview(data).cast("B")
        with self._begun().stripe() as stripe:
            stripe.write((number - 1) * self.part_size, view)
        return Part(number=number, size=len(view), etag="")

    def finish(self, path: str, upload_id: str, parts: Sequence[Part], options: WriteOptions) -> None:
        """Give the file its name."""
        self._begun().finish(path, sum(part.size for part in parts), options)

    def discard(self, path: str, upload_id: str) -> None:
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

    def _begun(self) -> _Upload:
        if self._upload is None:
            raise LookupError("begin() comes first")
        return self._upload


class _Stripe:
    """A session in which a hidden file is open, and the writes whose answers are still to come."""

    def __init__(self, session: Session, handle: bytes) -> None:
        self.session = session
        self.handle = handle
        self.asked: deque[Pending] = deque()

    def write(self, offset: int, view: memoryview) -> None:
        """Send bytes. That the last of them arrived is known when the upload is finished, and nobody waits before."""
        try:
            start_writing(self.session, self.handle, offset, view, self.asked)
            self.session.flush()
        except StatusError as error:
            raise not_written(self.session, error) from error


class _Upload:
    """A hidden file that is open in one session or more."""

    def __init__(self, drafts: Drafts, pool: Pool, path: str, most: int) -> None:
        self._drafts = drafts
        self._pool = pool
        self._most = most
        self._changed = threading.Condition()
        self._trouble: BaseException | None = None
        self._is_over = False
        self._is_unknown = False

        def opened(session: Session) -> tuple[_Stripe, str, Attributes]:
            temporary, handle = drafts.create(session, path)
            if session.distance < NEAR:
                self._most = 1
                return _Stripe(session, handle), temporary, Attributes()
            try:
                return _Stripe(session, handle), temporary, session.wait(session.about(FSTAT, handle))
            except BaseException:
                if not session.broken:
                    drafts.give_up(session, temporary, handle)
                raise

        first, self.temporary, self._made = pool.keep(opened)
        self._root, self._distance = first.session.root, first.session.distance
        self._free: deque[_Stripe] = deque([first])
        self._count = 1

    @contextmanager
    def stripe(self) -> Iterator[_Stripe]:
        """Lend a session in which the file is open."""
        stripe = self._take()
        try:
            yield stripe
        except BaseException as error:
            self._trouble = self._trouble or error
            raise
        finally:
            with self._changed:
                self._free.append(stripe)
                if self._is_over:
                    self.abandon()
                else:
                    self._changed.notify_all()  # also those who will hear that all is over, and take none

    def finish(self, path: str, size: int, options: WriteOptions) -> None:
        """See to it that all is there and stays there, and give it its name."""
        self._check()
        first, *others = self._free
        try:
            self._end(others)
            written = first.asked
            self._drafts.finish(first.session, first.handle, size, self.temporary, path, options, written=written)
        except ConnectionLostError as error:
            self._is_unknown = POSIX_RENAME not in first.session.extensions
            raise unknown(error) from error
        self._free.clear()
        self._pool.give_back(first.session)

    def discard(self) -> None:
        """Delete it; but where the old file may have been set aside for it, leave it to the sweep."""
        session = self._free[0].session if self._free else None
        try:
            for stripe in self._free:
                if not stripe.session.broken:
                    self._drafts.tree.let_go(stripe.session, stripe.handle)
            if session is not None and not session.broken:
                self._drafts.tree.drop(session, self.temporary)
            elif not self._is_unknown:
                self._pool.run(lambda another: self._drafts.tree.drop(another, self.temporary))
        finally:
            while self._free:
                self._pool.give_back(self._free.popleft().session)

    def abandon(self) -> None:
        """Drop the sessions, and wait for nothing; one that is lent follows as soon as it is given back."""
        with self._changed:
            self._is_over = True
            while self._free:
                self._pool.leave(self._free.popleft().session)
            self._changed.notify_all()

    def _end(self, stripes: Sequence[_Stripe]) -> None:
        """Hear that all that went through some sessions has arrived, in one turn, and give the sessions back."""
        closed = [stripe.session.about(CLOSE, stripe.handle) for stripe in stripes]
        for stripe in stripes:
            stripe.session.flush()
        for stripe, last in zip(stripes, closed, strict=True):
            try:
                stripe.session.wait_for_all([*stripe.asked, last])
            except StatusError as error:
                raise not_written(stripe.session, error) from error
            self._free.remove(stripe)
            self._pool.give_back(stripe.session)

    def _check(self) -> None:
        if isinstance(self._trouble, ConnectionLostError):
            raise StorageUnavailableError("the connection broke off: write the file anew") from self._trouble
        if self._trouble is not None:  # whichever part is asked first, the answer is that of the one that failed
            raise self._trouble

    def _take(self) -> _Stripe:
        with self._changed:
            self._check()
            if not self._free and self._count < self._most:
                self._count += 1
            else:
                return self._next()
        try:
            session, _ = self._pool.take(at_once=True)
            try:
                if session.root is None:
                    session.root, session.distance = self._root, self._distance
                return _Stripe(session, self._drafts.open_again(session, self.temporary, self._made))
            except BaseException:
                self._pool.give_back(session)
                raise
        except Exception:  # noqa: BLE001 - whatever it is, those that there are will do, or say what is wrong
            with self._changed:
                self._most = self._count = self._count - 1
                return self._next()

    def _next(self) -> _Stripe:
        """Wait for a session that is not in use; only with the lock."""
        while not self._free:
            if self._is_over:  # nobody gives any back
                raise StorageUnavailableError("the write was given up")
            self._changed.wait()
        self._check()
        return self._free.popleft()


NEAR = 0.01
"""Answers that come faster than this, in seconds, make a second session a burden: the line is never empty."""


def write(session: Session, handle: bytes, offset: int, view: memoryview) -> None:
    """Write bytes at an offset of an open file; it has been said of all of them that they arrived.

    Raises:
        StorageFullError, StatusError: when they did not.
    """
    asked: deque[Pending] = deque()
    try:
        start_writing(session, handle, offset, view, asked)
        session.wait_for_all(asked)
    except StatusError as error:
        raise not_written(session, error) from error


def start_writing(session: Session, handle: bytes, offset: int, view: memoryview, asked: deque[Pending]) -> None:
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
        if len(asked) == _AT_ONCE:
            session.wait(asked.popleft())
        asked.append(session.write(handle, offset + start, view[start : start + session.write_size]))
