"""What the benchmarks of remote backends share: near by or 40 ms away, and bare sockets for S3 and Azure."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import urlsplit

from .distance import Distance, distant
from .frame import MiB
from .meters import Work
from .servers import connected, drain, head

CONNECTIONS = 10  # as many as boto3 uses for one file


class Somewhere(Protocol):
    """A bucket, a container or a directory of a server, and our way to come in."""

    @property
    def distance(self) -> Distance | None:
        """What is between it and us."""

    def ours(self, **settings: Any) -> Any:
        """Return our storage."""

    def sizes(self) -> Callable[[str], int]:
        """Return what tells how large an object is."""

    def counts(self) -> Callable[[], int]:
        """Return what tells how many objects there are."""


class Remote(Somewhere, Protocol):
    """A bucket or a container, and the clients of all contenders."""

    @property
    def put_headers(self) -> Mapping[str, str]:
        """What a PUT to a signed address must say."""

    def obstore(self) -> Any:
        """Return obstore's store."""

    def addresses(self) -> Callable[[str, str], str]:
        """Return what signs the address of an object for a method."""


@contextlib.contextmanager
def away(port: int, *, far: bool, counted: bool) -> Iterator[Distance | None]:
    """Yield what is between a server of this machine and us: a proxy, or nothing.

    Args:
        port: Of the server.
        far: Behind a proxy that delays and limits.
        counted: Behind a proxy that does nothing but count.
    """
    if not (far or counted):
        yield None
        return
    with distant(port) if far else distant(port, one_way=0, rate=None) as distance:
        yield distance


def apart(work: Callable[[], object]) -> None:
    """Set a stage in a process of its own: what it leaves free of its memory would be used, and not seen to grow."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0, "the stage could not be set"


Exchange = Callable[[], int]
"""One request and its answer; it returns how many bytes of content were moved."""


def bare_get(where: Remote, key: str, size: int) -> Work:
    """Fetch an object over several sockets and throw it away: no client is faster through this server and proxy."""
    url = where.addresses()("GET", key)
    spans = [(start, min(start + _share(size), size) - 1) for start in range(0, size, _share(size))]
    return _at_once([_exchange("GET", url, {"Range": f"bytes={start}-{last}"}, 0) for start, last in spans])


def bare_put(where: Remote, key: str, size: int) -> Work:
    """Send so many bytes over several sockets, into as many objects: the same for the other direction."""
    exchanges, address = [], where.addresses()
    for number, start in enumerate(range(0, size, _share(size))):
        length = min(_share(size), size - start)
        headers = {"Content-Length": str(length), **where.put_headers}
        exchanges.append(_exchange("PUT", address("PUT", f"{key}-{number}"), headers, length))
    return _at_once(exchanges)


def _share(size: int) -> int:
    return -(-size // CONNECTIONS)


def _exchange(method: str, url: str, headers: Mapping[str, str], length: int) -> Exchange:
    parts = urlsplit(url)
    # The signature names the host with its port.
    start = head(method, f"{parts.path}?{parts.query}", headers).replace(
        b"Host: localhost", f"Host: {parts.netloc}".encode()
    )
    block = memoryview(bytes(MiB))

    def exchange() -> int:
        with connected(parts.port or 80) as connection:
            connection.sendall(start)
            for begin in range(0, length, MiB):
                connection.sendall(block[: length - begin])
            return drain(connection) + length

    return exchange


def _at_once(exchanges: Sequence[Exchange]) -> Work:
    def work() -> int:
        with ThreadPoolExecutor(len(exchanges)) as pool:
            return sum(pool.map(lambda exchange: exchange(), exchanges))

    return work
