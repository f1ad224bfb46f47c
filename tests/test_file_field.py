"""`FileField` and `ImageField`: columns of paths whose files are in `default_storage` and follow their rows."""

import asyncio
import io
import json
import pickle
import re
from datetime import timedelta
from typing import Any

import flask
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from werkzeug.datastructures import FileStorage

from flask_storage import FileNotFoundInStorageError, MemoryStorage, Storage as StorageExtension, StorageError
from flask_storage.aio import AsyncStorage, Storage, default_storage
from flask_storage.sqlalchemy import FileField, FileValidationError, ImageField, StoredFile, ledger_of, sweep
from flask_storage.testing import FailingStorage

pytest_plugins = ["tests.services.postgres"]

DATED = r"documents/\d{4}-\d\d-\d\d/[0-9a-f]{32}"


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "document"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(sa.String(20), unique=True)
    file: Mapped[Any] = mapped_column(FileField(upload_to="documents/", max_file_size=1000), nullable=True)
    photo: Mapped[Any] = mapped_column(ImageField(), nullable=True)


LEDGER = ledger_of(Base.metadata)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    """An engine with empty tables."""
    if request.param == "sqlite":
        engine = sa.create_engine(f"sqlite:///{tmp_path}/test.db")
    else:
        engine = sa.create_engine(request.getfixturevalue("postgres").url)
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def media(tmp_path):
    """The profile of the app, which is its default storage."""
    return FailingStorage(MemoryStorage("media", base_url="/media"))


@pytest.fixture(autouse=True)
def app(tmp_path, media):
    """An app with one profile, in whose context the test runs."""
    app = flask.Flask("shop", instance_path=str(tmp_path))
    app.config["STORAGE_PROFILES"] = {"media": media}
    StorageExtension(app)
    with app.app_context():
        yield app


@pytest.fixture
def session(engine):
    """A session, closed after the test."""
    with Session(engine) as session:
        yield session


def upload(content=b"hello", name="june.txt"):
    """Return an upload of a form."""
    return FileStorage(io.BytesIO(content), filename=name)


def names(storage):
    """Return the paths of all files."""
    return [entry.name for entry in storage.list()]


def counted(engine):
    """Return the ledger: how many rows have each file."""
    with engine.connect() as connection:
        return dict(connection.execute(sa.select(LEDGER.c.path, LEDGER.c.refs)).all())


# -- the path ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_content", "end"),
    [
        (lambda: upload(b"hello", "../june 1.txt"), r"_june 1\.txt"),
        (lambda: upload(b"hello", "a<b>.txt"), r"_a_b_\.txt"),
        (lambda: b"hello", "_file"),
        (lambda: StoredFile(b"hello", name="x" * 300 + ".tar.gz"), r"_x{219}\.gz"),
    ],
    ids=["path", "special characters", "bytes", "long name"],
)
def test_after_the_flush_the_attribute_is_the_path_of_the_file(session, media, make_content, end):
    """In the directory of the column; it is text, and `default_storage` takes it."""
    document = Document(file=make_content())
    session.add(document)

    session.commit()

    assert type(document.file) is str
    assert re.fullmatch(DATED + end, document.file)
    assert default_storage.url(document.file) == "/media/" + document.file.replace(" ", "%20")
    assert asyncio.run(default_storage.read(document.file)) == b"hello"
    assert names(media) == [document.file]


def test_the_path_is_text_before_the_commit_too(session):
    """After a flush it can be formatted, sent as JSON, pickled and queried."""
    document = Document(file=upload())
    session.add(document)
    session.flush()

    assert document.file.startswith("documents/")
    assert json.loads(json.dumps(document.file)) == f"{document.file}" == pickle.loads(pickle.dumps(document.file))
    assert session.scalars(sa.select(Document).where(Document.file == document.file)).one() is document
    assert session.scalars(sa.select(Document.file).where(Document.file.endswith("_june.txt"))).one() == document.file
    session.rollback()


def test_a_column_without_a_file_is_null(session, media):
    """In the row and in Python."""
    session.add(Document())
    session.commit()

    assert session.scalars(sa.select(Document)).one().file is None
    assert session.scalar(sa.select(sa.func.count()).where(Document.file.is_(None))) == 1
    assert names(media) == []


# -- files follow their rows ------------------------------------------------------------------------------------------


def test_a_replaced_file_is_deleted_after_the_commit(session, engine, media):
    """And not before."""
    document = Document(file=upload(b"old"))
    session.add(document)
    session.commit()
    old = document.file

    document.file = upload(b"new")
    session.flush()
    assert set(names(media)) == {old, document.file}
    session.commit()

    assert names(media) == [document.file] != [old]
    assert counted(engine) == {document.file: 1}


