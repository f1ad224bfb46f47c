"""Listing a container, page by page as the service gives it."""

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
    """Yield pages of what begins with *prefix*; without *recursive*, one entry for all that has a further slash."""
    as_path, starts = container.path, container.key(prefix)
    found = client.list_blobs(starts) if recursive else client.walk_blobs(starts, delimiter="/")
    for page in iter_pages(found):
        # A name that ends in a slash is what tools make to show an empty folder; it is no file.
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
    """Yield what is known of each file that begins with *prefix*, as the pages come."""
    starts, include = container.key(prefix), ["metadata"]
    found = (
        client.list_blobs(starts, include=include)
        if recursive
        else client.walk_blobs(starts, include=include, delimiter="/")
    )
    for page in iter_pages(found):
        for blob in page:
            if not (hasattr(blob, "prefix") or blob.name.endswith("/")):
                yield info_of(container.path(blob.name), blob)
