"""A bucket of a private Ceph, near or far, and the clients of all contenders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .distance import Distance
from .peers import KEG_S3, OBSTORE
from .remote import away


@dataclass(frozen=True)
class Bucket:
    """A bucket with its address and credentials. All contenders are given the same, and the same addressing style."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    preset: str | None
    bucket: str
    distance: Distance | None = None
    put_headers: Mapping[str, str] = field(default_factory=dict)

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

    def counts(self) -> Callable[[], int]:
        """Return what tells how many objects there are, up to a page of them."""
        client = self.boto3()
        return lambda: int(client.list_objects_v2(Bucket=self.bucket)["KeyCount"])

    def addresses(self) -> Callable[[str, str], str]:
        """Return what signs the address of an object for a method."""
        sign = self.boto3().generate_presigned_url
        return lambda method, key: str(sign(f"{method.lower()}_object", {"Bucket": self.bucket, "Key": key}))


@contextlib.contextmanager
def running(*, far: bool = False, counted: bool = False) -> Iterator[Bucket]:
    """Run a gateway that has an empty bucket, and yield it.

    Args:
        far: Behind a proxy that delays and limits.
        counted: Behind a proxy that does nothing but count.
    """
    # They belong to the tests' dependencies, and only these tasks need them.
    from tests.services.rgw import RgwCluster
    from tests.services.s3_servers import start_with_retry

    cluster = start_with_retry(RgwCluster)
    try:
        server = cluster.server
        port = urlsplit(server.http).port
        assert port is not None
        bucket = server.make_bucket()
        with away(port, far=far, counted=counted) as distance:
            yield Bucket(
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