def test_a_rollback_deletes_the_new_file_and_keeps_the_old_one(session, engine, media):
    """As if nothing had happened."""
    document = Document(file=upload(b"old"))
    session.add(document)
    session.commit()
    old = document.file

    document.file = upload(b"new")
    session.flush()
    session.rollback()

    assert document.file == old
    assert names(media) == [old]
    assert counted(engine) == {old: 1}


def test_a_file_is_deleted_with_its_row(session, engine, media):
    """Also with its attribute."""
    with_row, without_row = Document(file=upload()), Document(file=upload())
    session.add_all([with_row, without_row])
    session.commit()

    session.delete(with_row)
    without_row.file = None
    session.commit()

    assert names(media) == []
    assert counted(engine) == {}


def test_a_file_of_two_rows_is_deleted_with_the_last_one(session, engine, media):
    """A path can be copied from one row to another."""
    first = Document(file=upload())
    session.add(first)
    session.commit()
    second = Document(file=first.file)
    session.add(second)
    session.commit()
    assert counted(engine) == {first.file: 2}

    session.delete(first)
    session.commit()
    assert names(media) == [second.file]
    session.delete(second)
    session.commit()

    assert names(media) == []


def test_an_object_can_be_added_again_after_a_failed_flush(session, media):
    """Its content is stored again, under another name."""
    session.add(Document(title="taken"))
    session.commit()
    document = Document(title="taken", file=upload())
    session.add(document)
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()
    failed = document.file
    assert names(media) == []

    document.title = "free"
    session.add(document)
    session.commit()

    assert names(media) == [document.file] != [failed]
    assert media.read(document.file) == b"hello"


def test_statements_without_objects_store_and_delete_files(session, media):
    """A StoredFile in a statement is stored, and those of deleted rows are deleted."""
    session.execute(sa.insert(Document), [{"file": StoredFile(b"1", name="a.txt")}, {"file": None}])
    session.commit()
    (path,) = names(media)
    assert session.scalars(sa.select(Document.file).where(Document.file.is_not(None))).one() == path

    session.execute(sa.delete(Document))
    session.commit()

    assert names(media) == []


def test_the_path_of_an_existing_file_can_be_assigned(session, engine, media):
    """The row owns the file from then on; a path without a file is refused."""
    media.write("imported/a.txt", b"1")
    document = Document(file="imported/a.txt")
    session.add(document)
    session.commit()
    assert counted(engine) == {"imported/a.txt": 1}
    session.add(Document(file="missing.txt"))
    with pytest.raises(FileNotFoundInStorageError):
        session.commit()
    session.rollback()

    session.delete(document)
    session.commit()

    assert names(media) == []


def test_a_failed_upload_fails_the_flush_and_leaves_nothing(session, media):
    """The error is that of the storage."""
    media.fail("publish")
    session.add(Document(file=upload()))

    with pytest.raises(StorageError):
        session.commit()
    session.rollback()

    assert names(media) == []
    assert session.scalar(sa.select(sa.func.count(Document.id))) == 0


def test_a_sweep_deletes_what_a_killed_process_has_left(session, engine, media):
    """Files of columns in `default_storage` are recognized by their names, and other files stay."""
    session.add(Document(file=upload()))
    session.flush()
    (orphan,) = names(media)
    media.write(kept := "documents/notes.txt", b"1")
    media.write(orphan.replace("june", "july"), b"1")
    session.commit()

    result = sweep([(engine, Base.metadata)], older_than=timedelta(0))

    assert [path for _, path in result.orphans] == [orphan.replace("june", "july")]
    assert names(media) == sorted([kept, orphan])


# -- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 1001])
def test_a_file_may_be_as_large_as_the_limit_and_no_larger(size, session):
    """It is refused when it is assigned."""
    if size <= 1000:
        Document(file=bytes(size))
    else:
        with pytest.raises(ValueError, match="1001 bytes, and 1000 are allowed"):
            Document(file=bytes(size))


def test_the_limit_is_10_mib_by_default():
    """And that of a path 512 characters."""
    assert FileField().max_size == 10 * 1024 * 1024
    assert FileField().coerce("x" * 512) == "x" * 512
    with pytest.raises(ValueError, match="the path has 513 characters, and 512 are allowed"):
        FileField().coerce("x" * 513)


