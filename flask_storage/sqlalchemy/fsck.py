"""Compares rows, ledgers and storages, and repairs the ledgers."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Literal, Self, TypeAlias, TypeVar, cast

import sqlalchemy as sa

from ..backends.base import StorageBackend
from ..errors import FileNotFoundInStorageError
from ..profiles import current_storage
from .databases import Database
from .file_type import FileType
from .ledger import are_suspiciously_many, file_columns, has_managed_name, upsert

T = TypeVar("T")

Kind: TypeAlias = Literal["missing", "corrupt", "miscounted", "orphan", "duplicate", "abandoned"]

PROBLEMS: frozenset[Kind] = frozenset({"missing", "corrupt", "miscounted", "orphan"})
"""The findings that are faults; the others are for information."""
REPAIRABLE: frozenset[Kind] = frozenset({"miscounted", "orphan"})
"""The faults that :meth:`FileCheck.repair` repairs."""

_BATCH = 1000

_SCHEMA = """
    CREATE TABLE rows (ledger INTEGER, profile TEXT, path TEXT, size INTEGER, checksum TEXT, owner TEXT);
    CREATE TABLE counts (ledger INTEGER, profile TEXT, path TEXT, refs INTEGER);
    CREATE TABLE files (ledger INTEGER, profile TEXT, path TEXT, size INTEGER, modified REAL);
"""
_INDEXES = """
    CREATE INDEX rows_path ON rows (profile, path);
    CREATE INDEX counts_path ON counts (profile, path);
    CREATE INDEX files_path ON files (profile, path);
"""
_MISCOUNTED = """
    SELECT * FROM (
        SELECT ledger, profile, path, SUM(is_row) AS named, SUM(refs) AS refs, SUM(1 - is_row) AS known FROM (
            SELECT ledger, profile, path, 1 AS is_row, 0 AS refs FROM rows
            UNION ALL SELECT ledger, profile, path, 0, refs FROM counts
        ) GROUP BY ledger, profile, path
    ) WHERE named != refs AND (named > 0 OR refs > 0)
"""
_LOST = f"SELECT COUNT(*) FROM ({_MISCOUNTED}) WHERE named = 0"  # noqa: S608 -- constants
_MISSING = """
    SELECT profile, path, MIN(owner), COUNT(*) FROM rows
    WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.profile = rows.profile AND files.path = rows.path)
    GROUP BY profile, path
"""
_WRONG_SIZE = """
    SELECT rows.profile, rows.path, rows.size, files.size, MIN(owner) FROM rows
    JOIN files ON files.profile = rows.profile AND files.path = rows.path
    WHERE rows.size != files.size GROUP BY 1, 2, 3, 4
"""
_CHECKSUMS = """
    SELECT rows.profile, rows.path, rows.checksum, MIN(owner) FROM rows
    JOIN files ON files.profile = rows.profile AND files.path = rows.path AND files.size = rows.size
    WHERE checksum IS NOT NULL GROUP BY 1, 2, 3
"""
_ORPHANS = """
    SELECT ledger, profile, path, size FROM files
    WHERE modified <= :before
    AND NOT EXISTS (SELECT 1 FROM rows WHERE rows.profile = files.profile AND rows.path = files.path)
    AND NOT EXISTS (SELECT 1 FROM counts WHERE counts.profile = files.profile AND counts.path = files.path)
"""
_DUPLICATES = """
    SELECT profile, MIN(path), COUNT(DISTINCT path), MAX(size) FROM rows
    WHERE checksum IS NOT NULL GROUP BY profile, checksum HAVING COUNT(DISTINCT path) > 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result of a comparison.

    Attributes:
        kind: ``"missing"``: a row has a file that is not in its storage. ``"corrupt"``: a file has another size or
            checksum than its row says. ``"miscounted"``: the ledger has another number of rows than there are.
            ``"orphan"``: no row has a file, nor has the ledger. ``"duplicate"``: several files of a profile have the
            same content. ``"abandoned"``: a multipart upload was begun and never completed.
        profile: Where the file is.
        path: Likewise.
        detail: For people.
    """

    kind: Kind
    profile: str
    path: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair has changed in the ledgers.

    Attributes:
        counted: How many files have the right number of rows now.
        released: How many files are to be deleted now; the sweep does that.
        refused: Whether they would have been so many that nothing was changed.
    """

    counted: int
    released: int
    refused: bool


