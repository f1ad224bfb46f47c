"""Objects that are merged, expired, detached, copied or pickled: what counts is what the database holds."""

import pickle

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, defer, load_only, make_transient, make_transient_to_detached

from flask_storage.sqlalchemy import StoredFile
from tests.sqlalchemy.models import Album, Document


@pytest.fixture
def detached(session, document):
    """A loaded document that is in no session."""
    session.refresh(document)
    session.expunge(document)
    session.commit()
    return document


# -- merge ------------------------------------------------------------------------------------------------------------


def test_merging_an_unchanged_object_changes_nothing(session, files, detached):
    """Its value is the row's."""
    session.merge(detached)
    session.commit()

    assert files.contents() == [b"old"]


def test_merging_a_detached_object_with_a_new_file(session, files, detached):
    """The row's old file is deleted."""
    detached.file = b"new"
    merged = session.merge(detached)
    session.commit()

    assert merged.file.read() == b"new"
    assert files.contents() == [b"new"]


def test_merging_a_new_object_for_an_existing_row(session, files, document):
    """The row's old file is deleted."""
    session.merge(Document(id=document.id, file=b"new"))
    session.commit()

    assert files.contents() == [b"new"]


def test_merging_a_new_object(session, files):
    """A row is inserted."""
    session.merge(Document(id=1, file=b"new"))
    session.commit()

    assert files.contents() == [b"new"]


def test_merging_an_object_twice(session, files, detached):
    """Its file is stored once; both merges name it."""
    detached.file = b"new"
    session.merge(detached)
    session.commit()
    session.merge(detached)
    session.commit()

    assert files.contents() == [b"new"]
    assert list(files.ledger().values()) == [1]


def test_merging_without_loading(session, files, detached):
    """The object is taken as the row's state."""
    merged = session.merge(detached, load=False)
    merged.file = b"new"
    session.commit()

    assert files.contents() == [b"new"]


# -- expired, refreshed and deferred ----------------------------------------------------------------------------------


def test_replacing_the_file_of_an_expired_object(session, files, document):
    """The old value is not in memory."""
    session.expire(document)
    document.file = b"new"
    session.commit()

    assert files.contents() == [b"new"]


def test_deleting_an_expired_object(session, files, document):
    """Likewise."""
    session.expire(document)
    session.delete(document)
    session.commit()

    assert files.contents() == []


@pytest.mark.parametrize("forget", ["refresh", "expire"])
def test_a_pending_file_is_forgotten(session, files, document, forget):
    """`refresh` and `expire` discard changes that were not flushed."""
    document.file = b"new"
    with session.no_autoflush:
        getattr(session, forget)(document)
    session.commit()

    assert document.file.read() == b"old"
    assert files.contents() == [b"old"]


@pytest.mark.parametrize("option", [defer(Document.file), load_only(Document.title)], ids=["defer", "load_only"])
@pytest.mark.parametrize("delete", [False, True])
def test_a_column_that_was_not_loaded(session, files, document, option, delete):
    """It is replaced or deleted like any other."""
    session.expunge(document)
    loaded = session.scalars(sa.select(Document).options(option)).one()
    if delete:
        session.delete(loaded)
    else:
        loaded.file = b"new"
    session.commit()

    assert files.contents() == ([] if delete else [b"new"])


def test_an_object_of_which_only_the_identity_is_known(session, files, document):
    """`make_transient_to_detached`: nothing was ever loaded."""
    key = document.id
    session.close()
    known = Document(id=key)
    make_transient_to_detached(known)
    session.add(known)
    known.file = b"new"
    session.commit()

    assert files.contents() == [b"new"]


# -- detached and expunged --------------------------------------------------------------------------------------------


def test_a_detached_object_that_is_changed_and_added(session, files, detached):
    """The row's old file is deleted."""
    detached.file = b"new"
    session.add(detached)
    session.commit()

    assert files.contents() == [b"new"]


def test_a_detached_object_that_is_stale(engine, session, files, detached):
    """Another session has replaced the file since it was loaded: both old files are deleted."""
    with Session(engine) as other, other.begin():
        other.get_one(Document, detached.id).file = b"other"
    detached.file = b"new"
    session.add(detached)
    session.commit()

    assert files.contents() == [b"new"]


def test_a_detached_object_can_be_read(files, detached):
    """Without a session."""
    assert detached.file.read() == b"old"
    assert detached.file.open().read() == b"old"


def test_an_object_that_is_expunged_before_the_flush(session, files, docs):
    """Its file is never stored."""
    document = Document(file=b"one")
    session.add(document)
    session.expunge(document)
    session.commit()

    assert not docs.calls


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_object_that_is_expunged_after_the_flush(session, files, end):
    """Its row decides."""
    document = Document(file=b"one")
    session.add(document)
    session.flush()
    session.expunge(document)
    getattr(session, end)()

    assert files.contents() == ([b"one"] if end == "commit" else [])


def test_a_stale_object_that_is_deleted(engine, session, files, document):
    """The file that the row names now is deleted, not the one in memory."""
    assert document.file.read() == b"old"
    session.commit()
    stale = session.get(Document, document.id)
    session.expunge(stale)
    session.commit()
    with Session(engine) as other, other.begin():
        other.get_one(Document, stale.id).file = b"other"
    session.add(stale)
    session.delete(stale)
    session.commit()

    assert files.contents() == []


# -- copies -----------------------------------------------------------------------------------------------------------


def test_a_copy_of_a_row_by_make_transient(session, files, document):
    """Both rows name the file, which is deleted with the second."""
    key = document.id
    session.refresh(document)
    make_transient(document)
    document.id = None
    session.add(document)
    session.commit()
    assert list(files.ledger().values()) == [2]

    session.delete(document)
    session.commit()
    assert files.contents() == [b"old"]

    session.delete(session.get(Document, key))
    session.commit()
    assert files.contents() == []


def test_a_row_that_is_deleted_and_added_again(session, files, document):
    """In another transaction its file is gone; in the same one it is kept."""
    session.refresh(document)
    session.delete(document)
    session.flush()
    make_transient(document)
    session.add(document)
    session.commit()

    assert document.file.read() == b"old"
    assert files.contents() == [b"old"]


def test_a_stored_value_can_be_pickled(files, document):
    """As for a cache or a task queue; the copy is equal and can be read."""
    copy = pickle.loads(pickle.dumps(document.file))

    assert copy == document.file
    assert copy.read() == b"old"


def test_a_pickled_object_can_be_changed(session, files, detached):
    """It is merged like any other."""
    copy = pickle.loads(pickle.dumps(detached))
    copy.file = b"new"
    session.merge(copy)
    session.commit()

    assert files.contents() == [b"new"]


def test_a_pickled_list_can_be_changed(session, files):
    """What is appended is still wrapped and stored."""
    album = Album(scans=[b"1"])
    session.add(album)
    session.commit()
    session.refresh(album)
    session.expunge(album)
    copy = session.merge(pickle.loads(pickle.dumps(album)))
    copy.scans.append(b"2")
    session.commit()

    assert files.contents() == [b"1", b"2"]


def test_a_pending_value_cannot_be_pickled(files):
    """Its content would be lost."""
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(StoredFile(b"one"))
