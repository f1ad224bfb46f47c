"""The conversations of one process with a server: few connections, each used again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias, TypeVar

import paramiko

from ...errors import StorageTimeoutError
from .login import UNLIMITED, Connection
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
        self._waiting: list[_Idle] = []
        self._lent: dict[Session, Connection] = {}
        self._timer: threading.Timer | None = None

    def take(self, *, at_once: bool = False) -> tuple[Session, bool]:
        """Borrow a session, and hear whether it is new.

        Args:
            at_once: Do not wait for one that is lent.

        Raises:
            StorageTimeoutError: when none is given back in time.
            StorageError: when no connection can be made.
        """
        ends = time.monotonic() + (0 if at_once else self._wait)
        while True:
            idle, roomy = self._claim(ends)
            if idle is not None:
                if self._is_well(*idle):
                    return idle[0], False
            else:
                session = self._grow() if roomy is None else self._begin(roomy)
                if session is not None:
                    return session, True

    def give_back(self, session: Session) -> None:
        """Take a session back; one that is broken, or has much still to come, is closed."""
        with self._changed:
            connection = self._lent.pop(session, None)
            if connection is None:
                return
            if session.broken or session.outstanding > _MUCH or not connection.is_alive:
                self._end(session, connection)
            else:
                self._waiting.append((session, connection, time.monotonic()))
                self._watch()
            self._changed.notify()

    def run(self, work: Callable[[Session], T]) -> T:
        """Do *work* with a session; when one that had been idle turns out to be dead, once more with a new one.

        What broke off later, when the server had begun to answer, is not done twice: it may have been done.
        """
        while True:
            session, is_new = self.take()
            answers = session.answers
            try:
                return work(session)
            except ConnectionLostError:
                if is_new or session.answers > answers:
                    raise
            finally:
                self.give_back(session)

    def keep(self, work: Callable[[Session], T]) -> T:
        """Do *work* with a session, as :meth:`run`; who did it keeps the session, and gives it back some day."""
        while True:
            session, is_new = self.take()
            answers = session.answers
            try:
                return work(session)
            except BaseException as error:
                self.give_back(session)
                if is_new or session.answers > answers or not isinstance(error, ConnectionLostError):
                    raise

    def close(self) -> None:
        """End everything. What is lent breaks off; who borrows later gets a new connection."""
        with self._changed:
            connections, self._connections = self._connections, []
            for session, _, _ in self._waiting:
                session.close()
            self._waiting.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._changed.notify_all()
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
                self._drop_dead()
                if self._waiting:
                    idle = self._waiting.pop()
                    self._lent[idle[0]] = idle[1]
                    return idle, None
                for connection in self._connections:
                    if connection.carried < min(connection.limit, self._each):
                        connection.carried += 1
                        return None, connection
                if not self._connecting and len(self._connections) < self._most:
                    self._connecting += 1
                    return None, None
                left = ends - time.monotonic()
                if left <= 0:
                    raise StorageTimeoutError(
                        f"all {len(self._lent)} sessions are in use: close files that are read or written to their "
                        "end, or raise max_connections"
                    )
                self._changed.wait(left)

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
        return True

    def _grow(self) -> Session | None:
        """Make a connection, with its first session."""
        try:
            connection = self._connect()
        except BaseException:
            with self._changed:
                self._connecting -= 1
                self._changed.notify_all()
            raise
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
                if refused:
                    connection.limit = connection.carried
                if not connection.carried:
                    connection.close()
                self._changed.notify_all()
            if not fresh and (refused or not connection.is_alive):
                return None
            raise
        with self._changed:
            self._lent[session] = connection
        return session

    def _end(self, session: Session, connection: Connection) -> None:
        is_well = connection.is_alive and not session.broken
        connection.is_doubted = connection.is_doubted or not is_well
        with suppress(Exception):
            session.close()
        connection.carried -= 1
        if not (is_well or (connection.carried and connection.is_alive)):
            self._drop(connection)
        elif not connection.carried:
            # A login is dear, and a reader that was closed early takes its session with it.
            connection.empty_since = time.monotonic()
            connection.limit = UNLIMITED  # the server may have been slow to see what had ended
            self._watch()

    def _drop(self, connection: Connection) -> None:
        connection.close()
        if connection in self._connections:
            self._connections.remove(connection)

    def _drop_dead(self) -> None:
        for waiting in [one for one in self._waiting if one[0].broken or not one[1].is_alive]:
            self._waiting.remove(waiting)
            self._end(waiting[0], waiting[1])
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


_MUCH = 4
"""Answers still to come, of which each may be 255 KiB: more are not worth waiting for."""
