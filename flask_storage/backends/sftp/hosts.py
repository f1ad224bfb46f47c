"""Who answers: a server whose key is not known is never trusted, and never asked for anything."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import paramiko
from paramiko.hostkeys import HostKeys

from ...errors import ConfigurationError, PermissionDeniedError

_FINGERPRINT = re.compile(r"SHA256:([A-Za-z0-9+/]{43})=?", re.ASCII)


def fingerprint_of(key: paramiko.PKey) -> str:
    """Return what ``ssh-keygen -l`` shows of a key."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def fingerprints(given: str | Collection[str] | None) -> frozenset[str]:
    """Return an argument as fingerprints, in the form of :func:`fingerprint_of`.

    Raises:
        ConfigurationError: when one is none. MD5 is none: two keys can be made that have the same.
    """
    if given is None:
        return frozenset()
    listed = given.replace(",", " ").split() if isinstance(given, str) else list(given)
    found = [_FINGERPRINT.fullmatch(str(one)) for one in listed]
    if not found or not all(found):
        raise ConfigurationError("host_key_fingerprint is written 'SHA256:…', as `ssh-keygen -l -f KEY.pub` shows it")
    return frozenset(f"SHA256:{match[1]}" for match in found if match)


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Decides about a server that the file of known hosts does not name.

    Args:
        fingerprints: The keys that are the right ones; none where the file alone decides.
        source: What the error calls the file.
    """

    def __init__(self, fingerprints: Collection[str], source: str) -> None:
        self._fingerprints = fingerprints
        self._source = source

    def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
        """Let a key pass whose fingerprint was given.

        Raises:
            PermissionDeniedError: for every other.
        """
        shown = fingerprint_of(key)
        if shown in self._fingerprints:
            return
        if self._fingerprints:
            raise PermissionDeniedError(
                f"{hostname} shows the {key.get_name()} key {shown}, which is not the host_key_fingerprint of this "
                "profile: somebody may be in between; ask whoever runs the server"
            )
        raise PermissionDeniedError(
            f"the host key of {hostname} is unknown: {key.get_name()} {shown}. Compare this with what whoever runs "
            f"the server says, then add the key to {self._source} (ssh-keyscan) or set host_key_fingerprint"
        )


def changed(error: paramiko.BadHostKeyException, source: str) -> PermissionDeniedError:
    """Return what is said of a server that shows another key than the one that is known."""
    return PermissionDeniedError(
        f"the host key of {error.hostname} has changed: it shows {error.key.get_name()} {fingerprint_of(error.key)}, "
        f"and {source} has {error.expected_key.get_name()} {fingerprint_of(error.expected_key)}. Somebody may be in "
        "between; ask whoever runs the server before you replace the key"
    )


class KnownHosts:
    """The file of known hosts, read anew for every connection.

    Args:
        path: Of the file; None for the user's own.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(path).expanduser() if path is not None else Path("~/.ssh/known_hosts").expanduser()
        self._is_named = path is not None

    def keys(self) -> HostKeys:
        """Return the keys of the file.

        Raises:
            ConfigurationError: when a file was named and cannot be read.
        """
        keys = HostKeys()
        try:
            keys.load(str(self.path))
        except (OSError, UnicodeDecodeError) as error:
            if self._is_named:
                raise ConfigurationError(f"the known hosts {self.path} cannot be read: {error}") from error
        return keys

    def check_revoked(self, key: paramiko.PKey) -> None:
        """Refuse a key that the file marks as ``@revoked``, for whichever host; paramiko passes over such lines.

        Raises:
            PermissionDeniedError: when it is.
        """
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            fields = line.split()
            if len(fields) >= 4 and fields[0] == "@revoked" and fields[3] == key.get_base64():
                raise PermissionDeniedError(f"the host key {fingerprint_of(key)} is revoked, says {self.path}")
