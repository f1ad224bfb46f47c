"""LocalFSStorage: permissions, directories, etags, multipart uploads, and LocalFSFile without a storage."""

import errno
import fcntl
import gc
import importlib.util
import os
import stat
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flask_storage import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    InvalidLinkError,
    LocalFSError,
    LocalFSFile,
    LocalFSStorage,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageFullError,
    UnsupportedOperationError,
)
from flask_storage.backends.local.directory import Directory
from flask_storage.errors import IntegrityError, NotAFileError
from flask_storage.link_usage import FileUsageStore
from flask_storage.multipart import Part
from flask_storage.registry import make_storage
from flask_storage.types import WriteOptions
from flask_storage.validation import parse_ca
from tests.descriptors import descriptors

DEFAULTS = WriteOptions()


@contextmanager
def umask(mask):
    """Set the umask of the process within the block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path):
    """Return the permission bits of a file or a directory."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def disk(tmp_path):
    """A storage without fsync in an empty directory."""
    return LocalFSStorage(tmp_path / "root", create=True, fsync=False)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o177])
@pytest.mark.parametrize(
    "modes", [{}, {"file_mode": 0o640, "directory_mode": 0o750}, {"file_mode": 0o444, "directory_mode": 0o2775}]
)
def test_permissions_do_not_depend_on_the_umask(mask, modes, tmp_path):
    """Files, all directories below the root, the root and its created parents have the configured modes."""
    with umask(mask):
        storage = LocalFSStorage(tmp_path / "created/root", create=True, fsync=False, **modes)
        storage.write("a/b/c.txt", b"1")
        storage.copy("a/b/c.txt", "d/e/copied.txt")
        storage.write("m.txt", b"2")
        storage.move("m.txt", "f/g/moved.txt")
        with storage.open("a/b/c.txt", "rw") as file:
            file.write(b"3")
        upload_id = storage.multipart.create("h/i/joined.txt", DEFAULTS)
        hidden = mode(storage.root / f".fs-tmp-{upload_id}" / "upload.json")
        part = storage.multipart.upload_part("h/i/joined.txt", upload_id, 1, b"4")
        storage.multipart.complete("h/i/joined.txt", upload_id, [part], DEFAULTS)

    below = list(storage.root.rglob("*"))
    assert len([path for path in below if path.is_file()]) == 4
    assert {mode(path) for path in below if path.is_file()} == {modes.get("file_mode", 0o600)}
    assert {mode(path) for path in below if path.is_dir()} == {modes.get("directory_mode", 0o700)}
    assert mode(storage.root) == mode(storage.root.parent) == modes.get("directory_mode", 0o700)
    assert hidden == 0o600


