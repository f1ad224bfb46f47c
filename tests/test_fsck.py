"""Rows, ledgers and storages are compared, and ledgers are repaired, on every database."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_storage import MemoryStorage, Storage, WriteOptions
from flask_storage.sqlalchemy import StoredFile, ledger_of, sweep
from flask_storage.sqlalchemy.fsck import FileCheck, Repair

from .model_databases import DATABASES, Base, Document, managed_name, open_database
from .services.postgres import postgres

__all__ = ["postgres"]

LEDGER = ledger_of(Base.metadata)
DOCUMENTS = Base.metadata.tables["document"]


class Docs(MemoryStorage):
    """A storage that can do something just before it is listed."""

    before_list = staticmethod(lambda: None)

    def _list(self, path, recursive):
        self.before_list()
        return super()._list(path, recursive)


@pytest.fixture(params=DATABASES)
def engine(request, tmp_path):
    """An engine with empty tables, once on each database."""
    return open_database(request.param, request, tmp_path)


@pytest.fixture(autouse=True)
def docs():
    """The storage of the profile of all columns, in the context of an app."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = {"docs": {"backend": Docs}}
    Storage(app)
    with app.app_context():
        yield app.extensions["storage"]["docs"]


@pytest.fixture
def document(engine, docs):
    """A committed row with one file and two pages."""
    with Session(engine, expire_on_commit=False) as session:
        document = Document(file=StoredFile(b"one", name="a.txt"), pages=[b"two", b"three"])
        session.add(document)
        session.commit()
    return document


@pytest.fixture
def check(engine):
    """A function that returns a :class:`FileCheck`, for files of any age."""
    checks = []

    def check(older_than=timedelta(0)):
        checks.append(FileCheck([(engine, Base.metadata)], older_than=older_than))
        return checks[-1]

    yield check
    for each in checks:
        each.close()


@pytest.fixture
def execute(engine):
    """A function that executes SQL which no session sees."""

    def execute(statement):
        with engine.begin() as connection:
            return connection.execute(statement)

    return execute


def found(check, **options):
    """Return kind and path of the findings."""
    return [(finding.kind, finding.path) for finding in check.findings(**options)]


def entry(engine, path):
    """Return the number of rows of a file in the ledger, and when it was released."""
    with engine.connect() as connection:
        row = connection.execute(sa.select(LEDGER.c.refs, LEDGER.c.released_at).where(LEDGER.c.path == path)).one()
    return row.refs, row.released_at


def test_files_that_agree_are_no_findings(check, document):
    """After a commit there is nothing to report."""
    with check() as comparison:
        assert found(comparison, checksums=True) == []
        assert comparison.counts == {"rows": 3, "ledger": 3, "files": 3}


def test_a_file_that_is_not_in_the_storage_is_missing(check, document, docs):
    """The finding names the row."""
    docs.delete(document.file.path)

    (finding,) = check().findings()

    assert (finding.kind, finding.profile, finding.path) == ("missing", "docs", document.file.path)
    assert finding.detail == f"document.file id={document.id}"


def test_a_file_of_a_profile_that_was_removed_is_missing(check, document, execute):
    """It cannot be looked for, and the finding says why."""
    execute(sa.update(DOCUMENTS).values(file=StoredFile.from_dict({"profile": "old", "path": "a", "size": 1})))

    details = [finding.detail for finding in check().findings() if finding.kind == "missing"]

    assert details == [f"document.file id={document.id}: no such profile"]


def test_a_file_of_another_size_is_corrupt(check, document, docs):
    """The size is compared without reading the file."""
    docs.write(document.file.path, b"longer")

    assert found(check()) == [("corrupt", document.file.path)]


def test_a_file_with_other_content_is_corrupt_when_checksums_are_compared(check, document, docs):
    """Content of the same size is read only when that is asked for."""
    docs.write(document.file.path, b"two")

    assert found(check()) == []
    assert found(check(), checksums=True) == [("corrupt", document.file.path)]


def test_a_row_that_sql_deleted_is_counted_no_more_after_a_repair(check, document, docs, engine, execute):
    """The ledger is corrected, and the next sweep deletes the files."""
    execute(sa.delete(DOCUMENTS))

    findings = found(check())
    repair = check().repair()

    assert sorted(findings) == sorted(("miscounted", path) for path in docs_paths(document))
    assert repair == Repair(counted=3, released=3, refused=False)
    assert entry(engine, document.file.path)[0] == 0
    assert entry(engine, document.file.path)[1] is not None
    assert found(check()) == []
    assert sweep([(engine, Base.metadata)]).released == 3
    assert docs.list() == []


def docs_paths(document):
    """Return the paths of the files of a row."""
    return [file.path for file in [document.file, *document.pages]]


def test_a_row_that_sql_copied_is_counted_after_a_repair(check, document, engine, execute):
    """The file belongs to two rows then, and is kept when one is deleted."""
    execute(sa.insert(DOCUMENTS).values(id=7, file=document.file, pages=[]))

    assert found(check()) == [("miscounted", document.file.path)]
    check().repair()

    assert entry(engine, document.file.path) == (2, None)
    assert found(check()) == []


def test_a_row_without_ledger_is_counted_after_a_repair(check, document, engine, execute):
    """So models that were filled without the ledger are supported."""
    execute(sa.delete(LEDGER))

    assert {kind for kind, _ in found(check())} == {"miscounted"}
    check().repair()

    assert entry(engine, document.pages[1].path) == (1, None)
    assert found(check()) == []


def test_a_deleted_row_that_is_restored_keeps_its_file_after_a_repair(check, document, docs, engine, execute):
    """A row that SQL inserts again, while its file is still kept, has the file again."""
    execute(sa.update(LEDGER).values(refs=0, released_at=sa.func.current_timestamp()))

    check().repair()
    sweep([(engine, Base.metadata)])

    assert entry(engine, document.file.path) == (1, None)
    assert len(docs.list()) == 3


def test_a_file_without_row_is_an_orphan(check, document, docs, engine):
    """A repair leaves its deletion to the sweep."""
    orphan = managed_name()
    docs.write(orphan, b"left")

    assert found(check()) == [("orphan", orphan)]
    assert check().repair() == Repair(counted=0, released=1, refused=False)
    assert docs.exists(orphan)
    assert found(check()) == []
    assert sweep([(engine, Base.metadata)]).released == 1
    assert not docs.exists(orphan)


@pytest.mark.parametrize("path", ["documents/report.txt", "other.txt", f"elsewhere/2026-06-01/{32 * '0'}.txt"])
def test_other_files_of_the_profile_are_no_findings(check, document, docs, path):
    """Only names that columns give, in directories of columns, can be orphans."""
    docs.write(path, b"mine")

    assert found(check()) == []


def test_a_young_file_is_no_orphan(check, docs):
    """Its transaction may not have ended."""
    docs.write(managed_name(), b"new")

    assert found(check(timedelta(days=1))) == []


def test_a_file_that_was_adopted_from_elsewhere_is_found(check, docs, engine):
    """A file outside of the directories of columns is looked up by its path."""
    docs.write("inbox/a.txt", b"mine")
    with Session(engine) as session:
        session.add(Document(file=StoredFile.existing("docs", "inbox/a.txt"), pages=[]))
        session.commit()

    assert found(check()) == []


def test_the_same_content_in_several_files_is_a_duplicate(check, engine):
    """One finding for each content; it is no problem, and repairs do not change it."""
    with Session(engine) as session:
        session.add_all(Document(file=StoredFile(b"same", name="a"), pages=[]) for _ in range(3))
        session.commit()

    (finding,) = check().findings()

    assert (finding.kind, finding.detail) == ("duplicate", "3 files with these 4 bytes")


def test_an_upload_that_was_not_completed_is_abandoned(check, document, docs):
    """Multipart uploads of the profiles of columns are listed."""
    docs.multipart.create("documents/large.bin", WriteOptions())

    assert found(check()) == [("abandoned", "documents/large.bin")]


def test_a_young_upload_is_not_abandoned(check, document, docs):
    """It may still be running."""
    docs.multipart.create("documents/large.bin", WriteOptions())

    assert found(check(timedelta(days=1))) == []


def test_a_file_that_is_deleted_before_it_is_read_is_no_finding(check, document, docs):
    """It was in the listing, and its row is deleted too."""
    comparison = check()
    docs.delete(document.file.path)

    assert found(comparison, checksums=True) == []


def test_a_value_without_a_path_is_no_file(check, document, execute):
    """Such as one that SQL has written; the file that the row had before is miscounted."""
    execute(sa.text("UPDATE document SET file = '{}'"))

    assert found(check()) == [("miscounted", document.file.path)]


def test_a_file_that_is_released_while_it_is_compared_is_not_missing(check, document, docs, engine):
    """The row was read before another transaction deleted it."""

    def delete_row():
        docs.before_list = lambda: None
        with Session(engine) as session:
            session.delete(session.get_one(Document, document.id))
            session.commit()

    docs.before_list = delete_row

    assert found(check()) == []


def test_a_row_that_is_added_between_rows_and_ledger_is_not_miscounted(check, document, engine):
    """Rows and ledger are read in one transaction."""
    added: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def add_row(connection, cursor, statement, *_):
        if "FROM storage_files" in statement and not added:
            added.append(statement)
            with Session(engine) as session:
                session.add(Document(file=StoredFile(b"new", name="b.txt"), pages=[]))
                session.commit()

    assert found(check(timedelta(days=1))) == []


def test_changes_after_the_rows_were_read_stay_counted(check, document, engine, execute):
    """A repair corrects by the difference, so that concurrent transactions are not undone."""
    execute(sa.update(LEDGER).values(refs=3))
    comparison = check()
    with Session(engine) as session:
        session.add(Document(file=document.file, pages=[]))
        session.commit()

    comparison.repair()

    assert entry(engine, document.file.path) == (2, None)
    assert found(check()) == []


def test_an_orphan_that_a_row_takes_is_not_released(check, docs, engine, execute):
    """A transaction that is committed after the file was listed is not overwritten."""
    path = managed_name()
    docs.write(path, b"left")
    comparison = check()
    execute(sa.insert(LEDGER).values(profile="docs", path=path, refs=1))

    comparison.repair()

    assert entry(engine, path) == (1, None)


def test_a_repair_that_would_delete_many_files_is_refused(check, docs, engine):
    """An empty database does not make all files orphans, unless that is confirmed."""
    for _ in range(21):
        docs.write(managed_name(), b"a")

    refused = check().repair()
    forced = check().repair(force=True)

    assert refused == Repair(counted=0, released=21, refused=True)
    assert forced == Repair(counted=0, released=21, refused=False)


def test_files_of_another_database_are_no_orphans(request, tmp_path, docs, engine, document):
    """Two databases of an app may store files in the same directory; one has the transactions of Python's driver."""
    other = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    request.addfinalizer(other.dispose)
    Base.metadata.create_all(other)

    with FileCheck([(other, Base.metadata), (engine, Base.metadata)], older_than=timedelta(0)) as both:
        assert found(both) == []


def test_a_storage_that_cannot_be_listed_is_an_error(check, document, docs):
    """Nothing is compared with half of a listing."""

    def fail():
        raise ConnectionError("away")

    docs.before_list = fail

    with pytest.raises(ConnectionError):
        check()
