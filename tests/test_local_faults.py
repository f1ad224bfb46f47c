"""Disks that are full, read-only, gone, or hold what a storage would never put there."""

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
from tests.crash.unprivileged import NOBODY, as_nobody
from tests.descriptors import descriptors

SMALL = 8 * 1024 * 1024


def may_mount():
    """Whether this process may mount file systems: root on a machine may, root in a container often may not."""
    answer = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return answer.returncode == 0


MOUNTS = may_mount()


@contextmanager
def mounted(directory, kind, options=""):
    """A small file system of its own on *directory*."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), "none", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@contextmanager
def full_disk(directory):
    """A disk of 8 MiB."""
    with mounted(directory, "tmpfs", f"size={SMALL}"):
        yield directory


@contextmanager
def limited_process(directory):
    """A process that may write no file of more than 8 MiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    directory.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    try:
        yield directory
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Where nothing may be mounted, the limit of the process stands in for the small disk.
NO_ROOM = [limited_process, *([full_disk] if MOUNTS else [])]


@pytest.mark.parametrize("no_room", NO_ROOM)
@pytest.mark.parametrize("verb", ["put", "stream", "edit"])
def test_a_full_disk_is_said_and_keeps_what_it_has(no_room, verb, tmp_path):
    """16 MiB do not fit: StorageFullError, the old file is whole, and the room is free again."""
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

    with no_room(tmp_path / "disk") as root:
        storage = LocalFSStorage(root)
        storage.write("a.bin", old)
        free = os.statvfs(root).f_bavail
        for _ in range(20):
            with pytest.raises(StorageFullError) as caught:
                too_much[verb](storage)

            assert (caught.value.path, caught.value.backend) == ("a.bin", storage.name)
            assert storage.read("a.bin") == old
            assert [path.name for path in root.iterdir()] == ["a.bin"]
            assert no_room is limited_process or os.statvfs(root).f_bavail == free


@pytest.mark.parametrize("no_room", NO_ROOM)
def test_a_full_disk_refuses_copies_and_parts_too(no_room, tmp_path):
    """An upload that no longer fits keeps its parts, so that it can be finished when there is room."""
    with no_room(tmp_path / "disk") as root:
        storage = LocalFSStorage(root, fsync=False)
        upload_id = storage.multipart.create("a.bin", WriteOptions())
        parts = [storage.multipart.upload_part("a.bin", upload_id, number, bytes(3 * 1024 * 1024)) for number in (1, 2)]

        with pytest.raises(StorageFullError):
            storage.multipart.upload_part("a.bin", upload_id, 3, bytes(9 * 1024 * 1024))
        if no_room is full_disk:
            with pytest.raises(StorageFullError):
                storage.multipart.complete("a.bin", upload_id, parts, WriteOptions())

        assert storage.multipart.list_parts("a.bin", upload_id) == parts
        assert storage.list() == []
        assert not [name for name in os.listdir(root / f".fs-tmp-{upload_id}") if name.startswith(".fs-tmp-")]


def test_a_download_to_a_full_disk_is_the_callers_own_error(tmp_path):
    """The storage is well: the target is not its own, and is left as it was."""
    storage = LocalFSStorage(tmp_path / "root", create=True, fsync=False)
    storage.write("a.bin", bytes(16 * 1024 * 1024))

    with limited_process(tmp_path / "target") as target:
        with pytest.raises(OSError, match="File too large") as caught:
            storage.get("a.bin", target / "a.bin")

        assert not isinstance(caught.value, StorageError)
        assert list(target.iterdir()) == []


def refuse_every_change(storage):
    """Try all that would change a storage which holds ``d/a.txt``; each must be refused, and reading must not be."""
    refused = {
        "write": lambda: storage.write("d/a.txt", b"new"),
        "new folder": lambda: storage.write("d/e/f/b.txt", b"new"),
        "copy": lambda: storage.copy("d/a.txt", "d/b.txt"),
        "move": lambda: storage.move("d/a.txt", "d/b.txt"),
        "delete": lambda: storage.delete("d/a.txt"),
        "delete_prefix": lambda: storage.delete_prefix("d"),
        "edit": lambda: storage.open("d/a.txt", "rw"),
        "save": lambda: storage.save("d/a.txt", b"new"),
    }
    kinds = {}
    for name, deed in refused.items():
        with pytest.raises(StorageError) as caught:
            deed()
        kinds[name] = type(caught.value)
    return kinds, storage.read("d/a.txt"), [entry.name for entry in storage.list()]


