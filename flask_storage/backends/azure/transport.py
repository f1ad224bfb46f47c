"""The HTTP transport of the SDK: a bounded number of connections, with time-outs."""

from __future__ import annotations

import logging
import re
from typing import Any

import requests
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ProtocolError
from urllib3.util.retry import Retry

from ...range_download import SEND_CHUNK_SIZE, Pieces

_SUCCESS = (200, 201, 202, 206)
_HTTP_1_0 = 10
_SIGNATURE = re.compile(r"(\bsig=)[^&\s]+")


def make_transport(
    *, connect_timeout: float, read_timeout: float, max_connections: int, verify: bool | str | None
) -> RequestsTransport:
    """Return a transport for the SDK's clients.

    Args:
        connect_timeout: In seconds; also the limit for how long sending may stall.
        read_timeout: How long, in seconds, the service may send nothing.
        max_connections: The number of connections; callers block until one is free.
        verify: The file of a certificate authority, or False to trust any certificate.
    """
    session = requests.Session()
    adapter = _Adapter(pool_maxsize=max_connections, pool_block=True, max_retries=Retry(total=False, redirect=False))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return _Transport(
        session=session,
        connection_timeout=connect_timeout,
        read_timeout=read_timeout,
        connection_verify=True if verify is None else verify,
    )


class _Transport(RequestsTransport):  # type: ignore[misc]  # the SDK imports it lazily, which hides its type
    """Stays usable after ``close``: the SDK's own transport fails requests that are about to start at that moment."""

    def close(self) -> None:
        """Close the idle connections; a connection in use is closed after its response."""
        self.session.close()


class _RedactSignatures(logging.Filter):
    """Removes signatures from the log records of urllib3."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _SIGNATURE.sub(r"\1REDACTED", arg) if isinstance(arg, str) else arg for arg in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_RedactSignatures())


class _Adapter(HTTPAdapter):
    """Sends large bodies in pieces, and rejects a response that ends within its headers."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request, and return its response.

        Raises:
            requests.ConnectionError: when there is no response, or an incomplete one.
        """
        if isinstance(request.body, bytes | memoryview) and len(request.body) > SEND_CHUNK_SIZE:
            request.body = Pieces(request.body)
        response = super().send(request, *args, **kwargs)
        if not _has_complete_headers(response):
            response.close()
            raise requests.ConnectionError(ProtocolError("the connection ended within the response headers"))
        return response


def _has_complete_headers(response: requests.Response) -> bool:
    """Return False for a success whose body has no end: http.client accepts headers that were cut off.

    The end is a length, or the end of the connection where the response announces that, as those of HTTP/1.0 do.
    """
    headers = response.headers
    framed = "Content-Length" in headers or "Transfer-Encoding" in headers
    closes = response.raw.version == _HTTP_1_0 or "close" in headers.get("Connection", "").lower()
    return framed or closes or response.status_code not in _SUCCESS
