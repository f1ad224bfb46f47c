"""LocalFSStorage on disks that are full, read-only, not mounted, or contain files of other errors."""

import errno
import os
import resource
import socket
import stat
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from flask_storage import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    InvalidPathError,
    LocalFSError,
    LocalFSStorage,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
    UnsupportedOperationError,
)
from flask_storage.errors import NotAFileError
from flask_storage.types import WriteOptions
from tests.counts import count
from tests.crash.unprivileged import UNPRIVILEGED_ID, run_unprivileged
from tests.descriptors import descriptors

SMALL = 8 * 1024 * 1024


def may_mount():
    """Return whether this process may mount file systems; root in a container often may not."""
    result = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return result.returncode == 0


CAN_MOUNT = may_mount()


@contextmanager
def mounted(directory, kind, options=""):
    """Mount a new file system on *directory* within the block."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), "none", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@contextmanager
def full_disk(directory):
    """Mount a disk of 8 MiB."""
    with mounted(directory, "tmpfs", f"size={SMALL}"):
        yield directory


@contextmanager
def limited_process(directory):
    """Limit the size of files that the process may write to 8 MiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    directory.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    try:
        yield directory
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Without the right to mount, only the limit of the process replaces the small disk.
LIMITS = [limited_process, *([full_disk] if CAN_MOUNT else [])]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("operation", ["put", "stream", "edit"])
def test_a_full_disk_is_reported_and_keeps_the_old_file(limit, operation, tmp_path):
    """16 MiB do not fit: StorageFullError, the old file is unchanged, and the space is free again."""
    (tmp_path / "source").write_bytes(os.urandom(16 * 1024 * 1024))
    old = os.urandom(1024 * 1024)

    def write(storage, mode):
        with storage.open("a.bin", mode) as writer:
            for _ in range(16):
                writer.write(bytes(1024 * 1024))

    too_much = {
        "put": lambda storage: storage.put(tmp_path / "source", "a.bin"),
        "stream": lambda storage: write(storage, "w"),
        "edit": lambda storage: write(storage, "rw"),
    }

    with limit(tmp_path / "disk") as root:
        storage = LocalFSStorage(root)
        storage.write("a.bin", old)
        free = os.statvfs(root).f_bavail
        for _ in range(20):
            with pytest.raises(StorageFullError) as caught:
                too_much[operation](storage)

            assert (caught.value.path, caught.value.backend) == ("a.bin", storage.name)
            assert storage.read("a.bin") == old
            assert [path.name for path in root.iterdir()] == ["a.bin"]
            assert limit is limited_process or os.statvfs(root).f_bavail == free


@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_is_reported_for_multipart_uploads(limit, tmp_path):
    """An upload that does not fit keeps its parts, so that it can be completed later."""
    with limit(tmp_path / "disk") as root:
        storage = LocalFSStorage(root, fsync=False)
        upload_id = storage.multipart.create("a.bin", WriteOptions())
        parts = [storage.multipart.upload_part("a.bin", upload_id, number, bytes(3 * 1024 * 1024)) for number in (1, 2)]

        with pytest.raises(StorageFullError):
            storage.multipart.upload_part("a.bin", upload_id, 3, bytes(9 * 1024 * 1024))
        if limit is full_disk:
            with pytest.raises(StorageFullError):
                storage.multipart.complete("a.bin", upload_id, parts, WriteOptions())

        assert storage.multipart.list_parts("a.bin", upload_id) == parts
        assert storage.list() == []
        assert not [name for name in os.listdir(root / f".fs-tmp-{upload_id}") if name.startswith(".fs-tmp-")]