@pytest.fixture
def shared():
    """A storage with ``d/a.txt`` in a directory that every user may reach; pytest's own belong to one."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        storage = LocalFSStorage(Path(directory, "root"), create=True, file_mode=0o644, directory_mode=0o755)
        storage.write("d/a.txt", b"old")
        yield storage
        (storage.root / "d").chmod(0o755)
        storage.root.chmod(0o755)


def test_a_folder_that_may_not_be_written_is_a_refusal(shared):
    """PermissionDeniedError, never "not found", and everything can still be read."""
    for directory in (shared.root, shared.root / "d"):
        directory.chmod(0o555)

    kinds, content, names = as_nobody(lambda: refuse_every_change(shared))

    assert set(kinds.values()) == {PermissionDeniedError}
    assert content == b"old"
    assert names == ["d/a.txt"]


@pytest.mark.parametrize("verb", ["read", "stat", "exists", "edit", "copy", "move"])
def test_a_file_that_may_not_be_read_is_a_refusal(verb, shared):
    """It is not a missing one."""
    (shared.root / "d/a.txt").chmod(0o000)
    deeds = {
        "read": lambda: shared.read("d/a.txt"),
        "stat": lambda: shared.stat("d/a.txt"),
        "exists": lambda: shared.exists("d/a.txt"),
        "edit": lambda: shared.open("d/a.txt", "rw"),
        "copy": lambda: shared.copy("d/a.txt", "b.txt"),
        "move": lambda: shared.move("d/a.txt", "b.txt"),
    }

    with pytest.raises(PermissionDeniedError, match="owner and mode"):
        as_nobody(deeds[verb])

    assert (shared.root / "d/a.txt").stat().st_size == 3


def test_a_folder_that_may_not_be_looked_into_is_a_refusal_and_still_shown(shared):
    """It is not an empty one: whether anything is below it, only others know."""
    (shared.root / "d").chmod(0o000)

    shown = as_nobody(lambda: [entry.name for entry in shared.list(recursive=False)])
    with pytest.raises(PermissionDeniedError):
        as_nobody(shared.list)

    assert shown == ["d/"]


def test_the_systems_own_folder_is_no_part_of_the_storage(shared):
    """An ext4 volume has a `lost+found` at its top that nobody else may open; listing and sweeping go on around it."""
    (shared.root / "lost+found").mkdir(mode=0o000)

    names = as_nobody(lambda: [entry.name for entry in shared.list()])
    directories = as_nobody(lambda: [entry.name for entry in shared.list(recursive=False)])
    as_nobody(lambda: shared.sweep(timedelta(0)))
    shared.sweep(timedelta(0))

    assert "d/a.txt" in names
    assert "lost+found/" not in directories
    assert (shared.root / "lost+found").is_dir()


@pytest.mark.parametrize("how", ["remount"] if MOUNTS else ["fault"])
def test_a_read_only_file_system_is_said(how, tmp_path, monkeypatch):
    """PermissionDeniedError that says what to do; where nothing may be mounted, the error is made by hand."""
    if how == "fault":

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

        kinds, content, names = refuse_every_change(storage)

        assert set(kinds.values()) == {PermissionDeniedError}
        assert content == b"old"
        assert names == ["d/a.txt"]
        with pytest.raises(PermissionDeniedError, match="mount it writable"):
            storage.write("b.txt", b"1")


def metadata_refusals(storage):
    """What a storage without attributes says to whoever gives some."""
    storage.write("plain.txt", b"1")
    assert not storage.capabilities.metadata
    for arguments in ({"content_type": "text/plain"}, {"metadata": {"a": "b"}}):
        with pytest.raises(UnsupportedOperationError):
            storage.write("a.txt", b"1", **arguments)
    return [entry.name for entry in storage.list()], storage.stat("plain.txt").content_type


@pytest.mark.parametrize("how", ["fault", *(["ramfs"] if MOUNTS else [])])
def test_a_file_system_without_attributes_refuses_metadata(how, tmp_path, monkeypatch):
    """Clearly and before anything is written; files without any are stored as ever."""
    if how == "ramfs":
        with mounted(tmp_path / "disk", "ramfs") as root:
            assert metadata_refusals(LocalFSStorage(root)) == (["plain.txt"], None)
        return

    def refuse(*_, **__):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "getxattr", refuse)
    monkeypatch.setattr(os, "setxattr", refuse)

    assert metadata_refusals(LocalFSStorage(tmp_path)) == (["plain.txt"], None)


def test_a_part_of_the_tree_without_attributes_refuses_metadata_when_it_is_stored(tmp_path, monkeypatch):
    """The root keeps attributes, a file system below it does not: nothing is dropped silently."""
    storage = LocalFSStorage(tmp_path)
    assert storage.capabilities.metadata

    def refuse(*_, **__):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(UnsupportedOperationError, match="keeps no content type"):
        storage.write("a.txt", b"1", content_type="text/plain")

    assert list(tmp_path.iterdir()) == []


def test_a_python_without_attributes_refuses_metadata(tmp_path, monkeypatch):
    """Not every system has the calls."""
    monkeypatch.delattr(os, "getxattr")
    monkeypatch.delattr(os, "setxattr")

    assert metadata_refusals(LocalFSStorage(tmp_path)) == (["plain.txt"], None)


@pytest.mark.parametrize(
    ("code", "free", "kind"),
    [
        (errno.ENOSPC, 1, UnsupportedOperationError),
        (errno.ENOSPC, 0, StorageFullError),
        (errno.E2BIG, 0, UnsupportedOperationError),
        (errno.EDQUOT, 1, StorageFullError),
    ],
)
def test_no_room_for_metadata_and_no_room_at_all_are_told_apart(code, free, kind, tmp_path, monkeypatch):
    """Linux says ENOSPC for both."""
    storage = LocalFSStorage(tmp_path)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    class Room:
        f_bavail = free

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: Room)
    with pytest.raises(kind):
        storage.write("a.txt", b"1", content_type="text/plain")

    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_while_attributes_are_read_is_an_error(tmp_path, monkeypatch):
    """A file whose type cannot be read must not pass for one without a type."""
    storage = LocalFSStorage(tmp_path)
    storage.write("a.txt", b"1", content_type="text/plain")

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "getxattr", fail)
    before = descriptors()
    for deed in (
        lambda: storage.stat("a.txt"),
        lambda: storage.open("a.txt", "r"),
        lambda: storage.open("a.txt", "rw"),
    ):
        with pytest.raises(LocalFSError, match="the disk failed"):
            deed()

    assert descriptors() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "planted",
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
def test_an_attribute_that_is_not_ours_is_no_metadata(planted, tmp_path):
    """Anybody on the machine can set one; what we could not have written counts as nothing."""
    storage = LocalFSStorage(tmp_path)
    storage.write("a.txt", b"1")
    os.setxattr(tmp_path / "a.txt", "user.flask_storage", planted)

    info = storage.stat("a.txt")

    assert (info.path, info.size, info.content_type, info.metadata) == ("a.txt", 1, None, {})
    assert storage.read("a.txt") == b"1"


def test_the_largest_metadata_that_is_allowed_fits(tmp_path):
    """2 KiB of text in a script of three bytes a letter, and every content header, on a plain disk."""
    storage = LocalFSStorage(tmp_path)
    metadata = {"note": "語" * 660}

    storage.write("a.txt", b"1", content_type="text/plain", cache_control="no-cache", metadata=metadata)

    assert storage.stat("a.txt").metadata == metadata


def test_a_folder_where_a_file_should_be_is_said_and_stays(tmp_path):
    """NotAFileError for who writes; for who reads there is no such file."""
    storage = LocalFSStorage(tmp_path)
    storage.write("d/a.txt", b"1")
    storage.write("b.txt", b"2")

    for deed in (
        lambda: storage.write("d", b"new"),
        lambda: storage.copy("b.txt", "d"),
        lambda: storage.move("b.txt", "d"),
        lambda: storage.delete("d"),
    ):
        with pytest.raises(NotAFileError, match="folder"):
            deed()
    with pytest.raises(FileExistsInStorageError):
        storage.write("d", b"new", exclusive=True)
    for look in (storage.read, storage.stat, lambda path: storage.open(path, "rw")):
        with pytest.raises(FileNotFoundInStorageError):
            look("d")
    assert not storage.exists("d")
    assert [entry.name for entry in storage.list()] == ["b.txt", "d/a.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", "d"]


def test_a_file_where_a_folder_should_be_is_said_and_stays(tmp_path):
    """LocalFSError for who writes; for who reads there is nothing."""
    storage = LocalFSStorage(tmp_path)
    storage.write("f", b"1")

    for deed in (
        lambda: storage.write("f/x/a.txt", b"new"),
        lambda: storage.copy("f", "f/a.txt"),
        lambda: storage.move("f", "f/a.txt"),
    ):
        with pytest.raises(LocalFSError, match="a file stands where"):
            deed()
    with pytest.raises(FileNotFoundInStorageError):
        storage.read("f/a.txt")
    storage.delete("f/a.txt")
    assert storage.list("f") == []
    assert storage.delete_prefix("f") == 0
    assert storage.read("f") == b"1"


def test_a_name_that_the_file_system_cannot_hold_is_an_invalid_path(tmp_path, monkeypatch):
    """Some hold fewer bytes than 255; the directories made on the way go again."""
    storage = LocalFSStorage(tmp_path)
    really_open, really_mkdir = os.open, os.mkdir

    def short(function):
        def call(name, *arguments, **keywords):
            if len(os.path.basename(name)) > 143:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            return function(name, *arguments, **keywords)

        return call

    monkeypatch.setattr(os, "open", short(really_open))
    monkeypatch.setattr(os, "mkdir", short(really_mkdir))
    with pytest.raises(InvalidPathError, match="too long"):
        storage.write(f"a/b/{'n' * 200}/c.txt", b"1")
    with pytest.raises(InvalidPathError, match="too long"):
        storage.read("n" * 200)

    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_locale_cannot_write_is_an_invalid_path(tmp_path, monkeypatch):
    """A process in the C locale of an old system knows no umlaut."""
    storage = LocalFSStorage(tmp_path)

    def refuse(*_, **__):
        raise UnicodeEncodeError("ascii", "ü", 0, 1, "ordinal not in range(128)")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InvalidPathError, match="UTF-8"):
        storage.read("ü.txt")


def planted(root):
    """Put a pipe, a socket, links and names that are no paths into a storage's directory."""
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    (root / "link").symlink_to("a.txt")
    (root / "loop").symlink_to("loop")
    (root / "folder").symlink_to("/etc")
    for name in (b"\xff\xfe.txt", b"line\nbreak", b"back\\slash"):
        (root / os.fsdecode(name)).write_bytes(b"odd")


