"""Sessions, threads and processes that work on the same rows and files."""

import random
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from flask_storage import FileNotFoundInStorageError
from flask_storage.sqlalchemy import StoredFile
from flask_storage.testing.concurrency import TIMEOUT, run_concurrently
from tests.counts import count
from tests.sqlalchemy.models import Album, Attachment, Document

SECONDS = count(2, 10)
ROWS = 12

on_postgresql = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
"""SQLite has one writer, so that the second transaction would wait until its time-out."""


@pytest.fixture
def two_sessions(engine, files):
    """Two sessions on the same database."""
    with Session(engine) as first, Session(engine) as second:
        yield first, second


@pytest.fixture
def key(engine, files):
    """The primary key of a committed document with the file `old`."""
    with Session(engine) as session:
        document = Document(file=b"old")
        session.add(document)
        session.commit()
        return document.id


def _wait_for_lock(engine):
    """Wait until a transaction waits for the lock of another one."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    deadline = time.monotonic() + TIMEOUT
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(waiting):
            assert time.monotonic() < deadline, "no transaction waits"


def _in_thread(app, work):
    """Run in a thread of its own with the app's context; the result's `join` raises its error."""

    class Thread(threading.Thread):
        error = None

        def run(self):
            try:
                with app.app_context():
                    work()
            except Exception as error:  # noqa: BLE001  # raised by join
                self.error = error

        def join(self, timeout=TIMEOUT):
            super().join(timeout)
            assert not self.is_alive()
            if self.error:
                raise self.error

    thread = Thread(daemon=True)
    thread.start()
    return thread


# -- two sessions in turn ---------------------------------------------------------------------------------------------


def test_two_sessions_replace_a_file_in_turn(two_sessions, files, key):
    """The second one has the object with its old value, and deletes the file of the first."""
    first, second = two_sessions
    stale = second.get_one(Document, key)
    second.expunge(stale)
    second.commit()
    first.get_one(Document, key).file = b"first"
    first.commit()

    second.add(stale)
    stale.file = b"second"
    second.commit()

    assert files.contents() == [b"second"]


def test_a_session_assigns_none_to_a_file_that_another_has_replaced(two_sessions, files, key):
    """The other one's file is deleted."""
    first, second = two_sessions
    stale = second.get_one(Document, key)
    second.expunge(stale)
    second.commit()
    first.get_one(Document, key).file = b"first"
    first.commit()

    second.add(stale)
    stale.file = None
    second.commit()

    assert files.contents() == []


def test_a_row_that_another_session_has_deleted(two_sessions, files, key):
    """SQLAlchemy refuses the update; the new file is deleted."""
    first, second = two_sessions
    stale = second.get_one(Document, key)
    second.expunge(stale)
    second.commit()
    first.delete(first.get_one(Document, key))
    first.commit()

    second.add(stale)
    stale.file = b"second"
    with pytest.raises(StaleDataError):
        second.commit()
    second.rollback()

    assert files.contents() == []


def test_a_reader_keeps_its_value_until_it_reads_again(two_sessions, files, key):
    """A file that was replaced is gone: the reader learns that it is not found."""
    first, second = two_sessions
    value = second.get_one(Document, key).file
    second.commit()
    first.get_one(Document, key).file = b"first"
    first.commit()

    with pytest.raises(FileNotFoundInStorageError):
        value.read()
    assert second.get_one(Document, key).file.read() == b"first"


# -- two sessions at the same time ------------------------------------------------------------------------------------


@on_postgresql
@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("action", ["replace", "delete"])
def test_two_sessions_change_a_row_at_the_same_time(engine, two_sessions, files, app, key, end, action):
    """The second waits for the first, and deletes the file that the row names then."""
    first, second = two_sessions
    first.get_one(Document, key).file = b"first"
    first.flush()

    def work():
        document = second.get_one(Document, key)
        if action == "replace":
            document.file = b"second"
        else:
            second.delete(document)
        second.commit()

    thread = _in_thread(app, work)
    _wait_for_lock(engine)
    getattr(first, end)()
    thread.join()

    assert files.contents() == ([b"second"] if action == "replace" else [])


@on_postgresql
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_row_takes_a_file_that_another_session_is_releasing(engine, two_sessions, files, app, key, end):
    """It waits: the file is refused if it was released, and shared if it was not."""
    first, second = two_sessions
    value = second.get_one(Document, key).file
    second.commit()
    first.delete(first.get_one(Document, key))
    first.flush()

    def work():
        second.add(Document(file=value))
        second.commit()

    thread = _in_thread(app, work)
    _wait_for_lock(engine)
    getattr(first, end)()
    if end == "commit":
        with pytest.raises(FileNotFoundInStorageError):
            thread.join()
        second.rollback()
    else:
        thread.join()

    assert files.contents() == ([] if end == "commit" else [b"old"])
    assert list(files.ledger().values()) == ([] if end == "commit" else [2])


@on_postgresql
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_row_releases_a_file_that_another_session_is_taking(engine, two_sessions, files, app, key, end):
    """It waits, and the file stays if the other row has it."""
    first, second = two_sessions
    first.add(Document(file=first.get_one(Document, key).file))
    first.flush()

    def work():
        second.delete(second.get_one(Document, key))
        second.commit()

    thread = _in_thread(app, work)
    _wait_for_lock(engine)
    getattr(first, end)()
    thread.join()

    assert files.contents() == ([b"old"] if end == "commit" else [])


