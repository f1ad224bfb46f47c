"""Checking what a profile says: arguments come from Python, from JSON and, as text, from URLs and the environment."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from ...arguments import FLAG_WORDS
from ...errors import ConfigurationError
from ...paths import is_one_line

_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_KEY_BYTES = 32
_LONGEST_ROUNDING = 86_400
_LONGEST_WAIT = 10 * 365 * 86_400
_LARGEST_NUMBER = 2**40


def whole_number(name: str, value: int | str, least: int) -> int:
    """Return an argument as a whole number from *least* on.

    Raises:
        ConfigurationError: when it is none.
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = least - 1
    if (
        not least <= number <= _LARGEST_NUMBER
        or isinstance(value, bool)
        or (isinstance(value, float) and value != number)
    ):
        raise ConfigurationError(f"{name} is a whole number from {least} on")
    return number


def seconds(name: str, value: float | str | timedelta, *, zero: bool = False) -> float:
    """Return an argument as a number of seconds, more than none unless *zero* is fine.

    Raises:
        ConfigurationError: when it is none.
    """
    try:
        count = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError, OverflowError):
        count = -1
    if not 0 <= count <= _LONGEST_WAIT or (count == 0 and not zero):
        raise ConfigurationError(f"{name} is a number of seconds")
    return count


def rounding_of(value: float | str | timedelta) -> int:
    """Return ``link_rounding`` in seconds.

    Raises:
        ConfigurationError: when it is no whole number of seconds up to a day: what a link lives longer must stay small.
    """
    count = seconds("link_rounding", value, zero=True)
    if count > _LONGEST_ROUNDING or count != int(count):
        raise ConfigurationError("link_rounding is a whole number of seconds, at most a day")
    return int(count)


def choice(name: str, value: str | None, allowed: Collection[str]) -> str | None:
    """Return an argument that is one of *allowed*, or None.

    Raises:
        ConfigurationError: when it is another.
    """
    if value is not None and value not in allowed:
        raise ConfigurationError(f"{name} is one of {', '.join(sorted(allowed))}")
    return value


def flag_or_text(name: str, value: bool | str | None) -> bool | str | None:
    """Return an argument that is a flag or a text; the words for a flag are one.

    Raises:
        ConfigurationError: when it is something else: what is merely empty must not switch anything off.
    """
    given: object = value  # JSON may hold anything
    if given is None or isinstance(given, bool):
        return given
    line = text(name, value)
    return FLAG_WORDS.get(line.lower(), line)


def text(name: str, value: object) -> str:
    """Return an argument that is one line of text, and not empty.

    Raises:
        ConfigurationError: when it is something else: an empty secret would be taken from elsewhere.
    """
    if isinstance(value, str) and value and is_one_line(value):
        return value
    raise ConfigurationError(f"{name} is a text of one line, and not empty")


def optional_text(name: str, value: object) -> str | None:
    """Return an argument that is one line of text, or not given.

    Raises:
        ConfigurationError: when it is something else.
    """
    return None if value is None else text(name, value)


def optional_flag(name: str, value: bool | str | None) -> bool | None:
    """Return an argument that is a flag or not given.

    Raises:
        ConfigurationError: when it is something else.
    """
    flag = FLAG_WORDS.get(value.lower(), value) if isinstance(value, str) else value
    if flag is None or isinstance(flag, bool):
        return flag
    raise ConfigurationError(f"{name} is true or false")


def web_address(name: str, value: str | None) -> str | None:
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
    plain = "@" not in parts.netloc and not parts.query and not parts.fragment
    if not (named and plain) or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{name} is an address like 'https://s3.example.com', without credentials in it")
    return value


def stored_arguments(
    encryption: str | None, kms_key_id: str | None, storage_class: str | None, acl: str | None
) -> dict[str, Any]:
    """Return boto3's arguments for what every object is stored with.

    Raises:
        ConfigurationError: when they contradict each other.
    """
    choice("server_side_encryption", encryption, _ENCRYPTIONS)
    if kms_key_id and (encryption or "aws:kms") == "AES256":
        raise ConfigurationError('kms_key_id goes with server_side_encryption "aws:kms"')
    given = {
        "ServerSideEncryption": encryption or ("aws:kms" if kms_key_id else None),
        "SSEKMSKeyId": optional_text("kms_key_id", kms_key_id),
        "StorageClass": optional_text("storage_class", storage_class),
        "ACL": optional_text("acl", acl),
    }
    return {name: value for name, value in given.items() if value}


def customer_arguments(key: str | bytes | None) -> dict[str, Any]:
    """Return boto3's arguments for encryption with the customer's own key.

    Raises:
        ConfigurationError: when the key is not 32 bytes, or their base64.
    """
    if key is None:
        return {}
    if isinstance(key, str):
        try:
            key = base64.b64decode(key, validate=True)
        except (binascii.Error, ValueError):
            key = b""
    given: object = key  # JSON may hold anything
    if not isinstance(given, bytes) or len(given) != _KEY_BYTES:
        raise ConfigurationError("customer_key is 32 bytes, or the base64 of 32 bytes")
    # boto3 would compute the digest itself, but not for every call.
    digest = hashlib.md5(given, usedforsecurity=False).digest()
    return {
        "SSECustomerAlgorithm": "AES256",
        "SSECustomerKey": base64.b64encode(given).decode(),
        "SSECustomerKeyMD5": base64.b64encode(digest).decode(),
    }


def key_pair(name: str, credentials: Mapping[str, str] | None) -> tuple[str, str, str | None] | None:
    """Return access key, secret key and token of an argument that holds credentials, or None.

    Raises:
        ConfigurationError: when it holds anything else; the text shows no value.
    """
    if credentials is None:
        return None
    known = {"access_key", "secret_key", "token"}
    given: object = credentials  # JSON may hold anything
    proper = isinstance(given, Mapping) and {"access_key", "secret_key"} <= set(given) <= known
    values: list[object] = list(credentials.values()) if proper else [None]
    # Empty ones would be taken from the environment, and sign in the name of somebody else.
    if not all(value and isinstance(value, str) for value in values):
        raise ConfigurationError(f'{name} is {{"access_key": …, "secret_key": …}}, and "token" where there is one')
    return credentials["access_key"], credentials["secret_key"], credentials.get("token")
