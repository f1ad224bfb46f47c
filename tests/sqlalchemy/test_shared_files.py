"""Files that several rows name, that rows take over, and that are named by their content."""

import hashlib
import logging

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_storage import FileNotFoundInStorageError, StorageUnavailableError
from flask_storage.sqlalchemy import StoredFile
from tests.sqlalchemy.models import LEDGER, Album, Attachment, Document

# -- the same value in several rows -----------------------------------------------------------------------------------


def test_a_file_of_two_rows_is_deleted_with_the_second(session, files, document):
    """Deleting or changing one does not take it from the other."""
    other = Document(file=document.file)
    session.add(other)
    session.commit()
    assert list(files.ledger().values()) == [2]
    session.delete(document)
    session.commit()
    assert other.file.read() == b"old"

    other.file = None
    session.commit()

    assert files.contents() == []


def test_a_pending_file_of_two_rows_is_stored_once(session, files):
    """Both name it."""
    file = StoredFile(b"one")
    session.add_all([Document(file=file), Document(file=file, preview=file), Album(scans=[file, file])])
    session.commit()

    assert files.contents() == [b"one"]
    assert list(files.ledger().values()) == [5]


def test_a_file_of_two_columns_with_different_directories(session, files, document):
    """A value keeps its path."""
    document.preview = document.file
    session.commit()
    document.file = None
    session.commit()

    assert document.preview.read() == b"old"


def test_a_shared_file_whose_second_row_is_rolled_back(session, files, document):
    """It is counted once, and kept."""
    session.add(Document(file=document.file))
    session.flush()
    session.rollback()

    assert list(files.ledger().values()) == [1]
    assert files.contents() == [b"old"]


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("take_first", [False, True])
def test_a_file_that_moves_to_another_row(session, files, document, flush, take_first):
    """In one transaction, in any order."""
    file = document.file
    other = Document(title="other")
    session.add(other)
    session.commit()
    for step in ("take", "leave") if take_first else ("leave", "take"):
        if step == "take":
            other.file = file
        else:
            document.file = None
        if flush:
            session.flush()
    session.commit()

    assert other.file.read() == b"old"
    assert list(files.ledger().values()) == [1]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_file_that_moves_to_another_row_in_a_savepoint(session, files, document, end):
    """The savepoint is kept or not; the file is."""
    file = document.file
    other = Document()
    session.add(other)
    document.file = None
    session.flush()
    savepoint = session.begin_nested()
    other.file = file
    session.flush()
    getattr(savepoint, end)()
    session.commit()

    assert files.contents() == ([b"old"] if end == "commit" else [])


def test_a_file_of_a_deleted_row_in_the_same_transaction(session, files, document):
    """It can still be taken over."""
    file = document.file
    session.delete(document)
    session.flush()
    session.add(other := Document(file=file))
    session.commit()

    assert other.file.read() == b"old"


def test_a_file_of_a_row_that_was_deleted_before(session, files, document):
    """The file is gone: the flush fails, instead of a row that names nothing."""
    file = document.file
    session.delete(document)
    session.commit()
    session.add(Document(file=file))
    with pytest.raises(FileNotFoundInStorageError):
        session.commit()
    session.rollback()

    assert files.ledger() == {}


def test_a_file_that_is_about_to_be_deleted_is_refused(session, files, document, docs, caplog):
    """It was released by a committed transaction, and the storage was away: any sweep may delete it."""
    caplog.set_level(logging.CRITICAL, "flask_storage")
    file = document.file
    docs.fail("delete", times=None)
    session.delete(document)
    session.commit()
    docs.reset()
    assert files.contents() == [b"old"]
    session.add(Document(file=file))
    with pytest.raises(FileNotFoundInStorageError):
        session.commit()
    session.rollback()
    session.close()

    files.check_after_sweep()


def test_a_file_whose_transaction_was_rolled_back_is_stored_for_another_row(session, files):
    """The value is pending again."""
    file = StoredFile(b"one")
    session.add(Document(file=file))
    session.flush()
    session.rollback()

    session.add(Document(file=file))
    session.commit()

    assert files.contents() == [b"one"]


# -- files that are there already -------------------------------------------------------------------------------------


