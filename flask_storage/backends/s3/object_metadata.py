"""Between our words and boto3's: what an object is stored with, and what an answer says of one."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import arrow

from ...content_types import UNSPECIFIED_CONTENT_TYPE, guess_content_type
from ...metadata_encoding import decode_metadata, decode_utf8_header, encode_metadata
from ...types import FileInfo, WriteOptions
from .gateway import BucketGateway, date_of, unquoted_etag

WRITE_KEY = "fs-write"
"""The metadata key that tells a write from another one of the same content; no key of an app has a hyphen."""
_HEADERS = {
    "ContentEncoding": "content_encoding",
    "CacheControl": "cache_control",
    "ContentDisposition": "content_disposition",
}
_CHECKSUMS = {"CRC32": "crc32", "CRC32C": "crc32c", "CRC64NVME": "crc64nvme", "SHA1": "sha1", "SHA256": "sha256"}


def write_arguments(bucket: BucketGateway, path: str, options: WriteOptions) -> dict[str, Any]:
    """Return boto3's arguments for storing an object: headers, metadata, and what the profile adds."""
    objects = bucket.object_settings
    arguments: dict[str, Any] = {**objects.stored, **objects.customer}
    arguments["ContentType"] = _content_type(bucket, path, options)
    arguments |= {name: value for name, ours in _HEADERS.items() if (value := getattr(options, ours))}
    if objects.cache_control:
        arguments.setdefault("CacheControl", objects.cache_control)
    if options.metadata:
        arguments["Metadata"] = {key: encode_metadata(value) for key, value in options.metadata.items()}
    return arguments


def _content_type(bucket: BucketGateway, path: str, options: WriteOptions) -> str:
    """Return the type an object is stored with: the one given, the profile's, or the one its name stands for."""
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


def info_of(bucket: BucketGateway, path: str, answer: Mapping[str, Any], size: int) -> FileInfo:
    """Return what an answer to GET or HEAD says of an object of *size* bytes."""
    kind = answer.get("ContentType")
    encoding = ",".join(
        part
        for part in answer.get("ContentEncoding", "").replace(" ", "").split(",")
        if part not in ("", "aws-chunked")
    )
    metadata = {key: decode_metadata(value) for key, value in answer.get("Metadata", {}).items() if key != WRITE_KEY}
    if bucket.preset.hyphenates_metadata:
        metadata = {key.replace("-", "_"): value for key, value in metadata.items()}
    return FileInfo(
        path=path,
        size=size,
        last_modified=arrow.Arrow.fromdatetime(date_of(answer)),
        etag=unquoted_etag(answer),
        etag_is_strong=True,
        content_type=None if kind == UNSPECIFIED_CONTENT_TYPE else decode_utf8_header(kind),
        content_encoding=encoding or None,
        cache_control=decode_utf8_header(answer.get("CacheControl")),
        content_disposition=decode_utf8_header(answer.get("ContentDisposition")),
        checksums=_checksums(answer),
        metadata=metadata,
        version=answer.get("VersionId"),
    )


def preserved_arguments(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that store an object with the headers and metadata of another, as an answer tells them."""
    names = ("ContentType", "ContentLanguage", "CacheControl", "ContentDisposition", "ContentEncoding")
    kept = {name: decode_utf8_header(answer[name]) for name in names if answer.get(name)}
    metadata = {
        key: value if value.isascii() else encode_metadata(decode_utf8_header(value))  # boto3 takes no other text
        for key, value in answer.get("Metadata", {}).items()
        if key != WRITE_KEY
    }
    return {**kept, "Metadata": metadata} if metadata else kept


def _checksums(answer: Mapping[str, Any]) -> dict[str, str]:
    if answer.get("ChecksumType") == "COMPOSITE":
        return {}  # a checksum of checksums, which says nothing to those who do not know the parts
    found = {ours: answer.get(f"Checksum{name}") for name, ours in _CHECKSUMS.items()}
    return {ours: base64.b64decode(value).hex() for ours, value in found.items() if value and "-" not in value}
