"""SFTP version 3 as it travels in an SSH channel: requests that need not wait for each other's answers.

paramiko carries the channel. Its own SFTP client is not used: it throws away the server's list of extensions, decodes
names on its own and fails for a whole folder if one of them is not UTF-8, swallows the answer to a close, deadlocks
when threads share it, and holds no bound on what is read ahead.

The protocol: https://www.ietf.org/archive/id/draft-ietf-secsh-filexfer-02.txt; OpenSSH's extensions:
https://github.com/openssh/openssh-portable/blob/master/PROTOCOL (section 4).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .codec import Attributes, MessageReader, pack_string

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_INIT, _VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
_EXTENDED = 200
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
# What a request is answered with, where "done" is no answer.
_REPLY_KINDS = {
    **dict.fromkeys((OPEN, OPENDIR), _HANDLE),
    **dict.fromkeys((READDIR, REALPATH), _NAME),
    **dict.fromkeys((LSTAT, STAT, FSTAT), _ATTRS),
    READ: _DATA,
}

FXF_READ, FXF_WRITE, FXF_CREAT, FXF_EXCL = 0x01, 0x02, 0x08, 0x20

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8

_LIMITS = b"limits@openssh.com"
_MAX_EXTENSIONS = 64
_MAX_STATUS_TEXT = 500
# What every server takes at once, and the longest answer that any of them has a reason to give.
_DEFAULT_DATA_SIZE = 32 * 1024
_MAX_DATA_SIZE = 255 * 1024
_MAX_REPLY_SIZE = 4 * 1024 * 1024
_SSH_PACKET = 32 * 1024
# What stays behind, paramiko moves to the front each time; and what is taken is held twice for a moment.
_RECV_SIZE = 2 * 1024 * 1024

_HEADER = struct.Struct(">IBI")


class StatusError(Exception):
    """The server's answer is a status that means no.

    Attributes:
        code: Of the protocol.
        text: The server's own words, for people.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"status {code}: {text}")
        self.code = code
        self.text = text


class ConnectionLostError(Exception):
    """The channel ended: what was asked and not answered may or may not have been done."""


class ProtocolError(Exception):
    """The server does not speak the protocol, or no longer."""


class PendingReply:
    """A request whose answer may not be here yet; :meth:`Session.wait` gets it."""

    __slots__ = ("buffer", "error", "is_done", "kind", "value")

    def __init__(self, kind: int = 0, buffer: memoryview | None = None) -> None:
        self.kind = kind
        """Of the request."""
        self.buffer = buffer
        """Where the bytes of a file are written."""
        self.value: Any = None
        self.error: Exception | None = None
        self.is_done = False


