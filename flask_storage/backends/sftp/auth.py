"""Authentication: connects to a server (:mod:`.transport`), verifies its host key (:mod:`.host_keys`), authenticates.

:meth:`ConnectionSettings.connect` is the factory that :mod:`.pool` calls. paramiko has no types of its own for most
failures; :meth:`ConnectionSettings._translate_error` determines the cause.
"""

from __future__ import annotations

import getpass
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import paramiko

from ...errors import (
    ConfigurationError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from .connection import PACKET, WINDOW, Connection, require_transport
from .errors import printable
from .host_keys import HostKeyPolicy, KnownHosts, host_key_changed, known_hosts_name
from .transport import JumpHost, ProxyCommandSocket, SendTimeoutSocket, connect_tcp

# AES-GCM first: it encrypts and authenticates in one pass of OpenSSL; paramiko's default needs two, one of them SHA-2.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr", "aes192-ctr")
_PLACEHOLDER = re.compile("%[hpr%]")
_KEY_CLASSES = (paramiko.RSAKey, paramiko.ECDSAKey, paramiko.Ed25519Key)
_CERTIFICATE = "-cert.pub"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """The settings of a connection: address, credentials, host keys and time-outs.

    Attributes:
        host: Name or address of the server.
        port: Port of the server.
        username: The account; None stands for the name of the local user.
        key_filenames: Paths of private keys; certificates are found beside them.
        passphrase: Passphrase of the private keys.
        password: Password of the account.
        allow_agent: Whether the keys of an SSH agent are tried.
        look_for_keys: Whether the keys in ``~/.ssh`` are tried.
        known_hosts: The known hosts file.
        fingerprints: Fingerprints of the host key; they replace the known hosts file.
        proxy_command: The words of a command whose input and output are connected to the server.
        proxy_jump: The jump host.
        connect_timeout: Time-out of each step of connecting, in seconds.
        read_timeout: Time-out of a response, in seconds.
        keepalive: Interval of keepalive messages, in seconds; 0 disables them.
        ciphers: Names of the allowed ciphers, in order of preference.
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
    proxy_command: Sequence[str] | None = field(repr=False)  # it may hold a password
    proxy_jump: JumpHost | None
    connect_timeout: float
    read_timeout: float
    keepalive: float
    ciphers: Sequence[str] = CIPHERS

    def connect(self) -> Connection:
        """Return an authenticated connection to the server.

        Raises:
            PermissionDeniedError: when the host key is not the known one, or the authentication fails.
            StorageUnavailableError: when the server cannot be reached.
            ConfigurationError: when a private key cannot be used.
        """
        if self.proxy_jump is None:
            return self._connection(self._authenticate(self.host, self.port, self.username, self._open_socket()))
        jump = self.proxy_jump
        sock = connect_tcp(jump.host, jump.port, self.connect_timeout)
        jump_client = self._authenticate(jump.host, jump.port, jump.username or self.username, sock)
        try:
            channel = require_transport(jump_client).open_channel(
                "direct-tcpip", (self.host, self.port), ("127.0.0.1", 0), timeout=self.connect_timeout
            )
            client = self._authenticate(self.host, self.port, self.username, channel)
            client.jump_client = jump_client
            return self._connection(client)
        except BaseException as error:
            jump_client.close()
            if isinstance(error, paramiko.ChannelException):
                raise StorageUnavailableError(
                    f"the jump host {jump.host} refused to connect to {self.host}:{self.port}: check its "
                    "AllowTcpForwarding"
                ) from error
            raise

    def _connection(self, client: _Client) -> Connection:
        return Connection(client, connect_timeout=self.connect_timeout, read_timeout=self.read_timeout)

    def _open_socket(self) -> Any:
        if self.proxy_command is None:
            return connect_tcp(self.host, self.port, self.connect_timeout)
        values = {"%h": self.host, "%p": str(self.port), "%r": self.username or _local_user(), "%%": "%"}
        return ProxyCommandSocket(
            [_PLACEHOLDER.sub(lambda found: values[found[0]], word) for word in self.proxy_command]
        )

    def _authenticate(self, host: str, port: int, username: str | None, sock: Any) -> _Client:
        client = _Client()
        try:
            return self._connect_client(client, host, port, username, sock)
        except BaseException as error:
            transport = client.get_transport()
            is_active = None if transport is None else transport.is_active()
            with suppress(Exception):
                client.close()
            with suppress(Exception):
                sock.close()
            translated: Exception | None = None
            if not isinstance(error, StorageError):
                account = f"{username}@{host}:{port}" if username else f"{host}:{port}"
                translated = self._translate_error(error, account, is_active)
            if translated is None:
                raise
            raise translated from error

    def _connect_client(self, client: _Client, host: str, port: int, username: str | None, sock: Any) -> _Client:
        is_target = (host, port) == (self.host, self.port)
        # Fingerprints replace the keys of the known hosts file; its revocations still apply.
        fingerprints = self.fingerprints if is_target else ()
        known_keys = [] if fingerprints else self.known_hosts.keys(host, port)
        name, host_keys = known_hosts_name(host, port), client.get_host_keys()
        for key in known_keys:
            host_keys.add(name, key.get_name(), key)

        def on_host_key(key: paramiko.PKey) -> None:
            self.known_hosts.check_revoked(key)
            if key in known_keys:  # paramiko keeps one key of each type; during a key rotation there may be two
                host_keys.add(name, key.get_name(), key)

        client.set_missing_host_key_policy(
            HostKeyPolicy(fingerprints, str(self.known_hosts.path), is_jump_host=not is_target)
        )
        client.connect(
            host,
            port,
            username or _local_user(),
            self.password if is_target else None,  # the jump host must not learn the password
            sock=SendTimeoutSocket(sock, self.read_timeout),  # type: ignore[arg-type]  # it has a socket's methods
            key_filename=list(self.key_filenames) or None,  # type: ignore[arg-type]  # a list is fine
            passphrase=self.passphrase or self.password,  # the password is also paramiko's default for it
            allow_agent=self.allow_agent,
            look_for_keys=self.look_for_keys,
            timeout=self.connect_timeout,
            banner_timeout=self.connect_timeout,
            auth_timeout=self.connect_timeout,
            channel_timeout=self.connect_timeout,
            transport_factory=partial(self._transport, on_host_key),
        )
        require_transport(client).set_keepalive(math.ceil(self.keepalive))
        return client

    def _transport(
        self, on_host_key: Callable[[paramiko.PKey], None], sock: Any, disabled_algorithms: Any = None, **_: Any
    ) -> paramiko.Transport:
        transport = _Transport(
            sock,
            default_window_size=WINDOW,
            default_max_packet_size=PACKET,
            disabled_algorithms=disabled_algorithms,
        )
        transport.on_host_key = on_host_key
        options = transport.get_security_options()
        supported = set(options.ciphers)
        selected = [cipher for cipher in self.ciphers if cipher in supported]
        if not selected:
            raise ConfigurationError(
                f"ciphers has no name of a cipher that paramiko supports: choose from {', '.join(sorted(supported))}"
            )
        options.ciphers = selected
        return transport

    def _translate_error(self, error: BaseException, account: str, is_active: bool | None) -> Exception | None:
        """Return the storage error for a failure to connect or to authenticate, or None for any other error.

        Args:
            error: The error that was raised.
            account: User, host and port, for the message.
            is_active: Whether the connection was still open; None if it was not made yet.
        """
        if isinstance(error, paramiko.BadHostKeyException):
            return host_key_changed(error, str(self.known_hosts.path))
        is_key = isinstance(error, paramiko.PasswordRequiredException)
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError) or _is_auth_timeout(error):
            return StorageTimeoutError(f"{account} did not respond in time: try again, or raise connect_timeout")
        refusal = PermissionDeniedError(
            f"authentication failed for {account}: check username and key or password, that the server has the "
            "public key, and that the certificate, if any, is still valid"
        )
        if isinstance(error, paramiko.AuthenticationException) and is_active and not is_key:
            return refusal
        if is_active and isinstance(error, Exception):  # paramiko raises errors of many types for a damaged key
            if key_error := self._key_error():
                return key_error
            has_credentials = self.key_filenames or self.password is not None
            if has_credentials and not (self.allow_agent or self.look_for_keys):
                return refusal
            return ConfigurationError(
                f"no usable key or password for {account} ({printable(str(error))}): give a key_filename or a "
                "password, or check the keys that allow_agent and look_for_keys find"
            )
        # If the connection has ended, paramiko raises the error that ended it, of any type, as for a flipped bit.
        has_ended = is_active is False and isinstance(error, Exception)
        if has_ended or isinstance(error, paramiko.SSHException | EOFError | OSError):
            reason = printable(str(error)) or "the server closed the connection"
            return StorageUnavailableError(
                f"cannot connect to {account} ({reason}): check host, port and proxy, and the log of the server"
            )
        return None

    def _key_error(self) -> ConfigurationError | None:
        """Return the error of a configured private key, or None; paramiko tries every key type and reports the last."""
        for name in self.key_filenames:
            path = name.removesuffix(_CERTIFICATE)
            try:
                usable = any(
                    _is_usable(path, key_class, self.passphrase or self.password) for key_class in _KEY_CLASSES
                )
            except paramiko.PasswordRequiredException:
                return ConfigurationError(f"the private key {path} is encrypted: give its passphrase")
            except OSError as error:
                return ConfigurationError(f"the private key {path} cannot be read ({error.strerror}): check its path")
            if not usable:
                return ConfigurationError(
                    f"the private key {path} cannot be used: the key or its certificate is damaged, the passphrase is "
                    "wrong, or it is not an Ed25519, ECDSA or RSA key in a format that paramiko reads; "
                    f"`ssh-keygen -p -f {path}` may convert it"
                )
        return None


class _Client(paramiko.SSHClient):
    """A client whose close() also closes the connection to its jump host."""

    jump_client: paramiko.SSHClient | None = None

    def close(self) -> None:
        """Close the client, and that of the jump host."""
        super().close()
        if self.jump_client is not None:
            self.jump_client.close()


class _Transport(paramiko.Transport):
    """A transport that reports the host key before the authentication."""

    on_host_key: Callable[[paramiko.PKey], None]

    def start_client(self, event: Any = None, timeout: float | None = None) -> None:
        """Exchange keys, and report the host key.

        Raises:
            TimeoutError: when that takes too long; paramiko would go on without keys.
        """
        super().start_client(event, timeout)
        if not self.initial_kex_done:
            raise TimeoutError
        self.on_host_key(self.get_remote_server_key())

    def auth_interactive_dumb(self, *_: Any, **__: Any) -> list[str]:
        """Refuse keyboard-interactive authentication, for which paramiko would read from the terminal.

        Raises:
            PermissionDeniedError: always.
        """
        raise PermissionDeniedError(
            "the server requires an interactive second factor, which an app cannot provide: exempt this user from it"
        )


def ciphers_of(given: Sequence[str] | str | None) -> Sequence[str]:
    """Parse the argument *ciphers*; None stands for :data:`CIPHERS`.

    Raises:
        ConfigurationError: when it is not a list of names.
    """
    if given is None:
        return CIPHERS
    names = given.replace(",", " ").split() if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError("ciphers must be a list of names, or names separated by commas")
    return tuple(names)


def _local_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError) as error:
        raise ConfigurationError("the user of this process has no name: give a username") from error


def _is_usable(path: str, key_class: type[paramiko.PKey], passphrase: str | None) -> bool:
    try:
        key = key_class.from_private_key_file(path, passphrase)
        if os.path.isfile(path + _CERTIFICATE):
            key.load_certificate(path + _CERTIFICATE)
    except paramiko.PasswordRequiredException:
        raise
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - paramiko's parsers raise errors of many types for a damaged key
        return False
    return True


def _is_auth_timeout(error: BaseException) -> bool:
    """Whether this is paramiko's error for an authentication that took too long, which has no type of its own."""
    return isinstance(error, paramiko.AuthenticationException) and "timeout" in str(error)