def test_names_are_shortened_to_the_length_of_the_column():
    """The extension stays; a column in which no name fits is refused."""
    field = FileField("d/", max_length=80)

    assert field.suffix_for(StoredFile(b"1", name="x" * 100 + ".txt")) == "_" + "x" * 30 + ".txt"
    assert len("d/2026-12-31/") + 32 + len(field.suffix_for(StoredFile(b"1", name="x" * 100 + ".txt"))) == 80
    with pytest.raises(ValueError, match="max_length must be at least 77, for paths in 'd/'"):
        FileField("d/", max_length=76)


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.png", "a.gif", "a.webp", "a.bmp", "a.tiff", "a.ico", "photo"])
def test_an_image_is_known_by_its_extension(session, name):
    """In any case; a name without an extension is allowed."""
    session.add(document := Document(photo=upload(name=name)))
    session.commit()

    assert re.match(r"images/\d{4}-\d\d-\d\d/", document.photo)


@pytest.mark.parametrize("name", ["a.svg", "a.pdf", "a.jpg.exe"])
def test_another_file_is_no_image(name):
    """The error can be shown to the user."""
    with pytest.raises(FileValidationError, match=r"^\.\w+ is not allowed: use \.jpg, ") as caught:
        Document(photo=upload(name=name))

    assert caught.value.code == "extension"


def test_the_allowed_extensions_of_images_can_be_chosen():
    """With or without a dot."""
    field = ImageField(allowed_extensions=(".PNG", "jpg"))

    assert field.coerce(upload(name="a.png")).pending
    with pytest.raises(ValueError, match=r"use \.png, \.jpg\.$"):
        field.coerce(upload(name="a.gif"))


def test_text_is_a_path_and_other_objects_are_refused():
    """As by FileType."""
    with pytest.raises(TypeError, match="a file column takes bytes"):
        Document(file=5)


def test_the_column_is_a_varchar_and_migrations_show_its_length():
    """Alembic writes the repr."""
    assert repr(FileField()) == "FileField(max_length=512)"
    assert repr(ImageField(max_length=200)) == "ImageField(max_length=200)"
    assert str(sa.schema.CreateTable(Base.metadata.tables["document"])).count("VARCHAR(512)") == 2


# -- other storages ---------------------------------------------------------------------------------------------------


def test_files_are_in_the_directory_of_media_root(app, session, tmp_path):
    """If the app has no other default storage."""
    app.config["MEDIA_ROOT"] = str(tmp_path / "m")
    session.add(document := Document(file=upload()))
    session.commit()
    stored = (tmp_path / "m" / document.file).read_bytes()

    session.delete(document)
    session.commit()

    assert stored == b"hello"
    assert [path for path in (tmp_path / "m").rglob("*") if path.is_file()] == []


class Bucket(Storage):
    """A storage of an app's own with nothing but the five methods."""

    def __init__(self):
        self.files = {}
        self.prefix = ""

    async def save(self, name, content):
        """Keep the content."""
        self.files[self.prefix + name] = content.read()
        return self.prefix + name

    async def delete(self, name):
        """Forget the content."""
        self.files.pop(name, None)

    async def exists(self, name):
        """Look for the file."""
        return name in self.files

    def url(self, name):
        """Return a URL."""
        return f"https://bucket.example.com/{name}"

    async def size(self, name):
        """Return the size of the content."""
        return len(self.files[name])


@pytest.fixture
def bucket():
    """The default storage, an object of a class of the app's own."""
    bucket = Bucket()
    default_storage.configure(bucket)
    yield bucket
    default_storage.configure(None)


@pytest.mark.parametrize("in_event_loop", [False, True])
def test_files_can_be_in_a_storage_with_five_methods(bucket, session, engine, in_event_loop):
    """They are stored, replaced, rolled back and deleted; also in a coroutine, with a plain session."""

    def work():
        session.add(document := Document(file=upload(b"old")))
        session.commit()
        document.file = upload(b"new")
        session.commit()
        session.add(Document(file=upload(b"rolled back")))
        session.flush()
        session.rollback()
        contents = list(bucket.files.values())
        copy = Document(file=document.file)
        session.add(copy)
        session.commit()
        url = default_storage.url(document.file)
        session.delete(document)
        session.delete(copy)
        session.commit()
        return contents, url

    async def in_a_coroutine():
        return work()

    contents, url = asyncio.run(in_a_coroutine()) if in_event_loop else work()

    assert contents == [b"new"]
    assert url.startswith("https://bucket.example.com/documents/")
    assert bucket.files == {}
    assert counted(engine) == {}


