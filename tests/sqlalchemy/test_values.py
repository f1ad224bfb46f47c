"""What can be assigned to a column, and what its rules refuse."""

import io
import os
import re
import tempfile
import threading
from datetime import timedelta
from enum import Enum

import pytest
import sqlalchemy as sa
from flask import Flask, request
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.datastructures import FileStorage

from flask_storage import MemoryStorage, Storage, StorageOperations
from flask_storage.sqlalchemy import FileListType, FileType, FileValidationError, StoredFile
from tests.sqlalchemy.models import Album, Document, File

PNG = b"\x89PNG\r\n\x1a\n and so on"
BIG = bytes(range(256)) * 8192  # 2 MiB: more than is kept in memory of a source that cannot be read twice


# -- sources ----------------------------------------------------------------------------------------------------------


def _stored(session, content):
    document = Document(file=content)
    session.add(document)
    session.commit()
    return document.file


@pytest.mark.parametrize("content", [b"", b"one", bytearray(b"one"), memoryview(b"one")])
def test_bytes(session, files, content):
    """Also none at all."""
    assert _stored(session, content).read() == bytes(content)


def test_an_upload(session, files):
    """It has a name; the type that the client has sent is not believed."""
    upload = FileStorage(io.BytesIO(PNG), filename="a.png", content_type="text/html")

    file = _stored(session, upload)

    assert (file.name, file.content_type, file.size) == ("a.png", "image/png", len(PNG))
    assert file.read() == PNG


def test_an_upload_of_a_request(session, files, app):
    """As a view gets it from a browser."""
    data = {"file": (io.BytesIO(b"one"), "a.txt")}
    with app.test_request_context(method="POST", data=data):
        document = Document(file=request.files["file"])
        session.add(document)
        session.commit()

    assert (document.file.name, document.file.read()) == ("a.txt", b"one")


@pytest.mark.parametrize(
    ("client_name", "name"),
    [
        ("C:\\Users\\me\\a.pdf", "a.pdf"),
        ("/home/me/a.pdf", "a.pdf"),
        ("../../etc/passwd", "passwd"),
        ("Übersicht für 2026.pdf", "Übersicht für 2026.pdf"),
    ],
)
def test_only_the_last_component_of_a_clients_name_is_kept(session, files, client_name, name):
    """It is what users see, and never part of the path."""
    file = _stored(session, FileStorage(io.BytesIO(b"one"), filename=client_name))

    assert file.name == name
    assert re.fullmatch(r"documents/[\d-]{10}/[0-9a-f]{32}(\.pdf)?", file.path)


@pytest.mark.parametrize(
    "name", ["a\x00.pdf", "a\n.pdf", "a\u202egpj.exe", "\ud800.pdf", "x" * 5000 + ".pdf", "..", "/"]
)
def test_a_hostile_name(session, files, name):
    """Whatever the client calls it, the row can be stored and read."""
    file = _stored(session, FileStorage(io.BytesIO(b"one"), filename=name))

    assert file.read() == b"one"
    assert file.name
    assert not set("\x00\n\u202e\ud800/") & set(file.name)


def test_an_open_file(session, files, tmp_path):
    """It is read from its position, named after the file, and left open."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"onetwo")
    with path.open("rb") as source:
        source.seek(3)
        file = _stored(session, source)
        assert not source.closed

    assert (file.name, file.size, file.read()) == ("a.txt", 3, b"two")


def test_a_path(session, files, tmp_path):
    """The local file stays."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")

    file = _stored(session, path)

    assert (file.name, file.content_type, file.read()) == ("a.txt", "text/plain; charset=utf-8", b"one")
    assert path.exists()


@pytest.mark.parametrize("make", [tempfile.TemporaryFile, tempfile.NamedTemporaryFile, tempfile.SpooledTemporaryFile])
def test_a_temporary_file(session, files, make):
    """Of each kind; the name of the first is a number, which is ignored."""
    with make() as source:
        source.write(b"one")
        source.seek(0)
        file = _stored(session, source)

    assert isinstance(file.name, str)
    assert file.read() == b"one"


