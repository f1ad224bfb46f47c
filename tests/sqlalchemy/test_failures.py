"""Failures of a flush, of COMMIT and of the storage: no row without its file, and no file that stays behind."""

import logging
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from flask_storage import IntegrityError as StorageIntegrityError, StorageFullError, StorageUnavailableError
from flask_storage.sqlalchemy import StoredFile
from tests.counts import count
from tests.sqlalchemy import rich_transaction
from tests.sqlalchemy.models import Album, Document


class _Application(Exception):  # noqa: N818  # not an error of ours
    """An error of the application."""


def _add_in_savepoint(session, document):
    with session.begin_nested():
        session.add(document)


@pytest.fixture
def taken(session):
    """A committed document with the code 1, which is unique."""
    session.add(Document(code=1, file=b"taken"))
    session.commit()


# -- the flush fails --------------------------------------------------------------------------------------------------


def test_a_flush_that_the_database_refuses_leaves_no_file(session, files, taken):
    """The file was stored before the INSERT that failed."""
    session.add(Document(code=1, file=b"one"))
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()

    assert files.contents() == [b"taken"]


def test_an_update_that_the_database_refuses_keeps_the_old_file(session, files, taken, document):
    """The new one is deleted."""
    document.file, document.code = b"new", 1
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()

    assert document.file.read() == b"old"
    assert files.contents() == [b"old", b"taken"]


def test_an_object_whose_insert_failed_can_be_added_again(session, files, taken):
    """The usual retry: its value is pending again, with its content."""
    document = Document(code=1, file=StoredFile(b"one", name="a.txt", metadata={"language": "en"}))
    session.add(document)
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()
    assert document.file.pending

    document.code = 2
    session.add(document)
    session.commit()

    assert document.file.read() == b"one"
    assert (document.file.name, document.file.metadata) == ("a.txt", {"language": "en"})
    assert files.contents() == [b"one", b"taken"]


def test_an_object_that_was_rolled_back_can_be_added_to_another_session(engine, session, files):
    """Its content is stored again."""
    document = Document(file=b"one")
    session.add(document)
    session.flush()
    session.rollback()

    with Session(engine) as other, other.begin():
        other.add(document)

    assert files.contents() == [b"one"]


def test_an_object_can_be_added_again_after_a_rolled_back_savepoint(session, files, taken):
    """`begin_nested` with a retry, which inserts many rows one by one."""
    for code in (1, 2, 3):
        document = Document(code=code, file=b"%d" % code)
        with suppress(IntegrityError):
            _add_in_savepoint(session, document)
        if document not in session:
            document.code = 4
            session.add(document)
    session.commit()

    assert files.contents() == [b"1", b"2", b"3", b"taken"]


@pytest.mark.parametrize("savepoint", [False, True])
def test_an_autoflush_that_fails_leaves_no_file(session, files, taken, savepoint):
    """A query flushes, and fails, before it runs."""
    if savepoint:
        session.begin_nested()
    session.add(Document(code=1, file=b"one"))
    with pytest.raises(IntegrityError):
        session.scalars(sa.select(Document)).all()
    session.rollback()

    assert files.contents() == [b"taken"]


def test_a_failed_flush_in_a_savepoint_keeps_the_files_around_it(session, files, taken):
    """Only the savepoint is rolled back."""
    session.add(Document(code=2, file=b"outer"))
    session.flush()
    with pytest.raises(IntegrityError):
        _add_in_savepoint(session, Document(code=1, file=b"inner"))
    session.commit()

    assert files.contents() == [b"outer", b"taken"]


@pytest.mark.parametrize("name", ["before_flush", "after_flush", "after_flush_postexec", "before_commit"])
@pytest.mark.parametrize("flush", [False, True])
def test_a_listener_that_raises_leaves_no_file(engine, files, name, flush):
    """At any step before COMMIT. After the flush, it may look like a COMMIT whose response is lost."""

    def fail(*_):
        raise _Application

    with Session(engine) as session:
        session.add(Document(file=b"one"))
        if flush:
            session.flush()
            session.add(Document(file=b"two"))
        event.listen(session, name, fail)
        with pytest.raises(_Application):
            session.commit()
        session.rollback()

    if name in ("after_flush_postexec", "before_commit"):
        files.check_after_sweep()
    assert files.contents() == []


def test_a_listener_that_raises_after_the_commit_loses_nothing(session, files, document):
    """The row and its new file are there."""

    def fail(*_):
        raise _Application

    event.listen(session, "after_commit", fail)
    document.file = b"new"
    with pytest.raises(_Application):
        session.commit()
    session.close()

    files.check_after_sweep()
    assert files.contents() == [b"new"]


