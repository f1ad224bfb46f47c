"""Counts the uses of links in a SQL database."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, StorageUnavailableError
from .base import TIMEOUT, LinkUsageStore

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine


class SQLUsageStore(LinkUsageStore):
    """Counts uses in a table ``storage_link_usage``, for all hosts that share the database. The first use creates it.

    Each use is a row; the primary key (link, number) keeps two workers from taking the same use. Tested with SQLite and
    PostgreSQL.

    Args:
        url: A URL of SQLAlchemy: ``"postgresql+psycopg://user:password@host/name"``, ``"sqlite:///links.db"``.
        directory: The directory of a relative SQLite URL; the working directory by default.

    Raises:
        ConfigurationError: when SQLAlchemy or the database's driver is missing, or the URL is not valid.
    """

    def __init__(self, url: str, *, directory: str | os.PathLike[str] | None = None) -> None:
        try:
            import sqlalchemy
        except ImportError as error:
            raise ConfigurationError(
                "SQLUsageStore needs SQLAlchemy: pip install 'flask-storage-profiles[sqlalchemy]'"
            ) from error
        self._sql = sqlalchemy
        self._url = self._parse_url(url, directory)
        self._table = sqlalchemy.Table(
            "storage_link_usage",
            sqlalchemy.MetaData(),
            sqlalchemy.Column("token_id", sqlalchemy.String(64), primary_key=True),
            sqlalchemy.Column("number", sqlalchemy.Integer, primary_key=True, autoincrement=False),
            sqlalchemy.Column("expires_at", sqlalchemy.BigInteger, nullable=False, index=True),
        )
        # One engine for each process: two processes that share a connection after a fork would get each other's
        # responses. A child keeps a reference to the parent's engine, whose garbage collection would close connections
        # of the parent.
        self._engines: dict[int, Engine] = {os.getpid(): self._create_engine()}
        self._has_table = False

    def close(self) -> None:
        """See :meth:`LinkUsageStore.close`."""
        self._process_engine().dispose()

    def __repr__(self) -> str:
        return f"<SQLUsageStore in {self._url.get_backend_name()} {self._url.host or ''}/{self._url.database}>"

    def _count(self, key: str) -> int:
        return len(self._numbers(key))

    def _increment(self, key: str, uses: int, expiry: int) -> bool:
        taken = set(self._numbers(key))
        for number in range(1, uses + 1):
            if number not in taken:
                with self._connected() as engine, contextlib.suppress(self._sql.exc.IntegrityError):
                    with engine.begin() as connection:
                        connection.execute(self._table.insert().values(token_id=key, number=number, expires_at=expiry))
                    return True
        return False

    def _decrement(self, key: str) -> None:
        any(self._delete_use(key, number) for number in self._numbers(key))  # stops after the first deleted row

    def _delete_use(self, key: str, number: int) -> bool:
        """Delete one row; False when another worker deleted it."""
        condition = (self._table.c.token_id == key) & (self._table.c.number == number)
        with self._connected() as engine, engine.begin() as connection:
            return connection.execute(self._table.delete().where(condition)).rowcount > 0

    def _delete_expired(self, expired: int) -> int:
        with self._connected() as engine, engine.begin() as connection:
            return connection.execute(self._table.delete().where(self._table.c.expires_at <= expired)).rowcount

    def _numbers(self, key: str) -> list[int]:
        with self._connected() as engine, engine.connect() as connection:
            columns = self._table.c
            return list(connection.scalars(self._sql.select(columns.number).where(columns.token_id == key)))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Engine]:
        engine = self._process_engine()
        try:
            if not self._has_table:
                self._create_table(engine)
            yield engine
        except (self._sql.exc.SQLAlchemyError, OSError) as error:
            raise StorageUnavailableError(
                f"{self!r} did not respond: check that the database in STORAGE_LINK_USAGE runs and accepts the app's "
                "credentials"
            ) from error

    def _create_table(self, engine: Engine) -> None:
        if engine.dialect.name == "sqlite":
            os.makedirs(os.path.dirname(os.path.abspath(str(self._url.database))), exist_ok=True)
        if not self._sql.inspect(engine).has_table(self._table.name):
            try:
                self._table.create(engine)
            except self._sql.exc.DBAPIError:
                # Another worker may have created it; each database raises a different error then.
                if not self._sql.inspect(engine).has_table(self._table.name):
                    raise
        self._has_table = True

    def _parse_url(self, text: str, directory: str | os.PathLike[str] | None) -> URL:
        try:
            url = self._sql.make_url(text)
        except (self._sql.exc.ArgumentError, ValueError):
            # Not chained: the parser's message contains the URL, and with it the password.
            raise ConfigurationError(
                "STORAGE_LINK_USAGE is not a URL that SQLAlchemy can read: write "
                "'postgresql+psycopg://user:password@host/name', with special characters as %40"
            ) from None
        if url.get_backend_name() == "sqlite":
            if not url.database or url.database == ":memory:":
                raise ConfigurationError(
                    "a SQLite database in memory is not shared by the app's workers: name a file, 'sqlite:///links.db'"
                )
            url = url.set(database=os.path.join(directory or "", url.database))
        return url

    def _process_engine(self) -> Engine:
        return self._engines.get(os.getpid()) or self._engines.setdefault(os.getpid(), self._create_engine())

    def _create_engine(self) -> Engine:
        backend, driver = self._url.get_backend_name(), ""
        arguments: dict[str, Any] = {}
        try:
            driver = self._url.get_driver_name()
            if backend == "sqlite":
                arguments["timeout"] = TIMEOUT
            elif driver in ("psycopg", "psycopg2"):
                limits = {
                    "connect_timeout": TIMEOUT,
                    "options": f"-c statement_timeout={TIMEOUT * 1000}",
                    "tcp_user_timeout": TIMEOUT * 1000,
                }
                arguments = {name: limit for name, limit in limits.items() if name not in self._url.query}
            return self._sql.create_engine(self._url, connect_args=arguments, pool_pre_ping=True)
        except ImportError as error:
            raise ConfigurationError(
                f"the database of STORAGE_LINK_USAGE needs a driver that is not installed ({driver}): for PostgreSQL, "
                "pip install 'psycopg[binary]' and begin the URL with 'postgresql+psycopg://'"
            ) from error
        except self._sql.exc.ArgumentError:
            raise ConfigurationError(
                f"STORAGE_LINK_USAGE begins with {self._url.drivername!r}, which SQLAlchemy does not support: use "
                "'postgresql+psycopg://' or 'sqlite:///'"
            ) from None