def test_what_is_no_file_is_neither_listed_nor_read(tmp_path, monkeypatch, caplog, in_bounded_time):
    """A pipe does not hang a reader, a socket and a link are refused, odd names are skipped."""
    monkeypatch.chdir(tmp_path)
    storage = LocalFSStorage(".", fsync=False)
    storage.write("a.txt", b"1")
    planted(Path())

    for name in ("pipe", "socket"):
        with pytest.raises(NotAFileError, match="no regular file"):
            storage.read(name)
        with pytest.raises(NotAFileError):
            storage.stat(name)
    for name in ("link", "loop", "folder", "folder/hostname"):
        with pytest.raises(PermissionDeniedError, match="symbolic link"):
            storage.read(name)
    for deed in (lambda: storage.write("folder/a.txt", b"1"), lambda: storage.list("folder")):
        with pytest.raises(PermissionDeniedError, match="symbolic link"):
            deed()

    assert [entry.name for entry in storage.list()] == ["a.txt"]
    assert "3 names" in caplog.text
    assert [entry.name for entry in storage.list(recursive=False)] == ["a.txt"]
    assert [info.path for info in storage.iter(details=True)] == ["a.txt"]
    assert storage.sweep(timedelta(0)) == 0


def test_what_is_no_file_is_replaced_and_deleted_like_one(tmp_path, monkeypatch):
    """The link goes, not what it points to."""
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


