"""Keeps files and rows together: stores files before the flush, counts them in the ledger, deletes them after commits.

Importing this module registers the listeners. They use public events only:

.. code-block:: text

    before_flush                   store pending files; read and lock what changed rows have now
      before_insert, _update, _delete    count files by one more or one less
    after_flush                    write the counts into the ledger, in the session's transaction
    before_commit                  know that COMMIT is about to be sent
    after_commit                   know which transaction or savepoint was committed
    after_transaction_end          committed: delete what no row has any more; otherwise: delete what was stored

A commit must be seen. Everything else is a rollback, because ``session.close()`` sends no event for it.
"""

from __future__ import annotations

import logging
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstanceState, Mapper, Session, SessionTransaction
from sqlalchemy.orm.attributes import instance_state

from ..backends.base import StorageBackend
from ..errors import FileNotFoundInStorageError, StorageError, UnsupportedOperationError
from ..operations import StorageOperations
from ..profiles import current_storage
from .file_type import FileList, FileListType, FileType
from .greenlets import run_blocking
from .ledger import BATCH, Key, has_managed_name, ledger_of, remove_unused
from .stored_file import StoredFile
from .uploads import Upload, discard, store, store_by_hash

logger = logging.getLogger("flask_storage")

_INFO_KEY = "flask_storage.tracker"
_MAX_PROMPT = 1000
"""How many files a commit deletes; the sweep deletes the others."""


class FileAttribute(NamedTuple):
    """A mapped attribute with files."""

    key: str
    column: sa.Column[Any]


_file_attributes: weakref.WeakKeyDictionary[Mapper[Any], list[FileAttribute]] = weakref.WeakKeyDictionary()
_new_mappers: list[Mapper[Any]] = []


class _Scope:
    """What a transaction or savepoint has done: the files that it stored, and those that it released."""

    def __init__(self) -> None:
        self.uploads: dict[Key, Upload] = {}
        self.released: dict[tuple[sa.Connection, sa.Table], dict[Key, StorageBackend]] = {}

    def absorb(self, inner: _Scope) -> None:
        """Take over what a savepoint has done, when it was released."""
        self.uploads.update(inner.uploads)
        for where, keys in inner.released.items():
            self.released.setdefault(where, {}).update(keys)