def test_a_pipe(session, files):
    """It can be read only once, so it is copied when it is assigned."""
    reading, writing = os.pipe()

    def write():
        with open(writing, "wb") as pipe:
            pipe.write(b"one")

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb") as source:
        document = Document(file=source)
    writer.join()
    session.add(document)
    session.commit()

    assert (document.file.size, document.file.read()) == (3, b"one")


class _Unseekable:
    """A source that can be read only once, in pieces."""

    def __init__(self, content):
        self._file = io.BytesIO(content)

    def read(self, size=-1):
        return self._file.read(size)


def test_a_large_source_that_can_be_read_only_once(session, files):
    """Its content is stored again when the row is added again."""
    document = Document(file=_Unseekable(BIG))
    session.add(document)
    session.flush()
    session.rollback()
    session.add(document)
    session.commit()

    assert document.file.size == len(BIG)
    assert document.file.read() == BIG


def test_a_pending_file_can_be_opened_several_times(files):
    """Two readers of the same source do not disturb each other."""
    file = StoredFile(io.BytesIO(b"onetwo"))

    with file.open() as first, file.open() as second:
        assert (first.read(3), second.read(3), first.read(), second.read()) == (b"one", b"one", b"two", b"two")


@pytest.mark.parametrize(
    "content",
    ["text", "/etc/passwd", 1, 1.5, object(), io.StringIO("text"), {}, [b"one"]],
    ids=lambda content: type(content).__name__,
)
def test_what_is_no_content_is_refused(content):
    """At the assignment, with what to do; a text could be content or a path."""
    with pytest.raises(TypeError, match="bytes"):
        Document(file=content)


def test_text_is_refused_with_advice():
    """Encode it, or wrap a path."""
    with pytest.raises(TypeError, match=r"encode.*pathlib\.Path"):
        Document(file="text")


def test_a_missing_path_is_refused(tmp_path):
    """At the assignment."""
    with pytest.raises(FileNotFoundError):
        Document(file=tmp_path / "missing.txt")


def test_an_upload_without_a_selected_file_is_refused(session, files, document):
    """It is neither stored nor a deletion; the code says so."""
    with pytest.raises(FileValidationError, match="No file was chosen") as caught:
        document.file = FileStorage(io.BytesIO(b""), filename="")
    session.commit()

    assert caught.value.code == "empty"
    assert document.file.read() == b"old"


@pytest.mark.parametrize("value", [b"one", "text", StoredFile(b"one"), 1], ids=lambda value: type(value).__name__)
def test_a_list_column_refuses_what_is_no_list(value):
    """A single file would be a mistake."""
    with pytest.raises(TypeError):
        Album(scans=value)


def test_a_list_checks_what_is_added():
    """Before it is assigned, and afterwards."""
    album = Album(scans=[])
    with pytest.raises(TypeError, match="bytes"):
        album.scans.append("text")
    with pytest.raises(TypeError, match="bytes"):
        Album(scans=[b"one", "text"])

    assert album.scans == []


# -- the value --------------------------------------------------------------------------------------------------------


def test_name_type_and_metadata_can_be_given(session, files):
    """They are stored in the row."""
    given = StoredFile(b"one", name="a.txt", content_type="application/x-own", metadata={"a": [1, {"b": None}]})

    file = _stored(session, given)

    session.expire_all()
    assert (file.name, file.content_type, dict(file.metadata)) == (
        "a.txt",
        "application/x-own",
        {"a": [1, {"b": None}]},
    )


def test_the_content_type_is_stored_with_the_file(session, files, docs):
    """So that a link serves it."""
    file = _stored(session, StoredFile(b"one", name="a.txt", content_type="application/x-own"))

    assert docs.stat(file.path).content_type == "application/x-own"


