"""Storages that wrap others: what a directory hides, what is refused, what mirrors follow, what migration loses."""

import pickle
import threading
from datetime import timedelta
from typing import Any

import pytest

from flask_storage import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidPathError,
    LocalFSStorage,
    MemoryStorage,
    MirrorStorage,
    NotAFileError,
    PartialFailureError,
    PermissionDeniedError,
    PreconditionFailedError,
    PrefixStorage,
    ReadOnlyStorage,
    ReadThroughStorage,
    StorageUnavailableError,
    UnsupportedOperationError,
    WriteOptions,
)
from flask_storage.registry import make_storages
from flask_storage.testing import FailingStorage
from flask_storage.testing.concurrency import run_concurrently
from tests.counts import count

DEFAULTS = WriteOptions()


def names(storage, path="", **arguments):
    """Return the names in a listing."""
    return [entry.name for entry in storage.list(path, **arguments)]


def contents(storage):
    """Return the content of every file by its path."""
    return {name: storage.read(name) for name in names(storage)}


@pytest.fixture
def acme(storage):
    """A directory of a storage, in which other tenants have files."""
    for path in ("secret.txt", "tenants/acme2/a.txt", "tenants/other/a.txt", "tenants/acme.txt"):
        storage.write(path, b"of another tenant")
    return PrefixStorage(storage, "tenants/acme", "acme")


# -- PrefixStorage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../secret.txt", "a/../../other/a.txt", "..", "a/..", "./a", "", "a\\..\\b", "a/./b"])
def test_no_path_leads_out_of_the_directory(acme, path):
    """It is refused as in every storage, before the inner one is called."""
    for operation in (acme.read, acme.stat, acme.delete, acme.url, acme.local_path, acme.delete_prefix, acme.list):
        if path or operation != acme.list:
            with pytest.raises(InvalidPathError):
                operation(path)
    for operation in (acme.copy, acme.move):
        with pytest.raises(InvalidPathError):
            operation("a", path)
    with pytest.raises(InvalidPathError):
        acme.write(path, b"")


@pytest.mark.parametrize(
    "prefix", ["", "/", "tenants/", "..", "tenants/..", "tenants/../other", "a//b", "a\\b", "a\x00"]
)
def test_a_prefix_that_is_no_directory_is_refused(storage, prefix):
    """Also one that ends in a slash: it may come from an empty name of a tenant."""
    with pytest.raises(InvalidPathError, match=r"prefix of 'acme' must be a directory"):
        PrefixStorage(storage, prefix, "acme")


def test_listings_have_only_the_files_of_the_directory(acme):
    """Directories whose names begin alike are others."""
    acme.write("a.txt", b"1")
    acme.write("b/c.txt", b"1")

    assert names(acme) == names(acme, prefix="") == ["a.txt", "b/c.txt"]
    assert names(acme, recursive=False) == ["a.txt", "b/"]
    assert names(acme, prefix="b/") == [info.path for info in acme.iter("b", details=True)] == ["b/c.txt"]
    assert names(acme, prefix="2") == names(acme, prefix=".txt") == []


def test_an_upload_of_another_directory_is_not_found(storage, acme):
    """Its id alone gives no access, whatever the path."""
    other = PrefixStorage(storage, "tenants/other")
    upload_id = other.multipart.create("a.bin", DEFAULTS)
    part = other.multipart.upload_part("a.bin", upload_id, 1, b"content")

    with pytest.raises(FileNotFoundInStorageError):
        acme.multipart.upload_part("a.bin", upload_id, 2, b"x")
    with pytest.raises(FileNotFoundInStorageError):
        acme.multipart.list_parts("a.bin", upload_id)
    with pytest.raises(FileNotFoundInStorageError):
        acme.multipart.complete("a.bin", upload_id, [part], DEFAULTS)
    acme.multipart.abort("a.bin", upload_id)

    assert list(acme.multipart.list_uploads()) == []
    assert [upload.path for upload in other.multipart.list_uploads()] == ["a.bin"]
    other.multipart.complete("a.bin", upload_id, [part], DEFAULTS)
    assert other.read("a.bin") == b"content"