class Tracker:
    """The files of the current transaction of a session."""

    def __init__(self, session: Session) -> None:
        # Not a reference, so that a session that is not closed returns its connections as soon as it is not used.
        self._session: Session = weakref.proxy(session)
        self._scopes: dict[SessionTransaction, _Scope] = {}
        self._counts: dict[tuple[sa.Connection, sa.Table], Counter[Key]] = {}
        self._storages: dict[Key, StorageBackend] = {}
        self._stored_values: dict[tuple[Mapper[Any], Any], dict[str, Any]] = {}
        self._committed: SessionTransaction | None = None
        self._keep_deleted = timedelta(0)
        self.is_flushing = False
        self.is_committing = False

    @classmethod
    def of(cls, session: Session) -> Tracker:
        """Return the tracker of *session*."""
        tracker = session.info.get(_INFO_KEY)
        if tracker is None:
            tracker = session.info[_INFO_KEY] = cls(session)
        return cast(Tracker, tracker)

    # -- storing and counting -----------------------------------------------------------------------------------------

    def store_pending(
        self, column: sa.Column[Any], value: Any, row: Any, connection: Callable[[], sa.Connection]
    ) -> None:
        """Store the files of *value* that are pending.

        Args:
            column: The column.
            value: Its value.
            row: The object of the row; None in a statement.
            connection: Returns the connection of the row's table; called only if the column needs it.
        """
        kind = _file_type(column)
        for file in _stored_files(kind, value):
            if not file.pending:
                continue
            scope = self._scope
            if not kind.content_addressed:
                store(kind, file, row, scope.uploads)
                continue
            where = (connection(), ledger_of(column.table.metadata, column.table.schema))
            store_by_hash(kind, file, row, scope.uploads, *where)
            # If no row gets the file in the end, its row of the ledger must not stay.
            key = (cast(str, file.profile), cast(str, file.path))
            self._note_released(*where, {key: file.storage})

    def count(self, connection: sa.Connection, column: sa.Column[Any], value: Any, step: int) -> None:
        """Note that *step* more rows have the files of *value*; negative if fewer rows have them."""
        kind = _file_type(column)
        files = _stored_files(kind, value)
        if not files:
            return
        ledger = ledger_of(column.table.metadata, column.table.schema)
        counts = self._counts.setdefault((connection, ledger), Counter())
        for file in files:
            key = (cast(str, file.profile), cast(str, file.path))
            counts[key] += step
            self._storages[key] = file.known_storage or kind.storage_for(file.profile)

    def write_ledger(self) -> None:
        """Bring the ledger up to date, in the session's own transaction.

        Raises:
            FileNotFoundInStorageError: when a row gets a file that another transaction is deleting, or that does not
                exist.
            UnsupportedOperationError: when a row gets the file of another database.
        """
        for (connection, ledger), counts in self._counts.items():
            new: list[dict[str, Any]] = []
            fewer: dict[Key, int] = {}
            for key, step in sorted(counts.items()):
                upload = self._upload(key)
                if step > 0 and upload is not None and not upload.in_ledger:
                    upload.in_ledger = True
                    new.append({"profile": key[0], "path": key[1], "refs": step})
                elif step > 0:
                    self._add_refs(connection, ledger, key, step)
                elif step < 0:
                    fewer[key] = step
            if new:
                connection.execute(ledger.insert(), new)
            if fewer:
                self._release(connection, ledger, fewer)
        self.forget_counts()

    def forget_counts(self) -> None:
        """Forget what was noted for the ledger and not written."""
        self._counts.clear()
        self._storages.clear()
        self._stored_values.clear()

    def read_stored_values(
        self, mapper: Mapper[Any], connection: sa.Connection, states: list[InstanceState[Any]]
    ) -> None:
        """Read, and lock, the files that the database has for rows: an object may be stale, expired or never loaded."""
        attributes = _file_attributes[mapper]
        primary_key = list(mapper.primary_key)
        columns = [attribute.column for attribute in attributes]
        query = sa.select(*primary_key, *columns).select_from(mapper.persist_selectable).order_by(*primary_key)
        for start in range(0, len(states), BATCH):
            identities = [cast(tuple[Any, ...], state.identity) for state in states[start : start + BATCH]]
            if len(primary_key) == 1:
                condition = primary_key[0].in_([identity[0] for identity in identities])
            else:
                condition = sa.tuple_(*primary_key).in_(identities)
            for row in connection.execute(query.where(condition).with_for_update()):
                values = {
                    attribute.key: value for attribute, value in zip(attributes, row[len(primary_key) :], strict=True)
                }
                self._stored_values[mapper, tuple(row[: len(primary_key)])] = values

    def stored_values(
        self, mapper: Mapper[Any], connection: sa.Connection, state: InstanceState[Any]
    ) -> dict[str, Any]:
        """Return the files that the database has for a row; empty if there is no such row."""
        key = (mapper, state.identity)
        if key not in self._stored_values:
            self.read_stored_values(mapper, connection, [state])
        return self._stored_values.get(key, {})

    # -- the end of transactions --------------------------------------------------------------------------------------

    def committed(self) -> None:
        """Note that the current savepoint or transaction was committed."""
        self._committed = self._session.get_nested_transaction() or self._session.get_transaction()

    def ended(self, transaction: SessionTransaction) -> None:
        """Complete or undo what a transaction or a savepoint did with files."""
        is_committed = self._committed is transaction
        # When a flush fails, also that of a commit, COMMIT is not sent.
        is_uncertain = transaction.parent is None and self.is_committing and not (is_committed or self.is_flushing)
        if transaction.parent is None or is_committed:
            self._committed = None
        self.is_flushing = False
        if transaction.parent is None:
            self.is_committing = False
        scope = self._scopes.pop(transaction, None)
        if scope is None:
            return
        if not is_committed:
            _undo(scope, keep_files=is_uncertain)
        elif transaction.parent is not None:
            self._scopes.setdefault(_enclosing(transaction), _Scope()).absorb(scope)
        else:
            _complete(scope, self._keep_deleted)

    # -- inner --------------------------------------------------------------------------------------------------------

    @property
    def _scope(self) -> _Scope:
        session = self._session
        boundary = session.get_nested_transaction() or session.get_transaction() or session.begin()
        return self._scopes.setdefault(boundary, _Scope())

    def _upload(self, key: Key) -> Upload | None:
        return next((scope.uploads[key] for scope in self._scopes.values() if key in scope.uploads), None)

    def _add_refs(self, connection: sa.Connection, ledger: sa.Table, key: Key, step: int) -> None:
        """Let one more row have a file that is stored already, unless another transaction has released it."""
        own = any(key in keys for scope in self._scopes.values() for keys in scope.released.values())
        here = sa.and_(ledger.c.profile == key[0], ledger.c.path == key[1])
        refs = sa.case((ledger.c.refs > 0, ledger.c.refs), else_=0) + step
        update = ledger.update().where(here if own else here & (ledger.c.refs > 0))
        if connection.execute(update.values(refs=refs, released_at=None)).rowcount:
            return
        storage = self._storages[key]
        is_released = connection.scalar(sa.select(ledger.c.refs).where(here)) is not None
        if is_released or not run_blocking(lambda: storage.exists(key[1])):
            raise FileNotFoundInStorageError(storage.name, key[1])
        if has_managed_name(key[1]) and self._upload(key) is None:
            raise UnsupportedOperationError(
                f"cannot give a row the file {key[1]} in {storage.name}: the ledger of this database does not have it. "
                "To copy a file of another database or schema, assign StoredFile(file.open(), name=file.name)",
                path=key[1],
                backend=storage.name,
            )
        # A file that was stored by other means than a column.
        connection.execute(ledger.insert().values(profile=key[0], path=key[1], refs=step))

    def _release(self, connection: sa.Connection, ledger: sa.Table, fewer: dict[Key, int]) -> None:
        now = datetime.now(UTC)
        here = sa.and_(ledger.c.profile == sa.bindparam("at_profile"), ledger.c.path == sa.bindparam("at_path"))
        update = ledger.update().where(here).values(refs=ledger.c.refs + sa.bindparam("step"), released_at=now)
        steps = [{"at_profile": key[0], "at_path": key[1], "step": step} for key, step in fewer.items()]
        if connection.execute(update, steps).rowcount != len(steps):  # -1 where the driver does not count
            self._add_missing(connection, ledger, list(fewer), now)
        self._note_released(connection, ledger, {key: self._storages[key] for key in fewer})

    def _note_released(self, connection: sa.Connection, ledger: sa.Table, storages: dict[Key, StorageBackend]) -> None:
        """Note files for the end of the transaction, when there may be no context of an app any more."""
        self._scope.released.setdefault((connection, ledger), {}).update(storages)
        self._keep_deleted = current_storage.keep_deleted if current_storage else timedelta(0)

    def _add_missing(self, connection: sa.Connection, ledger: sa.Table, keys: list[Key], now: datetime) -> None:
        """Add files to the ledger, as released, that rows had before there was a ledger."""
        known: set[Key] = set()
        for start in range(0, len(keys), BATCH):
            paths = [path for _, path in keys[start : start + BATCH]]
            query = sa.select(ledger.c.profile, ledger.c.path).where(ledger.c.path.in_(paths))
            known |= {(profile, path) for profile, path in connection.execute(query)}
        rows = [
            {"profile": profile, "path": path, "refs": 0, "released_at": now}
            for profile, path in keys
            if (profile, path) not in known
        ]
        if rows:
            connection.execute(ledger.insert(), rows)


