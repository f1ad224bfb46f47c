"""Sends every request to a bucket: :meth:`BucketGateway.call`, and what reads an object."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from botocore import exceptions as sdk

from ...errors import FileNotFoundInStorageError, PreconditionFailedError, StorageUnavailableError
from ...range_download import download_range, read_available, read_into
from .bounded_client import BoundedClient
from .errors import code_of, status_of
from .object_stream import ObjectStream, waiting_time
from .presets import UNKNOWN, S3Preset
from .responses import check_listing, etag_of, size_of, translating_parse_errors

_MAX_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSettings:
    """Settings that apply to every object of a storage.

    Attributes:
        stored: Arguments of boto3 for the requests that create an object.
        customer: Arguments of boto3 for a customer-provided key; also needed to read or copy an object.
        content_type: The content type of objects for which none is passed or guessed.
        cache_control: The ``Cache-Control`` header of objects for which none is passed.
        guess_content_type: Whether content types are guessed from names.
    """

    stored: Mapping[str, Any] = field(default_factory=dict)
    customer: Mapping[str, Any] = field(default_factory=dict, repr=False)
    content_type: str | None = None
    cache_control: str | None = None
    guess_content_type: bool = True


class BucketGateway:
    """One bucket, or the part of it below a prefix.

    Args:
        name: The name of the bucket.
        storage: The name of the storage, for errors.
        bounded_client: Returns the client of this process.
        cleanup_client: Returns a client with short time-outs, for the cleanup after a failure.
        prefix: The prefix of every key; empty, or ending in ``/``.
        preset: The behavior of the service.
        object_settings: Arguments for every object.
        read_timeout: The longest time, in seconds, without data from the service.
        attempts: How many consecutive attempts of a download may fail without progress.
    """

    def __init__(
        self,
        name: str,
        storage: str,
        bounded_client: Callable[[], BoundedClient],
        *,
        cleanup_client: Callable[[], BoundedClient] | None = None,
        prefix: str = "",
        preset: S3Preset = UNKNOWN,
        object_settings: ObjectSettings | None = None,
        read_timeout: float = 15,
        attempts: int = 3,
    ) -> None:
        self.name = name
        self.storage = storage
        self.prefix = prefix
        self.preset = preset
        self.object_settings = object_settings or ObjectSettings()
        self.read_timeout = read_timeout
        self._bounded_client = bounded_client
        self._cleanup_client = cleanup_client or bounded_client
        self._attempts = attempts
        self._bucket_exists = False

    @property
    def client(self) -> Any:
        """The boto3 client of this process."""
        return self._bounded_client().client

    def key(self, path: str) -> str:
        """Return the key of an object."""
        return self.prefix + path

    def path(self, key: str) -> str:
        """Return the path of a key below the prefix."""
        return key[len(self.prefix) :]

    def call(self, operation: str, *, for_cleanup: bool = False, **arguments: Any) -> Any:
        """Call one operation of the boto3 client on this bucket, and return the response."""
        with (
            (self._cleanup_client if for_cleanup else self._bounded_client)().acquire() as client,
            translating_parse_errors(),
        ):
            return getattr(client, operation)(Bucket=self.name, **arguments)

    def pages(self, operation: str, **arguments: Any) -> Iterator[Any]:
        """Yield the pages of a listing; a connection is held only while a page is fetched."""
        with self._bounded_client().acquire() as client:
            pages = iter(client.get_paginator(operation).paginate(Bucket=self.name, **arguments))
        while True:
            with self._bounded_client().acquire(), translating_parse_errors():
                page = next(pages, None)
            if page is None:
                return
            check_listing(page)
            yield page

    def head(self, path: str, *, for_cleanup: bool = False) -> Any:
        """Return the HeadObject response of an object.

        Raises:
            FileNotFoundInStorageError: when there is no such object; a missing bucket is another error.
        """
        try:
            response = self.call("head_object", for_cleanup=for_cleanup, **self._with_checksums(path))
        except sdk.ClientError as error:
            if status_of(error) == 404:
                self._check_bucket_exists()
                raise FileNotFoundInStorageError(self.storage, path) from error
            raise
        self._bucket_exists = True
        return response

    def region(self) -> str | None:
        """Return the region of the bucket, or None if the service does not name it."""
        try:
            response = self.call("head_bucket")
        except sdk.ClientError as error:  # also a refusal names the region
            response = error.response
        region = response["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return None if region is None else str(region)

    @property
    def is_far(self) -> bool:
        """Whether the service is so far away that several connections are faster than one."""
        return self._bounded_client().is_far

    def get_first_bytes(self, path: str, size: int) -> tuple[bytes, Any]:
        """Return the first *size* bytes of an object, or all if there are fewer, and the response with its headers.

        One request fetches both. If the connection breaks within the content, :meth:`get_range` fetches the rest.
        """
        buffer = io.BytesIO()
        head, stream = self._open(path, size)
        with closing(stream):
            response = stream.response
            wanted = min(size, size_of(response))
            buffer.write(head)
            stream.read(len(head), wanted, buffer)
        if buffer.tell() < wanted:
            self.get_range(path, buffer.tell(), wanted, buffer, etag_of(response))
        return buffer.getvalue(), response

    def open_stream(self, path: str, chunk_size: int) -> tuple[bytes, ObjectStream]:
        """Request an object that will be read whole; return its first bytes, and the stream of the following ones.

        From a service that is far away, only *chunk_size* bytes are requested: the caller requests the others at the
        same time.
        """
        return self._open(path, chunk_size if self.is_far else None)

    def _open(self, path: str, size: int | None) -> tuple[bytes, ObjectStream]:
        """Request the first *size* bytes of an object, or all of it; return the bytes that came with the headers."""
        for _ in range(self._attempts):
            with ExitStack() as connection:
                bounded_client = self._bounded_client()
                client = connection.enter_context(bounded_client.acquire())
                began = waiting_time()
                try:
                    with translating_parse_errors():
                        byte_range = {} if size is None else {"Range": f"bytes=0-{size - 1}"}
                        response = client.get_object(Bucket=self.name, **byte_range, **self._with_checksums(path))
                except sdk.ClientError as error:
                    if status_of(error) != 416:
                        raise
                    break
                bounded_client.latency = waiting_time() - began
                body = connection.enter_context(response.pop("Body"))
                head = read_available(body, min(size or _MAX_HEAD, _MAX_HEAD), self.read_timeout)
                # A response without content may have ended within its headers. For an empty object, rclone sends no
                # range.
                if head or ("ContentRange" not in response and response.get("ContentLength") == 0):
                    self._bucket_exists = True
                    end = size_of(response)
                    if size is not None and "ContentRange" in response:
                        end = min(end, size)
                    stream = ObjectStream(
                        response,
                        body,
                        position=len(head),
                        end=end,
                        client=bounded_client,
                        connection=connection.pop_all(),
                        read_timeout=self.read_timeout,
                    )
                    return head[:end], stream
        else:
            raise StorageUnavailableError(
                f"reading {path} failed: the connection broke off {self._attempts} times; try again later"
            )
        response = self.head(path)  # an empty object has no first byte
        response["ContentRange"] = "bytes */0"
        client = self._bounded_client()
        return b"", ObjectStream(
            response, None, position=0, end=0, client=client, connection=ExitStack(), read_timeout=self.read_timeout
        )

    def get_range(self, path: str, start: int, stop: int, into: io.BytesIO, etag: str) -> None:
        """Write the bytes from *start* to *stop* of one version of an object into a buffer.

        If the connection breaks, the rest is requested again, as long as the attempts make progress.

        Raises:
            PreconditionFailedError: when the object was replaced or deleted.
        """

        def get(start: int, stop: int) -> None:
            try:
                response = self._get(
                    start, stop, into, Key=self.key(path), IfMatch=etag, **self.object_settings.customer
                )
            except sdk.ClientError as error:
                if code_of(error) in ("PreconditionFailed", "NoSuchKey", "InvalidRange"):
                    raise PreconditionFailedError(f"{path} was replaced or deleted while it was being read") from error
                raise
            # Some services ignore the condition.
            if etag_of(response) != etag:
                raise PreconditionFailedError(f"{path} was replaced while it was being read")

        download_range(get, start, stop, into, attempts=self._attempts)

    # -- inner ------------------------------------------------------------------------------------------------------

    def _with_checksums(self, path: str) -> dict[str, Any]:
        """Return the arguments that request an object, and its checksums if the service stores them."""
        checksums = {"ChecksumMode": "ENABLED"} if self.preset.checksums == "when_supported" else {}
        return {"Key": self.key(path), **self.object_settings.customer, **checksums}

    def _get(self, start: int, stop: int, into: io.BytesIO, **arguments: Any) -> Any:
        """Write the bytes of a range that arrive before the response ends or breaks off, and return the response."""
        with self._bounded_client().acquire() as client:
            with translating_parse_errors():
                response = client.get_object(Bucket=self.name, Range=f"bytes={start}-{stop - 1}", **arguments)
            # The body is read by urllib3, which returns what has arrived; botocore waits for the whole range.
            with response["Body"] as body:
                if "ContentRange" not in response:  # the whole object instead of the range
                    stop = min(stop, size_of(response))
                    read_into(body, start, io.BytesIO(), self.read_timeout)
                read_into(body, stop - start, into, self.read_timeout)
        return response

    def _check_bucket_exists(self) -> None:
        """Raise if the bucket is missing: a 404 response to HEAD is the same for a missing bucket and object."""
        if self._bucket_exists:
            return
        try:
            self.call("head_bucket")
        except sdk.ClientError as error:
            if status_of(error) == 404:
                error.response["Error"] = {"Code": "NoSuchBucket"}
                raise
        self._bucket_exists = True
