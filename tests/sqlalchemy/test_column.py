"""What can be assigned to a file column, and what its value is."""

import gzip
import io
import pickle
import tempfile
from copy import deepcopy
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, mapped_column, registry, relationship
from werkzeug.datastructures import FileStorage

from flask_storage import (
    FileNotFoundInStorageError,
    MemoryStorage,
    Storage,
    StorageOperations,
    UnsupportedOperationError,
)
from flask_storage.sqlalchemy import (
    FileListType,
    FileType,
    FileValidationError,
    StoredFile,
    file_columns,
    ledger_of,
    sweep,
)


class Folder(Enum):
    scans = "archive/scans"


class Model:
    """Tables of their own for each test, in a database in memory, and a storage in memory."""

    def __init__(self):
        self.storage = MemoryStorage("docs")
        self.engine = sa.create_engine("sqlite://")
        self._registry = registry()
        self.metadata = self._registry.metadata

    def define(self, column, *bases, table="document", **attributes):
        """Return a model whose attribute `file` is *column*, and create its table."""
        attributes |= {"__tablename__": table, "id": mapped_column(sa.Integer, primary_key=True)}
        if column is not None:
            attributes["file"] = mapped_column(column)
        model: Any = self._registry.mapped(type(table, bases, attributes))
        self.metadata.create_all(self.engine)
        return model

    def paths(self):
        """Return the paths of all files."""
        return [entry.name for entry in self.storage.list()]


@pytest.fixture
def model():
    """Tables and a storage."""
    model = Model()
    yield model
    model.engine.dispose()


def _unseekable(content):
    return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(content)))


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
@pytest.mark.parametrize("form", ["bytes", "bytearray", "file", "path", "upload", "unseekable", "value"])
def test_content_of_every_form(model, tmp_path, form, size):
    """Each is stored when the session flushes, with its size and checksum."""
    content = b"%PDF-1.7 .."[:size].ljust(size, b"x")
    local_file = tmp_path / "local.pdf"
    local_file.write_bytes(content)
    document = model.define(FileType(model.storage, directory="in"))()

    with Session(model.engine) as session, local_file.open("rb") as open_file:
        document.file = {
            "bytes": content,
            "bytearray": bytearray(content),
            "file": open_file,
            "path": local_file,
            "upload": FileStorage(io.BytesIO(content), "C:\\up\\load.pdf"),
            "unseekable": _unseekable(content),
            "value": StoredFile(content, name="value.pdf", metadata={"page": 1}),
        }[form]
        session.add(document)
        session.commit()
        file = document.file

    names = {"file": "local.pdf", "path": "local.pdf", "upload": "load.pdf", "value": "value.pdf"}
    assert (file.name, file.size, file.read()) == (names.get(form, "file"), size, content)
    assert file.checksum.startswith("sha256:")
    assert file.metadata == ({"page": 1} if form == "value" else {})
    assert model.paths() == [file.path]


@pytest.mark.parametrize("content", ["text", 1, io.StringIO("text"), {"path": "a"}, object()])
def test_what_is_no_content_is_refused(content):
    """A string may be text or a path, so it is neither."""
    with pytest.raises(TypeError, match="takes bytes, a binary file"):
        FileType().coerce(content)


def test_a_form_without_a_file():
    """It is neither a file nor a deletion."""
    with pytest.raises(FileValidationError, match=r"^No file was chosen\.$") as error:
        FileType().coerce(FileStorage(io.BytesIO(), ""))

    assert error.value.code == "empty"


def _refuse(file):
    raise FileValidationError(f"{file.name} again?")


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"max_size": 4}, "too_large"),
        ({"extensions": {"PDF", ".txt"}}, "extension"),
        ({"content_types": ["application/pdf", "image/"]}, "type"),
        ({"validators": [_refuse]}, "invalid"),
    ],
)
def test_the_rules_of_a_column(model, rules, code):
    """They are checked on assignment, before anything is stored."""
    document = model.define(FileType(model.storage, **rules))()

    with pytest.raises(FileValidationError) as error:
        document.file = StoredFile(b"12345", name="five.csv")

    assert error.value.code == code
    assert (document.file, model.paths()) == (None, [])


