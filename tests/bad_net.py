"""A bad net between us and a remote place: a way past the proxy that makes it bad, and ways through it."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from flask_storage import FileNotFoundInStorageError, StorageError
from tests.services.fault_proxy import FaultProxy

MIB = 1 << 20
OLD = b"old" * 1000
SMALL = random.Random(1).randbytes(64 * 1024 + 1)
IMPATIENT: dict[str, Any] = {"connect_timeout": 0.5, "read_timeout": 0.5, "max_attempts": 2}


class FaultyGround:
    """A bucket, a way to it past the proxy and as many as wanted through it.

    Args:
        address: Of the server.
        made: Makes a storage on the bucket, at this address.
    """

    def __init__(self, address: str, made: Callable[..., Any]) -> None:
        server = urlsplit(address)
        assert server.hostname, address
        assert server.port, address
        self.proxy = FaultProxy(server.hostname, server.port)
        self._address = address
        self._behind = server._replace(netloc=self.proxy.address).geturl()
        self._made = made
        self._storages: list[Any] = []
        self.direct = self._kept(made(address))

    def faulty(self, **arguments: Any) -> Any:
        """A storage behind the proxy, with connections of its own: positions count from its first request on."""
        # With one part on its way at a time there is one connection, and its bytes are those of the whole upload.
        return self._kept(self._made(self._behind, **{"concurrency": 1, **arguments}))

    def content(self, path: str) -> bytes | None:
        """What is stored, or None."""
        try:
            stored: bytes = self.direct.read(path)
        except FileNotFoundInStorageError:
            return None
        return stored

    def passed(self, work: Callable[[Any], object], **arguments: Any) -> tuple[int, int]:
        """Return how many bytes go up, and how many come down, while a storage works undisturbed."""
        before = dataclasses.replace(self.proxy.counters)
        storage = self.faulty(**arguments)
        work(storage)
        storage.close()
        self.proxy.wait_until(lambda counters: counters.closed == counters.connections)
        return self.proxy.counters.up - before.up, self.proxy.counters.down - before.down

    def close_storages(self) -> None:
        """Give back all connections and threads; what is used again opens new ones."""
        for storage in self._storages:
            storage.close()
        del self._storages[1:]

    def close(self) -> None:
        """Remove everything."""
        self.proxy.close()
        self.close_storages()

    def _kept(self, storage: Any) -> Any:
        self._storages.append(storage)
        return storage


def spread(total: int, number: int) -> list[int]:
    """Positions all over *total* bytes: in the first, in the last, and evenly in between."""
    return sorted({round(step * (total - 1) / (number - 1)) for step in range(number)})


def places_in(content: bytes, number: int, part: int) -> Iterator[int]:
    """Positions in the bodies of the requests, or answers, that carry *content*: clear of the lines around them.

    Args:
        content: Of one part, or of two and more.
        number: How many positions.
        part: The size of a part, in bytes.
    """
    chance = random.Random(len(content))
    size = min(len(content), part)
    for _ in range(number):
        start = chance.choice([0, part]) if len(content) > part else 0
        yield start + chance.randrange(16 * 1024, size - 16 * 1024)


def attempt(work: Callable[..., object]) -> StorageError | None:
    """Do it, and return our error, if that is how it ends; any other error fails the test."""
    try:
        work()
    except StorageError as error:
        return error
    return None


def within(seconds: float, work: Callable[..., object]) -> StorageError | None:
    """Do it, and return our error; it has come in about so many seconds."""
    begun = time.monotonic()
    error = attempt(work)
    assert time.monotonic() - begun < seconds * 1.5 + 5  # a machine with other work to do
    return error


@contextmanager
def leaving_no_thread(ground: FaultyGround) -> Iterator[None]:
    """See that no thread is left of what was started meanwhile, once the storages are closed."""
    before = set(threading.enumerate())
    yield
    ground.proxy.kill()
    ground.close_storages()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread
