"""`flask storage sweep`, `fsck` and `restore` for the files of models."""

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Session, configure_mappers

from flask_storage import Storage
from flask_storage.sqlalchemy import FileType, StoredFile, databases_of, register

from .model_databases import DATABASES, Base, Document, managed_name, open_database
from .services.postgres import postgres

__all__ = ["postgres"]


@pytest.fixture(params=DATABASES)
def engine(request, tmp_path):
    """An engine with empty tables, once on each database."""
    return open_database(request.param, request, tmp_path)


@pytest.fixture
def app(tmp_path):
    """An app that keeps deleted files for a day, without a database."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config["STORAGE_PROFILES"] = {"docs": {"backend": "memory"}, "other": {"backend": "memory"}}
    app.config["STORAGE_KEEP_DELETED"] = timedelta(days=1)
    Storage(app)
    return app


@pytest.fixture
def docs(app):
    """The storage of the columns."""
    return app.extensions["storage"]["docs"]


@pytest.fixture
def run(app):
    """A function that runs `flask storage` with arguments."""

    def run(*args):
        result = app.test_cli_runner().invoke(args=["storage", *args])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture
def document(app, engine):
    """A committed row with a file, of an app that has registered its database."""
    register(app, engine, Base)
    return add(app, engine)


def add(app, engine):
    """Add a row with a file, and return it."""
    with app.app_context(), Session(engine, expire_on_commit=False) as session:
        document = Document(file=StoredFile(b"content", name="a.txt"), pages=[])
        session.add(document)
        session.commit()
    return document


def delete(app, engine, document):
    """Delete a row."""
    with app.app_context(), Session(engine) as session:
        session.delete(session.get_one(Document, document.id))
        session.commit()


# -- sweep ------------------------------------------------------------------------------------------------------------


def test_sweep_deletes_released_files_and_orphans(run, app, engine, docs, document):
    """Files of deleted rows are deleted when the app does not keep them, and those of killed processes."""
    app.extensions["storage"].keep_deleted = timedelta(0)
    docs.write(today(managed_name()), b"left")
    kept = add(app, engine)
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE storage_files SET refs = 0 WHERE path = :path"), {"path": document.file.path}
        )

    result = run("sweep", "--older-than", "0")

    assert docs.list() == [entry for entry in docs.list() if entry.name == kept.file.path]
    assert result.stderr == (
        "Removed 0 leftovers from docs.\nDeleted 1 file of deleted or changed rows, and 1 file without a row.\n"
    )
    assert (result.stdout, result.exit_code) == ("", 0)


def today(path):
    """Return a name with today's date instead of its own."""
    return path.replace("2026-06-01", f"{datetime.now(UTC):%Y-%m-%d}")


def test_sweep_lists_orphans_in_a_dry_run(run, docs, document):
    """Nothing is deleted."""
    orphan = today(managed_name())
    docs.write(orphan, b"left")

    text = run("sweep", "--older-than", "0", "--dry-run")
    output = json.loads(run("sweep", "--older-than", "0", "--dry-run", "--json").stdout)

    assert text.stdout == f"orphan\tdocs\t{orphan}\n"
    assert text.stderr.endswith("Would delete 0 files of deleted or changed rows, and 1 file without a row.\n")
    assert output == {
        "profile": "docs",
        "uploads": [],
        "released": 0,
        "orphans": [{"profile": "docs", "path": orphan}],
        "seen": 2,
        "refused": False,
    }
    assert docs.exists(orphan)


def test_sweep_refuses_to_delete_unusually_many_files(run, docs, document):
    """More than 20 orphans, and more than 5 %, are deleted with --force only."""
    for _ in range(21):
        docs.write(today(managed_name()), b"left")

    refused = run("sweep", "--older-than", "0")
    left = len(docs.list())
    forced = run("sweep", "--older-than", "0", "--force", "--json")

    assert refused.exit_code == 1
    assert "21 of 22 files of the last days have no row, so none of these is deleted." in refused.stderr
    assert left == 22
    assert forced.exit_code == 0
    assert len(json.loads(forced.stdout)["orphans"]) == 21
    assert len(docs.list()) == 1


def test_sweep_looks_at_the_directories_of_some_days(run, docs, document):
    """--days says how far back, and files of older directories are left to fsck."""
    docs.write(managed_name(), b"left")  # of 2026-06-01

    assert "0 files without a row" in run("sweep", "--older-than", "0").stderr
    assert run("sweep", "--days", "0").exit_code == 2


# -- fsck -------------------------------------------------------------------------------------------------------------


def test_fsck_without_findings_succeeds(run, document):
    """A summary says what was compared."""
    result = run("fsck")

    assert (result.stdout, result.exit_code) == ("", 0)
    assert result.stderr == "Compared 1 rows, 1 ledger entries and 1 file: no findings.\n"


def test_fsck_prints_a_line_for_each_finding(run, docs, document):
    """Kind, profile, path and explanation; or one JSON object per line."""
    docs.delete(document.file.path)

    text = run("fsck")
    output = json.loads(run("fsck", "--json").stdout)

    assert text.stdout == f"missing\tdocs\t{document.file.path}\tdocument.file id={document.id}\n"
    assert text.exit_code == 1
    assert output == {
        "kind": "missing",
        "profile": "docs",
        "path": document.file.path,
        "detail": f"document.file id={document.id}",
    }


