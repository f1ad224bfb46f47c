"""Models with files, and their databases, for the tests of the commands."""

import secrets

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_storage.sqlalchemy import FileListType, FileType, StoredFile

DATABASES = ["sqlite", "postgresql"]
DATED = "2026-06-01"


class Base(DeclarativeBase):
    """The base class of the models."""


class Document(Base):
    """A row with a file, and several more."""

    __tablename__ = "document"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredFile | None] = mapped_column(FileType("docs", directory="documents"))
    pages: Mapped[list[StoredFile]] = mapped_column(FileListType("docs", directory="documents/pages"))


def open_database(kind, request, tmp_path):
    """Return an engine with empty tables; *request* is that of a fixture, which asks for the server."""
    if kind == "sqlite":
        engine = sa.create_engine(f"sqlite:///{tmp_path}/{secrets.token_hex(4)}.db")
        _begin_transactions(engine)
    else:
        url = sa.make_url(request.getfixturevalue("postgres").url)
        name = f"test_{secrets.token_hex(8)}"
        server = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine = sa.create_engine(url.set(database=name))
    Base.metadata.create_all(engine)
    request.addfinalizer(engine.dispose)
    return engine


def managed_name(directory="documents/", extension=".txt"):
    """Return a name like those that columns give."""
    return f"{directory}{DATED}/{secrets.token_hex(16)}{extension}"


def _begin_transactions(engine):
    """Let SQLAlchemy begin transactions; see the documentation of its dialect for SQLite."""

    @event.listens_for(engine, "connect")
    def connect(connection, _):
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")  # otherwise a reader blocks writers

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")
