"""Who answers: a server whose key is not known is never trusted, and never asked for anything."""

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
    """Return what ``ssh-keygen -l`` shows of a key."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def parse_fingerprints(given: str | Collection[str] | None) -> frozenset[str]:
    """Return an argument as fingerprints, in the form of :func:`fingerprint_of`.

    Raises:
        ConfigurationError: when one is none. MD5 is none: two keys can be made that have the same.
    """
    if given is None:
        return frozenset()
    listed: object = given.replace(",", " ").split() if isinstance(given, str) else given
    found = [_FINGERPRINT.fullmatch(str(one)) for one in listed] if isinstance(listed, Collection) else []
    if not found or not all(found):
        raise ConfigurationError("host_key_fingerprint is written 'SHA256:…', as `ssh-keygen -l -f KEY.pub` shows it")
    return frozenset(f"SHA256:{match[1]}" for match in found if match)


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Decides about a server that the file of known hosts does not name.

    Args:
        fingerprints: The keys that are the right ones; none where the file alone decides.
        source: What the error calls the file.
        is_jump_host: Whether it is a server that only leads to another, whose fingerprint cannot be given.
    """

    def __init__(self, fingerprints: Collection[str], source: str, *, is_jump_host: bool = False) -> None:
        self._fingerprints = fingerprints
        self._source = source
        self._or = "" if is_jump_host else " or set host_key_fingerprint"

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
            f"the server says, then add the key to {self._source} (ssh-keyscan){self._or}"
        )


def host_key_changed(error: paramiko.BadHostKeyException, source: str) -> PermissionDeniedError:
    """Return what is said of a server that shows another key than the one that is known."""
    return PermissionDeniedError(
        f"the host key of {error.hostname} has changed: it shows {error.key.get_name()} {fingerprint_of(error.key)}, "
        f"and {source} has {error.expected_key.get_name()} {fingerprint_of(error.expected_key)}. Somebody may be in "
        "between; ask whoever runs the server before you replace the key"
    )


class KnownHosts:
    """The file of known hosts, read anew for every connection.

    Lines that are broken, or of keys that paramiko does not know, are passed over, and so are those of certificate
    authorities.

    Args:
        path: Of the file; None for the user's own.

    Raises:
        ConfigurationError: as each method: when a file was named and cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(os.path.expanduser(_DEFAULT_PATH if path is None else path))
        self._is_named = path is not None

    def keys(self, host: str, port: int) -> list[paramiko.PKey]:
        """Return the keys that a server may show, in the order of the file."""
        name = known_hosts_name(host, port).lower()
        found: list[paramiko.PKey] = []
        for fields in self._lines():
            if fields[0].startswith(("#", "@")):
                continue
            with suppress(Exception):  # whatever paramiko finds wrong with one line: the others count
                if len(fields) >= 3 and _matches_any(name, fields[0].split(",")):
                    found.append(paramiko.PKey.from_type_string(fields[1], base64.b64decode(fields[2])))
        return found

    def check_revoked(self, key: paramiko.PKey) -> None:
        """Refuse a key that the file marks as ``@revoked``, for whichever host.

        Raises:
            PermissionDeniedError: when it is.
        """
        for fields in self._lines():
            if len(fields) >= 4 and fields[0] == "@revoked" and fields[3] == key.get_base64():
                raise PermissionDeniedError(
                    f"the host key {fingerprint_of(key)} is revoked, says {self.path}: ask whoever runs the server for "
                    "its new one"
                )

    def _lines(self) -> list[list[str]]:
        try:
            text = self.path.read_text("utf-8", "replace")
        except OSError as error:
            if self._is_named:
                raise ConfigurationError(
                    f"the known hosts {self.path} cannot be read ({error.strerror}): check known_hosts_fpath"
                ) from error
            return []
        # At line feeds alone, as OpenSSH: what splitlines() takes for the end of a line may stand in a comment.
        return [fields for line in text.split("\n") if (fields := line.split())]


def known_hosts_name(host: str, port: int) -> str:
    """Return what the file of known hosts calls a server."""
    return host if port == 22 else f"[{host}]:{port}"


def _matches_any(name: str, patterns: Collection[str]) -> bool:
    """Whether a field of the file means a server; one ``!`` that does outweighs all others."""
    if any(one.startswith("!") and _matches(name, one[1:]) for one in patterns):
        return False
    return any(_matches(name, one) for one in patterns)


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("|1|"):
        return HostKeys.hash_host(name, pattern) == pattern
    form = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(form, name) is not None