def test_content_that_contradicts_its_name():
    """The content decides, so that a page is not taken for a picture."""
    file = StoredFile(b"<html><script>", name="photo.png")

    with pytest.raises(FileValidationError):
        FileType(content_types={"image/"}).coerce(file)


def test_what_the_rules_allow():
    """Upper and lower case do not matter."""
    kind = FileType(
        max_size=8, extensions={"pdf"}, content_types={"application/pdf", "image/"}, validators=[lambda file: None]
    )

    assert kind.coerce(StoredFile(b"%PDF-1.7", name="a.PDF")).size == 8


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../Ä (1).pdf", "Ä (1).pdf"),
        ("C:\\a\\b.txt", "b.txt"),
        ("gpj\u202e\n.exe", "gpj__.exe"),
        ("a/", "file"),
        ("x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
    ],
)
def test_the_name_of_a_file(name, shown):
    """It has no directory and no control character, whatever a client sends."""
    assert StoredFile(b"", name=name).name == shown


def test_a_pending_file_can_be_read_again_and_again():
    """Each reader has its own position, and the file that was given stays open."""
    with tempfile.TemporaryFile() as source:
        source.write(b"ab0123456789")
        source.seek(2)
        file = StoredFile(source)

        with file.open() as one, file.open() as two:
            assert (one.read(4), two.read(2), one.read(2), two.seek(-3, 2), two.read()) == (
                *(b"0123", b"01", b"45", 7, b"789"),
            )
            assert (one.seek(1, 1), one.tell()) == (7, 7)
            with pytest.raises(ValueError, match="negative"):
                one.seek(-20, 1)
        assert (file.read(), file.size, source.closed) == (b"0123456789", 10, False)


def test_a_value_cannot_be_changed(model):
    """A changed value would not be noticed by the session."""
    file = StoredFile(b"1", metadata={"a": 1})

    with pytest.raises(AttributeError, match=r"assign file\.replace"):
        file.name = "other"
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del file.name
    with pytest.raises(TypeError):
        file.metadata["a"] = 2  # type: ignore[index]  # the error that is tested


def test_a_replaced_field(model):
    """The row gets a new value for the same file."""
    document_class = model.define(FileType(model.storage))

    with Session(model.engine) as session:
        document = document_class(file=b"1")
        session.add(document)
        session.commit()
        path = document.file.path
        document.file = document.file.replace(name="new.txt", metadata={"a": 1})
        session.commit()

        assert (document.file.name, document.file.metadata, document.file.path) == ("new.txt", {"a": 1}, path)
        with pytest.raises(TypeError, match="no field title"):
            document.file.replace(title="x")
    assert model.paths() == [path]


@pytest.mark.parametrize(
    "use", [lambda file: file.link(), lambda file: file.url, lambda file: file.storage, lambda file: file.replace()]
)
def test_a_pending_file_has_no_storage(use):
    """The error says what to do."""
    with pytest.raises(ValueError, match="not stored yet, flush the session first"):
        use(StoredFile(b"1"))


def test_values_are_equal_by_their_fields():
    """A copy of a value is the value; a pending one is equal to itself only."""
    fields = {"profile": "docs", "path": "a", "name": "a", "size": 1}
    pending = StoredFile(b"1")

    assert StoredFile.from_dict(fields) == StoredFile.from_dict(fields)
    assert StoredFile.from_dict(fields) != StoredFile.from_dict({**fields, "size": 2})
    assert pending == deepcopy(pending) != StoredFile(b"1")
    assert pending != b"1"
    assert pickle.loads(pickle.dumps(StoredFile.from_dict(fields))) == StoredFile.from_dict(fields)
    assert repr(pending) == "<StoredFile 'file' pending>"


def test_an_existing_file(model):
    """The row takes it over; a file that does not exist is an error."""
    model.storage.write("up/a.pdf", b"%PDF-1.7", content_type="application/x-mine")

    file = StoredFile.existing(model.storage, "up/a.pdf", name="A.pdf", width=3)

    assert (file.name, file.size, file.content_type, file.width) == ("A.pdf", 8, "application/x-mine", 3)
    with pytest.raises(FileNotFoundInStorageError):
        StoredFile.existing(model.storage, "missing")


