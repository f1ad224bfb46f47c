"""Validation of arguments, which annotations do not check. Settings may come as text or JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping
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
"""The spellings of a boolean in environment variables and URLs, in lower case."""

_MAX_SECONDS = 10 * 365 * 86_400
_MAX_INT = 2**40
_MAX_CONNECTIONS = 10_000
_MAX_METADATA_BYTES = 2048
_PACKAGE = f"{__package__}."


def parse_bool(value: object) -> bool:
    """Return a setting as a boolean. Environment variables and URLs give it as text.

    Raises:
        ValueError: for anything else: ``bool("False")`` is true, and could make files public.

    >>> parse_bool(True), parse_bool("no"), parse_bool("False")
    (True, False, False)
    """
    flag = value if isinstance(value, bool) else BOOLEAN_WORDS.get(str(value).lower())
    if flag is None:
        raise ValueError("the value must be true or false")
    return flag


def did_you_mean(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """Return a question for an error message, like ``"did you mean 'root'?"``; empty when no known name is similar.

    Args:
        name: The unknown name.
        known: The valid names.
        likeness: How similar a name must be, from 0 to 1.

    >>> did_you_mean("rot", ["root", "create"])
    "did you mean 'root'?"
    """
    from difflib import get_close_matches  # only for messages

    near = get_close_matches(name, sorted(known), n=2, cutoff=likeness)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def caller_stacklevel() -> int:
    """Return the stack level of the first caller outside of this package: ``warnings.warn`` then names its line."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def check_names(call: str, arguments: Iterable[str], known: Collection[str]) -> None:
    """Check the names of keyword arguments that a public operation passes on.

    Raises:
        TypeError: for an unknown one, as Python itself does, which would name an inner class instead of *call*.
    """
    for name in arguments:
        if name not in known:
            advice = did_you_mean(name, known) or f"further arguments are {', '.join(known)}"
            raise TypeError(f"{call} has no argument {name!r}: {advice}")


def check_count(name: str, value: object, least: int = 0) -> None:
    """Check that *value* is an ``int`` of at least *least*, and not a ``bool``.

    Args:
        name: The name of the argument, for the error message.
        value: The value.
        least: The smallest valid value.

    Raises:
        ValueError: for anything else.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def check_network(network: object) -> None:
    """Check the address or network that restricts a link.

    Raises:
        ValueError: when it is not the text of an address or a network.
    """
    import ipaddress  # few links have an ip

    if not (isinstance(network, str) and is_one_line(network)):
        raise ValueError("ip must be an address or a network as text, like '203.0.113.0/24'")
    try:
        address = ipaddress.ip_network(network, strict=False).network_address
    except ValueError as error:
        raise ValueError(f"ip: {error}; give an address or a network, like '203.0.113.0/24'") from error
    if getattr(address, "ipv4_mapped", None):
        raise ValueError("ip is an IPv4-mapped IPv6 network: write it as an IPv4 network")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Check that every backend can store the metadata: S3 lower-cases keys and allows 2 KB, Azure allows identifiers.

    Raises:
        ValueError: when one of them cannot.
    """
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata must be a mapping of keys and values, not {type(metadata).__name__}")
    for key, value in metadata.items():
        if not (is_one_line(key) and is_one_line(value)):
            raise ValueError("metadata keys and values must be one line of text each, without control characters")
        if not (key.isascii() and key.isidentifier() and key == key.lower() and key[0] != "_"):
            raise ValueError(f"metadata key {key!r} is not portable: use a-z, 0-9 and _, beginning with a letter")
    if sum(len(key) + len(value.encode()) for key, value in metadata.items()) > _MAX_METADATA_BYTES:
        raise ValueError(f"metadata must have at most {_MAX_METADATA_BYTES} bytes in total")


# -- arguments of backends, from Python, from JSON, and as text from URLs and environment variables ------------------