def test_fsck_compares_checksums_when_asked(run, docs, document):
    """Other content of the same size is found by reading the file."""
    docs.write(document.file.path, b"CONTENT")

    assert run("fsck").exit_code == 0
    assert run("fsck", "--checksums").stdout.startswith("corrupt\tdocs\t")


def test_fsck_repairs_the_ledger(run, docs, engine, document):
    """What was repaired is no problem any more; missing files are one."""
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE storage_files SET refs = 3"))
    docs.write(managed_name(), b"left")

    repaired = run("fsck", "--older-than", "0", "--repair")
    docs.delete(document.file.path)
    missing = run("fsck", "--repair")

    assert repaired.exit_code == 0
    assert repaired.stderr.endswith("1 miscounted, 1 orphan.\nRepaired 2. The next sweep deletes 1 file.\n")
    assert missing.exit_code == 1
    assert missing.stderr.endswith("1 missing.\nRepaired 0. The next sweep deletes 0 files.\n")


def test_fsck_refuses_to_release_unusually_many_files(run, docs, document):
    """As the sweep does."""
    for _ in range(21):
        docs.write(managed_name(), b"left")

    refused = run("fsck", "--older-than", "0", "--repair")

    assert refused.exit_code == 1
    assert "21 files would be deleted, so nothing was repaired" in refused.stderr
    assert run("fsck", "--older-than", "0", "--repair", "--force").exit_code == 0


# -- restore ----------------------------------------------------------------------------------------------------------


def test_restore_lists_deleted_files_that_are_kept(run, app, engine, document):
    """With the time of the deletion."""
    delete(app, engine, document)

    text = run("restore").stdout
    output = json.loads(run("restore", "--json").stdout)

    assert text.rstrip("\n").split("\t")[1:] == ["docs", document.file.path]
    assert list(output) == ["profile", "path", "deleted_at", "kept_until"]
    assert run("restore", "--profile", "other").stdout == ""
    assert run("restore", "--profile", "docs").stdout == text


def test_restore_copies_a_deleted_file(run, app, engine, docs, document):
    """The copy can be given to a row, and the sweep does not touch it."""
    delete(app, engine, document)

    result = run("restore", document.file.path, "restored/")
    run("sweep", "--older-than", "0")
    app.extensions["storage"].keep_deleted = timedelta(0)
    run("sweep", "--older-than", "0")

    target = f"restored/{document.file.path.rpartition('/')[2]}"
    assert result.stderr == f"Restored {document.file.path} as {target}.\n"
    assert [entry.name for entry in docs.list()] == [target]
    assert docs.read(target) == b"content"


def test_restore_refuses_what_it_cannot_restore(run, app, engine, docs, document):
    """A file that a row has, a missing one, a target that exists, and half of the arguments."""
    path = document.file.path
    assert "is not deleted" in run("restore", path, "a.txt").stderr
    assert run("restore", "missing.txt", "a.txt").exit_code == 1
    assert run("restore", path).exit_code == 2
    delete(app, engine, document)
    docs.write("a.txt", b"mine")
    assert run("restore", path, "a.txt").exit_code == 1
    assert docs.read("a.txt") == b"mine"


# -- the databases of an app ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_imported", [True, False])
@pytest.mark.parametrize("command", ["fsck", "restore"])
def test_without_models_the_commands_say_what_to_do(run, command, has_imported, monkeypatch):
    """The error names both ways, also in an app that does not use the package."""
    if not has_imported:
        monkeypatch.delitem(sys.modules, "flask_storage.sqlalchemy")

    result = run(command)

    assert result.exit_code == 2
    assert "use Flask-SQLAlchemy, or call flask_storage.sqlalchemy.register" in result.stderr


def test_the_databases_of_flask_sqlalchemy_are_known(app, run, docs):
    """Each bind has its own ledger."""
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    app.config["SQLALCHEMY_BINDS"] = {"archive": "sqlite://"}

    class Model(DeclarativeBase):
        pass

    db = SQLAlchemy(app, model_class=Model)

    class Report(db.Model):  # type: ignore[misc,name-defined]  # made by the extension
        id = db.Column(db.Integer, primary_key=True)
        file = db.Column(FileType("docs"))

    class OldReport(db.Model):  # type: ignore[misc,name-defined]  # likewise
        __bind_key__ = "archive"
        id = db.Column(db.Integer, primary_key=True)
        file = db.Column(FileType("docs"))

    configure_mappers()
    with app.app_context():
        db.create_all()
        db.session.add_all([Report(file=b"a"), OldReport(file=b"b")])
        db.session.commit()
        databases = databases_of(app)

        result = run("fsck", "--older-than", "0")

    assert [engine.url.database for engine, _ in databases] == [None, None]
    assert result.stderr == "Compared 2 rows, 2 ledger entries and 2 files: no findings.\n"
    for engine, _ in databases:
        engine.dispose()


def test_register_takes_an_engine_and_metadata(app, tmp_path):
    """Metadata, or what has it; an engine that is not synchronous is refused."""
    engine = sa.create_engine("sqlite://")
    register(app, engine, Base)
    register(app, engine, Base.registry)
    register(app, engine, Base.metadata)

    with app.app_context():
        assert databases_of(app) == [(engine, Base.metadata)] * 3
    with pytest.raises(TypeError, match="not str and MetaData"):
        register(app, "sqlite://", Base.metadata)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(TypeError, match="not Engine and int"):
        register(app, engine, 1)  # type: ignore[arg-type]  # what is tested
