"""INSERT, UPDATE and DELETE statements that a session executes without objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Mapper, ORMExecuteState, Session
from sqlalchemy.sql.elements import BindParameter, Null

from .file_type import FileType
from .lifecycle import Tracker

Values = dict[sa.Column[Any], Any]


@event.listens_for(Session, "do_orm_execute")
def _execute_with_files(state: ORMExecuteState) -> sa.Result[Any] | None:
    """Store, count and release the files of a statement, which is executed in between."""
    if not (state.is_insert or state.is_update or state.is_delete):
        return None
    statement: Any = state.statement
    statement = getattr(statement, "element", statement)  # of select(...).from_statement(statement)
    mapper = state.bind_mapper if state.is_orm_statement else None
    columns = _file_columns(state, statement, mapper)
    return _Execution(state, statement, mapper, columns).run() if columns else None


def _file_columns(state: ORMExecuteState, statement: Any, mapper: Mapper[Any] | None) -> dict[str, sa.Column[Any]]:
    """Return the columns with files that the statement may change, by their names in parameters."""
    columns = {column.key: column for column in statement.table.c}
    if mapper is not None and not state.is_delete:  # which deletes from one table, also of a model with several
        columns |= {attribute.key: attribute.columns[0] for attribute in mapper.column_attrs}
    return {key: column for key, column in columns.items() if isinstance(column.type, FileType)}


class _Execution:
    def __init__(
        self, state: ORMExecuteState, statement: Any, mapper: Mapper[Any] | None, columns: dict[str, sa.Column[Any]]
    ) -> None:
        self._state = state
        self._statement = statement
        self._mapper = mapper
        self._columns = columns
        self._primary_key = list(mapper.primary_key if mapper is not None else statement.table.primary_key)
        self._tracker = Tracker.of(state.session)
        self._connection = state.session.connection(bind_arguments=dict(state.bind_arguments))

    def run(self) -> sa.Result[Any]:
        rows = [] if self._state.is_delete else self._assigned()
        for row in rows:
            for column, value in row.items():
                self._tracker.store_pending(column, value, None, lambda: self._connection)
        added, released = (rows, []) if self._state.is_insert else self._changes(rows)
        # Before the statement, since a file that another transaction is deleting is refused. After it, since the
        # transaction may go on when the statement has failed, and then the rows still have their files.
        self._count(added, +1)
        result = self._state.invoke_statement()
        self._count(released, -1)
        return cast("sa.Result[Any]", result)

    def _count(self, rows: Iterable[Values], step: int) -> None:
        for row in rows:
            for column, value in row.items():
                self._tracker.count(self._connection, column, value, step)
        self._tracker.write_ledger()

    # -- what the statement assigns -----------------------------------------------------------------------------------

    def _assigned(self) -> list[Values]:
        """Return the values that the statement assigns to columns with files: for each row, or for all rows."""
        statement = self._statement
        for name in statement._select_names or () if self._state.is_insert else ():
            if name in self._columns:
                raise _copied_in_sql(self._columns[name])
        fixed = _by_name(statement._values or getattr(statement, "_ordered_values", None) or {})
        rows = [self._positional(row) for rows in statement._multi_values for row in rows] or self._parameters()
        return [
            {
                column: _value(column, assigned[key], row)
                for row in [_by_name(row)]
                for assigned in [{**fixed, **row}]
                for key, column in self._columns.items()
                if key in assigned
            }
            for row in rows
        ]

    def _parameters(self) -> list[Mapping[str, Any]]:
        parameters = self._state.parameters
        if isinstance(parameters, Mapping):
            return [parameters]
        return list(parameters or [{}])

    def _positional(self, row: Any) -> Mapping[Any, Any]:
        return row if isinstance(row, Mapping) else dict(zip(self._statement.table.c, row, strict=False))

    # -- what rows have now -------------------------------------------------------------------------------------------

    def _changes(self, rows: list[Values]) -> tuple[list[Values], list[Values]]:
        """Return the values that rows get, and those that they lose, for an UPDATE or a DELETE."""
        columns = list(
            dict.fromkeys(self._columns.values() if self._state.is_delete else (c for row in rows for c in row))
        )
        if not columns:
            return [], []
        keys = self._keys_in_parameters()
        by_key: dict[Any, Values] = dict(zip(keys, rows, strict=True)) if keys else {}
        added: list[Values] = []
        released: dict[Any, Values] = {}
        for number, row in enumerate(self._read(columns, keys)):
            key = tuple(row[: len(self._primary_key)]) or number
            if key in released:  # a join returns a row several times
                continue
            new = by_key[key] if keys else (rows[0] if rows else dict.fromkeys(columns))
            stored = dict(zip(columns, row[len(self._primary_key) :], strict=True))
            released[key] = {column: value for column, value in stored.items() if column in new}
            added.append(new)
        return added, list(released.values())

    def _keys_in_parameters(self) -> list[tuple[Any, ...]]:
        """Return the primary keys of an UPDATE that has a list of rows as its parameters; empty for another one."""
        rows = self._parameters()
        if not self._state.is_update or self._statement.whereclause is not None:
            return []
        names = [self._attribute(column) for column in self._primary_key]
        return (
            [tuple(row[name] for name in names) for row in rows] if all(set(names) <= set(row) for row in rows) else []
        )

    def _attribute(self, column: sa.Column[Any]) -> str:
        return column.key if self._mapper is None else self._mapper.get_property_by_column(column).key

    def _read(self, columns: list[sa.Column[Any]], keys: list[tuple[Any, ...]]) -> Sequence[sa.Row[Any]]:
        """Read, and lock, the files of the rows that the statement changes."""
        selected: list[Any] = [*self._primary_key, *columns]
        if self._mapper is not None:
            # By attributes, so that the criteria of the model are applied, as for single-table inheritance.
            selected = [getattr(self._mapper.class_, self._attribute(column)) for column in selected]
        query = sa.select(*selected).with_for_update()
        if keys:
            query = query.where(sa.tuple_(*selected[: len(self._primary_key)]).in_(keys))
        elif self._statement.whereclause is not None:
            query = query.where(self._statement.whereclause)
        parameters: Any = None if keys else self._state.parameters
        if self._mapper is None:
            return self._connection.execute(query, parameters).all()
        # Flushes first, as the statement itself does.
        options = {key: value for key, value in self._state.execution_options.items() if key == "autoflush"}
        bind_arguments = dict(self._state.bind_arguments)
        session = self._state.session
        return session.execute(query, parameters, execution_options=options, bind_arguments=bind_arguments).all()


def _by_name(values: Any) -> dict[str, Any]:
    """Return values by the names of their columns."""
    return {key if isinstance(key, str) else key.key: value for key, value in dict(values).items()}


def _value(column: sa.Column[Any], value: Any, parameters: Mapping[str, Any]) -> Any:
    """Return a value that a statement assigns, without what SQLAlchemy has wrapped it in."""
    if isinstance(value, BindParameter):
        return parameters[value.key] if value.required else value.value
    if isinstance(value, Null):
        return None
    if isinstance(value, sa.ClauseElement):
        raise _copied_in_sql(column)
    return value


def _copied_in_sql(column: sa.Column[Any]) -> InvalidRequestError:
    return InvalidRequestError(
        f"a statement cannot assign an SQL expression to the file column {column}, because the rows that have a file "
        "could not be counted: select the values first, then pass them as parameters"
    )
