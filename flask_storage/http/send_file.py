"""A stored file as an HTTP response: ranges, conditions, names and types, and headers that keep it harmless.

Everything a browser is told about a file comes from the app (a signed link, an argument) or from the storage, never
from the request. What a stranger uploaded is offered for saving unless its type can run nothing
(:rfc:`6266`, :rfc:`9110`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote

from flask import Response, current_app, request
from werkzeug import exceptions
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.http import http_date, parse_date

from ..backends.base import StorageBackend
from ..errors import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidLinkError,
    InvalidPathError,
    NotAFileError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnavailableError,
    ThrottledError,
    TooLargeError,
    UnsupportedOperationError,
)
from ..files import RemoteFile
from ..types import FileInfo
from .response_headers import file_headers, header_value

CHUNK_BYTES = 256 * 1024
"""How much of a file is held at a time."""


def send_stored_file(
    backend: StorageBackend,
    path: str,
    *,
    filename: str | None = None,
    disposition: str | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
    cache_control: str | None = None,
    ranges: bool = True,
) -> StoredFileResponse:
    """Answer the current request with a stored file.

    One byte range, ``If-Range`` and the four conditions of HTTP are honoured; several ranges get the whole file. One
    chunk (256 KiB) is held at a time; a range reads nothing before its first byte and at most one chunk past its last.
    Headers and body belong to one version of the file, also while another is being written. HEAD opens nothing.

    The response sets no cookie and does not vary by one, whatever the app did to its session. With
    ``STORAGE_X_ACCEL_REDIRECT`` or ``STORAGE_X_SENDFILE`` the web server in front sends the body, and answers
    conditions and ranges itself.

    Args:
        backend: The storage.
        path: The path in the storage.
        filename: The name a browser saves the file under; the last part of *path* by default.
        disposition: ``"inline"`` shows the file where its type can run nothing: PNG, JPEG, GIF, WebP, AVIF, audio,
            video, PDF and plain text. Everything else is an attachment, whatever is asked for.
        content_type: Instead of the stored one. Without either, the extension decides.
        content_encoding: Likewise.
        cache_control: The header; ``"private, no-cache"`` by default.
        ranges: False answers with the whole file only.

    Returns:
        A response with status 200, 206 or 304.

    Raises:
        werkzeug.exceptions.HTTPException: 404 for a missing file, 400 for a path that is none, 403 for a refusal, 412
            and 416 as the request asked for, 503 and 504 when the storage does not answer.

    .. code-block:: python

        @app.get("/report")
        @login_required
        def report():
            return send_stored_file(current_storage["docs"], "report.pdf", disposition="inline")
    """
    with http_errors():
        handover = _offload_headers(backend, path) if ranges and not content_encoding else None
        reader = None if handover or request.method == "HEAD" else backend.open(path, "r")
        try:
            info = handover[0] if handover else (reader and reader.info) or backend.stat(path)
            headers = file_headers(
                info,
                filename=filename,
                disposition=disposition,
                content_type=content_type,
                content_encoding=content_encoding,
            )
            headers["Cache-Control"] = header_value(cache_control) or "private, no-cache"
            if handover:
                headers.update(handover[1])
                return StoredFileResponse(headers=headers, info=info)
            return _file_response(reader, info, headers, ranges=ranges)
        except BaseException:
            if reader is not None:
                reader.close()
            raise


class CookielessResponse(Response):
    """A response that sets no cookie and does not vary by one: whoever caches it holds no one's session.

    Flask saves the session after the view has returned, so the headers are cleaned when they leave.
    """

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """Return the headers without what a touched session has added."""
        headers = super().get_wsgi_headers(environ)
        headers.remove("Set-Cookie")
        vary = [name for line in headers.getlist("Vary") for name in line.replace(" ", "").split(",") if name]
        headers.remove("Vary")
        if kept := [name for name in vary if name.lower() != "cookie"]:
            headers["Vary"] = ", ".join(kept)
        return headers


class StoredFileResponse(CookielessResponse):
    """What :func:`send_stored_file` returns.

    Attributes:
        info: What is known of the version of the file that is being sent.
    """

    def __init__(self, *args: Any, info: FileInfo, **options: Any) -> None:
        super().__init__(*args, **options)
        self.info = info


# -- errors -----------------------------------------------------------------------------------------------------------


class InsufficientStorage(HTTPException):
    """507, which Werkzeug does not have."""

    code = 507
    description = "There is no room left for this file."


ErrorResponses = Mapping[type[StorageError], Callable[[], HTTPException]]

_ERROR_RESPONSES: ErrorResponses = {
    FileNotFoundInStorageError: lambda: exceptions.NotFound("There is no such file."),
    NotAFileError: lambda: exceptions.NotFound("There is no such file."),
    InvalidPathError: lambda: exceptions.BadRequest("This is no path of a file."),
    PermissionDeniedError: lambda: exceptions.Forbidden("The storage refuses."),
    UnsupportedOperationError: lambda: exceptions.Forbidden("The storage cannot do this."),
    InvalidLinkError: lambda: exceptions.Forbidden("The link is not valid, or no longer."),
    FileExistsInStorageError: lambda: exceptions.Conflict("There is a file already."),
    PreconditionFailedError: lambda: exceptions.PreconditionFailed("The file is another version by now."),
    TooLargeError: lambda: exceptions.RequestEntityTooLarge("The file is too large."),
    StorageFullError: InsufficientStorage,
    ThrottledError: lambda: exceptions.ServiceUnavailable("The storage is busy.", retry_after=5),
    StorageTimeoutError: lambda: exceptions.GatewayTimeout("The storage does not answer."),
    StorageUnavailableError: lambda: exceptions.ServiceUnavailable("The storage cannot be reached."),
}


@contextmanager
def http_errors(responses: ErrorResponses | None = None) -> Iterator[None]:
    """Turn storage errors into HTTP errors whose text tells no name, path or key.

    Args:
        responses: What differs from the usual, by error; subclasses are meant too.

    What is neither the client's doing nor a passing trouble (a wrong configuration, a broken disk) goes through as it
    is, so that it is logged and mended.
    """
    try:
        yield
    except StorageError as error:
        table = {**_ERROR_RESPONSES, **(responses or {})}
        for kind in type(error).__mro__:
            if kind in table:
                answer = table[kind]()
                raise answer from error
        raise


# -- handing over to the web server -----------------------------------------------------------------------------------


def _offload_headers(backend: StorageBackend, path: str) -> tuple[FileInfo, dict[str, str]] | None:
    """Return the header that has the web server send the file, where one is configured and can; else None."""
    locations = current_app.config.get("STORAGE_X_ACCEL_REDIRECT") or {}
    location = locations.get(backend.link_context.profile if backend.link_context else backend.name)
    if not (location or current_app.config.get("STORAGE_X_SENDFILE")):
        return None
    local_path = backend.local_path(path)
    if local_path is None:
        return None
    info = backend.stat(path)
    if info.content_encoding:
        return None  # nginx keeps the type, the disposition and the caching of our answer, and drops the encoding
    # Both are percent-decoded by the servers that know them.
    if location:
        return info, {"X-Accel-Redirect": f"{location.rstrip('/')}/{quote(info.path)}"}
    return info, {"X-Sendfile": quote(str(local_path.absolute()))}


# -- the answer -------------------------------------------------------------------------------------------------------


def _file_response(reader: RemoteFile | None, info: FileInfo, headers: Headers, *, ranges: bool) -> StoredFileResponse:
    """Return the whole file, one range of it, or the news that the client's copy is still good."""
    etag = _quoted_etag(info)
    if etag:
        headers["ETag"] = etag
    headers["Last-Modified"] = http_date(_http_last_modified(info))
    headers["Accept-Ranges"] = "bytes" if ranges else "none"
    if not _is_modified(etag, _http_last_modified(info)):
        if reader is not None:
            reader.close()
        return StoredFileResponse(status=304, headers=headers, info=info)
    status, start, count = 200, 0, info.size
    if ranges and reader is not None and _range_applies(etag, _http_last_modified(info)):
        wanted = _requested_range(request.headers.get("Range", ""), info.size)
        if wanted is not None:
            status, (start, count) = 206, wanted
            headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{info.size}"
    headers["Content-Length"] = str(count)
    if reader is not None and not count:
        reader.close()
        reader = None
    if reader is None:
        # Not an empty list: Hypercorn answers only when it is given a first chunk.
        return StoredFileResponse([b""], headers=headers, info=info)
    body = _body(reader, start, count, whole=status == 200)
    return StoredFileResponse(body, status=status, headers=headers, direct_passthrough=True, info=info)


def _body(reader: RemoteFile, start: int, count: int, *, whole: bool) -> Any:
    wrapper = request.environ.get("wsgi.file_wrapper")
    if whole and wrapper is not None and _has_descriptor(reader):
        # The server copies inside the kernel. Only the whole file: not every server stops where a range ends.
        return wrapper(reader, CHUNK_BYTES)
    if start:
        reader.seek(start)
    reader.will_read(count)
    return _BodyIterator(reader, count)


def _has_descriptor(reader: RemoteFile) -> bool:
    try:
        reader.fileno()
    except OSError:  # io.UnsupportedOperation is one
        return False
    return True


class _BodyIterator(Iterator[bytes]):
    """The next *count* bytes of a reader, in chunks; the server closes it, also when the client has gone."""

    def __init__(self, reader: RemoteFile, count: int) -> None:
        self._reader = reader
        self._remaining = count

    def __next__(self) -> bytes:
        if not self._remaining:
            self.close()  # not every client of a test calls close()
            raise StopIteration
        chunk = self._reader.read(min(CHUNK_BYTES, self._remaining))
        if not chunk:
            # A clean end here would pass for the whole file wherever nobody compares lengths.
            raise IntegrityError(f"the file ended {self._remaining} bytes early")
        self._remaining -= len(chunk)
        return chunk

    def close(self) -> None:
        self._reader.close()


