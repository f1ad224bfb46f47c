"""An end to waiting for a server that sends a byte now and then: a time-out begins anew with each of them."""

from __future__ import annotations

import http.client
import io
import time
from typing import Any

SLOWEST = 16 * 1024
"""In bytes a second: who sends less is as good as silent."""


class Watched(io.RawIOBase):
    """The bytes of one answer, as the socket brings them.

    Args:
        raw: The socket's own file.
        sock: The socket.
        patience: How long, in seconds, nothing may come; and for how long in all, beyond what :data:`SLOWEST` allows.
    """

    def __init__(self, raw: Any, sock: Any, patience: float) -> None:
        self._raw = raw
        self._sock = sock
        self._patience = patience
        self._started = time.monotonic()
        self._count = 0
        self.ended = False
        """Whether the connection has ended, as far as anybody has read."""

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Read what has come.

        Raises:
            TimeoutError: when it is too little for the time that has passed.
        """
        left = self._patience + self._count / SLOWEST - (time.monotonic() - self._started)
        if left <= 0:
            raise TimeoutError(f"only {self._count} bytes came")
        self._sock.settimeout(min(left, self._patience))
        count: int | None = self._raw.readinto(buffer)
        self._count += count or 0
        self.ended = self.ended or count == 0
        return count

    def close(self) -> None:
        """Close the socket's file."""
        self._raw.close()
        super().close()


class Answer(http.client.HTTPResponse):
    """An answer whose bytes are :class:`Watched`; a connection class takes it as its ``response_class``."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        patience = sock.gettimeout()
        self._watched: Watched | None = None
        if patience:
            self._watched = Watched(self.fp.detach(), sock, patience)
            self.fp = io.BufferedReader(self._watched)

    def begin(self) -> None:
        """Read the headers.

        Raises:
            http.client.RemoteDisconnected: when the connection ends amid them; http.client itself takes what has come
                for all of them.
        """
        super().begin()
        if self._watched is not None and self._watched.ended:
            raise http.client.RemoteDisconnected("the connection ended amid the headers")
