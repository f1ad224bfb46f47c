"""The storage interface: what it does before and after the driver methods, for every backend."""

import copy
import gzip
import io
import logging
import os
import pickle
import random
import stat
import tempfile
from array import array
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import arrow
import pytest
from werkzeug.datastructures import FileStorage

from flask_storage import (
    Capabilities,
    ConfigurationError,
    FileExistsInStorageError,
    IntegrityError,
    InvalidPathError,
    ListEntry,
    LocalFSStorage,
    MemoryStorage,
    PartialFailureError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageBackend,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from flask_storage.backends.driver import StorageDriver
from flask_storage.files import FileAdapter
from flask_storage.multipart import MultipartStore, Part
from flask_storage.streams import LocalFile, is_rewindable, remaining_size
from flask_storage.testing import FailingStorage
from flask_storage.types import FileInfo, LinkContext, LinkRequest, ShareLinkOperation, WriteOptions


class _SDKError(Exception):
    """An error of an SDK."""


class _SDKStorage(MemoryStorage):
    """A backend whose SDK raises its own errors."""

    def _translate(self, error, path):
        return StorageFullError("the service is full") if isinstance(error, _SDKError) else None


@pytest.fixture
def failing():
    """A storage that fails on request, around a backend with SDK errors."""
    return FailingStorage(_SDKStorage("sdk"))


def _link_context(profile="docs", **arguments):
    return LinkContext(
        profile=profile, secrets=lambda: (b"s" * 32,), link_url=lambda token, endpoint: f"/{token}", **arguments
    )


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "use"),
    [
        ("list", lambda storage: storage.list("folder")),
        ("stat", lambda storage: storage.stat("folder/file.bin")),
        ("open_reader", lambda storage: storage.open("folder/file.bin", "r")),
        ("open_writer", lambda storage: storage.open("folder/file.bin", "w")),
        ("open_updater", lambda storage: storage.open("folder/file.bin", "rw")),
        ("read", lambda storage: storage.read("folder/file.bin")),
        ("write", lambda storage: storage.write("folder/file.bin", b"x")),
        ("publish", lambda storage: storage.write("folder/file.bin", b"x")),
        ("delete", lambda storage: storage.delete("folder/file.bin")),
        ("copy", lambda storage: storage.copy("folder/file.bin", "new.bin")),
        ("move", lambda storage: storage.move("folder/file.bin", "new.bin")),
        ("delete_prefix", lambda storage: storage.delete_prefix("folder")),
        ("create", lambda storage: storage.multipart.create("folder/file.bin", WriteOptions())),
        ("put", lambda storage: storage.multipart.put("folder/file.bin", b"x", WriteOptions())),
        ("list_uploads", lambda storage: list(storage.multipart.list_uploads("folder"))),
    ],
)
def test_an_sdk_error_is_translated(failing, call, use):
    """In every driver method it is translated once and chained, with path and backend; no file is lost."""
    failing.write("folder/file.bin", b"old")
    failing.fail(call, error=_SDKError("denied by the service"))

    with pytest.raises(StorageFullError) as caught:
        use(failing)

    assert isinstance(caught.value.__cause__, _SDKError)
    assert str(caught.value.path).startswith("folder")
    assert caught.value.backend == "sdk"
    assert failing.read("folder/file.bin") == b"old"
    assert [entry.name for entry in failing.list()] == ["folder/file.bin"]


def test_other_errors_are_not_translated(failing):
    """A bug in a backend is not reported as a storage error."""
    failing.fail("stat", error=ZeroDivisionError)

    with pytest.raises(ZeroDivisionError):
        failing.exists("file.bin")


def test_exists_raises_other_errors_than_not_found(failing):
    """`exists` is False only for a missing file."""
    failing.fail("stat", error=StorageUnavailableError("no response"))

    with pytest.raises(StorageUnavailableError) as caught:
        failing.exists("file.bin")

    assert (caught.value.path, caught.value.backend) == ("file.bin", "sdk")


def test_path_and_backend_of_an_error_are_not_overwritten(memory_storage, monkeypatch):
    """The values that the backend sets are kept."""

    def fail(path):
        raise StorageError("no", path="elsewhere", backend="other")

    monkeypatch.setattr(memory_storage, "_stat", fail)

    with pytest.raises(StorageError) as caught:
        memory_storage.stat("file.bin")

    assert (caught.value.path, caught.value.backend) == ("elsewhere", "other")


