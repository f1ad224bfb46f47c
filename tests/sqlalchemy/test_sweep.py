"""The sweep, rows that were changed behind the session's back, full disks and clocks that jump."""

import logging
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_storage import LocalFSStorage, StorageFullError
from flask_storage.sqlalchemy import sweep
from tests.sqlalchemy.agreement import Files
from tests.sqlalchemy.models import Attachment, Base, Document
from tests.test_local_faults import LIMITS

MIB = 1 << 20
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def _name(number=1, age=timedelta(0), directory="documents"):
    """Return a name as the column makes it."""
    return f"{directory}/{datetime.now(UTC) - age:%Y-%m-%d}/{number:032x}.txt"


# -- what a sweep deletes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "is_deleted"),
    [
        (_name(), True),
        (_name(age=DAY), True),
        (_name(directory="previews"), True),
        (_name(directory="tenant-7"), True),
        (_name(age=timedelta(days=30)), False),
        (_name(directory="elsewhere/documents"), True),
        ("documents/notes.txt", False),
        (f"documents/{datetime.now(UTC):%Y-%m-%d}/notes.txt", False),
        ("other.txt", False),
    ],
    ids=[
        "new",
        "yesterday",
        "another column",
        "a directory by row",
        "older than the days",
        "any directory, for the column whose directory depends on the row",
        "not dated",
        "not random",
        "root",
    ],
)
def test_a_file_that_is_not_in_the_ledger(files, docs, path, is_deleted):
    """Only names that a column could have made lately are deleted."""
    docs.write(path, b"orphan")

    files.sweep()

    assert docs.exists(path) is not is_deleted
    docs.delete(path)


def test_a_file_that_is_young_is_kept(files, docs):
    """Its transaction may be running."""
    docs.write(_name(), b"orphan")

    files.sweep(older_than=HOUR)

    assert files.contents() == [b"orphan"]
    files.sweep()


def test_a_dry_run_deletes_nothing(engine, session, files, docs, document, caplog):
    """It reports what would be deleted."""
    caplog.set_level(logging.CRITICAL, "flask_storage")
    docs.fail("delete", times=None)
    session.delete(document)
    session.commit()
    docs.reset()
    orphan = _name()
    docs.write(orphan, b"orphan")

    result = sweep([(engine, Base.metadata)], older_than=timedelta(0), dry_run=True)

    assert (result.released, result.orphans) == (1, [("docs", orphan)])
    assert files.contents() == [b"old", b"orphan"]
    session.close()
    files.check_after_sweep()


def test_too_many_orphans_are_kept(engine, session, files, docs):
    """The database may be a copy of last week's; `force` deletes them."""
    session.add(Document(file=b"one"))
    session.commit()
    for number in range(21):
        docs.write(_name(number), b"orphan")

    result = sweep([(engine, Base.metadata)], older_than=timedelta(0))

    assert result.refused
    assert len(files.stored()) == 22
    session.close()
    files.check_after_sweep()
    assert files.contents() == [b"one"]


def test_a_sweep_while_another_sweep_runs(engine, session, files, docs, document, app, caplog):
    """Deleting is idempotent."""
    caplog.set_level(logging.CRITICAL, "flask_storage")
    docs.fail("delete", times=None)
    session.delete(document)
    session.commit()
    docs.reset()
    delete = docs._delete_many

    def sweep_again(paths):
        docs._delete_many = delete
        files.sweep()
        return delete(paths)

    docs._delete_many = sweep_again
    files.sweep()

    session.close()
    files.check_after_sweep()
    assert files.contents() == []


def test_a_storage_that_fails_during_a_sweep(engine, session, files, docs, caplog):
    """At each deletion in turn; the next sweep finishes."""
    caplog.set_level(logging.CRITICAL, "flask_storage")
    session.add_all([Document(file=b"%d" % number) for number in range(3)])
    session.commit()
    docs.fail("delete", times=None)
    session.execute(sa.delete(Document))
    session.commit()
    session.close()
    for number in range(1, 4):
        docs.reset()
        docs.fail("delete", on=number)
        files.sweep()
        files.check()
    docs.reset()

    files.check_after_sweep()
    assert files.contents() == []


# -- rows that are changed without a session --------------------------------------------------------------------------


def test_rows_that_are_deleted_by_raw_sql_lose_no_file(engine, session, files, document):
    """Their files leak, as the documentation says: the ledger still counts them, and no sweep deletes them."""
    path = document.file.path
    session.close()
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM document")

    files.sweep()

    assert files.stored() == [path]
    assert files.ledger() == {path: 1}
    _forget(engine, files, path)


