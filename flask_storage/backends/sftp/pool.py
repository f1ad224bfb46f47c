"""The conversations of one process with a server: few connections, each used again and again."""

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
    """Lends sessions, each to one borrower at a time.

    A connection is made when all sessions of those before are lent and they may have no more. What is given back waits
    for the next borrower, and is closed when none has come for a while; a connection without sessions is closed too.

    Args:
        connect: Makes a connection.
        max_connections: How many there may be at once.
        sessions_per_connection: How many sessions a connection may carry; a server that allows fewer is believed.
        idle_timeout: How long a session waits for its next borrower, in seconds.
        acquire_timeout: How long a borrower waits for a session, in seconds.
        recheck_after: After how long an idle session is asked whether it is there before it is lent, in seconds.
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
        """Borrow a session, and hear whether it is new.

        Args:
            nowait: Do not wait for one that is lent, and leave a quarter of what there may be to others.

        Raises:
            StorageTimeoutError: when none is given back in time.
            StorageError: when no connection can be made.
        """
        if nowait and len(self._in_use) >= self._capacity() * 3 // 4:
            raise StorageTimeoutError("the sessions that are left are for others")
        ends = time.monotonic() + (0 if nowait else self._acquire_timeout)
        while True:
            idle, roomy = self._reserve(ends)
            self._close_ended()
            if idle is not None:
                if self._is_usable(*idle):
                    return idle[0], False
            else:
                session = self._open_connection() if roomy is None else self._open_session(roomy)
                if session is not None:
                    return session, True

    def release(self, session: Session) -> None:
        """Take a session back; one that is broken, or has much still to come, is closed."""
        if self._pid != os.getpid():
            return  # the parent's; a lock that one of its threads held is never released here
        try:
            if not session.broken:
                with suppress(ConnectionLostError, TimeoutError):
                    session.flush()  # such as that a file is closed
        finally:
            with self._condition:
                self._return_session(session)
                self._condition.notify()
            self._close_ended()

    def release_from_finalizer(self, session: Session) -> None:
        """Take back a session that is to be closed, without a lock and without the network.

        For finalizers: the garbage collector runs them in any thread, also amid sending on the same connection. The
        next borrower closes it.
        """
        self._released.append((session, session.broken))
        session.close()

    def run(self, work: Callable[[Session], T]) -> T:
        """Do *work* with a session, and give the session back; see :meth:`run_and_keep`."""

        def done(session: Session) -> tuple[Session, T]:
            return session, work(session)

        session, result = self.run_and_keep(done)
        self.release(session)
        return result

    def run_and_keep(self, work: Callable[[Session], T]) -> T:
        """Do *work* with a session, which whoever did it gives back some day.

        When the connection breaks off, it is done once more on another one.

        Args:
            work: What may be done twice; or it raises something else when it may have been done.

        Raises:
            ConnectionLostError: when the new connection broke off as well.
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
        """End everything. What is lent breaks off; who borrows later gets a new connection.

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

    def _reserve(self, ends: float) -> tuple[_IdleSession | None, Connection | None]:
        """Return an idle session; or a connection that has room for one more; or neither, for a new connection.

        Args:
            ends: Until when to wait for one of them.
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
                roomy = [
                    one
                    for one in self._connections
                    if one.session_count < min(one.session_limit, self._sessions_per_connection)
                ]
                for connection in roomy:
                    if not connection.needs_check:
                        connection.session_count += 1
                        return None, connection
                if not self._connecting and len(self._connections) < self._max_connections:
                    self._connecting += 1
                    return None, None
                if roomy:
                    roomy[0].session_count += 1
                    return None, roomy[0]
                left = ends - time.monotonic()
                if left <= 0:
                    raise StorageTimeoutError(
                        f"all {len(self._in_use)} sessions are in use: close files that are read or written to their "
                        "end, or raise max_connections"
                        if self._in_use
                        else f"no connection was made in time{self._last_error}: try again, or raise connect_timeout"
                    )
                self._condition.wait(min(left, _POLL_INTERVAL))

    def _capacity(self) -> int:
        """Return how many sessions there may be at once, as far as anybody knows."""
        made = list(self._connections)
        return (
            sum(min(one.session_limit, self._sessions_per_connection) for one in made)
            + max(self._max_connections - len(made), 0) * self._sessions_per_connection
        )

    def _is_usable(self, session: Session, connection: Connection, since: float) -> bool:
        """Whether an idle session can be lent.

        It is asked where the line was idle for long, which something on its way may have cut, or had trouble before.
        """
        if time.monotonic() - since < self._recheck_after and not connection.needs_check:
            return True
        try:
            session.ping()
            connection.needs_check = False
        except (ConnectionLostError, ProtocolError, TimeoutError):
            connection.close()  # what else it carries is no better
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
        """Begin a session, for which a place has been taken; None when this connection has no room or is dead."""
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
        """Close what has ended. Not under the lock, which would be held while a server takes its time."""
        with suppress(IndexError):  # none is left; other threads take some too
            while True:
                self._closed.popleft().close_channel()
        with suppress(IndexError):
            while True:
                self._dropped.popleft().close()

    def _end_session(self, session: Session, connection: Connection, *, was_broken: bool = False) -> None:
        is_well = connection.is_alive and not was_broken
        connection.needs_check = connection.needs_check or not is_well
        session.close()
        self._closed.append(session)
        connection.session_count -= 1
        if not (is_well or (connection.session_count and connection.is_alive)):
            self._discard_connection(connection)
        elif not connection.session_count:
            # A login is dear, and a reader that was closed early takes its session with it.
            connection.idle_since = time.monotonic()
            connection.session_limit = UNLIMITED  # the server may have been slow to see what had ended
            self._start_timer()

    def _discard_connection(self, connection: Connection) -> None:
        self._dropped.append(connection)
        if connection in self._connections:
            self._connections.remove(connection)

    def _discard_dead(self) -> None:
        for waiting in [one for one in self._idle_sessions if one[0].broken or not one[1].is_alive]:
            self._idle_sessions.remove(waiting)
            self._end_session(waiting[0], waiting[1], was_broken=waiting[0].broken)
        self._connections = [one for one in self._connections if one.is_alive]

    def _start_timer(self) -> None:
        """See to it that what nobody wants for a while is closed."""
        if self._timer is None:
            self._timer = threading.Timer(self._idle_timeout, self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._condition:
            self._timer = None
            old = time.monotonic() - self._idle_timeout
            for waiting in [one for one in self._idle_sessions if one[2] <= old]:
                self._idle_sessions.remove(waiting)
                self._end_session(waiting[0], waiting[1])
                waiting[1].idle_since = waiting[2]
            empty = [one for one in self._connections if not one.session_count]
            for connection in [one for one in empty if one.idle_since <= old]:
                self._discard_connection(connection)
            if self._idle_sessions or any(not one.session_count for one in self._connections):
                self._start_timer()
        self._close_ended()


_POLL_INTERVAL = 1
"""How often a borrower who waits looks for what was left, in seconds."""
_MAX_OUTSTANDING = 4
"""Answers still to come, of which each may be 255 KiB: more are not worth waiting for."""

_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()
_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Say goodbye to the servers when the process ends."""
    for pool in list(_POOLS):
        pool.close()


def _detach_all() -> None:
    """In the child of a fork: leave its parent's conversations alone, also when they are thrown away."""
    for session in list(_SESSIONS):
        session.detach()


with suppress(AttributeError):  # Windows has none
    os.register_at_fork(after_in_child=_detach_all)