# -- listing ----------------------------------------------------------------------------------------------------------


class _WithInvalidNames(MemoryStorage):
    """A storage in which other programs have stored names that are not valid paths."""

    invalid_names: tuple[str, ...] = ("../up", "bad\nname", ".fs-tmp-half", "a//b", "folder/e\u0301")

    def _list(self, path, recursive):
        yield from super()._list(path, recursive)
        yield [ListEntry(name, None, 1) for name in self.invalid_names if name.startswith(path)]

    def _list_details(self, path, recursive, prefix):
        yield from super()._list_details(path, recursive, prefix)
        yield from (FileInfo(path=name, size=1, last_modified=arrow.utcnow()) for name in self.invalid_names)


def test_listings_skip_and_count_invalid_names(caplog):
    """A listing yields only valid paths, and logs once how many names it skipped."""
    storage = _WithInvalidNames()
    storage.write("good.txt", b"1")

    with caplog.at_level(logging.WARNING, "flask_storage"):
        names = [entry.name for entry in storage.iter()]
        details = [info.path for info in storage.iter(details=True)]

    assert names == details == ["good.txt"]
    assert [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()] == [
        "5 names below '' in 'memory' are not valid paths and were skipped",  # once for each listing
        "5 names below '' in 'memory' are not valid paths and were skipped",
    ]


def test_delete_prefix_deletes_invalid_names():
    """Files that listings skip are deleted with their directory."""
    storage = _WithInvalidNames()
    storage.invalid_names = ("folder/bad\nname",)
    storage.write("folder/good.txt", b"1")

    assert storage.delete_prefix("folder") == 2


def test_files_deleted_during_a_listing_are_skipped():
    """A file that is deleted between the listing and its `stat` is no error."""
    storage = _SDKStorage()
    for name in ("a", "b", "c"):
        storage.write(name, b"1")
    infos = storage.iter(details=True)
    first = next(infos).path
    deleted = "b" if first != "b" else "c"
    storage.delete(deleted)

    assert {first, *(info.path for info in infos)} == {"a", "b", "c"} - {deleted}


# -- writing ----------------------------------------------------------------------------------------------------------


def test_delete_many_reports_each_failed_path(failing):
    """One failure does not stop the other deletions, and the error has the error of each failed path."""
    for name in ("a", "b", "c"):
        failing.write(name, b"1")
    failing.fail("delete", path="b", error=_SDKError())

    with pytest.raises(PartialFailureError) as caught:
        failing.delete_many(["a", "b", "c"])

    assert set(caught.value.errors) == {"b"}
    assert isinstance(caught.value.errors["b"], StorageFullError)
    assert caught.value.errors["b"].path == "b"
    assert caught.value.backend == "sdk"
    assert [entry.name for entry in failing.list()] == ["b"]


class _DefaultCopyAndMove(MemoryStorage):
    """Memory with the default copy and move of the driver."""

    _copy = StorageDriver._copy
    _move = StorageDriver._move


def test_the_default_copy_keeps_headers_and_metadata():
    """The default streams through this process, with headers and metadata."""
    storage = _DefaultCopyAndMove()
    storage.write("a.txt", b"abc", content_type="text/plain", cache_control="no-store", metadata={"k": "v"})

    storage.copy("a.txt", "b.txt")
    storage.move("a.txt", "c.txt", exclusive=True)

    for path in ("b.txt", "c.txt"):
        info = storage.stat(path)
        assert (info.content_type, info.cache_control, dict(info.metadata)) == ("text/plain", "no-store", {"k": "v"})
    assert [entry.name for entry in storage.list()] == ["b.txt", "c.txt"]
    with pytest.raises(FileExistsInStorageError):
        storage.copy("b.txt", "c.txt", exclusive=True)


def test_a_move_that_cannot_delete_leaves_both_files(failing):
    """The default move copies first, so after a failure at least one of both files exists."""

    class _Undeletable(_DefaultCopyAndMove):
        def _delete(self, path):
            raise StorageUnavailableError("no response")

    storage = _Undeletable()
    storage.write("a", b"1")

    with pytest.raises(StorageUnavailableError):
        storage.move("a", "b")

    assert storage.read("a") == storage.read("b") == b"1"


