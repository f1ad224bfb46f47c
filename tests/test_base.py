"""The wall: what it does before, between and after the hooks, whatever the place."""

import io
import logging
import os
import random
import stat
from array import array
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import arrow
import pytest

from flask_storage import (
    Capabilities,
    ConfigurationError,
    FileExistsInStorageError,
    IntegrityError,
    InvalidPathError,
    ListEntry,
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
from flask_storage.streams import LocalFile
from flask_storage.testing import FailingStorage
from flask_storage.types import FileInfo, LinkContext, LinkRequest, ShareLinkOperation, WriteOptions


class _TroubleError(Exception):
    """An error of some SDK."""


class _Place(MemoryStorage):
    """A place whose SDK raises errors of its own."""

    def _translate(self, error, path):
        return StorageFullError("the place is full") if isinstance(error, _TroubleError) else None


@pytest.fixture
def failing():
    """A storage that fails on request, over a place with an error of its own."""
    return FailingStorage(_Place("place"))


def _binding(profile="docs", **arguments):
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
def test_a_places_error_becomes_ours(failing, call, use):
    """Whatever hook it comes from: it is translated once, chained, and told where it happened; nothing is lost."""
    failing.write("folder/file.bin", b"old")
    failing.fail(call, error=_TroubleError("SDK says no"))

    with pytest.raises(StorageFullError) as caught:
        use(failing)

    assert isinstance(caught.value.__cause__, _TroubleError)
    assert str(caught.value.path).startswith("folder")
    assert caught.value.backend == "place"
    assert failing.read("folder/file.bin") == b"old"
    assert [entry.name for entry in failing.list()] == ["folder/file.bin"]


def test_an_error_that_is_not_the_places_passes(failing):
    """A defect is not dressed as trouble of the storage."""
    failing.fail("stat", error=ZeroDivisionError)

    with pytest.raises(ZeroDivisionError):
        failing.exists("file.bin")


def test_a_refusal_is_not_absence(failing):
    """`exists` is False for what is not there, and for nothing else."""
    failing.fail("stat", error=StorageUnavailableError("no answer"))

    with pytest.raises(StorageUnavailableError) as caught:
        failing.exists("file.bin")

    assert (caught.value.path, caught.value.backend) == ("file.bin", "place")


def test_an_error_that_knows_better_where_it_happened_is_believed(failing):
    """The first to tell path and storage is the nearest."""
    failing.fail("stat", error=StorageError("no", path="elsewhere", backend="other"))

    with pytest.raises(StorageError) as caught:
        failing.stat("file.bin")

    assert (caught.value.path, caught.value.backend) == ("elsewhere", "other")


# -- looking ----------------------------------------------------------------------------------------------------------


class _Untidy(MemoryStorage):
    """A place in which others have left names that no verb takes."""

    strangers: tuple[str, ...] = ("../up", "bad\nname", ".fs-tmp-half", "a//b", "folder/e\u0301")

    def _list(self, path, recursive):
        yield from super()._list(path, recursive)
        yield [ListEntry(name, None, 1) for name in self.strangers if name.startswith(path)]

    def _list_details(self, path, recursive, prefix):
        yield from super()._list_details(path, recursive, prefix)
        yield from (FileInfo(path=name, size=1, last_modified=arrow.utcnow()) for name in self.strangers)


def test_names_that_are_no_paths_are_skipped_and_counted(caplog):
    """A listing shows what every verb would take, and says once how much it left out."""
    storage = _Untidy()
    storage.write("good.txt", b"1")

    with caplog.at_level(logging.WARNING, "flask_storage"):
        names = [entry.name for entry in storage.iter()]
        details = [info.path for info in storage.iter(details=True)]

    assert names == details == ["good.txt"]
    assert [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()] == [
        "5 names below '' in 'memory' are no paths and were skipped",  # once for each listing
        "5 names below '' in 'memory' are no paths and were skipped",
    ]


def test_deleting_a_folder_takes_names_that_are_no_paths():
    """What no listing shows must not survive the deletion of its directory."""
    storage = _Untidy()
    storage.strangers = ("folder/bad\nname",)
    storage.write("folder/good.txt", b"1")

    assert storage.delete_prefix("folder") == 2


def test_files_that_vanish_during_a_listing_are_left_out():
    """A file that is deleted between the page and the question about it is no error."""
    storage = _Place()
    for name in ("a", "b", "c"):
        storage.write(name, b"1")
    found = storage.iter(details=True)
    first = next(found).path
    gone = "b" if first != "b" else "c"
    storage.delete(gone)

    assert {first, *(info.path for info in found)} == {"a", "b", "c"} - {gone}


# -- changing ---------------------------------------------------------------------------------------------------------


def test_what_could_not_be_deleted_is_named(failing):
    """One refusal among many does not stop the others, and the error has one for each that failed."""
    for name in ("a", "b", "c"):
        failing.write(name, b"1")
    failing.fail("delete", path="b", error=_TroubleError())

    with pytest.raises(PartialFailureError) as caught:
        failing.delete_many(["a", "b", "c"])

    assert set(caught.value.errors) == {"b"}
    assert isinstance(caught.value.errors["b"], StorageFullError)
    assert caught.value.errors["b"].path == "b"
    assert caught.value.backend == "place"
    assert [entry.name for entry in failing.list()] == ["b"]


class _DefaultVerbs(MemoryStorage):
    """Memory with nothing but the wall's defaults for what could be done better."""

    _copy = StorageDriver._copy
    _move = StorageDriver._move


def test_the_default_copy_keeps_everything():
    """Streamed through this process, headers and metadata arrive as well."""
    storage = _DefaultVerbs()
    storage.write("a.txt", b"abc", content_type="text/plain", cache_control="no-store", metadata={"k": "v"})

    storage.copy("a.txt", "b.txt")
    storage.move("a.txt", "c.txt", exclusive=True)

    for path in ("b.txt", "c.txt"):
        info = storage.stat(path)
        assert (info.content_type, info.cache_control, dict(info.metadata)) == ("text/plain", "no-store", {"k": "v"})
    assert [entry.name for entry in storage.list()] == ["b.txt", "c.txt"]
    with pytest.raises(FileExistsInStorageError):
        storage.copy("b.txt", "c.txt", exclusive=True)


def test_a_move_that_cannot_delete_leaves_both(failing):
    """The default move copies first, so a failure leaves at least one of the two."""

    class _Stuck(_DefaultVerbs):
        def _delete(self, path):
            raise StorageUnavailableError("no answer")

    storage = _Stuck()
    storage.write("a", b"1")

    with pytest.raises(StorageUnavailableError):
        storage.move("a", "b")

    assert storage.read("a") == storage.read("b") == b"1"


def test_save_tries_again_until_a_name_is_free(failing):
    """Every collision gets another suffix; other errors are raised at once."""
    failing.fail("publish", times=2, error=FileExistsInStorageError("taken"))

    path = failing.save("photo.jpg", b"1")

    assert path.startswith("photo_")
    assert failing.read(path) == b"1"
    failing.fail("publish", error=_TroubleError())
    with pytest.raises(StorageFullError):
        failing.save("photo.jpg", b"2")


def test_a_name_that_holds_none_is_refused(storage):
    """Of dots and slashes no file name can be made."""
    for name in ("", "/", "..", "../..", "./ /."):
        with pytest.raises(InvalidPathError):
            storage.save(name, b"1")

    assert storage.list() == []


def test_save_holds_to_what_is_portable():
    """A portable storage is not given a name that Windows could not hold, whatever the stranger called it."""
    storage = MemoryStorage(portable=True)

    for name in ("con", "a:b?.txt", "nul.tar.gz", "ends with a dot."):
        assert storage.exists(storage.save(name, b"1"))


@pytest.mark.parametrize("verb", ["read_file", "spooled"])
def test_save_spools_what_cannot_rewind(storage, tmp_path, verb):
    """A source without `seekable` is asked for `seek` itself; one without either is kept until it is stored."""

    class _Source:
        def __init__(self):
            self._source = io.BytesIO(b"content")

        def read(self, size):
            return self._source.read(size)

    class _Seekable(_Source):
        def seek(self, position):
            return self._source.seek(position)

        def tell(self):
            return self._source.tell()

    storage.write("taken.txt", b"taken")

    path = storage.save("taken.txt", _Seekable() if verb == "read_file" else _Source())

    assert storage.read(path) == b"content"


def test_get_keeps_the_mode_and_follows_links(storage, tmp_path):
    """A local file that is replaced keeps its mode, and a link stays a link to it."""
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
def test_get_brings_every_byte(tmp_path, size):
    """It writes in pieces, of which the last may be short; what is given at once need not be a row of bytes."""
    content = random.Random(size).randbytes(size)
    storage = MemoryStorage()
    storage.write("file.bin", content)

    storage.get("file.bin", tmp_path / "file.bin")
    with LocalFile(tmp_path / "numbers.bin", "wb") as file:
        assert file.write(memoryview(array("I", range(size // 4)))) == size // 4 * 4

    assert (tmp_path / "file.bin").read_bytes() == content
    assert (tmp_path / "numbers.bin").read_bytes() == array("I", range(size // 4)).tobytes()


def test_get_into_a_pipe_writes_to_it(storage, tmp_path):
    """What is no regular file is not replaced but written to."""
    storage.write("file.txt", b"through the pipe")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)

    storage.get("file.txt", pipe)

    assert os.read(descriptor, 100) == b"through the pipe"
    assert pipe.is_fifo()
    os.close(descriptor)


def test_get_into_a_folder_is_refused(storage, tmp_path):
    """A directory is not a name for a file."""
    storage.write("file.txt", b"1")

    with pytest.raises(IsADirectoryError):
        storage.get("file.txt", tmp_path)


def test_a_download_that_breaks_leaves_the_local_file(failing, tmp_path):
    """The new content is put in place only when all of it is there; nothing half is left beside it."""
    failing.write("file.txt", bytes(1000))
    (tmp_path / "file.txt").write_bytes(b"old")
    failing.fail("read", after=10)

    with pytest.raises(StorageUnavailableError):
        failing.get("file.txt", tmp_path / "file.txt")

    assert (tmp_path / "file.txt").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.txt"]


class _Disturbed(MemoryStorage):
    """Every file is replaced while it is being read, so many times."""

    times = 0

    def _open_reader(self, path):
        self.times -= 1
        if self.times >= 0:
            raise PreconditionFailedError(f"{path} was replaced while it was being read")
        return super()._open_reader(path)


@pytest.mark.parametrize("verb", ["read", "get"])
def test_what_is_replaced_while_it_is_read_is_read_again(tmp_path, verb):
    """Nobody has seen any of it yet; but not for ever, as it may be replaced all the time."""
    storage = _Disturbed("busy")
    storage.write("a.txt", b"whole")

    def content():
        if verb == "read":
            return storage.read("a.txt")
        storage.get("a.txt", tmp_path / "a.txt")
        return (tmp_path / "a.txt").read_bytes()

    storage.times = 3
    assert content() == b"whole"
    storage.times = 1000
    with pytest.raises(PreconditionFailedError):
        content()


def test_an_edit_promises_no_size(storage):
    """Size and checksum are promised of what is written anew; for an edit they are refused, not ignored."""
    storage.write("file.txt", b"1")

    for promise in ({"size": 1}, {"checksum": "md5:" + "0" * 32}):
        with pytest.raises(ValueError, match="edited"):
            storage.open("file.txt", "rw", **promise)


# -- links and configuration ------------------------------------------------------------------------------------------


def test_a_storage_belongs_to_one_profile():
    """A second profile of the same object would share its name and its links."""
    storage = MemoryStorage()
    storage.set_link_context(_binding("docs"))

    with pytest.raises(ConfigurationError, match="docs"):
        storage.set_link_context(_binding("images"))


def test_a_backend_without_a_url_form_says_so():
    """What cannot be written as a URL is refused with the way that works."""
    with pytest.raises(ConfigurationError, match="mapping"):
        StorageBackend.from_url(urlsplit("nowhere://x"), {})


def test_a_base_url_is_text():
    """Anything else is a mistake in the configuration, and told at once."""
    with pytest.raises(ConfigurationError, match="base_url"):
        MemoryStorage(base_url=8080)  # type: ignore[arg-type]  # wrong on purpose


def test_memory_has_a_url_form():
    """`memory:` with the constructor's arguments as its query."""
    storage = MemoryStorage.from_url(urlsplit("memory:"), {"name": "scratch", "base_url": "/m"})

    assert (storage.name, storage.url("a b")) == ("scratch", "/m/a%20b")


def test_the_hooks_of_a_contract_without_a_place_are_empty():
    """The required hooks are the backend's; the optional ones refuse or do nothing."""
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


# -- upkeep -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["open_writer", "write", "publish", "open_reader", "read", "delete"])
def test_the_check_tells_what_is_wrong(failing, call):
    """Whatever fails in the probe is raised, and its file is not left."""
    failing.fail(call, error=_TroubleError())

    with pytest.raises(StorageFullError):
        failing.check()

    failing.reset()
    assert failing.list() == []
    if call != "delete":
        assert failing.inner._files == {}


def test_the_check_compares_the_bytes():
    """A storage that returns other bytes than it was given does not work."""

    class _Liar(MemoryStorage):
        def _open_reader(self, path):
            return FileAdapter(io.BytesIO(b"something else"), "r", info=super()._open_reader(path).info)

    with pytest.raises(IntegrityError, match="other bytes"):
        _Liar().check()


# -- parts ------------------------------------------------------------------------------------------------------------


def test_finishing_announces_the_file(memory_storage, storage_events):
    """An upload in parts is announced when it is published, as every other write."""
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


def test_parts_are_handed_over_in_their_order():
    """The place gets the parts sorted by number, whatever order the caller has them in."""
    handed: list[int] = []

    class _Noting(MemoryStorage):
        def _multipart(self):
            inner: Any = super()._multipart()
            finish = inner.complete

            def note(path, upload_id, parts, options):
                handed.extend(part.number for part in parts)
                finish(path, upload_id, parts, options)

            inner.complete = note
            return inner

    storage = _Noting()
    upload_id = storage.multipart.create("a", WriteOptions())
    parts = [storage.multipart.upload_part("a", upload_id, number, b"x") for number in (3, 1, 2)]

    storage.multipart.complete("a", upload_id, parts, WriteOptions())

    assert handed == [1, 2, 3]
    assert isinstance(storage.multipart, MultipartStore)
    assert isinstance(parts[0], Part)


class _HalfConditional(MemoryStorage):
    """Decides conditions when a file is written, and nowhere else, as some services do."""

    capabilities = replace(MemoryStorage.capabilities, copy_conditions=False, multipart_conditions=False)


@pytest.mark.parametrize("terms", [{"exclusive": True}, {"if_match": "x"}], ids=str)
def test_a_condition_that_a_place_ignores_is_refused_where_it_does(terms):
    """Copying, moving and finishing parts may each have none, while a plain write has them."""
    storage = _HalfConditional()
    storage.write("a.txt", b"1", exclusive=True)
    upload_id = storage.multipart.create("b.txt", WriteOptions())
    part = storage.multipart.upload_part("b.txt", upload_id, 1, b"1")

    for deed in (storage.copy, storage.move):
        with pytest.raises(UnsupportedOperationError, match="when it copies or moves"):
            deed("a.txt", "b.txt", **terms)
    with pytest.raises(UnsupportedOperationError, match="for an upload in parts"):
        storage.multipart.complete("b.txt", upload_id, [part], WriteOptions(**terms))

    assert [entry.name for entry in storage.list()] == ["a.txt"]


def test_a_prefix_that_cannot_be_deleted_says_why():
    """The first refusal ends it; it is the place's own."""

    class Guarded(MemoryStorage):
        def _delete(self, path):
            raise PermissionDeniedError("not yours")

    storage = Guarded()
    storage.write("a/b.txt", b"1")

    with pytest.raises(PermissionDeniedError, match="not yours"):
        storage.delete_prefix("a")

    assert storage.exists("a/b.txt")


def test_the_walls_module_has_no_other_names_of_the_predecessor():
    """Two are fetched for who asks; the rest is an AttributeError as in any module."""
    from flask_storage.backends import base

    assert base.InternalLinkTokenData
    with pytest.raises(AttributeError, match="no attribute 'Storrage'"):
        base.Storrage  # noqa: B018 - asking is the test
