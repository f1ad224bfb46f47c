"""Stores the pending files of a transaction, and deletes them when it is rolled back."""

from __future__ import annotations

import hashlib
import io
import logging
import secrets
import weakref
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

import sqlalchemy as sa

from ..backends.base import StorageBackend
from ..errors import StorageError
from ..paths import directory_prefix
from .file_type import FileType
from .greenlets import run_blocking
from .ledger import Key, upsert
from .stored_file import Content, StoredFile

logger = logging.getLogger("flask_storage")


class Upload:
    """A file that a transaction has stored.

    Attributes:
        storage: Where it is.
        path: Likewise.
        is_shared: Whether it is stored under its hash, so that other transactions may have it too.
        in_ledger: Whether the transaction has added it to the ledger, because a row has it.
    """

    __slots__ = ("_value", "in_ledger", "is_shared", "path", "storage")

    def __init__(self, storage: StorageBackend, path: str, file: StoredFile, *, is_shared: bool = False) -> None:
        self.storage = storage
        self.path = path
        self.is_shared = is_shared
        self.in_ledger = is_shared
        self._value = weakref.ref(file)  # so that a long transaction does not keep the content of all its files

    @property
    def file(self) -> StoredFile | None:
        """The value, if it is still in use."""
        return self._value()


def store(kind: FileType, file: StoredFile, row: Any, uploads: dict[Key, Upload]) -> None:
    """Store a pending file under a new random name.

    Args:
        kind: The type of the column.
        file: The file.
        row: The object of the row, for the directory; None in a statement.
        uploads: Where the upload is noted before it begins.
    """
    storage = kind.storage_for()
    name = f"{datetime.now(UTC):%Y-%m-%d}/{secrets.token_hex(16)}{kind.suffix_for(file)}"
    path = f"{directory_prefix(kind.directory_for(row))}{name}"
    uploads[storage.name, path] = Upload(storage, path, file)
    checksum = run_blocking(lambda: _upload(storage, path, file))
    file.set_stored(storage, path, checksum)


def store_by_hash(
    kind: FileType, file: StoredFile, row: Any, uploads: dict[Key, Upload], connection: sa.Connection, ledger: sa.Table
) -> None:
    """Store a pending file under its hash, unless its content is stored already.

    Its row of the ledger is written first, which locks it, so that no other transaction deletes the file concurrently.

    Args:
        kind: The type of the column.
        file: The file.
        row: The object of the row, for the directory; None in a statement.
        uploads: Where the upload is noted.
        connection: The transaction.
        ledger: See :func:`~flask_storage.sqlalchemy.ledger.ledger_of`.
    """
    storage = kind.storage_for()
    digest = run_blocking(lambda: _digest(file))
    path = f"{directory_prefix(kind.directory_for(row))}{digest[:2]}/{digest}"
    lock = upsert(connection, ledger).values(profile=storage.name, path=path, refs=0)
    keys = [ledger.c.profile, ledger.c.path]
    connection.execute(lock.on_conflict_do_update(index_elements=keys, set_={"refs": ledger.c.refs}))
    uploads[storage.name, path] = Upload(storage, path, file, is_shared=True)
    checksum = f"sha256:{digest}"
    run_blocking(lambda: _upload_missing(storage, path, file, checksum))
    file.set_stored(storage, path, checksum)


def discard(uploads: Iterable[Upload]) -> None:
    """Delete files that no row has. A failure is logged, and the sweep deletes the file later."""
    by_storage: dict[StorageBackend, list[str]] = defaultdict(list)
    for upload in uploads:
        if not upload.is_shared:
            by_storage[upload.storage].append(upload.path)
    for storage, paths in by_storage.items():
        try:
            run_blocking(lambda storage=storage, paths=paths: storage.delete_many(paths))  # type: ignore[misc]  # mypy infers no lambda with defaults
        except StorageError as error:
            logger.warning(
                "files of a transaction that was rolled back remain in %r, and flask storage sweep will delete them: "
                "%s",
                storage.name,
                error,
            )


def _upload(storage: StorageBackend, path: str, file: StoredFile) -> str:
    """Store the content, and return its checksum."""
    with _open(file) as source:
        hashing = _HashingReader(source)
        storage.upload(hashing, path, size=file.size, **_headers(storage, file))
    return f"sha256:{hashing.hash.hexdigest()}"


def _upload_missing(storage: StorageBackend, path: str, file: StoredFile, checksum: str) -> None:
    if not storage.exists(path):
        with _open(file) as source:
            storage.upload(source, path, size=file.size, checksum=checksum)


def _headers(storage: StorageBackend, file: StoredFile) -> dict[str, Any]:
    # The value keeps the type as well, so a storage that keeps none loses nothing.
    return {"content_type": file.content_type} if storage.capabilities.content_headers else {}


def _digest(file: StoredFile) -> str:
    with _open(file) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _open(file: StoredFile) -> io.BufferedIOBase:
    return cast(Content, file.content).open()


class _HashingReader:
    """Computes the hash of what is read."""

    def __init__(self, source: io.BufferedIOBase) -> None:
        self._source = source
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        return data