def test_a_download_to_a_full_disk_raises_an_os_error(tmp_path):
    """The local target is not part of the storage, so this is no StorageError; no file is left."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("a.bin", bytes(16 * 1024 * 1024))

    with limited_process(tmp_path / "target") as target:
        with pytest.raises(OSError, match="File too large") as caught:
            storage.get("a.bin", target / "a.bin")

        assert not isinstance(caught.value, StorageError)
        assert list(target.iterdir()) == []


def refuse_every_change(storage):
    """Check that every change of a storage with ``d/a.txt`` is refused; return errors, content and listing."""
    operations = {
        "write": lambda: storage.write("d/a.txt", b"new"),
        "new directory": lambda: storage.write("d/e/f/b.txt", b"new"),
        "copy": lambda: storage.copy("d/a.txt", "d/b.txt"),
        "move": lambda: storage.move("d/a.txt", "d/b.txt"),
        "delete": lambda: storage.delete("d/a.txt"),
        "delete_prefix": lambda: storage.delete_prefix("d"),
        "edit": lambda: storage.open("d/a.txt", "rw"),
        "save": lambda: storage.save("d/a.txt", b"new"),
    }
    errors = {}
    for name, operation in operations.items():
        with pytest.raises(StorageError) as caught:
            operation()
        errors[name] = type(caught.value)
    return errors, storage.read("d/a.txt"), [entry.name for entry in storage.list()]


@pytest.fixture
def shared():
    """A storage with ``d/a.txt`` in a directory that every user can access, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        storage = LocalFSStorage(Path(directory, "root"), create=True, file_mode=0o644, directory_mode=0o755)
        storage.write("d/a.txt", b"old")
        yield storage
        (storage.root / "d").chmod(0o755)
        storage.root.chmod(0o755)


def test_an_unwritable_directory_raises_a_permission_error(shared):
    """PermissionDeniedError, never "not found"; files can still be read."""
    for directory in (shared.root, shared.root / "d"):
        directory.chmod(0o555)

    errors, content, names = run_unprivileged(lambda: refuse_every_change(shared))

    assert set(errors.values()) == {PermissionDeniedError}
    assert content == b"old"
    assert names == ["d/a.txt"]


@pytest.mark.parametrize("operation", ["read", "stat", "exists", "edit", "copy", "move"])
def test_an_unreadable_file_raises_a_permission_error(operation, shared):
    """PermissionDeniedError, never "not found"."""
    (shared.root / "d/a.txt").chmod(0o000)
    operations = {
        "read": lambda: shared.read("d/a.txt"),
        "stat": lambda: shared.stat("d/a.txt"),
        "exists": lambda: shared.exists("d/a.txt"),
        "edit": lambda: shared.open("d/a.txt", "rw"),
        "copy": lambda: shared.copy("d/a.txt", "b.txt"),
        "move": lambda: shared.move("d/a.txt", "b.txt"),
    }

    with pytest.raises(PermissionDeniedError, match="owner and mode"):
        run_unprivileged(operations[operation])

    assert (shared.root / "d/a.txt").stat().st_size == 3


def test_an_unreadable_directory_is_listed_but_not_entered(shared):
    """It may contain files: one level lists it, and a recursive listing raises."""
    (shared.root / "d").chmod(0o000)

    directories = run_unprivileged(lambda: [entry.name for entry in shared.list(recursive=False)])
    with pytest.raises(PermissionDeniedError):
        run_unprivileged(shared.list)

    assert directories == ["d/"]


def test_lost_and_found_is_not_part_of_the_storage(shared):
    """An ext4 volume has an unreadable `lost+found` at its root; listings and `sweep` skip it."""
    (shared.root / "lost+found").mkdir(mode=0o000)

    names = run_unprivileged(lambda: [entry.name for entry in shared.list()])
    directories = run_unprivileged(lambda: [entry.name for entry in shared.list(recursive=False)])
    run_unprivileged(lambda: shared.sweep(timedelta(0)))
    shared.sweep(timedelta(0))

    assert "d/a.txt" in names
    assert "lost+found/" not in directories
    assert (shared.root / "lost+found").is_dir()


