"""The file of an upload form (``multipart/form-data``, :rfc:`7578`), read while it arrives.

Flask's own parser writes files to temporary files. Werkzeug's incremental decoder adds a byte to a file, or removes
one, when the network splits the body at certain positions (tried with 3.1.0 to 3.1.9). Browsers send a simple subset of
the format, which this module reads.
"""

from __future__ import annotations

from collections.abc import Iterator

from flask import request
from werkzeug import exceptions
from werkzeug.http import parse_options_header

from ..content_types import DEFAULT_CONTENT_TYPE
from ..types import LinkRequest
from .request_body import UploadBody, body_chunks, content_length, size_limit

MAX_FIELD_BYTES = 20_000
"""The largest size of a form without its file; S3 has the same limit."""

_MAX_TYPE_LENGTH = 255
_ONE_FILE = "The form must have one file, in a field named 'file': select a file."


def form_body(constraints: LinkRequest) -> UploadBody:
    """Read the form up to its file, and check the fields.

    The fields are checked as S3 checks those of its forms: what was not signed is refused, except after the file, where
    it is ignored. So a page that works with a link of the app also works with a form of S3.
    """
    boundary = request.mimetype_params.get("boundary")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise exceptions.UnsupportedMediaType("Send the file in a form: multipart/form-data, with a boundary.")
    limit = size_limit(constraints)
    length = content_length(None if limit is None else limit + MAX_FIELD_BYTES)
    reader = FormReader(body_chunks(length), boundary)
    content_type = _check_type(_read_fields(reader), constraints.content_type)
    return UploadBody(None, content_type, _read_file(reader, constraints.min_size or 0, limit))


class FormReader:
    """Reads the parts of a form, one after the other.

    Args:
        chunks: The body.
        boundary: What separates the parts.
    """

    def __init__(self, chunks: Iterator[bytes], boundary: str) -> None:
        self._chunks = chunks
        self._delimiter = b"\r\n--" + boundary.encode()
        self._buffer = b"\r\n"  # a line end before the first delimiter is optional
        self._field_bytes = 0
        self._take(self._delimiter)

    def next_part(self) -> tuple[str, str | None] | None:
        """Return the name of the next part, and of its file, if it has one; None after the last part.

        The content of the part must be read next.
        """
        while len(self._buffer) < 2:
            self._receive()
        line_end, self._buffer = self._buffer[:2], self._buffer[2:]
        if line_end == b"--":
            for _ in self._chunks:  # an incomplete body is found out here
                pass
            return None
        if line_end == b"\r\n":
            for line in self._take(b"\r\n\r\n").decode(errors="replace").split("\r\n"):
                header, _, value = line.partition(":")
                options = parse_options_header(value)[1]
                if header.lower() == "content-disposition" and "name" in options:
                    return options["name"], options.get("filename")
        raise exceptions.BadRequest("The form is damaged.")

    def value(self) -> str:
        """Return the content of a part that has no file."""
        return self._take(self._delimiter).decode(errors="replace")

    def content(self) -> Iterator[bytes]:
        """Return an iterator over the content of a part, which is not counted as fields."""
        return self._read_until(self._delimiter)

    def _take(self, end: bytes) -> bytes:
        taken = b""
        for piece in self._read_until(end):
            taken += piece
            self._field_bytes += len(piece)
            if self._field_bytes > MAX_FIELD_BYTES:
                raise exceptions.RequestEntityTooLarge(f"The fields may have at most {MAX_FIELD_BYTES} bytes.")
        return taken

    def _read_until(self, end: bytes) -> Iterator[bytes]:
        """Yield what precedes *end*, in pieces, and skip *end*."""
        kept = len(end) - 1  # the last bytes received may be the beginning of it
        while (position := self._buffer.find(end)) < 0:
            piece, self._buffer = self._buffer[:-kept], self._buffer[-kept:]
            yield piece
            self._receive()
        piece, self._buffer = self._buffer[:position], self._buffer[position + len(end) :]
        yield piece

    def _receive(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise exceptions.BadRequest("The form is incomplete: its last boundary is missing.")
        self._buffer += chunk


def _read_fields(reader: FormReader) -> dict[str, str]:
    """Return the fields before the file."""
    fields: dict[str, str] = {}
    while (part := reader.next_part()) is not None:
        name, filename = part
        if name == "file" and filename:  # a browser sends an empty name if no file was selected
            return fields
        if name == "file" or filename is not None:
            break
        if name != "Content-Type" or name in fields:
            raise exceptions.Forbidden("The form has a field that was not signed.")
        fields[name] = reader.value()
    raise exceptions.BadRequest(_ONE_FILE)


def _check_type(fields: dict[str, str], signed: str | None) -> str | None:
    """Return the content type to store, if the one in the form is permitted."""
    sent = fields.get("Content-Type", "")
    if signed is not None and signed.endswith("/"):
        if sent.startswith(signed) and len(sent) <= _MAX_TYPE_LENGTH:
            return sent
    elif sent == (signed or DEFAULT_CONTENT_TYPE):
        return signed
    raise exceptions.Forbidden("The form does not have the signed Content-Type.")


def _read_file(reader: FormReader, least: int, most: int | None) -> Iterator[bytes]:
    """Yield the content of the file, and read the rest of the form."""
    size = 0
    for piece in reader.content():
        size += len(piece)
        if most is not None and size > most:
            raise exceptions.RequestEntityTooLarge(f"The file may have at most {most} bytes.")
        yield piece
    while (part := reader.next_part()) is not None:
        if part[1]:
            raise exceptions.BadRequest(_ONE_FILE)
        reader.value()
    if size < least:
        raise exceptions.BadRequest(f"The file must have at least {least} bytes.")