def _exclusive_write(acme):
    acme.write("a.txt", b"", exclusive=True)


def _conditional_write(acme):
    acme.write("a.txt", b"", if_match="other")


def _exclusive_copy(acme):
    acme.copy("a.txt", "b.txt", exclusive=True)


def _write_below_a_file(acme):
    acme.write("a.txt/b", b"")


def _unknown_upload(acme):
    acme.multipart.upload_part("new.txt", "unknown", 1, b"")


def _missing_part(acme):
    upload_id = acme.multipart.create("new.txt", DEFAULTS)
    part = acme.multipart.upload_part("new.txt", upload_id, 1, b"1")
    acme.multipart.upload_part("new.txt", upload_id, 1, b"2")
    acme.multipart.complete("new.txt", upload_id, [part], DEFAULTS)


def _long_path(acme):
    acme.write("/".join(["d" * 200] * 5) + "/" + "d" * 15, b"")


@pytest.mark.parametrize(
    ("call", "error", "path"),
    [
        (lambda acme: acme.read("b/c.txt"), FileNotFoundInStorageError, "b/c.txt"),
        (lambda acme: acme.copy("new.txt", "b.txt"), FileNotFoundInStorageError, "new.txt"),
        (_exclusive_write, FileExistsInStorageError, "a.txt"),
        (_conditional_write, PreconditionFailedError, "a.txt"),
        (_exclusive_copy, FileExistsInStorageError, "b.txt"),
        (_unknown_upload, FileNotFoundInStorageError, "new.txt"),
        (_missing_part, IntegrityError, "new.txt"),
        (_long_path, InvalidPathError, None),
        (lambda acme: acme.open("a.txt", "w", if_match="x").close(), PreconditionFailedError, "a.txt"),
    ],
)
def test_an_error_has_the_path_inside_the_directory(acme, call, error, path):
    """Path, message, file name and backend are those that the caller knows; also after pickling."""
    acme.write("a.txt", b"1")
    acme.write("b.txt", b"1")

    with pytest.raises(error) as caught:
        call(acme)

    for found in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert "tenants" not in f"{found} {found!r} {found.path} {found.args} {getattr(found, 'filename', '')}"
        assert found.backend in ("acme", None)
        assert path is None or path in (found.path, f"{found.path} (upload)", (found.path or "").split(" ")[0])


def test_an_error_of_local_disk_has_the_path_inside_the_directory(local_storage):
    """Also where the disk names the directory itself."""
    local_storage.write("tenants/acme/a.txt", b"1")
    acme = PrefixStorage(local_storage, "tenants/acme", "acme")
    other = PrefixStorage(local_storage, "tenants/acme/a.txt", "other")
    (local_storage.root / "tenants/acme/link.txt").symlink_to("/etc/passwd")

    for call, error in (
        (lambda: acme.write("a.txt/b", b""), NotAFileError),
        (lambda: other.write("b", b""), NotAFileError),
        (lambda: acme.read("link.txt"), PermissionDeniedError),
    ):
        with pytest.raises(error) as caught:
            call()
        assert "tenants" not in f"{caught.value} {caught.value.path}"


def test_errors_of_nested_directories_have_the_path_of_the_outermost(memory_storage):
    """Each relabels once, from the inside to the outside, also if a directory has the same name twice."""
    nested = PrefixStorage(PrefixStorage(memory_storage, "a"), "a", "nested")

    with pytest.raises(FileNotFoundInStorageError, match=r"File a/x\.txt not found in nested"):
        nested.read("a/x.txt")
    nested.write("a/a.txt", b"1")
    with pytest.raises(FileExistsInStorageError, match=r"^a/a\.txt exists"):
        nested.copy("a/a.txt", "a/a.txt", exclusive=True)
    assert names(memory_storage) == ["a/a/a/a.txt"]


