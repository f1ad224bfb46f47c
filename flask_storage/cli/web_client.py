"""A client that sends one HTTP request as a browser or curl would: without our credentials and our time-outs."""

from __future__ import annotations

import http.client
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_TIMEOUT = 15  # seconds
_MAX_BODY = 64 * 1024
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z.]{1,60})</Code>")


@dataclass(frozen=True, slots=True)
class Response:
    """A response; of its body the first 64 KiB.

    Attributes:
        status: The status.
        headers: The headers; their names are in lower case.
        body: The content.
        skew: How far the clock of the server is ahead of ours; None without a valid ``Date``.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    skew: timedelta | None = None

    def __str__(self) -> str:
        """Return the status, and the error code of the service; its texts may quote the signed request."""
        code = _ERROR_CODE.search(self.body)
        return f"{self.status} {code[1].decode()}" if code else str(self.status)


class UnreachableError(Exception):
    """There was no response; the message contains no URL."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Return None: the redirect is the response."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def send(url: str, method: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
    """Send a request and return the response, whatever its status; redirects are not followed.

    Raises:
        UnreachableError: when there is no response.
    """
    try:
        request = urllib.request.Request(url, body, dict(headers), method=method)  # noqa: S310 - a link that we signed
        try:
            response = _OPENER.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            fields = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status, fields, response.read(_MAX_BODY), _skew(fields.get("date")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        detail = getattr(reason, "strerror", None) or type(reason).__name__
        raise UnreachableError(f"no response ({detail})") from error


def encode_form(fields: Mapping[str, str], content: bytes) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a form upload: the fields, then the content as the field ``file``."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="doctor.txt"\r\n\r\n'
    body = b"".join([*parts, head.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body


def _skew(date: str | None) -> timedelta | None:
    try:
        return parsedate_to_datetime(date or "").astimezone(UTC) - datetime.now(UTC)
    except (ValueError, OverflowError):
        return None
