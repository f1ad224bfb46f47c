"""Counts the uses of links in Redis."""

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
    """Counts uses in Redis, for all hosts that share it. Redis deletes the counters after the link's expiry.

    A Redis that evicts keys when its memory is full (``maxmemory-policy`` other than ``noeviction``) may lose the count
    of a link, and one without persistence loses all counts when it restarts.

    Args:
        url: A URL of redis-py: ``"redis://:password@host:6379/0"``, ``"rediss://…"`` (TLS), ``"unix:///path"``.

    Raises:
        ConfigurationError: when redis-py is missing, or the URL is not valid.
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
            pool = client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # checks the options in the URL; it does not connect
        except (TypeError, ValueError, redis.RedisError):
            # Not chained: the parser's message may contain a part of the password.
            raise ConfigurationError(
                "STORAGE_LINK_USAGE is not a URL that redis can read: write 'redis://:password@host:6379/0', "
                "with special characters as %40"
            ) from None
        address = client.connection_pool.connection_kwargs
        self._address = address.get("path") or f"{address.get('host', 'localhost')}:{address.get('port', 6379)}"
        self._client = client
        # When a response is lost, redis-py may retry, and one use counts twice: safer than a use that is not counted.
        self._run_increment = client.register_script(_LUA_INCREMENT)
        self._run_decrement = client.register_script(_LUA_DECREMENT)

    def close(self) -> None:
        """See :meth:`LinkUsageStore.close`."""
        self._client.close()

    def __repr__(self) -> str:
        return f"<RedisUsageStore in {self._address}>"

    def _count(self, key: str) -> int:
        with self._translating_errors():
            return int(self._client.get(_PREFIX + key) or 0)

    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        # Relative to the clock of this host, which also decides whether the link has expired.
        time_to_live = expiry + RETENTION_AFTER_EXPIRY - int(time.time())
        with self._translating_errors():
            return bool(self._run_increment(keys=[_PREFIX + key], args=[uses, time_to_live]))

    def _decrement(self, key: str) -> None:
        with self._translating_errors():
            self._run_decrement(keys=[_PREFIX + key])

    def _delete_expired(self, expired: int) -> int:
        return 0

    @contextlib.contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise StorageUnavailableError(
                f"{self!r} did not respond: check that the Redis server in STORAGE_LINK_USAGE runs and accepts the "
                "app's credentials"
            ) from error
