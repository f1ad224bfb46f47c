"""The usage store: counts how often each link with a limited number of uses was used, for all workers of an app.

The token of a link with ``uses=1`` (or more) has an id. :meth:`LinkUsageStore.consume` consumes one of its uses
atomically: of all calls from the threads, processes and hosts that share the store, exactly as many succeed as the link
has uses. When the store is unavailable, the link is refused.

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
"""Seconds for which the records of an expired link are kept, because the clocks of two hosts may differ."""

SWEEP_INTERVAL = 3600
"""Seconds between two automatic sweeps of one process."""

TIMEOUT = 10  # seconds: a worker that waits for the store serves no other request


class LinkUsageStore(ABC):
    """Counts how often each link was used.

    A subclass implements the four abstract methods, whose *key* is derived from the token's id and has 64 hexadecimal
    digits. It translates the errors of its service into :class:`~flask_storage.errors.StorageUnavailableError`.
    """

    _next_sweep = 0.0

    def is_exhausted(self, token_id: str, uses: int) -> bool:
        """Whether all *uses* of a link are consumed. The result may be outdated; only :meth:`consume` is reliable.

        Raises:
            StorageUnavailableError: when the store is unavailable.
        """
        return self._count(_hash_id(token_id)) >= uses

    def consume(self, token_id: str, uses: int, expires_at: datetime) -> bool:
        """Consume one use, atomically among all processes that share the store; return False if none is left.

        Args:
            token_id: The id of the link's token.
            uses: How many uses the link has.
            expires_at: When the link expires (aware). Its uses are kept for an hour longer.

        Raises:
            StorageUnavailableError: when the store is unavailable; then the link must be refused.
        """
        expiry = int(expires_at.timestamp())
        if expiry + RETENTION_AFTER_EXPIRY <= time.time():
            return False  # the record of its uses may be deleted already
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_INTERVAL
            self.sweep()
        return self._increment(_hash_id(token_id), uses, expiry)

    def release(self, token_id: str) -> None:
        """Return one use that :meth:`consume` consumed, because the operation failed.

        Raises:
            StorageUnavailableError: when the store is unavailable; then the use stays consumed.
        """
        self._decrement(_hash_id(token_id))

    def sweep(self, now: datetime | None = None) -> int:
        """Delete the records of links that expired more than an hour before *now*; :meth:`consume` calls this hourly.

        Returns:
            The number of deleted records; 0 if the service of the store deletes them itself.

        Raises:
            StorageUnavailableError: when the store is unavailable.
        """
        return self._delete_expired(int((now or datetime.now(UTC)).timestamp()) - RETENTION_AFTER_EXPIRY)

    def close(self) -> None:  # noqa: B027 - optional: most stores have no connections
        """Close the connections of this process. The store opens new ones when it is used again."""

    @abstractmethod
    def _count(self, key: str) -> int:
        """Return how many uses are consumed."""

    @abstractmethod
    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        """Consume one of *uses*, atomically; return False if none is left. *expiry* is in seconds since 1970."""

    @abstractmethod
    def _decrement(self, key: str) -> None:
        """Release one consumed use; do nothing if none is consumed."""

    @abstractmethod
    def _delete_expired(self, expired: int) -> int:
        """Delete all records whose expiry is *expired* (seconds since 1970) or earlier; return their number."""


class MemoryUsageStore(LinkUsageStore):
    """Counts uses in the memory of one process: for tests, and for an app that has a single process."""

    def __init__(self) -> None:
        self._expiries: dict[str, list[int]] = {}  # by key: one expiry for each consumed use
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<MemoryUsageStore>"

    def _count(self, key: str) -> int:
        return len(self._expiries.get(key, ()))

    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        with self._lock:
            has_uses_left = self._count(key) < uses
            if has_uses_left:
                self._expiries.setdefault(key, []).append(expiry)
            return has_uses_left

    def _decrement(self, key: str) -> None:
        with self._lock:
            if self._expiries.get(key):
                self._expiries[key].pop()

    def _delete_expired(self, expired: int) -> int:
        with self._lock:
            old = [key for key, expiries in self._expiries.items() if all(expiry <= expired for expiry in expiries)]
            return sum(len(self._expiries.pop(key)) for key in old)


def _hash_id(token_id: str) -> str:
    """Return the key of an id: of fixed length, and without untrusted characters."""
    return hashlib.sha256(token_id.encode("utf-8", "surrogatepass")).hexdigest()