def test_a_file_whose_row_the_flush_did_not_reach(session, files, taken):
    """All files of a flush are stored first; those of rows that were not inserted yet are deleted too."""
    session.add_all([Document(code=1, file=b"one"), Album(scans=[b"two", b"three"])])
    with pytest.raises(IntegrityError):
        session.flush()
    session.rollback()

    assert files.contents() == [b"taken"]


# -- COMMIT fails -----------------------------------------------------------------------------------------------------


def test_a_commit_that_the_database_refuses_loses_nothing(session, files, document):
    """A deferred constraint fails at COMMIT itself. The new file may stay until the next sweep."""
    document.file, document.folder_id = b"new", 4711
    session.flush()
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()

    assert document.file.read() == b"old"
    session.close()
    files.check_after_sweep()
    assert files.contents() == [b"old"]


def test_an_insert_that_is_refused_at_commit_can_be_repeated(session, files):
    """The object has its content still."""
    document = Document(file=b"one", folder_id=4711)
    session.add(document)
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()
    document.folder_id = None
    session.add(document)
    session.commit()

    assert document.file.read() == b"one"
    session.close()
    files.check_after_sweep()
    assert files.contents() == [b"one"]


@pytest.fixture
def lost_response(engine, monkeypatch):
    """Return a function after whose call the next COMMIT raises, as when the connection breaks.

    Its argument says whether the database received the COMMIT before that.
    """

    def lose(*, received):
        do_commit = engine.dialect.do_commit

        def commit(connection):
            monkeypatch.undo()
            if received:
                do_commit(connection)
            else:
                connection.rollback()
            raise engine.dialect.dbapi.OperationalError("the connection was closed")

        monkeypatch.setattr(engine.dialect, "do_commit", commit)

    return lose


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("received", [False, True])
def test_a_commit_whose_response_is_lost(session, files, document, lost_response, flush, received):
    """Whether it was committed is unknown: both files stay until the sweep, which asks the database."""
    document.file = b"new"
    if flush:
        session.flush()
    lost_response(received=received)
    with pytest.raises(OperationalError):
        session.commit()
    session.rollback()

    session.close()
    assert files.contents() == [b"new", b"old"]
    files.check_after_sweep()
    assert files.contents() == [b"new" if received else b"old"]


@pytest.mark.parametrize("received", [False, True])
def test_a_new_row_whose_commit_response_is_lost(engine, files, lost_response, received):
    """The session is closed without a rollback."""
    with Session(engine) as session:
        session.add(Document(file=b"one"))
        lost_response(received=received)
        with pytest.raises(OperationalError):
            session.commit()

    assert files.contents() == [b"one"]
    files.check_after_sweep()
    assert files.contents() == ([b"one"] if received else [])


def test_a_rollback_after_an_earlier_lost_response_deletes_files(session, files, lost_response):
    """The doubt ends with the transaction that it concerns."""
    session.add(Document(file=b"one"))
    lost_response(received=True)
    with pytest.raises(OperationalError):
        session.commit()
    session.rollback()

    session.add(Document(file=b"two"))
    session.flush()
    session.rollback()

    assert files.contents() == [b"one"]


# -- the storage fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["open_writer", "write"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_upload_that_fails_fails_the_flush(session, files, document, docs, call, number):
    """No row is written, no file stays, and the same session works when the storage does."""
    session.add_all([Document(file=b"one"), Document(file=b"two")])
    document.file = b"new"
    docs.fail(call, on=number)
    with pytest.raises(StorageUnavailableError):
        session.commit()
    session.rollback()
    assert files.contents() == [b"old"]
    assert session.scalar(sa.select(sa.func.count()).select_from(Document)) == 1

    document.file = b"newer"
    session.commit()

    assert files.contents() == [b"newer"]


def test_an_upload_that_fails_in_a_savepoint(session, files, docs):
    """The files around it are kept."""
    session.add(Document(file=b"outer"))
    session.flush()
    docs.fail("open_writer")
    with pytest.raises(StorageUnavailableError):
        _add_in_savepoint(session, Document(file=b"inner"))
    session.commit()

    assert files.contents() == [b"outer"]


def test_a_storage_that_is_full(session, files, docs):
    """The error says so, and nothing is left."""
    session.add_all([Document(file=b"one"), Document(file=b"two " * 1000)])
    docs.fail("write", after=2000, error=StorageFullError("no space left"))
    with pytest.raises(StorageFullError):
        session.commit()
    session.rollback()

    assert files.contents() == []