class FileCheck:
    """A comparison of the rows of an app's models, of the ledgers, and of what is in the storages.

    Rows and ledger of a database are read in one transaction. All three are copied to a temporary SQLite database on
    disk, where they are compared, so memory does not grow with the number of files. Use it in a ``with`` block, and in
    the context of the app.

    Only names that the columns give their files can be orphans, so other files of a profile are no findings. Files that
    columns have adopted from elsewhere are looked up one by one.

    Args:
        databases: See :func:`~flask_storage.sqlalchemy.databases.databases_of`. All models of these databases must be
            imported: the files of others look like orphans.
        older_than: Younger files and uploads are no findings, since their transaction may not have ended.

    Raises:
        StorageError: when a storage cannot be listed.
    """

    def __init__(self, databases: Iterable[Database], *, older_than: timedelta = timedelta(days=1)) -> None:
        self._older_than = older_than
        self._ledgers: list[tuple[sa.Engine, sa.Table]] = []
        self._storages: dict[str, StorageBackend] = dict(current_storage) if current_storage else {}
        self._used: dict[str, StorageBackend] = {}
        self._database = sqlite3.connect("")  # a temporary database, on disk as soon as it is large
        try:
            self._database.executescript(_SCHEMA)
            directories: dict[tuple[str, str], int] = {}
            for engine, metadata in databases:
                for ledger, columns in file_columns(metadata).items():
                    self._ledgers.append((engine, ledger))
                    self._read_database(len(self._ledgers) - 1, columns)
                    self._add_directories(directories, columns)
            # After the rows: a file that is stored while the rows are read is no orphan, because it is too young.
            self._read_storages(directories)
            self._database.executescript(_INDEXES)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the temporary database."""
        self._database.close()

    @property
    def counts(self) -> dict[str, int]:
        """How many ``rows`` have files, how many entries the ``ledger`` has, and how many ``files`` the storages."""
        tables = {"rows": "rows", "ledger": "counts", "files": "files"}
        return {
            name: self._database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608 -- a constant
            for name, table in tables.items()
        }

    def findings(self, *, checksums: bool = False) -> Iterator[Finding]:
        """Yield the findings.

        Args:
            checksums: Also read all files, and compare their checksums with those in the rows.

        Raises:
            StorageError: when a storage fails.
        """
        yield from self._missing()
        yield from self._wrong_sizes()
        if checksums:
            yield from self._wrong_checksums()
        yield from self._miscounted()
        for _, profile, path, size in self._orphans():
            yield Finding(kind="orphan", profile=profile, path=path, detail=f"{size} bytes")
        for profile, path, copies, size in self._database.execute(_DUPLICATES):
            detail = f"{copies} files with these {size} bytes"
            yield Finding(kind="duplicate", profile=profile, path=path, detail=detail)
        yield from self._abandoned()

    def repair(self, *, force: bool = False) -> Repair:
        """Correct the ledgers: the numbers of rows, and orphans as files to be deleted. No file is changed.

        What other transactions do concurrently stays counted.

        Args:
            force: Also correct the ledgers if more than 20 files, and more than 5 % of those in the storages, would be
                deleted. Without it nothing is changed then, because the database may be an old copy, or models may be
                missing.
        """
        (lost,) = self._database.execute(_LOST).fetchone()
        orphans = sum(1 for _ in self._orphans())
        if not force and are_suspiciously_many(lost + orphans, self.counts["files"]):
            return Repair(counted=0, released=lost + orphans, refused=True)
        counted = 0
        for batch in _batched(self._database.execute(_MISCOUNTED)):
            counted += len(batch)
            self._correct(batch)
        for batch in _batched(self._orphans()):
            self._release(batch)
        return Repair(counted=counted, released=lost + orphans, refused=False)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read_database(self, number: int, columns: list[sa.Column[Any]]) -> None:
        engine, ledger = self._ledgers[number]
        by_table: dict[sa.Table, list[sa.Column[Any]]] = {}
        for column in columns:
            by_table.setdefault(column.table, []).append(column)
        with _snapshot(engine) as connection:
            for table, with_files in by_table.items():
                rows = _rows_of(connection, table, with_files)
                self._insert("rows", 6, ((number, *row) for row in rows))
            query = sa.select(ledger.c.profile, ledger.c.path, ledger.c.refs)
            with connection.execute(query) as entries:
                self._insert("counts", 4, ((number, *entry) for entry in entries))

    def _add_directories(self, directories: dict[tuple[str, str], int], columns: list[sa.Column[Any]]) -> None:
        for column in columns:
            kind = cast(FileType, column.type)
            storage = kind.storage_for()
            self._storages[storage.name] = self._used[storage.name] = storage
            directory = "" if callable(kind.directory) else kind.directory
            directories.setdefault((storage.name, directory), len(self._ledgers) - 1)

    def _read_storages(self, directories: dict[tuple[str, str], int]) -> None:
        for (profile, directory), number in directories.items():
            parents = {"", *_parents(directory)} if directory else set()
            if any((profile, parent) in directories for parent in parents):
                continue  # listed with the parent
            entries = self._storages[profile].iter(directory)
            self._insert(
                "files",
                5,
                (
                    (number, profile, entry.name, entry.size, entry.last_modified.timestamp())
                    for entry in entries
                    if entry.last_modified is not None and has_managed_name(entry.name)
                ),
            )

    def _insert(self, table: str, width: int, rows: Iterable[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * width)
        with self._database:
            self._database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 -- constants

    # -- comparing ----------------------------------------------------------------------------------------------------

    def _missing(self) -> Iterator[Finding]:
        for profile, path, owner, count in self._database.execute(_MISSING):
            detail = owner if count == 1 else f"{owner} and {count - 1} more"
            storage = self._storages.get(profile)
            if storage is None:
                yield Finding(kind="missing", profile=profile, path=path, detail=f"{detail}: no such profile")
            elif not storage.exists(path) and not self._was_released(profile, path):
                yield Finding(kind="missing", profile=profile, path=path, detail=detail)

    def _was_released(self, profile: str, path: str) -> bool:
        """Whether a file that a row had is not in the ledger any more: it was deleted while the rows were read."""
        query = "SELECT DISTINCT ledger FROM counts WHERE profile = ? AND path = ? AND refs > 0"
        for (number,) in self._database.execute(query, (profile, path)):
            engine, ledger = self._ledgers[number]
            with engine.connect() as connection:
                refs = connection.scalar(sa.select(ledger.c.refs).where(_at(ledger, profile, path)))
            if refs is None or refs < 1:
                return True
        return False

    def _wrong_sizes(self) -> Iterator[Finding]:
        for profile, path, expected, found, owner in self._database.execute(_WRONG_SIZE):
            detail = f"{owner}: {found} bytes instead of {expected}"
            yield Finding(kind="corrupt", profile=profile, path=path, detail=detail)

    def _wrong_checksums(self) -> Iterator[Finding]:
        for profile, path, checksum, owner in self._database.execute(_CHECKSUMS):
            try:
                with self._storages[profile].open(path, "r") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundInStorageError:
                continue  # deleted since it was listed
            if checksum != f"sha256:{digest}":
                detail = f"{owner}: sha256:{digest} instead of {checksum}"
                yield Finding(kind="corrupt", profile=profile, path=path, detail=detail)

    def _miscounted(self) -> Iterator[Finding]:
        for _, profile, path, named, refs, known in self._database.execute(_MISCOUNTED):
            detail = f"{named} {'row has' if named == 1 else 'rows have'} it, the ledger says {refs}"
            if not known:
                detail = f"{named} {'row has' if named == 1 else 'rows have'} it, and it is not in the ledger"
            yield Finding(kind="miscounted", profile=profile, path=path, detail=detail)

    def _orphans(self) -> Iterator[tuple[int, str, str, int]]:
        before = (datetime.now(UTC) - self._older_than).timestamp()
        yield from self._database.execute(_ORPHANS, {"before": before})

    def _abandoned(self) -> Iterator[Finding]:
        before = datetime.now(UTC) - self._older_than
        for profile, storage in self._used.items():
            for upload in storage.multipart.list_uploads() if storage.capabilities.multipart else ():
                if upload.started_at < before:
                    detail = f"upload {upload.upload_id} began {upload.started_at.isoformat(timespec='seconds')}"
                    yield Finding(kind="abandoned", profile=profile, path=upload.path, detail=detail)

    # -- repairing ----------------------------------------------------------------------------------------------------

    def _correct(self, miscounted: list[tuple[int, str, str, int, int, int]]) -> None:
        for number, batch in groupby(miscounted, key=itemgetter(0)):
            engine, ledger = self._ledgers[number]
            with engine.begin() as connection:
                # Sorted, as sessions change the ledger in this order too.
                for _, profile, path, named, refs, _ in sorted(batch):
                    _add_refs(connection, ledger, profile, path, named, named - refs)

    def _release(self, orphans: list[tuple[int, str, str, int]]) -> None:
        """Add orphans to their ledgers as files to be deleted, unless a transaction has added them."""
        now = datetime.now(UTC)
        for number in {number for number, *_ in orphans}:
            engine, ledger = self._ledgers[number]
            rows = [
                {"profile": profile, "path": path, "refs": 0, "released_at": now}
                for own, profile, path, _ in orphans
                if own == number
            ]
            with engine.begin() as connection:
                connection.execute(upsert(connection, ledger).on_conflict_do_nothing(), rows)


@contextmanager
def _snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection in a transaction that sees one state of the database."""
    is_sqlite = engine.dialect.name == "sqlite"
    options = {} if is_sqlite else {"isolation_level": "REPEATABLE READ"}
    with engine.connect() as connection:
        connection.execution_options(**options)
        with connection.begin():
            if is_sqlite and not cast(Any, connection.connection.dbapi_connection).in_transaction:
                connection.exec_driver_sql("BEGIN")  # Python's driver begins none to read
            yield connection.execution_options(yield_per=_BATCH)


