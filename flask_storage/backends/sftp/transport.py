"""Ways to a server: straight, through a command, or over another server."""

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
"""How long a proxy command may take to end when it was asked to, in seconds."""


@dataclass(frozen=True, slots=True)
class JumpHost:
    """A server that leads to another one."""

    username: str | None
    host: str
    port: int

    @classmethod
    def parse(cls, given: str | None) -> JumpHost | None:
        """Return an argument as a server.

        Raises:
            ConfigurationError: when it is none.
        """
        if given is None:
            return None
        try:
            parts = urlsplit(f"ssh://{given}")
            if parts.hostname and parts.password is None and parts.netloc == given:
                return cls(parts.username or None, parts.hostname, parts.port or 22)
        except ValueError:  # half a bracket, or a port that is none
            pass
        raise ConfigurationError("proxy_jump is written 'user@host:port', of which user and port may be left out")


class ProxyCommandSocket(socket.socket):
    """The two ends of a command, as a socket.

    paramiko's own turns in circles when the command has ended, and never notices.
    """

    def __init__(self, words: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                self._process = subprocess.Popen(words, stdin=theirs.fileno(), stdout=theirs.fileno())  # noqa: S603  # the operator's
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "it is none"
                raise ConfigurationError(f"the proxy_command cannot be run ({reason}): check its first word") from error
            super().__init__(fileno=ours.detach())

    def close(self) -> None:
        """End the command too."""
        super().close()
        self._process.terminate()
        try:
            self._process.wait(_TERMINATE_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class SendTimeoutSocket:
    """What carries a connection; a peer that takes nothing for too long ends it.

    paramiko tries to send for ever, and holds a lock meanwhile for which everything else on the connection waits.

    Args:
        line: A socket, or a channel of another connection.
        send_timeout: How long it may take nothing, in seconds.
    """

    def __init__(self, line: Any, send_timeout: float) -> None:
        self._sock = line
        self._send_timeout = send_timeout
        self._stalled_since: float | None = None

    def send(self, data: bytes) -> int:
        """Send some of *data*, and return how many bytes.

        Raises:
            TimeoutError: when none could be sent for a moment.
            ConnectionAbortedError: when that has been so for too long.
        """
        try:
            count = int(self._sock.send(data))
        except TimeoutError:
            now = time.monotonic()
            if self._stalled_since is None:
                self._stalled_since = now
            if now - self._stalled_since > self._send_timeout:
                raise ConnectionAbortedError("the server takes nothing any more") from None
            raise
        self._stalled_since = None
        return count

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the line can do."""
        return getattr(self._sock, name)


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """Return a connection to a server.

    Args:
        host: Its name or address.
        port: Of it.
        timeout: How long it may take, in seconds.

    Raises:
        StorageUnavailableError, StorageTimeoutError: when it cannot be reached.
    """
    try:
        sock = socket.create_connection((host, port), timeout)
    except TimeoutError as error:
        raise StorageTimeoutError(
            f"{host}:{port} did not answer within {timeout:g} s: check host, port and firewalls"
        ) from error
    except (OSError, UnicodeError) as error:
        raise StorageUnavailableError(f"{host}:{port} cannot be reached ({error}): check host and port") from error
    # paramiko leaves Nagle's algorithm on: each small request would wait for the acknowledgement of the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def split_command(command: str | None) -> Sequence[str] | None:
    """Return a command as its words, as a shell sees them.

    Raises:
        ConfigurationError: when it has none, or a quotation does not end.
    """
    if command is None:
        return None
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise ConfigurationError("proxy_command is a command as a shell takes it: check its quotation marks")
    return words
