"""Rows that are changed and deleted: a file goes with the last row that names it."""

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from flask_storage.sqlalchemy import StoredFile
from tests.sqlalchemy.models import Album, Document, Employee, Folder, Person, Report, TenantDocument

# -- replace ----------------------------------------------------------------------------------------------------------


def test_a_replaced_file_is_deleted_after_the_commit(session, files, document):
    """Until then other sessions read it."""
    document.file = b"new"
    session.flush()
    assert files.contents() == [b"new", b"old"]

    session.commit()

    assert files.contents() == [b"new"]
    assert document.file.read() == b"new"


def test_a_replacement_that_is_rolled_back_changes_nothing(session, files, document):
    """The object has the old file again."""
    document.file = b"new"
    session.flush()
    session.rollback()

    assert files.contents() == [b"old"]
    assert document.file.read() == b"old"


@pytest.mark.parametrize("flush", [True, False])
def test_a_file_that_is_replaced_three_times_in_one_transaction(session, files, document, flush):
    """Only the last one is kept."""
    for content in (b"1", b"2", b"3"):
        document.file = content
        if flush:
            session.flush()
    session.commit()

    assert files.contents() == [b"3"]


def test_a_file_that_is_replaced_three_times_and_rolled_back(session, files, document):
    """None of the new ones is kept."""
    for content in (b"1", b"2", b"3"):
        document.file = content
        session.flush()
    session.rollback()

    assert files.contents() == [b"old"]


def test_assigning_none_deletes_the_file(session, files, document):
    """The row stays; the column is NULL."""
    document.file = None
    session.commit()

    assert files.contents() == []
    assert session.scalar(sa.select(Document.file.is_(None))) is True


def test_assigning_none_to_a_row_without_a_file(session, files):
    """Nothing happens."""
    document = Document(title="a")
    session.add(document)
    session.commit()
    document.file = None
    session.commit()

    assert files.contents() == []


def test_a_new_name_and_new_metadata_keep_the_file(session, files, document):
    """`replace` changes what the row says about it."""
    path = document.file.path

    document.file = document.file.replace(name="renamed.txt", metadata={"language": "en"})
    session.commit()

    assert (document.file.name, document.file.metadata) == ("renamed.txt", {"language": "en"})
    assert files.stored() == [path]
    assert files.ledger() == {path: 1}


def test_assigning_the_same_value_again_changes_nothing(session, files, document, docs):
    """No statement and no call of the storage."""
    docs.calls.clear()

    document.file = document.file
    session.commit()

    assert not docs.calls
    assert files.contents() == [b"old"]


def test_a_value_cannot_be_changed_in_place(document):
    """A change in place would not be seen; the error says what to do."""
    with pytest.raises(AttributeError, match="replace"):
        document.file.name = "other.txt"


def test_two_rows_exchange_their_files(session, files, document):
    """Neither is deleted."""
    other = Document(file=b"other")
    session.add(other)
    session.commit()

    document.file, other.file = other.file, document.file
    session.commit()

    assert (document.file.read(), other.file.read()) == (b"other", b"old")
    assert files.contents() == [b"old", b"other"]


def test_two_columns_of_a_row_are_independent(session, files):
    """Replacing one keeps the other; deleting the row deletes both."""
    document = Document(file=b"file", preview=b"preview")
    session.add(document)
    session.commit()
    document.preview = b"new preview"
    session.commit()
    assert files.contents() == [b"file", b"new preview"]

    session.delete(document)
    session.commit()

    assert files.contents() == []


@pytest.mark.parametrize("new_file", [False, True])
def test_a_row_whose_primary_key_changes(session, files, document, new_file):
    """Its file stays, or is replaced like any other."""
    document.id += 1000
    if new_file:
        document.file = b"new"
    session.commit()

    assert files.contents() == [b"new" if new_file else b"old"]


def test_a_directory_that_depends_on_the_row(session, files):
    """It is called with the object, at the flush; keys of two columns work."""
    first, second = (TenantDocument(tenant=tenant, number=1, file=b"%d" % tenant) for tenant in (1, 2))
    session.add_all([first, second])
    session.commit()
    assert [path.partition("/")[0] for path in files.stored()] == ["tenant-1", "tenant-2"]

    first.file = b"new"
    session.delete(second)
    session.commit()

    assert files.contents() == [b"new"]