@pytest.mark.parametrize("directory", [Folder.scans, "archive/scans", lambda row: f"archive/{row and 'scans'}"])
def test_the_directory_of_a_column(model, directory):
    """A text, a member of an enumeration, or a function of the row."""
    document_class = model.define(FileType(model.storage, directory=directory))

    with Session(model.engine) as session:
        session.add(document_class(file=StoredFile(b"1", name="A.TXT")))
        session.commit()

    [path] = model.paths()
    assert path.startswith("archive/scans/20")
    assert path.endswith(".txt")


def test_the_list_of_a_new_object(model):
    """Files can be appended at once; what is added is wrapped and checked."""
    document_class = model.define(FileListType(model.storage, max_size=1))

    with Session(model.engine) as session:
        document = document_class()
        document.file.append(b"1")
        session.add(document)
        session.commit()
        document.file.extend([b"2"])
        document.file.insert(0, StoredFile(b"0"))
        session.flush()
        document.file += [b"3"]
        document.file[1:2] = [b"a", b"b"]
        document.file[0] = b"z"
        with pytest.raises(FileValidationError):
            document.file.append(b"12")
        session.commit()

        assert [file.read() for file in document.file] == [b"z", b"a", b"b", b"2", b"3"]
    assert len(model.paths()) == 5


@pytest.mark.parametrize("value", [b"1", StoredFile(b"1"), "text", 1])
def test_a_list_column_takes_lists_only(value):
    """A single file would be a mistake."""
    with pytest.raises(TypeError, match="takes a list"):
        FileListType().coerce(value)


