"""Transactions and savepoints: files are kept with a commit, and deleted with a rollback."""

import gc
import hashlib
import io
import itertools
import re
import weakref
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_storage.sqlalchemy import StoredFile
from tests.sqlalchemy.agreement import Files
from tests.sqlalchemy.databases import enable_savepoints
from tests.sqlalchemy.models import Base, Document


class _Application(Exception):  # noqa: N818  # not an error of ours
    """An error of the application."""


def _add_and_raise(session, content):
    session.add(Document(file=content))
    session.flush()
    raise _Application


# -- transactions -----------------------------------------------------------------------------------------------------


def test_a_commit_stores_the_file_of_a_new_row(session, files):
    """The row holds where it is, its name, size, content type and checksum."""
    session.add(Document(file=StoredFile(b"%PDF-1.7", name="a report.pdf")))
    session.commit()

    (path,) = files.stored()
    file = session.scalars(sa.select(Document)).one().file
    assert re.fullmatch(r"documents/\d{4}-\d\d-\d\d/[0-9a-f]{32}\.pdf", path)
    assert (file.profile, file.path, file.name, file.size) == ("docs", path, "a report.pdf", 8)
    assert file.content_type == "application/pdf"
    assert file.checksum == f"sha256:{hashlib.sha256(b'%PDF-1.7').hexdigest()}"
    assert file.read() == b"%PDF-1.7"


def test_a_row_without_a_file_needs_no_storage(session, files, docs):
    """Its value is None."""
    document = Document(title="a")
    session.add(document)
    session.commit()

    assert document.file is None
    assert not docs.calls
    assert files.ledger() == {}


def test_assigning_a_file_stores_nothing(session, files, docs):
    """It is pending, and its content can be read."""
    document = Document(file=b"one")

    assert document.file.pending
    assert document.file.path is None
    assert document.file.read() == b"one"
    assert not docs.calls


def test_a_file_is_stored_before_the_first_statement_of_its_flush(session, files, docs, engine):
    """So the database holds no lock while the storage is slow."""
    statements_before_upload = []
    upload = docs._upload_file

    def record(*arguments):
        statements_before_upload.extend(statements)
        return upload(*arguments)

    docs._upload_file = record
    statements: list[str] = []
    with Session(engine) as session:
        sa.event.listen(session.connection(), "before_cursor_execute", lambda *a: statements.append(a[2]))
        session.add_all([Document(file=b"one"), Document(file=b"two")])
        session.commit()

    assert statements_before_upload == []
    assert any(statement.startswith("INSERT INTO document") for statement in statements)


def test_a_rollback_before_the_flush_stores_nothing(session, files, docs):
    """The file was never sent to the storage."""
    session.add(Document(file=b"one"))
    session.rollback()

    assert not docs.calls
    assert files.ledger() == {}


def test_a_rollback_after_the_flush_deletes_the_file(session, files):
    """It was stored, and is deleted at once."""
    session.add(Document(file=b"one"))
    session.flush()
    assert files.contents() == [b"one"]

    session.rollback()

    assert files.contents() == []
    assert files.ledger() == {}


@pytest.mark.parametrize("flushed", [False, True])
def test_closing_the_session_without_a_commit_stores_nothing(engine, files, flushed):
    """As for a request that ends without a commit."""
    session = Session(engine)
    session.add(Document(file=b"one"))
    if flushed:
        session.flush()

    session.close()

    assert files.contents() == []
    assert files.ledger() == {}


def test_an_error_in_a_transaction_block_stores_nothing(engine, files):
    """`with session.begin()` rolls back."""
    with pytest.raises(_Application), Session(engine) as session, session.begin():
        _add_and_raise(session, b"one")

    assert files.contents() == []


def test_a_transaction_block_commits(engine, files):
    """`with session.begin()` ends with a commit."""
    with Session(engine) as session, session.begin():
        session.add(Document(file=b"one"))

    assert files.contents() == [b"one"]


def test_a_rollback_affects_its_own_transaction_only(session, files):
    """What an earlier transaction of the session has stored stays, and the session can be used again."""
    session.add(Document(file=b"one"))
    session.commit()
    session.add(Document(file=b"two"))
    session.flush()
    session.rollback()
    session.add(Document(file=b"three"))
    session.commit()

    assert files.contents() == [b"one", b"three"]


def test_the_content_of_a_committed_file_is_released(session, files):
    """The object keeps where the file is, and not what was uploaded."""
    content = io.BytesIO(b"one")
    document = Document(file=content)
    session.add(document)
    session.commit()
    released = weakref.ref(content)

    del content
    gc.collect()

    assert released() is None
    assert document.file.read() == b"one"


def test_a_long_transaction_keeps_no_content_of_objects_that_are_gone(session, files):
    """Memory is bounded by the objects that the application keeps."""
    content = io.BytesIO(b"one")
    session.add(Document(file=content))
    session.flush()
    session.expunge_all()
    released = weakref.ref(content)

    del content
    gc.collect()

    assert released() is None
    session.rollback()
    assert files.contents() == []


# -- savepoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ["commit", "rollback"])
@pytest.mark.parametrize("inner", ["commit", "rollback"])
def test_a_file_of_a_savepoint_is_kept_if_all_around_it_is_committed(session, files, inner, outer):
    """Each combination of the savepoint's end and the transaction's."""
    session.add(Document(file=b"outer"))
    savepoint = session.begin_nested()
    session.add(Document(file=b"inner"))
    session.flush()
    getattr(savepoint, inner)()
    getattr(session, outer)()

    kept = [b"inner", b"outer"] if inner == "commit" else [b"outer"]
    assert files.contents() == (kept if outer == "commit" else [])


