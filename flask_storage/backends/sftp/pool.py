"""The pool of one process: few connections to a server, whose sessions are reused.

:class:`Pool` owns connections (:mod:`.connection`) and their sessions (:mod:`.protocol`): it makes, checks and closes
them. Its callers run a function with a session (:meth:`Pool.run`), which is retried if the connection was lost.
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
    sessions.

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
        self._released: deque[tuple[Session, bool]] = deque()
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
        if nowait and len(self._in_use) >= self._capacity() * 3 // 4:
            raise StorageTimeoutError("no additional session is available: the rest is reserved for other callers")
        deadline = time.monotonic() + (0 if nowait else self._acquire_timeout)
        while True:
            idle, connection = self._reserve(deadline)
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
                    session.flush()  # requests that close files may be queued
        finally:
            with self._condition:
                self._return_session(session)
                self._condition.notify()
            self._close_ended()

    def release_from_finalizer(self, session: Session) -> None:
        """Return a session that is to be closed, without taking a lock or sending a request.

        For finalizers: the garbage collector runs them in any thread, even while that thread sends on the same
        connection. The next call of :meth:`acquire` closes the session.
        """
        self._released.append((session, session.broken))
        session.close()

    def run(self, work: Callable[[Session], T]) -> T:
        """Call *work* with a session, release the session, and return the result; see :meth:`run_and_keep`."""

        def work_with(session: Session) -> tuple[Session, T]:
            return session, work(session)

        session, result = self.run_and_keep(work_with)
        self.release(session)
        return result

    def run_and_keep(self, work: Callable[[Session], T]) -> T:
        """Call *work* with a session, which the caller releases later; if *work* raises, it is released here.

        If the connection is lost, *work* is retried with another session.

        Args:
            work: A function that is idempotent, or raises another error than :class:`ConnectionLostError` when it may
                have been carried out.

        Raises:
            ConnectionLostError: when a new connection is lost as well.
        """
        is_lost = False
        while True:
            session, is_new = self.acquire()
            try:
                return work(session)
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
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._condition.notify_all()
        self._close_ended()
        for connection in connections:
            connection.close()

    # -- inner --------------------------------------------------------------------------------------------------------

    def _reserve(self, deadline: float) -> tuple[_IdleSession | None, Connection | None]:
        """Return an idle session; or a connection that may have one more; or neither, when a new connection is due.

        Args:
            deadline: Until when to wait for one of them, by the monotonic clock.
        """
        with self._condition:
            while True:
                while self._released:
                    session, was_broken = self._released.popleft()
                    connection = self._in_use.pop(session, None)
                    if connection is not None:
                        self._end_session(session, connection, was_broken=was_broken)
                self._discard_dead()
                if self._idle_sessions:
                    idle = self._idle_sessions.pop()
                    self._in_use[idle[0]] = idle[1]
                    return idle, None
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
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise StorageTimeoutError(
                        f"all {len(self._in_use)} sessions are in use: close files that are read or written to their "
                        "end, or raise max_connections"
                        if self._in_use
                        else f"no connection was made in time{self._last_error}: try again, or raise connect_timeout"
                    )
                self._condition.wait(min(remaining, _POLL_INTERVAL))

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
                refused = isinstance(error, paramiko.ChannelException)
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
        if session.broken or session.outstanding > _MAX_OUTSTANDING or not connection.is_alive:
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
            for idle in [idle for idle in self._idle_sessions if idle[2] <= old]:
                self._idle_sessions.remove(idle)
                self._end_session(idle[0], idle[1])
                idle[1].idle_since = idle[2]
            unused = [connection for connection in self._connections if not connection.session_count]
            for connection in [connection for connection in unused if connection.idle_since <= old]:
                self._discard_connection(connection)
            if self._idle_sessions or any(not connection.session_count for connection in self._connections):
                self._start_timer()
        self._close_ended()


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