def test_the_default_move_keeps_a_file_that_was_replaced_during_the_copy():
    """It deletes nothing that it may not have copied."""

    class _Replaced(_DefaultCopyAndMove):
        def _copy(self, path, new_path, options):
            super()._copy(path, new_path, options)
            self._store(path, b"new", {}, WriteOptions())

    storage = _Replaced()
    storage.write("a", b"old")

    with pytest.raises(PreconditionFailedError, match="a was replaced while it was copied to b"):
        storage.move("a", "b")

    assert (storage.read("a"), storage.read("b")) == (b"new", b"old")


def test_save_retries_until_a_name_is_unused(failing):
    """After each collision `save` uses another suffix; other errors are raised immediately."""
    failing.fail("publish", times=2, error=FileExistsInStorageError("taken"))

    path = failing.save("photo.jpg", b"1")

    assert path.startswith("photo_")
    assert failing.read(path) == b"1"
    failing.fail("publish", error=_SDKError())
    with pytest.raises(StorageFullError):
        failing.save("photo.jpg", b"2")


def test_save_uses_another_name_when_another_write_of_the_same_one_ends_concurrently(failing):
    """S3 and Azure raise an error then. Under a random name, which no other client has, it is raised."""
    failing.fail("publish", error=PreconditionFailedError("replaced concurrently"))

    path = failing.save("photo.jpg", b"1")

    assert path.startswith("photo_")
    assert failing.read(path) == b"1"
    failing.fail("publish", times=2, error=PreconditionFailedError("replaced concurrently"))
    with pytest.raises(PreconditionFailedError):
        failing.save("photo.jpg", b"2")


def test_save_refuses_a_name_without_a_file_name(storage):
    """Dots and slashes alone are no file name."""
    for name in ("", "/", "..", "../..", "./ /."):
        with pytest.raises(InvalidPathError):
            storage.save(name, b"1")

    assert storage.list() == []


def test_save_creates_portable_names():
    """With `portable=True` a user-supplied name becomes one that is valid on Windows."""
    storage = MemoryStorage(portable=True)

    for name in ("con", "a:b?.txt", "nul.tar.gz", "ends with a dot."):
        assert storage.exists(storage.save(name, b"1"))


def test_dropped_headers_are_logged_by_name(caplog):
    """At the level DEBUG, without their values. A type that the name implies is not lost, and not logged."""

    class _Plain(MemoryStorage):
        capabilities = Capabilities()

    storage = _Plain("plain")
    storage.unsupported_headers = "drop"

    with caplog.at_level(logging.DEBUG, logger="flask_storage"):
        storage.write("a.csv", b"1", content_type="text/csv")
        storage.write("b.csv", b"1", content_type="text/x-mine", metadata={"owner": "hunter2"})

    assert caplog.messages == ["'plain' cannot store content_type, metadata with 'b.csv': dropped"]


class _Unknown(io.RawIOBase):
    """A source that claims to be seekable."""

    def __init__(self, content):
        self._source = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._source.readinto(buffer)

    def seekable(self):
        return True

    def tell(self):
        return self._source.tell()

    def seek(self, *_):
        raise AssertionError("the source cannot seek back")


def _at_start(file):
    file.write(b"content")
    file.seek(0)
    return file


# How to open a source of `content`, whether it certainly can be read again, and its size if that is known.
SOURCES = {
    "bytes": (lambda path, storage: io.BytesIO(b"content"), True, 7),
    "file": (lambda path, storage: path.open("rb"), True, 7),
    "raw file": (lambda path, storage: path.open("rb", buffering=0), True, 7),
    "edited file": (lambda path, storage: path.open("r+b"), True, 7),
    "temporary file": (lambda path, storage: _at_start(tempfile.NamedTemporaryFile()), True, 7),  # noqa: SIM115 - closed below
    "spooled file": (lambda path, storage: _at_start(tempfile.SpooledTemporaryFile()), True, None),  # noqa: SIM115 - likewise
    "stored file": (lambda path, storage: storage.open("taken.txt", "r"), True, 7),
    "form field": (lambda path, storage: FileStorage(io.BytesIO(b"content"), "a.txt"), True, None),
    "unknown": (lambda path, storage: _Unknown(b"content"), False, None),
    "buffered unknown": (lambda path, storage: io.BufferedReader(_Unknown(b"content")), False, None),
    "gzip": (lambda path, storage: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(b"content"))), False, None),
}


@pytest.mark.parametrize(("make_source", "rewindable", "size"), SOURCES.values(), ids=SOURCES)
def test_a_source_is_read_once_unless_it_certainly_can_be_read_again(storage, tmp_path, make_source, rewindable, size):
    """Also if it claims to be seekable. Only plain files and bytes are asked for their size."""
    (tmp_path / "a.txt").write_bytes(b"content")
    storage.write("taken.txt", b"content")

    with closing(make_source(tmp_path / "a.txt", storage)) as source:
        assert (is_rewindable(source), remaining_size(source)) == (rewindable, size)
        path = storage.save("taken.txt", source)

    assert storage.read(path) == b"content"


def test_the_size_of_a_file_of_proc_is_unknown():
    """The system says 0, whatever the file contains."""
    with Path("/proc/self/status").open("rb") as source:
        assert remaining_size(source) is None


@pytest.mark.parametrize("wrong", ["text", ["a"], None, 5, b"bytes", Path("a.txt")], ids=str)
def test_what_is_not_a_file_is_refused_with_advice(storage, wrong):
    """By every operation that takes a file object, before anything is stored or read."""
    storage.write("a.txt", b"kept")

    with pytest.raises(TypeError, match=r"upload\(\) requires a binary file object .*: use write\(path, data\)"):
        storage.upload(wrong, "a.txt")
    with pytest.raises(TypeError, match=r"download\(\) requires a binary file object .*: use read\(path\)"):
        storage.download("a.txt", wrong)
    if not isinstance(wrong, bytes):
        with pytest.raises(TypeError, match=r"save\(\) requires a binary file object .*: pass bytes"):
            storage.save("a.txt", wrong)
        with pytest.raises(InvalidPathError, match="must be a str" if not isinstance(wrong, str) else "file name"):
            storage.save("" if isinstance(wrong, str) else wrong, b"1")

    assert [(entry.name, entry.size) for entry in storage.list()] == [("a.txt", 4)]


@pytest.mark.parametrize("max_size", [-1, "5", 2.5, True])
def test_read_refuses_a_limit_that_is_not_a_size(storage, max_size):
    """A negative one would read everything."""
    storage.write("a.txt", b"1")

    with pytest.raises(ValueError, match="max_size must be a whole number"):
        storage.read("a.txt", max_size=max_size)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_storage_cannot_be_pickled_or_copied(storage, tmp_path, copied):
    """Its keys would be in the copy. The error says what to do."""
    for each in (storage, LocalFSStorage(tmp_path, secret_key="s" * 32), FailingStorage(storage)):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copied(each)


def test_get_keeps_the_mode_and_follows_symbolic_links(storage, tmp_path):
    """A replaced local file keeps its mode, and a symbolic link to it stays."""
    storage.write("file.txt", b"new")
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)

    storage.get("file.txt", link)

    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 5_300_000])