@pytest.mark.parametrize("method", ["remount"] if CAN_MOUNT else ["fault"])
def test_a_read_only_file_system_is_reported(method, tmp_path, monkeypatch):
    """PermissionDeniedError that says what to do; without the right to mount the error is injected."""
    if method == "fault":

        def refuse(*_, **__):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        storage = LocalFSStorage(tmp_path, fsync=False)
        storage.write("d/a.txt", b"old")
        for name in ("mkdir", "unlink", "link", "rename"):
            monkeypatch.setattr(os, name, refuse)
        with pytest.raises(PermissionDeniedError, match="read-only"):
            storage.delete("d/a.txt")
        return

    with mounted(tmp_path / "disk", "tmpfs"):
        storage = LocalFSStorage(tmp_path / "disk")
        storage.write("d/a.txt", b"old")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)

        errors, content, names = refuse_every_change(storage)

        assert set(errors.values()) == {PermissionDeniedError}
        assert content == b"old"
        assert names == ["d/a.txt"]
        with pytest.raises(PermissionDeniedError, match="mount it writable"):
            storage.write("b.txt", b"1")


def metadata_refusals(storage):
    """Check that a storage without attributes refuses headers and metadata; return names and content type."""
    storage.write("plain.txt", b"1")
    assert not storage.capabilities.metadata
    for arguments in ({"content_type": "text/x-mine"}, {"metadata": {"a": "b"}}):
        with pytest.raises(UnsupportedOperationError):
            storage.write("a.txt", b"1", **arguments)
    storage.write("plain.txt", b"1", content_type="text/plain")
    storage.unsupported_headers = "drop"
    storage.write("plain.txt", b"1", content_type="text/x-mine", metadata={"a": "b"})
    return [entry.name for entry in storage.list()], storage.stat("plain.txt").content_type


@pytest.mark.parametrize("method", ["fault", *(["ramfs"] if CAN_MOUNT else [])])
def test_a_file_system_without_attributes_refuses_metadata(method, tmp_path, monkeypatch):
    """Before anything is written; files without metadata are stored."""
    if method == "ramfs":
        with mounted(tmp_path / "disk", "ramfs") as root:
            assert metadata_refusals(LocalFSStorage(root)) == (["plain.txt"], None)
        return

    def refuse(*_, **__):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "getxattr", refuse)
    monkeypatch.setattr(os, "setxattr", refuse)

    assert metadata_refusals(LocalFSStorage(tmp_path)) == (["plain.txt"], None)


def test_a_subdirectory_without_attributes_refuses_metadata(tmp_path, monkeypatch):
    """If only the root's file system has attributes, a write with metadata below fails and stores nothing."""
    storage = LocalFSStorage(tmp_path)
    assert storage.capabilities.metadata

    def refuse(*_, **__):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(UnsupportedOperationError, match="keeps no content type"):
        storage.write("a.txt", b"1", content_type="text/plain")

    assert list(tmp_path.iterdir()) == []


def test_a_python_without_attributes_refuses_metadata(tmp_path, monkeypatch):
    """Python has no xattr functions on some systems."""
    monkeypatch.delattr(os, "getxattr")
    monkeypatch.delattr(os, "setxattr")

    assert metadata_refusals(LocalFSStorage(tmp_path)) == (["plain.txt"], None)


@pytest.mark.parametrize(
    ("code", "free", "error"),
    [
        (errno.ENOSPC, 1, UnsupportedOperationError),
        (errno.ENOSPC, 0, StorageFullError),
        (errno.E2BIG, 0, UnsupportedOperationError),
        (errno.EDQUOT, 1, StorageFullError),
    ],
)
def test_long_metadata_and_a_full_disk_raise_different_errors(code, free, error, tmp_path, monkeypatch):
    """Linux reports ENOSPC for both."""
    storage = LocalFSStorage(tmp_path)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    class FileSystem:
        f_bavail = free

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: FileSystem)
    with pytest.raises(error):
        storage.write("a.txt", b"1", content_type="text/plain")

    assert list(tmp_path.iterdir()) == []