# -- delete -----------------------------------------------------------------------------------------------------------


def test_deleting_a_row_deletes_its_file_after_the_commit(session, files, document):
    """Not before."""
    session.delete(document)
    session.flush()
    assert files.contents() == [b"old"]

    session.commit()

    assert files.contents() == []


def test_deleting_a_row_and_rolling_back_keeps_the_file(session, files, document):
    """And it can still be read."""
    session.delete(document)
    session.flush()
    session.rollback()

    assert document.file.read() == b"old"


def test_a_row_that_is_added_and_deleted_in_one_transaction(session, files):
    """Nothing is left."""
    document = Document(file=b"one")
    session.add(document)
    session.flush()
    session.delete(document)
    session.commit()

    assert files.contents() == []


def test_a_replaced_file_and_then_a_deleted_row_in_one_transaction(session, files, document):
    """Both files are deleted."""
    document.file = b"new"
    session.flush()
    session.delete(document)
    session.commit()

    assert files.contents() == []


def test_a_file_that_is_assigned_to_a_row_that_is_deleted(session, files, document):
    """It is never stored, or deleted with the row's."""
    document.file = b"new"
    session.delete(document)
    session.commit()

    assert files.contents() == []


def test_a_thousand_files_in_one_transaction(session, files):
    """Rows are read and counted in groups; all files are there, and then none."""
    session.add_all(Document(file=b"%d" % number) for number in range(1001))
    session.commit()
    assert len(files.stored()) == 1001

    for document in session.scalars(sa.select(Document)):
        session.delete(document)
    session.commit()

    assert len(files.stored()) <= 1
    files.check_after_sweep()
    assert files.stored() == []


# -- relationships ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(session):
    """A committed folder with two documents."""
    folder = Folder(documents=[Document(file=b"one"), Document(file=b"two")])
    session.add(folder)
    session.commit()
    return folder


def test_a_cascade_deletes_the_files_of_the_children(session, files, folder):
    """The ORM deletes the children's rows."""
    session.delete(folder)
    session.commit()

    assert files.contents() == []


def test_a_cascade_that_is_rolled_back_keeps_the_files(session, files, folder):
    """All of them."""
    session.delete(folder)
    session.flush()
    session.rollback()

    assert files.contents() == [b"one", b"two"]


def test_an_orphan_is_deleted_with_its_file(session, files, folder):
    """Of a relationship with `delete-orphan`."""
    folder.documents.pop(0)
    session.commit()

    assert files.contents() == [b"two"]


def test_a_pending_orphan_leaves_no_file(session, files, folder):
    """It was added to its parent and removed before the flush, so that SQLAlchemy never inserts it."""
    document = Document(file=b"three")
    folder.documents.append(document)
    session.add(document)
    folder.documents.remove(document)
    session.commit()

    assert files.contents() == [b"one", b"two"]


def test_an_object_that_a_listener_expunges_leaves_no_file(engine, files):
    """Its file was stored before the listener ran, and no row names it."""
    with Session(engine) as session:
        session.add_all([unwanted := Document(file=b"one"), Document(file=b"two")])
        event.listen(session, "before_flush", lambda *_: session.expunge(unwanted), once=True)
        session.commit()

    assert files.contents() == [b"two"]


def test_a_file_that_a_mapper_listener_assigns(session, files):
    """It is stored although the flush has begun, and the old one is deleted."""
    report = Report(text="one")
    session.add(report)
    session.commit()
    assert files.contents() == [b"one"]

    report.text = "two"
    session.commit()

    assert report.file.read() == b"two"
    assert files.contents() == [b"two"]


def test_the_files_of_joined_inheritance(session, files):
    """Each table has its own column; both follow the row."""
    employee = Employee(photo=b"photo", contract=b"contract")
    session.add_all([employee, Person(photo=b"person")])
    session.commit()
    assert files.contents() == [b"contract", b"person", b"photo"]
    employee.photo = b"new photo"
    session.commit()
    assert files.contents() == [b"contract", b"new photo", b"person"]
    employee.contract = b"new contract"
    session.commit()
    assert files.contents() == [b"new contract", b"new photo", b"person"]

    session.delete(session.scalars(sa.select(Person).where(Person.kind == "employee")).one())
    session.commit()

    assert files.contents() == [b"person"]


# -- lists ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def album(session):
    """A committed album with three scans."""
    album = Album(scans=[b"1", b"2", b"3"])
    session.add(album)
    session.commit()
    return album