def test_errors_of_a_bulk_deletion_have_the_path_inside_the_directory(memory_storage):
    """`PartialFailureError` maps the paths of the caller."""
    failing = FailingStorage(memory_storage)
    failing.fail("delete", path="tenants/acme/b.txt")
    acme = PrefixStorage(failing, "tenants/acme", "acme")

    with pytest.raises(PartialFailureError) as caught:
        acme.delete_many(["a.txt", "b.txt"])

    assert {path: error.path for path, error in caught.value.errors.items()} == {"b.txt": "b.txt"}


def test_an_error_while_reading_has_the_path_inside_the_directory(memory_storage):
    """The translator of an open file relabels too."""
    failing = FailingStorage(memory_storage)
    acme = PrefixStorage(failing, "tenants/acme", "acme")
    acme.write("a.txt", b"1234")
    failing.fail("read", error=StorageUnavailableError("reading tenants/acme/a.txt failed", path="tenants/acme/a.txt"))

    with (
        pytest.raises(StorageUnavailableError, match=r"^reading a\.txt failed$") as caught,
        acme.open("a.txt", "r") as file,
    ):
        file.read()

    assert (caught.value.path, caught.value.backend) == ("a.txt", "acme")


def test_signals_have_the_path_inside_the_directory(acme, storage_events):
    """Each is sent once, by the outermost storage."""
    acme.write("a.txt", b"1")
    acme.move("a.txt", "b.txt")
    acme.read("b.txt")
    acme.delete_prefix("b")

    assert {event.storage for event in storage_events} == {"acme"}
    assert [(event.signal, event.path) for event in storage_events] == [
        ("file-stored", "a.txt"),
        ("file-stored", "b.txt"),
        ("file-deleted", "a.txt"),
        ("file-read", "b.txt"),
        ("file-deleted", "b/"),
    ]


def test_the_public_url_is_the_one_of_the_inner_storage(memory_storage):
    """With the directory in it; a `base_url` of its own replaces it."""
    memory_storage.base_url = "https://cdn.example.com/media"

    assert PrefixStorage(memory_storage, "a b").url("c#.txt") == "https://cdn.example.com/media/a%20b/c%23.txt"
    assert PrefixStorage(memory_storage, "a", base_url="/acme").url("c.txt") == "/acme/c.txt"


def test_a_local_path_is_below_the_directory(local_storage):
    """As for the inner storage, the file need not exist."""
    assert PrefixStorage(local_storage, "a").local_path("b.txt") == local_storage.root / "a" / "b.txt"
    assert PrefixStorage(MemoryStorage(), "a").local_path("b.txt") is None


def test_probes_of_the_backend_write_into_the_directory(local_storage):
    """`flask storage doctor` tries only what the profile can reach."""
    acme = PrefixStorage(local_storage, "tenants/acme", "acme")
    before = set(local_storage.root.rglob("*"))

    for probe in acme.diagnostics().probes.values():
        probe("doctor-1")

    created = set(local_storage.root.rglob("*")) - before
    assert {path.relative_to(local_storage.root).parts[:2] for path in created} <= {("tenants",), ("tenants", "acme")}


# -- ReadOnlyStorage --------------------------------------------------------------------------------------------------


REFUSED = {
    "write": lambda shown: shown.write("a.txt", b""),
    "exclusive write": lambda shown: shown.write("a.txt", b"", exclusive=True),
    "open": lambda shown: shown.open("a.txt", "w"),
    "edit": lambda shown: shown.open("a.txt", "rw"),
    "upload": lambda shown: shown.upload(open(__file__, "rb"), "a.txt"),  # noqa: SIM115 - not even opened for reading
    "put": lambda shown: shown.put(__file__, "a.txt"),
    "save": lambda shown: shown.save("new.txt", b""),
    "copy": lambda shown: shown.copy("a.txt", "b.txt"),
    "move": lambda shown: shown.move("a.txt", "b.txt"),
    "delete": lambda shown: shown.delete("a.txt"),
    "delete_many": lambda shown: shown.delete_many(["a.txt"]),
    "delete_prefix": lambda shown: shown.delete_prefix("a"),
    "multipart": lambda shown: shown.multipart,
    "sweep": lambda shown: shown.sweep(),
    "confirm_upload": lambda shown: shown.confirm_upload("a.txt", size=99),
    "confirm_upload, move_to": lambda shown: shown.confirm_upload("a.txt", move_to="b.txt"),
    "upload link": lambda shown: shown.link_to("a.txt", "upload"),
    "removal link": lambda shown: shown.links_to(["a.txt"], "remove"),
    "combined link": lambda shown: shown.link_to("a.txt", "du"),
    "upload_request": lambda shown: shown.upload_request("a.txt"),
    "token": lambda shown: shown.create_link_token(path="a.txt", operation="ur"),
}


