"""A bucket of a private Ceph, near or far, and everybody's way to come in."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .distance import Distance, distant
from .frame import MiB
from .meters import Work
from .peers import KEG_S3, OBSTORE, S3FS
from .servers import connected, drain, head

CONNECTIONS = 10  # as many as boto3 and ours use for one file


@dataclass(frozen=True)
class Place:
    """A bucket, and where and with what to come in. Everybody is given the same address, keys and path style."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    preset: str | None
    bucket: str
    distance: Distance | None = None

    def ours(self, **settings: Any) -> Any:
        """Return our storage, with its client made: every contender's client is made before the clock runs."""
        import arrow  # noqa: F401 - a storage imports it with its first date

        from flask_storage import S3Storage

        storage = S3Storage(
            self.bucket,
            self.region,
            self.access_key,
            self.secret_key,
            endpoint_url=self.endpoint,
            preset=self.preset,
            addressing_style="path",
            **settings,
        )
        assert storage.client
        return storage

    def boto3(self) -> Any:
        """Return boto3's client. It computes no checksum that the gateway would not look at."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def obstore(self) -> Any:
        """Return obstore's store."""
        OBSTORE.load()
        from obstore.store import S3Store  # type: ignore[import-not-found,import-untyped,unused-ignore] # a peer

        return S3Store(
            self.bucket,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region=self.region,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def s3fs(self) -> Any:
        """Return s3fs's file system."""
        return S3FS.load().S3FileSystem(
            key=self.access_key,
            secret=self.secret_key,
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": self.region},
            config_kwargs={"s3": {"addressing_style": "path"}},
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def keg(self) -> Any:
        """Return keg-storage's storage; it knows no address but Amazon's, so it is handed a client."""
        storage = KEG_S3.load().S3Storage(
            bucket=self.bucket,
            aws_region=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        storage.client = self.boto3()
        return storage

    def sizes(self) -> Callable[[str], int]:
        """Return what tells how large an object is; its client is made now and not when it is asked."""
        client = self.boto3()
        return lambda key: int(client.head_object(Bucket=self.bucket, Key=key)["ContentLength"])


@contextlib.contextmanager
def place(*, far: bool = False, counted: bool = False) -> Iterator[Place]:
    """Run a gateway that has an empty bucket, and yield it.

    Args:
        far: Behind a proxy that delays and limits.
        counted: Behind a proxy that does nothing but count.
    """
    # They belong to the tests' dependencies, and only who runs these tasks needs them.
    from tests.services.rgw import RgwCluster
    from tests.services.s3_servers import started

    cluster = started(RgwCluster)
    try:
        server = cluster.server
        port = urlsplit(server.http).port
        assert port is not None
        with contextlib.ExitStack() as stack:
            bucket = server.make_bucket()
            distance = None
            if far:
                distance = stack.enter_context(distant(port))
            elif counted:
                distance = stack.enter_context(distant(port, one_way=0, rate=None))
            yield Place(
                f"http://127.0.0.1:{distance.port}" if distance else server.http,
                server.access_key,
                server.secret_key,
                server.region,
                server.preset,
                bucket,
                distance,
            )
    finally:
        cluster.close(keep_log=False)


def apart(work: Callable[[], object]) -> None:
    """Set a stage in a process of its own: what it leaves free of its memory would be used, and not seen to grow."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0, "the stage could not be set"


Exchange = Callable[[], int]
"""One request and its answer; it returns how many bytes of content were moved."""


def bare_get(where: Place, key: str, size: int) -> Work:
    """Fetch an object over several sockets and throw it away: nobody is faster through this server and proxy."""
    client = where.boto3()
    url = client.generate_presigned_url("get_object", {"Bucket": where.bucket, "Key": key})
    spans = [(start, min(start + _share(size), size) - 1) for start in range(0, size, _share(size))]
    return _at_once([_exchange("GET", url, {"Range": f"bytes={start}-{last}"}, 0) for start, last in spans])


def bare_put(where: Place, key: str, size: int) -> Work:
    """Send so many bytes over several sockets, into as many objects: the same for the other direction."""
    client = where.boto3()
    exchanges = []
    for number, start in enumerate(range(0, size, _share(size))):
        length = min(_share(size), size - start)
        url = client.generate_presigned_url("put_object", {"Bucket": where.bucket, "Key": f"{key}-{number}"})
        exchanges.append(_exchange("PUT", url, {"Content-Length": str(length)}, length))
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
