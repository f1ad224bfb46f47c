"""A scripted SFTP server: a channel whose responses a test supplies, without a network."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask_storage.backends.sftp.codec import pack_string
from flask_storage.backends.sftp.protocol import PendingReply, Session

if TYPE_CHECKING:
    import pytest

STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
INIT, EXTENDED = 1, 200
FILE, DIRECTORY, LINK = 0o100600, 0o040700, 0o120777
LIMITS = b"limits@openssh.com"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the server has received."""

    kind: int
    number: int
    body: bytes

    @property
    def texts(self) -> list[bytes]:
        """The strings at its beginning: paths, handles, names of extensions."""
        strings, body = [], self.body
        while len(body) >= 4 and (length := int.from_bytes(body[:4])) <= len(body) - 4:
            strings.append(body[4 : 4 + length])
            body = body[4 + length :]
        return strings


class Clock:
    """A clock that advances only while a channel waits."""

    def __init__(self) -> None:
        self.now = 1000.0


class Channel:
    """One end of an SSH channel.

    Args:
        script: Called with each request; returns the bytes that the server sends in response.
        greeting: The bytes that the server sends first.
        clock: The clock that advances while a call waits.
        chunk_size: Maximum number of bytes that one call sends or receives.
        delay: How long each call takes, in seconds.
        closes: Whether the server closes the channel when it has sent everything; otherwise ``recv`` times out.
    """

    def __init__(
        self,
        script: Callable[[Request], bytes] = lambda _: b"",
        *,
        greeting: bytes | None = None,
        clock: Clock | None = None,
        chunk_size: int = 1 << 20,
        delay: float = 0,
        closes: bool = False,
    ) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.is_closed = False
        self.closes = closes
        self.largest = 0
        """The largest number of bytes that one call has received."""
        self._greeting = version() if greeting is None else greeting
        self._clock = clock or Clock()
        self._chunk_size = chunk_size
        self._delay = delay
        self._timeout = 0.0
        self._sent = b""
        self._unread = bytearray()

    def settimeout(self, timeout: float) -> None:
        """See ``paramiko.Channel``."""
        self._timeout = timeout

    def send(self, data: bytes) -> int:
        """See ``paramiko.Channel``."""
        if self.is_closed:
            raise OSError("Socket is closed")
        self._wait()
        self._sent += data[: self._chunk_size]
        while len(self._sent) >= 4 and len(self._sent) - 4 >= (length := int.from_bytes(self._sent[:4])):
            message, self._sent = self._sent[4 : 4 + length], self._sent[4 + length :]
            if message[0] == INIT:
                self._unread += self._greeting
                continue
            request = Request(message[0], int.from_bytes(message[1:5]), message[5:])
            self.requests.append(request)
            self._unread += self.script(request)
        return min(len(data), self._chunk_size)

    def recv(self, count: int) -> bytes:
        """See ``paramiko.Channel``."""
        if self.is_closed:
            return b""
        if not self._unread:
            if self.closes:
                return b""
            self._clock.now += self._timeout
            raise TimeoutError
        self._wait()
        taken = bytes(self._unread[: min(count, self._chunk_size)])
        del self._unread[: len(taken)]
        self.largest = max(self.largest, len(taken))
        return taken

    def close(self) -> None:
        """See ``paramiko.Channel``."""
        self.is_closed = True

    def _wait(self) -> None:
        if self._delay > self._timeout:
            self._clock.now += self._timeout
            raise TimeoutError
        self._clock.now += self._delay


class RoundTrips:
    """Counts round trips: how many requests in a row were sent only after the response to an earlier one.

    Args:
        monkeypatch: Replaces methods of :class:`Session` for the test.

    Attributes:
        count: The number of round trips.
        requests: The number of requests.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.requests = 0
        finished_at: dict[PendingReply, int] = {}
        original_request, original_send, original_wait = Session._request, Session._send, Session.wait

        def request(session: Session, *arguments: Any, **options: Any) -> PendingReply:
            self.requests += 1
            return original_request(session, *arguments, **options)

        def send(session: Session) -> None:
            for pending in list(session._pending.values()):
                finished_at.setdefault(pending, self.count + 1)
            original_send(session)

        def wait(session: Session, pending: PendingReply) -> Any:
            try:
                return original_wait(session, pending)
            finally:
                self.count = max(self.count, finished_at.get(pending, 0))

        monkeypatch.setattr(Session, "_request", request)
        monkeypatch.setattr(Session, "_send", send)
        monkeypatch.setattr(Session, "wait", wait)


def make_session(
    script: Callable[[Request], bytes] = lambda _: b"", *, extensions: tuple[bytes, ...] = ()
) -> tuple[Session, Channel]:
    """Return a session with a server that has these extensions, and the channel of the session."""
    channel = Channel(script, greeting=version(extensions=extensions))
    return Session(channel, 1), channel


# -- messages of the server -------------------------------------------------------------------------------------------


def message(kind: int, body: bytes) -> bytes:
    """Return an encoded message."""
    return struct.pack(">IB", 1 + len(body), kind) + body


def version(number: int = 3, extensions: tuple[bytes, ...] = ()) -> bytes:
    """Return the greeting of a server."""
    return message(
        2, struct.pack(">I", number) + b"".join(pack_string(name) + pack_string(b"1") for name in extensions)
    )


def response(request: Request, kind: int, body: bytes) -> bytes:
    """Return a response of any type."""
    return message(kind, struct.pack(">I", request.number) + body)


def status(request: Request, code: int, text: bytes = b"message") -> bytes:
    """Return a status: success (0) or an error."""
    return response(request, STATUS, struct.pack(">I", code) + pack_string(text) + pack_string(b"en"))


def handle(request: Request, name: bytes = b"h") -> bytes:
    """Return the response to OPEN or OPENDIR."""
    return response(request, HANDLE, pack_string(name))


def data(request: Request, content: bytes) -> bytes:
    """Return the response to READ."""
    return response(request, DATA, pack_string(content))


def attributes(mode: int | None = FILE, size: int = 1, mtime: int = 1) -> bytes:
    """Return the encoded attributes of a file."""
    fields = struct.pack(">Q", size) + (b"" if mode is None else struct.pack(">I", mode))
    return struct.pack(">I", 0x9 | (0 if mode is None else 4)) + fields + struct.pack(">II", mtime, mtime)


def names(request: Request, *entries: tuple[bytes, bytes]) -> bytes:
    """Return a response with names, each with encoded :func:`attributes`."""
    body = b"".join(pack_string(name) + pack_string(b"long") + encoded for name, encoded in entries)
    return response(request, NAME, struct.pack(">I", len(entries)) + body)
