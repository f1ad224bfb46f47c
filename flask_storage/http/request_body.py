"""The body of an upload by link: whether it may be stored, with which options, and how it is read."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from flask import request
from werkzeug import exceptions

from ..backends.base import StorageBackend
from ..errors import StorageError
from ..files import RemoteFile
from ..types import LinkRequest, WriteArguments
from .file_body import CHUNK_BYTES

_LENGTH = re.compile(r"[0-9]{1,18}")


def refuse_part_of_file() -> None:
    """Raise if the request is for a part of the file: replacing the whole file by the part would destroy it.

    ``Content-Range`` is sent by clients that resume an upload (``curl -C``). The others belong to protocols for
    resumable uploads: tus, and the one of the IETF, where more will follow unless ``Upload-Complete`` is ``?1``, or
    ``Upload-Incomplete``, its older name, is ``?0``.
    """
    sent = request.headers
    is_part = any(name in sent for name in ("Content-Range", "Tus-Resumable", "Upload-Offset"))
    if is_part or sent.get("Upload-Complete") == "?0" or sent.get("Upload-Incomplete") == "?1":
        raise exceptions.BadRequest("A link stores or deletes a whole file: send all of it in one request.")


def check_content_encoding(constraints: LinkRequest) -> None:
    """Raise if the body is encoded in another way than the link says, as which it would be stored."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower() or "identity"
    if encoding not in {"identity", (constraints.content_encoding or "").lower()}:
        raise exceptions.UnsupportedMediaType("The link does not allow this Content-Encoding.")


class UploadBody(NamedTuple):
    """What an upload stores.

    Attributes:
        size: In bytes; None if it is known only at the end.
        content_type: The type to store, if any.
        chunks: The content, read while it is iterated. A truncated or invalid body raises, and so discards the upload.
    """

    size: int | None
    content_type: str | None
    chunks: Iterator[bytes]


def raw_body(constraints: LinkRequest) -> UploadBody:
    """Return the body of a request that is the file itself, after checking its length."""
    if request.mimetype.startswith("multipart/"):
        raise exceptions.UnsupportedMediaType("Send the file itself as the body, not a form.")
    length = content_length(size_limit(constraints))
    if constraints.size is not None and length != constraints.size:
        raise exceptions.BadRequest(f"The body must have {constraints.size} bytes.")
    return UploadBody(length, constraints.content_type, body_chunks(length))


def size_limit(constraints: LinkRequest) -> int | None:
    """Return the largest size of a file in bytes: a signed one, or else the app's ``MAX_CONTENT_LENGTH``."""
    limits = [limit for limit in (constraints.size, constraints.max_size) if limit is not None]
    return min(limits) if limits else request.max_content_length


def content_length(limit: int | None) -> int:
    """Return the announced length of the body in bytes; 413 if it is larger than *limit*.

    A length is required because a truncated body cannot be detected without one: gunicorn reports a truncated and a
    complete body alike, and some servers pass a chunked body on as an empty one.
    """
    announced = request.environ.get("CONTENT_LENGTH") or ""
    if request.environ.get("HTTP_TRANSFER_ENCODING") or not _LENGTH.fullmatch(announced):
        raise exceptions.LengthRequired("Send the length of the body (Content-Length), without Transfer-Encoding.")
    length = int(announced)
    if limit is not None and length > limit:
        raise exceptions.RequestEntityTooLarge(f"The body may have at most {limit} bytes.")
    return length


def body_chunks(length: int) -> Iterator[bytes]:
    """Yield exactly *length* bytes of the body, in chunks; a truncated body raises."""
    # A before_request function may have called get_data() or get_json(). Werkzeug has no public name for its cache.
    cached = getattr(request, "_cached_data", None)
    # Not request.stream: it raises on the app's own limit, which a signed one overrides.
    stream = request.environ["wsgi.input"] if cached is None else io.BytesIO(cached)
    remaining = length
    while remaining:
        try:
            chunk = stream.read(min(CHUNK_BYTES, remaining))
        except OSError as error:
            raise exceptions.BadRequest("The body is shorter than announced.") from error
        if not chunk:
            raise exceptions.BadRequest("The body is shorter than announced.")
        yield chunk
        remaining -= len(chunk)


def open_upload(
    storage: StorageBackend, path: str, constraints: LinkRequest, body: UploadBody, conditions: WriteArguments
) -> RemoteFile:
    """Return a writer for the body that enforces the signed constraints and the request's conditions."""
    arguments: WriteArguments = {
        "size": body.size,
        "checksum": constraints.checksum,
        "exclusive": constraints.exclusive,
        "content_type": body.content_type,
        "content_encoding": constraints.content_encoding,
        "cache_control": constraints.cache_control,
    }
    arguments.update(conditions)
    try:
        return storage.open(path, "w", **arguments)
    except StorageError:
        raise
    except ValueError as error:
        raise exceptions.BadRequest("The link has a constraint that cannot be enforced.") from error