def _rows_of(
    connection: sa.Connection, table: sa.Table, columns: list[sa.Column[Any]]
) -> Iterator[tuple[str, str, int | None, str | None, str]]:
    """Yield profile, path, size, checksum and the row of each file in a table."""
    keys = list(table.primary_key)
    is_set = sa.or_(*(column.is_not(None) for column in columns))
    with connection.execute(sa.select(*keys, *columns).where(is_set)) as rows:
        for row in rows:
            name = ", ".join(f"{key.name}={value}" for key, value in zip(keys, row, strict=False))
            for column, value in zip(columns, row[len(keys) :], strict=True):
                owner = f"{table.fullname}.{column.name} {name}"
                for file in cast(FileType, column.type).files(value):
                    if file.profile is not None and file.path is not None:
                        yield file.profile, file.path, file.size, file.checksum, owner


def _add_refs(connection: sa.Connection, ledger: sa.Table, profile: str, path: str, named: int, step: int) -> None:
    # By the difference, because transactions that ended since the rows were read have changed the number rightly.
    released = sa.case((ledger.c.refs + step < 1, sa.func.coalesce(ledger.c.released_at, datetime.now(UTC))))
    update = ledger.update().where(_at(ledger, profile, path))
    if not connection.execute(update.values(refs=ledger.c.refs + step, released_at=released)).rowcount:
        connection.execute(ledger.insert().values(profile=profile, path=path, refs=named))


def _at(ledger: sa.Table, profile: str, path: str) -> sa.ColumnElement[bool]:
    return sa.and_(ledger.c.profile == profile, ledger.c.path == path)


def _parents(directory: str) -> list[str]:
    segments = directory.split("/")
    return ["/".join(segments[:depth]) for depth in range(1, len(segments))]


def _batched(rows: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