@pytest.mark.parametrize("operation", REFUSED)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_read_only_storage_refuses_every_change(memory_storage, operation):
    """The inner storage is not called, except to look at the file."""
    inner = FailingStorage(memory_storage)
    memory_storage.write("a.txt", b"1")

    message = "for reading and writing" if operation == "edit" else "is read-only"
    with pytest.raises(UnsupportedOperationError, match=message):
        REFUSED[operation](ReadOnlyStorage(inner, "shown"))

    assert {call.name for call in inner.calls} <= {"stat"}
    assert contents(memory_storage) == {"a.txt": b"1"}


def test_a_read_only_storage_reads(memory_storage):
    """Reading, listing and checking work, also of an empty storage."""
    shown = ReadOnlyStorage(memory_storage, "shown")
    shown.check()
    memory_storage.write("a.txt", b"1", content_type="text/plain")

    shown.check()

    assert contents(shown) == {"a.txt": b"1"}
    with shown.open("a.txt", "r") as file:
        assert file.read() == b"1"
    assert shown.stat("a.txt").content_type == "text/plain"
    assert shown.confirm_upload("a.txt", size=1).size == 1
    assert shown.diagnostics().probes == {}
    with pytest.raises(FileNotFoundInStorageError, match="not found in shown"):
        shown.read("b.txt")


# -- MirrorStorage ----------------------------------------------------------------------------------------------------


@pytest.fixture
def failing_mirror():
    """A mirror that can be made to fail."""
    return FailingStorage(MemoryStorage("mirror"))


OPERATIONS = {
    "write": ("open_writer", lambda safe: safe.write("a.txt", b"new")),
    "open": ("publish", lambda safe: _write_by_file(safe, "w")),
    "edit": ("open_writer", lambda safe: _write_by_file(safe, "rw")),
    "copy": ("write", lambda safe: safe.copy("b.txt", "a.txt")),
    "move": ("open_writer", lambda safe: safe.move("b.txt", "a.txt")),
    "delete": ("delete", lambda safe: safe.delete("a.txt")),
    "delete_many": ("delete", lambda safe: safe.delete_many(["a.txt"])),
    "delete_prefix": ("delete_prefix", lambda safe: safe.delete_prefix("folder")),
    "multipart.put": ("open_writer", lambda safe: safe.multipart.put("a.txt", b"new", DEFAULTS)),
}


def _write_by_file(safe, mode):
    with safe.open("a.txt", mode) as file:
        file.write(b"new")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("strict", [True, False])
def test_a_failing_mirror_is_reported_and_can_be_repaired(failing_mirror, operation, strict, caplog):
    """The error, or the log, says that the inner storage has done it; `resync` makes the mirror equal again."""
    primary = MemoryStorage("primary")
    safe = MirrorStorage(primary, [failing_mirror], "safe", strict=strict)
    for path in ("a.txt", "b.txt", "folder/c.txt"):
        safe.write(path, path.encode())
    call, act = OPERATIONS[operation]
    failing_mirror.fail(call, times=None)

    if strict:
        with pytest.raises(StorageUnavailableError, match=r"in 'primary', but not in the mirror 'mirror'.*resync"):
            act(safe)
    else:
        act(safe)
        assert "but not in the mirror 'mirror'" in caplog.text

    failing_mirror.reset()
    assert contents(primary) != contents(failing_mirror)
    assert safe.resync() >= 1
    assert contents(primary) == contents(failing_mirror)
    assert safe.resync() == 0