def test_a_failed_read_of_attributes_is_an_error(tmp_path, monkeypatch):
    """A file whose content type cannot be read must not look like one without a content type."""
    storage = LocalFSStorage(tmp_path)
    storage.write("a.txt", b"1", content_type="text/plain")

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "getxattr", fail)
    before = descriptors()
    for operation in (
        lambda: storage.stat("a.txt"),
        lambda: storage.open("a.txt", "r"),
        lambda: storage.open("a.txt", "rw"),
    ):
        with pytest.raises(LocalFSError, match="the disk failed"):
            operation()

    assert descriptors() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "attribute",
    [
        b"{",
        b"[1]",
        b"[" * 3000,
        b"7",
        b'{"path": "x", "size": 1}',
        b'{"metadata": 3}',
        b'{"metadata": {"a": 1}}',
        b"\xff",
    ],
)
def test_an_invalid_attribute_is_ignored(attribute, tmp_path):
    """Any process with access can set one; it is untrusted input."""
    storage = LocalFSStorage(tmp_path)
    storage.write("a.txt", b"1")
    os.setxattr(tmp_path / "a.txt", "user.flask_storage", attribute)

    info = storage.stat("a.txt")

    assert (info.path, info.size, info.content_type, info.metadata) == ("a.txt", 1, None, {})
    assert storage.read("a.txt") == b"1"


def test_the_largest_allowed_metadata_is_stored(tmp_path):
    """2 KiB of three-byte characters and content headers fit on a common disk."""
    storage = LocalFSStorage(tmp_path)
    metadata = {"note": "語" * 660}

    storage.write("a.txt", b"1", content_type="text/plain", cache_control="no-cache", metadata=metadata)

    assert storage.stat("a.txt").metadata == metadata


def test_a_directory_in_place_of_a_file_is_reported(tmp_path):
    """NotAFileError for writing, copying, moving and deleting; "not found" for reading; the directory stays."""
    storage = LocalFSStorage(tmp_path)
    storage.write("d/a.txt", b"1")
    storage.write("b.txt", b"2")

    for operation in (
        lambda: storage.write("d", b"new"),
        lambda: storage.copy("b.txt", "d"),
        lambda: storage.move("b.txt", "d"),
        lambda: storage.delete("d"),
    ):
        with pytest.raises(NotAFileError, match="directory"):
            operation()
    with pytest.raises(FileExistsInStorageError):
        storage.write("d", b"new", exclusive=True)
    for read in (storage.read, storage.stat, lambda path: storage.open(path, "rw")):
        with pytest.raises(FileNotFoundInStorageError):
            read("d")
    assert not storage.exists("d")
    assert [entry.name for entry in storage.list()] == ["b.txt", "d/a.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", "d"]


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_an_error_about_the_target_names_the_target(operation, tmp_path):
    """Also when its directory cannot be created."""
    storage = LocalFSStorage(tmp_path)
    storage.write("a.txt", b"1")
    storage.write("b.txt", b"2")

    with pytest.raises(NotAFileError) as caught:
        getattr(storage, operation)("b.txt", "a.txt/c.txt")

    assert caught.value.path == "a.txt/c.txt"


def test_a_file_in_place_of_a_directory_is_reported(tmp_path):
    """LocalFSError for writing; "not found" for reading; the file stays."""
    storage = LocalFSStorage(tmp_path)
    storage.write("f", b"1")

    for operation in (
        lambda: storage.write("f/x/a.txt", b"new"),
        lambda: storage.copy("f", "f/a.txt"),
        lambda: storage.move("f", "f/a.txt"),
    ):
        with pytest.raises(LocalFSError, match="a part of it is a file"):
            operation()
    with pytest.raises(FileNotFoundInStorageError):
        storage.read("f/a.txt")
    storage.delete("f/a.txt")
    assert storage.list("f") == []
    assert storage.delete_prefix("f") == 0
    assert storage.read("f") == b"1"


