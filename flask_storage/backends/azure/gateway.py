"""The gateway to a container: all requests for blobs go through :meth:`ContainerGateway.call`."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from azure.core import MatchConditions, exceptions as sdk
from azure.storage.blob import BlobProperties

from ...errors import IntegrityError, PreconditionFailedError, StorageUnavailableError
from ...range_download import check_digest, download_range, read_into
from .client import BlobClientFactory
from .errors import code_of, status_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAX_CHECKED_RANGE = 4 * 1024 * 1024
"""The service sends no MD5 for a longer range."""
_MAX_RANGE = 32 * 1024 * 1024
"""The longest range that the SDK requests by default."""
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSettings:
    """Settings of the profile that apply to every stored blob."""

    stored: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    cache_control: str | None = None
    guess_content_type: bool = True


class ContainerGateway:
    """One container, or the part of it below a prefix.

    Args:
        name: The name of the container.
        storage: The name of the storage in error messages.
        get_blob_client: Returns the client of a blob.
        prefix: The prefix of every blob name; empty, or ending in ``/``.
        settings: Settings that apply to every stored blob.
        check_content: Whether content is sent and read with its MD5.
        read_timeout: How long, in seconds, the service may send nothing.
        attempts: How often an interrupted download is retried without progress.
    """

    def __init__(
        self,
        name: str,
        storage: str,
        get_blob_client: BlobClientFactory,
        *,
        prefix: str = "",
        settings: BlobSettings | None = None,
        check_content: bool = False,
        read_timeout: float = 15,
        attempts: int = 3,
    ) -> None:
        self.name = name
        self.storage = storage
        self.prefix = prefix
        self.settings = settings or BlobSettings()
        self.check_content = check_content
        self.read_timeout = read_timeout
        self.get_blob_client = get_blob_client
        self._attempts = attempts

    def key(self, path: str) -> str:
        """Return the blob name of a path."""
        return self.prefix + path

    def path(self, key: str) -> str:
        """Return the path of a blob name, relative to the prefix."""
        return key[len(self.prefix) :]

    def call(self, operation: str, path: str, *args: Any, for_cleanup: bool = False, **arguments: Any) -> Any:
        """Call a method of the SDK's client of a blob, and return its result."""
        client = self.get_blob_client(self.key(path), for_cleanup=for_cleanup)
        with translating_parse_errors():
            return getattr(client, operation)(*args, **arguments)

    def head(self, path: str, *, for_cleanup: bool = False) -> BlobProperties:
        """Return the properties of a blob."""
        properties: BlobProperties = self.call("get_blob_properties", path, for_cleanup=for_cleanup)
        with translating_parse_errors():
            return _require_properties(properties)

    def get_first_bytes(self, path: str, size: int) -> tuple[bytes, BlobProperties]:
        """Return the first *size* bytes of a blob, or all of a smaller one, and its properties.

        One request fetches both. If the response is interrupted, :meth:`get_range` resumes it.
        """
        buffer = io.BytesIO()
        requested = min(size, self._max_range)
        try:
            properties, total = self._get(path, 0, requested, buffer)
        except sdk.HttpResponseError as error:
            if status_of(error) != _NOT_SATISFIABLE:
                raise
            return b"", self.head(path)  # an empty blob has no first byte
        properties.size = total
        if self.check_content and properties.size == requested and self.head(path).size != requested:
            # A total size corrupted in transit to exactly the requested size would not be noticed otherwise.
            raise IntegrityError("the size of the download is not the stored size: read the file again")
        end = min(size, properties.size)
        if buffer.tell() < end:
            self.get_range(path, buffer.tell(), end, buffer, properties)
        return buffer.getvalue(), properties

    def get_range(self, path: str, start: int, stop: int, into: io.BytesIO, blob: BlobProperties) -> None:
        """Write the bytes from *start* to *stop* of one version of a blob into a buffer.

        An interrupted download resumes at the byte where it ended, as long as it makes progress.

        Raises:
            PreconditionFailedError: when the blob was replaced or deleted.
        """

        def get(start: int, stop: int) -> None:
            try:
                conditions = {"etag": blob.etag, "match_condition": MatchConditions.IfNotModified}
                _, total = self._get(path, start, stop, into, **conditions)
            except sdk.HttpResponseError as error:
                if code_of(error) in ("ConditionNotMet", "BlobNotFound") or status_of(error) == _NOT_SATISFIABLE:
                    raise PreconditionFailedError(f"{path} was replaced or deleted while it was being read") from error
                raise
            if total != blob.size:
                raise IntegrityError("one version of the file has two sizes: read the file again")

        download_range(get, start, stop, into, attempts=self._attempts, max_request_size=self._max_range)

    def md5_of(self, data: ReadableBuffer) -> bytearray | None:
        """Return the MD5 to send with content, or None if the connection protects the content."""
        return bytearray(hashlib.md5(data, usedforsecurity=False).digest()) if self.check_content else None

    # -- inner ------------------------------------------------------------------------------------------------------

    @property
    def _max_range(self) -> int:
        return _MAX_CHECKED_RANGE if self.check_content else _MAX_RANGE

    def _get(self, path: str, start: int, stop: int, into: io.BytesIO, **conditions: Any) -> tuple[BlobProperties, int]:
        """Write the bytes of a range into a buffer, until the response ends or is interrupted.

        Returns:
            The properties in the response, and the size of the blob.
        """
        before = into.tell()
        expected: list[str] = []
        ranges: list[str] = []

        def read_body(response: Any) -> None:
            # The body is read here and not by the SDK, which would hold two copies of it in memory.
            http_response = response.http_response
            into.seek(before)
            try:
                if http_response.status_code not in (_OK, _PARTIAL):
                    _load_body(http_response)
                    return
                ranges[:] = [http_response.headers.get("Content-Range", "")]  # the SDK replaces this header
                size = min(stop - start, int(http_response.headers.get("Content-Length", stop - start)))
                read_into(http_response.internal_response.raw, size, into, self.read_timeout)
                if size and into.tell() == before:  # the connection may have ended within the headers
                    raise sdk.ServiceResponseError("the connection broke off before any content")
            finally:
                # A response that is not read to its end would occupy a connection of the pool.
                http_response.internal_response.close()
            if into.tell() - before == size:
                expected[:] = [http_response.headers.get("Content-MD5", "")]
            elif self.check_content:
                into.seek(before)  # a part of the range cannot be checked

        def set_response_callback(request: Any) -> None:
            # The SDK drops its own argument for this, raw_response_hook, when the first attempt gets no response.
            request.context["response_callback"] = read_body

        headers: dict[str, Any] = {"headers": {"x-ms-range-get-content-md5": "true"}} if self.check_content else {}
        arguments: dict[str, Any] = {
            "offset": start,
            "length": stop - start,
            "max_concurrency": 1,
            "raw_request_hook": set_response_callback,
        }
        downloader = self.call("download_blob", path, **arguments, **headers, **conditions)
        if self.check_content and expected and expected[0]:
            digest = hashlib.md5(into.getbuffer()[before : into.tell()], usedforsecurity=False).digest()
            try:
                check_digest(base64.b64encode(digest).decode(), expected[0])
            except IntegrityError:
                into.seek(before)
                raise
        with translating_parse_errors():
            return _require_properties(downloader.properties), _total_size("".join(ranges), start, stop)


