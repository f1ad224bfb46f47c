"""Transports to a server: a TCP connection, the socket of a proxy command, and the settings of a jump host."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...errors import ConfigurationError, StorageTimeoutError, StorageUnavailableError

_TERMINATE_TIMEOUT = 1
"""How long a proxy command may take to end after SIGTERM, in seconds."""


@dataclass(frozen=True, slots=True)
class JumpHost:
    """A server through which another one is reached."""

    username: str | None
    host: str
    port: int

    @classmethod
    def parse(cls, given: str | None) -> JumpHost | None:
        """Parse the argument *proxy_jump*.

        Raises:
            ConfigurationError: when it is malformed.
        """
        if given is None:
            return None
        try:
            parts = urlsplit(f"ssh://{given}")
            if parts.hostname and parts.password is None and parts.netloc == given:
                return cls(parts.username or None, parts.hostname, parts.port or 22)
        except ValueError:  # an unmatched bracket, or an invalid port
            pass
        raise ConfigurationError("proxy_jump must be 'user@host:port'; user and port are optional")


class ProxyCommandSocket(socket.socket):
    """The input and output of a command as a socket.

    paramiko's own class loops for ever when the command has ended.
    """

    def __init__(self, words: Sequence[str]) -> None:
        own_end, command_end = socket.socketpair()
        with own_end, command_end:
            try:
                fd = command_end.fileno()
                self._process = subprocess.Popen(words, stdin=fd, stdout=fd)  # noqa: S603 - the operator configured it
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "invalid command"
                raise ConfigurationError(f"the proxy_command cannot be run ({reason}): check its first word") from error
            super().__init__(fileno=own_end.detach())

    def close(self) -> None:
        """Close the socket, and end the command."""
        super().close()
        self._process.terminate()
        try:
            self._process.wait(_TERMINATE_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class SendTimeoutSocket:
    """A socket whose send() fails if the peer accepts no data for too long.

    paramiko would retry for ever, while it holds a lock on which all other threads of the connection wait.

    Args:
        sock: A socket, or a channel of another connection.
        send_timeout: How long the peer may accept no data, in seconds.
    """

    def __init__(self, sock: Any, send_timeout: float) -> None:
        self._sock = sock
        self._send_timeout = send_timeout
        self._stalled_since: float | None = None

    def send(self, data: bytes) -> int:
        """Send some of *data*, and return the number of bytes.

        Raises:
            TimeoutError: when none could be sent within the time-out of the socket; paramiko retries then.
            ConnectionAbortedError: when none could be sent for *send_timeout*.
        """
        try:
            count = int(self._sock.send(data))
        except TimeoutError:
            now = time.monotonic()
            if self._stalled_since is None:
                self._stalled_since = now
            if now - self._stalled_since > self._send_timeout:
                raise ConnectionAbortedError(f"the server accepted no data for {self._send_timeout:g} s") from None
            raise
        self._stalled_since = None
        return count

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the socket."""
        return getattr(self._sock, name)


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """Open a TCP connection.

    Args:
        host: Name or address of the server.
        port: Port of the server.
        timeout: The time-out, in seconds.

    Raises:
        StorageUnavailableError, StorageTimeoutError: when the server cannot be reached.
    """
    try:
        sock = socket.create_connection((host, port), timeout)
    except TimeoutError as error:
        raise StorageTimeoutError(
            f"{host}:{port} did not respond within {timeout:g} s: check host, port and firewalls"
        ) from error
    except (OSError, UnicodeError) as error:
        raise StorageUnavailableError(f"{host}:{port} cannot be reached ({error}): check host and port") from error
    # paramiko leaves Nagle's algorithm on, with which each small request waits for the acknowledgement of the last one.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def split_command(command: str | None) -> Sequence[str] | None:
    """Split a command into words, by the rules of a shell.

    Raises:
        ConfigurationError: when it is empty, or has an unmatched quotation mark.
    """
    if command is None:
        return None
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise ConfigurationError(
            "proxy_command is not a valid shell command: it is empty, or a quotation mark is not closed"
        )
    return words