def test_a_storage_that_renames_files_is_refused(bucket, session):
    """The row's path would be another one; the renamed file is deleted."""
    bucket.prefix = "other/"
    session.add(Document(file=upload()))

    with pytest.raises(StorageError, match="must keep a name that no file has"):
        session.commit()
    session.rollback()

    assert bucket.files == {}


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (ConnectionError("no route to host"), StorageError, "Bucket failed: no route to host"),
        (FileNotFoundError("no such bucket"), FileNotFoundInStorageError, "not found"),
    ],
    ids=["any error", "missing"],
)
def test_an_error_of_such_a_storage_is_a_storage_error(bucket, session, monkeypatch, error, expected, message):
    """With the name of its class."""

    async def fail(name, content):
        raise error

    monkeypatch.setattr(bucket, "save", fail)
    session.add(Document(file=upload()))

    with pytest.raises(expected, match=message):
        session.commit()


def test_the_path_of_an_existing_file_can_be_assigned_in_such_a_storage(bucket, session, engine):
    """The row owns the file from then on."""
    bucket.files["imported.txt"] = b"1"
    session.add(document := Document(file="imported.txt"))
    session.commit()
    assert counted(engine) == {"imported.txt": 1}

    session.delete(document)
    session.commit()

    assert bucket.files == {}


def test_a_path_without_a_file_is_refused_in_such_a_storage(bucket, session):
    """As in every other one."""
    session.add(Document(file="missing.txt"))

    with pytest.raises(FileNotFoundInStorageError):
        session.commit()


def test_a_sweep_lists_no_such_storage(bucket, session, engine):
    """It has no listing, so that what a killed process has left cannot be found; the rest of the sweep goes on."""
    session.add(Document(file=upload()))
    session.commit()

    result = sweep([(engine, Base.metadata)], older_than=timedelta(0))

    assert (result.seen, result.orphans) == (0, [])
    assert len(bucket.files) == 1


# -- AsyncSession -----------------------------------------------------------------------------------------------------


def run_with_async_session(engine, work):
    """Run a coroutine function with an AsyncSession on the same database."""
    url = engine.url if engine.dialect.name == "postgresql" else engine.url.set(drivername="sqlite+aiosqlite")

    async def main():
        async_engine = create_async_engine(url, poolclass=sa.NullPool)
        try:
            async with AsyncSession(async_engine, expire_on_commit=False) as session:
                return await asyncio.wait_for(work(session), 60)
        finally:
            await async_engine.dispose()

    return asyncio.run(main())


@pytest.mark.parametrize("storage", ["media", "bucket"])
def test_files_follow_their_rows_with_an_async_session(request, engine, storage):
    """Commit, replacement, rollback and deletion, in a profile and in a storage with five methods."""
    storage = request.getfixturevalue(storage)

    def stored():
        return names(storage) if hasattr(storage, "list") else list(storage.files)

    async def work(session):
        session.add(document := Document(file=upload(b"old")))
        await session.commit()
        first = document.file
        document.file = upload(b"new")
        await session.commit()
        session.add(Document(file=upload(b"rolled back")))
        await session.flush()
        await session.rollback()
        await session.refresh(document)
        path, exists = document.file, await default_storage.exists(document.file)
        kept = stored()
        await session.delete(document)
        await session.commit()
        return first, path, exists, kept

    first, path, exists, kept = run_with_async_session(engine, work)

    assert first != path
    assert (exists, kept) == (True, [path])
    assert stored() == []
    assert counted(engine) == {}


def test_an_upload_of_an_async_view_is_saved_with_its_row(app, engine, media):
    """As openviper's page shows it: create the object, save it, and return the URL of its file."""

    @app.post("/documents")
    async def create():
        async def work(session):
            document = Document(title=flask.request.form["title"], file=flask.request.files["file"])
            session.add(document)
            await session.commit()
            return {"url": default_storage.url(document.file)}, 201

        url = engine.url if engine.dialect.name == "postgresql" else engine.url.set(drivername="sqlite+aiosqlite")
        async_engine = create_async_engine(url, poolclass=sa.NullPool)
        async with AsyncSession(async_engine, expire_on_commit=False) as session:
            return await work(session)

    response = app.test_client().post("/documents", data={"title": "June", "file": (io.BytesIO(b"hello"), "june.txt")})

    (path,) = names(media)
    assert (response.status_code, response.json) == (201, {"url": f"/media/{path}"})
    assert AsyncStorage(media).url(path) == f"/media/{path}"
