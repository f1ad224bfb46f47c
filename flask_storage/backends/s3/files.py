"""Open objects: keg-storage's reader and writer, built on the reader and writer that all remote backends share."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from typing import Any

from ...errors import ConfigurationError
from ...files import RemoteFile
from ...multipart import MultipartWriter
from ...process_local import thread_pool
from ...range_reader import RangeReader
from ...types import FileMode, WriteArguments, WriteOptions
from .bounded_client import BoundedClient
from .gateway import BucketGateway
from .integrity import select_check
from .multipart import S3Multipart
from .object_metadata import info_of
from .presets import preset_of
from .responses import etag_of, size_of

CHUNK_SIZE = 5 * 1024 * 1024
CONCURRENCY = 8
_FIRST_RANGE = 64 * 1024
_READ_AHEAD_FROM = 1024 * 1024

_workers = thread_pool(CONCURRENCY)


class S3FileBase(RemoteFile):
    """Base class of open objects.

    Args:
        mode: The file mode.
        bucket: The name of the bucket.
        filename: The key.
        client: The boto3 client.
    """

    def __init__(self, mode: FileMode | str, bucket: str, filename: str, client: Any) -> None:
        super().__init__(mode)
        self._set_object(bucket, filename, client)

    def _set_object(self, bucket: str, filename: str, client: Any) -> None:
        self.bucket = bucket
        self.filename = filename
        self.s3 = client


class S3Reader(S3FileBase, RangeReader):
    """Reads an object by ranges, all of one version; see :class:`~flask_storage.range_reader.RangeReader`.

    Opening an object fetches its first 64 KiB, so that a small object costs one request. Content that is read from the
    first byte to the last is compared with the ETag or checksum of the object.

    Args:
        bucket: The name of the bucket, or the gateway to one.
        filename: The key, or the path below the gateway's prefix.
        client: A boto3 client; not needed with a gateway.
        chunk_size: The largest range that one request fetches, in bytes.
        concurrency: The number of ranges that are fetched concurrently.
        workers: Returns the thread pool that fetches ranges.
        verify: Whether to compare the content with its ETag or checksum, where the service has one.
        whole: Whether the whole object will be read, from the beginning: by one request without a range, or in parallel
            if that is slow or the service is far away.

    Raises:
        FileNotFoundInStorageError: when there is no such object (with a gateway; boto3's own error without one).
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
        with ExitStack() as opened:
            stream = None
            if whole:
                head, stream = gateway.open_stream(filename, chunk_size)
                opened.callback(stream.close)
                response = stream.response
            else:
                head, response = gateway.get_first_bytes(filename, min(_FIRST_RANGE, chunk_size))
            size = size_of(response)
            etag = etag_of(response)

            def fetch(start: int, stop: int, into: io.BytesIO) -> None:
                if stream is not None:
                    stream.read(start, stop, into)
                if into.tell() < stop - start:
                    gateway.get_range(filename, start + into.tell(), stop, into, etag)

            RangeReader.__init__(
                self,
                fetch,
                info_of(gateway, filename, response, size),
                head=head,
                chunk_size=chunk_size,
                concurrency=concurrency,
                workers=workers,
                check=select_check(response, etag_is_md5=gateway.preset.etag_is_md5) if verify else None,
                eager=whole,
                read_ahead_from=_READ_AHEAD_FROM if gateway.is_far else None,
                stream=stream,
            )
            self._opened = opened.pop_all()
        self._set_object(gateway.name, gateway.key(filename), gateway.client)

    def _release(self) -> None:
        super()._release()
        self._opened.close()


class S3Writer(S3FileBase, MultipartWriter):
    """Writes an object in parts; see :class:`~flask_storage.multipart.MultipartWriter`.

    Args:
        bucket: The name of the bucket, or the gateway to one.
        filename: The key, or the path below the gateway's prefix.
        client: A boto3 client; not needed with a gateway.
        chunk_size: The size of a part, in bytes; at least 5 MiB.
        extra_args: keg-storage's ``{"ContentType": …}``.
        options: The write options.
        concurrency: The number of parts that are sent concurrently.
        workers: Returns the thread pool that sends parts.
        size: The expected number of bytes, if known.
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
        self._set_object(gateway.name, gateway.key(filename), gateway.client)

    def _create_upload(self) -> str:
        return self._multipart.create_own(self._target, self._stored_options())


def _gateway(bucket: str | BucketGateway, client: Any) -> BucketGateway:
    if isinstance(bucket, BucketGateway):
        return bucket
    if client is None:
        raise ConfigurationError("a file of a bucket without a gateway needs a boto3 client: set client")
    bounded_client = BoundedClient(client, client.meta.config.max_pool_connections)
    preset = preset_of(None, client.meta.endpoint_url)
    return BucketGateway(bucket, "s3", lambda: bounded_client, preset=preset)