def _file_type(column: sa.Column[Any]) -> FileType:
    return cast(FileType, column.type)


def _stored_files(kind: FileType, value: Any) -> list[StoredFile]:
    """Return the files of a value; the type refuses anything else when it makes a parameter of the value."""
    return [file for file in cast("Sequence[object]", kind.files(value)) if isinstance(file, StoredFile)]


def _enclosing(savepoint: SessionTransaction) -> SessionTransaction:
    """Return the savepoint or the transaction in which *savepoint* is; flushes have transactions of their own."""
    transaction = cast(SessionTransaction, savepoint.parent)
    while transaction.parent is not None and not transaction.nested:
        transaction = transaction.parent
    return transaction


def _complete(scope: _Scope, keep_deleted: timedelta) -> None:
    """After the commit: release the content, and delete the files that no row has."""
    for upload in scope.uploads.values():
        if (file := upload.file) is not None:
            file.drop_content()
    discard(upload for upload in scope.uploads.values() if not upload.in_ledger)
    if keep_deleted:
        return
    left = _MAX_PROMPT
    for (connection, ledger), storages in scope.released.items():
        if not connection.closed and connection.in_transaction():
            continue  # the session's connection is in a transaction of the caller, which can still be rolled back
        keys = list(storages)[:left]
        left -= len(keys)
        try:
            remove_unused(_engine(connection), ledger, {storages[key].name: storages[key] for key in keys}, keys)
        except (SQLAlchemyError, StorageError, OSError) as error:
            # The transaction is committed, so an error would only mislead the caller.
            logger.warning("deleted files remain until flask storage sweep runs: %s", error, exc_info=True)