class Session:
    """One conversation with a server. It belongs to one thread at a time; nothing in it is locked.

    Args:
        channel: An SSH channel with the subsystem ``sftp`` at its other end.
        timeout: How long nothing may come, or be taken, in seconds.

    Raises:
        ConnectionLostError, ProtocolError, TimeoutError: as every method that waits.
    """

    def __init__(self, channel: Any, timeout: float) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._timeout = timeout
        self._request_id = 0
        self._pending: dict[int, PendingReply] = {}
        self._queue: list[bytes] = []
        self._queued = 0
        self._unread: memoryview = memoryview(b"")
        self.broken = False
        """Whether nothing more can be asked here."""
        self.extra_timeout = 0.0
        """How much longer than usual an answer may take, in seconds: a disk may have much to write first."""
        self.root: bytes | None = None
        """Where the storage's root really is, once somebody has asked; see :class:`~.remote_tree.RemoteTree`."""
        self.round_trip_time = 0.0
        """How long the answer to that took, in seconds; 0 as long as nobody has asked."""
        with _MarkingBroken(self):
            self._send_all(_HEADER.pack(5, _INIT, 3))
            self.extensions = self._receive_version()
        # Who asks for something next gets this answer along with theirs.
        self._limits = self.extended(_LIMITS) if _LIMITS in self.extensions else None
        self._data_sizes: tuple[int, int] | None = None

    @property
    def read_size(self) -> int:
        """How many bytes are asked for at once, at most."""
        return (self._data_sizes or self._query_limits())[0]

    @property
    def write_size(self) -> int:
        """How many bytes are sent at once, at most."""
        return (self._data_sizes or self._query_limits())[1]

    # -- asking -------------------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int, mode: int | None = None) -> PendingReply:
        """Ask for a handle of a file."""
        return self._request(OPEN, pack_string(path), struct.pack(">I", flags), Attributes(mode=mode).pack())

    def read(self, handle: bytes, offset: int, buffer: memoryview) -> PendingReply:
        """Ask for as many bytes as *buffer* has room for; the answer is how many came, fewer also amid the file.

        At the end of the file the answer is a :class:`StatusError`.
        """
        return self._request(READ, pack_string(handle), struct.pack(">QI", offset, len(buffer)), buffer=buffer)

    def write(self, handle: bytes, offset: int, data: ReadableBuffer) -> PendingReply:
        """Send bytes, no more than :attr:`write_size` of them."""
        view = memoryview(data).cast("B")
        return self._request(WRITE, pack_string(handle), struct.pack(">QI", offset, len(view)), bytes(view))

    def request(self, kind: int, path: bytes, *fields: bytes) -> PendingReply:
        """Make any request about one path or handle: what :data:`LSTAT` and so on take."""
        return self._request(kind, pack_string(path), *fields)

    def rename(self, path: bytes, new_path: bytes) -> PendingReply:
        """Rename; a target that is there makes it fail (says the protocol: some servers replace it)."""
        return self._request(RENAME, pack_string(path), pack_string(new_path))

    def extended(self, name: bytes, *fields: bytes) -> PendingReply:
        """Make a request of an extension; its answer is bytes, or None."""
        return self._request(_EXTENDED, pack_string(name), *fields)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, pending: PendingReply) -> Any:
        """Return the answer to a request: a handle, attributes, names, a path, a count, bytes, or None for "done".

        Raises:
            StatusError: when the answer is no.
        """
        if not pending.is_done:
            with _MarkingBroken(self):
                self._send()
                while not pending.is_done:
                    self._read_reply()
        if pending.error is not None:
            raise pending.error
        return pending.value

    def wait_for_all(self, pending: Iterable[PendingReply]) -> list[Any]:
        """Return the answers to several requests; all are here before the first that means no is raised."""
        asked = list(pending)
        for one in asked:
            try:
                self.wait(one)
            except StatusError:
                continue
        return [self.wait(one) for one in asked]

    def byte_count(self, pending: PendingReply) -> int:
        """Return how many bytes of a file came; at its end there are none.

        Raises:
            StatusError: when they cannot be read.
        """
        try:
            return int(self.wait(pending))
        except StatusError as error:
            if error.code != EOF:
                raise
            return 0

    def ping(self) -> None:
        """Hear that the server is there still."""
        with suppress(StatusError):
            self.wait(self.request(REALPATH, b"."))

    @property
    def outstanding(self) -> int:
        """How many answers are still to come."""
        return len(self._pending)

    def flush(self) -> None:
        """Send what was asked and is not sent yet."""
        with _MarkingBroken(self):
            self._send()

    def _send(self) -> None:
        if self._queue:
            data, self._queue, self._queued = b"".join(self._queue), [], 0
            self._send_all(data)

    def close(self) -> None:
        """End the conversation; what is asked afterwards is an error. Nothing is sent: :meth:`close_channel` does that."""
        self.broken = True
        self._pending.clear()

    def detach(self) -> None:
        """In the child of a fork: see to it that nothing is sent any more. paramiko's finalizer would say goodbye."""
        self._channel.closed = True

    def close_channel(self) -> None:
        """Tell the server that the conversation has ended. In the child of a fork it is the parent's, and goes on."""
        self.close()
        if self._pid == os.getpid():
            with suppress(Exception):  # where the connection has ended, goodbye cannot be said
                self._channel.close()

    # -- inner --------------------------------------------------------------------------------------------------------

    def _query_limits(self) -> tuple[int, int]:
        try:
            answer = (self._limits and self.wait(self._limits)) or b""
            _, *most, _ = struct.unpack(">QQQQ", answer[:32])
        except (StatusError, struct.error):
            most = [0, 0]
        read, written = (min(size or _DEFAULT_DATA_SIZE, _MAX_DATA_SIZE) for size in most)
        self._data_sizes = read, written
        return self._data_sizes

    def _request(self, kind: int, *fields: bytes, buffer: memoryview | None = None) -> PendingReply:
        if self.broken:
            raise ConnectionLostError("the connection has ended")
        self._request_id = (self._request_id + 1) & 0xFFFFFFFF
        pending = self._pending[self._request_id] = PendingReply(kind, buffer)
        length = sum(map(len, fields))
        self._queue += (_HEADER.pack(5 + length, kind, self._request_id), *fields)
        self._queued += length + 9
        if self._queued >= _SSH_PACKET:
            with _MarkingBroken(self):
                self._send()
        return pending

    def _send_all(self, data: bytes) -> None:
        view = memoryview(data)
        self._channel.settimeout(self._timeout)
        while view:
            count = self._channel.send(bytes(view[:_SSH_PACKET]))
            if not count:
                raise ConnectionLostError("the server ended the connection")
            view = view[count:]

    def _receive_version(self) -> dict[bytes, bytes]:
        length, kind = struct.unpack(">IB", self._read_bytes(5))
        if kind != _VERSION or not 5 <= length <= _MAX_REPLY_SIZE:
            raise ProtocolError("what answers is no SFTP server: a login that prints text breaks SFTP")
        body = MessageReader(self._read_bytes(length - 1))
        version = body.get_uint32()
        if version < 3:
            raise ProtocolError(f"the server speaks version {version} of SFTP, which is too old")
        extensions: dict[bytes, bytes] = {}
        while body.remaining and len(extensions) < _MAX_EXTENSIONS:
            name = body.get_string()
            extensions[name] = body.get_string()
        return extensions

    def _read_reply(self) -> None:
        """Take the next answer, whichever request it belongs to."""
        length, kind, number = _HEADER.unpack(self._read_bytes(9))
        length -= 5
        pending = self._pending.pop(number, None)
        if pending is None or not 0 <= length <= _MAX_REPLY_SIZE:
            raise ProtocolError("an answer came that nobody had asked for")
        if kind == _DATA and pending.buffer is not None and length >= 4:
            (count,) = struct.unpack(">I", self._read_bytes(4))
            if count > len(pending.buffer) or count > length - 4:
                raise ProtocolError("more bytes came than were asked for")
            self._read_into(pending.buffer[:count])
            self._read_bytes(length - 4 - count)
            pending.value = count
        else:
            self._parse_reply(pending, kind, MessageReader(self._read_bytes(length)))
        pending.buffer = None
        pending.is_done = True

    def _parse_reply(self, pending: PendingReply, kind: int, body: MessageReader) -> None:
        if kind == _STATUS:
            code = body.get_uint32()
            text = body.get_string()[:_MAX_STATUS_TEXT].decode("utf-8", "replace") if body.remaining >= 4 else ""
            if code != OK:
                pending.error = StatusError(code, text)
            elif pending.kind in _REPLY_KINDS:
                raise ProtocolError('"done" came where there was something to tell')
        elif kind == _EXTENDED_REPLY and pending.kind == _EXTENDED:
            pending.value = body.get_remainder()
        elif kind == _DATA or kind != _REPLY_KINDS.get(pending.kind):
            raise ProtocolError(f"an answer of kind {kind} came, which makes no sense here")
        elif kind == _HANDLE:
            pending.value = body.get_string()
        elif kind == _ATTRS:
            pending.value = body.get_attributes()
        else:
            pending.value = [
                (body.get_string(), body.get_string(), body.get_attributes()) for _ in range(body.get_uint32())
            ]
            if pending.kind == REALPATH and len(pending.value) != 1:
                raise ProtocolError("a path leads to one place")

    def _read_bytes(self, count: int) -> bytes:
        if len(self._unread) >= count:
            data, self._unread = self._unread[:count], self._unread[count:]
            return bytes(data)
        taken = bytearray(count)
        self._read_into(memoryview(taken))
        return bytes(taken)

    def _read_into(self, buffer: memoryview) -> None:
        while len(buffer):
            if not len(self._unread):
                self._receive()
            count = min(len(buffer), len(self._unread))
            buffer[:count] = self._unread[:count]
            buffer, self._unread = buffer[count:], self._unread[count:]

    def _receive(self) -> None:
        self._channel.settimeout(self._timeout + self.extra_timeout)
        data = self._channel.recv(_RECV_SIZE)
        if not data:
            raise ConnectionLostError("the server ended the connection")
        self._unread = memoryview(data)


class _MarkingBroken:
    """Notes of a session that it is of no more use when anything but a plain "no" leaves the block."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        if self._session._pid != os.getpid():
            # What is sent here would be taken for the parent's, under keys that count every packet.
            self._session.close()
            raise ConnectionLostError("the connection belongs to the process that forked this one")
        if self._session.broken:
            raise ConnectionLostError("the connection has ended")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, StatusError):
            return
        self._session.close()
        if isinstance(error, struct.error):
            raise ProtocolError("an answer makes no sense") from error
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            raise ConnectionLostError(str(error)) from error
        if isinstance(error, EOFError):
            raise ConnectionLostError("the server ended the connection") from error