def test_a_source_that_fails(session, files, document):
    """Its error is raised unchanged, by the assignment if it can be read only once; the row keeps its file."""

    class Source:
        def read(self, size=-1):
            raise _Application

    with pytest.raises(_Application):
        document.file = Source()
    session.commit()

    assert document.file.read() == b"old"


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_a_local_file_that_has_changed_at_the_flush(session, files, tmp_path, size):
    """It has another size than was checked at the assignment: the flush fails."""
    source = tmp_path / "a.txt"
    source.write_bytes(bytes(50_000))
    session.add(Document(file=source))
    source.write_bytes(bytes(size))
    with pytest.raises(StorageIntegrityError):
        session.commit()
    session.rollback()

    assert files.contents() == []


def test_a_path_that_is_gone_at_the_flush(session, files, tmp_path):
    """A local file that was deleted between assignment and flush fails the flush."""
    source = tmp_path / "a.txt"
    source.write_bytes(b"one")
    session.add(Document(file=source))
    source.unlink()
    with pytest.raises(FileNotFoundError):
        session.commit()
    session.rollback()

    assert files.contents() == []


def test_a_storage_that_is_away_at_the_deletion(session, files, document, docs, caplog):
    """The commit succeeds, a warning is logged, and the next sweep deletes the file."""
    document.file = b"new"
    docs.fail("delete", times=None)
    with caplog.at_level(logging.WARNING, "flask_storage"):
        session.commit()

    assert files.contents() == [b"new", b"old"]
    assert sorted(files.ledger().values()) == [0, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    docs.reset()
    session.close()
    files.check_after_sweep()
    assert files.contents() == [b"new"]


def test_a_storage_that_is_away_at_the_rollback(session, files, docs, caplog):
    """The rollback succeeds, a warning is logged, and the next sweep deletes the file."""
    session.add(Document(file=b"one"))
    session.flush()
    docs.fail("delete", times=None)
    with caplog.at_level(logging.WARNING, "flask_storage"):
        session.rollback()

    assert files.contents() == [b"one"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    docs.reset()
    session.close()
    files.check_after_sweep()


def test_some_of_the_files_cannot_be_deleted(session, files, docs, caplog):
    """The others are deleted, and only those stay in the ledger that remain."""
    session.add_all(Document(file=b"%d" % number) for number in range(5))
    session.commit()
    docs.fail("delete", on=2, times=2)
    for document in session.scalars(sa.select(Document)):
        session.delete(document)
    session.commit()

    assert len(files.stored()) == 2
    assert set(files.ledger()) == set(files.stored())
    session.close()
    files.check_after_sweep()
    assert files.contents() == []


def test_a_database_that_is_away_at_the_deletion(session, files, document, engine, caplog, monkeypatch):
    """The commit succeeds; the sweep deletes the file."""

    def refuse():
        raise engine.dialect.dbapi.OperationalError("too many connections")

    document.file = b"new"
    session.flush()
    with caplog.at_level(logging.WARNING, "flask_storage"), monkeypatch.context() as patch:
        patch.setattr(engine, "raw_connection", refuse)
        session.commit()

    assert files.contents() == [b"new", b"old"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    session.close()
    files.check_after_sweep()
    assert files.contents() == [b"new"]


# -- a storage that fails at each call in turn ------------------------------------------------------------------------


@pytest.fixture
def rich_calls(engine, files, docs):
    """The names of the calls of the storage in a transaction that does everything, which was run and undone."""
    with Session(engine) as session:
        rich_transaction.prepare(session)
        first = len(docs.calls)
        rich_transaction.run(session)
    assert files.contents() == rich_transaction.AFTER
    _delete_all(engine)
    return [call.name for call in docs.calls[first:] if call.name not in ("list", "open_reader", "read")]


def _delete_all(engine):
    with Session(engine) as session:
        session.execute(sa.delete(Document))
        session.execute(sa.delete(Album))
        session.commit()


def test_a_storage_that_fails_at_each_call_in_turn(engine, files, docs, rich_calls, caplog):
    """The transaction is committed or not; no row is without its file, and nothing is left after a sweep."""
    caplog.set_level(logging.CRITICAL, "flask_storage")
    outcomes = []
    for number, call in [*enumerate(rich_calls)][:: count(2, 1)]:
        with Session(engine) as session:
            rich_transaction.prepare(session)
        docs.fail(call, on=rich_calls[: number + 1].count(call))
        with Session(engine) as session:
            try:
                rich_transaction.run(session)
                expected = rich_transaction.AFTER
            except StorageUnavailableError:
                expected = rich_transaction.BEFORE
        docs.reset()

        assert set(files.named()) <= set(files.stored())
        files.check_after_sweep()
        assert files.contents() == expected
        outcomes.append(expected)
        _delete_all(engine)

    assert {"open_writer", "write", "delete"} <= set(rich_calls)
    assert rich_transaction.AFTER in outcomes
    assert rich_transaction.BEFORE in outcomes
