"""Converts headers and metadata between the storage interface and boto3."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import arrow

from ...content_types import UNSPECIFIED_CONTENT_TYPE, guess_content_type
from ...metadata_encoding import decode_metadata, decode_utf8_header, encode_metadata
from ...types import FileInfo, WriteOptions
from .gateway import BucketGateway
from .responses import date_of, translating_parse_errors, unquoted_etag

WRITE_KEY = "fs-write"
"""The metadata key whose value identifies one write. It cannot be a key of an application, as it has a hyphen."""
_HEADERS = {
    "ContentEncoding": "content_encoding",
    "CacheControl": "cache_control",
    "ContentDisposition": "content_disposition",
}
_CHECKSUMS = {"CRC32": "crc32", "CRC32C": "crc32c", "CRC64NVME": "crc64nvme", "SHA1": "sha1", "SHA256": "sha256"}


def write_arguments(bucket: BucketGateway, path: str, options: WriteOptions) -> dict[str, Any]:
    """Return boto3's arguments for storing an object: headers, metadata, and the settings of the profile."""
    objects = bucket.object_settings
    arguments: dict[str, Any] = {**objects.stored, **objects.customer}
    arguments["ContentType"] = _content_type(bucket, path, options)
    arguments |= {name: value for name, option in _HEADERS.items() if (value := getattr(options, option))}
    if objects.cache_control:
        arguments.setdefault("CacheControl", objects.cache_control)
    if options.metadata:
        arguments["Metadata"] = {key: encode_metadata(value) for key, value in options.metadata.items()}
    return arguments


def _content_type(bucket: BucketGateway, path: str, options: WriteOptions) -> str:
    """Return the content type of an object: the one of *options*, the one guessed from its name, or the profile's."""
    guessed = guess_content_type(path) if bucket.object_settings.guess_content_type else None
    return options.content_type or guessed or bucket.object_settings.content_type or UNSPECIFIED_CONTENT_TYPE


def condition_arguments(options: WriteOptions) -> dict[str, Any]:
    """Return boto3's arguments for the conditions of a write."""
    arguments = {}
    if options.exclusive:
        arguments["IfNoneMatch"] = "*"
    if options.if_match is not None:
        arguments["IfMatch"] = f'"{options.if_match}"'
    return arguments


def info_of(bucket: BucketGateway, path: str, response: Mapping[str, Any], size: int) -> FileInfo:
    """Return the FileInfo of an object of *size* bytes from a response to GET or HEAD."""
    content_type = response.get("ContentType")
    encoding = ",".join(
        part
        for part in response.get("ContentEncoding", "").replace(" ", "").split(",")
        if part not in ("", "aws-chunked")
    )
    metadata = {key: decode_metadata(value) for key, value in stored_metadata(response).items() if key != WRITE_KEY}
    if bucket.preset.hyphenates_metadata:
        metadata = {key.replace("-", "_"): value for key, value in metadata.items()}
    return FileInfo(
        path=path,
        size=size,
        last_modified=arrow.Arrow.fromdatetime(date_of(response)),
        etag=unquoted_etag(response),
        etag_is_strong=True,
        content_type=None if content_type == UNSPECIFIED_CONTENT_TYPE else decode_utf8_header(content_type),
        content_encoding=encoding or None,
        cache_control=decode_utf8_header(response.get("CacheControl")),
        content_disposition=decode_utf8_header(response.get("ContentDisposition")),
        checksums=_checksums(response),
        metadata=metadata,
        version=response.get("VersionId"),
    )


def stored_metadata(response: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata in a response as it is stored, with keys in lower case.

    The service stores lower case, but keys are parts of header names, and HTTP programs written in Go change their
    case: a proxy like Traefik or Caddy, or the service itself (rclone).
    """
    return {key.lower(): value for key, value in response.get("Metadata", {}).items()}


def preserved_arguments(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that store an object with the headers and metadata in a response."""
    names = ("ContentType", "ContentLanguage", "CacheControl", "ContentDisposition", "ContentEncoding")
    headers: dict[str, Any] = {name: decode_utf8_header(response[name]) for name in names if response.get(name)}
    if response.get("Expires"):  # a date; boto3 leaves it out if it is not valid
        headers["Expires"] = response["Expires"]
    metadata = {
        key: value if value.isascii() else encode_metadata(decode_utf8_header(value))  # boto3 accepts ASCII only
        for key, value in stored_metadata(response).items()
        if key != WRITE_KEY
    }
    return {**headers, "Metadata": metadata} if metadata else headers


def _checksums(response: Mapping[str, Any]) -> dict[str, str]:
    if response.get("ChecksumType") == "COMPOSITE":
        return {}  # a checksum of the checksums of the parts, not of the content
    checksums = {algorithm: response.get(f"Checksum{name}") for name, algorithm in _CHECKSUMS.items()}
    with translating_parse_errors():
        return {
            algorithm: base64.b64decode(value).hex()
            for algorithm, value in checksums.items()
            if value and "-" not in value
        }
