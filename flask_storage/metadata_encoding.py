"""Text in the headers of HTTP, which carry ASCII: metadata on its way out and back, and what others sent as it was."""

from __future__ import annotations

import base64
import email.errors
import email.header
import re
from collections.abc import Mapping
from typing import overload

_MARK = "\ufeff"  # shown by nobody
_PLAIN_VALUE = re.compile(r"(?!.*=\?)[!-~]([ -~]*[!-~])?")


def encode_metadata(value: str) -> str:
    """Return metadata as a header can carry it: other text than ASCII as S3 itself writes it (RFC 2047).

    AWS decodes that when it stores, and encodes again only what is not ASCII. A space at an end would be lost then, and
    what only looks like an encoded word would be read as one; such text is marked with a character that is not ASCII.
    """
    if _PLAIN_VALUE.fullmatch(value):
        return value
    if value.isascii() or value.endswith(_MARK):
        value += _MARK
    return f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="


@overload
def decode_utf8_header(value: str) -> str: ...
@overload
def decode_utf8_header(value: str | None) -> str | None: ...
def decode_utf8_header(value: str | None) -> str | None:
    """Return a header as it was sent: in UTF-8, where http.client takes every byte for a character of its own."""
    try:
        return value and value.encode("latin-1").decode()
    except UnicodeError:
        return value  # somebody else sent it


def decode_metadata(value: str) -> str:
    """Return metadata as :func:`encode_metadata` was given it, or as somebody else sent it."""
    if "=?" not in value:
        return decode_utf8_header(value)
    try:
        parts = email.header.decode_header(value)
        text = "".join(
            part if isinstance(part, str) else part.decode(charset or "latin-1", "replace") for part, charset in parts
        )
        return text.removesuffix(_MARK)
    except (email.errors.HeaderParseError, LookupError):
        return value  # somebody else's text, that only looks like it


def check_ascii(headers: Mapping[str, str | None]) -> None:
    """Refuse headers that are sent as they are, and cannot be.

    Raises:
        ValueError: for one that is not ASCII.
    """
    for name, value in headers.items():
        if not (value or "").isascii():
            advice = "; the name of a download is written filename*=UTF-8''…" if name == "content_disposition" else ""
            raise ValueError(f"{name} is kept in ASCII here{advice}")