def test_a_name_too_long_for_the_file_system_is_an_invalid_path(tmp_path, monkeypatch):
    """Some file systems allow fewer than 255 bytes; created directories are removed again."""
    storage = LocalFSStorage(tmp_path)
    original_open, original_mkdir = os.open, os.mkdir

    def short(function):
        def call(name, *arguments, **keywords):
            if len(os.path.basename(name)) > 143:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            return function(name, *arguments, **keywords)

        return call

    monkeypatch.setattr(os, "open", short(original_open))
    monkeypatch.setattr(os, "mkdir", short(original_mkdir))
    with pytest.raises(InvalidPathError, match="too long"):
        storage.write(f"a/b/{'n' * 200}/c.txt", b"1")
    with pytest.raises(InvalidPathError, match="too long"):
        storage.read("n" * 200)

    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_locale_cannot_encode_is_an_invalid_path(tmp_path, monkeypatch):
    """For example an umlaut in the C locale of an old system."""
    storage = LocalFSStorage(tmp_path)

    def refuse(*_, **__):
        raise UnicodeEncodeError("ascii", "ü", 0, 1, "ordinal not in range(128)")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InvalidPathError, match="UTF-8"):
        storage.read("ü.txt")


def create_other_entries(root):
    """Create a pipe, a socket, symbolic links and names that are not valid paths in *root*."""
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    (root / "link").symlink_to("a.txt")
    (root / "loop").symlink_to("loop")
    (root / "folder").symlink_to("/etc")
    for name in (b"\xff\xfe.txt", b"line\nbreak", b"back\\slash"):
        (root / os.fsdecode(name)).write_bytes(b"odd")


def test_entries_that_are_no_files_are_neither_listed_nor_read(tmp_path, monkeypatch, caplog, in_bounded_time):
    """A pipe does not block, a socket and a symbolic link are refused, invalid names are skipped."""
    monkeypatch.chdir(tmp_path)
    storage = LocalFSStorage(".", fsync=False)
    storage.write("a.txt", b"1")
    create_other_entries(Path())

    for name in ("pipe", "socket"):
        with pytest.raises(NotAFileError, match="not a regular file"):
            storage.read(name)
        with pytest.raises(NotAFileError):
            storage.stat(name)
    for name in ("link", "loop", "folder", "folder/hostname"):
        with pytest.raises(PermissionDeniedError, match="symbolic link"):
            storage.read(name)
    for operation in (lambda: storage.write("folder/a.txt", b"1"), lambda: storage.list("folder")):
        with pytest.raises(PermissionDeniedError, match="symbolic link"):
            operation()

    assert [entry.name for entry in storage.list()] == ["a.txt"]
    assert "3 names" in caplog.text
    assert [entry.name for entry in storage.list(recursive=False)] == ["a.txt"]
    assert [info.path for info in storage.iter(details=True)] == ["a.txt"]
    assert storage.sweep(timedelta(0)) == 0


def test_entries_that_are_no_files_can_be_replaced_and_deleted(tmp_path, monkeypatch):
    """A symbolic link itself is replaced or deleted, not its target."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    (tmp_path / "outside.txt").write_bytes(b"outside")
    (storage.root / "link").symlink_to(tmp_path / "outside.txt")
    (storage.root / "other").symlink_to(tmp_path / "outside.txt")
    os.mkfifo(storage.root / "pipe")

    storage.write("link", b"inside")
    storage.delete("other")
    storage.delete("pipe")

    assert storage.read("link") == b"inside"
    assert (tmp_path / "outside.txt").read_bytes() == b"outside"
    assert [path.name for path in storage.root.iterdir()] == ["link"]


def test_delete_prefix_deletes_every_kind_of_entry(tmp_path, monkeypatch):
    """Everything below the directory is deleted, with empty directories, and nothing outside."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.write("d/a.txt", b"1")
    storage.write("dx/a.txt", b"2")
    (storage.root / "d/empty/emptier").mkdir(parents=True)
    monkeypatch.chdir(storage.root / "d")
    create_other_entries(Path())
    monkeypatch.chdir(tmp_path)

    deleted = storage.delete_prefix("d")

    assert deleted == 9
    assert [path.name for path in storage.root.iterdir()] == ["dx"]
    assert Path("/etc").is_dir()