def _require_properties(blob: BlobProperties) -> BlobProperties:
    """Return the properties of a blob.

    Raises:
        ValueError: when ETag, date or size is missing.
    """
    # All of Azure's ETags are strong. A proxy that compresses responses marks them as weak, and no condition matches.
    sent: Any = blob.etag
    etag = str(sent or "").removeprefix("W/")
    found: tuple[Any, ...] = (etag.strip('"') or None, blob.last_modified, blob.size)
    if None in found:
        raise ValueError("no ETag, no date or no size")
    blob.etag = etag
    return blob


def _total_size(content_range: str, start: int, stop: int) -> int:
    """Return the size of a blob from the Content-Range of a response with the bytes from *start* to *stop*.

    Raises:
        ValueError: when the header is missing, malformed, or describes another range.
    """
    found = _RANGE.fullmatch(content_range)
    if found is None:
        raise ValueError("no range")
    first, last, total = map(int, found.groups())
    if first != start or last != min(stop, total) - 1:
        raise ValueError("another range")
    return total


def _load_body(http_response: Any) -> None:
    """Read the body of an error response, which the SDK does not read before a retry."""
    try:
        http_response.body()
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise sdk.ServiceResponseError(error, error=error) from error


@contextmanager
def translating_parse_errors() -> Iterator[None]:
    """Translate the built-in errors that the SDK raises when it cannot parse a response."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, sdk.DeserializationError) as error:
        raise StorageUnavailableError("the response is malformed: try again, or check the proxy in between") from error


def iter_pages(paged: Any) -> Iterator[list[Any]]:
    """Yield the pages of an SDK listing, as they arrive."""
    pages = paged.by_page()
    while True:
        with translating_parse_errors():
            page = next(pages, None)
            if page is None:
                return
            entries = list(page)
        yield entries
