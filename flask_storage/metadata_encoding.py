"""Encoding of text in HTTP headers, which hold ASCII only: metadata in requests and responses."""

from __future__ import annotations

import base64
import email.errors
import email.header
import re
from collections.abc import Mapping
from typing import overload

_MARK = "\ufeff"  # an invisible character
_PLAIN_VALUE = re.compile(r"(?!.*=\?)[!-~]([ -~]*[!-~])?")


def encode_metadata(value: str) -> str:
    """Return a metadata value in ASCII for a header. Other characters are encoded as S3 does (RFC 2047).

    AWS decodes the value when it stores it, and on reading encodes only values that are not ASCII. Leading and trailing
    spaces would be lost, and text that looks like an encoded word would be decoded; a mark that is not ASCII prevents
    both.
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
    """Return a header that was sent in UTF-8; http.client decodes headers as Latin-1."""
    try:
        return value and value.encode("latin-1").decode()
    except UnicodeError:
        return value  # another client stored it in another encoding


def decode_metadata(value: str) -> str:
    """Return a metadata value as it was given to :func:`encode_metadata`, or as another client stored it."""
    if "=?" not in value:
        return decode_utf8_header(value)
    try:
        parts = email.header.decode_header(value)
        text = "".join(part if isinstance(part, str) else part.decode(charset or "latin-1") for part, charset in parts)
        return text.removesuffix(_MARK)
    except (email.errors.HeaderParseError, LookupError, ValueError):
        return value  # text of another client that only looks like an encoded word


def check_ascii(headers: Mapping[str, str | None]) -> None:
    """Check that header values that are sent unencoded are ASCII.

    Raises:
        ValueError: when one is not.
    """
    for name, value in headers.items():
        if not (value or "").isascii():
            advice = (
                "; write the file name of a download as filename*=UTF-8''…" if name == "content_disposition" else ""
            )
            raise ValueError(f"{name} must be ASCII on this backend{advice}")