def test_a_row_takes_over_an_existing_file(session, files, docs):
    """A finished direct upload, or an import; it is deleted with the row."""
    docs.write("incoming/a.txt", b"one", content_type="text/plain; charset=utf-8")
    document = Document(file=StoredFile.existing("docs", "incoming/a.txt", name="My file.txt"))
    session.add(document)
    session.commit()
    assert (document.file.path, document.file.name, document.file.size) == ("incoming/a.txt", "My file.txt", 3)
    assert document.file.content_type == "text/plain; charset=utf-8"
    assert files.ledger() == {"incoming/a.txt": 1}

    session.delete(document)
    session.commit()

    assert files.contents() == []


def test_an_existing_file_is_not_deleted_by_a_rollback(session, files, docs):
    """The session has not stored it."""
    docs.write("incoming/a.txt", b"one")
    session.add(Document(file=StoredFile.existing("docs", "incoming/a.txt")))
    session.flush()
    session.rollback()

    assert files.contents() == [b"one"]
    docs.delete("incoming/a.txt")


def test_two_rows_take_over_the_same_existing_file(session, files, docs):
    """It is counted, in one flush or in several."""
    docs.write("incoming/a.txt", b"one")
    session.add_all(Document(file=StoredFile.existing("docs", "incoming/a.txt")) for _ in range(2))
    session.commit()
    session.add(Document(file=StoredFile.existing("docs", "incoming/a.txt")))
    session.commit()

    assert files.ledger() == {"incoming/a.txt": 3}


def test_an_existing_file_that_does_not_exist(session, files, docs):
    """It is refused when the value is made, and at the flush if it was deleted since."""
    with pytest.raises(FileNotFoundInStorageError):
        StoredFile.existing("docs", "incoming/a.txt")
    docs.write("incoming/a.txt", b"one")
    session.add(Document(file=StoredFile.existing("docs", "incoming/a.txt")))
    docs.delete("incoming/a.txt")
    with pytest.raises(FileNotFoundInStorageError):
        session.commit()
    session.rollback()


def test_a_storage_that_is_away_while_a_row_takes_over_a_file(session, files, docs):
    """The flush fails; nothing says that the file is missing."""
    docs.write("incoming/a.txt", b"one")
    session.add(Document(file=StoredFile.existing("docs", "incoming/a.txt")))
    docs.fail("stat", times=None)
    with pytest.raises(StorageUnavailableError):
        session.commit()
    session.rollback()
    docs.reset()
    docs.delete("incoming/a.txt")


# -- rows that are older than the ledger ------------------------------------------------------------------------------


@pytest.fixture
def old_row(session, document):
    """A document whose file is not in the ledger, as after the column was introduced for existing data."""
    session.execute(sa.delete(LEDGER))
    session.commit()
    return document


def test_deleting_a_row_that_is_older_than_the_ledger(session, files, old_row):
    """Its file is deleted."""
    session.delete(old_row)
    session.commit()

    assert files.contents() == []
    assert files.ledger() == {}


def test_replacing_a_file_that_is_older_than_the_ledger(session, files, old_row):
    """Likewise."""
    old_row.file = b"new"
    session.commit()

    assert files.contents() == [b"new"]


def test_deleting_many_rows_that_are_older_than_the_ledger(session, files):
    """Some of them are in it."""
    session.add_all(Document(file=b"%d" % number) for number in range(6))
    session.commit()
    known = set(files.stored()[:3])
    session.execute(sa.delete(LEDGER).where(LEDGER.c.path.not_in(known)))
    session.commit()
    for document in session.scalars(sa.select(Document)):
        session.delete(document)
    session.commit()

    assert files.contents() == []
    assert files.ledger() == {}


def test_a_rollback_keeps_a_file_that_is_older_than_the_ledger(session, files, old_row):
    """It was not stored by the session."""
    session.delete(old_row)
    session.flush()
    session.rollback()

    assert files.contents() == [b"old"]
    session.delete(old_row)
    session.commit()


# -- named by their content -------------------------------------------------------------------------------------------


def _path(content):
    digest = hashlib.sha256(content).hexdigest()
    return f"blobs/{digest[:2]}/{digest}"


