"""Engines on real databases: SQLite in a file, and PostgreSQL."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

DATABASES = ["sqlite", "postgresql"]


def create_engine(url: str | sa.URL) -> sa.Engine:
    """Return an engine; one on SQLite has savepoints that work, and enforces foreign keys."""
    if sa.make_url(url).get_backend_name() != "sqlite":
        return sa.create_engine(url)
    engine = sa.create_engine(url, connect_args={"timeout": 20})
    enable_savepoints(engine)
    return engine


def enable_savepoints(engine: sa.Engine) -> None:
    """Let SQLAlchemy begin the transactions of SQLite, because Python's driver begins them too late for savepoints."""
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)


def empty(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Delete all rows."""
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())


def end_transactions(engine: sa.Engine) -> None:
    """End what a failed test has left open, so that it does not block the next."""
    engine.dispose()
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for setting in ("journal_mode=WAL", "synchronous=OFF", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")