LIST_CHANGES = {
    "append": (lambda scans: scans.append(b"4"), [b"1", b"2", b"3", b"4"]),
    "insert": (lambda scans: scans.insert(0, b"0"), [b"0", b"1", b"2", b"3"]),
    "extend": (lambda scans: scans.extend([b"4", b"5"]), [b"1", b"2", b"3", b"4", b"5"]),
    "+=": (lambda scans: scans.__iadd__([b"4"]), [b"1", b"2", b"3", b"4"]),
    "replace one": (lambda scans: scans.__setitem__(1, b"new"), [b"1", b"new", b"3"]),
    "replace a slice": (lambda scans: scans.__setitem__(slice(0, 2), [b"new"]), [b"new", b"3"]),
    "remove": (lambda scans: scans.remove(scans[1]), [b"1", b"3"]),
    "pop": (lambda scans: scans.pop(), [b"1", b"2"]),
    "del": (lambda scans: scans.__delitem__(0), [b"2", b"3"]),
    "clear": (lambda scans: scans.clear(), []),
    "reverse": (lambda scans: scans.reverse(), [b"3", b"2", b"1"]),
    "sort": (lambda scans: scans.sort(key=lambda file: -int(file.read())), [b"3", b"2", b"1"]),
}


def _scans(album):
    return [file.read() for file in album.scans]


@pytest.mark.parametrize("change", LIST_CHANGES)
def test_changes_of_a_list_in_place(session, files, album, change):
    """Every method of a list: what is added is stored, what is removed is deleted."""
    apply, expected = LIST_CHANGES[change]

    apply(album.scans)
    session.commit()

    assert _scans(album) == expected
    assert files.contents() == sorted(expected)


@pytest.mark.parametrize("change", LIST_CHANGES)
def test_changes_of_a_list_in_place_are_rolled_back(session, files, album, change):
    """The list has its files again."""
    apply, _ = LIST_CHANGES[change]

    apply(album.scans)
    session.flush()
    session.rollback()

    assert _scans(album) == [b"1", b"2", b"3"]
    assert files.contents() == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("value", "expected"), [([], []), (None, None), ([b"4"], [b"4"]), ((b"4", b"5"), [b"4", b"5"])]
)
def test_a_list_is_assigned(session, files, album, value, expected):
    """The files of the one before are deleted."""
    album.scans = value
    session.commit()

    assert (album.scans if expected is None else _scans(album)) == expected
    assert files.contents() == (expected or [])


def test_a_list_that_keeps_some_of_its_files(session, files, album):
    """Only those that are not in the new list are deleted."""
    album.scans = [album.scans[2], b"new", album.scans[0]]
    session.commit()

    assert _scans(album) == [b"3", b"new", b"1"]
    assert files.contents() == [b"1", b"3", b"new"]


def test_a_list_that_names_a_file_twice(session, files, album):
    """The file is counted twice, and deleted with the second."""
    album.scans = [album.scans[0]] * 2
    session.commit()
    assert list(files.ledger().values()) == [2]
    album.scans.pop()
    session.commit()
    assert files.contents() == [b"1"]

    album.scans.pop()
    session.commit()

    assert files.contents() == []


def test_a_new_row_has_an_empty_list(session, files):
    """To which files can be appended."""
    album = Album()
    session.add(album)
    session.commit()
    album.scans.append(b"1")
    session.commit()

    assert _scans(album) == [b"1"]


def test_a_list_of_a_new_row_that_is_changed_before_the_flush(session, files):
    """Only what is in it at the flush is stored."""
    album = Album(scans=[b"1", b"2"])
    album.scans.pop(0)
    album.scans.append(b"3")
    session.add(album)
    session.commit()

    assert _scans(album) == [b"2", b"3"]
    assert files.contents() == [b"2", b"3"]


def test_deleting_a_row_deletes_all_files_of_its_list(session, files, album):
    """After the commit."""
    session.delete(album)
    session.commit()

    assert files.contents() == []


def test_a_list_takes_the_values_of_files(session, files, album):
    """A name and metadata can be given."""
    album.scans.append(StoredFile(b"4", name="page four.png", metadata={"page": 4}))
    session.commit()

    assert (album.scans[-1].name, album.scans[-1].metadata) == ("page four.png", {"page": 4})