def test_a_failing_mirror_does_not_stop_the_others(failing_mirror):
    """They have the file, also if the operation ends with an error."""
    other = MemoryStorage("other")
    safe = MirrorStorage(MemoryStorage("primary"), [failing_mirror, other], "safe")
    failing_mirror.fail("open_writer", error=PermissionDeniedError("no"))

    with pytest.raises(StorageUnavailableError, match="mirror 'mirror': no;") as caught:
        safe.write("a.txt", b"1")

    assert other.read("a.txt") == safe.read("a.txt") == b"1"
    assert isinstance(caught.value.__cause__, PermissionDeniedError)
    assert (caught.value.path, caught.value.backend) == ("a.txt", "safe")


def test_resync_copies_what_differs_and_deletes_the_rest():
    """It returns the number of files that it has changed, in all mirrors."""
    primary, one, other = MemoryStorage("primary"), MemoryStorage("one"), MemoryStorage("other")
    safe = MirrorStorage(primary, [one, other])
    one.write("obsolete.txt", b"1")
    one.write("older.txt", b"old")
    other.write("size.txt", b"")
    for name in ("older.txt", "size.txt", "new/file.txt"):
        primary.write(name, b"new", content_type="text/x-mine")

    assert safe.resync() == 7
    assert contents(one) == contents(other) == contents(primary)
    assert other.stat("size.txt").content_type == "text/x-mine"
    assert safe.resync() == 0
    primary.write("new/file.txt", b"NEW")
    one.write("outside.txt", b"1")
    assert safe.resync("new") == 2
    assert one.read("outside.txt") == b"1"


def test_concurrent_writes_and_deletions_leave_equal_mirrors():
    """Whatever the order in which clients publish and delete, the mirror has at the end what the storage has."""
    primary, mirror = MemoryStorage("primary"), MemoryStorage("mirror")
    safe = MirrorStorage(primary, [mirror])

    def change(number):
        for turn in range(count(40, 400)):
            path = f"{(number + turn) % 3}.txt"
            if (number * turn) % 4 == 1:
                safe.delete(path)
            else:
                safe.write(path, f"{number} {turn}".encode())

    run_concurrently(change)

    assert contents(mirror) == contents(primary)


def test_a_mirror_that_cannot_keep_headers_limits_the_storage():
    """So that a write is refused before the inner storage has stored it."""

    class Plain(MemoryStorage):
        capabilities = MemoryStorage.capabilities.__class__(exclusive=True)

    primary = MemoryStorage("primary")
    safe = MirrorStorage(primary, [Plain()])

    with pytest.raises(UnsupportedOperationError):
        safe.write("a.txt", b"1", metadata={"a": "1"})
    assert names(primary) == []


def test_a_failed_condition_changes_no_mirror():
    """The inner storage decides."""
    mirror = MemoryStorage("mirror")
    safe = MirrorStorage(MemoryStorage("primary"), [mirror])
    safe.write("a.txt", b"old")

    with pytest.raises(FileExistsInStorageError):
        safe.write("a.txt", b"new", exclusive=True)
    assert mirror.read("a.txt") == b"old"
    assert safe.save("a.txt", b"new") != "a.txt"
    assert contents(mirror) == contents(safe)


def test_sweep_and_check_include_the_mirrors(failing_mirror):
    """A mirror that does not work is found by a check."""
    safe = MirrorStorage(MemoryStorage("primary"), [failing_mirror])
    for storage in (safe.inner, failing_mirror):
        storage.multipart.create("a.txt", DEFAULTS)

    assert safe.sweep(timedelta(0)) == 2
    safe.check()
    failing_mirror.fail("check")
    with pytest.raises(StorageUnavailableError):
        safe.check()


# -- ReadThroughStorage -----------------------------------------------------------------------------------------------


@pytest.fixture
def old():
    """The storage that has the files before the migration."""
    return MemoryStorage("old")


@pytest.fixture
def media(old):
    """A storage that reads from `old` what it does not have."""
    return ReadThroughStorage(MemoryStorage("new"), old, "media")


