"""The store of used links: how often a link with a limited number of uses was taken, known to every worker of an app.

A link made with ``uses=1`` (or more) carries an id. :meth:`LinkUsageStore.consume` takes one use of it, and of all threads,
processes and hosts that share the store exactly as many succeed as there are uses. When the store cannot be asked,
nothing is taken and nothing granted.

>>> from datetime import UTC, datetime, timedelta
>>> from flask_storage.link_usage import MemoryUsageStore
>>> uses, tomorrow = MemoryUsageStore(), datetime.now(UTC) + timedelta(days=1)
>>> uses.consume("an id", 1, tomorrow), uses.consume("an id", 1, tomorrow)
(True, False)
"""

from __future__ import annotations

import hashlib
import threading
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime

RETENTION_AFTER_EXPIRY = 3600
"""Seconds for which the use of an expired link is remembered, because the clocks of two hosts differ."""

SWEEP_INTERVAL = 3600
"""Seconds between two sweeps that one process makes by itself."""

TIMEOUT = 10  # seconds: a worker that waits longer for the store than this is lost to everybody else


class LinkUsageStore(ABC):
    """How often each link was used.

    The public methods are written once; a store supplies the four hooks, which get a key of 64 hexadecimal digits
    instead of the token's id. What its service raises, a store turns into
    :class:`~flask_storage.errors.StorageUnavailableError`.
    """

    _next_sweep = 0.0

    def is_exhausted(self, token_id: str, uses: int) -> bool:
        """Whether all *uses* of a link are gone. A look without a promise: only :meth:`consume` decides.

        Raises:
            StorageUnavailableError: when the store cannot be asked.
        """
        return self._count(_hash_id(token_id)) >= uses

    def consume(self, token_id: str, uses: int, expires_at: datetime) -> bool:
        """Take one use, atomically among all who share the store. False when none is left.

        Args:
            token_id: The id that the link's token carries.
            uses: How many there are.
            expires_at: When the link expires (aware); some time later its uses are forgotten.

        Raises:
            StorageUnavailableError: when the store cannot be asked; then the link must not be honoured.
        """
        expiry = int(expires_at.timestamp())
        if expiry + RETENTION_AFTER_EXPIRY <= time.time():
            return False  # its uses may be forgotten already
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_INTERVAL
            self.sweep()
        return self._increment(_hash_id(token_id), uses, expiry)

    def release(self, token_id: str) -> None:
        """Give one use back that :meth:`consume` took: what it was for has failed.

        Raises:
            StorageUnavailableError: when the store cannot be asked; then the use stays taken.
        """
        self._decrement(_hash_id(token_id))

    def sweep(self, now: datetime | None = None) -> int:
        """Forget links that expired more than an hour before *now*. :meth:`consume` does this now and then.

        Returns:
            How many uses were forgotten; 0 where the store forgets by itself.

        Raises:
            StorageUnavailableError: when the store cannot be asked.
        """
        return self._delete_expired(int((now or datetime.now(UTC)).timestamp()) - RETENTION_AFTER_EXPIRY)

    def close(self) -> None:  # noqa: B027 -- most stores hold nothing open
        """Let go of connections that this process holds. Used again, the store opens new ones."""

    @abstractmethod
    def _count(self, key: str) -> int:
        """Return how many uses are taken."""

    @abstractmethod
    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        """Take one of *uses*, atomically; *expiry* is in seconds since 1970. False when none is left."""

    @abstractmethod
    def _decrement(self, key: str) -> None:
        """Make one taken use free again. None taken: nothing to do."""

    @abstractmethod
    def _delete_expired(self, expired: int) -> int:
        """Forget all uses whose expiry is *expired* or earlier, and return how many."""


class MemoryUsageStore(LinkUsageStore):
    """Used links in the memory of one process: for tests, and for an app that has a single process."""

    def __init__(self) -> None:
        self._taken: dict[str, list[int]] = {}  # one expiry for each use
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<MemoryUsageStore>"

    def _count(self, key: str) -> int:
        return len(self._taken.get(key, ()))

    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        with self._lock:
            free = self._count(key) < uses
            if free:
                self._taken.setdefault(key, []).append(expiry)
            return free

    def _decrement(self, key: str) -> None:
        with self._lock:
            if self._taken.get(key):
                self._taken[key].pop()

    def _delete_expired(self, expired: int) -> int:
        with self._lock:
            old = [key for key, expiries in self._taken.items() if all(expiry <= expired for expiry in expiries)]
            return sum(len(self._taken.pop(key)) for key in old)


def _hash_id(token_id: str) -> str:
    """Return what stands for an id in a store: never what a stranger wrote, and always of one length."""
    return hashlib.sha256(token_id.encode("utf-8", "surrogatepass")).hexdigest()
