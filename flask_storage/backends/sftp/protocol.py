"""SFTP version 3 over an SSH channel. Requests are pipelined: a request need not wait for earlier responses.

:class:`Session` is the only class of the package that sends requests: each method of it queues one request and returns
a :class:`PendingReply`, and :meth:`Session.wait` sends the queue and reads responses until that one has arrived. This
module does not depend on storages; :mod:`.codec` encodes and decodes the fields.

paramiko provides the channel. Its own SFTP client is not used: it discards the server's list of extensions, fails for a
whole directory if one name is not UTF-8, ignores the response to a close, deadlocks when threads share it, and has no
limit for what is read ahead.

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
# The type of the response to each request that returns a value. The response to any other request is a status.
_REPLY_KINDS = {
    **dict.fromkeys((OPEN, OPENDIR), _HANDLE),
    **dict.fromkeys((READDIR, REALPATH), _NAME),
    **dict.fromkeys((LSTAT, STAT, FSTAT), _ATTRS),
    READ: _DATA,
}

FXF_READ, FXF_WRITE, FXF_CREAT, FXF_EXCL = 0x01, 0x02, 0x08, 0x20

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8

HARDLINK = b"hardlink@openssh.com"
_LIMITS = b"limits@openssh.com"
_MAX_EXTENSIONS = 64
_MAX_STATUS_TEXT = 500
# The data size that every server must accept, the largest that is used, and the maximum size of a response.
_DEFAULT_DATA_SIZE = 32 * 1024
_MAX_DATA_SIZE = 255 * 1024
_MAX_REPLY_SIZE = 4 * 1024 * 1024
_SSH_PACKET = 32 * 1024
# paramiko moves the unread rest of its buffer to the front each time, and data that is taken is in memory twice.
_RECV_SIZE = 2 * 1024 * 1024

_HEADER = struct.Struct(">IBI")


class StatusError(Exception):
    """The server responded with an error status.

    Attributes:
        code: The status code of the protocol.
        text: The server's message.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"status {code}: {text}")
        self.code = code
        self.text = text


class ConnectionLostError(Exception):
    """The channel was closed: requests without a response may or may not have been carried out."""


class ProtocolError(Exception):
    """The server sent something that is not a valid message of the protocol."""


class PendingReply:
    """A request whose response may not have arrived yet; :meth:`Session.wait` returns the response."""

    __slots__ = ("buffer", "error", "is_done", "kind", "value")

    def __init__(self, kind: int = 0, buffer: memoryview | None = None) -> None:
        self.kind = kind
        """The type of the request."""
        self.buffer = buffer
        """The buffer that the bytes of a file are read into."""
        self.value: Any = None
        self.error: Exception | None = None
        self.is_done = False


