"""Conditional requests and byte ranges (:rfc:`9110`, sections 13 and 14)."""

from __future__ import annotations

import re
from datetime import datetime
from urllib.parse import quote

from flask import request
from werkzeug import exceptions
from werkzeug.http import parse_date

from ..backends.base import StorageBackend
from ..errors import FileNotFoundInStorageError
from ..types import FileInfo, WriteArguments

# If-Modified-Since is not one of them: RFC 9110 defines it for GET and HEAD only.
_WRITE_CONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")


def quoted_etag(info: FileInfo) -> str | None:
    """Return the ETag header. Commas and quotes are escaped: lists of tags in requests are split at commas."""
    if not info.etag:
        return None
    tag = quote(info.etag, safe="!#$&'()*+-./:;<=>?@[]^_`{|}~")
    return f'"{tag}"' if info.etag_is_strong else f'W/"{tag}"'


def http_last_modified(info: FileInfo) -> datetime:
    """Return the time of the last change in whole seconds, the precision of HTTP dates."""
    return info.last_modified.datetime.replace(microsecond=0)


def is_modified(info: FileInfo) -> bool:
    """Evaluate the preconditions of a request that reads a file; False means that the response is 304.

    Raises:
        PreconditionFailed: when ``If-Match`` or ``If-Unmodified-Since`` does not hold.
    """
    _check_match(info)
    if request.method not in {"GET", "HEAD"}:
        return True
    if "If-None-Match" in request.headers:
        return not _etag_matches("If-None-Match", info)
    since = _date(request.headers.get("If-Modified-Since"))
    return since is None or http_last_modified(info) > since


def write_conditions(storage: StorageBackend, path: str) -> WriteArguments:
    """Evaluate the preconditions of a request that stores a file.

    A condition that holds now must still hold when the upload is published. So the returned arguments of ``open()`` let
    the storage replace only the version for which the conditions were evaluated.

    Raises:
        PreconditionFailed: when a condition does not hold.
        NotImplemented: when the storage cannot check it atomically.
    """
    if not _has_write_conditions():
        return {}
    current = _checked_version(storage, path)
    if current is None and storage.capabilities.exclusive:
        return {"exclusive": True}
    if current is not None and current.etag and current.etag_is_strong and storage.capabilities.if_match:
        return {"if_match": current.etag}
    raise exceptions.NotImplemented("The storage cannot store a file on this condition.")


def check_delete_conditions(storage: StorageBackend, path: str) -> None:
    """Evaluate the preconditions of a request that deletes a file.

    Raises:
        PreconditionFailed: when a condition does not hold.
        NotImplemented: for a condition that would have to be checked atomically: every one but ``If-Match: *``.
    """
    if not _has_write_conditions():
        return
    _checked_version(storage, path)
    if [request.headers.get(name) for name in _WRITE_CONDITIONS] != ["*", None, None]:
        raise exceptions.NotImplemented("The storage cannot delete a file on this condition.")


def _has_write_conditions() -> bool:
    return any(name in request.headers for name in _WRITE_CONDITIONS)


def _checked_version(storage: StorageBackend, path: str) -> FileInfo | None:
    """Return the attributes of the stored file, None if there is none, after evaluating the preconditions for it."""
    try:
        current = storage.stat(path)
    except FileNotFoundInStorageError:
        current = None
    _check_match(current)
    if "If-None-Match" in request.headers and _etag_matches("If-None-Match", current):
        raise exceptions.PreconditionFailed("The file exists already.")
    return current


def _check_match(info: FileInfo | None) -> None:
    """Evaluate ``If-Match``, or else ``If-Unmodified-Since`` (RFC 9110, 13.2.2); *info* is None for no file."""
    if "If-Match" in request.headers:
        if not _etag_matches("If-Match", info, strongly=True):
            raise exceptions.PreconditionFailed("The file has been replaced by another version.")
    elif info is not None:
        before = _date(request.headers.get("If-Unmodified-Since"))
        if before is not None and http_last_modified(info) > before:
            raise exceptions.PreconditionFailed("The file has been modified since.")


def _etag_matches(condition: str, info: FileInfo | None, *, strongly: bool = False) -> bool:
    """Whether the entity tags of a request header contain that of a file; no tag is the tag of a missing file.

    The weak comparison ignores ``W/``, which proxies add.
    """
    tags = {tag.strip() for tag in request.headers[condition].split(",")}
    if info is None or "*" in tags:
        return info is not None
    etag = quoted_etag(info)
    if etag is None or (strongly and etag.startswith("W/")):
        return False
    if strongly:
        return etag in tags
    return etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in tags}


def range_applies(info: FileInfo) -> bool:
    """Whether ``Range`` applies: without ``If-Range``, or when that names the current version."""
    validator = request.headers.get("If-Range")
    if request.method != "GET":
        return False
    if validator is None or (info.etag_is_strong and validator == quoted_etag(info)):
        return True
    return _date(validator) == http_last_modified(info)


def _date(header: str | None) -> datetime | None:
    try:
        return parse_date(header)
    except OverflowError:  # a year or an offset with thirty digits, which Werkzeug does not reject
        return None


_RANGE = re.compile(r"([0-9]*)[ \t]*-[ \t]*([0-9]*)")


def requested_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the length of a ``Range`` header; None for the whole file.

    An empty file is sent whole for a range that begins at byte 0, as nginx and Werkzeug do: a 416 would make nginx's
    ``slice`` module refuse a request without a range.

    Raises:
        RequestedRangeNotSatisfiable: when the file does not have these bytes, or the range is malformed.
    """
    unit, equals, text = header.partition("=")
    # Several ranges would need a multipart body, and a thousand of them are an attack. RFC 9110 allows the whole file.
    if not equals or unit.strip().lower() != "bytes" or "," in text:
        return None
    match = _RANGE.fullmatch(text.strip())
    first, last = match.groups() if match else ("", "")
    if not first:
        count = min(_number(last), size)
        if count:
            return size - count, count
        if size == 0 and _number(last):
            return None
    else:
        start, end = _number(first), min(_number(last) if last else size, size - 1)
        if start == size == 0:
            return None
        if start <= end and (not last or start <= _number(last)):
            return start, end - start + 1
    raise exceptions.RequestedRangeNotSatisfiable(size, description="The file does not have these bytes.")


def _number(digits: str) -> int:
    """Return the number, or one that is larger than any file: Python refuses to parse thousands of digits."""
    return int(digits.lstrip("0")[:19] or "0")
