"""The one gateway to a bucket: every request to the service goes through :meth:`BucketGateway.call` or :meth:`BucketGateway.get_range`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from ...errors import FileNotFoundInStorageError, PreconditionFailedError, StorageUnavailableError
from ...range_download import download_range, read_into
from .client import Connection
from .errors import code_of, status_of
from .presets import UNKNOWN, S3Preset


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSettings:
    """What every object is stored with, as arguments of boto3; the customer's key is needed for reading too."""

    stored: Mapping[str, Any] = field(default_factory=dict)
    customer: Mapping[str, Any] = field(default_factory=dict, repr=False)
    content_type: str | None = None
    cache_control: str | None = None
    guess_content_type: bool = True


class BucketGateway:
    """One bucket, or the part of it below a prefix.

    Args:
        name: Of the bucket.
        storage: What errors call the storage.
        connection: Gives the connection of this process.
        cleanup_client: Likewise one that gives up soon, for clearing away after something went wrong.
        prefix: What every key begins with; empty, or ending in ``/``.
        preset: How the service behaves.
        object_settings: What every object is stored with.
        read_timeout: How long, in seconds, a request may bring nothing.
        attempts: How often a download that breaks off is taken up again without having come any further.
    """

    def __init__(
        self,
        name: str,
        storage: str,
        connection: Callable[[], Connection],
        *,
        cleanup_client: Callable[[], Connection] | None = None,
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
        self._connection = connection
        self._cleanup_client = cleanup_client or connection
        self._attempts = attempts
        self._bucket_exists = False

    @property
    def client(self) -> Any:
        """This process's boto3 client."""
        return self._connection().client

    def key(self, path: str) -> str:
        """Return the key of an object."""
        return self.prefix + path

    def path(self, key: str) -> str:
        """Return the path of a key below the prefix."""
        return key[len(self.prefix) :]

    def call(self, operation: str, *, for_cleanup: bool = False, **arguments: Any) -> Any:
        """Make one call of boto3's client on this bucket, and return its answer."""
        with (
            (self._cleanup_client if for_cleanup else self._connection)().slot() as client,
            _translating_parse_errors(),
        ):
            return getattr(client, operation)(Bucket=self.name, **arguments)

    def pages(self, operation: str, **arguments: Any) -> Iterator[Any]:
        """Yield the pages of a listing; a connection is held only while a page is on its way."""
        with self._connection().slot() as client:
            pages = iter(client.get_paginator(operation).paginate(Bucket=self.name, **arguments))
        while True:
            with self._connection().slot(), _translating_parse_errors():
                page = next(pages, None)
            if page is None:
                return
            yield page

    def head(self, path: str, *, for_cleanup: bool = False) -> Any:
        """Return what the service knows of an object.

        Raises:
            FileNotFoundInStorageError: when there is none; a bucket that is missing is another error.
        """
        try:
            answer = self.call("head_object", for_cleanup=for_cleanup, **self._with_checksums(path))
        except sdk.ClientError as error:
            if status_of(error) == 404:
                self._check_bucket_exists()
                raise FileNotFoundInStorageError(self.storage, path) from error
            raise
        self._bucket_exists = True
        return answer

    def get_first_bytes(self, path: str, size: int) -> tuple[bytes, Any]:
        """Return the first *size* bytes of an object, or all of fewer, with what the service knows of it.

        One request brings both. An answer that breaks off is taken up by :meth:`get_range`.
        """
        buffer = io.BytesIO()
        for _ in range(self._attempts):
            try:
                answer = self._get(0, size, buffer, **self._with_checksums(path))
            except sdk.ClientError as error:
                if status_of(error) != 416:
                    raise
                answer = self.head(path)  # an empty object has no first byte
                answer["ContentRange"] = "bytes */0"
                break
            # An answer without content may have ended amid its headers; of an empty object, one service sends no range.
            if buffer.tell() or ("ContentRange" not in answer and answer.get("ContentLength") == 0):
                break
        else:
            raise StorageUnavailableError(f"the connection broke off {self._attempts} times: try again later")
        self._bucket_exists = True
        wanted = min(size, size_of(answer))
        if buffer.tell() < wanted:
            self.get_range(path, buffer.tell(), wanted, buffer, etag_of(answer))
        return buffer.getvalue(), answer

    def get_range(self, path: str, start: int, stop: int, into: io.BytesIO, etag: str) -> None:
        """Write the bytes from *start* to *stop* of one version of an object into a buffer.

        A connection that breaks off is taken up where it ended, as long as that gets on.

        Raises:
            PreconditionFailedError: when the object is another by now.
        """

        def get(start: int, stop: int) -> None:
            try:
                answer = self._get(start, stop, into, Key=self.key(path), IfMatch=etag, **self.object_settings.customer)
            except sdk.ClientError as error:
                if code_of(error) in ("PreconditionFailed", "NoSuchKey", "InvalidRange"):
                    raise PreconditionFailedError(f"{path} was replaced or deleted while it was being read") from error
                raise
            # Some services do not look at the condition.
            if etag_of(answer) != etag:
                raise PreconditionFailedError(f"{path} was replaced while it was being read")

        download_range(get, start, stop, into, attempts=self._attempts)

    # -- inner ------------------------------------------------------------------------------------------------------

    def _with_checksums(self, path: str) -> dict[str, Any]:
        """Return the arguments that ask for an object, and for its checksums where the service keeps some."""
        asked = {"ChecksumMode": "ENABLED"} if self.preset.checksums == "when_supported" else {}
        return {"Key": self.key(path), **self.object_settings.customer, **asked}

    def _get(self, start: int, stop: int, into: io.BytesIO, **arguments: Any) -> Any:
        """Write what arrives of a range before the answer ends or breaks off, and return what else the answer says."""
        with self._connection().slot() as client:
            with _translating_parse_errors():
                answer = client.get_object(Bucket=self.name, Range=f"bytes={start}-{stop - 1}", **arguments)
            # urllib3's own response: it reads what has arrived, where botocore's waits until all has.
            with answer["Body"] as body:
                if "ContentRange" not in answer:  # the whole, though a piece was asked for
                    stop = min(stop, answer.get("ContentLength", 0))
                    read_into(body, start, io.BytesIO(), self.read_timeout)
                read_into(body, stop - start, into, self.read_timeout)
        return answer

    def _check_bucket_exists(self) -> None:
        """Make sure that it is the object that is missing: an answer to HEAD does not tell the two apart."""
        if self._bucket_exists:
            return
        try:
            self.call("head_bucket")
        except sdk.ClientError as error:
            if status_of(error) == 404:
                error.response["Error"] = {"Code": "NoSuchBucket"}
                raise
        self._bucket_exists = True


def size_of(answer: Any) -> int:
    """Return the size of the whole object, of which an answer may hold a piece."""
    content_range = answer.get("ContentRange")
    return int(content_range.rpartition("/")[2]) if content_range else int(answer["ContentLength"])


def etag_of(answer: Any) -> str:
    """Return the ETag in an answer, as it stands there: in quotes.

    Raises:
        StorageUnavailableError: when there is none, or half of one; without it nobody knows which version was read or
            written.
    """
    etag = answer.get("ETag")
    if not etag or etag.count('"') == 1:
        raise StorageUnavailableError("the answer has no ETag: try again, or look at the proxy in between")
    return str(etag)


def date_of(answer: Any) -> datetime:
    """Return when the object in an answer was stored.

    Raises:
        StorageUnavailableError: when the answer does not tell.
    """
    if "LastModified" not in answer:
        raise StorageUnavailableError("the answer has no date: try again, or look at the proxy in between")
    found: datetime = answer["LastModified"]
    return found


def unquoted_etag(answer: Any) -> str:
    """Return the ETag in an answer without its quotes, as our own values have it."""
    return etag_of(answer).strip('"')


@contextmanager
def _translating_parse_errors() -> Iterator[None]:
    """Translate what boto3 raises over an answer that it cannot read, which is an error of no class of its own."""
    try:
        yield
    except (ValueError, KeyError, ResponseParserError) as error:
        raise StorageUnavailableError(
            "the answer makes no sense: try again, or look at the proxy in between"
        ) from error
