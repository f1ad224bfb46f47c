"""Listing a container, page by page as the service returns it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import arrow
from azure.storage.blob import ContainerClient

from ...types import FileInfo, ListEntry
from .blob_metadata import info_of
from .gateway import ContainerGateway, iter_pages


def entries_of(
    client: ContainerClient, container: ContainerGateway, prefix: str, recursive: bool
) -> Iterator[Sequence[ListEntry]]:
    """Yield pages of the entries that begin with *prefix*; without *recursive*, one entry for each subdirectory."""
    as_path, blob_prefix = container.path, container.key(prefix)
    listing = client.list_blobs(blob_prefix) if recursive else client.walk_blobs(blob_prefix, delimiter="/")
    for page in iter_pages(listing):
        # A blob whose name ends in a slash is a tool's marker of an empty directory, not a file.
        yield [
            ListEntry(as_path(blob.name), None, 0)
            if hasattr(blob, "prefix")
            else ListEntry(as_path(blob.name), arrow.Arrow.fromdatetime(blob.last_modified), blob.size)
            for blob in page
            if hasattr(blob, "prefix") or not blob.name.endswith("/")
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
    for page in iter_pages(listing):
        for blob in page:
            if not (hasattr(blob, "prefix") or blob.name.endswith("/")):
                yield info_of(container.path(blob.name), blob)


def names_of(client: ContainerClient, container: ContainerGateway, prefix: str) -> Iterator[Sequence[str]]:
    """Yield pages of the names of all blobs that begin with *prefix*, including the markers of directories."""
    for page in iter_pages(client.list_blobs(container.key(prefix))):
        yield [container.path(blob.name) for blob in page]