def test_delete_prefix_does_not_affect_a_running_write(tmp_path):
    """Its temporary file and directory stay."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("d/a.txt", b"1")

    with storage.open("d/b.txt", "w") as writer:
        assert storage.delete_prefix("d") == 1
        assert storage.list(recursive=False) == []
        writer.write(b"2")

    assert storage.read("d/b.txt") == b"2"


@pytest.mark.parametrize("root", ["missing", "a file", "a link"])
def test_a_missing_root_is_not_an_empty_storage(root, tmp_path):
    """If a volume is not mounted, operations must not report that files are missing."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.write("a.txt", b"1")
    storage.root.rename(tmp_path / "elsewhere")
    if root == "a file":
        storage.root.write_bytes(b"")
    elif root == "a link":
        storage.root.symlink_to(tmp_path / "elsewhere")

    for operation in (
        lambda: storage.read("a.txt"),
        lambda: storage.exists("a.txt"),
        lambda: storage.write("a/b.txt", b"2"),
        lambda: storage.delete("a.txt"),
        lambda: storage.delete_prefix("a"),
        lambda: storage.move("a.txt", "b.txt"),
        lambda: storage.sweep(timedelta(0)),
        storage.list,
        storage.check,
    ):
        with pytest.raises(LocalFSError, match="is its volume mounted"):
            operation()

    assert (tmp_path / "elsewhere/a.txt").read_bytes() == b"1"


def test_a_restored_root_is_used_again(tmp_path):
    """The storage needs no restart."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.root.rename(tmp_path / "elsewhere")
    storage.root.mkdir()

    storage.write("a.txt", b"1")

    assert storage.read("a.txt") == b"1"


def test_a_directory_deleted_again_and_again_is_an_error(tmp_path, monkeypatch):
    """A writer makes 100 attempts."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    original_mkdir = os.mkdir

    def mkdir(name, *arguments, dir_fd, **keywords):
        original_mkdir(name, *arguments, dir_fd=dir_fd, **keywords)
        os.rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(LocalFSError, match="repeatedly: try again later"):
        storage.write("d/a.txt", b"1")

    assert list(tmp_path.iterdir()) == []


def test_a_concurrently_removed_directory_is_created_again(tmp_path, monkeypatch):
    """Another process removes it before the temporary file is created."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    original_open = os.open
    removed: list[str] = []

    def open_late(name, flags, *arguments, **keywords):
        if flags & os.O_CREAT and len(removed) < 3:
            os.rmdir(tmp_path / "d")
            removed.append(name)
        return original_open(name, flags, *arguments, **keywords)

    monkeypatch.setattr(os, "open", open_late)
    storage.write("d/a.txt", b"1")

    assert storage.read("d/a.txt") == b"1"
    assert len(removed) == 3


def test_a_temporary_file_that_cannot_be_created_is_an_error(tmp_path, monkeypatch):
    """If its directory is removed each time, a writer makes 100 attempts."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    original_open = os.open

    def open_late(name, flags, *arguments, **keywords):
        if flags & os.O_CREAT:
            os.rmdir(tmp_path / "d")
        return original_open(name, flags, *arguments, **keywords)

    monkeypatch.setattr(os, "open", open_late)
    with pytest.raises(LocalFSError, match="repeatedly: try again later"):
        storage.write("d/a.txt", b"1")


