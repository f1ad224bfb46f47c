"""`confirm_upload`: it checks what a client has uploaded by a link, and deletes what was not expected."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest

from flask_storage import MemoryStorage
from flask_storage.errors import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidPathError,
    StorageError,
    TooLargeError,
)
from flask_storage.signals import file_deleted, file_stored
from tests.plain_client import follow
from tests.s3_storages import make_storage
from tests.variants import variants

pytest_plugins = ["tests.services.s3"]

HOUR = timedelta(hours=1)
BODY = b"what was uploaded"
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


@pytest.fixture(params=["memory", "local", *variants("localstack", "rgw")])
def storage(request):
    """An empty storage: in memory, on local disk, in S3."""
    if request.param in ("memory", "local"):
        return request.getfixturevalue(f"{request.param}_storage")
    return make_storage(request.getfixturevalue(request.param))


@pytest.fixture
def deleted():
    """The paths of the `file_deleted` signals, in order."""
    paths = []

    def record(sender, path, **extra):
        paths.append(path)

    with file_deleted.connected_to(record):
        yield paths


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"size": len(BODY)},
        {"max_size": len(BODY)},
        {"content_type": "image/png"},
        {"content_type": "image/"},
        {"checksum": SHA256},
        {"checksum": f"md5:{hashlib.md5(BODY).hexdigest()}"},
        {"size": len(BODY), "max_size": 1000, "content_type": "image/", "checksum": SHA256},
    ],
)
def test_an_expected_upload_is_confirmed(storage, deleted, expected):
    """The attributes of the file are returned, and it is kept."""
    storage.write("in/a", BODY, content_type="image/png")

    info = storage.confirm_upload("in/a", **expected)

    assert (info.path, info.size, info.content_type) == ("in/a", len(BODY), "image/png")
    assert storage.read("in/a") == BODY
    assert deleted == []


@pytest.mark.parametrize(
    ("expected", "error", "message"),
    [
        ({"size": len(BODY) - 1}, IntegrityError, "17 bytes were uploaded where 16 were expected"),
        ({"size": 0}, IntegrityError, "17 bytes were uploaded where 0 were expected"),
        ({"max_size": len(BODY) - 1}, TooLargeError, "17 bytes were uploaded where 16 are allowed"),
        ({"max_size": 0}, TooLargeError, "17 bytes were uploaded where 0 are allowed"),
        ({"content_type": "image/jpeg"}, IntegrityError, "'image/png' was uploaded where 'image/jpeg'"),
        ({"content_type": "text/"}, IntegrityError, "'image/png' was uploaded where 'text/'"),
        ({"content_type": "image"}, IntegrityError, "'image/png' was uploaded where 'image'"),
        (
            {"checksum": f"sha256:{'0' * 64}"},
            IntegrityError,
            "the uploaded content does not have the expected checksum",
        ),
        ({"checksum": f"md5:{'0' * 32}"}, IntegrityError, "the uploaded content does not have the expected checksum"),
        (
            {"size": len(BODY), "checksum": f"sha256:{'0' * 64}"},
            IntegrityError,
            "the uploaded content does not have the expected checksum",
        ),
    ],
)
def test_an_unexpected_upload_is_deleted(storage, deleted, expected, error, message):
    """The error says what was uploaded and what was expected; the signal is sent."""
    storage.write("in/a", BODY, content_type="image/png")
    storage.write("in/b", BODY)

    with pytest.raises(error, match=message) as caught:
        storage.confirm_upload("in/a", **expected)

    assert (caught.value.path, caught.value.backend) == ("in/a", storage.name)
    assert [entry.name for entry in storage.list()] == ["in/b"]
    assert deleted == ["in/a"]


def test_an_upload_without_a_content_type_does_not_match_a_type(memory_storage):
    """It is deleted."""
    memory_storage.write("a", BODY)

    with pytest.raises(IntegrityError, match="with content_type ''"):
        memory_storage.confirm_upload("a", content_type="image/")

    assert not memory_storage.exists("a")


@pytest.mark.parametrize("name", ["content_encoding", "cache_control"])
def test_other_headers_of_an_upload_are_compared(memory_storage, name):
    """As far as the storage keeps them."""
    memory_storage.write("a", BODY, **{name: "gzip"})

    assert memory_storage.confirm_upload("a", **{name: "gzip"}).size == len(BODY)
    with pytest.raises(IntegrityError, match=f"with {name} 'gzip' was uploaded where 'br' was expected"):
        memory_storage.confirm_upload("a", **{name: "br"})

    assert not memory_storage.exists("a")


class TypelessStorage(MemoryStorage):
    """Keeps content only, as SFTP does."""

    capabilities = replace(MemoryStorage.capabilities, content_headers=False)


@pytest.mark.parametrize("content_type", ["image/png", "image/", "Image/PNG; x=y"])
def test_where_no_type_is_kept_that_of_the_name_is_compared(content_type):
    """The file is served with it; other headers cannot be compared."""
    storage = TypelessStorage()
    storage.write("a.png", BODY)
    storage.write("a.html", BODY)

    info = storage.confirm_upload("a.png", content_type=content_type, cache_control="no-store", content_encoding="br")

    assert info.size == len(BODY)
    with pytest.raises(IntegrityError, match="with content_type 'text/html; charset=utf-8' was uploaded"):
        storage.confirm_upload("a.html", content_type=content_type)
    assert [entry.name for entry in storage.list()] == ["a.png"]


@pytest.mark.parametrize("name", ["content_type", "content_encoding", "cache_control"])
@pytest.mark.parametrize("value", ["", "a\nb"], ids=ascii)
def test_an_invalid_header_argument_deletes_nothing(memory_storage, name, value):
    """It is a mistake of the app, not of the client."""
    memory_storage.write("a", BODY)

    with pytest.raises(ValueError, match=f"{name} must be one line of text, and not empty"):
        memory_storage.confirm_upload("a", **{name: value})

    assert memory_storage.read("a") == BODY


def test_a_missing_upload_is_a_missing_file(storage, deleted):
    """Nothing is deleted."""
    with pytest.raises(FileNotFoundInStorageError):
        storage.confirm_upload("in/a", size=5)

    assert deleted == []


@pytest.mark.parametrize("checksum", ["sha256", "sha256:", "sha256:00", "crc0:00", "sha256:zz", f"{SHA256}\n", 5])
def test_an_invalid_checksum_argument_deletes_nothing(storage, checksum):
    """It is a mistake of the app, not of the client."""
    storage.write("a", BODY)

    with pytest.raises(ValueError, match=r"checksum|algorithm|digest|hex"):
        storage.confirm_upload("a", checksum=checksum)

    assert storage.read("a") == BODY


def test_the_path_is_validated(storage):
    """It may come from an untrusted client."""
    with pytest.raises(InvalidPathError):
        storage.confirm_upload("../a")


def test_an_empty_upload_can_be_confirmed(storage):
    """A size of 0 is checked like any other."""
    storage.write("a", b"")

    info = storage.confirm_upload("a", size=0, max_size=0, checksum=f"sha256:{hashlib.sha256(b'').hexdigest()}")

    assert info.size == 0


def test_a_checksum_that_the_backend_stores_is_not_computed_again(memory_storage, monkeypatch):
    """The content is not read."""
    memory_storage.write("a", BODY)
    known = memory_storage.stat("a")
    digest = SHA256.removeprefix("sha256:")
    monkeypatch.setattr(memory_storage, "_stat", lambda path: _with(known, sha256=digest))
    monkeypatch.setattr(memory_storage, "_open_reader", None)

    info = memory_storage.confirm_upload("a", checksum=SHA256)

    assert info.checksums == {"sha256": digest}


def _with(info, **checksums):
    from dataclasses import replace

    return replace(info, checksums=checksums)


def test_constraints_that_a_link_could_not_enforce_are_checked(s3):
    """Ceph compares no SHA-256 while a link uploads; here it is compared, and the upload is undone."""
    storage = make_storage(s3)
    follow(storage.upload_request("a", HOUR), BODY)
    follow(storage.upload_request("b", HOUR), BODY[::-1])

    storage.confirm_upload("a", checksum=SHA256)
    with pytest.raises(StorageError):
        storage.confirm_upload("b", checksum=SHA256)

    assert [entry.name for entry in storage.list()] == ["a"]


@pytest.mark.parametrize(
    "expectation",
    [
        {"size": "1"},
        {"size": True},
        {"max_size": -1},
        {"max_size": "5"},
        {"content_type": ""},
        {"content_type": "a\nb"},
    ],
    ids=str,
)
def test_an_invalid_argument_deletes_nothing(expectation):
    """Arguments are validated before the file is accessed."""
    storage = MemoryStorage()
    storage.write("file.bin", b"1")

    with pytest.raises(ValueError, match=next(iter(expectation))):
        storage.confirm_upload("file.bin", **expectation)

    assert storage.read("file.bin") == b"1"


# -- move first -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored():
    """The paths of the `file_stored` signals, in order."""
    paths = []

    def record(sender, path, **extra):
        paths.append(path)

    with file_stored.connected_to(record):
        yield paths


def test_an_expected_upload_is_moved_and_confirmed(storage, deleted, stored):
    """It exists only at the new path, and the signals say so."""
    storage.write("in/a", BODY, content_type="image/png")
    stored.clear()

    info = storage.confirm_upload("in/a", size=len(BODY), content_type="image/", checksum=SHA256, move_to="files/a")

    assert (info.path, info.size, info.content_type) == ("files/a", len(BODY), "image/png")
    assert [entry.name for entry in storage.list()] == ["files/a"]
    assert (stored, deleted) == (["files/a"], ["in/a"])


@pytest.mark.parametrize(
    "expected", [{"max_size": 5}, {"content_type": "text/"}, {"checksum": f"sha256:{'0' * 64}"}], ids=str
)
def test_an_unexpected_upload_is_deleted_also_when_it_was_to_be_moved(storage, stored, expected):
    """Nothing is stored at the new path."""
    storage.write("in/a", BODY, content_type="image/png")
    stored.clear()

    with pytest.raises((IntegrityError, TooLargeError)):
        storage.confirm_upload("in/a", **expected, move_to="files/a")

    assert (storage.list(), stored) == ([], [])


def test_an_upload_that_is_replaced_during_the_check_is_not_confirmed(memory_storage, monkeypatch):
    """What the client stores at the path of its link, after the file was moved, is not what is returned."""
    memory_storage.write("in/a", BODY)
    move = memory_storage._move

    def move_and_replace(path, new_path, options):
        memory_storage.write("in/a", b"replaced before")
        move(path, new_path, options)
        memory_storage.write("in/a", b"replaced afterwards")

    monkeypatch.setattr(memory_storage, "_move", move_and_replace)
    with pytest.raises(IntegrityError):
        memory_storage.confirm_upload("in/a", size=len(BODY), move_to="files/a")

    assert [entry.name for entry in memory_storage.list()] == ["in/a"]


def test_an_upload_does_not_replace_a_file(memory_storage):
    """A file at the new path is unchanged, and so is the upload."""
    memory_storage.write("in/a", BODY)
    memory_storage.write("files/a", b"good")

    with pytest.raises(FileExistsInStorageError):
        memory_storage.confirm_upload("in/a", move_to="files/a")

    assert (memory_storage.read("in/a"), memory_storage.read("files/a")) == (BODY, b"good")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"move_to": "/in/a"}, ValueError),
        ({"move_to": "../b"}, InvalidPathError),
        ({"move_to": "b", "size": -1}, ValueError),
        ({"move_to": "b", "checksum": "sha256"}, ValueError),
    ],
    ids=str,
)
def test_an_invalid_argument_moves_nothing(memory_storage, arguments, error):
    """Arguments are validated before the file is accessed."""
    memory_storage.write("in/a", BODY)

    with pytest.raises(error):
        memory_storage.confirm_upload("in/a", **arguments)

    assert [entry.name for entry in memory_storage.list()] == ["in/a"]
