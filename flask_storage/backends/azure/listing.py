"""Listing a container, page by page as the service returns it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import arrow
from azure.storage.blob import BlobProperties, ContainerClient

from ...paths import RESERVED_PREFIX
from ...types import FileInfo, ListEntry
from .blob_metadata import info_of
from .gateway import ContainerGateway, iter_pages

logger = logging.getLogger("flask_storage")


def entries_of(
    client: ContainerClient, container: ContainerGateway, prefix: str, recursive: bool
) -> Iterator[Sequence[ListEntry]]:
    """Yield pages of the entries that begin with *prefix*; without *recursive*, one entry for each subdirectory."""
    as_path, blob_prefix = container.path, container.key(prefix)
    listing = client.list_blobs(blob_prefix) if recursive else client.walk_blobs(blob_prefix, delimiter="/")
    for page in readable_pages(listing, container):
        yield [
            ListEntry(as_path(blob.name), None, 0)
            if _is_directory(blob)
            else ListEntry(as_path(blob.name), arrow.Arrow.fromdatetime(blob.last_modified), blob.size)
            for blob in page
            if _is_directory(blob) or _is_file(blob)
        ]


def details_of(
    client: ContainerClient, container: ContainerGateway, prefix: str, recursive: bool
) -> Iterator[FileInfo]:
    """Yield the information of each file that begins with *prefix*, as the pages arrive."""
    blob_prefix, include = container.key(prefix), ["metadata"]
    listing = (
        client.list_blobs(blob_prefix, include=include)
        if recursive
        else client.walk_blobs(blob_prefix, include=include, delimiter="/")
    )
    for page in readable_pages(listing, container):
        for blob in page:
            if not _is_directory(blob) and _is_file(blob):
                yield info_of(container.path(blob.name), blob)


def names_of(client: ContainerClient, container: ContainerGateway, prefix: str) -> Iterator[Sequence[str]]:
    """Yield pages of the names of all blobs that begin with *prefix*, including the markers of directories."""
    for page in iter_pages(client.list_blobs(container.key(prefix))):
        yield [container.path(blob.name) for blob in page if blob.name]


def readable_pages(listing: Any, container: ContainerGateway) -> Iterator[list[BlobProperties]]:
    """Yield the pages of a listing without the entries that cannot be read, whose number is logged as a warning."""
    skipped = 0
    for page in iter_pages(listing):
        readable = [blob for blob in page if _is_readable(blob)]
        skipped += len(page) - len(readable)
        yield readable
    if skipped:
        logger.warning(
            "%d entries of the container %r have no name, date or size in its listing, and were skipped",
            skipped,
            container.name,
        )


def _is_readable(blob: Any) -> bool:
    return bool(blob.name) and (
        _is_directory(blob) or (blob.last_modified is not None and blob.size is not None and blob.size >= 0)
    )


def _is_file(blob: Any) -> bool:
    """Whether a blob is neither a tool's marker of an empty directory nor the hidden one of an unfinished upload."""
    name = blob.name.rpartition("/")[2]
    return bool(name) and not name.startswith(RESERVED_PREFIX)


def _is_directory(blob: Any) -> bool:
    return hasattr(blob, "prefix")