def test_too_many_open_files_leak_nothing(tmp_path):
    """Every operation raises StorageError, leaks no descriptor and leaves no empty directory."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("d/e/a.txt", b"1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    while fillers[-1] <= top:  # until there are no gaps below
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    before = descriptors()
    operations = (storage.list, lambda: storage.write("x/y/z.txt", b"2"), lambda: storage.copy("d/e/a.txt", "c"))

    failed, open_descriptors = [], []
    for spare in range(8):
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + spare, hard))
        for operation in operations:
            try:
                operation()
            except StorageError as error:
                failed.append(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        open_descriptors.append(descriptors())
        storage.delete("x/y/z.txt")
        storage.delete("c")
    for fd in fillers:
        os.close(fd)

    assert open_descriptors == [before] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert failed
    assert all("Too many open files" in str(error) for error in failed)


def test_if_match_is_refused_without_locks(tmp_path, monkeypatch):
    """Without a lock of the directory, comparing and publishing are not atomic."""
    import fcntl

    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1")
    tag = storage.stat("a.txt").etag

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UnsupportedOperationError, match="if_match"):
        storage.write("a.txt", b"2", if_match=tag)
    storage.write("b.txt", b"3")

    assert storage.read("a.txt") == b"1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def fail_once(monkeypatch, name, code, *, when=lambda *arguments, **keywords: True):
    """Make the first call of ``os.<name>`` fail for which *when* returns true."""
    original = getattr(os, name)
    failed: list[tuple[object, ...]] = []

    def call(*arguments, **keywords):
        if not failed and when(*arguments, **keywords):
            failed.append(arguments)
            raise OSError(code, os.strerror(code))
        return original(*arguments, **keywords)

    monkeypatch.setattr(os, name, call)
    return failed


@pytest.mark.parametrize("exists", [True, False])
def test_exclusive_is_checked_under_the_lock_without_hard_links(exists, tmp_path, monkeypatch):
    """An existing file is refused; otherwise the file is stored."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    if exists:
        storage.write("a.txt", b"old")
    failed = fail_once(monkeypatch, "link", errno.EPERM)

    if exists:
        with pytest.raises(FileExistsInStorageError):
            storage.write("a.txt", b"new", exclusive=True)
    else:
        storage.write("a.txt", b"new", exclusive=True)

    assert failed
    assert storage.read("a.txt") == (b"old" if exists else b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failing_link_call_is_an_error(tmp_path, monkeypatch):
    """Unless it fails because the file system has no hard links."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    fail_once(monkeypatch, "link", errno.EIO)

    with pytest.raises(LocalFSError, match="the disk failed"):
        storage.write("a.txt", b"new", exclusive=True)

    assert list(tmp_path.iterdir()) == []


def test_a_temporary_name_that_cannot_be_removed_is_no_error(tmp_path, monkeypatch):
    """The file is published, so a retry would fail with "exists"; `sweep` removes the temporary name."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    fail_once(monkeypatch, "unlink", errno.EIO)

    storage.write("a.txt", b"new", exclusive=True)

    assert storage.read("a.txt") == b"new"
    assert len(list(tmp_path.iterdir())) == 2
    assert storage.sweep(timedelta(0)) == 1
    assert storage.read("a.txt") == b"new"


def test_a_move_that_cannot_remove_the_old_name_keeps_both(tmp_path, monkeypatch):
    """After a failed move at least one of both files exists; a retry removes the old name."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1")
    fail_once(monkeypatch, "unlink", errno.EIO)

    with pytest.raises(LocalFSError):
        storage.move("a.txt", "b.txt", exclusive=True)
    both = [entry.name for entry in storage.list()]
    storage.move("a.txt", "b.txt")

    assert both == ["a.txt", "b.txt"]
    assert [entry.name for entry in storage.list()] == ["b.txt"]


def test_a_move_to_another_file_system_copies(tmp_path, monkeypatch):
    """With content type and metadata; a subdirectory may be a mount point."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1", content_type="text/plain")
    fail_once(monkeypatch, "rename", errno.EXDEV)

    storage.move("a.txt", "d/b.txt")

    assert storage.read("d/b.txt") == b"1"
    assert storage.stat("d/b.txt").content_type == "text/plain"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_failed_move_leaves_no_directory(tmp_path):
    """Also when the source does not exist."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1")

    with pytest.raises(StorageError):
        storage.move("a.txt", "x/y/b.txt", if_match="another")
    with pytest.raises(FileNotFoundInStorageError):
        storage.move("missing.txt", "x/y/b.txt")

    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_move_creates_a_concurrently_removed_directory_again(tmp_path, monkeypatch):
    """Another process removes the target directory before the rename."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1")
    failed = fail_once(monkeypatch, "rename", errno.ENOENT)

    storage.move("a.txt", "d/b.txt")

    assert failed
    assert [entry.name for entry in storage.list()] == ["d/b.txt"]


