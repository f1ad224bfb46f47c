"""Network faults between us and a remote backend: a direct connection, and connections through a fault proxy."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from flask_storage import FileNotFoundInStorageError, StorageError
from tests.services.fault_proxy import FaultProxy

MIB = 1 << 20
OLD = b"old" * 1000
SMALL = random.Random(1).randbytes(64 * 1024 + 1)
SHORT_TIMEOUTS: dict[str, Any] = {"connect_timeout": 0.5, "read_timeout": 0.5, "max_attempts": 2}


class FaultyBackend:
    """A bucket that is accessed directly and through a fault proxy.

    Args:
        address: The URL of the server.
        make_storage: Returns a storage on the bucket, with this URL of the server.
    """

    def __init__(self, address: str, make_storage: Callable[..., Any]) -> None:
        server = urlsplit(address)
        assert server.hostname, address
        assert server.port, address
        self.proxy = FaultProxy(server.hostname, server.port)
        self._address = address
        self._proxy_address = server._replace(netloc=self.proxy.address).geturl()
        self._make_storage = make_storage
        self._storages: list[Any] = []
        self.direct = self._register(make_storage(address))

    def faulty(self, **arguments: Any) -> Any:
        """Return a storage behind the proxy, with its own connections: positions count from its first request on."""
        # With concurrency 1 there is one connection, so that its bytes are those of the whole upload.
        return self._register(self._make_storage(self._proxy_address, **{"concurrency": 1, **arguments}))

    def content(self, path: str) -> bytes | None:
        """Return the stored content, or None."""
        try:
            stored: bytes = self.direct.read(path)
        except FileNotFoundInStorageError:
            return None
        return stored

    def passed(self, work: Callable[[Any], object], **arguments: Any) -> tuple[int, int]:
        """Return how many bytes a storage sends and receives during *work* without faults."""
        before = dataclasses.replace(self.proxy.counters)
        storage = self.faulty(**arguments)
        work(storage)
        storage.close()
        self.proxy.wait_until(lambda counters: counters.closed == counters.connections)
        return self.proxy.counters.up - before.up, self.proxy.counters.down - before.down

    def close_storages(self) -> None:
        """Close all connections and threads; a storage that is used again opens new ones."""
        for storage in self._storages:
            storage.close()
        del self._storages[1:]

    def close(self) -> None:
        """Close the proxy and the storages."""
        self.proxy.close()
        self.close_storages()

    def _register(self, storage: Any) -> Any:
        self._storages.append(storage)
        return storage


def spread(total: int, number: int) -> list[int]:
    """Return positions in *total* bytes: the first, the last, and evenly spaced ones."""
    return sorted({round(step * (total - 1) / (number - 1)) for step in range(number)})


def offsets_in_content(content: bytes, number: int, part: int) -> Iterator[int]:
    """Yield positions within the bodies of the requests, or responses, with *content*, never within headers.

    Args:
        content: The content of one or more parts.
        number: The number of positions.
        part: The size of a part, in bytes.
    """
    rng = random.Random(len(content))
    size = min(len(content), part)
    for _ in range(number):
        start = rng.choice([0, part]) if len(content) > part else 0
        yield start + rng.randrange(16 * 1024, size - 16 * 1024)


def attempt(work: Callable[..., object]) -> StorageError | None:
    """Run *work*, and return the storage error that it raises, if any; any other error fails the test."""
    try:
        work()
    except StorageError as error:
        return error
    return None


@contextmanager
def no_threads_left(backend: FaultyBackend) -> Iterator[None]:
    """After the storages are closed, no thread that was started in the block may be left."""
    before = set(threading.enumerate())
    yield
    backend.proxy.kill()
    backend.close_storages()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread
