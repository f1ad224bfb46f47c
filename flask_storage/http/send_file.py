"""A stored file as an HTTP response: ranges, conditional requests, names, content types and security headers.

The headers that describe a file come from the app (a signed link, an argument) or from the storage, never from the
request. Files may have been uploaded by untrusted users: each is an attachment unless its type cannot run scripts
(:rfc:`6266`, :rfc:`9110`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from flask import Response, current_app, request
from werkzeug import exceptions
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.http import http_date

from ..backends.base import StorageBackend
from ..errors import (
    ExpiredLinkError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
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
from .conditions import http_last_modified, is_modified, quoted_etag, range_applies, requested_range
from .file_body import CHUNK_BYTES, file_body
from .response_headers import file_headers, header_value

logger = logging.getLogger("flask_storage")


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
    """Return a response to the current request that sends a stored file.

    One byte range, ``If-Range`` and the four conditional headers of HTTP are supported; a request for several ranges
    gets the whole file. A range request reads nothing before the first byte and at most one chunk past the last. From
    local disk, one chunk (256 KiB) is held in memory at a time; from a remote storage also what was read ahead: at most
    2 MiB for a client that takes less than 8 MiB a second. Headers and body belong to one version of the file, also
    when the file is replaced concurrently. HEAD does not open the file.

    The response sets no cookie and does not vary by one, even when the app changed its session. With
    ``STORAGE_X_ACCEL_REDIRECT`` or ``STORAGE_X_SENDFILE`` the web server in front sends the body, and handles
    conditions and ranges itself.

    Args:
        backend: The storage.
        path: The path in the storage.
        filename: The name a browser saves the file under; the last part of *path* by default.
        disposition: ``"inline"`` shows a file whose type cannot run scripts: PNG, JPEG, GIF, WebP, AVIF, audio, video,
            PDF and plain text. All other files are attachments, also with ``"inline"``.
        content_type: Instead of the stored one. Without either, it is guessed from the extension.
        content_encoding: Instead of the stored one.
        cache_control: The header; ``"private, no-cache"`` by default.
        ranges: False ignores ``Range`` and always sends the whole file.

    Returns:
        A response with status 200, 206 or 304.

    Raises:
        werkzeug.exceptions.HTTPException: 404 for a missing file, 400 for an invalid path, 403 when the storage denies
            access, 412 for a failed precondition, 416 for a range that does not exist, 503 and 504 when the storage is
            unavailable.

    .. code-block:: python

        @app.get("/report")
        @login_required
        def report():
            return send_stored_file(current_storage["docs"], "report.pdf", disposition="inline")
    """
    with http_errors():
        offload = _offload_headers(backend, path) if ranges and not content_encoding else None
        reader = None if offload or request.method == "HEAD" else backend.open(path, "r")
        try:
            info = offload[0] if offload else (reader and reader.info) or backend.stat(path)
            headers = file_headers(
                info,
                filename=filename,
                disposition=disposition,
                content_type=content_type,
                content_encoding=content_encoding,
            )
            headers["Cache-Control"] = header_value(cache_control) or "private, no-cache"
            if offload:
                headers["Content-Length"] = "0"  # so that Flask-Compress does not compress the empty body
                headers.update(offload[1])
                return StoredFileResponse(headers=headers, info=info)
            return _file_response(reader, info, headers, ranges=ranges)
        except BaseException:
            if reader is not None:
                reader.close()
            raise


class CookielessResponse(Response):
    """A response that sets no cookie and does not vary by one, so that a shared cache never stores a session.

    Flask saves the session after the view has returned, so the headers are removed when the response is sent.
    """

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """Return the headers without those that Flask adds when the session was accessed."""
        headers = super().get_wsgi_headers(environ)
        headers.remove("Set-Cookie")
        vary = [name for line in headers.getlist("Vary") for name in line.replace(" ", "").split(",") if name]
        headers.remove("Vary")
        if other_names := [name for name in vary if name.lower() != "cookie"]:
            headers["Vary"] = ", ".join(other_names)
        return headers


class StoredFileResponse(CookielessResponse):
    """The response of :func:`send_stored_file`.

    Attributes:
        info: The attributes of the version of the file that is sent.
    """

    def __init__(self, *args: Any, info: FileInfo, **options: Any) -> None:
        super().__init__(*args, **options)
        self.info = info


# -- errors -----------------------------------------------------------------------------------------------------------


class InsufficientStorage(HTTPException):
    """507 Insufficient Storage, which Werkzeug does not define."""

    code = 507
    description = "The storage is full."


ErrorResponses = Mapping[type[StorageError], Callable[[], HTTPException]]

_ERROR_RESPONSES: ErrorResponses = {
    FileNotFoundInStorageError: lambda: exceptions.NotFound("The file does not exist."),
    NotAFileError: lambda: exceptions.NotFound("The file does not exist."),
    InvalidPathError: lambda: exceptions.BadRequest("The path is not valid."),
    PermissionDeniedError: lambda: exceptions.Forbidden("The storage denies access to the file."),
    UnsupportedOperationError: lambda: exceptions.Forbidden("The storage does not support this operation."),
    ExpiredLinkError: lambda: exceptions.Forbidden("The link has expired. Request a new one."),
    InvalidLinkError: lambda: exceptions.Forbidden("The link is not valid. Check that it was copied completely."),
    FileExistsInStorageError: lambda: exceptions.Conflict("The file exists already."),
    PreconditionFailedError: lambda: exceptions.PreconditionFailed("The file has been replaced by another version."),
    TooLargeError: lambda: exceptions.RequestEntityTooLarge("The file is too large."),
    StorageFullError: InsufficientStorage,
    ThrottledError: lambda: exceptions.ServiceUnavailable("The storage is busy.", retry_after=5),
    StorageTimeoutError: lambda: exceptions.GatewayTimeout("The storage does not respond."),
    StorageUnavailableError: lambda: exceptions.ServiceUnavailable("The storage cannot be reached."),
}

_LOGGED = (PermissionDeniedError, StorageFullError, StorageUnavailableError)
"""Errors that someone has to repair; the response does not say why, and Flask does not log it."""


@contextmanager
def http_errors(responses: ErrorResponses | None = None) -> Iterator[None]:
    """Turn storage errors into HTTP errors whose text contains no name, path or key.

    Args:
        responses: Responses that replace the default ones, by error class; they apply to subclasses too.

    Errors of the server that are not temporary (a wrong configuration, a broken disk) are not translated, so that the
    app logs them. Of the others, those that the client did not cause are logged here.
    """
    try:
        yield
    except StorageError as error:
        table = {**_ERROR_RESPONSES, **(responses or {})}
        for error_class in type(error).__mro__:
            if error_class in table:
                http_error = table[error_class]()
                if isinstance(error, _LOGGED):
                    logger.warning("responded with %s: %s: %s", http_error.code, type(error).__name__, error)
                raise http_error from error
        raise


# -- X-Accel-Redirect and X-Sendfile ----------------------------------------------------------------------------------


def _offload_headers(backend: StorageBackend, path: str) -> tuple[FileInfo, dict[str, str]] | None:
    """Return the file's info and the header that makes the web server send it; None where the app must send it."""
    locations = current_app.config.get("STORAGE_X_ACCEL_REDIRECT") or {}
    profile, path_in_profile = backend._profile_path(backend._path(path))
    location = locations.get(profile)
    if not (location or current_app.config.get("STORAGE_X_SENDFILE")):
        return None
    local_path = backend.local_path(path)
    if local_path is None:
        return None
    info = backend.stat(path)
    if info.content_encoding:
        return None  # nginx would drop Content-Encoding; it keeps Content-Type, Content-Disposition and Cache-Control
    # The web servers percent-decode both headers.
    if location:
        return info, {"X-Accel-Redirect": f"{location.rstrip('/')}/{quote(path_in_profile)}"}
    return info, {"X-Sendfile": quote(str(local_path.absolute()))}


# -- the response -----------------------------------------------------------------------------------------------------


def _file_response(reader: RemoteFile | None, info: FileInfo, headers: Headers, *, ranges: bool) -> StoredFileResponse:
    """Return a response with the whole file (200), one range of it (206), or none of it (304: not modified)."""
    if etag := quoted_etag(info):
        headers["ETag"] = etag
    headers["Last-Modified"] = http_date(http_last_modified(info))
    headers["Accept-Ranges"] = "bytes" if ranges else "none"
    if not is_modified(info):
        if reader is not None:
            reader.close()
        return StoredFileResponse(status=304, headers=headers, info=info)
    status, start, count = 200, 0, info.size
    if ranges and reader is not None and range_applies(info):
        byte_range = requested_range(request.headers.get("Range", ""), info.size)
        if byte_range is not None:
            status, (start, count) = 206, byte_range
            headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{info.size}"
    headers["Content-Length"] = str(count)
    if reader is not None and not count:
        reader.close()
        reader = None
    if reader is None:
        # An iterator, as the body of GET, because Flask-Compress compresses sequences in another way. Not an empty one:
        # Hypercorn sends a response only after its first chunk.
        return StoredFileResponse(iter([b""]), headers=headers, info=info)
    body = _body(reader, start, count, whole=status == 200)
    return StoredFileResponse(body, status=status, headers=headers, direct_passthrough=True, info=info)


def _body(reader: RemoteFile, start: int, count: int, *, whole: bool) -> Any:
    wrapper = request.environ.get("wsgi.file_wrapper")
    if whole and wrapper is not None and _has_descriptor(reader):
        # The server copies with sendfile(2). Only for the whole file: not every server stops at the end of a range.
        return wrapper(reader, CHUNK_BYTES)
    if start:
        reader.seek(start)
    return file_body(reader, count)


def _has_descriptor(reader: RemoteFile) -> bool:
    try:
        reader.fileno()
    except OSError:  # io.UnsupportedOperation is one
        return False
    return True
