"""Validates the S3 settings of a profile; :mod:`flask_storage.validation` has the checks of all backends."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ...errors import ConfigurationError
from ...validation import parse_choice, parse_optional_text, parse_seconds

_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_KEY_BYTES = 32
_MAX_ROUNDING = 86_400


def rounding_of(value: float | str | timedelta) -> int:
    """Return ``link_rounding`` in seconds.

    Raises:
        ConfigurationError: when it is not a whole number of seconds up to a day, the limit of the extra lifetime.
    """
    count = parse_seconds("link_rounding", value, zero=True)
    if count > _MAX_ROUNDING or count != int(count):
        raise ConfigurationError("link_rounding must be a whole number of seconds, at most a day (86400)")
    return int(count)


def stored_arguments(
    encryption: str | None, kms_key_id: str | None, storage_class: str | None, acl: str | None
) -> dict[str, Any]:
    """Return boto3's arguments for storing every object.

    Raises:
        ConfigurationError: when the arguments contradict each other.
    """
    parse_choice("server_side_encryption", encryption, _ENCRYPTIONS)
    if kms_key_id and (encryption or "aws:kms") == "AES256":
        raise ConfigurationError('kms_key_id requires server_side_encryption "aws:kms"')
    arguments = {
        "ServerSideEncryption": encryption or ("aws:kms" if kms_key_id else None),
        "SSEKMSKeyId": parse_optional_text("kms_key_id", kms_key_id),
        "StorageClass": parse_optional_text("storage_class", storage_class),
        "ACL": parse_optional_text("acl", acl),
    }
    return {name: value for name, value in arguments.items() if value}


def customer_arguments(key: str | bytes | None) -> dict[str, Any]:
    """Return boto3's arguments for encryption with a customer-provided key.

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
    raw_key: object = key  # JSON may contain any type
    if not isinstance(raw_key, bytes) or len(raw_key) != _KEY_BYTES:
        raise ConfigurationError("customer_key must be 32 bytes, or the base64 of 32 bytes")
    # boto3 computes the digest for some operations only.
    digest = hashlib.md5(raw_key, usedforsecurity=False).digest()
    return {
        "SSECustomerAlgorithm": "AES256",
        "SSECustomerKey": base64.b64encode(raw_key).decode(),
        "SSECustomerKeyMD5": base64.b64encode(digest).decode(),
    }


def key_pair(name: str, credentials: Mapping[str, str] | None) -> tuple[str, str, str | None] | None:
    """Return access key, secret key and token of an argument that holds credentials, or None.

    Raises:
        ConfigurationError: when it holds anything else; the message shows no value.
    """
    if credentials is None:
        return None
    known = {"access_key", "secret_key", "token"}
    unchecked: object = credentials  # JSON may contain any type
    has_keys = isinstance(unchecked, Mapping) and {"access_key", "secret_key"} <= set(unchecked) <= known
    values: list[object] = list(credentials.values()) if has_keys else [None]
    # boto3 would replace empty values by those of the environment, and sign with other credentials.
    if not all(value and isinstance(value, str) for value in values):
        raise ConfigurationError(
            f'{name} must be {{"access_key": …, "secret_key": …}}, with "token" for temporary credentials'
        )
    return credentials["access_key"], credentials["secret_key"], credentials.get("token")
