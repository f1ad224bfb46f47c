"""Databases, a storage that can be made to fail, and a check after each test that rows and files agree."""

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_storage import MemoryStorage
from flask_storage.link_usage import MemoryUsageStore
from flask_storage.profiles import Profiles
from flask_storage.testing import FailingStorage
from tests.services.postgres import postgres
from tests.sqlalchemy.agreement import Files
from tests.sqlalchemy.databases import DATABASES, create_engine, empty, end_transactions
from tests.sqlalchemy.models import Base, Document

__all__ = ["postgres"]


def _tables(url):
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def sqlite_engine(tmp_path_factory):
    """An engine on a file, with the tables."""
    yield from _tables(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/test.db")


@pytest.fixture(scope="session")
def postgresql_engine(postgres):
    """An engine on PostgreSQL, with the tables in a database of their own."""
    url = sa.make_url(postgres.url)
    server = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE files")
    yield from _tables(url.set(database="files").render_as_string(hide_password=False))


@pytest.fixture(params=DATABASES)
def engine(request):
    """An engine with empty tables, once on each database."""
    engine = request.getfixturevalue(f"{request.param}_engine")
    yield engine
    if connections := engine.pool.checkedout():
        end_transactions(engine)
    empty(engine, Base.metadata)
    assert not connections, "the test has left connections open"


@pytest.fixture
def docs():
    """The storage of the profile "docs": in memory, and able to fail."""
    return FailingStorage(MemoryStorage("docs"))


@pytest.fixture(autouse=True)
def app(docs):
    """An app with one profile, "docs", whose context the test runs in."""
    app = Flask(__name__)
    app.extensions["storage"] = Profiles({"docs": docs}, "docs", MemoryUsageStore())
    with app.app_context():
        yield app


@pytest.fixture
def files(engine, docs):
    """The files of rows, ledger and storage; they must agree after the test."""
    files = Files(engine, docs, Base.metadata)
    yield files
    docs.reset()
    files.check()


@pytest.fixture
def session(engine, files):
    """A session, closed after the test."""
    with Session(engine) as session:
        yield session


@pytest.fixture
def document(session):
    """A committed document with the file `old`."""
    document = Document(title="a", file=b"old")
    session.add(document)
    session.commit()
    return document
