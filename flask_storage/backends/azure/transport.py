"""How requests of the SDK travel: on a bounded number of connections, each with its time-outs."""

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
_SIGNATURE = re.compile(r"(\bsig=)[^&\s]+")


def make_transport(
    *, connect_timeout: float, read_timeout: float, max_connections: int, verify: bool | str | None
) -> RequestsTransport:
    """Return a transport of the SDK's own kind.

    Args:
        connect_timeout: In seconds; sending stalls no longer than this either.
        read_timeout: How long, in seconds, an answer may bring nothing.
        max_connections: How many there are; who finds all of them taken waits.
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


class _Transport(RequestsTransport):  # type: ignore[misc]  # the SDK loads it when it is asked for, which hides its type
    """Closes connections, and not itself: the SDK's own fails whoever is about to ask at that moment."""

    def close(self) -> None:
        """Close the connections that wait; one that is in use ends with its answer."""
        self.session.close()


class _RedactSignatures(logging.Filter):
    """Takes signatures out of what urllib3 logs of each request."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _SIGNATURE.sub(r"\1REDACTED", arg) if isinstance(arg, str) else arg for arg in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_RedactSignatures())


class _Adapter(HTTPAdapter):
    """Sends what is large in pieces, and refuses an answer that ends amid its headers."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request, and return the answer to it.

        Raises:
            requests.ConnectionError: when there is none, or half of one.
        """
        if isinstance(request.body, bytes | memoryview) and len(request.body) > SEND_CHUNK_SIZE:
            request.body = Pieces(request.body)
        answer = super().send(request, *args, **kwargs)
        if not _is_whole(answer):
            answer.close()
            raise requests.ConnectionError(ProtocolError("the connection ended amid the headers"))
        return answer


def _is_whole(answer: requests.Response) -> bool:
    """Whether a success says where it ends: otherwise it may have ended amid its headers, as http.client takes any."""
    framed = "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
    return framed or answer.status_code not in _SUCCESS