# -- conditions and ranges --------------------------------------------------------------------------------------------


def _quoted_etag(info: FileInfo) -> str | None:
    """Return the validator as HTTP writes it. Commas and quotes are escaped: a list of tags is cut at its commas."""
    if not info.etag:
        return None
    tag = quote(info.etag, safe="!#$&'()*+-./:;<=>?@[]^_`{|}~")
    return f'"{tag}"' if info.etag_is_strong else f'W/"{tag}"'


def _http_last_modified(info: FileInfo) -> datetime:
    """Return the time of the last change as exactly as HTTP can say it."""
    return info.last_modified.datetime.replace(microsecond=0)


def _is_modified(etag: str | None, modified: datetime) -> bool:
    """Weigh the request's conditions in the order of RFC 9110, 13.2.2; False means that 304 will do.

    Raises:
        PreconditionFailed: when the client insists on another version.
    """
    given = request.headers
    if "If-Match" in given:
        if not _etag_matches(given["If-Match"], etag, strongly=True):
            raise exceptions.PreconditionFailed("The file is another version by now.")
    elif (before := _date(given.get("If-Unmodified-Since"))) and modified > before:
        raise exceptions.PreconditionFailed("The file has changed since.")
    if request.method not in {"GET", "HEAD"}:
        return True
    if "If-None-Match" in given:
        return not _etag_matches(given["If-None-Match"], etag, strongly=False)
    since = _date(given.get("If-Modified-Since"))
    return since is None or modified > since


def _etag_matches(header: str, etag: str | None, *, strongly: bool) -> bool:
    """Whether a list of entity tags names this one. Weakly, ``W/"x"`` is ``"x"``: proxies add the mark."""
    tags = {tag.strip() for tag in header.split(",")}
    if "*" in tags:
        return True
    if etag is None or (strongly and etag.startswith("W/")):
        return False
    if strongly:
        return etag in tags
    return etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in tags}


def _range_applies(etag: str | None, modified: datetime) -> bool:
    """Whether the range continues the version that the client has begun to fetch (``If-Range``)."""
    validator = request.headers.get("If-Range")
    if request.method != "GET":
        return False
    if validator is None or (validator == etag and not etag.startswith("W/")):
        return True
    return _date(validator) == modified


def _date(header: str | None) -> datetime | None:
    try:
        return parse_date(header)
    except OverflowError:  # a year or an offset with thirty digits, which Werkzeug lets through
        return None


_RANGE = re.compile(r"([0-9]*)[ \t]*-[ \t]*([0-9]*)")


def _requested_range(header: str, size: int) -> tuple[int, int] | None:
    """Return first byte and length of what a ``Range`` header asks for; None for the whole file.

    Raises:
        RequestedRangeNotSatisfiable: when it asks for nothing that exists, or for nothing intelligible.
    """
    unit, equals, text = header.partition("=")
    # Several ranges would need a multipart body; a thousand of them are an attack. The whole file is always right.
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
        if start <= end and (not last or start <= _number(last)):
            return start, end - start + 1
    raise exceptions.RequestedRangeNotSatisfiable(size, description="The file has no such bytes.")


def _number(digits: str) -> int:
    """Return the number, or one that is larger than any file: Python refuses to parse thousands of digits."""
    return int(digits.lstrip("0")[:19] or "0")
