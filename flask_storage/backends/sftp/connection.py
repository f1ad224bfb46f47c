"""One SSH connection and its SFTP sessions: :class:`Connection` opens channels, and starts the subsystem in them."""

from __future__ import annotations

import threading
from contextlib import suppress

import paramiko

from .protocol import ConnectionLostError, ProtocolError, Session

# The window is twice what OpenSSH reads into memory at once, and more than a session has in flight.
WINDOW = 32 * 1024 * 1024
PACKET = 256 * 1024
UNLIMITED = 1 << 30
# OpenSSH checks the ChrootDirectory only now, and closes the connection without a message.
_CLOSED_BY_SERVER = (
    "the server closed the connection before the first request: see its log; a ChrootDirectory and its parents must "
    "belong to root, and no other user may have write permission there"
)


class _ChannelEvent(threading.Event):
    """The event on which paramiko waits for the response to a channel request; paramiko's own has no time-out.

    Args:
        default_timeout: The time-out, in seconds.
    """

    def __init__(self, default_timeout: float) -> None:
        super().__init__()
        self._default_timeout = default_timeout

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the event.

        Raises:
            TimeoutError: when it is not set in time.
        """
        if not super().wait(self._default_timeout if timeout is None else timeout):
            raise TimeoutError
        return True


class Connection:
    """An authenticated connection. The attributes are for the pool, which counts the sessions.

    Args:
        client: paramiko's client, connected and authenticated.
        connect_timeout: Time-out of each step of opening a session, in seconds.
        read_timeout: Time-out of a response, in seconds.
    """

    def __init__(self, client: paramiko.SSHClient, *, connect_timeout: float, read_timeout: float) -> None:
        self.client = client
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self.session_count = 0
        """Number of sessions, including those that are being opened."""
        self.session_limit = UNLIMITED
        """Number of sessions that the server allows, as far as it is known."""
        self.needs_check = False
        """Whether one of its sessions ended with an error."""
        self.idle_since = 0.0
        """When its last session ended, by the monotonic clock."""

    @property
    def is_alive(self) -> bool:
        """Whether the connection is open, as far as it is known without asking the server."""
        transport = self.client.get_transport()
        return transport is not None and transport.is_active()

    def open(self) -> Session:
        """Open a session.

        Raises:
            paramiko.ChannelException: when the server allows no more sessions.
            ProtocolError: when the server has no subsystem ``sftp``.
            ConnectionLostError: when the connection is lost.
            TimeoutError: when the server does not respond.
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
                with suppress(Exception):  # it may be closed already
                    channel.close()
                if isinstance(error, paramiko.SSHException) and self.is_alive:
                    raise ProtocolError("the server refused to start an SFTP session") from error
                raise
        except (TimeoutError, paramiko.ChannelException, ProtocolError):
            raise
        except Exception as error:
            if self.is_alive and isinstance(error, paramiko.SSHException):
                if "Timeout" in str(error):  # paramiko has no type for it
                    raise TimeoutError from error
                # If several are refused at the same time, paramiko raises the reason for one of them only.
                raise paramiko.ChannelException(1, "Refused") from error
            # If the connection has ended, paramiko raises the error that ended it, of any type.
            raise ConnectionLostError(_CLOSED_BY_SERVER) from error

    def close(self) -> None:
        """Close the connection."""
        with suppress(Exception):  # it may be closed already
            self.client.close()


def require_transport(client: paramiko.SSHClient) -> paramiko.Transport:
    """Return the transport of a client.

    Raises:
        EOFError: when the client is closed.
    """
    transport = client.get_transport()
    if transport is None:
        raise EOFError("the connection was closed")
    return transport
