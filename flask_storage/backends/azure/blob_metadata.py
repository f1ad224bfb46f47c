"""Conversion between our write options and file information and the SDK's arguments and blob properties."""

from __future__ import annotations

import re
from typing import Any

import arrow
from azure.core import MatchConditions
from azure.storage.blob import BlobProperties, BlobType, ContentSettings, StandardBlobTier

from ...content_types import UNSPECIFIED_CONTENT_TYPE, guess_content_type
from ...errors import PreconditionFailedError
from ...metadata_encoding import check_ascii, decode_metadata, decode_utf8_header, encode_metadata
from ...types import CONTENT_HEADERS, FileInfo, WriteOptions
from .gateway import ContainerGateway

_TAG = re.compile(r"[\x21\x23-\x7e]+")
WRITE_KEY = "_fs_write"
"""The metadata key that identifies one write; no key of an app begins with an underscore."""


def write_arguments(container: ContainerGateway, path: str, options: WriteOptions) -> dict[str, Any]:
    """Return the SDK's arguments for storing a blob: headers, metadata and the settings of the profile."""
    settings = container.settings
    guessed = guess_content_type(path) if settings.guess_content_type else None
    metadata = {**settings.metadata, **options.metadata}
    check_ascii({name: getattr(options, name) for name in CONTENT_HEADERS})
    return {
        **settings.stored,
        "content_settings": ContentSettings(
            content_type=options.content_type or guessed or settings.content_type or UNSPECIFIED_CONTENT_TYPE,
            content_encoding=options.content_encoding,
            cache_control=options.cache_control or settings.cache_control,
            content_disposition=options.content_disposition,
        ),
        "metadata": {key: encode_metadata(value) for key, value in metadata.items()},
    }


def condition_arguments(options: WriteOptions) -> dict[str, Any]:
    """Return the SDK's arguments for the conditions of a write.

    Raises:
        PreconditionFailedError: when the conditions can never hold: *exclusive* together with *if_match*, or an
            *if_match* that is not an ETag. (``*`` would match any version.)
    """
    if options.if_match is not None:
        if options.exclusive or not _TAG.fullmatch(options.if_match) or options.if_match == "*":
            raise PreconditionFailedError("no stored file can match the given if_match")
        return if_unchanged(options.if_match)
    if options.exclusive:
        return {"match_condition": MatchConditions.IfMissing}
    return {}


def if_unchanged(etag: str) -> dict[str, Any]:
    """Return the SDK's arguments that make an operation fail unless the blob has this etag, given without quotes."""
    return {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}


def info_of(path: str, blob: BlobProperties) -> FileInfo:
    """Return the file information in the SDK's properties of a blob."""
    content = blob.content_settings
    content_type = content.content_type
    md5 = content.content_md5
    return FileInfo(
        path=path,
        size=int(blob.size),
        last_modified=arrow.Arrow.fromdatetime(blob.last_modified),
        etag=unquoted_etag(blob),
        etag_is_strong=bool(blob.etag),
        content_type=None if content_type == UNSPECIFIED_CONTENT_TYPE else decode_utf8_header(content_type),
        content_encoding=content.content_encoding or None,
        cache_control=decode_utf8_header(content.cache_control) or None,
        content_disposition=decode_utf8_header(content.content_disposition) or None,
        checksums={"md5": bytes(md5).hex()} if md5 else {},
        metadata={key: decode_metadata(value) for key, value in stored_metadata(blob).items() if key != WRITE_KEY},
        version=getattr(blob, "version_id", None),
    )


def stored_metadata(blob: BlobProperties) -> dict[str, str]:
    """Return the metadata of a blob as it is stored, with keys in lower case.

    Metadata is sent in names of headers, and HTTP programs written in Go (Traefik, Caddy) change their case.
    """
    return {key.lower(): value or "" for key, value in (blob.metadata or {}).items()}


def is_block_blob(blob: BlobProperties) -> bool:
    """Return whether a blob is a block blob, or the response does not tell its type."""
    return blob.blob_type in (None, BlobType.BLOCKBLOB)


def problem_of_upload(blob: BlobProperties) -> str | None:
    """Return why a blob that a client has uploaded by a link cannot be used, or None. Links do not sign headers."""
    if not is_block_blob(blob):
        return "an append blob or a page blob was uploaded instead of a block blob"
    if blob.blob_tier == StandardBlobTier.ARCHIVE:
        return "the blob was uploaded to the archive, where it cannot be read"
    return None


def unquoted_etag(blob: BlobProperties) -> str | None:
    """Return the ETag of a blob without its quotes, as :class:`FileInfo` has it; None if the response has none."""
    return str(blob.etag).strip('"') if blob.etag else None
