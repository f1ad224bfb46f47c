"""Verifies downloaded content against the checksum that the service stores, or an ETag that is an MD5 digest."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...range_download import MD5Check, check_digest
from ...range_reader import ContentCheck
from .responses import translating_parse_errors, unquoted_etag

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MD5 = re.compile(r"[0-9a-f]{32}")


def select_check(response: Mapping[str, Any], *, etag_is_md5: bool) -> ContentCheck | None:
    """Return the check for the content of an object, or None where the service gives no digest to check.

    Args:
        response: The response to GET or HEAD.
        etag_is_md5: Whether the ETag of an object that one request stored is its MD5 digest; it is not with KMS or
            customer-provided keys.
    """
    if response.get("ChecksumCRC32") and response.get("ChecksumType") == "FULL_OBJECT":
        return _Crc32(response["ChecksumCRC32"])
    unencrypted = not response.get("SSECustomerAlgorithm") and "kms" not in response.get("ServerSideEncryption", "")
    if not (etag_is_md5 and unencrypted):
        return None
    etag = unquoted_etag(response)
    return MD5Check(etag) if _MD5.fullmatch(etag) else None


class _Crc32:
    def __init__(self, expected: str) -> None:
        with translating_parse_errors():
            self._expected = base64.b64decode(expected).hex()
        self._sum = 0

    def update(self, data: ReadableBuffer, /) -> None:
        self._sum = zlib.crc32(data, self._sum)

    def verify(self) -> None:
        check_digest(f"{self._sum:08x}", self._expected)
