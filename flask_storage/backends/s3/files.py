"""Open objects: the seed's two classes, on the machinery that every remote place shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from ...errors import ConfigurationError
from ...files import RemoteFile
from ...multipart import MultipartWriter
from ...process_local import thread_pool
from ...range_reader import RangeReader
from ...types import FileMode, WriteArguments, WriteOptions
from .client import Connection
from .gateway import BucketGateway, etag_of, size_of
from .integrity import select_check
from .multipart import S3Multipart
from .object_metadata import info_of
from .presets import PRESETS, UNKNOWN

CHUNK_SIZE = 5 * 1024 * 1024
CONCURRENCY = 8
_FIRST = 64 * 1024

_workers = thread_pool(CONCURRENCY)


class S3FileBase(RemoteFile):
    """What an open object has, whether it is read or written.

    Args:
        mode: What it is opened for.
        bucket: The name of the bucket.
        filename: The key.
        client: The boto3 client.
    """

    def __init__(self, mode: FileMode | str, bucket: str, filename: str, client: Any) -> None:
        super().__init__(mode)
        self._belong(bucket, filename, client)

    def _belong(self, bucket: str, filename: str, client: Any) -> None:
        self.bucket = bucket
        self.filename = filename
        self.s3 = client


class S3Reader(S3FileBase, RangeReader):
    """Reads an object by ranges, all of one version; see :class:`~flask_storage.range_reader.RangeReader`.

    Opening brings the first 64 KiB along, so a small object costs one request. Content that is read through from the
    first byte to the last is compared with what the service remembers of it, where the connection itself does not.

    Args:
        bucket: The name of the bucket, or the gateway to one.
        filename: The key, or the path below the gateway's prefix.
        client: A boto3 client; not needed with a gateway.
        chunk_size: The largest range asked for at once, in bytes.
        concurrency: How many ranges may be on their way at once.
        workers: Gives the threads that fetch them.
        verify: Compare the content with its ETag or checksum, as far as the service is known to have one.
        whole: All of it will be read, from the beginning.

    Raises:
        FileNotFoundInStorageError: when there is no such object (behind a storage's gateway; else boto3's own error).
    """

    def __init__(
        self,
        bucket: str | BucketGateway,
        filename: str,
        client: Any = None,
        *,
        chunk_size: int = CHUNK_SIZE,
        concurrency: int = CONCURRENCY,
        workers: Callable[[], Executor] = _workers,
        verify: bool = True,
        whole: bool = False,
    ) -> None:
        gateway = _gateway(bucket, client)
        head, answer = gateway.get_first_bytes(filename, chunk_size if whole else min(_FIRST, chunk_size))
        size = size_of(answer)
        etag = etag_of(answer)
        RangeReader.__init__(
            self,
            lambda start, stop, into: gateway.get_range(filename, start, stop, into, etag),
            info_of(gateway, filename, answer, size),
            head=head,
            chunk_size=chunk_size,
            concurrency=concurrency,
            workers=workers,
            check=select_check(answer, etag_is_md5=gateway.preset.etag_is_md5) if verify else None,
            eager=whole,
        )
        self._belong(gateway.name, gateway.key(filename), gateway.client)


class S3Writer(S3FileBase, MultipartWriter):
    """Writes an object in parts; see :class:`~flask_storage.multipart.MultipartWriter`.

    Args:
        bucket: The name of the bucket, or the gateway to one.
        filename: The key, or the path below the gateway's prefix.
        client: A boto3 client; not needed with a gateway.
        chunk_size: The size of a part, in bytes; at least 5 MiB.
        extra_args: keg-storage's ``{"ContentType": …}``.
        options: How the object is written.
        concurrency: How many parts may be on their way at once.
        workers: Gives the threads that send them.
        size: How much will come, as far as anybody knows.
    """

    def __init__(
        self,
        bucket: str | BucketGateway,
        filename: str,
        client: Any = None,
        chunk_size: int = 10485760,
        extra_args: Mapping[str, Any] | None = None,
        *,
        options: WriteOptions | None = None,
        concurrency: int = CONCURRENCY,
        workers: Callable[[], Executor] = _workers,
        size: int | None = None,
    ) -> None:
        gateway = _gateway(bucket, client)
        self._multipart = S3Multipart(gateway)
        MultipartWriter.__init__(
            self,
            self._multipart,
            filename,
            options or WriteOptions.from_arguments(extra_args, WriteArguments()),
            chunk_size=chunk_size,
            concurrency=concurrency,
            workers=workers,
            size=size,
        )
        self._belong(gateway.name, gateway.key(filename), gateway.client)

    def _create_upload(self) -> str:
        return self._multipart.begin_own(self.name, self._stored_options())


def _gateway(bucket: str | BucketGateway, client: Any) -> BucketGateway:
    if isinstance(bucket, BucketGateway):
        return bucket
    if client is None:
        raise ConfigurationError("give the boto3 client with which the bucket is reached")
    connection = Connection(client, client.meta.config.max_pool_connections)
    preset = PRESETS["aws"] if ".amazonaws.com" in client.meta.endpoint_url else UNKNOWN
    return BucketGateway(bucket, "s3", lambda: connection, preset=preset)