def test_delete_prefix_takes_what_is_no_file_and_no_path(tmp_path, monkeypatch):
    """Everything below the directory goes, with empty directories, and nothing outside."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.write("d/a.txt", b"1")
    storage.write("dx/a.txt", b"2")
    (storage.root / "d/empty/emptier").mkdir(parents=True)
    monkeypatch.chdir(storage.root / "d")
    planted(Path())
    monkeypatch.chdir(tmp_path)

    gone = storage.delete_prefix("d")

    assert gone == 9
    assert [path.name for path in storage.root.iterdir()] == ["dx"]
    assert Path("/etc").is_dir()


def test_delete_prefix_leaves_a_write_that_is_under_way(tmp_path):
    """Its directory stays for it."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("d/a.txt", b"1")

    with storage.open("d/b.txt", "w") as writer:
        assert storage.delete_prefix("d") == 1
        assert storage.list(recursive=False) == []
        writer.write(b"2")

    assert storage.read("d/b.txt") == b"2"


@pytest.mark.parametrize("root", ["gone", "a file", "a link"])
def test_a_root_that_is_gone_is_said_and_is_no_empty_storage(root, tmp_path):
    """Whoever forgets to mount the volume must not be told that no file exists."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.write("a.txt", b"1")
    storage.root.rename(tmp_path / "elsewhere")
    if root == "a file":
        storage.root.write_bytes(b"")
    elif root == "a link":
        storage.root.symlink_to(tmp_path / "elsewhere")

    for deed in (
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
            deed()

    assert (tmp_path / "elsewhere/a.txt").read_bytes() == b"1"


def test_a_root_that_comes_back_is_used_again(tmp_path):
    """No restart is needed."""
    storage = LocalFSStorage(tmp_path / "root", create=True)
    storage.root.rename(tmp_path / "elsewhere")
    storage.root.mkdir()

    storage.write("a.txt", b"1")

    assert storage.read("a.txt") == b"1"


def test_a_folder_that_others_delete_again_and_again_is_an_error_in_the_end(tmp_path, monkeypatch):
    """A writer tries a hundred times, not for ever."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    really_mkdir = os.mkdir

    def mkdir(name, *arguments, dir_fd, **keywords):
        really_mkdir(name, *arguments, dir_fd=dir_fd, **keywords)
        os.rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(LocalFSError, match="again and again"):
        storage.write("d/a.txt", b"1")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_before_its_first_file_comes_is_made_again(tmp_path, monkeypatch):
    """The one that another process pruned while the temporary file was about to be made."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    really_open = os.open
    pruned: list[str] = []

    def open_late(name, flags, *arguments, **keywords):
        if flags & os.O_CREAT and len(pruned) < 3:
            os.rmdir(tmp_path / "d")
            pruned.append(name)
        return really_open(name, flags, *arguments, **keywords)

    monkeypatch.setattr(os, "open", open_late)
    storage.write("d/a.txt", b"1")

    assert storage.read("d/a.txt") == b"1"
    assert len(pruned) == 3


def test_a_folder_that_is_emptied_for_ever_gives_up(tmp_path, monkeypatch):
    """Likewise a hundred times."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    really_open = os.open

    def open_late(name, flags, *arguments, **keywords):
        if flags & os.O_CREAT:
            os.rmdir(tmp_path / "d")
        return really_open(name, flags, *arguments, **keywords)

    monkeypatch.setattr(os, "open", open_late)
    with pytest.raises(LocalFSError, match="again and again"):
        storage.write("d/a.txt", b"1")


