"""Logging in: how the server is reached, who it is, and in whose name."""

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

# With AES-GCM one pass of OpenSSL encrypts and signs; paramiko would choose two, of which one is SHA-2.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr", "aes192-ctr")
_PLACEHOLDER = re.compile("%[hpr%]")
_KEYS = (paramiko.RSAKey, paramiko.ECDSAKey, paramiko.Ed25519Key)
_CERTIFICATE = "-cert.pub"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
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
        proxy_command: The words of a command through which the server is reached.
        proxy_jump: A server through which it is.
        connect_timeout: How long each step of connecting may take, in seconds.
        read_timeout: How long an answer may take, in seconds.
        keepalive: How often the server is told that we are there, in seconds; 0 for never.
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
    proxy_command: Sequence[str] | None = field(repr=False)  # it may hold a password
    proxy_jump: JumpHost | None
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
            return self._connection(self._authenticate(self.host, self.port, self.username, self._open_socket()))
        jump = self.proxy_jump
        host, way = jump.host, connect_tcp(jump.host, jump.port, self.connect_timeout)
        first = self._authenticate(host, jump.port, jump.username or self.username, way)
        try:
            through = require_transport(first).open_channel(
                "direct-tcpip", (self.host, self.port), ("127.0.0.1", 0), timeout=self.connect_timeout
            )
            client = self._authenticate(self.host, self.port, self.username, through)
            client.jump_client = first
            return self._connection(client)
        except BaseException as error:
            first.close()
            if isinstance(error, paramiko.ChannelException):
                raise StorageUnavailableError(
                    f"{host} does not connect to {self.host}:{self.port}: check its AllowTcpForwarding"
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
            stands = None if transport is None else transport.is_active()
            with suppress(Exception):
                client.close()
            with suppress(Exception):
                sock.close()
            ours = None if isinstance(error, StorageError) else self._translate_error(error, f"{host}:{port}", stands)
            if ours is None:
                raise
            raise ours from error

    def _connect_client(self, client: _Client, host: str, port: int, username: str | None, sock: Any) -> _Client:
        is_target = (host, port) == (self.host, self.port)
        # A fingerprint that was given is the whole truth, as for somebody who has no such file.
        given = self.fingerprints if is_target else ()
        known = [] if given else self.known_hosts.keys(host, port)
        name, hosts = known_hosts_name(host, port), client.get_host_keys()
        for key in known:
            hosts.add(name, key.get_name(), key)

        def on_host_key(key: paramiko.PKey) -> None:
            self.known_hosts.check_revoked(key)
            if key in known:  # paramiko keeps one key of each kind; while a server changes its own, two are right
                hosts.add(name, key.get_name(), key)

        client.set_missing_host_key_policy(HostKeyPolicy(given, str(self.known_hosts.path), is_jump_host=not is_target))
        client.connect(
            host,
            port,
            username or _local_user(),
            self.password if is_target else None,  # it is none of the business of a server on the way
            sock=SendTimeoutSocket(sock, self.read_timeout),  # type: ignore[arg-type]  # it does what they do
            key_filename=list(self.key_filenames) or None,  # type: ignore[arg-type]  # a list is fine
            passphrase=self.passphrase or self.password,  # as paramiko has it where no passphrase is given
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
        known = set(options.ciphers)
        chosen = [cipher for cipher in self.ciphers if cipher in known]
        if not chosen:
            raise ConfigurationError(f"ciphers names none that paramiko knows: {', '.join(sorted(known))}")
        options.ciphers = chosen
        return transport

    def _translate_error(self, error: BaseException, place: str, stands: bool | None) -> Exception | None:
        """Return our error for one of connecting, or None when it is another.

        Args:
            error: It.
            place: Where we connected to.
            stands: Whether the connection was there still; None when there was none yet.
        """
        if isinstance(error, paramiko.BadHostKeyException):
            return host_key_changed(error, str(self.known_hosts.path))
        is_key = isinstance(error, paramiko.PasswordRequiredException)
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError) or _is_auth_timeout(error):
            return StorageTimeoutError(f"{place} did not answer in time: try again, or raise connect_timeout")
        refusal = PermissionDeniedError(
            f"{place} does not let us in: check username and key or password, that the server has the public key, and "
            "that a certificate is valid still"
        )
        if isinstance(error, paramiko.AuthenticationException) and stands and not is_key:
            return refusal
        if stands and isinstance(error, Exception):  # of a damaged key paramiko says it in many ways
            if found := self._key_error():
                return found
            named = self.key_filenames or self.password is not None
            if named and not (self.allow_agent or self.look_for_keys):
                return refusal
            return ConfigurationError(
                f"nothing to log in with at {place} ({printable(str(error))}): give a key_filename or a password, or "
                "check the keys that allow_agent and look_for_keys find"
            )
        # Where the connection has ended, paramiko raises whatever has ended it, as a bit that was flipped.
        ended = stands is False and isinstance(error, Exception)
        if ended or isinstance(error, paramiko.SSHException | EOFError | OSError):
            return StorageUnavailableError(
                f"no connection to {place} ({printable(str(error)) or 'it hung up'}): check host, port and proxy, and the "
                "log of the server"
            )
        return None

    def _key_error(self) -> ConfigurationError | None:
        """Return what is wrong with our keys, or None; paramiko tries each as every kind, and tells the last."""
        for name in self.key_filenames:
            path = name.removesuffix(_CERTIFICATE)
            try:
                usable = any(_is_usable(path, kind, self.passphrase or self.password) for kind in _KEYS)
            except paramiko.PasswordRequiredException:
                return ConfigurationError(f"the private key {path} is encrypted: give its passphrase")
            except OSError as error:
                return ConfigurationError(f"the private key {path} cannot be read ({error.strerror}): check its path")
            if not usable:
                return ConfigurationError(
                    f"the private key {path} cannot be used: it or its certificate is damaged, its passphrase is "
                    "another, or it is no key (Ed25519, ECDSA or RSA) in a form that paramiko reads, into which "
                    f"`ssh-keygen -p -f {path}` may bring it"
                )
        return None


class _Client(paramiko.SSHClient):
    """A client that ends the connection that carries it too."""

    jump_client: paramiko.SSHClient | None = None

    def close(self) -> None:
        """End it."""
        super().close()
        if self.jump_client is not None:
            self.jump_client.close()


class _Transport(paramiko.Transport):
    """A transport that says who answers before anybody logs in."""

    on_host_key: Callable[[paramiko.PKey], None]

    def start_client(self, event: Any = None, timeout: float | None = None) -> None:
        """Agree on keys.

        Raises:
            TimeoutError: when that takes too long; paramiko goes on then.
        """
        super().start_client(event, timeout)
        if not self.initial_kex_done:
            raise TimeoutError
        self.on_host_key(self.get_remote_server_key())

    def auth_interactive_dumb(self, *_: Any, **__: Any) -> list[str]:
        """Ask nobody: paramiko would ask at the terminal of the process.

        Raises:
            PermissionDeniedError: always.
        """
        raise PermissionDeniedError(
            "the server wants more than key and password, which somebody has to type: have it let this user in without"
        )


def ciphers_of(given: Sequence[str] | str | None) -> Sequence[str]:
    """Return an argument as the names of ciphers; those that we would choose where it is not given.

    Raises:
        ConfigurationError: when it is no list of names.
    """
    if given is None:
        return CIPHERS
    listed = given.replace(",", " ").split() if isinstance(given, str) else given
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(one, str) for one in listed):
        raise ConfigurationError("ciphers is a list of names, or a text with commas in between")
    return tuple(listed)


def _local_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError) as error:
        raise ConfigurationError("nobody knows what this process's user is called: give a username") from error


def _is_usable(path: str, kind: type[paramiko.PKey], passphrase: str | None) -> bool:
    try:
        key = kind.from_private_key_file(path, passphrase)
        if os.path.isfile(path + _CERTIFICATE):
            key.load_certificate(path + _CERTIFICATE)
    except paramiko.PasswordRequiredException:
        raise
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - paramiko's parsers fall over damaged keys in many ways
        return False
    return True


def _is_auth_timeout(error: BaseException) -> bool:
    """Whether this is paramiko's error for a login that took too long; it has no type of its own."""
    return isinstance(error, paramiko.AuthenticationException) and "timeout" in str(error)
