"""One SSH connection: how the server is reached, who it is, and in whose name."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import paramiko

from ...errors import ConfigurationError, PermissionDeniedError, StorageTimeoutError, StorageUnavailableError
from .hosts import HostKeyPolicy, KnownHosts, changed
from .protocol import Session

# Two channels of bytes for one that OpenSSH reads into memory at once; of its own window a session never needs more.
_WINDOW = 32 * 1024 * 1024
_PACKET = 256 * 1024
# With AES-GCM one pass of OpenSSL encrypts and signs; paramiko would choose two, of which one is SHA-2.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr", "aes192-ctr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """All that it takes to be let in.

    Attributes:
        host: The name or address of the server.
        port: Its port.
        username: In whose name.
        key_filenames: Private keys, and certificates beside them.
        passphrase: Of the keys.
        password: For servers that ask for one.
        allow_agent: Whether keys of an SSH agent are tried.
        look_for_keys: Whether keys in ``~/.ssh`` are tried.
        known_hosts: The keys of the servers.
        fingerprints: Of the server's key, in place of them.
        proxy_command: A command through which the server is reached.
        proxy_jump: A server through which it is, as ``user@host:port``.
        connect_timeout: How long each step of connecting may take, in seconds.
        read_timeout: How long an answer may take, in seconds.
        keepalive: How often the server is asked whether it is there, in seconds; 0 for never.
        ciphers: Which may be used, the favourite first.
    """

    host: str
    port: int
    username: str | None
    key_filenames: Sequence[str]
    passphrase: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    allow_agent: bool
    look_for_keys: bool
    known_hosts: KnownHosts
    fingerprints: Collection[str]
    proxy_command: str | None
    proxy_jump: str | None
    connect_timeout: float
    read_timeout: float
    keepalive: float
    ciphers: Sequence[str] = CIPHERS

    def connect(self) -> Connection:
        """Return a connection to the server.

        Raises:
            PermissionDeniedError: when the server is not the known one, or does not let us in.
            StorageUnavailableError: when it cannot be reached.
            ConfigurationError: when a key cannot be used.
        """
        if self.proxy_jump is None:
            return Connection(self._enter(self.host, self.port, self.username, self._reach()), self)
        username, _, place = self.proxy_jump.rpartition("@")
        host, _, port = place.partition(":")
        first = self._enter(host, int(port or 22), username or self.username, _dial(host, int(port or 22), self))
        try:
            through = _transport_of(first).open_channel(
                "direct-tcpip", (self.host, self.port), ("127.0.0.1", 0), timeout=self.connect_timeout
            )
            return Connection(self._enter(self.host, self.port, self.username, through), self, first)
        except BaseException as error:
            first.close()
            if isinstance(error, paramiko.ChannelException):
                raise StorageUnavailableError(
                    f"{host} does not connect to {self.host}:{self.port}: check its AllowTcpForwarding"
                ) from error
            raise

    def _reach(self) -> Any:
        if self.proxy_command is None:
            return _dial(self.host, self.port, self)
        command = self.proxy_command.replace("%h", self.host).replace("%p", str(self.port))
        command = command.replace("%r", self.username or "")
        try:
            return paramiko.ProxyCommand(command)
        except OSError as error:
            raise ConfigurationError(f"the proxy_command cannot be run: {error.strerror}") from error

    def _enter(self, host: str, port: int, username: str | None, sock: Any) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        source = str(self.known_hosts.path)
        # A fingerprint that was given is the whole truth, as for somebody who has no such file.
        if not self.fingerprints or host != self.host:
            client.get_host_keys().update(self.known_hosts.keys())
        client.set_missing_host_key_policy(HostKeyPolicy(self.fingerprints if host == self.host else (), source))
        try:
            client.connect(
                host,
                port,
                username,
                self.password,
                sock=sock,
                key_filename=list(self.key_filenames) or None,  # type: ignore[arg-type]  # a list is fine
                passphrase=self.passphrase,
                allow_agent=self.allow_agent,
                look_for_keys=self.look_for_keys,
                timeout=self.connect_timeout,
                banner_timeout=self.connect_timeout,
                auth_timeout=self.connect_timeout,
                channel_timeout=self.connect_timeout,
                transport_factory=self._transport,
            )
            transport = _transport_of(client)
            self.known_hosts.check_revoked(transport.get_remote_server_key())
            transport.set_keepalive(int(self.keepalive))
        except BaseException as error:
            with suppress(Exception):
                client.close()
            with suppress(Exception):
                sock.close()
            ours = _explained(error, f"{host}:{port}", source)
            if ours is None:
                raise
            raise ours from error
        return client

    def _transport(self, sock: Any, disabled_algorithms: Any = None, **_: Any) -> paramiko.Transport:
        transport = paramiko.Transport(
            sock,
            default_window_size=_WINDOW,
            default_max_packet_size=_PACKET,
            disabled_algorithms=disabled_algorithms,
        )
        options = transport.get_security_options()
        known = set(options.ciphers)
        chosen = [cipher for cipher in self.ciphers if cipher in known]
        if not chosen:
            raise ConfigurationError(f"ciphers names none that paramiko knows: {', '.join(sorted(known))}")
        options.ciphers = chosen
        return transport


class Connection:
    """A connection with the conversations that it carries.

    Args:
        client: It.
        login: How it was made.
        through: The connection that carries it.
    """

    def __init__(self, client: paramiko.SSHClient, login: Login, through: paramiko.SSHClient | None = None) -> None:
        self.client = client
        self._login = login
        self._through = through
        self.carried = 0
        """How many conversations there are, and are about to be."""
        self.limit = 1 << 30
        """How many the server allows, as far as anybody knows."""

    @property
    def is_alive(self) -> bool:
        """Whether the connection stands, as far as anybody knows without asking the server."""
        transport = self.client.get_transport()
        return transport is not None and transport.is_active()

    def open(self) -> Session:
        """Begin a conversation.

        Raises:
            paramiko.ChannelException: when the server allows no more of them.
        """
        channel = _transport_of(self.client).open_session(
            window_size=_WINDOW, max_packet_size=_PACKET, timeout=self._login.connect_timeout
        )
        try:
            channel.settimeout(self._login.connect_timeout)
            channel.invoke_subsystem("sftp")
            return Session(channel, self._login.read_timeout)
        except BaseException:
            channel.close()
            raise

    def close(self) -> None:
        """End it."""
        for client in (self.client, self._through):
            if client is not None:
                with suppress(Exception):  # it may have ended by itself
                    client.close()


def _transport_of(client: paramiko.SSHClient) -> paramiko.Transport:
    transport = client.get_transport()
    if transport is None:
        raise EOFError("the connection was closed")
    return transport


def _dial(host: str, port: int, login: Login) -> socket.socket:
    try:
        sock = socket.create_connection((host, port), login.connect_timeout)
    except TimeoutError as error:
        raise StorageTimeoutError(
            f"{host}:{port} did not answer within {login.connect_timeout:g} s: check host, port and firewalls"
        ) from error
    except (OSError, UnicodeError) as error:
        raise StorageUnavailableError(f"{host}:{port} cannot be reached: {error}") from error
    # paramiko leaves Nagle's algorithm on: each small request would wait for the acknowledgement of the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _explained(error: BaseException, place: str, source: str) -> Exception | None:
    """Return our error for one of connecting, or None when it is another."""
    if isinstance(error, paramiko.BadHostKeyException):
        return changed(error, source)
    if isinstance(error, paramiko.PasswordRequiredException):
        return ConfigurationError("the private key is encrypted: give its passphrase")
    if isinstance(error, paramiko.AuthenticationException):
        return PermissionDeniedError(
            f"{place} does not let us in: check username and key, and that the server has the public key"
        )
    if isinstance(error, TimeoutError):
        return StorageTimeoutError(f"{place} did not answer in time")
    if isinstance(error, FileNotFoundError | PermissionError):
        return ConfigurationError(f"the private key {error.filename} cannot be read: {error.strerror}")
    if isinstance(error, paramiko.SSHException | EOFError | OSError):
        return StorageUnavailableError(f"no connection to {place}: {str(error) or 'it hung up'}")
    return None