def test_columns_use_the_profiles_of_the_app(model):
    """By name, by the class's `storage_profile`, or the default one."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = {"first": "memory:", "second": "memory:", "third": "memory:"}
    Storage(app)
    document_class = model.define(FileType("third"))
    scan_class = model.define(FileType(), StorageOperations, table="scan", storage_profile="second")
    plain_class = model.define(FileType(), table="plain")

    with app.app_context(), Session(model.engine) as session:
        session.add_all([document_class(file=b"1"), scan_class(file=b"2"), plain_class(file=b"3")])
        session.commit()
        found = [session.scalars(sa.select(kind.file)).one() for kind in (document_class, scan_class, plain_class)]
        assert [(file.profile, file.read()) for file in found] == [("third", b"1"), ("second", b"2"), ("first", b"3")]


def test_released_files_are_kept_if_the_app_says_so(model):
    """The sweep deletes them when their time is over."""
    app = Flask(__name__)
    app.config.update(STORAGE_PROFILES={"docs": "memory:"}, STORAGE_KEEP_DELETED=timedelta(days=30))
    Storage(app)
    document_class = model.define(FileType("docs"))
    databases = [(model.engine, model.metadata)]

    with app.app_context(), Session(model.engine) as session:
        document = document_class(file=b"1")
        session.add(document)
        session.commit()
        file = document.file
        session.delete(document)
        session.commit()

        assert sweep(databases).released == 0
        assert file.read() == b"1"
        assert sweep(databases, keep_deleted=timedelta(0), dry_run=True).released == 1
        assert sweep(databases, keep_deleted=timedelta(0)).released == 1
        assert not file.storage.list()


def test_a_relationship_with_passive_deletes_is_warned_about(model):
    """The database would delete rows that the session does not see."""
    owner_class = model.define(None, table="owner", scans=relationship("scan", passive_deletes=True))
    owner_id = mapped_column(sa.ForeignKey("owner.id", ondelete="CASCADE"))
    scan_class = model.define(FileType(model.storage), table="scan", owner_id=owner_id)

    with pytest.warns(RuntimeWarning, match=r"owner\.scans has passive_deletes"):
        sa.orm.configure_mappers()

    assert owner_class.scans.property.mapper.class_ is scan_class
    assert file_columns(model.metadata) == {ledger_of(model.metadata): [scan_class.__table__.c.file]}


def test_the_ledger_is_beside_its_tables():
    """One for each schema."""
    metadata = sa.MetaData()
    sa.Table("a", metadata, sa.Column("file", FileType()), schema="one")
    sa.Table("b", metadata, sa.Column("file", FileListType()), sa.Column("other", FileType()))

    assert {"one.storage_files", "storage_files"} <= set(metadata.tables)
    assert ledger_of(metadata) is metadata.tables["storage_files"]
    assert ledger_of(sa.MetaData("two")).fullname == "two.storage_files"


def test_a_file_of_another_database_is_refused(model):
    """Its ledger would not know of the row, and delete the file with the last row that it knows."""
    document_class = model.define(FileType(model.storage))
    other = sa.create_engine("sqlite://")
    model.metadata.create_all(other)

    with Session(model.engine) as session, Session(other) as copies:
        document = document_class(file=b"1")
        session.add(document)
        session.commit()
        copies.add(document_class(file=document.file))
        with pytest.raises(UnsupportedOperationError, match="another database"):
            copies.commit()
        copies.rollback()
        with document.file.open() as source:
            copies.add(document_class(file=StoredFile(source, name=document.file.name)))
            copies.commit()

    assert len(model.paths()) == 2
    other.dispose()


@pytest.mark.parametrize(
    "execute",
    [
        lambda session, table, file: session.execute(table.insert().values([(1, file), (2, None)])),
        lambda session, table, file: session.execute(
            table.insert().values(id=1, file=sa.bindparam("content")), {"content": file}
        ),
        lambda session, table, file: session.execute(table.insert().values({table.c.id: 1, table.c.file: file})),
    ],
)
def test_the_values_of_a_statement(model, execute):
    """By position, as a parameter with another name, or by column: the file is stored and counted."""
    table = model.define(FileType(model.storage)).__table__

    with Session(model.engine) as session:
        execute(session, table, StoredFile(b"1"))
        session.execute(table.update().where(table.c.id == 2).values(file=sa.null()))
        session.commit()
        assert len(model.paths()) == 1
        session.execute(table.update().ordered_values((table.c.file, sa.null())))
        session.commit()

    assert model.paths() == []


def test_sql_that_copies_values_is_refused(model):
    """The rows that have a file could not be counted."""
    table = model.define(FileType(model.storage)).__table__
    select = sa.select(table.c.id + 10, table.c.file)

    with Session(model.engine) as session:
        with pytest.raises(InvalidRequestError, match=r"file column document\.file"):
            session.execute(table.insert().from_select(["id", "file"], select))
        with pytest.raises(InvalidRequestError, match="select the values first"):
            session.execute(table.update().values(file=sa.select(table.c.file).scalar_subquery()))


def test_content_that_a_killed_process_has_left(model):
    """The sweep deletes it, unless a row has it."""
    document_class = model.define(FileType(model.storage, directory="in", content_addressed=True))
    databases = [(model.engine, model.metadata)]

    with Session(model.engine) as session:
        session.add(document_class(file=b"1"))
        session.commit()
    digest = "ab" + 62 * "0"
    model.storage.write(f"in/ab/{digest}", b"2")

    assert sweep(databases, older_than=timedelta(0), dry_run=True).orphans == [("docs", f"in/ab/{digest}")]
    assert len(model.paths()) == 2
    assert sweep(databases, older_than=timedelta(0)).orphans == [("docs", f"in/ab/{digest}")]
    assert len(model.paths()) == 1


def test_a_query_for_a_value(model):
    """By the value itself, and by one of its fields."""
    document_class = model.define(FileType(model.storage))

    with Session(model.engine) as session:
        document = document_class(file=StoredFile(b"12", name="a.txt"))
        session.add_all([document, document_class(file=b"1")])
        session.commit()
        conditions = [
            document_class.file == document.file,
            document_class.file["size"].as_integer() == 2,
            document_class.file["name"].as_string() == "a.txt",
        ]

        assert [session.scalars(sa.select(document_class).where(condition)).all() for condition in conditions] == [
            [document]
        ] * 3
