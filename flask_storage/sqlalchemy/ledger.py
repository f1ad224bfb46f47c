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
from typing import Any, TypeAlias, cast

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

_RANDOM_NAME = re.compile(r"(?:^|/)(\d{4}-\d\d-\d\d)/[0-9a-f]{32}(?:\.[A-Za-z0-9]{1,16})?\Z")
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
        seen: How many recent files were compared with the ledger.
        refused: Whether there were so many orphans that none was deleted.
    """

    released: int
    orphans: list[Key]
    seen: int
    refused: bool


def sweep(
    engine: sa.Engine,
    metadata: sa.MetaData,
    *,
    older_than: timedelta = timedelta(days=1),
    days: int = 7,
    keep_deleted: timedelta | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> SweepResult:
    """Finish deletions, then delete files of the last days that no row ever had, because a process was killed.

    Needs the context of an app, unless every column has a storage as its profile. A transaction must be shorter than
    *older_than*, and only one database may store files in the directories of its columns.

    Args:
        engine: The database.
        metadata: The metadata of the models.
        older_than: The minimum age of a deleted file that is not in the ledger.
        days: How many days back files are looked for that are not in the ledger.
        keep_deleted: How long released files are kept; by default ``STORAGE_KEEP_DELETED``.
        dry_run: Delete nothing.
        force: Also delete when more than 20 files, and more than 5 % of those that were seen, are not in the ledger:
            without it nothing is deleted then, because the database may be an old copy, or not the only one.

    Raises:
        StorageError: when a storage cannot be listed.
    """
    released = seen = 0
    orphans: list[tuple[sa.Table, StorageBackend, list[str]]] = []
    storages: dict[str, StorageBackend] = {}
    for ledger, columns in file_columns(metadata).items():
        storages = _storages(columns)
        keep = _keep_deleted() if keep_deleted is None else keep_deleted
        for batch in unused_files(engine, ledger, keep):
            released += len(batch) if dry_run else remove_unused(engine, ledger, storages, batch)
        for storage, paths in _recent_files(columns, older_than, days):
            seen += len(paths)
            orphans.append((ledger, storage, _not_in_ledger(engine, ledger, storage, paths)))
    count = sum(len(paths) for *_, paths in orphans)
    refused = not force and count > max(_MIN_REFUSED, _MAX_SHARE * seen)
    if not (dry_run or refused):
        for ledger, storage, paths in orphans:
            _delete_orphans(engine, ledger, storage, paths)
    found = [(storage.name, path) for _, storage, paths in orphans for path in paths]
    return SweepResult(released=released, orphans=found, seen=seen, refused=refused)


def _keep_deleted() -> timedelta:
    return current_storage.keep_deleted if current_storage else timedelta(0)


def _storages(columns: Iterable[sa.Column[Any]]) -> dict[str, StorageBackend]:
    """Return the storages of the current app, if there is one, and those that columns have themselves."""
    storages = dict(current_storage) if current_storage else {}
    for column in columns:
        profile = cast(FileType, column.type).profile
        if isinstance(profile, StorageBackend):
            storages[profile.name] = profile
    return storages


def _recent_files(
    columns: Iterable[sa.Column[Any]], older_than: timedelta, days: int
) -> Iterator[tuple[StorageBackend, list[str]]]:
    """Yield the files that columns may have stored, in batches."""
    now = datetime.now(UTC)
    dates = [f"{now - timedelta(days=day):%Y-%m-%d}" for day in range(days + 1)]
    for storage, directory, name in _locations(columns, dates):
        batch: list[str] = []
        for entry in storage.iter(directory):
            match = name.search(entry.name)
            is_due = match and (name is _HASH_NAME or match[1] in dates)
            if is_due and entry.last_modified is not None and entry.last_modified.datetime < now - older_than:
                batch.append(entry.name)
            if len(batch) == BATCH:
                yield storage, batch
                batch = []
        if batch:
            yield storage, batch


def _locations(columns: Iterable[sa.Column[Any]], dates: list[str]) -> set[tuple[StorageBackend, str, re.Pattern[str]]]:
    """Return the directories that contain new files of the columns, and the form of their names."""
    found = set()
    for column in columns:
        kind = cast(FileType, column.type)
        storage = kind.storage_for()
        name = _HASH_NAME if kind.content_addressed else _RANDOM_NAME
        if callable(kind.directory):
            found.add((storage, "", name))  # any directory
        elif kind.content_addressed:
            found.add((storage, kind.directory, name))
        else:
            found |= {(storage, f"{directory_prefix(kind.directory)}{date}", name) for date in dates}
    return found


def _not_in_ledger(engine: sa.Engine, ledger: sa.Table, storage: StorageBackend, paths: list[str]) -> list[str]:
    query = sa.select(ledger.c.path).where(ledger.c.profile == storage.name, ledger.c.path.in_(paths))
    with engine.connect() as connection:
        known = set(connection.scalars(query))
    return [path for path in paths if path not in known]


def _delete_orphans(engine: sa.Engine, ledger: sa.Table, storage: StorageBackend, paths: list[str]) -> None:
    reusable = [path for path in paths if _HASH_NAME.search(path)]
    if reusable:
        # As a file to be deleted, it is locked against a transaction that stores the same content now.
        rows = [{"profile": storage.name, "path": path, "refs": 0} for path in reusable]
        with engine.begin() as connection:
            connection.execute(upsert(connection, ledger).on_conflict_do_nothing(), rows)
        remove_unused(engine, ledger, {storage.name: storage}, [(storage.name, path) for path in reusable])
    _delete_files(storage, [path for path in paths if path not in set(reusable)])


@event.listens_for(sa.Column, "after_parent_attach")
def _add_ledger(column: sa.Column[Any], parent: Any) -> None:
    """Give the metadata of a table with files its ledger."""
    if isinstance(column.type, FileType) and isinstance(parent, sa.Table):
        ledger_of(parent.metadata, parent.schema)