def test_a_write_hides_the_old_file(media, old):
    """The old storage is never written."""
    old.write("a.txt", b"old", content_type="text/x-old")
    old.write("b.txt", b"old")
    assert media.stat("a.txt").content_type == "text/x-old"

    media.write("a.txt", b"new")

    assert contents(media) == {"a.txt": b"new", "b.txt": b"old"}
    assert media.size("a.txt") == 3
    assert [info.path for info in media.iter(details=True)] == ["a.txt", "b.txt"]
    assert old.read("a.txt") == b"old"


def test_a_deleted_file_does_not_come_back(media, old):
    """It is deleted from both."""
    for path in ("a.txt", "b.txt", "c/d.txt", "c/e.txt"):
        old.write(path, b"old")
        media.write(path, b"new")

    media.delete("a.txt")
    media.delete_many(["b.txt"])
    assert media.delete_prefix("c") == 2

    assert names(media) == names(old) == names(media.inner) == []


def test_copies_and_edits_use_the_old_file(media, old):
    """The content is that of the file, whichever storage has it; a moved file is gone from both."""
    for path in ("a.txt", "b.txt", "c.txt"):
        old.write(path, path.encode(), content_type="text/x-old")

    media.copy("a.txt", "copy.txt")
    media.move("b.txt", "moved.txt")
    with media.open("c.txt", "rw") as file:
        file.write(b"C")

    assert contents(media) == {"a.txt": b"a.txt", "copy.txt": b"a.txt", "moved.txt": b"b.txt", "c.txt": b"C.txt"}
    assert media.stat("moved.txt").content_type == "text/x-old"
    assert contents(old) == {"a.txt": b"a.txt", "c.txt": b"c.txt"}
    with pytest.raises(FileNotFoundInStorageError):
        media.copy("missing.txt", "b.txt")
    with pytest.raises(FileNotFoundInStorageError):
        media.move("missing.txt", "b.txt")


@pytest.mark.parametrize("has_new", [True, False])
def test_exclusive_writes_respect_both_storages(media, old, has_new):
    """A file of the old storage is not hidden by one that was to be created."""
    (media.inner if has_new else old).write("a.txt", b"1")

    for call in (
        lambda: media.write("a.txt", b"2", exclusive=True),
        lambda: media.open("a.txt", "w", exclusive=True).close(),
        lambda: media.multipart.put("a.txt", b"2", WriteOptions(exclusive=True)),
    ):
        with pytest.raises(FileExistsInStorageError):
            call()

    assert media.save("a.txt", b"2") != "a.txt"
    assert media.read("a.txt") == b"1"


def test_a_file_that_moves_between_two_looks_is_found(old):
    """It was not in the new storage yet, and not in the old one any more: the new one is asked again."""

    class Moving(MemoryStorage):
        def _open_reader(self, path):
            if path == "a.txt" and not self.exists(path):
                try:
                    return super()._open_reader(path)
                finally:
                    reading.migrate(delete=True)
            return super()._open_reader(path)

    old.write("a.txt", b"1")
    reading = ReadThroughStorage(Moving("new"), old, "media")

    assert reading.read("a.txt") == b"1"
    assert names(old) == []


def test_a_listing_has_the_files_that_move_during_it(media, old):
    """The old storage is listed first."""
    for number in range(100):
        old.write(f"{number:03}.txt", b"1")

    entries = media.iter()
    first = next(entries).name
    media.migrate(delete=True)

    assert sorted([first, *(entry.name for entry in entries)]) == [f"{number:03}.txt" for number in range(100)]


def test_an_error_of_the_old_storage_is_its_own(memory_storage, tmp_path):
    """It is translated by the backend that raised it, and has the name of the profile."""
    old = LocalFSStorage(tmp_path / "old", create=True, name="old")
    old.write("a.txt", b"1")
    (tmp_path / "old" / "link.txt").symlink_to("a.txt")
    media = ReadThroughStorage(memory_storage, old, "media")

    with pytest.raises(PermissionDeniedError) as caught:
        media.read("link.txt")

    assert caught.value.backend == "media"


