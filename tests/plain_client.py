"""A minimal HTTP client: http.client, which adds no header except Host and the length."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from urllib3.filepost import encode_multipart_formdata

from flask_storage import PresignedUpload

TIMEOUT = 20  # seconds


class PlainResponse(NamedTuple):
    """A response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """The error code of S3; empty where there is none."""
        found = re.search(rb"<Code>(.*?)</Code>", self.body)
        return found[1].decode() if found else ""

    def element(self, name: str) -> str:
        """Return the text of the first XML element of this name."""
        found = re.search(rf"<{name}>(.*?)</{name}>".encode(), self.body)
        assert found, self.body
        return found[1].decode()


def send(url: str, method: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> PlainResponse:
    """Send one request and return the response.

    Args:
        url: The URL, sent unchanged.
        method: The method.
        headers: All headers except ``Host`` and ``Content-Length``.
        body: The body, if any.
    """
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return PlainResponse(response.status, response.headers, response.read())
    finally:
        connection.close()


def follow(presigned: PresignedUpload, body: bytes, **fields: str) -> PlainResponse:
    """Carry out a presigned upload.

    Args:
        presigned: The presigned upload.
        body: The content.
        **fields: Fields of the form to add, or to send instead of the presigned ones; ``Content_Type`` stands
            for ``Content-Type``.
    """
    if presigned.method == "PUT":
        return send(presigned.url, "PUT", presigned.headers, body)
    changed = {name.replace("_", "-"): value for name, value in fields.items()}
    return post({**presigned.fields, **changed}, presigned.url, body)


def post(fields: Mapping[str, str], url: str, body: bytes) -> PlainResponse:
    """Send a form with a file, which is the last field and has the content type of HTML."""
    form, content_type = encode_multipart_formdata([*fields.items(), ("file", ("evil.html", body, "text/html"))])
    return send(url, "POST", {"Content-Type": content_type}, form)
