"""What an argument must be that annotations cannot promise: it may come as text, as JSON, or from a slip of the pen."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .paths import is_one_line

BOOLEAN_WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
"""How the environment and URLs write a boolean, in lower case."""

_MAX_SECONDS = 10 * 365 * 86_400
_MAX_INT = 2**40
_MAX_CONNECTIONS = 10_000
_MAX_METADATA_BYTES = 2048


def parse_bool(value: object) -> bool:
    """Return a setting as a boolean; the environment and URLs have it as text.

    Raises:
        ValueError: for anything that is not plainly one: ``"False"`` taken for true would publish files.

    >>> parse_bool(True), parse_bool("no"), parse_bool("False")
    (True, False, False)
    """
    flag = value if isinstance(value, bool) else BOOLEAN_WORDS.get(str(value).lower())
    if flag is None:
        raise ValueError("write true or false")
    return flag


def check_count(name: str, value: object, least: int = 0) -> None:
    """Raise unless *value* is a whole number from *least* on; ``True`` is none.

    Args:
        name: What the error calls it.
        value: Whatever was given.
        least: The smallest that will do.

    Raises:
        ValueError: for anything else.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is a whole number from {least} on, not {value!r}")


def check_network(network: object) -> None:
    """Refuse what is no network to which a link can be bound.

    Raises:
        ValueError: for anything but the text of one.
    """
    import ipaddress  # few links need it

    if not isinstance(network, str):
        raise ValueError("ip is the text of an address or a network, like '203.0.113.0/24'")
    try:
        address = ipaddress.ip_network(network, strict=False).network_address
    except ValueError as error:
        raise ValueError(f"ip: {error}; give an address or a network, like '203.0.113.0/24'") from error
    if getattr(address, "ipv4_mapped", None):
        raise ValueError("ip is an IPv4 network mapped into IPv6: write it as an IPv4 network")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Hold metadata to what every place can keep: S3 lower-cases keys and allows 2 KB, Azure wants identifiers.

    Raises:
        ValueError: when it is something else.
    """
    for key, value in metadata.items():
        if not (is_one_line(key) and is_one_line(value)):
            raise ValueError("metadata is text: each value one line")
        if not (key.isascii() and key.isidentifier() and key == key.lower() and key[0] != "_"):
            raise ValueError(f"metadata key {key!r} is not portable: use a-z, 0-9 and _, beginning with a letter")
    if sum(len(key) + len(value.encode()) for key, value in metadata.items()) > _MAX_METADATA_BYTES:
        raise ValueError(f"metadata takes at most {_MAX_METADATA_BYTES} bytes in all")


# -- the arguments of a backend, which come from Python, from JSON and, as text, from URLs and the environment -------


def parse_int(name: str, value: int | str, least: int) -> int:
    """Return an argument as a whole number from *least* on.

    Raises:
        ConfigurationError: when it is none.
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = least - 1
    if not least <= number <= _MAX_INT or isinstance(value, bool) or (isinstance(value, float) and value != number):
        raise ConfigurationError(f"{name} is a whole number from {least} on")
    return number


def parse_seconds(name: str, value: float | str | timedelta, *, zero: bool = False) -> float:
    """Return an argument as a number of seconds, more than none unless *zero* is fine.

    Raises:
        ConfigurationError: when it is none.
    """
    try:
        count = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError, OverflowError):
        count = -1
    if not 0 <= count <= _MAX_SECONDS or (count == 0 and not zero):
        raise ConfigurationError(f"{name} is a number of seconds")
    return count


def parse_connections(name: str, value: int | str) -> int:
    """Return an argument as a number of connections; each takes a little memory before it is ever used.

    Raises:
        ConfigurationError: when it is none, or more than any server takes.
    """
    count = parse_int(name, value, 1)
    if count > _MAX_CONNECTIONS:
        raise ConfigurationError(f"{name} is at most {_MAX_CONNECTIONS}")
    return count


def parse_ca(name: str, value: bool | str | None) -> bool | str | None:
    """Return an argument that is a flag or the file (or folder) of a certificate authority.

    Raises:
        ConfigurationError: when there is no such file.
    """
    found = parse_bool_or_text(name, value)
    if isinstance(found, str) and not os.path.exists(found):
        raise ConfigurationError(f"{name} is true, false, or the file of a certificate authority: this is no file")
    return found


def parse_choice(name: str, value: str | None, allowed: Collection[str]) -> str | None:
    """Return an argument that is one of *allowed*, or None.

    Raises:
        ConfigurationError: when it is another.
    """
    if value is not None and value not in allowed:
        raise ConfigurationError(f"{name} is one of {', '.join(sorted(allowed))}")
    return value


def parse_bool_or_text(name: str, value: bool | str | None) -> bool | str | None:
    """Return an argument that is a flag or a text; the words for a flag are one.

    Raises:
        ConfigurationError: when it is something else: what is merely empty must not switch anything off.
    """
    given: object = value  # JSON may hold anything
    if given is None or isinstance(given, bool):
        return given
    line = parse_text(name, value)
    return BOOLEAN_WORDS.get(line.lower(), line)


def parse_text(name: str, value: object) -> str:
    """Return an argument that is one line of text, and not empty.

    Raises:
        ConfigurationError: when it is something else: an empty secret would be taken from elsewhere.
    """
    if isinstance(value, str) and value and is_one_line(value):
        return value
    raise ConfigurationError(f"{name} is a text of one line, and not empty")


def parse_optional_text(name: str, value: object) -> str | None:
    """Return an argument that is one line of text, or not given.

    Raises:
        ConfigurationError: when it is something else.
    """
    return None if value is None else parse_text(name, value)


def parse_optional_bool(name: str, value: bool | str | None) -> bool | None:
    """Return an argument that is a flag or not given.

    Raises:
        ConfigurationError: when it is something else.
    """
    flag = BOOLEAN_WORDS.get(value.lower(), value) if isinstance(value, str) else value
    if flag is None or isinstance(flag, bool):
        return flag
    raise ConfigurationError(f"{name} is true or false")


def parse_mapping(name: str, value: object) -> dict[str, Any]:
    """Return an argument that is a mapping of names, or nothing.

    Raises:
        ConfigurationError: when it is something else.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise ConfigurationError(f"{name} is a mapping of names")


def parse_http_url(name: str, value: str | None) -> str | None:
    """Return an argument that is the address of a service, or None.

    Raises:
        ConfigurationError: when it is none, or holds a password, which logs would show.
    """
    if value is None:
        return None
    try:
        parts = urlsplit(str(value))
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # half a bracket, or a port that is no number
        parts, named = urlsplit(""), False
    plain = is_one_line(value) and not set(str(value)) & set("@?# ")
    if not (named and plain) or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{name} is an address like 'https://s3.example.com', without credentials in it")
    return f"{parts.scheme}{value[len(parts.scheme) :]}"


def parse_mode(name: str, mode: int | str, needed: int) -> int:
    """Return a mode; settings from the environment and URLs are text, and there 640 means what it means to chmod.

    Raises:
        ConfigurationError: for what is no mode, or lacks the owner's *needed* bits, as decimal 640 for 0o640 does.
    """
    try:
        number = int(mode, 8) if isinstance(mode, str) else mode
    except ValueError:
        number = -1
    # The sticky bit has no use here, and every mode that was written in decimal by mistake has it set.
    if type(number) is not int or number & ~0o6777 or number & needed != needed:
        raise ConfigurationError(f"{mode!r} is no {name}: write it in octal, 0o{needed:o} or more, or as text")
    return number