def test_migrate_copies_what_is_missing(media, old):
    """With headers; it can be limited, repeated, restricted to a directory, and it replaces no newer file."""
    for path in ("a/1.txt", "a/2.txt", "b/3.txt", "b/4.txt"):
        old.write(path, b"old", content_type="text/x-old", metadata={"k": "v"})
    media.write("a/2.txt", b"new")

    with pytest.raises(ValueError, match="limit"):
        media.migrate(limit=-1)
    assert media.migrate(limit=0) == 0
    assert media.migrate("a") == 1
    assert media.migrate(limit=1) == 1
    assert media.migrate() == 1
    assert media.migrate(delete=True) == 0

    assert contents(media.inner) == {"a/1.txt": b"old", "a/2.txt": b"new", "b/3.txt": b"old", "b/4.txt": b"old"}
    info = media.inner.stat("b/3.txt")
    assert (info.content_type, dict(info.metadata)) == ("text/x-old", {"k": "v"})
    assert names(old) == []


def test_migrate_reports_the_files_that_cannot_be_stored(old):
    """All others are copied, and none is deleted that was not."""
    old.write("plain.txt", b"1")
    old.write("CON", b"1")
    media = ReadThroughStorage(MemoryStorage("new", portable=True), old, "media")

    with pytest.raises(PartialFailureError, match="1 files cannot be stored") as caught:
        media.migrate(delete=True)

    assert list(caught.value.errors) == ["CON"]
    assert (names(old), names(media.inner)) == (["CON"], ["plain.txt"])


def test_migrate_is_refused_where_it_could_replace_newer_files(old):
    """A service that cannot create files exclusively cannot protect a concurrent write."""

    class Lax(MemoryStorage):
        capabilities = MemoryStorage.capabilities.__class__(content_headers=True, metadata=True)

    old.write("a.txt", b"1")
    media = ReadThroughStorage(Lax("new"), old, "media")

    with pytest.raises(UnsupportedOperationError, match="cannot create files exclusively"):
        media.migrate()
    media.move("a.txt", "b.txt")
    assert contents(media) == {"b.txt": b"1"}


def test_a_file_that_is_deleted_while_it_is_copied_does_not_come_back(old):
    """The copy is deleted too: the old storage did not have the file any more when it was published."""

    class Slow(MemoryStorage):
        def _upload_file(self, file_obj, path, options, progress):
            moving.delete("a.txt")
            super()._upload_file(file_obj, path, options, progress)

    old.write("a.txt", b"1")
    moving = ReadThroughStorage(Slow("new"), old, "media")

    assert moving.migrate() == 0

    assert names(moving) == []


def test_a_move_during_a_migration_loses_nothing(media, old):
    """Threads move files from name to name, while others are migrated and deleted from the old storage."""
    paths = [f"{number}.txt" for number in range(count(60, 1000))]
    for path in paths:
        old.write(path, path.encode())

    def work(number):
        if number == 0:
            media.migrate(delete=True)
        for path in paths[number::5]:
            media.move(path, f"moved/{path}")

    run_concurrently(work, 5)
    media.migrate(delete=True)

    assert contents(media.inner).items() >= {f"moved/{path}": path.encode() for path in paths}.items()
    assert names(old) == []


# -- configuration ----------------------------------------------------------------------------------------------------


def test_profiles_wrap_each_other_in_any_order():
    """They are created in order of need, and keep the order of the configuration."""
    storages: Any = make_storages(
        {
            "shown": {"backend": "read_only", "storage": "acme"},
            "safe": {"backend": "mirror", "storage": "docs", "mirrors": ["copy"], "strict": "no"},
            "acme": {"backend": "prefix", "storage": "docs", "prefix": "tenants/acme", "links": "app"},
            "media": {"backend": "read_through", "storage": "acme", "old": "copy"},
            "docs": "memory:",
            "copy": (MemoryStorage, {}),
            "given": {"backend": PrefixStorage, "inner": MemoryStorage("mine"), "prefix": "a"},
        }
    )

    assert list(storages) == ["shown", "safe", "acme", "media", "docs", "copy", "given"]
    assert [storage.name for storage in storages.values()] == list(storages)
    assert storages["shown"].inner is storages["media"].inner is storages["acme"]
    assert storages["acme"].inner is storages["safe"].inner is storages["docs"]
    assert storages["safe"].mirrors == (storages["copy"],)
    assert (storages["acme"].links, storages["docs"].links, storages["safe"].strict) == ("app", "auto", False)


