"""Converts the pages of a bucket's listing into entries, and fetches the details of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import cast

import arrow

from ...errors import FileNotFoundInStorageError, StorageUnavailableError
from ...types import FileInfo, ListEntry
from .gateway import BucketGateway
from .object_metadata import info_of
from .responses import size_of, translating_parse_errors

logger = logging.getLogger("flask_storage")


def entries_of(bucket: BucketGateway, prefix: str, *, recursive: bool) -> Iterator[Sequence[ListEntry]]:
    """Yield pages of the entries whose path begins with *prefix*."""
    arguments = {} if recursive else {"Delimiter": "/"}
    as_path = bucket.path
    for page in bucket.pages("list_objects_v2", Prefix=bucket.key(prefix), **arguments):
        with translating_parse_errors():
            # Consoles create keys that end in a slash to show empty directories; they are not files.
            files = [
                ListEntry(as_path(item["Key"]), arrow.Arrow.fromdatetime(item["LastModified"]), item["Size"])
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")
            ]
            directories = [ListEntry(as_path(item["Prefix"]), None, 0) for item in page.get("CommonPrefixes", ())]
        yield files
        yield directories


def stat_object(bucket: BucketGateway, path: str) -> FileInfo:
    """Return the FileInfo of one object.

    Raises:
        FileNotFoundInStorageError: when there is no such object.
        StorageUnavailableError: when the response lacks a header, or one cannot be parsed.
    """
    response = bucket.head(path)
    return info_of(bucket, path, response, size_of(response))


def details_of(
    bucket: BucketGateway,
    pages: Iterable[Sequence[ListEntry]],
    concurrency: int,
    workers: Callable[[], Executor],
) -> Iterator[FileInfo]:
    """Yield the FileInfo of each file of *pages*, with *concurrency* requests at the same time.

    Objects that are deleted concurrently are left out. An object with an invalid response to HEAD has only the size and
    the date of the listing.
    """

    def details(entry: ListEntry) -> FileInfo | None:
        try:
            return stat_object(bucket, entry.name)
        except FileNotFoundInStorageError:
            return None
        except StorageUnavailableError as error:  # an invalid response; other errors are those of boto3
            logger.warning("%s in %r is listed without headers and metadata: %s", entry.name, bucket.storage, error)
            modified = cast(arrow.Arrow, entry.last_modified)  # only directories have none
            return FileInfo(path=entry.name, size=entry.size, last_modified=modified)

    for page in pages:
        entries = [entry for entry in page if not entry.is_directory]
        for start in range(0, len(entries), concurrency):
            yield from filter(None, workers().map(details, entries[start : start + concurrency]))
