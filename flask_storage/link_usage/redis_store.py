"""Used links in Redis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigurationError, StorageUnavailableError
from .base import RETENTION_AFTER_EXPIRY, TIMEOUT, LinkUsageStore

_PREFIX = "flask-storage:link-usage:"
_LUA_INCREMENT = """
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""

_LUA_DECREMENT = "if tonumber(redis.call('GET', KEYS[1]) or '0') > 0 then redis.call('DECR', KEYS[1]) end"


class RedisUsageStore(LinkUsageStore):
    """Used links as counters in Redis, for all hosts that share it. They vanish by themselves after the link's expiry.

    A Redis that evicts keys when its memory is full (``maxmemory-policy`` other than ``noeviction``) may forget that a
    link was used, and one without persistence forgets it when it restarts.

    Args:
        url: As redis-py takes it: ``"redis://:password@host:6379/0"``, ``"rediss://…"`` (TLS), ``"unix:///path"``.

    Raises:
        ConfigurationError: when redis-py is missing, or the URL cannot work.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ImportError as error:
            raise ConfigurationError(
                "RedisUsageStore needs redis: pip install 'flask-storage-profiles[redis]'"
            ) from error
        self._error = redis.RedisError
        try:
            client: Any = redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
        except ValueError:
            # Not chained: the parser may quote a piece of the password.
            raise ConfigurationError(
                "STORAGE_LINK_USAGE is not a URL that redis can read: write 'redis://:password@host:6379/0', "
                "with special characters as %40"
            ) from None
        address = client.connection_pool.connection_kwargs
        self._address = address.get("path") or f"{address.get('host', 'localhost')}:{address.get('port', 6379)}"
        self._client = client
        # Where an answer is lost, redis-py may ask again, and a use is counted that nobody had: safer than the reverse.
        self._run_increment = client.register_script(_LUA_INCREMENT)
        self._run_decrement = client.register_script(_LUA_DECREMENT)

    def close(self) -> None:
        """See :meth:`LinkUsageStore.close`."""
        self._client.close()

    def __repr__(self) -> str:
        return f"<RedisUsageStore in {self._address}>"

    def _count(self, key: str) -> int:
        with self._translated():
            return int(self._client.get(_PREFIX + key) or 0)

    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        # Seconds from now, by our own clock: it is the one that decides whether the link has expired.
        kept = expiry + RETENTION_AFTER_EXPIRY - int(time.time())
        with self._translated():
            return bool(self._run_increment(keys=[_PREFIX + key], args=[uses, kept]))

    def _decrement(self, key: str) -> None:
        with self._translated():
            self._run_decrement(keys=[_PREFIX + key])

    def _delete_expired(self, expired: int) -> int:
        return 0

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise StorageUnavailableError(
                f"{self!r} did not answer: see that the Redis of STORAGE_LINK_USAGE runs and lets the app in"
            ) from error