def test_a_file_is_named_by_its_content(session, files):
    """Two rows with equal content share one file."""
    session.add_all([Attachment(file=b"one"), Attachment(file=StoredFile(b"one", name="b.txt"))])
    session.commit()
    session.add(Attachment(file=b"one"))
    session.commit()

    assert files.ledger() == {_path(b"one"): 3}
    assert files.contents() == [b"one"]


def test_equal_content_is_deleted_with_the_last_row(session, files):
    """And can be stored again."""
    rows = [Attachment(file=b"one") for _ in range(2)]
    session.add_all(rows)
    session.commit()
    session.delete(rows[0])
    session.commit()
    assert files.contents() == [b"one"]
    session.delete(rows[1])
    session.commit()
    assert files.contents() == []
    assert files.ledger() == {}

    session.add(Attachment(file=b"one"))
    session.commit()

    assert files.contents() == [b"one"]


def test_replacing_content_by_equal_content(session, files):
    """The file stays."""
    row = Attachment(file=b"one")
    session.add(row)
    session.commit()
    row.file = b"one"
    session.commit()
    assert files.ledger() == {_path(b"one"): 1}

    row.file = b"two"
    session.commit()

    assert files.ledger() == {_path(b"two"): 1}
    assert files.contents() == [b"two"]


def test_a_rollback_never_deletes_content_that_another_row_has(session, files):
    """Whatever was stored first."""
    session.add(Attachment(file=b"one"))
    session.commit()
    session.add_all([Attachment(file=b"one"), Attachment(file=b"two")])
    session.flush()
    session.rollback()

    assert b"one" in files.contents()
    session.close()
    files.check_after_sweep()
    assert files.contents() == [b"one"]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_content_that_is_stored_in_a_savepoint(session, files, end):
    """The same content outside of it is kept."""
    session.add(Attachment(file=b"one"))
    session.flush()
    savepoint = session.begin_nested()
    session.add_all([Attachment(file=b"one"), Attachment(file=b"two")])
    session.flush()
    getattr(savepoint, end)()
    session.commit()
    session.close()

    files.check_after_sweep()
    assert files.contents() == ([b"one", b"two"] if end == "commit" else [b"one"])


def test_content_whose_row_failed_can_be_stored_again(session, files):
    """The retry after an error."""
    session.execute(sa.insert(Attachment).values(id=1))
    session.commit()
    row = Attachment(id=1, file=b"one")
    session.add(row)
    with pytest.raises(sa.exc.IntegrityError):
        session.commit()
    session.rollback()
    row.id = 2
    session.add(row)
    session.commit()

    assert row.file.read() == b"one"
    session.close()
    files.check_after_sweep()


def test_content_that_is_released_and_stored_in_one_transaction(session, files):
    """Deleted with one row, and added with another."""
    row = Attachment(file=b"one")
    session.add(row)
    session.commit()
    session.delete(row)
    session.flush()
    session.add(Attachment(file=b"one"))
    session.commit()

    assert files.ledger() == {_path(b"one"): 1}
    assert files.contents() == [b"one"]


def test_content_of_bulk_statements(session, files):
    """Named by its content too."""
    session.execute(sa.insert(Attachment), [{"id": 1, "file": StoredFile(b"one")}, {"id": 2, "file": None}])
    session.execute(sa.update(Attachment).where(Attachment.id == 2).values(file=StoredFile(b"one")))
    session.commit()
    assert files.ledger() == {_path(b"one"): 2}

    session.execute(sa.delete(Attachment))
    session.commit()

    assert files.contents() == []


def test_content_that_a_failed_deletion_left_is_used_again(engine, session, files, docs, caplog):
    """It waits for the sweep, and a new row needs it: it is kept."""
    caplog.set_level(logging.CRITICAL, "flask_storage")
    row = Attachment(file=b"one")
    session.add(row)
    session.commit()
    docs.fail("delete", times=None)
    session.delete(row)
    session.commit()
    docs.reset()

    with Session(engine) as other, other.begin():
        other.add(Attachment(file=b"one"))
    session.close()

    files.check_after_sweep()
    assert files.contents() == [b"one"]