def test_get_writes_every_byte(tmp_path, size):
    """The last piece may be short, and `LocalFile` accepts views of items of several bytes."""
    content = random.Random(size).randbytes(size)
    storage = MemoryStorage()
    storage.write("file.bin", content)

    storage.get("file.bin", tmp_path / "file.bin")
    with LocalFile(tmp_path / "numbers.bin", "wb") as file:
        assert file.write(memoryview(array("I", range(size // 4)))) == size // 4 * 4

    assert (tmp_path / "file.bin").read_bytes() == content
    assert (tmp_path / "numbers.bin").read_bytes() == array("I", range(size // 4)).tobytes()


def test_get_writes_to_a_pipe(storage, tmp_path):
    """A local path that is not a regular file is written to, not replaced."""
    storage.write("file.txt", b"through the pipe")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)

    storage.get("file.txt", pipe)

    assert os.read(descriptor, 100) == b"through the pipe"
    assert pipe.is_fifo()
    os.close(descriptor)


def test_get_to_a_directory_is_refused(storage, tmp_path):
    """The destination must be a file, not a directory."""
    storage.write("file.txt", b"1")

    with pytest.raises(IsADirectoryError):
        storage.get("file.txt", tmp_path)


def test_a_failed_get_leaves_the_local_file_unchanged(failing, tmp_path):
    """The local file is replaced only when the content is complete, and no temporary file is left."""
    failing.write("file.txt", bytes(1000))
    (tmp_path / "file.txt").write_bytes(b"old")
    failing.fail("read", after=10)

    with pytest.raises(StorageUnavailableError):
        failing.get("file.txt", tmp_path / "file.txt")

    assert (tmp_path / "file.txt").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.txt"]


class _ReplacedDuringReads(MemoryStorage):
    """A storage in which a file is replaced during the next *times* reads."""

    times = 0

    def _open_reader(self, path):
        self.times -= 1
        if self.times >= 0:
            raise PreconditionFailedError(f"{path} was replaced while it was being read")
        return super()._open_reader(path)


@pytest.mark.parametrize("operation", ["read", "get"])
def test_a_file_replaced_during_a_read_is_read_again(tmp_path, operation):
    """`read` and `get` retry, but not for ever: a file may be replaced all the time."""
    storage = _ReplacedDuringReads("busy")
    storage.write("a.txt", b"whole")

    def content():
        if operation == "read":
            return storage.read("a.txt")
        storage.get("a.txt", tmp_path / "a.txt")
        return (tmp_path / "a.txt").read_bytes()

    storage.times = 3
    assert content() == b"whole"
    storage.times = 1000
    with pytest.raises(PreconditionFailedError):
        content()


def test_editing_refuses_an_expected_size_or_checksum(storage):
    """They are for new files; for an edit they are refused, not ignored."""
    storage.write("file.txt", b"1")

    for arguments in ({"size": 1}, {"checksum": "md5:" + "0" * 32}):
        with pytest.raises(ValueError, match="mode 'rw'"):
            storage.open("file.txt", "rw", **arguments)


# -- links and configuration ------------------------------------------------------------------------------------------


def test_a_storage_belongs_to_one_profile():
    """A second profile with the same storage would share its name and its links."""
    storage = MemoryStorage()
    storage.set_link_context(_link_context("docs"))

    with pytest.raises(ConfigurationError, match="docs"):
        storage.set_link_context(_link_context("images"))


def test_a_backend_without_a_url_form_is_refused():
    """The error advises a mapping in place of the URL."""
    with pytest.raises(ConfigurationError, match="mapping"):
        StorageBackend.from_url(urlsplit("nowhere://x"), {})


def test_a_base_url_must_be_text():
    """Any other type is a ConfigurationError in the constructor."""
    with pytest.raises(ConfigurationError, match="base_url"):
        MemoryStorage(base_url=8080)  # type: ignore[arg-type]  # what is tested


def test_memory_can_be_configured_by_a_url():
    """The query of `memory:` has the arguments of the constructor."""
    storage = MemoryStorage.from_url(urlsplit("memory:"), {"name": "scratch", "base_url": "/m"})

    assert (storage.name, storage.url("a b")) == ("scratch", "/m/a%20b")


def test_driver_methods_without_an_implementation_refuse():
    """Required driver methods raise NotImplementedError; optional ones refuse or do nothing."""
    bare = StorageBackend("bare")
    request = LinkRequest(operations=ShareLinkOperation.download, expires_at=datetime.now(UTC))

    for required in (
        lambda: bare._list("", True),
        lambda: bare._open_reader("a"),
        lambda: bare._open_writer("a", WriteOptions()),
        lambda: bare._delete("a"),
        lambda: bare._stat("a"),
    ):
        with pytest.raises(NotImplementedError):
            required()
    for refused in (
        lambda: bare._open_updater("a", WriteOptions()),
        lambda: bare._link_to("a", request),
        lambda: bare.multipart,
        lambda: bare.url("a"),
    ):
        with pytest.raises(UnsupportedOperationError) as caught:
            refused()
        assert caught.value.backend == "bare"
    assert bare.capabilities == Capabilities()
    assert bare.local_path("a") is None
    assert bare.sweep() == 0


# -- maintenance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["open_writer", "write", "publish", "open_reader", "read", "delete"])
def test_check_raises_the_error(failing, call):
    """Every failure is raised, and the file of `check` is removed."""
    failing.fail(call, error=_SDKError())

    with pytest.raises(StorageFullError):
        failing.check()

    failing.reset()
    assert failing.list() == []
    if call != "delete":
        assert failing.inner._files == {}


def test_check_compares_the_bytes():
    """`check` fails if the storage returns other bytes than were written."""

    class _WrongBytes(MemoryStorage):
        def _open_reader(self, path):
            return FileAdapter(io.BytesIO(b"something else"), "r", info=super()._open_reader(path).info)

    with pytest.raises(IntegrityError, match="other bytes"):
        _WrongBytes().check()


# -- multipart --------------------------------------------------------------------------------------------------------


def test_completing_an_upload_sends_a_signal(memory_storage, storage_events):
    """`file_stored` is sent when a multipart upload is completed, as for every other write."""
    parts = memory_storage.multipart
    upload_id = parts.create("a.bin", WriteOptions())
    part = parts.upload_part("a.bin", upload_id, 1, b"x")
    assert storage_events == []

    parts.complete("a.bin", upload_id, [part], WriteOptions())
    parts.put("b.bin", b"y", WriteOptions())

    assert [(event.signal, event.path) for event in storage_events] == [
        ("file-stored", "a.bin"),
        ("file-stored", "b.bin"),
    ]


def test_parts_are_passed_to_the_backend_in_order():
    """The backend gets the parts sorted by number, whatever the order of the caller is."""
    numbers: list[int] = []

    class _Recording(MemoryStorage):
        def _multipart(self):
            inner: Any = super()._multipart()
            complete = inner.complete

            def record(path, upload_id, parts, options):
                numbers.extend(part.number for part in parts)
                complete(path, upload_id, parts, options)

            inner.complete = record
            return inner

    storage = _Recording()
    upload_id = storage.multipart.create("a", WriteOptions())
    parts = [storage.multipart.upload_part("a", upload_id, number, b"x") for number in (3, 1, 2)]

    storage.multipart.complete("a", upload_id, parts, WriteOptions())

    assert numbers == [1, 2, 3]
    assert isinstance(storage.multipart, MultipartStore)
    assert isinstance(parts[0], Part)


class _ConditionalWritesOnly(MemoryStorage):
    """Supports conditions for writes only, as some services do."""

    capabilities = replace(MemoryStorage.capabilities, copy_conditions=False, multipart_conditions=False)


@pytest.mark.parametrize("condition", [{"exclusive": True}, {"if_match": "x"}], ids=str)
def test_unsupported_conditions_of_copies_and_uploads_are_refused(condition):
    """A backend may support conditions for writes, but not for copies, moves and multipart uploads."""
    storage = _ConditionalWritesOnly()
    storage.write("a.txt", b"1", exclusive=True)
    upload_id = storage.multipart.create("b.txt", WriteOptions())
    part = storage.multipart.upload_part("b.txt", upload_id, 1, b"1")

    for operation in (storage.copy, storage.move):
        with pytest.raises(UnsupportedOperationError, match="for a copy or a move"):
            operation("a.txt", "b.txt", **condition)
    with pytest.raises(UnsupportedOperationError, match="for a multipart upload"):
        storage.multipart.complete("b.txt", upload_id, [part], WriteOptions(**condition))

    assert [entry.name for entry in storage.list()] == ["a.txt"]


def test_delete_prefix_raises_the_first_error():
    """The first error of the backend ends the deletion and is raised."""

    class _Undeletable(MemoryStorage):
        def _delete(self, path):
            raise PermissionDeniedError("access denied")

    storage = _Undeletable()
    storage.write("a/b.txt", b"1")

    with pytest.raises(PermissionDeniedError, match="access denied"):
        storage.delete_prefix("a")

    assert storage.exists("a/b.txt")


def test_the_base_module_has_keg_storages_names():
    """Two names are imported on first use; any other is an AttributeError."""
    from flask_storage.backends import base

    assert base.InternalLinkTokenData
    with pytest.raises(AttributeError, match="no attribute 'Storrage'"):
        base.Storrage  # noqa: B018 - the access is the test