def test_a_move_of_a_concurrently_removed_source_is_not_found(tmp_path, monkeypatch):
    """Another process moved it."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1")
    original = os.rename

    def late(name, *arguments, **keywords):
        os.unlink(tmp_path / "a.txt")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(FileNotFoundInStorageError):
        storage.move("a.txt", "d/b.txt")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_only_an_unsupported_sync_of_a_directory_is_ignored(code, tmp_path, monkeypatch):
    """EINVAL means that the file system does not support it; any other error is raised."""
    storage = LocalFSStorage(tmp_path)

    fail_once(monkeypatch, "fsync", code, when=lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    if code == errno.EIO:
        with pytest.raises(LocalFSError):
            storage.write("a.txt", b"1")
    else:
        storage.write("a.txt", b"1")

    assert storage.read("a.txt") == b"1"


def test_a_file_that_cannot_be_deleted_is_reported(tmp_path, monkeypatch):
    """PermissionDeniedError, and the file still exists."""
    storage = LocalFSStorage(tmp_path)
    storage.write("a.txt", b"1")
    fail_once(monkeypatch, "unlink", errno.EPERM)

    with pytest.raises(PermissionDeniedError):
        storage.delete("a.txt")

    assert storage.exists("a.txt")


def test_a_failed_cleanup_does_not_hide_the_first_error(tmp_path, monkeypatch, caplog):
    """The first error is raised and the second is logged; `sweep` removes the temporary file."""
    storage = LocalFSStorage(tmp_path)
    monkeypatch.setattr(os, "copy_file_range", None)
    monkeypatch.delattr(os, "copy_file_range")
    storage.write("a.txt", b"old")
    fail_once(monkeypatch, "write", errno.ENOSPC)
    fail_once(monkeypatch, "unlink", errno.EIO)
    before = descriptors()

    with pytest.raises(StorageFullError):
        storage.copy("a.txt", "b.txt")

    assert "could not remove an unfinished write, which sweep will remove" in caplog.text
    assert descriptors() == before
    assert [entry.name for entry in storage.list()] == ["a.txt"]
    assert storage.sweep(timedelta(0)) == 1


def test_parts_that_cannot_be_removed_are_no_error(tmp_path, monkeypatch):
    """The file is published; `sweep` removes the parts."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    upload_id = storage.multipart.create("a.bin", WriteOptions())
    part = storage.multipart.upload_part("a.bin", upload_id, 1, b"1")
    fail_once(monkeypatch, "unlink", errno.EIO)

    storage.multipart.complete("a.bin", upload_id, [part], WriteOptions())

    assert storage.read("a.bin") == b"1"
    assert storage.sweep(timedelta(0)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_is_reported_to_every_writer(tmp_path):
    """Several threads write concurrently, each one byte more than the limit."""
    with limited_process(tmp_path / "disk") as root:
        storage = LocalFSStorage(root, fsync=False)
        failed: list[str | None] = []

        def write(number):
            try:
                storage.write(f"{number}.bin", bytes(SMALL + 1))
            except StorageFullError as error:
                failed.append(error.path)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(count(4, 8))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert set(failed) == {f"{number}.bin" for number in range(count(4, 8))}
        assert list(root.iterdir()) == []


def test_unprivileged_children_are_not_root():
    """Permissions have an effect in the child, so the tests above are meaningful."""
    assert run_unprivileged(os.geteuid) in (UNPRIVILEGED_ID, os.geteuid() or UNPRIVILEGED_ID)


def test_a_device_is_not_a_file(tmp_path, in_bounded_time):
    """Reading a copy of /dev/zero would never end; without the right to create one, a pipe is used."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    try:
        os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        os.mkfifo(tmp_path / "device")

    for operation in (
        storage.read,
        storage.stat,
        lambda path: storage.copy(path, "b"),
        lambda path: storage.move(path, "b"),
    ):
        with pytest.raises(NotAFileError):
            operation("device")

    assert storage.list() == []
    assert storage.delete_prefix("nothing") == 0
