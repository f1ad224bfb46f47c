"""The ledger: the table ``storage_files``, which says how many rows have a file, and what is deleted by it.

A file with ``refs > 0`` belongs to that many rows. One with ``refs < 1`` is to be deleted. One that is not in the
ledger belongs to a transaction that has not ended, or to a process that was killed. A transaction changes the ledger
together with its rows, so the database itself restores it with every rollback.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import configure_mappers

from ..backends.base import StorageBackend
from ..errors import PartialFailureError, StorageError, UnsupportedOperationError
from ..paths import directory_prefix
from ..profiles import current_storage
from .file_type import FileType
from .greenlets import run_blocking

logger = logging.getLogger("flask_storage")

Key: TypeAlias = tuple[str, str]
"""A profile and a path."""

BATCH = 500
"""How many files one statement of the ledger concerns."""
_MIN_REFUSED = 20
_MAX_SHARE = 0.05

_RANDOM_NAME = re.compile(r"(?:^|/)(\d{4}-\d\d-\d\d)/[0-9a-f]{32}(?:_[^/]+|\.[A-Za-z0-9]{1,16})?\Z")
_HASH_NAME = re.compile(r"(?:^|/)([0-9a-f]{2})/\1[0-9a-f]{62}\Z")


def ledger_of(metadata: sa.MetaData, schema: str | None = None) -> sa.Table:
    """Return the ledger of the file columns in *metadata*; it is added if there is none.

    Args:
        metadata: The metadata of the models.
        schema: The schema of their tables: there is one ledger for each. By default that of *metadata*.
    """
    name = "storage_files"
    schema = schema or metadata.schema
    known = metadata.tables.get(f"{schema}.{name}" if schema else name)
    if known is not None:
        return known
    refs = sa.Column("refs", sa.Integer, nullable=False)
    return sa.Table(
        name,
        metadata,
        sa.Column("profile", sa.String(64), primary_key=True),
        sa.Column("path", sa.String(1024), primary_key=True),
        refs,
        sa.Column("released_at", sa.DateTime(timezone=True)),
        sa.Index("ix_storage_files_unused", refs, postgresql_where=refs < 1, sqlite_where=refs < 1),
        schema=schema,
    )


def has_managed_name(path: str) -> bool:
    """Whether *path* has the form of the names that columns give their files."""
    return bool(_RANDOM_NAME.search(path) or _HASH_NAME.search(path))


def are_suspiciously_many(count: int, seen: int) -> bool:
    """Whether it needs a confirmation to delete *count* of *seen* files that no row has."""
    return count > max(_MIN_REFUSED, _MAX_SHARE * seen)


def file_columns(metadata: sa.MetaData) -> dict[sa.Table, list[sa.Column[Any]]]:
    """Return the columns of files in *metadata*, by their ledger."""
    configure_mappers()  # gives columns without a profile that of their model
    found: dict[sa.Table, list[sa.Column[Any]]] = defaultdict(list)
    for table in list(metadata.tables.values()):
        for column in table.columns:
            if isinstance(column.type, FileType):
                found[ledger_of(metadata, table.schema)].append(column)
    return dict(found)


def upsert(connection: sa.Connection, ledger: sa.Table) -> Any:
    """Return an INSERT into the ledger that has ``on_conflict_do_nothing`` and ``on_conflict_do_update``.

    Raises:
        UnsupportedOperationError: when the database is neither SQLite nor PostgreSQL.
    """
    dialect = connection.dialect.name
    if dialect == "sqlite":
        return sqlite.insert(ledger)
    if dialect == "postgresql":
        return postgresql.insert(ledger)
    raise UnsupportedOperationError(
        f"a column with content_addressed=True needs SQLite or PostgreSQL, not {dialect}: leave that argument out"
    )


def unused_files(engine: sa.Engine, ledger: sa.Table, keep_deleted: timedelta = timedelta(0)) -> Iterator[list[Key]]:
    """Yield the files that no row has any more, in batches.

    Args:
        engine: The database.
        ledger: See :func:`ledger_of`.
        keep_deleted: Leave out files that were released within this time.
    """
    columns = (ledger.c.profile, ledger.c.path)
    released = sa.or_(ledger.c.released_at.is_(None), ledger.c.released_at <= datetime.now(UTC) - keep_deleted)
    query = sa.select(*columns).where(ledger.c.refs < 1, released).order_by(*columns).limit(BATCH)
    batch: list[Key] = []
    while True:
        after = sa.tuple_(*columns) > batch[-1] if batch else sa.true()
        with engine.connect() as connection:
            batch = [(profile, path) for profile, path in connection.execute(query.where(after))]
        if not batch:
            return
        yield batch


class ReleasedFile(NamedTuple):
    """A file that no row has any more, and that is not deleted yet.

    Attributes:
        profile: The name of its storage.
        path: Where it is.
        released_at: When the last row was deleted or got another file.
    """

    profile: str
    path: str
    released_at: datetime


def released_files(engine: sa.Engine, metadata: sa.MetaData, key: Key | None = None) -> Iterator[ReleasedFile]:
    """Yield the files that ``STORAGE_KEEP_DELETED`` still keeps, or that the next sweep deletes.

    Args:
        engine: The database.
        metadata: The metadata of its models.
        key: Profile and path of one file, to look for that one only.
    """
    for ledger in file_columns(metadata):
        columns = (ledger.c.profile, ledger.c.path, ledger.c.released_at)
        query = sa.select(*columns).where(ledger.c.refs < 1, ledger.c.released_at.is_not(None))
        if key is not None:
            query = query.where(ledger.c.profile == key[0], ledger.c.path == key[1])
        options = {"yield_per": BATCH}
        with engine.connect() as connection, connection.execute(query, execution_options=options) as rows:
            for profile, path, released_at in rows:
                yield ReleasedFile(profile, path, _as_utc(released_at))


def _as_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)  # SQLite stores no zone


def remove_unused(
    engine: sa.Engine, ledger: sa.Table, storages: Mapping[str, StorageBackend], keys: Iterable[Key]
) -> int:
    """Delete those of some files that no row has, as another connection sees it, then their rows of the ledger.

    A failure is logged, and the file stays in the ledger, so that the sweep tries again.

    Args:
        engine: The database; its own connections are used.
        ledger: See :func:`ledger_of`.
        storages: The storages by profile. Files of other profiles are left alone, with a warning.
        keys: Profile and path of each file.

    Returns:
        The number of deleted files.
    """
    groups: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for profile, path in keys:
        groups[profile, _RANDOM_NAME.search(path) is not None].append(path)
    removed = 0
    for (profile, is_random), paths in groups.items():
        storage = storages.get(profile)
        if storage is None:
            logger.warning("%d deleted files remain: no profile is called %r any more", len(paths), profile)
            continue
        remove = _remove_random_names if is_random else _remove_reusable_names
        for start in range(0, len(paths), BATCH):
            removed += remove(engine, ledger, storage, paths[start : start + BATCH])
    return removed


def _remove_random_names(engine: sa.Engine, ledger: sa.Table, storage: StorageBackend, paths: list[str]) -> int:
    # A random name does not come again, so nothing is locked while the files are deleted.
    with engine.connect() as connection:
        unused = list(connection.scalars(sa.select(ledger.c.path).where(_unused(ledger, storage, paths))))
    deleted = _delete_files(storage, unused)
    if deleted:
        with engine.begin() as connection:
            connection.execute(ledger.delete().where(_unused(ledger, storage, deleted)))
    return len(deleted)


def _remove_reusable_names(engine: sa.Engine, ledger: sa.Table, storage: StorageBackend, paths: list[str]) -> int:
    # A transaction that stores the same content changes the file's row of the ledger first, so that it waits for the
    # deletion, or the deletion skips the file. The first statement is a write, because SQLite locks nothing else.
    locked = sa.select(ledger.c.path).where(_unused(ledger, storage, paths)).with_for_update(skip_locked=True)
    lock = (
        ledger.update()
        .where(ledger.c.profile == storage.name, ledger.c.path.in_(locked))
        .values(refs=ledger.c.refs)
        .returning(ledger.c.path)
    )
    with engine.begin() as connection:
        deleted = _delete_files(storage, list(connection.scalars(lock)))
        if deleted:
            connection.execute(ledger.delete().where(_unused(ledger, storage, deleted)))
    return len(deleted)


def _unused(ledger: sa.Table, storage: StorageBackend, paths: Collection[str]) -> sa.ColumnElement[bool]:
    return sa.and_(ledger.c.profile == storage.name, ledger.c.path.in_(paths), ledger.c.refs < 1)


def _delete_files(storage: StorageBackend, paths: list[str]) -> list[str]:
    """Delete files, log failures, and return the paths of those that do not exist any more."""
    failed: Collection[str] = ()
    try:
        if paths:
            run_blocking(lambda: storage.delete_many(paths))
    except StorageError as error:
        failed = error.errors if isinstance(error, PartialFailureError) else paths
        logger.warning(
            "%d files of %r could not be deleted, which flask storage sweep will try again: %s",
            len(failed),
            storage.name,
            error,
        )
    return [path for path in paths if path not in failed]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What a sweep has deleted, or would delete.

    Attributes:
        released: How many files were deleted that no row has any more.
        orphans: The files that no row ever had, left by killed processes.
        seen: How many recent files were compared with the ledgers.
        refused: Whether there were so many orphans that none was deleted.
    """

    released: int
    orphans: list[Key]
    seen: int
    refused: bool


