"""The one gateway to a container: what is asked about a blob goes through :meth:`ContainerGateway.call`, its bytes too."""

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
"""Of a longer piece the service gives no MD5."""
_MAX_RANGE = 32 * 1024 * 1024
"""The SDK asks for no more at once, unless told to."""
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSettings:
    """What every blob is stored with."""

    stored: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    cache_control: str | None = None
    guess_content_type: bool = True


class ContainerGateway:
    """One container, or the part of it below a prefix.

    Args:
        name: Of the container.
        storage: What errors call the storage.
        get_blob_client: Gives the client of a blob.
        prefix: What every blob's name begins with; empty, or ending in ``/``.
        settings: What every blob is stored with.
        check_content: Whether content is sent and read with its MD5.
        read_timeout: How long, in seconds, a request may bring nothing.
        attempts: How often a download that breaks off is taken up again without having come any further.
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
        """Return the name of a blob."""
        return self.prefix + path

    def path(self, key: str) -> str:
        """Return the path of a blob's name below the prefix."""
        return key[len(self.prefix) :]

    def call(self, operation: str, path: str, *args: Any, for_cleanup: bool = False, **arguments: Any) -> Any:
        """Make one call of the SDK's client on a blob, and return its answer."""
        client = self.get_blob_client(self.key(path), for_cleanup=for_cleanup)
        with translating_parse_errors():
            return getattr(client, operation)(*args, **arguments)

    def head(self, path: str, *, for_cleanup: bool = False) -> BlobProperties:
        """Return what the service knows of a blob."""
        properties: BlobProperties = self.call("get_blob_properties", path, for_cleanup=for_cleanup)
        with translating_parse_errors():
            return _require_properties(properties)

    def get_first_bytes(self, path: str, size: int) -> tuple[bytes, BlobProperties]:
        """Return the first *size* bytes of a blob, or all of fewer, with what the service knows of it.

        One request brings both. An answer that breaks off is taken up by :meth:`get_range`.
        """
        buffer = io.BytesIO()
        asked = min(size, self._max_range)
        try:
            properties, total = self._get(path, 0, asked, buffer)
        except sdk.HttpResponseError as error:
            if status_of(error) != _NOT_SATISFIABLE:
                raise
            return b"", self.head(path)  # an empty blob has no first byte
        properties.size = total
        if self.check_content and properties.size == asked and self.head(path).size != asked:
            # Nothing else would tell of a total that was damaged on its way to be just what was asked for.
            raise IntegrityError("the size that arrived is not the one that is stored: read the file again")
        wanted = min(size, properties.size)
        if buffer.tell() < wanted:
            self.get_range(path, buffer.tell(), wanted, buffer, properties)
        return buffer.getvalue(), properties

    def get_range(self, path: str, start: int, stop: int, into: io.BytesIO, blob: BlobProperties) -> None:
        """Write the bytes from *start* to *stop* of one version of a blob into a buffer.

        A connection that breaks off is taken up where it ended, as long as that gets on.

        Raises:
            PreconditionFailedError: when the blob is another by now.
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
        """Return the MD5 that goes with content on its way, or None where the connection protects it."""
        return bytearray(hashlib.md5(data, usedforsecurity=False).digest()) if self.check_content else None

    # -- inner ------------------------------------------------------------------------------------------------------

    @property
    def _max_range(self) -> int:
        return _MAX_CHECKED_RANGE if self.check_content else _MAX_RANGE

    def _get(self, path: str, start: int, stop: int, into: io.BytesIO, **conditions: Any) -> tuple[BlobProperties, int]:
        """Write what arrives of a range before the answer ends or breaks off.

        Returns:
            What else the answer says of the piece, and the size of the whole.
        """
        before = into.tell()
        expected: list[str] = []
        ranges: list[str] = []

        def read_body(response: Any) -> None:
            # The body is read here, out of the SDK's hands: it would hold all of it, twice over.
            answer = response.http_response
            into.seek(before)
            try:
                if answer.status_code not in (_OK, _PARTIAL):
                    _load_body(answer)
                    return
                ranges[:] = [answer.headers.get("Content-Range", "")]  # the SDK makes another one up
                size = min(stop - start, int(answer.headers.get("Content-Length", stop - start)))
                read_into(answer.internal_response.raw, size, into, self.read_timeout)
                if size and into.tell() == before:  # such an answer may have ended amid its headers
                    raise sdk.ServiceResponseError("the connection broke off before any content")
            finally:
                # What was not read to its end would keep its connection, of which there are not many.
                answer.internal_response.close()
            if into.tell() - before == size:
                expected[:] = [answer.headers.get("Content-MD5", "")]
            elif self.check_content:
                into.seek(before)  # of less than all of it nobody knows whether it is right

        def set_response_callback(request: Any) -> None:
            # The SDK's own way to say this, raw_response_hook, is forgotten when the first attempt brings no answer.
            request.context["response_callback"] = read_body

        headers: dict[str, Any] = {"headers": {"x-ms-range-get-content-md5": "true"}} if self.check_content else {}
        arguments: dict[str, Any] = {
            "offset": start,
            "length": stop - start,
            "max_concurrency": 1,
            "raw_request_hook": set_response_callback,
        }
        answer = self.call("download_blob", path, **arguments, **headers, **conditions)
        if self.check_content and expected and expected[0]:
            digest = hashlib.md5(into.getbuffer()[before : into.tell()], usedforsecurity=False).digest()
            try:
                check_digest(base64.b64encode(digest).decode(), expected[0])
            except IntegrityError:
                into.seek(before)
                raise
        with translating_parse_errors():
            return _require_properties(answer.properties), _total_size("".join(ranges), start, stop)


def _require_properties(blob: BlobProperties) -> BlobProperties:
    """Return what is known of a blob.

    Raises:
        ValueError: when what every blob has is not there.
    """
    found: tuple[Any, ...] = (blob.etag, blob.last_modified, blob.size)
    if None in found:
        raise ValueError("no ETag, no date or no size")
    return blob


def _total_size(content_range: str, start: int, stop: int) -> int:
    """Return the size of a blob, as the answer to a request for the bytes from *start* to *stop* tells it.

    Raises:
        ValueError: when the answer is to another request, or contradicts itself.
    """
    found = _RANGE.fullmatch(content_range)
    if found is None:
        raise ValueError("no range")
    first, last, total = map(int, found.groups())
    if first != start or last != min(stop, total) - 1:
        raise ValueError("another range")
    return total


def _load_body(answer: Any) -> None:
    """Have an answer hold its own body, which the SDK leaves where it is when it tries again."""
    try:
        answer.body()
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise sdk.ServiceResponseError(error, error=error) from error


@contextmanager
def translating_parse_errors() -> Iterator[None]:
    """Translate what the SDK raises over an answer that it cannot read, which is an error of no class of its own."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, sdk.DeserializationError) as error:
        raise StorageUnavailableError(
            "the answer makes no sense: try again, or look at the proxy in between"
        ) from error


def iter_pages(paged: Any) -> Iterator[list[Any]]:
    """Yield the pages of a listing of the SDK, as they come."""
    pages = paged.by_page()
    while True:
        with translating_parse_errors():
            page = next(pages, None)
            if page is None:
                return
            entries = list(page)
        yield entries
