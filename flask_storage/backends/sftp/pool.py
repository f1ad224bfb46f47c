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

_Idle: TypeAlias = tuple[Session, Connection, float]


class Pool:
    """Lends sessions, each to one borrower at a time.

    A connection is made when all sessions of those before are lent and they may have no more. What is given back waits
    for the next borrower, and is closed when none has come for a while; a connection without sessions is closed too.

    Args:
        connect: Makes a connection.
        connections: How many there may be at once.
        each: How many sessions a connection may carry; a server that allows fewer is believed.
        idle: How long a session waits for its next borrower, in seconds.
        wait: How long a borrower waits for a session, in seconds.
        trust: After how long an idle session is asked whether it is there before it is lent, in seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        connections: int,
        each: int,
        idle: float,
        wait: float,
        trust: float = 30,
    ) -> None:
        self._connect = connect
        self._most = connections
        self._each = each
        self._idle = idle
        self._wait = wait
        self._trust = trust
        self._changed = threading.Condition()
        self._connections: list[Connection] = []
        self._connecting = 0
        self._trouble = ""  # with the last attempt to connect
        self._waiting: list[_Idle] = []
        self._lent: dict[Session, Connection] = {}
        self._left: deque[tuple[Session, bool]] = deque()
        self._ended: deque[Session] = deque()
        self._dropped: deque[Connection] = deque()
        self._timer: threading.Timer | None = None
        self._pid = os.getpid()
        _POOLS.add(self)

    def take(self, *, at_once: bool = False) -> tuple[Session, bool]:
        """Borrow a session, and hear whether it is new.

        Args:
            at_once: Do not wait for one that is lent, and leave a quarter of what there may be to others.

        Raises:
            StorageTimeoutError: when none is given back in time.
            StorageError: when no connection can be made.
        """
        if at_once and len(self._lent) >= self._room() * 3 // 4:
            raise StorageTimeoutError("the sessions that are left are for others")
        ends = time.monotonic() + (0 if at_once else self._wait)
        while True:
            idle, roomy = self._claim(ends)
            self._bury()
            if idle is not None:
                if self._is_well(*idle):
                    return idle[0], False
            else:
                session = self._grow() if roomy is None else self._begin(roomy)
                if session is not None:
                    return session, True

    def give_back(self, session: Session) -> None:
        """Take a session back; one that is broken, or has much still to come, is closed."""
        if self._pid != os.getpid():
            return  # the parent's; a lock that one of its threads held is never released here
        try:
            if not session.broken:
                with suppress(ConnectionLostError, TimeoutError):
                    session.flush()  # such as that a file is closed
        finally:
            with self._changed:
                self._take_back(session)
                self._changed.notify()
            self._bury()

    def leave(self, session: Session) -> None:
        """Take back a session that is to be closed, without a lock and without the network.

        For finalizers: the garbage collector runs them in any thread, also amid sending on the same connection. The
        next borrower closes it.
        """
        self._left.append((session, session.broken))
        session.close()

    def run(self, work: Callable[[Session], T]) -> T:
        """Do *work* with a session, and give the session back; see :meth:`keep`."""

        def done(session: Session) -> tuple[Session, T]:
            return session, work(session)

        session, result = self.keep(done)
        self.give_back(session)
        return result

    def keep(self, work: Callable[[Session], T]) -> T:
        """Do *work* with a session, which whoever did it gives back some day.

        When the connection breaks off, it is done once more on another one.

        Args:
            work: What may be done twice; or it raises something else when it may have been done.

        Raises:
            ConnectionLostError: when the new connection broke off as well.
        """
        is_lost = False
        while True:
            session, is_new = self.take()
            try:
                return work(session)
            except BaseException as error:
                self.give_back(session)
                if not isinstance(error, ConnectionLostError) or (is_lost and is_new):
                    raise
                is_lost = True

    def close(self) -> None:
        """End everything. What is lent breaks off; who borrows later gets a new connection.

        In the child of a fork it does nothing.
        """
        if self._pid != os.getpid():
            return
        with self._changed:
            connections, self._connections = self._connections, []
            self._ended.extend(session for session, _, _ in self._waiting)
            self._waiting.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._changed.notify_all()
        self._bury()
        for connection in connections:
            connection.close()

    # -- inner --------------------------------------------------------------------------------------------------------

    def _claim(self, ends: float) -> tuple[_Idle | None, Connection | None]:
        """Return an idle session; or a connection that has room for one more; or neither, for a new connection.

        Args:
            ends: Until when to wait for one of them.
        """
        with self._changed:
            while True:
                while self._left:
                    session, was_broken = self._left.popleft()
                    connection = self._lent.pop(session, None)
                    if connection is not None:
                        self._end(session, connection, was_broken=was_broken)
                self._drop_dead()
                if self._waiting:
                    idle = self._waiting.pop()
                    self._lent[idle[0]] = idle[1]
                    return idle, None
                roomy = [one for one in self._connections if one.carried < min(one.limit, self._each)]
                for connection in roomy:
                    if not connection.is_doubted:
                        connection.carried += 1
                        return None, connection
                if not self._connecting and len(self._connections) < self._most:
                    self._connecting += 1
                    return None, None
                if roomy:
                    roomy[0].carried += 1
                    return None, roomy[0]
                left = ends - time.monotonic()
                if left <= 0:
                    raise StorageTimeoutError(
                        f"all {len(self._lent)} sessions are in use: close files that are read or written to their "
                        "end, or raise max_connections"
                        if self._lent
                        else f"no connection was made in time{self._trouble}: try again, or raise connect_timeout"
                    )
                self._changed.wait(min(left, _LOOK_AGAIN))

    def _room(self) -> int:
        """Return how many sessions there may be at once, as far as anybody knows."""
        made = list(self._connections)
        return sum(min(one.limit, self._each) for one in made) + max(self._most - len(made), 0) * self._each

    def _is_well(self, session: Session, connection: Connection, since: float) -> bool:
        """Whether an idle session can be lent.

        It is asked where the line was idle for long, which something on its way may have cut, or had trouble before.
        """
        if time.monotonic() - since < self._trust and not connection.is_doubted:
            return True
        try:
            session.check()
            connection.is_doubted = False
        except (ConnectionLostError, ProtocolError, TimeoutError):
            connection.close()  # what else it carries is no better
            self.give_back(session)
            return False
        except BaseException:
            self.give_back(session)
            raise
        return True

    def _grow(self) -> Session | None:
        """Make a connection, with its first session."""
        try:
            connection = self._connect()
        except BaseException as error:
            with self._changed:
                self._trouble = f" (before: {error})"
                self._connecting -= 1
                self._changed.notify_all()
            raise
        self._trouble = ""
        connection.carried = 1
        try:
            return self._begin(connection, fresh=True)
        finally:
            with self._changed:
                self._connecting -= 1
                if connection.carried:
                    self._connections.append(connection)
                self._changed.notify_all()

    def _begin(self, connection: Connection, *, fresh: bool = False) -> Session | None:
        """Begin a session, for which a place has been taken; None when this connection has no room or is dead."""
        try:
            session = connection.open()
        except BaseException as error:
            with self._changed:
                connection.carried -= 1
                refused = isinstance(error, paramiko.ChannelException)
                connection.is_doubted = connection.is_doubted or isinstance(error, TimeoutError)
                if refused:
                    connection.limit = connection.carried
                if not connection.carried:
                    self._drop(connection)
                self._changed.notify_all()
            self._bury()
            if not fresh and (refused or not connection.is_alive):
                return None
            raise
        _SESSIONS.add(session)
        with self._changed:
            self._lent[session] = connection
        return session

    def _take_back(self, session: Session) -> None:
        connection = self._lent.pop(session, None)
        if connection is None:
            return
        if session.broken or session.outstanding > _MUCH or not connection.is_alive:
            self._end(session, connection, was_broken=session.broken)
        else:
            self._waiting.append((session, connection, time.monotonic()))
            self._watch()

    def _bury(self) -> None:
        """Close what has ended. Not under the lock, which would be held while a server takes its time."""
        with suppress(IndexError):  # none is left; other threads take some too
            while True:
                self._ended.popleft().hang_up()
        with suppress(IndexError):
            while True:
                self._dropped.popleft().close()

    def _end(self, session: Session, connection: Connection, *, was_broken: bool = False) -> None:
        is_well = connection.is_alive and not was_broken
        connection.is_doubted = connection.is_doubted or not is_well
        session.close()
        self._ended.append(session)
        connection.carried -= 1
        if not (is_well or (connection.carried and connection.is_alive)):
            self._drop(connection)
        elif not connection.carried:
            # A login is dear, and a reader that was closed early takes its session with it.
            connection.empty_since = time.monotonic()
            connection.limit = UNLIMITED  # the server may have been slow to see what had ended
            self._watch()

    def _drop(self, connection: Connection) -> None:
        self._dropped.append(connection)
        if connection in self._connections:
            self._connections.remove(connection)

    def _drop_dead(self) -> None:
        for waiting in [one for one in self._waiting if one[0].broken or not one[1].is_alive]:
            self._waiting.remove(waiting)
            self._end(waiting[0], waiting[1], was_broken=waiting[0].broken)
        self._connections = [one for one in self._connections if one.is_alive]

    def _watch(self) -> None:
        """See to it that what nobody wants for a while is closed."""
        if self._timer is None:
            self._timer = threading.Timer(self._idle, self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._changed:
            self._timer = None
            old = time.monotonic() - self._idle
            for waiting in [one for one in self._waiting if one[2] <= old]:
                self._waiting.remove(waiting)
                self._end(waiting[0], waiting[1])
                waiting[1].empty_since = waiting[2]
            empty = [one for one in self._connections if not one.carried]
            for connection in [one for one in empty if one.empty_since <= old]:
                self._drop(connection)
            if self._waiting or any(not one.carried for one in self._connections):
                self._watch()
        self._bury()


_LOOK_AGAIN = 1
"""How often a borrower who waits looks for what was left, in seconds."""
_MUCH = 4
"""Answers still to come, of which each may be 255 KiB: more are not worth waiting for."""

_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()
_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Say goodbye to the servers when the process ends."""
    for pool in list(_POOLS):
        pool.close()


def _disown_all() -> None:
    """In the child of a fork: leave its parent's conversations alone, also when they are thrown away."""
    for session in list(_SESSIONS):
        session.disown()


with suppress(AttributeError):  # Windows has none
    os.register_at_fork(after_in_child=_disown_all)