@pytest.mark.parametrize("ends", [*itertools.product(["commit", "rollback"], repeat=3)], ids="-".join)
def test_three_levels_of_savepoints(session, files, ends):
    """A file is kept if its savepoint and all around it are committed."""
    levels = [session]
    for number in range(3):
        if number:
            levels.append(session.begin_nested())
        session.add(Document(file=b"%d" % number))
        session.flush()
    for level, end in zip(reversed(levels), ends, strict=True):
        getattr(level, end)()

    outermost_first = [end == "commit" for end in reversed(ends)]
    assert files.contents() == [b"%d" % number for number in range(3) if all(outermost_first[: number + 1])]


def test_rolling_back_a_savepoint_deletes_its_files_at_once(session, files):
    """Not only when the transaction ends."""
    session.add(Document(file=b"outer"))
    session.flush()
    savepoint = session.begin_nested()
    session.add(Document(file=b"inner"))
    session.flush()

    savepoint.rollback()

    assert files.contents() == [b"outer"]
    session.commit()


def test_an_error_in_a_savepoint_block_deletes_its_files_only(session, files):
    """The usual way to survive an error: `with session.begin_nested()`."""
    session.add(Document(file=b"outer"))
    with pytest.raises(_Application), session.begin_nested():
        _add_and_raise(session, b"inner")
    session.commit()

    assert files.contents() == [b"outer"]


@pytest.mark.parametrize("outer", ["commit", "rollback"])
@pytest.mark.parametrize("inner", ["commit", "rollback"])
def test_replacing_a_file_in_a_savepoint(session, files, document, inner, outer):
    """The old one is deleted only if both are committed."""
    savepoint = session.begin_nested()
    document.file = b"new"
    session.flush()
    getattr(savepoint, inner)()
    getattr(session, outer)()

    expected = b"new" if (inner, outer) == ("commit", "commit") else b"old"
    assert files.contents() == [expected]
    assert document.file.read() == expected


@pytest.mark.parametrize("outer", ["commit", "rollback"])
@pytest.mark.parametrize("inner", ["commit", "rollback"])
def test_deleting_a_row_in_a_savepoint(session, files, document, inner, outer):
    """The file is deleted only if both are committed."""
    savepoint = session.begin_nested()
    session.delete(document)
    session.flush()
    getattr(savepoint, inner)()
    getattr(session, outer)()

    assert files.contents() == ([] if (inner, outer) == ("commit", "commit") else [b"old"])


def test_a_file_replaced_outside_and_again_in_a_savepoint_that_is_rolled_back(session, files, document):
    """The one from outside of the savepoint is kept."""
    document.file = b"outer"
    session.flush()
    with suppress(_Application), session.begin_nested():
        document.file = b"inner"
        session.flush()
        raise _Application
    session.commit()

    assert files.contents() == [b"outer"]
    assert document.file.read() == b"outer"


def test_a_commit_of_a_savepoint_deletes_no_replaced_file(session, files, document):
    """The transaction may still be rolled back."""
    with session.begin_nested():
        document.file = b"new"
    assert files.contents() == [b"new", b"old"]

    session.commit()

    assert files.contents() == [b"new"]


# -- a transaction of the application's own on the connection ---------------------------------------------------------


@pytest.fixture(params=["conditional_savepoint", "create_savepoint", "rollback_only"])
def joined_session(request, engine, files):
    """A session on a connection with a transaction of its own, as test suites have it; and that transaction."""
    with engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode=request.param) as session:
            yield session, transaction
        if transaction.is_active:
            transaction.rollback()


def test_rolling_back_a_session_on_a_connection_with_a_transaction(joined_session, files):
    """The session's files are deleted; its transaction did nothing else."""
    session, _ = joined_session
    session.add(Document(file=b"one"))
    session.flush()
    session.rollback()

    assert files.contents() == []


def test_an_outer_transaction_on_the_connection_is_committed_after_the_session(joined_session, files):
    """The files that are to be deleted then are deleted by the next sweep."""
    session, transaction = joined_session
    document = Document(file=b"one")
    session.add(document)
    session.commit()
    document.file = b"two"
    session.commit()
    assert files.contents() == [b"one", b"two"]
    session.close()
    transaction.commit()

    files.check()
    files.check_after_sweep()
    assert files.contents() == [b"two"]


def test_an_outer_transaction_on_the_connection_is_rolled_back_after_the_session(engine, files, joined_session):
    """No file is lost that the database names again."""
    with Session(engine) as earlier, earlier.begin():
        earlier.add(Document(id=1, file=b"old"))
    session, transaction = joined_session
    document = session.get(Document, 1)
    document.file = b"new"
    session.commit()
    session.close()
    transaction.rollback()

    files.check_after_sweep()
    assert files.contents() == [b"old"]


def test_a_transaction_around_a_session_on_a_database_with_one_connection(docs, caplog):
    """As in tests with SQLite in memory: no file is deleted, and no other use of the connection is tried."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    enable_savepoints(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Document(id=1, file=b"old"))
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.get_one(Document, 1).file = b"new"
            session.commit()
        assert not caplog.records
        transaction.rollback()
    files = Files(engine, docs, Base.metadata)

    files.check_after_sweep()
    assert files.contents() == [b"old"]
    engine.dispose()