class Session:
    """One SFTP session with a server. It has no lock: only one thread may use it at a time.

    Args:
        channel: An SSH channel whose subsystem ``sftp`` was started.
        timeout: The longest time in which the server sends or accepts no data, in seconds.

    Raises:
        ConnectionLostError, ProtocolError, TimeoutError: as every method that waits for a response.
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
        """Whether the session was closed, by us or by an error; every request raises then."""
        self.extra_timeout = 0.0
        """Additional time-out of responses, in seconds: the server may have much to write to its disk first."""
        self.root: bytes | None = None
        """The resolved path of the storage's root; :class:`~.remote_tree.RemoteTree` sets it."""
        self.round_trip_time = 0.0
        """The duration of the request that resolved the root, in seconds; 0 before."""
        self.checked_directories: set[str] = set()
        """Directories that were no links when a file was created in them; :class:`~.remote_tree.RemoteTree` sets it."""
        with _MarkingBroken(self):
            self._send_all(_HEADER.pack(5, _INIT, 3))
            self.extensions = self._receive_version()
        # The response is not waited for here: it arrives with the response to the next request.
        self._limits = self.extended(_LIMITS) if _LIMITS in self.extensions else None
        self._data_sizes: tuple[int, int] | None = None

    @property
    def read_size(self) -> int:
        """Maximum number of bytes in one read request."""
        return (self._data_sizes or self._query_limits())[0]

    @property
    def write_size(self) -> int:
        """Maximum number of bytes in one write request."""
        return (self._data_sizes or self._query_limits())[1]

    # -- requests -----------------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int, mode: int | None = None) -> PendingReply:
        """Open a file; the response is a handle."""
        return self._request(OPEN, pack_string(path), struct.pack(">I", flags), Attributes(mode=mode).pack())

    def read(self, handle: bytes, offset: int, buffer: memoryview) -> PendingReply:
        """Read up to ``len(buffer)`` bytes; the response is their number, which may be smaller anywhere in the file.

        At the end of the file the response is a :class:`StatusError`.
        """
        return self._request(READ, pack_string(handle), struct.pack(">QI", offset, len(buffer)), buffer=buffer)

    def write(self, handle: bytes, offset: int, data: ReadableBuffer) -> PendingReply:
        """Write at most :attr:`write_size` bytes."""
        view = memoryview(data).cast("B")
        return self._request(WRITE, pack_string(handle), struct.pack(">QI", offset, len(view)), bytes(view))

    def request(self, kind: int, path: bytes, *fields: bytes) -> PendingReply:
        """Make a request whose first field is a path or a handle, such as :data:`LSTAT`, with further *fields*."""
        return self._request(kind, pack_string(path), *fields)

    def rename(self, path: bytes, new_path: bytes) -> PendingReply:
        """Rename a file. By the protocol this fails if the target exists; some servers replace it."""
        return self._request(RENAME, pack_string(path), pack_string(new_path))

    def extended(self, name: bytes, *fields: bytes) -> PendingReply:
        """Make an extended request; the response is bytes, or None."""
        return self._request(_EXTENDED, pack_string(name), *fields)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, pending: PendingReply) -> Any:
        """Return the response to a request: a handle, attributes, names, a path, a count, bytes, or None for success.

        Raises:
            StatusError: when the server responded with an error.
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
        """Return the responses to several requests; the first error is raised after all of them have arrived."""
        requests = list(pending)
        for request in requests:
            try:
                self.wait(request)
            except StatusError:
                continue
        return [self.wait(request) for request in requests]

    def byte_count(self, pending: PendingReply) -> int:
        """Return the number of bytes that a :meth:`read` returned; 0 at the end of the file.

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
        """Check that the server still responds."""
        with suppress(StatusError):
            self.wait(self.request(REALPATH, b"."))

    @property
    def outstanding(self) -> int:
        """Number of requests without a response."""
        return len(self._pending)

    @property
    def arrived_bytes(self) -> int:
        """Number of bytes that have arrived and were not read yet."""
        return len(self._unread) + len(self._channel.in_buffer)

    def flush(self) -> None:
        """Send the requests that are still queued."""
        with _MarkingBroken(self):
            self._send()

    def _send(self) -> None:
        if self._queue:
            data, self._queue, self._queued = b"".join(self._queue), [], 0
            self._send_all(data)

    def close(self) -> None:
        """Close the session; later requests raise an error. Nothing is sent: :meth:`close_channel` does that."""
        self.broken = True
        self._pending.clear()

    def detach(self) -> None:
        """Mark the channel as closed: in the child of a fork, paramiko's finalizer would close the parent's channel."""
        self._channel.closed = True

    def close_channel(self) -> None:
        """Close the session and its channel. In the child of a fork the channel stays open: it is the parent's."""
        self.close()
        if self._pid == os.getpid():
            with suppress(Exception):  # the connection may have ended already
                self._channel.close()

    # -- inner --------------------------------------------------------------------------------------------------------

    def _query_limits(self) -> tuple[int, int]:
        try:
            reply = (self._limits and self.wait(self._limits)) or b""
            _, *sizes, _ = struct.unpack(">QQQQ", reply[:32])
        except (StatusError, struct.error):
            sizes = [0, 0]
        read, write = (min(size or _DEFAULT_DATA_SIZE, _MAX_DATA_SIZE) for size in sizes)
        self._data_sizes = read, write
        return self._data_sizes

    def _request(self, kind: int, *fields: bytes, buffer: memoryview | None = None) -> PendingReply:
        if self.broken:
            raise ConnectionLostError("the session is closed")
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
                raise ConnectionLostError("the server closed the connection")
            view = view[count:]

    def _receive_version(self) -> dict[bytes, bytes]:
        length, kind = struct.unpack(">IB", self._read_bytes(5))
        if kind != _VERSION or not 5 <= length <= _MAX_REPLY_SIZE:
            raise ProtocolError(
                "the first response is not an SFTP message: a login script that prints text breaks SFTP"
            )
        body = MessageReader(self._read_bytes(length - 1))
        version = body.get_uint32()
        if version < 3:
            raise ProtocolError(f"the server has version {version} of SFTP, and version 3 is needed")
        extensions: dict[bytes, bytes] = {}
        while body.remaining and len(extensions) < _MAX_EXTENSIONS:
            name = body.get_string()
            extensions[name] = body.get_string()
        return extensions

    def _read_reply(self) -> None:
        """Read the next response, and store it in the request that it belongs to."""
        length, kind, number = _HEADER.unpack(self._read_bytes(9))
        length -= 5
        pending = self._pending.pop(number, None)
        if pending is None or not 0 <= length <= _MAX_REPLY_SIZE:
            raise ProtocolError("the server sent a response without a request")
        if kind == _DATA and pending.buffer is not None and length >= 4:
            (count,) = struct.unpack(">I", self._read_bytes(4))
            if count > len(pending.buffer) or count > length - 4:
                raise ProtocolError("the server sent more bytes than were requested")
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
                raise ProtocolError("the server sent a success status instead of a value")
        elif kind == _EXTENDED_REPLY and pending.kind == _EXTENDED:
            pending.value = body.get_remainder()
        elif kind == _DATA or kind != _REPLY_KINDS.get(pending.kind):
            raise ProtocolError(f"the server sent a response of type {kind}, which does not match the request")
        elif kind == _HANDLE:
            pending.value = body.get_string()
        elif kind == _ATTRS:
            pending.value = body.get_attributes()
        else:
            pending.value = [
                (body.get_string(), body.get_string(), body.get_attributes()) for _ in range(body.get_uint32())
            ]
            if pending.kind == REALPATH and len(pending.value) != 1:
                raise ProtocolError("the server resolved one path to several")

    def _read_bytes(self, count: int) -> bytes:
        if len(self._unread) >= count:
            data, self._unread = self._unread[:count], self._unread[count:]
            return bytes(data)
        content = bytearray(count)
        self._read_into(memoryview(content))
        return bytes(content)

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
            raise ConnectionLostError("the server closed the connection")
        self._unread = memoryview(data)


class _MarkingBroken:
    """Context manager that closes the session on any error except :class:`StatusError`, and translates the error."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        if self._session._pid != os.getpid():
            # Anything sent here would corrupt the parent's connection: the encryption counts every packet.
            self._session.close()
            raise ConnectionLostError("the connection belongs to the parent of this process")
        if self._session.broken:
            raise ConnectionLostError("the session is closed")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, StatusError):
            return
        self._session.close()
        if isinstance(error, struct.error):
            raise ProtocolError("the server sent a malformed response") from error
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            raise ConnectionLostError(str(error)) from error
        if isinstance(error, EOFError):
            raise ConnectionLostError("the server closed the connection") from error
