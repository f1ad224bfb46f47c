"""Host keys: a server is trusted only if its key is in the known hosts file, or has one of the given fingerprints.

The check comes before the authentication, so no credential is sent to an unknown server.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko
from paramiko.hostkeys import HostKeys

from ...errors import ConfigurationError, PermissionDeniedError

_DEFAULT_PATH = "~/.ssh/known_hosts"
_FINGERPRINT = re.compile(r"SHA256:([A-Za-z0-9+/]{43})=?", re.ASCII)


def fingerprint_of(key: paramiko.PKey) -> str:
    """Return the fingerprint of a key, as ``ssh-keygen -l`` prints it."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def parse_fingerprints(given: str | Collection[str] | None) -> frozenset[str]:
    """Parse the argument *host_key_fingerprint*, into the form of :func:`fingerprint_of`.

    Raises:
        ConfigurationError: when one is malformed. MD5 fingerprints are refused, because MD5 has collisions.
    """
    if given is None:
        return frozenset()
    texts: object = given.replace(",", " ").split() if isinstance(given, str) else given
    matches = [_FINGERPRINT.fullmatch(str(text)) for text in texts] if isinstance(texts, Collection) else []
    if not matches or not all(matches):
        raise ConfigurationError("host_key_fingerprint must be 'SHA256:…', as `ssh-keygen -l -f KEY.pub` shows it")
    return frozenset(f"SHA256:{match[1]}" for match in matches if match)


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Accepts or refuses a host key that is not in the known hosts file.

    Args:
        fingerprints: The accepted fingerprints; empty if only keys of the known hosts file are accepted.
        source: The path of the known hosts file, for the message.
        is_jump_host: Whether the server is the jump host, for which no fingerprint can be configured.
    """

    def __init__(self, fingerprints: Collection[str], source: str, *, is_jump_host: bool = False) -> None:
        self._fingerprints = fingerprints
        self._source = source
        self._hint = "" if is_jump_host else " or set host_key_fingerprint"

    def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
        """Accept a key whose fingerprint was given.

        Raises:
            PermissionDeniedError: for every other key.
        """
        fingerprint = fingerprint_of(key)
        if fingerprint in self._fingerprints:
            return
        if self._fingerprints:
            raise PermissionDeniedError(
                f"{hostname} sent the {key.get_name()} key {fingerprint}, which is not the host_key_fingerprint of "
                "this profile: this may be a man-in-the-middle attack; ask the administrator of the server"
            )
        raise PermissionDeniedError(
            f"the host key of {hostname} is unknown: {key.get_name()} {fingerprint}. Compare it with the fingerprint "
            f"that the administrator of the server gives, then add the key to {self._source} (ssh-keyscan){self._hint}"
        )


def host_key_changed(error: paramiko.BadHostKeyException, source: str) -> PermissionDeniedError:
    """Return the error for a server whose key is not the known one."""
    return PermissionDeniedError(
        f"the host key of {error.hostname} has changed: it sent {error.key.get_name()} {fingerprint_of(error.key)}, "
        f"and {source} has {error.expected_key.get_name()} {fingerprint_of(error.expected_key)}. This may be a "
        "man-in-the-middle attack; ask the administrator of the server before you replace the key"
    )


class KnownHosts:
    """The known hosts file, which is read again for every connection.

    Malformed lines, types of keys that paramiko does not support, and certificate authorities are ignored.

    Args:
        path: Path of the file; None for ``~/.ssh/known_hosts``, which may be missing.

    Raises:
        ConfigurationError: by each method: if *path* was given and cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(os.path.expanduser(_DEFAULT_PATH if path is None else path))
        self._is_explicit = path is not None

    def keys(self, host: str, port: int) -> list[paramiko.PKey]:
        """Return the keys of a server, in the order of the file."""
        name = known_hosts_name(host, port).lower()
        keys: list[paramiko.PKey] = []
        for fields in self._lines():
            if fields[0].startswith(("#", "@")):
                continue
            with suppress(Exception):  # paramiko raises errors of many types for a malformed line, which is ignored
                if len(fields) >= 3 and _matches_any(name, fields[0].split(",")):
                    keys.append(paramiko.PKey.from_type_string(fields[1], base64.b64decode(fields[2])))
        return keys

    def check_revoked(self, key: paramiko.PKey) -> None:
        """Refuse a key that the file marks as ``@revoked``, for any host.

        Raises:
            PermissionDeniedError: when the key is revoked.
        """
        for fields in self._lines():
            if len(fields) >= 4 and fields[0] == "@revoked" and fields[3] == key.get_base64():
                raise PermissionDeniedError(
                    f"the host key {fingerprint_of(key)} is revoked by {self.path}: ask the administrator of the "
                    "server for its new key"
                )

    def _lines(self) -> list[list[str]]:
        try:
            text = self.path.read_text("utf-8", "replace")
        except OSError as error:
            if self._is_explicit:
                raise ConfigurationError(
                    f"the known hosts file {self.path} cannot be read ({error.strerror}): check known_hosts_fpath"
                ) from error
            return []
        # Split at line feeds only, as OpenSSH does: a comment may contain other characters that end a line for Python.
        return [fields for line in text.split("\n") if (fields := line.split())]


def known_hosts_name(host: str, port: int) -> str:
    """Return the name of a server in the known hosts file."""
    return host if port == 22 else f"[{host}]:{port}"


def _matches_any(name: str, patterns: Collection[str]) -> bool:
    """Whether one of the patterns matches a name, and none that begins with ``!`` does."""
    if any(pattern.startswith("!") and _matches(name, pattern[1:]) for pattern in patterns):
        return False
    return any(_matches(name, pattern) for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("|1|"):
        return HostKeys.hash_host(name, pattern) == pattern
    regex = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(regex, name) is not None
