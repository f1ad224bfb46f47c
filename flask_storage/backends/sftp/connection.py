"""One SSH connection, and the conversations that it carries."""

from __future__ import annotations

import threading
from contextlib import suppress

import paramiko

from .protocol import ConnectionLostError, ProtocolError, Session

# Two channels of bytes for one that OpenSSH reads into memory at once; of its own window a session never needs more.
WINDOW = 32 * 1024 * 1024
PACKET = 256 * 1024
UNLIMITED = 1 << 30
# OpenSSH looks at the folder only now, and closes the connection without a word.
_CLOSED_BY_SERVER = (
    "the server hung up before the first request: its log says why; a ChrootDirectory and all above it must belong to "
    "root, and nobody else may write there"
)


class _ChannelEvent(threading.Event):
    """What paramiko waits for, and would for ever.

    Args:
        default_timeout: How long it may take, in seconds.
    """

    def __init__(self, default_timeout: float) -> None:
        super().__init__()
        self._default_timeout = default_timeout

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it.

        Raises:
            TimeoutError: when it does not come.
        """
        if not super().wait(self._default_timeout if timeout is None else timeout):
            raise TimeoutError
        return True


class Connection:
    """A connection with the conversations that it carries.

    Args:
        client: It.
        connect_timeout: How long each step of beginning a conversation may take, in seconds.
        read_timeout: How long an answer may take, in seconds.
    """

    def __init__(self, client: paramiko.SSHClient, *, connect_timeout: float, read_timeout: float) -> None:
        self.client = client
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self.session_count = 0
        """How many conversations there are, and are about to be."""
        self.session_limit = UNLIMITED
        """How many the server allows, as far as anybody knows."""
        self.needs_check = False
        """Whether one of its conversations ended in trouble."""
        self.idle_since = 0.0
        """When its last conversation ended, by the monotonic clock."""

    @property
    def is_alive(self) -> bool:
        """Whether the connection stands, as far as anybody knows without asking the server."""
        transport = self.client.get_transport()
        return transport is not None and transport.is_active()

    def open(self) -> Session:
        """Begin a conversation.

        Raises:
            paramiko.ChannelException: when the server allows no more of them.
            ProtocolError: when there is no subsystem ``sftp``.
            ConnectionLostError: when the connection ends meanwhile.
            TimeoutError: when the server does not answer.
        """
        try:
            channel = require_transport(self.client).open_session(
                window_size=WINDOW, max_packet_size=PACKET, timeout=self._connect_timeout
            )
            try:
                channel.settimeout(self._connect_timeout)
                channel.event = _ChannelEvent(self._connect_timeout)
                channel.invoke_subsystem("sftp")
                return Session(channel, self._read_timeout)
            except BaseException as error:
                with suppress(Exception):  # it may have ended by itself
                    channel.close()
                if isinstance(error, paramiko.SSHException) and self.is_alive:
                    raise ProtocolError("the server refuses to serve files") from error
                raise
        except (TimeoutError, paramiko.ChannelException, ProtocolError):
            raise
        except Exception as error:
            if self.is_alive and isinstance(error, paramiko.SSHException):
                if "Timeout" in str(error):  # for which it has no type
                    raise TimeoutError from error
                # Of several that are refused at the same moment, it tells only one why.
                raise paramiko.ChannelException(1, "Refused") from error
            # Where the connection has ended, paramiko raises whatever has ended it.
            raise ConnectionLostError(_CLOSED_BY_SERVER) from error

    def close(self) -> None:
        """End it."""
        with suppress(Exception):  # it may have ended by itself
            self.client.close()


def require_transport(client: paramiko.SSHClient) -> paramiko.Transport:
    """Return what carries a client's channels.

    Raises:
        EOFError: when there is none any more.
    """
    transport = client.get_transport()
    if transport is None:
        raise EOFError("the connection was closed")
    return transport