def test_too_many_open_files_leave_nothing_behind(tmp_path):
    """Whatever could not be opened: a StorageError, no descriptor lost, no directory made for nothing."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("d/e/a.txt", b"1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    while fillers[-1] <= top:  # until there are no gaps below
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    before = descriptors()
    deeds = (storage.list, lambda: storage.write("x/y/z.txt", b"2"), lambda: storage.copy("d/e/a.txt", "c"))

    failed, left = [], []
    for room in range(8):
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + room, hard))
        for deed in deeds:
            try:
                deed()
            except StorageError as error:
                failed.append(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        left.append(descriptors())
        storage.delete("x/y/z.txt")
        storage.delete("c")
    for fd in fillers:
        os.close(fd)

    assert left == [before] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert failed
    assert all("Too many open files" in str(error) for error in failed)


def test_without_locks_a_condition_is_refused_and_the_file_stays(tmp_path, monkeypatch):
    """Where no directory can be locked, if_match would only seem to be safe."""
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
    """Let ``os.<name>`` fail the first time that *when* holds."""
    really = getattr(os, name)
    failed: list[tuple[object, ...]] = []

    def call(*arguments, **keywords):
        if not failed and when(*arguments, **keywords):
            failed.append(arguments)
            raise OSError(code, os.strerror(code))
        return really(*arguments, **keywords)

    monkeypatch.setattr(os, name, call)
    return failed


@pytest.mark.parametrize("taken", [True, False])
def test_without_hard_links_exclusive_is_decided_under_the_lock(taken, tmp_path, monkeypatch):
    """Refused when the name is taken, stored when it is not."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    if taken:
        storage.write("a.txt", b"old")
    failed = fail_once(monkeypatch, "link", errno.EPERM)

    if taken:
        with pytest.raises(FileExistsInStorageError):
            storage.write("a.txt", b"new", exclusive=True)
    else:
        storage.write("a.txt", b"new", exclusive=True)

    assert failed
    assert storage.read("a.txt") == (b"old" if taken else b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_that_fails_is_an_error(tmp_path, monkeypatch):
    """For any other reason than that there are none."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    fail_once(monkeypatch, "link", errno.EIO)

    with pytest.raises(LocalFSError, match="the disk failed"):
        storage.write("a.txt", b"new", exclusive=True)

    assert list(tmp_path.iterdir()) == []


def test_a_published_file_is_reported_stored_though_its_hidden_name_stays(tmp_path, monkeypatch):
    """An error would make the caller try again, and find the name taken by itself; the sweep removes the rest."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    fail_once(monkeypatch, "unlink", errno.EIO)

    storage.write("a.txt", b"new", exclusive=True)

    assert storage.read("a.txt") == b"new"
    assert len(list(tmp_path.iterdir())) == 2
    assert storage.sweep(timedelta(0)) == 1
    assert storage.read("a.txt") == b"new"


def test_a_move_that_cannot_remove_the_old_name_fails_and_both_are_there(tmp_path, monkeypatch):
    """A failed move leaves at least one of the two; done again, it removes the old name."""
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
    """With content type and metadata; a subdirectory may be a mount."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1", content_type="text/plain")
    fail_once(monkeypatch, "rename", errno.EXDEV)

    storage.move("a.txt", "d/b.txt")

    assert storage.read("d/b.txt") == b"1"
    assert storage.stat("d/b.txt").content_type == "text/plain"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_move_that_is_refused_makes_no_folder(tmp_path):
    """Nor does one of a file that is not there."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1")

    with pytest.raises(StorageError):
        storage.move("a.txt", "x/y/b.txt", if_match="another")
    with pytest.raises(FileNotFoundInStorageError):
        storage.move("missing.txt", "x/y/b.txt")

    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_move_whose_target_folder_goes_meanwhile_makes_it_again(tmp_path, monkeypatch):
    """Another process prunes the directory between its making and the renaming."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1")
    failed = fail_once(monkeypatch, "rename", errno.ENOENT)

    storage.move("a.txt", "d/b.txt")

    assert failed
    assert [entry.name for entry in storage.list()] == ["d/b.txt"]


def test_a_move_whose_source_goes_meanwhile_is_not_found(tmp_path, monkeypatch):
    """Somebody else moved it."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    storage.write("a.txt", b"1")
    really = os.rename

    def late(name, *arguments, **keywords):
        os.unlink(tmp_path / "a.txt")
        return really(name, *arguments, **keywords)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(FileNotFoundInStorageError):
        storage.move("a.txt", "d/b.txt")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_only_a_folder_that_cannot_be_synced_at_all_may_go_unsynced(code, tmp_path, monkeypatch):
    """EINVAL says that this file system does not; anything else is a failure."""
    storage = LocalFSStorage(tmp_path)

    fail_once(monkeypatch, "fsync", code, when=lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    if code == errno.EIO:
        with pytest.raises(LocalFSError):
            storage.write("a.txt", b"1")
    else:
        storage.write("a.txt", b"1")

    assert storage.read("a.txt") == b"1"


def test_a_file_that_cannot_be_deleted_is_an_error(tmp_path, monkeypatch):
    """And stays."""
    storage = LocalFSStorage(tmp_path)
    storage.write("a.txt", b"1")
    fail_once(monkeypatch, "unlink", errno.EPERM)

    with pytest.raises(PermissionDeniedError):
        storage.delete("a.txt")

    assert storage.exists("a.txt")


def test_what_could_not_be_cleared_away_does_not_hide_why(tmp_path, monkeypatch, caplog):
    """The first error is the one that is raised; the second is logged, and the sweep does the rest."""
    storage = LocalFSStorage(tmp_path)
    monkeypatch.setattr(os, "copy_file_range", None)
    monkeypatch.delattr(os, "copy_file_range")
    storage.write("a.txt", b"old")
    fail_once(monkeypatch, "write", errno.ENOSPC)
    fail_once(monkeypatch, "unlink", errno.EIO)
    before = descriptors()

    with pytest.raises(StorageFullError):
        storage.copy("a.txt", "b.txt")

    assert "left behind for the sweep" in caplog.text
    assert descriptors() == before
    assert [entry.name for entry in storage.list()] == ["a.txt"]
    assert storage.sweep(timedelta(0)) == 1


def test_a_finished_upload_is_reported_though_its_parts_stay(tmp_path, monkeypatch):
    """It is published; the sweep removes the parts."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    upload_id = storage.multipart.create("a.bin", WriteOptions())
    part = storage.multipart.upload_part("a.bin", upload_id, 1, b"1")
    fail_once(monkeypatch, "unlink", errno.EIO)

    storage.multipart.complete("a.bin", upload_id, [part], WriteOptions())

    assert storage.read("a.bin") == b"1"
    assert storage.sweep(timedelta(0)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_many_writers_fill_the_disk_and_all_are_told(tmp_path):
    """Eight threads, each alone within the limit of a file's size plus one byte."""
    with limited_process(tmp_path / "disk") as root:
        storage = LocalFSStorage(root, fsync=False)
        told: list[str | None] = []

        def write(number):
            try:
                storage.write(f"{number}.bin", bytes(SMALL + 1))
            except StorageFullError as error:
                told.append(error.path)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(count(4, 8))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert set(told) == {f"{number}.bin" for number in range(count(4, 8))}
        assert list(root.iterdir()) == []


def test_nobody_is_nobody():
    """The unprivileged child has no rights of root, so the refusals above are real."""
    assert as_nobody(os.geteuid) in (NOBODY, os.geteuid() or NOBODY)


def test_a_device_in_the_tree_is_no_file(tmp_path, in_bounded_time):
    """Reading /dev/zero under another name would never end; where none can be made, a pipe stands in."""
    storage = LocalFSStorage(tmp_path, fsync=False)
    try:
        os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        os.mkfifo(tmp_path / "device")

    for deed in (
        storage.read,
        storage.stat,
        lambda path: storage.copy(path, "b"),
        lambda path: storage.move(path, "b"),
    ):
        with pytest.raises(NotAFileError):
            deed("device")

    assert storage.list() == []
    assert storage.delete_prefix("nothing") == 0
