"""A server of SFTP that says what a test has it say: the other end of a channel, with no wire in between."""

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
FILE, FOLDER, LINK = 0o100600, 0o040700, 0o120777
LIMITS = b"limits@openssh.com"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked."""

    kind: int
    number: int
    body: bytes

    @property
    def texts(self) -> list[bytes]:
        """What stands in it before anything that is no text."""
        found, body = [], self.body
        while len(body) >= 4 and (length := int.from_bytes(body[:4])) <= len(body) - 4:
            found.append(body[4 : 4 + length])
            body = body[4 + length :]
        return found


class Clock:
    """A time that goes on only where something waits."""

    def __init__(self) -> None:
        self.now = 1000.0


class Channel:
    """One end of an SSH channel.

    Args:
        script: Given each request, returns all that is said because of it.
        hello: What is said first.
        clock: Goes on while somebody waits.
        piece: How many bytes come, and are taken, at a time.
        pause: How long each of them takes, in seconds.
        ends: Whether the other end hangs up when it has said everything; otherwise it is silent.
    """

    def __init__(
        self,
        script: Callable[[Request], bytes] = lambda _: b"",
        *,
        hello: bytes | None = None,
        clock: Clock | None = None,
        piece: int = 1 << 20,
        pause: float = 0,
        ends: bool = False,
    ) -> None:
        self.script = script
        self.asked: list[Request] = []
        self.is_closed = False
        self.ends = ends
        self.largest = 0
        """The most bytes that were taken from it at once."""
        self._hello = version() if hello is None else hello
        self._clock = clock or Clock()
        self._piece = piece
        self._pause = pause
        self._timeout = 0.0
        self._sent = b""
        self._said = bytearray()

    def settimeout(self, timeout: float) -> None:
        """As a channel's."""
        self._timeout = timeout

    def send(self, data: bytes) -> int:
        """As a channel's."""
        if self.is_closed:
            raise OSError("Socket is closed")
        self._wait()
        self._sent += data[: self._piece]
        while len(self._sent) >= 4 and len(self._sent) - 4 >= (length := int.from_bytes(self._sent[:4])):
            message, self._sent = self._sent[4 : 4 + length], self._sent[4 + length :]
            if message[0] == INIT:
                self._said += self._hello
                continue
            request = Request(message[0], int.from_bytes(message[1:5]), message[5:])
            self.asked.append(request)
            self._said += self.script(request)
        return min(len(data), self._piece)

    def recv(self, count: int) -> bytes:
        """As a channel's."""
        if self.is_closed:
            return b""
        if not self._said:
            if self.ends:
                return b""
            self._clock.now += self._timeout
            raise TimeoutError
        self._wait()
        taken = bytes(self._said[: min(count, self._piece)])
        del self._said[: len(taken)]
        self.largest = max(self.largest, len(taken))
        return taken

    def close(self) -> None:
        """As a channel's."""
        self.is_closed = True

    def _wait(self) -> None:
        if self._pause > self._timeout:
            self._clock.now += self._timeout
            raise TimeoutError
        self._clock.now += self._pause


class Turns:
    """How many times a question had to wait for the answer to another one: on a far line, that is what takes time.

    Args:
        monkeypatch: Puts things back afterwards.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.asked = 0
        after: dict[PendingReply, int] = {}
        ask, send, wait = Session._request, Session._send, Session.wait

        def asking(session: Session, *arguments: Any, **options: Any) -> PendingReply:
            self.asked += 1
            return ask(session, *arguments, **options)

        def sending(session: Session) -> None:
            for pending in list(session._pending.values()):
                after.setdefault(pending, self.now + 1)
            send(session)

        def waiting(session: Session, pending: PendingReply) -> Any:
            try:
                return wait(session, pending)
            finally:
                self.now = max(self.now, after.get(pending, 0))

        monkeypatch.setattr(Session, "_request", asking)
        monkeypatch.setattr(Session, "_send", sending)
        monkeypatch.setattr(Session, "wait", waiting)


def session(
    script: Callable[[Request], bytes] = lambda _: b"", *, extensions: tuple[bytes, ...] = ()
) -> tuple[Session, Channel]:
    """Return a session with a server that knows these extensions, and the channel it goes through."""
    channel = Channel(script, hello=version(extensions=extensions))
    return Session(channel, 1), channel


# -- what is said -----------------------------------------------------------------------------------------------------


def message(kind: int, body: bytes) -> bytes:
    """Return bytes as they travel."""
    return struct.pack(">IB", 1 + len(body), kind) + body


def version(number: int = 3, extensions: tuple[bytes, ...] = ()) -> bytes:
    """Return a server's first words."""
    return message(
        2, struct.pack(">I", number) + b"".join(pack_string(name) + pack_string(b"1") for name in extensions)
    )


def answer(request: Request, kind: int, body: bytes) -> bytes:
    """Return any answer."""
    return message(kind, struct.pack(">I", request.number) + body)


def status(request: Request, code: int, text: bytes = b"words") -> bytes:
    """Return "done" (0) or "no"."""
    return answer(request, STATUS, struct.pack(">I", code) + pack_string(text) + pack_string(b"en"))


def handle(request: Request, name: bytes = b"h") -> bytes:
    """Return the answer to an open."""
    return answer(request, HANDLE, pack_string(name))


def data(request: Request, content: bytes) -> bytes:
    """Return the answer to a read."""
    return answer(request, DATA, pack_string(content))


def attributes(mode: int | None = FILE, size: int = 1, mtime: int = 1) -> bytes:
    """Return what is told of a file."""
    fields = struct.pack(">Q", size) + (b"" if mode is None else struct.pack(">I", mode))
    return struct.pack(">I", 0x9 | (0 if mode is None else 4)) + fields + struct.pack(">II", mtime, mtime)


def names(request: Request, *entries: tuple[bytes, bytes]) -> bytes:
    """Return names, each with what :func:`attributes` gives."""
    body = b"".join(pack_string(name) + pack_string(b"long") + about for name, about in entries)
    return answer(request, NAME, struct.pack(">I", len(entries)) + body)
