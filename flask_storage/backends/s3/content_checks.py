"""Comparing what was read with what the service remembers of it: an ETag made of MD5s, or a checksum."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...bodies import Md5, compare
from ...parts import PartLimits, PartPlan
from ...ranges import ContentCheck
from .bucket import tag_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PLAN_KEY = "fs-parts"
"""The metadata key under which :func:`plan_note` is kept; the wall takes none with a hyphen, so nobody else uses it."""
WRITE_KEY = "fs-write"
"""Likewise for what tells a write from another one of the same content, where that matters."""
OWN_KEYS = frozenset({PLAN_KEY, WRITE_KEY})
"""What is ours among the metadata of an object, and no business of the app."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_NOTE = re.compile(r"([0-9]{1,10})(\+?)")
_OF_PARTS = re.compile(r"([0-9a-f]{32})-([0-9]{1,5})")


def plan_note(plan: PartPlan) -> str:
    """Return what is kept with an upload in parts, so that a reader can compute the same ETag.

    >>> plan_note(PartPlan(first=5242880, grows=True))
    '5242880+'
    """
    return f"{plan.first}+" if plan.grows else str(plan.first)


def check_for(answer: Mapping[str, Any], size: int, limits: PartLimits, *, etag_is_md5: bool) -> ContentCheck | None:
    """Return how to check the content of an object, or None where the service gives nothing to check it by.

    Args:
        answer: To GET or HEAD.
        size: Of the whole object, in bytes.
        limits: Of the service's parts.
        etag_is_md5: Whether its ETags are made of MD5s; with keys of a key service or a customer they never are.
    """
    if answer.get("ChecksumCRC32") and answer.get("ChecksumType") == "FULL_OBJECT":
        return _Crc32(answer["ChecksumCRC32"])
    plain = not answer.get("SSECustomerAlgorithm") and "kms" not in answer.get("ServerSideEncryption", "")
    if not (etag_is_md5 and plain):
        return None
    etag = tag_of(answer)
    if _MD5.fullmatch(etag):
        return Md5(etag)
    of_parts = _OF_PARTS.fullmatch(etag)
    note = _NOTE.fullmatch(answer.get("Metadata", {}).get(PLAN_KEY, ""))
    # Somebody else may have written the note: one that makes no sense, or takes long to work out, is none.
    if of_parts and note and limits.min_size <= int(note[1]) <= (limits.max_size or 0):
        plan = PartPlan(first=int(note[1]), grows=bool(note[2]))
        check = _Md5OfParts(of_parts[1], plan, limits)
        if check.parts_of(size) == int(of_parts[2]):
            return check
    return None


def etag_of_parts(etags: list[str]) -> str | None:
    """Return the ETag that an object made of parts with these ETags has, or None where those are no MD5s."""
    if not all(_MD5.fullmatch(etag) for etag in etags):
        return None
    joined = hashlib.md5(bytes.fromhex("".join(etags)), usedforsecurity=False).hexdigest()
    return f"{joined}-{len(etags)}"


class _Md5OfParts:
    def __init__(self, expected: str, plan: PartPlan, limits: PartLimits) -> None:
        self._expected = expected
        self._plan = plan
        self._limits = limits
        self._digests = bytearray()
        self._number = 1
        self._room = self._size()
        self._hash = hashlib.md5(usedforsecurity=False)

    def parts_of(self, size: int) -> int:
        """Return how many parts *size* bytes make."""
        number = 0
        while size > 0 and number <= self._limits.max_count:
            number += 1
            size -= self._plan.size_of(number, self._limits)
        return number

    def update(self, data: ReadableBuffer, /) -> None:
        view = memoryview(data)
        while view:
            if not self._room:
                self._end_part()
            self._hash.update(view[: self._room])
            taken = min(self._room, len(view))
            self._room -= taken
            view = view[taken:]

    def verify(self) -> None:
        self._digests += self._hash.digest()
        compare(hashlib.md5(self._digests, usedforsecurity=False).hexdigest(), self._expected)

    def _size(self) -> int:
        return self._plan.size_of(self._number, self._limits)

    def _end_part(self) -> None:
        self._digests += self._hash.digest()
        self._hash = hashlib.md5(usedforsecurity=False)
        self._number += 1
        self._room = self._size()


class _Crc32:
    def __init__(self, expected: str) -> None:
        self._expected = base64.b64decode(expected).hex()
        self._sum = 0

    def update(self, data: ReadableBuffer, /) -> None:
        self._sum = zlib.crc32(data, self._sum)

    def verify(self) -> None:
        compare(f"{self._sum:08x}", self._expected)