def test_values_are_equal_by_their_fields(session, files, document):
    """A loaded one and another; pending ones are equal to themselves only."""
    session.expire(document)
    pending = StoredFile(b"one")

    assert document.file == StoredFile.existing("docs", document.file.path).replace(**document.file.to_dict())
    assert document.file != document.file.replace(name="b.txt")
    assert pending == pending
    assert pending != StoredFile(b"one")


def test_replace_refuses_names_that_are_no_fields(document):
    """A typing error is an error."""
    with pytest.raises(TypeError, match="titel"):
        document.file.replace(titel="x")


def test_a_value_has_a_link_and_a_url(tmp_path):
    """The link downloads the file under its name, with its type."""
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config.update(
        TESTING=True,
        SECRET_KEY="a secret key for tests, of 32 bytes or more",
        STORAGE_PROFILES={"docs": {"backend": "memory", "base_url": "https://cdn.example.com/"}},
        STORAGE_EXTERNAL_URL="http://localhost",
    )
    Storage(app)
    with app.app_context():
        app.extensions["storage"]["docs"].write("a/1234.txt", b"one")
        file = StoredFile.existing("docs", "a/1234.txt", name="Übersicht.txt")
        url, link = file.url, file.link(timedelta(hours=1))

    response = app.test_client().get(link)

    assert url == "https://cdn.example.com/a/1234.txt"
    assert response.data == b"one"
    assert "filename*=UTF-8''%C3%9Cbersicht.txt" in response.headers["Content-Disposition"]


def test_what_needs_a_stored_file_is_refused_of_a_pending_one():
    """The error says to flush."""
    file = StoredFile(b"one")
    with pytest.raises(ValueError, match="flush"):
        file.link()
    with pytest.raises(ValueError, match="flush"):
        _ = file.url
    with pytest.raises(ValueError, match="flush"):
        file.replace(name="b.txt")


# -- rules ------------------------------------------------------------------------------------------------------------


def _check_even(file):
    if file.size % 2:
        raise FileValidationError("The size must be even.", "odd")


def _check_content(file):
    with file.open() as content:
        if content.read(4) == b"evil":
            raise FileValidationError("A virus was found.", "virus")


class _Base(DeclarativeBase):
    pass


class _Limited(_Base):
    __tablename__ = "limited"

    id: Mapped[int] = mapped_column(primary_key=True)
    small: Mapped[File] = mapped_column(FileType("docs", max_size=4), nullable=True)
    document: Mapped[File] = mapped_column(FileType("docs", extensions={"pdf", ".TXT"}), nullable=True)
    image: Mapped[File] = mapped_column(FileType("docs", content_types={"image/png", "audio/"}), nullable=True)
    checked: Mapped[File] = mapped_column(FileType("docs", validators=[_check_even, _check_content]), nullable=True)
    several: Mapped[File] = mapped_column(FileListType("docs", max_size=4), nullable=True)


@pytest.mark.parametrize(
    ("attribute", "content", "name", "code"),
    [
        ("small", b"12345", "a.txt", "too_large"),
        ("document", b"one", "a.exe", "extension"),
        ("document", b"one", "a.pdf.exe", "extension"),
        ("document", b"one", "pdf", "extension"),
        ("document", b"one", None, "extension"),
        ("image", b"GIF89a", "a.gif", "type"),
        ("image", b"one", "a", "type"),
        ("image", b"one", "a.png", "type"),
        ("image", b"<html><script>", "a.png", "type"),
        ("image", b"<svg xmlns='http://www.w3.org/2000/svg'>", "a.png", "type"),
        ("checked", b"odd", "a.txt", "odd"),
        ("checked", b"evil", "a.txt", "virus"),
        ("several", b"12345", "a.txt", "too_large"),
    ],
)
def test_a_rule_refuses_a_file_at_the_assignment(attribute, content, name, code):
    """The error is a ValueError with a sentence for the user and a code; the attribute keeps its value."""
    row = _Limited()
    value = StoredFile(content, name=name)
    with pytest.raises(FileValidationError) as caught:
        setattr(row, attribute, [value] if attribute == "several" else value)

    assert isinstance(caught.value, ValueError)
    assert caught.value.code == code
    assert caught.value.args[0].endswith(".")
    assert not getattr(row, attribute)