PREFIXED = {"backend": "prefix", "prefix": "a"}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"a": {**PREFIXED, "storage": "a"}}, "a → a"),
        ({"a": {**PREFIXED, "storage": "b"}, "b": {"backend": "read_only", "storage": "a"}}, "a → b → a"),
        ({"a": {**PREFIXED, "storage": "dosc"}, "docs": "memory:"}, r"profile 'a' .* did you mean 'docs'\?"),
        ({"a": {**PREFIXED, "storage": "s3://key:secret@b"}, "docs": "memory:"}, "the profiles are a, docs$"),
        ({"a": {**PREFIXED, "storage": 5}}, "not a profile"),
        ({"a": {**PREFIXED, "storage": None}}, "not a profile"),
        ({"a": {**PREFIXED, "storage": {"backend": "memory"}}}, "not a profile"),
        ({"a": {**PREFIXED, "storage": ["docs"]}, "docs": "memory:"}, "pass a storage"),
        ({"a": PREFIXED}, "profile 'a'"),
        ({"a": {"backend": "prefix", "storage": "b"}, "b": "memory:"}, "prefix"),
        ({"a": {**PREFIXED, "storage": "b", "storege": "b"}, "b": "memory:"}, "did you mean 'storage'"),
        ({"a": {**PREFIXED, "storage": "b", "inner": "b"}, "b": "memory:"}, "twice"),
        ({"a": {"backend": "mirror", "storage": "b", "mirrors": []}, "b": "memory:"}, "at least one"),
        ({"a": {"backend": "mirror", "storage": "b", "mirrors": "c"}, "b": "memory:", "c": "memory:"}, "list"),
        ({"a": {"backend": "mirror", "storage": "b", "mirrors": ["b"]}, "b": "memory:"}, "mirror a storage to itself"),
        ({"a": {"backend": "read_through", "storage": "b", "old": "b"}, "b": "memory:"}, "old storage of 'a'"),
        ({"a": "prefix:b?storage=b"}, "cannot be configured by a URL"),
    ],
)
def test_a_wrong_reference_is_a_configuration_error(specs, message):
    """It names the profile, and shows no value that may be a secret."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_storages(specs)

    assert "secret" not in str(caught.value)


def test_a_wrapper_wraps_only_storages():
    """A name is for the configuration."""
    name: Any = "docs"
    for make in (
        lambda: PrefixStorage(name, "a"),
        lambda: MirrorStorage(MemoryStorage(), [name]),
        lambda: ReadThroughStorage(MemoryStorage(), name),
        lambda: FailingStorage(name),
    ):
        with pytest.raises(ConfigurationError, match="wraps a storage, not"):
            make()


def test_the_options_of_the_inner_storage_apply(memory_storage):
    """Unless the wrapper has its own."""
    memory_storage.unsupported_headers = "drop"
    memory_storage.links = "app"

    acme = PrefixStorage(memory_storage, "a")

    assert (acme.unsupported_headers, acme.links, acme.portable) == ("drop", "app", False)


def test_closing_a_wrapper_keeps_the_inner_storage_open(memory_storage):
    """Other wrappers may use it."""
    closed = threading.Event()
    memory_storage._close = closed.set

    for wrapper in (
        PrefixStorage(memory_storage, "a"),
        ReadOnlyStorage(memory_storage),
        MirrorStorage(memory_storage, [MemoryStorage()]),
        ReadThroughStorage(memory_storage, MemoryStorage()),
    ):
        wrapper.close()

    assert not closed.is_set()