@on_postgresql
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_two_sessions_store_equal_content_at_the_same_time(engine, two_sessions, files, app, end):
    """The second waits for the first, so that neither deletes what the other has stored."""
    first, second = two_sessions
    first.add(Attachment(file=b"one"))
    first.flush()

    def work():
        second.add(Attachment(file=b"one"))
        second.commit()

    thread = _in_thread(app, work)
    _wait_for_lock(engine)
    getattr(first, end)()
    thread.join()

    assert files.contents() == [b"one"]
    assert list(files.ledger().values()) == [2 if end == "commit" else 1]


@on_postgresql
def test_equal_content_is_stored_while_it_is_deleted(engine, two_sessions, files, app, docs):
    """The new row waits for the deletion, and stores the content again."""
    first, second = two_sessions
    row = Attachment(file=b"one")
    first.add(row)
    first.commit()
    first.delete(row)
    deleting, resumed = threading.Event(), threading.Event()
    delete = docs._delete_many

    def wait(paths):
        deleting.set()
        assert resumed.wait(TIMEOUT)
        return delete(paths)

    docs._delete_many = wait

    def store():
        second.add(Attachment(file=b"one"))
        second.commit()

    deleter = _in_thread(app, first.commit)
    assert deleting.wait(TIMEOUT)
    storer = _in_thread(app, store)
    _wait_for_lock(engine)
    resumed.set()
    deleter.join()
    storer.join()

    assert files.contents() == [b"one"]
    assert list(files.ledger().values()) == [1]


def test_a_sweep_while_a_transaction_is_open(engine, two_sessions, files):
    """It is older than the sweep allows for, so its new file is the only one at risk: released files are not."""
    first, _ = two_sessions
    document = Document(file=b"old")
    first.add(document)
    first.commit()
    document.file = b"new"
    first.flush()

    files.sweep(older_than=timedelta(days=1))
    first.rollback()

    assert files.contents() == [b"old"]


# -- many threads -----------------------------------------------------------------------------------------------------


class _Worker:
    """Runs random transactions, and survives what a database reports of concurrent ones."""

    def __init__(self, engine, app, number, change):
        self._engine, self._app, self._change = engine, app, change
        self._random = random.Random(number)
        self.committed = 0

    def run(self):
        """Run transactions for some seconds, and at least until two of them are committed."""
        end = time.monotonic() + SECONDS
        with self._app.app_context():
            while time.monotonic() < end or self.committed < 2:
                with Session(self._engine) as session:
                    try:
                        self._transaction(session)
                    except (OperationalError, StaleDataError, FileNotFoundInStorageError):
                        session.rollback()  # a deadlock, a deleted row, a deleted file

    def _transaction(self, session):
        for _ in range(self._random.randint(1, 4)):
            if self._random.random() < 0.3:
                with session.begin_nested() as savepoint:
                    self._change(session, self._random)
                    session.flush()
                    if self._random.random() < 0.5:
                        savepoint.rollback()
            else:
                self._change(session, self._random)
            if self._random.random() < 0.5:
                session.flush()
        if self._random.random() < 0.2:
            session.rollback()
        else:
            session.commit()
            self.committed += 1


def _change_documents(session, rng):
    documents = list(session.scalars(sa.select(Document)))
    document: Any = rng.choice(documents) if documents else None
    match rng.randrange(8) if documents else 0:
        case 0 | 1:
            session.add(Document(file=rng.randbytes(8)))
        case 2 | 3:
            document.file = rng.randbytes(8)
        case 4:
            session.delete(document)
        case 5:
            document.preview = rng.choice(documents).file
        case 6:
            album = session.scalars(sa.select(Album)).first() or Album(scans=[])
            session.add(album)
            album.scans = [*album.scans[-2:], rng.choice([document.file, StoredFile(rng.randbytes(8))])]
            album.scans = [scan for scan in album.scans if scan]
        case 7:
            session.execute(
                sa.update(Document).where(Document.id == document.id).values(preview=StoredFile(rng.randbytes(8)))
            )


def _change_attachments(session, rng):
    rows = list(session.scalars(sa.select(Attachment)))
    content = rng.choice([b"one", b"two", b"three"])
    if len(rows) < 3 or rng.random() < 0.4:
        session.add(Attachment(file=content))
    elif rng.random() < 0.5:
        session.delete(rng.choice(rows))
    else:
        rng.choice(rows).file = content


# Two threads may delete the same row. SQLAlchemy warns of it.
_ignore_deleted_rows = pytest.mark.filterwarnings("ignore:DELETE statement on table:sqlalchemy.exc.SAWarning")


def _run_workers(engine, app, change):
    workers = [_Worker(engine, app, number, change) for number in range(8)]
    run_concurrently(lambda number: workers[number].run())


@on_postgresql
@_ignore_deleted_rows
def test_eight_threads_with_random_transactions(engine, files, app):
    """After any number of conflicts, rows, ledger and storage agree, without a sweep."""
    _run_workers(engine, app, _change_documents)

    files.check()
    files.check_after_sweep()


@on_postgresql
@_ignore_deleted_rows
def test_eight_threads_with_the_same_contents(engine, files, app):
    """No content is deleted that a row has; what rollbacks have left is deleted by the sweep."""
    _run_workers(engine, app, _change_attachments)

    assert set(files.named()) <= set(files.stored())
    files.check_after_sweep()
