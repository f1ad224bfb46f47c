"""The pool of one process: few connections to a server, whose sessions are reused.

:class:`Pool` owns connections (:mod:`.connection`) and their sessions (:mod:`.protocol`): it makes, checks and closes
them. Its callers run a function with a session (:meth:`Pool.run`), which is retried if the connection was lost. An open
file keeps a session (:class:`KeptSession`).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias, TypeVar

import paramiko

from ...errors import StorageTimeoutError
from .connection import UNLIMITED, Connection
from .protocol import ConnectionLostError, ProtocolError, Session

T = TypeVar("T")

_IdleSession: TypeAlias = tuple[Session, Connection, float]


class Pool:
    """Hands out sessions, each to one caller at a time.

    A new connection is made when all sessions of the existing connections are in use, and none of them may open another
    one. A released session is reused, and closed when it has been idle for *idle_timeout*. So is a connection without
    sessions. A session that an open file keeps is given to another caller between two calls of the file, if no other
    session can be had.

    Args:
        connect: Makes a connection.
        max_connections: Maximum number of connections.
        sessions_per_connection: Maximum number of sessions on one connection; if the server allows fewer, its limit is
            used.
        idle_timeout: Time after which an idle session is closed, in seconds.
        acquire_timeout: How long a caller waits for a session, in seconds.
        recheck_after: Idle time after which a session is checked before it is used, in seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        max_connections: int,
        sessions_per_connection: int,
        idle_timeout: float,
        acquire_timeout: float,
        recheck_after: float = 30,
    ) -> None:
        self._connect = connect
        self._max_connections = max_connections
        self._sessions_per_connection = sessions_per_connection
        self._idle_timeout = idle_timeout
        self._acquire_timeout = acquire_timeout
        self._recheck_after = recheck_after
        self._condition = threading.Condition()
        self._connections: list[Connection] = []
        self._connecting = 0
        self._last_error = ""  # with the last attempt to connect
        self._idle_sessions: list[_IdleSession] = []
        self._in_use: dict[Session, Connection] = {}
        # Changed only by the caller that uses the session, or with the lock while none does.
        self._kept: dict[Session, set[KeptSession]] = {}
        self._closed: deque[Session] = deque()
        self._dropped: deque[Connection] = deque()
        self._timer: threading.Timer | None = None
        self._pid = os.getpid()
        _POOLS.add(self)

    def acquire(self, *, nowait: bool = False) -> tuple[Session, bool]:
        """Return a session, and whether it is new. Callers block until one is free.

        Args:
            nowait: Do not block, and leave a quarter of the capacity to other callers.

        Raises:
            StorageTimeoutError: when no session becomes free in time.
            StorageError: when no connection can be made.
        """
        if nowait and self._unavailable_count() >= self._capacity() * 3 // 4:
            raise StorageTimeoutError("no additional session is available: the rest is reserved for other callers")
        deadline = time.monotonic() + (0 if nowait else self._acquire_timeout)
        while True:
            idle, connection = self._reserve(deadline, share=not nowait)
            self._close_ended()
            if idle is not None:
                if self._is_usable(*idle):
                    return idle[0], False
            else:
                session = self._open_connection() if connection is None else self._open_session(connection)
                if session is not None:
                    return session, True

    def release(self, session: Session) -> None:
        """Return a session to the pool; it is closed if it is broken, or has many outstanding requests."""
        if self._pid != os.getpid():
            return  # the session belongs to the parent, and this copy of its lock may never be released
        try:
            if not session.broken:
                with suppress(ConnectionLostError, TimeoutError):
                    self._close_released(session)
                    session.flush()  # requests that close files may be queued
        finally:
            with self._condition:
                self._return_session(session)
                self._condition.notify_all()
            self._close_ended()

    def keep(self, session: Session, close: Callable[[], object]) -> KeptSession:
        """Release a session in which something is open, and return it as a :class:`KeptSession`."""
        kept = KeptSession(self, session, close)
        self._kept.setdefault(session, set()).add(kept)
        self.release(session)
        return kept

    def take_back(self, session: Session) -> None:
        """Acquire a session that is kept; the caller blocks while another one uses it.

        Raises:
            ConnectionLostError: when the session is closed, or belongs to the parent of this process.
            StorageTimeoutError: when it is not released in time.
        """
        if self._pid != os.getpid():  # this copy of the lock may never be released
            raise ConnectionLostError("the connection belongs to the parent of this process")
        with self._condition:
            self._condition.wait_for(lambda: session not in self._in_use, self._acquire_timeout)
            if session in self._in_use:
                raise StorageTimeoutError(
                    "the session of the open file is in use by another operation: try again, or raise max_connections"
                )
            if not self._take_idle(session):
                raise ConnectionLostError("the session is closed")

    def clean_up(self, session: Session) -> None:
        """Close what was released in a session that is idle; otherwise, the caller that uses the session does it."""
        if self._pid != os.getpid():
            return
        with self._condition:
            is_idle = self._take_idle(session)
        if is_idle:
            self.release(session)

    def run(self, work: Callable[[Session], T]) -> T:
        """Call *work* with a session, release the session, and return the result.

        If the connection is lost, *work* is retried with another session.

        Args:
            work: A function that is idempotent, or raises another error than :class:`ConnectionLostError` when it may
                have been carried out.

        Raises:
            ConnectionLostError: when a new connection is lost as well.
        """
        session, result = self._run(work)
        self.release(session)
        return result

    def run_and_keep(self, work: Callable[[Session], Callable[[], object]]) -> KeptSession:
        """Call *work* as :meth:`run`, and keep the session.

        Args:
            work: Opens something in the session, and returns a function that requests to close it.
        """
        return self.keep(*self._run(work))

    def _run(self, work: Callable[[Session], T]) -> tuple[Session, T]:
        is_lost = False
        while True:
            session, is_new = self.acquire()
            try:
                return session, work(session)
            except BaseException as error:
                self.release(session)
                if not isinstance(error, ConnectionLostError) or (is_lost and is_new):
                    raise
                is_lost = True

    def close(self) -> None:
        """Close all connections, also those in use; later calls make new ones.

        In the child of a fork it does nothing.
        """
        if self._pid != os.getpid():
            return
        with self._condition:
            connections, self._connections = self._connections, []
            self._closed.extend(session for session, _, _ in self._idle_sessions)
            self._idle_sessions.clear()
            self._kept.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._condition.notify_all()
        self._close_ended()
        for connection in connections:
            connection.close()

    # -- inner --------------------------------------------------------------------------------------------------------

    def _reserve(self, deadline: float, *, share: bool) -> tuple[_IdleSession | None, Connection | None]:
        """Return an idle session; or a connection that may have one more; or neither, when a new connection is due.

        Args:
            deadline: Until when to wait for one of them, by the monotonic clock.
            share: Whether the idle session may be one that is kept, if there is nothing else.
        """
        with self._condition:
            while True:
                self._discard_released()
                self._discard_dead()
                free = [idle for idle in self._idle_sessions if not self._is_kept(idle[0])]
                if free:
                    self._take_idle(free[-1][0])
                    return free[-1], None
                available = [
                    connection
                    for connection in self._connections
                    if connection.session_count < min(connection.session_limit, self._sessions_per_connection)
                ]
                for connection in available:
                    if not connection.needs_check:
                        connection.session_count += 1
                        return None, connection
                if not self._connecting and len(self._connections) < self._max_connections:
                    self._connecting += 1
                    return None, None
                if available:
                    available[0].session_count += 1
                    return None, available[0]
                if self._idle_sessions and share:
                    longest_idle = self._idle_sessions[0]
                    self._take_idle(longest_idle[0])
                    return longest_idle, None
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise StorageTimeoutError(
                        f"all {len(self._in_use)} sessions are in use by other operations: try again, or raise "
                        "max_connections"
                        if self._in_use
                        else f"no connection was made in time{self._last_error}: try again, or raise connect_timeout"
                    )
                self._condition.wait(min(remaining, _POLL_INTERVAL))

    def _take_idle(self, session: Session) -> bool:
        """Mark an idle session as in use, and return whether it was idle. The caller holds the lock."""
        for idle in self._idle_sessions:
            if idle[0] is session:
                self._idle_sessions.remove(idle)
                self._in_use[session] = idle[1]
                return True
        return False

    def _is_kept(self, session: Session) -> bool:
        return bool(self._kept.get(session))

    def _close_released(self, session: Session) -> None:
        """Close what was opened in a session, and is kept no longer."""
        all_kept = self._kept.get(session, set())
        for kept in [kept for kept in all_kept if kept.is_released]:
            all_kept.discard(kept)
            if kept.close is not None:
                kept.close()

    def _unavailable_count(self) -> int:
        """Return the number of sessions that are in use or kept."""
        with self._condition:
            return len(self._in_use) + sum(self._is_kept(session) for session, _, _ in self._idle_sessions)

    def _capacity(self) -> int:
        """Return the maximum number of sessions, as far as the limits of the server are known."""
        connections = list(self._connections)
        return (
            sum(min(connection.session_limit, self._sessions_per_connection) for connection in connections)
            + max(self._max_connections - len(connections), 0) * self._sessions_per_connection
        )

    def _is_usable(self, session: Session, connection: Connection, since: float) -> bool:
        """Whether an idle session can be used.

        A request checks this if the session was idle for long, since a firewall may have dropped the connection, or if
        another session of the connection has failed.
        """
        if time.monotonic() - since < self._recheck_after and not connection.needs_check:
            return True
        try:
            session.ping()
            connection.needs_check = False
        except (ConnectionLostError, ProtocolError, TimeoutError):
            connection.close()  # its other sessions have failed too
            self.release(session)
            return False
        except BaseException:
            self.release(session)
            raise
        return True

    def _open_connection(self) -> Session | None:
        """Make a connection, with its first session."""
        try:
            connection = self._connect()
        except BaseException as error:
            with self._condition:
                self._last_error = f" (before: {error})"
                self._connecting -= 1
                self._condition.notify_all()
            raise
        self._last_error = ""
        connection.session_count = 1
        try:
            return self._open_session(connection, fresh=True)
        finally:
            with self._condition:
                self._connecting -= 1
                if connection.session_count:
                    self._connections.append(connection)
                self._condition.notify_all()

    def _open_session(self, connection: Connection, *, fresh: bool = False) -> Session | None:
        """Open a session that is counted already; return None if the connection allows no more or is dead."""
        try:
            session = connection.open()
        except BaseException as error:
            with self._condition:
                connection.session_count -= 1
                # A connection that is ending may be reported as lost before it is known to be dead.
                refused = isinstance(error, paramiko.ChannelException | ConnectionLostError)
                connection.needs_check = connection.needs_check or isinstance(error, TimeoutError)
                if refused:
                    connection.session_limit = connection.session_count
                if not connection.session_count:
                    self._discard_connection(connection)
                self._condition.notify_all()
            self._close_ended()
            if not fresh and (refused or not connection.is_alive):
                return None
            raise
        _SESSIONS.add(session)
        with self._condition:
            self._in_use[session] = connection
        return session

    def _return_session(self, session: Session) -> None:
        connection = self._in_use.pop(session, None)
        if connection is None:
            return
        is_behind = session.outstanding > _MAX_OUTSTANDING and not self._is_kept(session)
        if session.broken or is_behind or not connection.is_alive:
            self._end_session(session, connection, was_broken=session.broken)
        else:
            self._idle_sessions.append((session, connection, time.monotonic()))
            self._start_timer()

    def _close_ended(self) -> None:
        """Close the sessions and connections that have ended. Without the lock, since the server may be slow."""
        with suppress(IndexError):  # the deque is empty: other threads may have closed some
            while True:
                self._closed.popleft().close_channel()
        with suppress(IndexError):
            while True:
                self._dropped.popleft().close()

    def _end_session(self, session: Session, connection: Connection, *, was_broken: bool = False) -> None:
        is_healthy = connection.is_alive and not was_broken
        connection.needs_check = connection.needs_check or not is_healthy
        session.close()
        self._kept.pop(session, None)
        self._closed.append(session)
        connection.session_count -= 1
        if not (is_healthy or (connection.session_count and connection.is_alive)):
            self._discard_connection(connection)
        elif not connection.session_count:
            # The connection is kept: authentication is slow, and a reader that is closed early ends its session.
            connection.idle_since = time.monotonic()
            connection.session_limit = UNLIMITED  # the server may have counted sessions that had ended already
            self._start_timer()

    def _discard_connection(self, connection: Connection) -> None:
        self._dropped.append(connection)
        if connection in self._connections:
            self._connections.remove(connection)

    def _discard_released(self) -> None:
        """End the idle sessions whose files were all released by finalizers, which cannot close the files."""
        for idle in [idle for idle in self._idle_sessions if self._is_kept(idle[0])]:
            if all(kept.is_released for kept in self._kept[idle[0]]):
                self._idle_sessions.remove(idle)
                self._end_session(idle[0], idle[1])

    def _discard_dead(self) -> None:
        for idle in [idle for idle in self._idle_sessions if idle[0].broken or not idle[1].is_alive]:
            self._idle_sessions.remove(idle)
            self._end_session(idle[0], idle[1], was_broken=idle[0].broken)
        self._connections = [connection for connection in self._connections if connection.is_alive]

    def _start_timer(self) -> None:
        """Start the timer that closes idle sessions and connections."""
        if self._timer is None:
            self._timer = threading.Timer(self._idle_timeout, self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._condition:
            self._timer = None
            old = time.monotonic() - self._idle_timeout
            self._discard_released()
            for idle in [idle for idle in self._idle_sessions if idle[2] <= old and not self._is_kept(idle[0])]:
                self._idle_sessions.remove(idle)
                self._end_session(idle[0], idle[1])
                idle[1].idle_since = idle[2]
            unused = [connection for connection in self._connections if not connection.session_count]
            for connection in [connection for connection in unused if connection.idle_since <= old]:
                self._discard_connection(connection)
            if self._idle_sessions or any(not connection.session_count for connection in self._connections):
                self._start_timer()
        self._close_ended()


class KeptSession:
    """A session in which something stays open: a file, or the directories of a listing.

    A ``with`` block uses the session during one call of the file's user, and waits until no other caller uses it. Until
    the next call, which may take long if the user is slow, the pool gives it to other callers when no other is free.

    Args:
        pool: The pool of the session.
        session: The session.
        close: Closes what is open in the session, by requests only; it must not refer to its user, who may never
            release the session. None if everything is closed.

    Raises:
        ConnectionLostError, StorageTimeoutError: as :meth:`Pool.take_back`, by the ``with`` statement.
    """

    def __init__(self, pool: Pool, session: Session, close: Callable[[], object] | None) -> None:
        self.session = session
        self.close = close
        self.is_released = False
        self._pool = pool

    def __enter__(self) -> Session:
        self._pool.take_back(self.session)
        return self.session

    def __exit__(self, *_: object) -> None:
        self._pool.release(self.session)

    def release(self) -> None:
        """Close what is open, and keep the session no longer."""
        self.is_released = True
        self._pool.clean_up(self.session)

    def release_from_finalizer(self) -> None:
        """Keep the session no longer, without taking a lock or sending a request.

        For finalizers: the garbage collector runs them in any thread, even while that thread sends on the same
        connection. A later call of the pool closes what is open.
        """
        self.is_released = True


_POLL_INTERVAL = 1
"""How often a waiting caller looks for sessions that finalizers have released, in seconds."""
_MAX_OUTSTANDING = 4
"""A session with more outstanding requests, whose responses have up to 255 KiB each, is closed and not reused."""

_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()
_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all connections when the process ends."""
    for pool in list(_POOLS):
        pool.close()


def _detach_all() -> None:
    """Detach the parent's sessions in the child of a fork, so that nothing is sent when they are freed."""
    for session in list(_SESSIONS):
        session.detach()


with suppress(AttributeError):  # Windows has no fork
    os.register_at_fork(after_in_child=_detach_all)