def _forget(engine, files, path):
    with engine.begin() as connection:
        connection.execute(sa.delete(Base.metadata.tables["storage_files"]))
    files.sweep()


def test_a_deletion_by_raw_sql_of_one_of_two_rows_keeps_the_file(engine, session, files, document):
    """It is counted twice, so that deleting the other row deletes no file either; nothing is lost."""
    session.add(other := Document(file=document.file))
    session.commit()
    path, key = other.file.path, other.id
    session.rollback()
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM document WHERE id <> :key"), {"key": key})
    session.delete(other)
    session.commit()
    session.close()

    assert files.ledger() == {path: 1}
    assert files.contents() == [b"old"]
    _forget(engine, files, path)


def test_a_row_that_raw_sql_has_emptied(engine, session, files, document):
    """A new file can be assigned, and the old one leaks."""
    path, key = document.file.path, document.id
    session.close()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE document SET file = NULL")
    with Session(engine) as other, other.begin():
        other.get_one(Document, key).file = b"new"

    assert files.contents() == [b"new", b"old"]
    with engine.begin() as connection:
        ledger = Base.metadata.tables["storage_files"]
        connection.execute(sa.delete(ledger).where(ledger.c.path == path))
    files.sweep()


def test_a_file_that_was_deleted_from_the_storage(session, files, docs, document):
    """Reading fails; replacing and deleting the row work."""
    docs.delete(document.file.path)
    with pytest.raises(FileNotFoundError):
        document.file.read()
    document.file = b"new"
    session.commit()
    docs.delete(document.file.path)
    session.delete(document)
    session.commit()

    assert files.ledger() == {}


# -- a disk that fills ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", LIMITS)
def test_a_disk_that_fills(engine, app, tmp_path, limit):
    """The transaction that does not fit fails as a whole, and the next one, which does, succeeds."""
    with limit(tmp_path / "disk") as root:
        storage = LocalFSStorage(root / "files", name="docs", create=True, fsync=False)
        _fill(engine, app, storage)


def _fill(engine, app, full_disk):
    """Store more than 8 MiB, in one file, then less."""
    app.extensions["storage"]._storages["docs"] = full_disk
    files = Files(engine, full_disk, Base.metadata)
    with Session(engine) as session:
        session.add(Document(title="kept", file=bytes(MIB)))
        session.commit()
        session.add_all([Document(file=bytes(MIB)), Document(file=bytes(9 * MIB))])
        with pytest.raises(StorageFullError):
            session.commit()
        session.rollback()
        assert len(files.stored()) == 1
        document = session.scalars(sa.select(Document)).one()
        document.file = bytes(2 * MIB)
        session.commit()
        document.file = bytes(3 * MIB)
        session.commit()

    assert [len(content) for content in files.contents()] == [3 * MIB]
    files.check_after_sweep()


# -- a clock that jumps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)], ids=["back", "forward"])
def test_a_clock_that_was_wrong_when_files_were_stored(engine, session, files, docs, monkeypatch, jump):
    """Names with a wrong date are names: files are replaced, deleted and kept like others."""

    class WrongClock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + jump

    for module in ("uploads", "lifecycle", "ledger"):
        monkeypatch.setattr(f"flask_storage.sqlalchemy.{module}.datetime", WrongClock)
    kept, replaced = Document(file=b"kept"), Document(file=b"replaced")
    session.add_all([kept, replaced])
    session.commit()
    replaced.file = b"new"
    session.commit()
    monkeypatch.undo()
    assert f"{datetime.now(UTC):%Y-}" not in kept.file.path
    session.delete(replaced)
    session.commit()
    session.close()

    files.check_after_sweep()
    assert files.contents() == [b"kept"]


def test_a_clock_that_is_ahead_during_a_sweep(session, files, document, monkeypatch):
    """It takes any file for old, but never one that a row has."""

    class WrongClock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=3)

    monkeypatch.setattr("flask_storage.sqlalchemy.ledger.datetime", WrongClock)
    session.close()

    files.sweep(older_than=DAY)

    assert files.contents() == [b"old"]


# -- content ----------------------------------------------------------------------------------------------------------


def test_an_orphan_that_is_named_by_its_content(session, files, docs):
    """Left by a rollback or a killed process; a row that stores the same content takes it over."""
    session.add_all([Attachment(file=b"one"), Attachment(file=b"two")])
    session.flush()
    session.rollback()
    session.add(Attachment(file=b"one"))
    session.commit()
    session.close()

    files.check_after_sweep()
    assert files.contents() == [b"one"]