def parse_int(name: str, value: int | str, least: int) -> int:
    """Return an argument as an ``int`` of at least *least*.

    Raises:
        ConfigurationError: when it is not one.
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = least - 1
    if not least <= number <= _MAX_INT or isinstance(value, bool) or (isinstance(value, float) and value != number):
        raise ConfigurationError(f"{name} must be a whole number of at least {least}")
    return number


def parse_seconds(name: str, value: float | str | timedelta, *, zero: bool = False) -> float:
    """Return an argument as a number of seconds, greater than 0 unless *zero* is true.

    Raises:
        ConfigurationError: when it is not such a number, or more than 10 years.
    """
    try:
        count = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError, OverflowError):
        count = -1
    if isinstance(value, bool) or not 0 <= count <= _MAX_SECONDS or (count == 0 and not zero):
        least = "at least 0" if zero else "more than 0"
        raise ConfigurationError(f"{name} must be a number of seconds, {least} and at most 10 years")
    return count


def parse_connections(name: str, value: int | str) -> int:
    """Return an argument as a number of connections. Each takes some memory even before its first use.

    Raises:
        ConfigurationError: when it is not one, or more than 10,000.
    """
    count = parse_int(name, value, 1)
    if count > _MAX_CONNECTIONS:
        raise ConfigurationError(f"{name} must be at most {_MAX_CONNECTIONS}")
    return count


def parse_ca(name: str, value: bool | str | None) -> bool | str | None:
    """Return an argument that is a boolean or the file (or directory) of a certificate authority.

    Raises:
        ConfigurationError: when the file does not exist.
    """
    found = parse_bool_or_text(name, value)
    if isinstance(found, str):
        found = expand_home(name, found)
    if isinstance(found, str) and not os.path.exists(found):
        raise ConfigurationError(
            f"{name} must be true, false, or the file of a certificate authority: the file does not exist"
        )
    return found


def parse_choice(name: str, value: str | None, allowed: Collection[str]) -> str | None:
    """Return an argument that is one of *allowed*, or None.

    Raises:
        ConfigurationError: when it is not one of them.
    """
    if value is not None and value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(sorted(allowed))}")
    return value


def parse_bool_or_text(name: str, value: bool | str | None) -> bool | str | None:
    """Return an argument that is a boolean or text; the spellings of a boolean become one.

    Raises:
        ConfigurationError: when it is something else. An empty value is not false.
    """
    unchecked: object = value  # JSON may contain any type
    if unchecked is None or isinstance(unchecked, bool):
        return unchecked
    text = parse_text(name, value)
    return BOOLEAN_WORDS.get(text.lower(), text)


def parse_text(name: str, value: object) -> str:
    """Return an argument that is one line of text, and not empty.

    Raises:
        ConfigurationError: when it is something else. SDKs replace an empty secret by a default.
    """
    if isinstance(value, str) and value and is_one_line(value):
        return value
    raise ConfigurationError(f"{name} must be one line of text, and not empty")


def parse_optional_text(name: str, value: object) -> str | None:
    """Return an argument that is one line of text, or None.

    Raises:
        ConfigurationError: when it is something else.
    """
    return None if value is None else parse_text(name, value)


def parse_optional_bool(name: str, value: bool | str | None) -> bool | None:
    """Return an argument that is a boolean or None.

    Raises:
        ConfigurationError: when it is something else.
    """
    flag = BOOLEAN_WORDS.get(value.lower(), value) if isinstance(value, str) else value
    if flag is None or isinstance(flag, bool):
        return flag
    raise ConfigurationError(f"{name} must be true or false")


def parse_mapping(name: str, value: object) -> dict[str, Any]:
    """Return an argument that is a mapping with text keys; None becomes an empty one.

    Raises:
        ConfigurationError: when it is something else.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise ConfigurationError(f"{name} must be a mapping with text keys")


def parse_http_url(name: str, value: str | None) -> str | None:
    """Return an argument that is the HTTP URL of a service, or None.

    Raises:
        ConfigurationError: when it is not one, or contains a password, which would appear in logs.
    """
    if value is None:
        return None
    try:
        parts = urlsplit(str(value))
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unbalanced bracket, or a port that is not a number
        parts, has_host = urlsplit(""), False
    plain = is_one_line(value) and not set(str(value)) & set("@?# ")
    if not (has_host and plain) or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{name} must be a URL like 'https://s3.example.com', without credentials")
    return f"{parts.scheme}{value[len(parts.scheme) :]}"


def check_redirect(url: object) -> None:
    """Raise ``ValueError`` unless *url* is an absolute HTTP URL, without which S3 ignores a redirect."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
    except ValueError:  # an unbalanced bracket
        parts = urlsplit("")
    if not (is_one_line(url) and parts.scheme in ("http", "https") and parts.hostname):
        raise ValueError(f"redirect_to must be an absolute URL, as of url_for(..., _external=True), not {url!r}")


def parse_mode(name: str, mode: int | str, needed: int) -> int:
    """Return the permission bits of a file or directory. Text (URL, environment) is octal: ``"640"``.

    Raises:
        ConfigurationError: when it is not a mode, or lacks the *needed* bits of the owner, as decimal 640 does.
    """
    try:
        number = int(mode, 8) if isinstance(mode, str) else mode
    except ValueError:
        number = -1
    # The sticky bit has no use here, and every mode that is written in decimal by mistake has it set.
    if type(number) is not int or number & ~0o6777 or number & needed != needed:
        raise ConfigurationError(f"{mode!r} is not a valid {name}: write it in octal, 0o{needed:o} or more, or as text")
    return number


def parse_optional_mode(name: str, mode: int | str | None, needed: int) -> int | None:
    """Return permission bits as :func:`parse_mode` does, or None for None; ``"none"`` is None in a URL.

    Raises:
        ConfigurationError: as for :func:`parse_mode`.
    """
    return (
        None if mode is None or (isinstance(mode, str) and mode.lower() == "none") else parse_mode(name, mode, needed)
    )


def expand_home(name: str, path: str | os.PathLike[str]) -> str:
    """Return the path of a local file or directory, a leading ``~`` or ``~user`` replaced by the home directory.

    Raises:
        ConfigurationError: when there is no such home directory.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ConfigurationError(
            f"{name} begins with ~, but there is no such home directory: write './~' for a name that begins so"
        )
    return expanded
