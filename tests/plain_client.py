"""A client that does what it is told and nothing more: http.client, without a header of its own but the length."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from urllib3.filepost import encode_multipart_formdata

from flask_storage import PresignedUpload

PATIENCE = 20  # seconds


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """What S3 calls the error; empty where it names none."""
        found = re.search(rb"<Code>(.*?)</Code>", self.body)
        return found[1].decode() if found else ""

    def element(self, name: str) -> str:
        """Return the text of the first XML element of this name."""
        found = re.search(rf"<{name}>(.*?)</{name}>".encode(), self.body)
        assert found, self.body
        return found[1].decode()


def send(url: str, method: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
    """Make one request and return its answer.

    Args:
        url: Where to, as it is written.
        method: The method.
        headers: All that are sent beside ``Host`` and the length of a body.
        body: What is sent, if anything.
    """
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def follow(instruction: PresignedUpload, body: bytes, **fields: str) -> Answer:
    """Upload as an instruction says.

    Args:
        instruction: What to do.
        body: The content.
        **fields: Fields of the form to add, or to send in place of those of the instruction; ``Content_Type`` stands
            for ``Content-Type``.
    """
    if instruction.method == "PUT":
        return send(instruction.url, "PUT", instruction.headers, body)
    given = {name.replace("_", "-"): value for name, value in fields.items()}
    return post({**instruction.fields, **given}, instruction.url, body)


def post(fields: Mapping[str, str], url: str, body: bytes) -> Answer:
    """Send a form with a file in it, which comes last and claims to be HTML."""
    form, kind = encode_multipart_formdata([*fields.items(), ("file", ("evil.html", body, "text/html"))])
    return send(url, "POST", {"Content-Type": kind}, form)