def _undo(scope: _Scope, *, keep_files: bool) -> None:
    """After a rollback: let the values be pending again, and delete what was stored.

    Args:
        scope: What the transaction did.
        keep_files: COMMIT was sent and failed, so the rows may be committed. The sweep asks the ledger.
    """
    for upload in scope.uploads.values():
        if (file := upload.file) is not None:
            file.set_pending()
    if not keep_files:
        discard(scope.uploads.values())


def _engine(connection: sa.Connection) -> sa.Engine:
    """Return the engine of a connection, with the same names of schemas."""
    schemas = connection.get_execution_options().get("schema_translate_map")
    return connection.engine.execution_options(schema_translate_map=schemas) if schemas else connection.engine


# -- models -----------------------------------------------------------------------------------------------------------


@event.listens_for(Mapper, "mapper_configured")
def _watch(mapper: Mapper[Any], model: type[Any]) -> None:
    """Check what is assigned to attributes with files, and follow the rows of their model."""
    _new_mappers.append(mapper)
    attributes = []
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if isinstance(column, sa.Column) and isinstance(column.type, FileType):
            _use_profile_of(model, column)
            attributes.append(FileAttribute(attribute.key, column))
    if not attributes:
        return
    _file_attributes[mapper] = attributes
    for key, column in attributes:
        _watch_attribute(getattr(model, key), _file_type(column))
    event.listen(mapper, "before_insert", _before_insert)
    event.listen(mapper, "before_update", _before_update)
    event.listen(mapper, "before_delete", _before_delete)


def _use_profile_of(model: type[Any], column: sa.Column[Any]) -> None:
    """Give a column without a profile that of its model."""
    kind = _file_type(column)
    if kind.profile is None and issubclass(model, StorageOperations) and model.storage_profile is not None:
        column.type = kind = kind.copy()  # other columns may have the same type object
        kind.profile = model.storage_profile


def _watch_attribute(attribute: Any, kind: FileType) -> None:
    def check(_: object, value: Any, *__: object) -> Any:
        return kind.coerce(value)

    event.listen(attribute, "set", check, retval=True)
    if isinstance(kind, FileListType):
        # After the check, so that the list which it returns is the one whose changes are noticed.
        FileList.associate_with_attribute(attribute)


@event.listens_for(Mapper, "after_mapper_constructed")
def _start_lists(mapper: Mapper[Any], model: type[Any]) -> None:
    """Give new objects of a model empty lists, so that files can be appended."""
    keys = [mapper.get_property_by_column(column).key for column in mapper.columns if _has_lists(column)]

    def start(target: Any, _: object, kwargs: dict[str, Any]) -> None:
        for key in keys:
            if key not in kwargs:
                setattr(target, key, [])

    if keys:
        event.listen(model, "init", start)


def _has_lists(column: sa.ColumnElement[Any]) -> bool:
    return isinstance(column.type, FileListType)


