"""Flask-SQLAlchemy: sessions of requests, their teardown, and models in several databases."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_storage import MemoryStorage, StorageOperations
from flask_storage.link_usage import MemoryUsageStore
from flask_storage.profiles import Profiles
from flask_storage.sqlalchemy import FileType, sweep
from tests.sqlalchemy.agreement import Files
from tests.sqlalchemy.databases import DATABASES, enable_savepoints
from tests.sqlalchemy.models import File


class _Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=_Base)


class Invoice(db.Model):  # type: ignore[name-defined,misc]  # made at run time
    """In the main database."""

    id: Mapped[int] = mapped_column(primary_key=True)
    pdf: Mapped[File] = mapped_column(FileType("docs", directory="files"), nullable=True)


class Archived(db.Model):  # type: ignore[name-defined,misc]  # made at run time
    """In another database, with files in the same directory."""

    __bind_key__ = "archive"

    id: Mapped[int] = mapped_column(primary_key=True)
    pdf: Mapped[File] = mapped_column(FileType("docs", directory="files"), nullable=True)


class Page(StorageOperations, db.Model):  # type: ignore[name-defined,misc]  # made at run time
    """With the mixin that stores files without a row."""

    storage_profile = "docs"

    id: Mapped[int] = mapped_column(primary_key=True)
    image: Mapped[File] = mapped_column(FileType(directory="images"), nullable=True)


@pytest.fixture
def docs():
    """The storage of the profile "docs"."""
    return MemoryStorage("docs")


@pytest.fixture(params=DATABASES)
def app(request, docs, tmp_path):
    """An app with two databases and three views that store a file: with a commit, without, and with an error."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"], archive = _urls(request, tmp_path)
    app.config["SQLALCHEMY_BINDS"] = {"archive": archive}
    app.extensions["storage"] = Profiles({"docs": docs}, "docs", MemoryUsageStore())
    db.init_app(app)
    _add_views(app)
    with app.app_context():
        for engine in db.engines.values():
            if engine.dialect.name == "sqlite":
                enable_savepoints(engine)
        db.create_all()
    yield app
    with app.app_context():
        db.drop_all()
        for engine in db.engines.values():
            engine.dispose()


def _urls(request, tmp_path):
    if request.param == "sqlite":
        return [f"sqlite:///{tmp_path}/{name}.db" for name in ("main", "archive")]
    url = sa.make_url(request.getfixturevalue("postgres").url)
    server = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    urls = []
    with server.connect() as connection:
        for name in ("flask_main", "flask_archive"):
            if not connection.scalar(sa.text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}):
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
            urls.append(url.set(database=name).render_as_string(hide_password=False))
    return urls


def _add_views(app):
    @app.post("/commit")
    def commit():
        db.session.add(Invoice(pdf=request.files["pdf"]))
        db.session.commit()
        return "stored"

    @app.post("/forget")
    def forget():
        db.session.add(Invoice(pdf=request.files["pdf"]))
        db.session.flush()
        return "forgotten"

    @app.post("/fail")
    def fail():
        db.session.add(Invoice(pdf=request.files["pdf"]))
        db.session.flush()
        raise ZeroDivisionError


@pytest.fixture
def context(app):
    """The context of the app."""
    with app.app_context():
        yield


@pytest.fixture
def databases(context):
    """The engine and the metadata of each database."""
    return [(db.engine, db.metadata), (db.engines["archive"], db.metadatas["archive"])]


def _contents(storage):
    return sorted(storage.read(entry.name) for entry in storage.list())


def _post(app, view, content):
    return app.test_client().post(view, data={"pdf": (content, "a.pdf")})


def test_a_request_that_commits(app, docs, tmp_path):
    """Its file is stored."""
    response = _post(app, "/commit", _file(tmp_path))

    assert response.text == "stored"
    assert _contents(docs) == [b"one"]


def _file(tmp_path):
    path = tmp_path / "a.pdf"
    path.write_bytes(b"one")
    return path.open("rb")


def test_a_request_that_does_not_commit(app, docs, tmp_path):
    """The teardown removes the session, and the file with it."""
    response = _post(app, "/forget", _file(tmp_path))

    assert response.text == "forgotten"
    assert _contents(docs) == []


def test_a_request_that_fails(app, docs, tmp_path):
    """Likewise."""
    response = _post(app, "/fail", _file(tmp_path))

    assert response.status_code == 500
    assert _contents(docs) == []


def test_a_session_outside_of_a_request(app, docs):
    """It ends with the app's context."""
    with app.app_context():
        db.session.add(Invoice(pdf=b"one"))
        db.session.flush()

    assert _contents(docs) == []


def test_each_database_has_its_own_ledger(context, docs, databases):
    """Created by `create_all`, and written in the transaction of the row."""
    invoice, archived = Invoice(pdf=b"one"), Archived(pdf=b"two")
    db.session.add_all([invoice, archived])
    db.session.commit()

    ledgers = [Files(engine, docs, metadata).ledger() for engine, metadata in databases]
    assert ledgers == [{invoice.pdf.path: 1}, {archived.pdf.path: 1}]


def test_a_transaction_in_two_databases(context, docs, databases):
    """Replaced and deleted files are deleted in each of them; a rollback concerns both."""
    invoice, archived = Invoice(pdf=b"one"), Archived(pdf=b"two")
    db.session.add_all([invoice, archived])
    db.session.commit()
    invoice.pdf, archived.pdf = b"three", b"four"
    db.session.flush()
    db.session.rollback()
    assert _contents(docs) == [b"one", b"two"]
    invoice.pdf = b"five"
    db.session.delete(archived)
    db.session.commit()

    assert _contents(docs) == [b"five"]


def test_bulk_statements_in_two_databases(context, docs, databases):
    """Each one goes to the database of its model."""
    db.session.add_all([Invoice(pdf=b"one"), Archived(pdf=b"two")])
    db.session.commit()
    db.session.execute(sa.delete(Archived))
    db.session.commit()
    assert _contents(docs) == [b"one"]

    db.session.execute(sa.delete(Invoice))
    db.session.commit()

    assert _contents(docs) == []


def test_a_sweep_of_two_databases_with_one_directory(context, docs, databases):
    """A file that either of them has is kept."""
    db.session.add_all([Invoice(pdf=b"one"), Archived(pdf=b"two")])
    db.session.commit()
    (path, _) = (entry.name for entry in docs.list())
    docs.write(f"{path.rpartition('/')[0]}/{'0' * 32}", b"orphan")

    result = sweep(databases, older_than=timedelta(0))

    assert len(result.orphans) == 1
    assert _contents(docs) == [b"one", b"two"]


def test_a_model_with_the_mixin_of_storage_operations(context, docs, databases):
    """The column uses the profile of the class, and the mixin works unchanged."""
    page = Page(image=b"one")
    db.session.add(page)
    db.session.commit()
    with Page.storage_open_file("notes.txt", "w") as file:
        file.write(b"two")

    assert page.image.profile == "docs"
    assert _contents(docs) == [b"one", b"two"]
    db.session.delete(page)
    db.session.commit()
    assert _contents(docs) == [b"two"]