@pytest.mark.parametrize(
    ("attribute", "content", "name"),
    [
        ("small", b"1234", "a.txt"),
        ("small", b"", "a.txt"),
        ("document", b"%PDF-1.7", "a.PDF"),
        ("document", b"one", "a.txt"),
        ("image", PNG, "a.png"),
        ("image", b"ID3\x04\x00", "a.mp3"),
        ("checked", b"even", "a.txt"),
    ],
)
def test_a_rule_accepts_a_file(attribute, content, name):
    """At the limit too, and in any case of letters."""
    row = _Limited(**{attribute: StoredFile(content, name=name)})

    assert getattr(row, attribute).pending


def test_the_rules_of_a_list_concern_each_file():
    """Whatever the method; the list keeps what it had."""
    row = _Limited(several=[b"1", b"2"])
    for change in (
        lambda files: files.append(b"12345"),
        lambda files: files.insert(0, b"12345"),
        lambda files: files.extend([b"3", b"12345"]),
        lambda files: files.__setitem__(0, b"12345"),
        lambda files: files.__setitem__(slice(0, 1), [b"12345"]),
        lambda files: files.__iadd__([b"12345"]),
    ):
        with pytest.raises(FileValidationError):
            change(row.several)

    assert [file.read() for file in row.several] == [b"1", b"2"]


def test_a_stored_file_is_not_checked_again(docs):
    """Rules concern new content: an import is the application's decision."""
    docs.write("big.exe", b"12345")

    row = _Limited(small=StoredFile.existing("docs", "big.exe"))

    assert row.small.size == 5


# -- where files go ---------------------------------------------------------------------------------------------------


class _Folder(Enum):
    invoices = "accounting/invoices"


def test_the_profile_and_the_directory_of_a_column(docs, app):
    """A storage itself, a member of an Enum, the model's profile and the app's default."""
    other = MemoryStorage("other")
    app.extensions["storage"]._storages["second"] = second = MemoryStorage("second")

    class Base(DeclarativeBase):
        pass

    class Row(StorageOperations, Base):
        __tablename__ = "row"
        storage_profile = "second"

        id: Mapped[int] = mapped_column(primary_key=True)
        given: Mapped[File] = mapped_column(FileType(other), nullable=True)
        named: Mapped[File] = mapped_column(FileType("docs", directory=_Folder.invoices), nullable=True)
        inherited: Mapped[File] = mapped_column(FileType(directory="a"), nullable=True)

    class Plain(Base):
        __tablename__ = "plain"

        id: Mapped[int] = mapped_column(primary_key=True)
        default: Mapped[File] = mapped_column(FileType(), nullable=True)

    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with sa.orm.Session(engine) as session:
        session.add_all([Row(given=b"given", named=b"named", inherited=b"inherited"), Plain(default=b"default")])
        session.commit()
        row = session.scalars(sa.select(Row)).one()
        read = [row.given.read(), row.named.read(), row.inherited.read()]
    engine.dispose()

    assert read == [b"given", b"named", b"inherited"]
    assert len(other.list()) == 1
    assert [entry.name.startswith("a/") for entry in second.list()] == [True]
    assert sorted(entry.name.startswith("accounting/invoices/") for entry in docs.list()) == [False, True]
    assert sorted(docs.read(entry.name) for entry in docs.list()) == [b"default", b"named"]


@pytest.mark.parametrize("directory", ["../a", "a//b", "a\x00"])
def test_a_directory_that_is_no_path_is_refused(directory):
    """When the model is defined."""
    with pytest.raises(ValueError, match="path"):
        FileType(directory=directory)


def test_the_form_of_a_path(session, files):
    """Random, with the extension in lower case; nothing of it is guessable."""
    first, second = (_stored(session, StoredFile(b"one", name="A.PDF")).path for _ in range(2))

    assert first != second
    assert first.endswith(".pdf")