@event.listens_for(Mapper, "after_configured")
def _warn_of_passive_deletes() -> None:
    """Warn of relationships whose rows the database deletes without the session."""
    mappers = [_new_mappers.pop() for _ in range(len(_new_mappers))]
    with_files = {mapper.base_mapper for mapper in _file_attributes}
    for relationship in [relationship for mapper in mappers for relationship in mapper.relationships]:
        if relationship.passive_deletes and relationship.mapper.base_mapper in with_files:
            warnings.warn(
                f"{relationship} has passive_deletes, so the database deletes rows with files that the session does "
                "not see: their files remain. Remove passive_deletes",
                RuntimeWarning,
                stacklevel=2,
            )


# -- the session ------------------------------------------------------------------------------------------------------


@event.listens_for(Session, "before_flush")
def _before_flush(session: Session, *_: object) -> None:
    if not _file_attributes:
        return
    deleted = session.deleted
    changed: dict[Mapper[Any], list[InstanceState[Any]]] = {}
    tracker = Tracker.of(session)
    tracker.is_flushing = True
    tracker.forget_counts()
    for row in [*session.new, *session.dirty]:
        state = instance_state(row)
        attributes = _file_attributes.get(state.mapper)
        if not attributes or row in deleted:
            continue
        _store_files(tracker, session, state, row, attributes)
        if state.persistent and any(state.attrs[key].history.added for key, _ in attributes):
            changed.setdefault(state.mapper, []).append(state)
    for row in deleted:
        state = instance_state(row)
        if state.mapper in _file_attributes:
            changed.setdefault(state.mapper, []).append(state)
    for mapper, states in changed.items():
        tracker.read_stored_values(mapper, _connection(session, mapper), states)


def _store_files(
    tracker: Tracker, session: Session, state: InstanceState[Any], row: Any, attributes: Sequence[FileAttribute]
) -> None:
    for key, column in attributes:
        value = state.dict.get(key)
        if value is not None:
            tracker.store_pending(column, value, row, lambda: _connection(session, state.mapper))


def _connection(session: Session, mapper: Mapper[Any]) -> sa.Connection:
    return session.connection(bind_arguments={"mapper": mapper})


def _before_insert(mapper: Mapper[Any], connection: sa.Connection, row: Any) -> None:
    state, tracker = _state_and_tracker(row)
    for key, column in _file_attributes[mapper]:
        value = state.dict.get(key)
        if value is not None:
            tracker.store_pending(column, value, row, lambda: connection)
            tracker.count(connection, column, value, +1)


def _before_update(mapper: Mapper[Any], connection: sa.Connection, row: Any) -> None:
    state, tracker = _state_and_tracker(row)
    for key, column in _file_attributes[mapper]:
        if state.attrs[key].history.has_changes():
            value = state.dict.get(key)
            tracker.store_pending(column, value, row, lambda: connection)
            stored = tracker.stored_values(mapper, connection, state).get(key)
            tracker.count(connection, column, value, +1)
            tracker.count(connection, column, stored, -1)


def _before_delete(mapper: Mapper[Any], connection: sa.Connection, row: Any) -> None:
    state, tracker = _state_and_tracker(row)
    stored = tracker.stored_values(mapper, connection, state)
    for key, column in _file_attributes[mapper]:
        tracker.count(connection, column, stored.get(key), -1)


def _state_and_tracker(row: Any) -> tuple[InstanceState[Any], Tracker]:
    state = instance_state(row)
    return state, Tracker.of(cast(Session, state.session))


@event.listens_for(Session, "after_flush")
def _after_flush(session: Session, _: object) -> None:
    if _file_attributes:
        Tracker.of(session).write_ledger()


@event.listens_for(Session, "after_flush_postexec")
def _after_flush_postexec(session: Session, _: object) -> None:
    if _file_attributes:
        Tracker.of(session).is_flushing = False


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    # Before the flush of the commit: a tracker that only this flush creates would not know of the commit.
    if _file_attributes and session.get_nested_transaction() is None:
        tracker = Tracker.of(session)
        tracker.is_committing = True
        tracker.is_flushing = False


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    if _file_attributes:
        Tracker.of(session).committed()


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if _file_attributes and (transaction.parent is None or transaction.nested):
        Tracker.of(session).ended(transaction)