def test_concurrent_writes_do_not_change_the_umask(disk):
    """The umask belongs to the process, so changing it would change the modes of files of other threads."""
    stop, modes = threading.Event(), set()

    def create_files(directory):
        while not stop.is_set():
            path = directory / "other"
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            modes.add(mode(path))
            path.unlink()

    with umask(0o027):
        other = threading.Thread(target=create_files, args=(disk.root.parent,))
        other.start()
        writers = [
            threading.Thread(target=lambda n=n: [disk.write(f"{n}/{turn}/a.txt", b"1") for turn in range(50)])
            for n in range(4)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        stop.set()
        other.join()

    assert modes == {0o640}
    assert {mode(path) for path in disk.root.rglob("*")} == {0o600, 0o700}


def test_an_existing_directory_keeps_its_mode(disk):
    """`directory_mode` is for created directories only."""
    (disk.root / "theirs").mkdir(mode=0o755)
    (disk.root / "theirs").chmod(0o755)

    disk.write("theirs/a.txt", b"1")

    assert mode(disk.root / "theirs") == 0o755


@pytest.mark.parametrize("root", ["missing", "file", "missing/below"])
def test_a_root_that_is_not_a_directory_is_refused(root, tmp_path):
    """The constructor raises, and names the option that creates it."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(LocalFSError, match="create=True"):
        LocalFSStorage(tmp_path / root)

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_root_that_cannot_be_created_is_refused(root, tmp_path):
    """The root, or one of its parents, is a file."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(LocalFSError):
        LocalFSStorage(tmp_path / root, create=True)


def test_the_root_may_be_a_symbolic_link(tmp_path):
    """The root comes from trusted configuration; symbolic links are refused only below it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    storage = LocalFSStorage(tmp_path / "link")
    storage.write("a.txt", b"1")

    assert storage.name == "fs-link"
    assert (tmp_path / "real/a.txt").read_bytes() == b"1"
    assert storage.local_path("a.txt") == tmp_path / "real/a.txt"


def test_create_follows_a_dangling_symbolic_link(tmp_path):
    """With `create=True` the target of the link is created."""
    (tmp_path / "link").symlink_to("real")

    LocalFSStorage(str(tmp_path / "link"), create=True).write("a.txt", b"1")

    assert (tmp_path / "real/a.txt").read_bytes() == b"1"


def test_a_root_may_be_created_concurrently(tmp_path, monkeypatch):
    """Of two workers that start at the same time the second one finds the directory created."""
    original = os.mkdir

    def late(path, *arguments, **keywords):
        original(path, *arguments, **keywords)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "mkdir", late)

    assert LocalFSStorage(tmp_path / "a/b", create=True).list() == []


@pytest.mark.parametrize("url", ["local://{}/my%20root?x", "local:{}/my%20root"])
def test_a_url_has_the_path_of_the_root(url, tmp_path):
    """The path is absolute and may be percent-encoded."""
    storage = LocalFSStorage.from_url(urlsplit(url.format(tmp_path)), {"create": True, "name": "docs"})

    assert storage.root == tmp_path / "my root"


def test_a_relative_url_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    """The root does not change when the process changes its working directory."""
    monkeypatch.chdir(tmp_path)
    storage = LocalFSStorage.from_url(urlsplit("local:uploads"), {"create": True})

    monkeypatch.chdir("/")
    storage.write("a.txt", b"1")

    assert (tmp_path / "uploads/a.txt").exists()


def test_empty_directories_are_removed_but_not_the_root(disk):
    """A directory is removed with its last file, as object stores have no directories."""
    disk.write("a/b/c/1.txt", b"1")
    disk.write("a/2.txt", b"2")

    disk.delete("a/b/c/1.txt")
    after_delete = sorted(path.name for path in disk.root.rglob("*"))
    disk.move("a/2.txt", "3.txt")
    after_move = [path.name for path in disk.root.rglob("*")]
    disk.delete("3.txt")
    disk.delete("never/was.txt")

    assert after_delete == ["2.txt", "a"]
    assert after_move == ["3.txt"]
    assert list(disk.root.iterdir()) == []


def test_a_discarded_write_removes_the_directories_it_created(disk):
    """Directories with other files stay."""
    disk.write("a/kept.txt", b"1")

    def write_and_fail():
        with disk.open("a/b/c/d.txt", "w") as writer:
            writer.write(b"1")
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()

    assert [path.name for path in disk.root.rglob("*")] == ["a", "kept.txt"]


def test_an_unclosed_writer_warns_and_leaves_no_file(disk):
    """Garbage collection removes the temporary file and publishes nothing."""

    def drop_writer():
        disk.open("a.txt", "w").write(b"1")
        gc.collect()

    with pytest.warns(ResourceWarning, match="nothing was published"):
        drop_writer()

    assert list(disk.root.iterdir()) == []


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # pytest plugins start threads
def test_a_forked_child_does_not_publish_the_parents_writer(disk):
    """Closing the writer in the child neither publishes nor affects the parent's writer."""
    writer = disk.open("a.txt", "w")
    writer.write(b"parent ")

    pid = os.fork()
    if not pid:
        writer.close()
        os._exit(0 if disk.list() == [] else 1)
    _, status = os.waitpid(pid, 0)
    writer.write(b"goes on")
    writer.close()

    assert status == 0
    assert disk.read("a.txt") == b"parent goes on"


def test_every_version_has_a_different_etag(disk):
    """Also versions of equal size that are written within one tick of the clock."""
    tags = set()

    for number in range(300):
        disk.write("a.txt", b"%03d" % number)
        tags.add(disk.stat("a.txt").etag)

    assert len(tags) == 300


def test_if_match_replaces_only_the_given_version(disk):
    """For writing, copying and moving, and for a missing file."""
    disk.write("a.txt", b"1")
    disk.write("b.txt", b"2")
    tag = disk.stat("a.txt").etag

    for operation in (
        lambda: disk.write("b.txt", b"new", if_match=tag),
        lambda: disk.write("missing.txt", b"new", if_match=tag),
        lambda: disk.copy("a.txt", "b.txt", if_match=tag),
        lambda: disk.move("a.txt", "b.txt", if_match=tag),
    ):
        with pytest.raises(PreconditionFailedError):
            operation()
    disk.write("a.txt", b"new", if_match=tag)
    disk.move("b.txt", "a.txt", if_match=disk.stat("a.txt").etag)

    assert [(entry.name, disk.read(entry.name)) for entry in disk.list()] == [("a.txt", b"2")]


def test_moving_onto_a_hard_link_of_the_same_file_removes_the_old_name(disk):
    """`rename` does nothing for two hard links of one file, and reports success."""
    disk.write("a.txt", b"1")
    os.link(disk.root / "a.txt", disk.root / "b.txt")

    disk.move("a.txt", "b.txt")

    assert [entry.name for entry in disk.list()] == ["b.txt"]


def test_exclusive_moves_and_copies_refuse_an_existing_target(disk):
    """Both files are unchanged."""
    disk.write("a.txt", b"1")
    disk.write("d/b.txt", b"2")

    for operation in (disk.copy, disk.move):
        with pytest.raises(FileExistsInStorageError):
            operation("a.txt", "d/b.txt", exclusive=True)
    disk.move("a.txt", "d/c.txt", exclusive=True)

    assert [(entry.name, disk.read(entry.name)) for entry in disk.list()] == [("d/b.txt", b"2"), ("d/c.txt", b"1")]


def test_an_edit_merges_headers(disk):
    """Given headers are replaced; the others are unchanged."""
    disk.write("a.txt", b"1", content_type="text/plain", metadata={"by": "us"})

    with disk.open("a.txt", "rw", content_type="text/html") as file:
        file.write(b"2")

    info = disk.stat("a.txt")
    assert (info.content_type, info.metadata) == ("text/html", {"by": "us"})


def test_an_edit_that_cannot_be_opened_leaves_no_file(disk, monkeypatch):
    """If the private copy cannot be created, its file is removed without a warning."""
    disk.write("a.txt", b"1")

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.delattr(os, "copy_file_range")
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(LocalFSError):
        disk.open("a.txt", "rw")

    assert [path.name for path in disk.root.iterdir()] == ["a.txt"]


def test_a_reader_returns_the_version_it_opened(disk):
    """Also after the file was replaced and deleted."""
    disk.write("a.txt", b"old")

    with disk.open("a.txt", "r") as reader:
        disk.write("a.txt", b"new")
        disk.delete("a.txt")
        content = reader.read()

    assert content == b"old"


def test_localfsfile_works_without_a_storage(tmp_path, monkeypatch):
    """It takes a local path and publishes atomically; its directory may be a symbolic link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")

    with LocalFSFile(tmp_path / "link/a.txt", "w") as file:
        file.write(b"1")
    with LocalFSFile("a.txt", "rw") as file:
        file.seek(0, 2)
        file.write(b"2")
    with LocalFSFile("a.txt", "r") as file:
        content = file.read()
    with pytest.raises(FileNotFoundError):
        LocalFSFile("missing.txt", "r")

    assert content == b"12"
    assert os.listdir(tmp_path / "real") == ["a.txt"]


def test_one_level_lists_directories_with_files(disk):
    """Empty and hidden directories are not listed."""
    disk.write("a/b/c.txt", b"1")
    disk.write("d.txt", b"2")
    disk.multipart.create("e.txt", DEFAULTS)
    (disk.root / "empty/emptier").mkdir(parents=True)

    assert [entry.name for entry in disk.list(recursive=False)] == ["a/", "d.txt"]
    assert [entry.name for entry in disk.list("a", recursive=False)] == ["a/b/"]
    assert disk.list("missing") == []


def test_a_file_deleted_during_a_listing_is_skipped(disk):
    """It is no error."""
    for name in range(3):
        disk.write(f"{name}.txt", b"1")
    walk = disk.tree.walk

    def walk_and_delete(*arguments, **keywords):
        for prefix, entry in walk(*arguments, **keywords):
            if entry.name == "1.txt":
                assert entry.is_file()
                os.unlink(disk.root / "1.txt")
            yield prefix, entry

    disk.tree.walk = walk_and_delete

    assert [entry.name for entry in disk.list()] == ["0.txt", "2.txt"]


def test_delete_prefix_does_not_count_concurrently_deleted_files(disk):
    """Another process deleted the file and its directory."""
    disk.write("a/b/1.txt", b"1")
    walk = disk.tree.walk

    def walk_and_delete(*arguments, **keywords):
        for prefix, entry in walk(*arguments, **keywords):
            os.unlink(disk.root / "a/b/1.txt")
            os.rmdir(disk.root / "a/b")
            yield prefix, entry

    disk.tree.walk = walk_and_delete

    assert disk.delete_prefix("a") == 0
    assert list(disk.root.iterdir()) == []


def test_sweep_removes_old_leftovers_only(disk):
    """Temporary files of running writes and unfinished uploads below the age limit stay."""
    writer = disk.open("d/new.txt", "w")
    upload_id = disk.multipart.create("big.bin", DEFAULTS)
    for path in (disk.root / "e/.fs-tmp-0000000000000000", disk.root / ".fs-tmp-1111111111111111"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"leftover")
        os.utime(path, (0, 0))
    old = disk.root / ".fs-tmp-AAAAAAAAAAAAAAAAAAAAAA"
    old.mkdir()
    (old / "part-00001").write_bytes(b"leftover")
    os.utime(old, (0, 0))

    swept = disk.sweep()
    writer.write(b"1")
    writer.close()

    assert swept == 3
    assert [entry.name for entry in disk.list()] == ["d/new.txt"]
    assert [pending.upload_id for pending in disk.multipart.list_uploads()] == [upload_id]
    assert sorted(path.name for path in disk.root.iterdir()) == [f".fs-tmp-{upload_id}", "d"]


def test_a_write_whose_temporary_file_was_swept_raises_an_error(disk):
    """The error says so, and is not "not found"."""
    writer = disk.open("d/a.txt", "w")
    assert disk.sweep(timedelta(seconds=-10)) == 1

    with pytest.raises(StorageError, match="perhaps by a sweep") as caught:
        writer.close()

    assert not isinstance(caught.value, FileNotFoundError)


def test_sweep_does_not_count_concurrently_removed_files(disk):
    """Its writer published it during the sweep."""
    (disk.root / ".fs-tmp-0000000000000000").write_bytes(b"")
    walk = disk.tree.walk

    def walk_and_delete(*arguments, **keywords):
        for prefix, entry in walk(*arguments, **keywords):
            os.unlink(disk.root / entry.name)
            yield prefix, entry

    disk.tree.walk = walk_and_delete

    assert disk.sweep(timedelta(0)) == 0


@pytest.mark.parametrize("upload_id", ["../../etc", "", "A" * 22, "A" * 21 + "/", ".fs-tmp-"])
def test_an_invalid_upload_id_is_not_found(upload_id, disk):
    """It is never used in a path."""
    for operation in (
        lambda: disk.multipart.upload_part("a.bin", upload_id, 1, b"1"),
        lambda: disk.multipart.list_parts("a.bin", upload_id),
        lambda: disk.multipart.complete("a.bin", upload_id, [Part(number=1, size=1, etag="x")], DEFAULTS),
    ):
        with pytest.raises(FileNotFoundInStorageError):
            operation()
    disk.multipart.abort("a.bin", upload_id)


def test_an_upload_belongs_to_its_path(disk):
    """The id with another path is not found."""
    upload_id = disk.multipart.create("a.bin", DEFAULTS)

    with pytest.raises(FileNotFoundInStorageError):
        disk.multipart.upload_part("b.bin", upload_id, 1, b"1")

    assert disk.multipart.list_parts("a.bin", upload_id) == []


def test_uploads_are_listed_by_directory(disk):
    """A directory without a manifest, from a running `create` or a crash, is not listed."""
    ids = {path: disk.multipart.create(path, DEFAULTS) for path in ("a/1.bin", "ab/2.bin", "3.bin")}
    (disk.root / ".fs-tmp-BBBBBBBBBBBBBBBBBBBBBB").mkdir()
    disk.write("4.bin", b"1")

    assert {pending.path: pending.upload_id for pending in disk.multipart.list_uploads()} == ids
    assert [pending.path for pending in disk.multipart.list_uploads("a")] == ["a/1.bin"]


def test_an_invalid_manifest_leaks_no_descriptor(disk):
    """`list_parts` raises IntegrityError, and `list_uploads` skips the upload."""
    upload_id = disk.multipart.create("a.bin", DEFAULTS)
    (disk.root / f".fs-tmp-{upload_id}" / "upload.json").write_bytes(b"{")
    before = descriptors()

    with pytest.raises(IntegrityError, match="damaged"):
        disk.multipart.list_parts("a.bin", upload_id)
    assert list(disk.multipart.list_uploads()) == []

    assert descriptors() == before


def test_parts_are_replaced_and_verified(disk):
    """`complete` joins only the given parts, and only if their etags match."""
    upload_id = disk.multipart.create("a.bin", WriteOptions(content_type="text/plain"))
    first = disk.multipart.upload_part("a.bin", upload_id, 1, b"old")
    new = disk.multipart.upload_part("a.bin", upload_id, 1, b"new")
    other = disk.multipart.upload_part("a.bin", upload_id, 2, memoryview(b"er"))
    extra = disk.multipart.upload_part("a.bin", upload_id, 3, b"not wanted")

    with pytest.raises(IntegrityError, match="was replaced"):
        disk.multipart.complete("a.bin", upload_id, [first, other], DEFAULTS)
    (disk.root / f".fs-tmp-{upload_id}" / "part-00003").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        disk.multipart.complete("a.bin", upload_id, [new, extra], DEFAULTS)
    listed = disk.multipart.list_parts("a.bin", upload_id)
    disk.multipart.complete("a.bin", upload_id, [new, other], DEFAULTS)

    assert listed == [new, other]
    assert disk.read("a.bin") == b"newer"
    assert disk.stat("a.bin").content_type == "text/plain"
    assert [path.name for path in disk.root.iterdir()] == ["a.bin"]


def test_put_stores_a_small_upload(disk):
    """`put` honors headers and expected size."""
    disk.multipart.put("a/b.bin", b"12", WriteOptions(content_type="text/plain", size=2))

    with pytest.raises(IntegrityError):
        disk.multipart.put("a/b.bin", b"1", WriteOptions(size=2))

    assert disk.read("a/b.bin") == b"12"
    assert disk.stat("a/b.bin").content_type == "text/plain"


def test_a_part_that_cannot_be_stored_leaves_no_file(disk, monkeypatch):
    """Whether writing or renaming fails."""
    upload_id = disk.multipart.create("a.bin", DEFAULTS)

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("write", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StorageError):
                disk.multipart.upload_part("a.bin", upload_id, 1, b"1")
            with pytest.raises(StorageError):
                disk.multipart.create("b.bin", DEFAULTS)

    assert os.listdir(disk.root) == [f".fs-tmp-{upload_id}"]
    assert os.listdir(disk.root / f".fs-tmp-{upload_id}") == ["upload.json"]


def test_check_leaves_no_file(disk):
    """Its temporary file is deleted."""
    disk.check()

    assert list(disk.root.iterdir()) == []


def test_a_directory_replaced_by_a_link_during_a_listing_is_not_followed(disk, monkeypatch):
    """The race condition between listing a directory and opening it."""
    disk.write("d/a.txt", b"1")
    (disk.root.parent / "outside").mkdir()
    (disk.root.parent / "outside/secret.txt").write_bytes(b"secret")
    child = type(disk.tree.open_directory("")).child

    def late(directory, name):
        if not (disk.root / "d").is_symlink():
            (disk.root / "d").rename(disk.root / "e")
            (disk.root / "d").symlink_to(disk.root.parent / "outside")
        return child(directory, name)

    monkeypatch.setattr("flask_storage.backends.local.directory.Directory.child", late)
    names = [entry.name for entry in disk.list()]
    with pytest.raises(PermissionDeniedError):
        disk.read("d/secret.txt")

    assert not [name for name in names if "secret" in name]


def test_every_operation_syncs_files_and_directories(tmp_path, monkeypatch):
    """With `fsync=True`, the default, every change is durable when the call returns."""
    storage = LocalFSStorage(tmp_path)
    original, synced = os.fsync, []

    def fsync(fd):
        synced.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        original(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    calls = {}
    for name, operation in {
        "write": lambda: storage.write("a.txt", b"1"),
        "write into a directory": lambda: storage.write("d/a.txt", b"1"),
        "copy": lambda: storage.copy("a.txt", "b.txt"),
        "move": lambda: storage.move("b.txt", "d/b.txt"),
        "delete": lambda: storage.delete("a.txt"),
        "delete_prefix": lambda: storage.delete_prefix("d"),
        "create an upload": lambda: storage.multipart.create("a.txt", DEFAULTS),
    }.items():
        synced.clear()
        operation()
        calls[name] = list(synced)

    assert calls == {
        "write": ["file", "directory"],
        "write into a directory": ["directory", "file", "directory"],
        "copy": ["file", "directory"],
        "move": ["directory", "directory"],
        "delete": ["directory"],
        "delete_prefix": ["directory"],
        "create an upload": ["directory", "file", "directory"],
    }


def test_an_attribute_of_the_root_has_no_effect(disk):
    """It only shows that the file system supports attributes."""
    os.setxattr(disk.root, "user.flask_storage", b"x")

    assert disk.capabilities.metadata


def test_an_unreadable_directory_is_listed(disk):
    """It may contain files, so a listing of one level includes it."""
    disk.write("d/a.txt", b"1")
    walk = disk.tree.walk

    def refuse(path="", **keywords):
        if path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return walk(path, **keywords)

    disk.tree.walk = refuse

    assert [entry.name for entry in disk.list(recursive=False)] == ["d/"]


def test_a_system_without_posix_is_refused(monkeypatch):
    """The ImportError names POSIX, not only the missing module."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    shipped = importlib.util.find_spec("flask_storage.backends.local.directory")
    assert shipped
    assert shipped.origin
    spec = importlib.util.spec_from_file_location("flask_storage.backends.local.directory_again", shipped.origin)
    assert spec
    assert spec.loader

    with pytest.raises(ImportError, match="POSIX"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_manifest_that_is_a_pipe_is_refused(disk, in_bounded_time):
    """Opening it does not block, and no descriptor leaks."""
    upload_id = disk.multipart.create("a.bin", DEFAULTS)
    manifest = disk.root / f".fs-tmp-{upload_id}" / "upload.json"
    manifest.unlink()
    os.mkfifo(manifest)
    before = descriptors()

    with pytest.raises(NotAFileError):
        disk.multipart.list_parts("a.bin", upload_id)

    assert descriptors() == before


def test_roots_of_equal_name_do_not_accept_each_others_tokens(tmp_path):
    """Both storages have the default name fs-uploads; explicit names distinguish storages too."""
    one, other = (
        LocalFSStorage(tmp_path / parent / "uploads", secret_key=b"s" * 32, create=True) for parent in ("a", "b")
    )
    again = LocalFSStorage(tmp_path / "a/uploads", secret_key=b"s" * 32)
    named = [LocalFSStorage(tmp_path, name=name, secret_key=b"s" * 32) for name in ("x", "x", "y")]

    token = one.create_link_token(path="a.txt", operation="download", expire=timedelta(hours=1))
    named_token = named[0].create_link_token(path="a.txt", operation="download", expire=timedelta(hours=1))

    assert one.name == other.name == "fs-uploads"
    assert again.deserialize_link_token(token).path == "a.txt"
    assert named[1].deserialize_link_token(named_token).path == "a.txt"
    for storage, wrong in ((other, token), (named[2], named_token)):
        with pytest.raises(InvalidLinkError):
            storage.deserialize_link_token(wrong)


def test_modes_may_be_octal_text(tmp_path):
    """Settings from the environment and from URLs are text; an invalid mode is refused."""
    storage = LocalFSStorage(tmp_path / "root", create=True, file_mode="0o640", directory_mode="750")

    storage.write("d/a.txt", b"1")
    with pytest.raises(ConfigurationError, match="is not a valid file_mode"):
        LocalFSStorage(tmp_path / "root", file_mode="rw-r-----")

    assert mode(storage.root / "d") == 0o750
    assert mode(storage.root / "d/a.txt") == 0o640


def test_other_errors_are_not_translated(disk, monkeypatch):
    """Only errors of the operating system become storage errors."""

    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(os, "open", fail)

    with pytest.raises(RuntimeError, match="a bug"):
        disk.read("a.txt")


def test_a_concurrently_created_directory_is_used(disk, monkeypatch):
    """Another process creates it between the check and `mkdir`."""
    original = os.mkdir

    def late(name, *arguments, **keywords):
        original(name, *arguments, **keywords)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(os, "mkdir", late)
    disk.write("d/a.txt", b"1")

    assert disk.read("d/a.txt") == b"1"


def test_aborting_an_upload_twice_is_no_error(disk, monkeypatch):
    """Also when another process removes it concurrently."""
    upload_id = disk.multipart.create("a.bin", DEFAULTS)
    hidden = disk.root / f".fs-tmp-{upload_id}"
    original = os.listdir

    def late(directory):
        (hidden / "upload.json").unlink()
        hidden.rmdir()
        return original(directory)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", late)
        disk.multipart.abort("a.bin", upload_id)
    disk.multipart.abort("a.bin", upload_id)

    assert list(disk.root.iterdir()) == []


def test_exclusive_is_refused_without_hard_links_and_locks(disk, monkeypatch):
    """Without either, the second of two concurrent writers could replace the first one's file."""

    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(UnsupportedOperationError, match="neither hard links nor locks"):
        disk.write("a.txt", b"1", exclusive=True)

    assert disk.list() == []
    assert list(disk.root.iterdir()) == []


@pytest.mark.parametrize("operation", ["write", "move"])
def test_a_failed_sync_of_the_directory_says_that_the_file_is_stored(tmp_path, monkeypatch, operation):
    """The new content is visible by then, and the message says so."""
    storage = LocalFSStorage(tmp_path)
    storage.write("old.txt", b"1")
    sync = os.fsync

    def fail(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(LocalFSError, match=r"new\.txt is in place, but the disk failed to make it durable"):
        storage.write("new.txt", b"1") if operation == "write" else storage.move("old.txt", "new.txt")

    assert storage.read("new.txt") == b"1"


def test_listing_an_unreadable_directory_is_an_error(disk, monkeypatch):
    """It may contain files, so a recursive listing raises instead of skipping it."""
    disk.write("open/a.txt", b"1")
    disk.write("closed/b.txt", b"1")
    open_child = Directory.child

    def refuse(directory, name):
        if name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_child(directory, name)

    monkeypatch.setattr(Directory, "child", refuse)

    with pytest.raises(PermissionDeniedError):
        disk.list()


def test_an_unreadable_lost_and_found_is_skipped(disk, monkeypatch):
    """An ext4 volume has a directory `lost+found` at its root."""
    disk.write("a.txt", b"1")
    (disk.root / "lost+found").mkdir()
    open_child = Directory.child

    def refuse(directory, name):
        if name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_child(directory, name)

    monkeypatch.setattr(Directory, "child", refuse)

    assert [entry.name for entry in disk.list()] == ["a.txt"]
    assert [entry.name for entry in disk.list(recursive=False)] == ["a.txt"]


def test_a_full_disk_when_syncing_a_directory_is_reported(tmp_path, monkeypatch):
    """StorageFullError also if there is no space for the directory entry."""
    storage = LocalFSStorage(tmp_path)
    sync = os.fsync

    def fail(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(StorageFullError):
        storage.write("new.txt", b"1")


@pytest.mark.parametrize(
    "spec",
    [
        {"backend": "local", "root": "~/my files"},
        {"backend": "local", "root": Path("~/my files")},
        {"backend": "local", "root": "~me/my files"},
        "local:~/my%20files",
        "local://~/my%20files",
    ],
)
def test_a_root_may_begin_with_the_home_directory(spec, tmp_path, monkeypatch):
    """As in a shell; a directory named `~` is never created."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os.path, "expanduser", expanding("~me", tmp_path))
    monkeypatch.chdir(tmp_path)
    spec = f"{spec}?create=yes" if isinstance(spec, str) else {**spec, "create": True}

    storage = make_storage("docs", spec)

    storage.write("a.txt", b"1")
    assert (tmp_path / "my files/a.txt").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["my files"]


def expanding(user, home):
    """Return an `expanduser` that knows *user*, independent of the account."""
    original = os.path.expanduser
    return lambda path: original(os.fspath(path).replace(user, str(home)))


def test_a_home_directory_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    """Not a directory of that name; one can be meant with `./`."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(
        ConfigurationError, match=r"root begins with ~, but there is no such home directory: write './~'"
    ):
        LocalFSStorage("~no-such-user/files", create=True)

    assert LocalFSStorage("./~no-such-user", create=True).root == tmp_path.resolve() / "~no-such-user"


def test_usage_files_of_links_may_be_in_the_home_directory(tmp_path, monkeypatch):
    """The same for the directory of a `FileUsageStore`."""
    monkeypatch.setenv("HOME", str(tmp_path))

    FileUsageStore("~/links").consume("id", 1, datetime.now(UTC) + timedelta(hours=1))

    assert (tmp_path / "links").is_dir()


def test_the_file_of_a_certificate_authority_may_be_in_the_home_directory(tmp_path, monkeypatch):
    """The same for `verify` of S3 and Azure."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ca.pem").touch()

    assert parse_ca("verify", "~/ca.pem") == str(tmp_path / "ca.pem")
