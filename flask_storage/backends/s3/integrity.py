"""Comparing what was read with what the service remembers of it: an ETag that is its MD5, or a checksum."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...range_download import MD5Check, check_digest
from ...range_reader import ContentCheck
from .gateway import unquoted_etag

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MD5 = re.compile(r"[0-9a-f]{32}")


def select_check(answer: Mapping[str, Any], *, etag_is_md5: bool) -> ContentCheck | None:
    """Return how to check the content of an object, or None where the service gives nothing to check it by.

    Args:
        answer: To GET or HEAD.
        etag_is_md5: Whether the ETag of content stored in one go is its MD5; not with keys of a key service or a
            customer.
    """
    if answer.get("ChecksumCRC32") and answer.get("ChecksumType") == "FULL_OBJECT":
        return _Crc32(answer["ChecksumCRC32"])
    plain = not answer.get("SSECustomerAlgorithm") and "kms" not in answer.get("ServerSideEncryption", "")
    if not (etag_is_md5 and plain):
        return None
    etag = unquoted_etag(answer)
    return MD5Check(etag) if _MD5.fullmatch(etag) else None


class _Crc32:
    def __init__(self, expected: str) -> None:
        self._expected = base64.b64decode(expected).hex()
        self._sum = 0

    def update(self, data: ReadableBuffer, /) -> None:
        self._sum = zlib.crc32(data, self._sum)

    def verify(self) -> None:
        check_digest(f"{self._sum:08x}", self._expected)
