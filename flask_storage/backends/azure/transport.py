"""How requests of the SDK travel: on a bounded number of connections, which wait for nobody for ever."""

from __future__ import annotations

import logging
import re
from typing import Any

import requests
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.retry import Retry

from ...patience import Answer

_PIECE = 256 * 1024
_SIGNATURE = re.compile(r"(\bsig=)[^&\s]+")


def transport_of(
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


class _WithoutSignatures(logging.Filter):
    """Takes signatures out of what urllib3 logs of each request."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _SIGNATURE.sub(r"\1REDACTED", arg) if isinstance(arg, str) else arg for arg in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_WithoutSignatures())


class _Sending:
    """Sends what is large in pieces, since a socket's time-out counts for whatever is sent at once."""

    def send(self, data: Any) -> None:
        """Send bytes, or whatever else http.client can send."""
        send = super().send  # type: ignore[misc]  # mixed into a connection
        if isinstance(data, bytes | bytearray | memoryview) and len(data) > _PIECE:
            view = memoryview(data)
            for start in range(0, len(view), _PIECE):
                send(view[start : start + _PIECE])
        else:
            send(data)


class _HTTPConnection(_Sending, HTTPConnection):
    response_class = Answer


class _HTTPSConnection(_Sending, HTTPSConnection):
    response_class = Answer


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
