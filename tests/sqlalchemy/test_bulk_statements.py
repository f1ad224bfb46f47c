"""INSERT, UPDATE and DELETE that go past the objects of a session."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from flask_storage.sqlalchemy import StoredFile
from tests.sqlalchemy.models import Album, Base, Document, TenantDocument

TABLE = Base.metadata.tables["document"]


@pytest.fixture(autouse=True)
def three_documents(session):
    """Committed documents with the titles a, b and b."""
    session.add_all(
        [
            Document(id=1, title="a", file=b"1"),
            Document(id=2, title="b", file=b"2"),
            Document(id=3, title="b", file=b"3", preview=b"preview"),
        ]
    )
    session.commit()


def _new():
    return StoredFile(b"new", name="new.txt")


# name: (statement on the session, the contents afterwards)
STATEMENTS = {
    "ORM delete": (lambda s: s.execute(sa.delete(Document).where(Document.title == "b")), [b"1"]),
    "ORM delete with a parameter": (
        lambda s: s.execute(sa.delete(Document).where(Document.title == sa.bindparam("t")), {"t": "b"}),
        [b"1"],
    ),
    "ORM delete with a subquery": (
        lambda s: s.execute(
            sa.delete(Document).where(Document.id.in_(sa.select(Document.id).where(Document.title == "b")))
        ),
        [b"1"],
    ),
    "ORM delete of all": (lambda s: s.execute(sa.delete(Document)), []),
    "ORM delete without synchronization": (
        lambda s: s.execute(
            sa.delete(Document).where(Document.title == "b"), execution_options={"synchronize_session": False}
        ),
        [b"1"],
    ),
    "Query.delete": (lambda s: s.query(Document).filter_by(title="b").delete(), [b"1"]),
    "Core delete": (lambda s: s.execute(TABLE.delete().where(TABLE.c.title == "b")), [b"1"]),
    "ORM update of no file": (
        lambda s: s.execute(sa.update(Document).where(Document.title == "b").values(title="c")),
        [b"1", b"2", b"3", b"preview"],
    ),
    "ORM update": (
        lambda s: s.execute(sa.update(Document).where(Document.title == "b").values(file=_new())),
        [b"1", b"new", b"preview"],
    ),
    "ORM update to None": (
        lambda s: s.execute(sa.update(Document).where(Document.title == "b").values(file=None)),
        [b"1", b"preview"],
    ),
    "ORM update by attribute": (
        lambda s: s.execute(sa.update(Document).where(Document.title == "b").values({Document.preview: _new()})),
        [b"1", b"2", b"3", b"new"],
    ),
    "ORM update by primary key": (
        lambda s: s.execute(sa.update(Document), [{"id": 1, "file": _new()}, {"id": 3, "preview": None}]),
        [b"2", b"3", b"new"],
    ),
    "Query.update": (
        lambda s: s.query(Document).filter_by(title="b").update({"file": _new()}),
        [b"1", b"new", b"preview"],
    ),
    "Core update": (
        lambda s: s.execute(TABLE.update().where(TABLE.c.title == "b").values(file=_new())),
        [b"1", b"new", b"preview"],
    ),
    "Core update with parameters": (
        lambda s: s.execute(TABLE.update().where(TABLE.c.title == "b"), {"file": _new()}),
        [b"1", b"new", b"preview"],
    ),
    "ORM insert": (
        lambda s: s.execute(sa.insert(Document), [{"id": 4, "file": _new()}, {"id": 5, "file": StoredFile(b"5")}]),
        [b"1", b"2", b"3", b"5", b"new", b"preview"],
    ),
    "ORM insert of one": (
        lambda s: s.execute(sa.insert(Document).values(id=4, file=_new())),
        [b"1", b"2", b"3", b"new", b"preview"],
    ),
    "ORM insert that returns objects": (
        lambda s: s.scalars(sa.insert(Document).returning(Document), [{"id": 4, "file": _new()}]).all(),
        [b"1", b"2", b"3", b"new", b"preview"],
    ),
    "Core insert": (
        lambda s: s.execute(TABLE.insert(), [{"id": 4, "title": "", "file": _new()}]),
        [b"1", b"2", b"3", b"new", b"preview"],
    ),
    "Core insert of no file": (
        lambda s: s.execute(TABLE.insert(), {"id": 4, "title": ""}),
        [b"1", b"2", b"3", b"preview"],
    ),
    "insert of a list": (
        lambda s: s.execute(sa.insert(Album), [{"id": 1, "scans": [_new(), StoredFile(b"scan")]}]),
        [b"1", b"2", b"3", b"new", b"preview", b"scan"],
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_is_committed(session, files, name):
    """Its files are stored, and those that no row names any more are deleted, after the commit."""
    execute, expected = STATEMENTS[name]

    execute(session)
    session.commit()

    assert files.contents() == expected


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_is_rolled_back(session, files, name):
    """Everything is as it was."""
    execute, _ = STATEMENTS[name]

    execute(session)
    session.rollback()

    assert files.contents() == [b"1", b"2", b"3", b"preview"]


@pytest.mark.parametrize("name", ["ORM delete", "ORM update", "ORM insert", "Core update"])
def test_a_statement_in_a_savepoint_that_is_rolled_back(session, files, name):
    """Its files are deleted, and those that it released stay."""
    execute, _ = STATEMENTS[name]

    savepoint = session.begin_nested()
    execute(session)
    savepoint.rollback()
    session.commit()

    assert files.contents() == [b"1", b"2", b"3", b"preview"]


def test_the_rows_of_an_update_share_its_file(session, files):
    """One upload; it is deleted with the last of them."""
    STATEMENTS["ORM update"][0](session)
    session.commit()
    assert sorted(files.ledger().values()) == [1, 1, 2]
    session.delete(session.get(Document, 2))
    session.commit()
    assert files.contents() == [b"1", b"new", b"preview"]

    session.delete(session.get(Document, 3))
    session.commit()

    assert files.contents() == [b"1"]


def test_a_statement_after_a_pending_change(session, files):
    """The session flushes first, so that the statement sees what was changed."""
    session.get(Document, 2).file = b"changed"
    session.execute(sa.delete(Document).where(Document.title == "b"))
    session.commit()

    assert files.contents() == [b"1"]


def test_an_object_in_memory_follows_a_statement(session, files):
    """It can be changed after it, and the file of the statement is deleted."""
    document = session.get(Document, 2)
    session.execute(sa.update(Document).where(Document.title == "b").values(file=_new()))
    document.file = b"newest"
    session.commit()
    assert files.contents() == [b"1", b"new", b"newest", b"preview"]

    session.delete(session.get(Document, 3))
    session.commit()

    assert files.contents() == [b"1", b"newest"]


def test_a_statement_that_fails_leaves_no_file(session, files):
    """The file was stored before the database refused the row."""
    with pytest.raises(sa.exc.IntegrityError):
        session.execute(sa.insert(Document), [{"id": 1, "file": _new()}])
    session.rollback()

    assert files.contents() == [b"1", b"2", b"3", b"preview"]


def test_rows_with_a_primary_key_of_two_columns(session, files):
    """Update by primary key, and delete."""
    session.execute(
        sa.insert(TenantDocument).values(tenant=1, number=1, file=(stored := session.get(Document, 1).file))
    )
    session.commit()
    assert files.ledger()[stored.path] == 2

    session.execute(sa.update(TenantDocument), [{"tenant": 1, "number": 1, "file": None}])
    session.execute(sa.delete(Document).where(Document.id == 1))
    session.commit()

    assert files.contents() == [b"2", b"3", b"preview"]


@pytest.mark.parametrize("value", [b"content", "text", object()])
def test_content_that_is_not_wrapped_is_refused(session, files, value):
    """A statement takes StoredFile values only; the error says so."""
    with pytest.raises((TypeError, StatementError), match="StoredFile"):
        session.execute(sa.insert(Document), [{"id": 4, "file": value}])
    session.rollback()


@pytest.mark.parametrize("statement", ["insert", "update"])
def test_a_pending_file_is_refused_on_a_connection(engine, files, statement):
    """Without a session no transaction is known; nothing is stored, and the error says what to do."""
    execute = {"insert": TABLE.insert().values(id=4, file=_new()), "update": TABLE.update().values(file=_new())}
    with engine.begin() as connection, pytest.raises(StatementError, match="Session"):
        connection.execute(execute[statement])


@pytest.mark.parametrize("method", ["bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"])
def test_a_pending_file_is_refused_by_methods_without_events(session, files, method):
    """SQLAlchemy's old bulk methods tell no listener; nothing is lost silently."""
    arguments = {
        "bulk_save_objects": ([Document(id=4, file=b"new")],),
        "bulk_insert_mappings": (Document, [{"id": 4, "file": _new()}]),
        "bulk_update_mappings": (Document, [{"id": 1, "file": _new()}]),
    }
    with pytest.raises(StatementError, match="Session"):
        getattr(session, method)(*arguments[method])
    session.rollback()

    assert files.contents() == [b"1", b"2", b"3", b"preview"]
