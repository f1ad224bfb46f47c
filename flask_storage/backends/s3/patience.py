"""An end to waiting for a server that sends a byte now and then: a time-out begins anew with each of them."""

from __future__ import annotations

import http.client
import io
import time
from typing import Any

from botocore import awsrequest

SLOWEST = 16 * 1024
"""In bytes a second: who sends less is as good as silent."""


def bound_answers(client: Any) -> None:
    """Have a boto3 client give up an answer that takes longer than its read time-out, and more for what has come."""
    # There is no public way to the connections of a client; one that has changed inside waits as boto3 does.
    session: Any = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if hasattr(session, "_pool_classes_by_scheme") and hasattr(session, "_manager"):
        session._pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        session._manager.pool_classes_by_scheme = session._pool_classes_by_scheme


class _Watched(io.RawIOBase):
    """The bytes of one answer, as the socket brings them."""

    def __init__(self, raw: Any, sock: Any, patience: float) -> None:
        self._raw = raw
        self._sock = sock
        self._patience = patience
        self._started = time.monotonic()
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._patience + self._count / SLOWEST - (time.monotonic() - self._started)
        if left <= 0:
            raise TimeoutError(f"only {self._count} bytes came")
        self._sock.settimeout(min(left, self._patience))
        count: int | None = self._raw.readinto(buffer)
        self._count += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        patience = sock.gettimeout()
        if patience:
            self.fp = io.BufferedReader(_Watched(self.fp.detach(), sock, patience))


class _HTTPConnection(awsrequest.AWSHTTPConnection):  # type: ignore[misc]  # boto3 comes without types
    response_class = _Answer


class _HTTPSConnection(awsrequest.AWSHTTPSConnection):  # type: ignore[misc]  # likewise
    response_class = _Answer


class _HTTPPool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]  # likewise
    ConnectionCls = _HTTPConnection


class _HTTPSPool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]  # likewise
    ConnectionCls = _HTTPSConnection