@dataclass(frozen=True, slots=True)
class _Ledger:
    """A ledger in its database, and the columns whose files it counts."""

    engine: sa.Engine
    table: sa.Table
    columns: list[sa.Column[Any]]

    def without_known(self, storage: StorageBackend, paths: list[str]) -> list[str]:
        """Return the paths that are not in this ledger."""
        known = self._known(storage, paths)
        return [path for path in paths if path not in known]

    def _known(self, storage: StorageBackend, paths: list[str]) -> set[str]:
        query = sa.select(self.table.c.path).where(self.table.c.profile == storage.name, self.table.c.path.in_(paths))
        with self.engine.connect() as connection:
            return set(connection.scalars(query))


@dataclass(frozen=True, slots=True)
class _Location:
    """A directory of new files, and the form of their names."""

    storage: StorageBackend
    directory: str
    name: re.Pattern[str]


def sweep(
    databases: Iterable[tuple[sa.Engine, sa.MetaData]],
    *,
    older_than: timedelta = timedelta(days=1),
    days: int = 7,
    keep_deleted: timedelta | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> SweepResult:
    """Finish deletions, then delete files of the last days that no row ever had, because a process was killed.

    Needs the context of an app, unless every column has a storage as its profile. A transaction must be shorter than
    *older_than*, and all databases must be passed that have files in the directories of the columns.

    Args:
        databases: Each database, with the metadata of its models.
        older_than: The minimum age of a deleted file that is in no ledger.
        days: How many days back to look for files that are in no ledger.
        keep_deleted: How long released files are kept; by default ``STORAGE_KEEP_DELETED``.
        dry_run: Delete nothing.
        force: Also delete when more than 20 files, and more than 5 % of those that were seen, are in no ledger. Without
            it nothing is deleted then, because a database may be an old copy, or not the only one.

    Raises:
        StorageError: when a storage cannot be listed.
    """
    ledgers = [
        _Ledger(engine, table, columns)
        for engine, metadata in databases
        for table, columns in file_columns(metadata).items()
    ]
    keep = _keep_deleted() if keep_deleted is None else keep_deleted
    released = sum(_remove_released(ledger, keep, dry_run) for ledger in ledgers)
    seen = 0
    orphans: dict[Key, tuple[_Location, _Ledger]] = {}
    for location, owner in _locations(ledgers, days).items():
        for paths in _old_files(location, older_than, days):
            seen += len(paths)
            unknown = paths
            for ledger in ledgers:
                unknown = ledger.without_known(location.storage, unknown)
            orphans.update({(location.storage.name, path): (location, owner) for path in unknown})
    refused = not force and are_suspiciously_many(len(orphans), seen)
    if not (dry_run or refused):
        _delete_orphans(orphans)
    return SweepResult(released=released, orphans=list(orphans), seen=seen, refused=refused)


def _keep_deleted() -> timedelta:
    return current_storage.keep_deleted if current_storage else timedelta(0)


def _remove_released(ledger: _Ledger, keep_deleted: timedelta, dry_run: bool) -> int:
    storages = dict(current_storage) if current_storage else {}
    for column in ledger.columns:
        storage = cast(FileType, column.type).own_storage()
        if storage is not None:
            storages[storage.name] = storage
    return sum(
        len(batch) if dry_run else remove_unused(ledger.engine, ledger.table, storages, batch)
        for batch in unused_files(ledger.engine, ledger.table, keep_deleted)
    )


def _dates(days: int) -> list[str]:
    now = datetime.now(UTC)
    return [f"{now - timedelta(days=day):%Y-%m-%d}" for day in range(days + 1)]


def _locations(ledgers: list[_Ledger], days: int) -> dict[_Location, _Ledger]:
    """Return where the columns store new files, and a ledger that counts those files."""
    found: dict[_Location, _Ledger] = {}
    for ledger in ledgers:
        for column in ledger.columns:
            kind = cast(FileType, column.type)
            storage = kind.storage_for()
            name = _HASH_NAME if kind.content_addressed else _RANDOM_NAME
            if callable(kind.directory):
                directories = [""]  # any directory
            elif kind.content_addressed:
                directories = [kind.directory]
            else:
                directories = [f"{directory_prefix(kind.directory)}{date}" for date in _dates(days)]
            found.update({_Location(storage, directory, name): ledger for directory in directories})
    return found


def _old_files(location: _Location, older_than: timedelta, days: int) -> Iterator[list[str]]:
    """Yield the files at a location that are old enough, in batches."""
    dates = _dates(days)
    newest = datetime.now(UTC) - older_than
    batch: list[str] = []
    for entry in location.storage.iter(location.directory):
        match = location.name.search(entry.name)
        is_recent = match and (location.name is _HASH_NAME or match[1] in dates)
        if is_recent and entry.last_modified is not None and entry.last_modified.datetime <= newest:
            batch.append(entry.name)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _delete_orphans(orphans: Mapping[Key, tuple[_Location, _Ledger]]) -> None:
    by_owner: dict[tuple[StorageBackend, re.Pattern[str], sa.Engine, sa.Table], list[str]] = defaultdict(list)
    for (_, path), (location, ledger) in orphans.items():
        by_owner[location.storage, location.name, ledger.engine, ledger.table].append(path)
    for (storage, name, engine, table), every_path in by_owner.items():
        for start in range(0, len(every_path), BATCH):
            paths = every_path[start : start + BATCH]
            if name is _RANDOM_NAME:
                _delete_files(storage, paths)
                continue
            # A file to be deleted is locked against a transaction that stores the same content now.
            rows = [{"profile": storage.name, "path": path, "refs": 0} for path in paths]
            with engine.begin() as connection:
                connection.execute(upsert(connection, table).on_conflict_do_nothing(), rows)
            _remove_reusable_names(engine, table, storage, paths)


@event.listens_for(sa.Column, "after_parent_attach")
def _add_ledger(column: sa.Column[Any], parent: Any) -> None:
    """Give the metadata of a table with files its ledger."""
    if isinstance(column.type, FileType) and isinstance(parent, sa.Table):
        ledger_of(parent.metadata, parent.schema)
