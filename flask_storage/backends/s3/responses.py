"""Reads the values in boto3's responses. A service, or a proxy in between, may send anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError as Urllib3Error, ReadTimeoutError as Urllib3Timeout

from ...errors import StorageTimeoutError, StorageUnavailableError

_NOT_LISTED = {"RequestCharged", "ResponseMetadata"}
"""What boto3 returns for every response, also for one that is no listing."""


def check_listing(page: Any) -> None:
    """Check that a response is a page of a listing.

    Raises:
        StorageUnavailableError: when it is another XML document, which would look like an empty listing.
    """
    if page.keys() <= _NOT_LISTED:
        raise StorageUnavailableError("the response is no listing: check the endpoint_url and the proxy in between")


def size_of(response: Any) -> int:
    """Return the size of the whole object in bytes, also from a response to a range request.

    Raises:
        StorageUnavailableError: when it is missing or no number.
    """
    content_range = response.get("ContentRange")
    if not content_range and "ContentLength" not in response:
        raise StorageUnavailableError(
            'the response has no size: try again, or check the preset (Google Cloud Storage needs "gcs") and the proxy '
            "in between"
        )
    with translating_parse_errors():
        return int(content_range.rpartition("/")[2]) if content_range else int(response["ContentLength"])


def etag_of(response: Any) -> str:
    """Return the ETag in a response, in its quotes.

    Raises:
        StorageUnavailableError: when it is missing or truncated; without it the version that was read or written is
            unknown.
    """
    etag = response.get("ETag")
    if not etag or etag.count('"') == 1:
        raise StorageUnavailableError("the response has no ETag: try again, or check the proxy in between")
    return str(etag)


def date_of(response: Any) -> datetime:
    """Return the Last-Modified time in a response.

    Raises:
        StorageUnavailableError: when it is missing.
    """
    if "LastModified" not in response:
        raise StorageUnavailableError(
            "the response has no Last-Modified header: try again, or check the proxy in between"
        )
    last_modified: datetime = response["LastModified"]
    return last_modified


def upload_id_of(response: Any) -> str:
    """Return the id of a multipart upload in a response.

    Raises:
        StorageUnavailableError: when it is missing.
    """
    with translating_parse_errors():
        return str(response["UploadId"])


def unquoted_etag(response: Any) -> str:
    """Return the ETag in a response without its quotes, as ``FileInfo`` has it."""
    return etag_of(response).strip('"')


@contextmanager
def translating_parse_errors() -> Iterator[None]:
    """Translate the errors that boto3 raises when it parses an invalid response, or reads the body of an error."""
    try:
        yield
    except Urllib3Timeout as error:
        raise StorageTimeoutError(
            "the rest of the response was not received within read_timeout: try again, or raise read_timeout"
        ) from error
    except Urllib3Error as error:
        raise StorageUnavailableError("the connection broke off: try again") from error
    except (AttributeError, KeyError, ResponseParserError, RuntimeError, TypeError, ValueError) as error:
        raise StorageUnavailableError(
            "the response cannot be parsed: try again, or check the proxy in between"
        ) from error
