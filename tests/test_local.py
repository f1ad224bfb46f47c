"""What local disk does of its own: modes, directories, versions, parts, and files opened without a storage."""

import errno
import fcntl
import gc
import importlib.util
import os
import stat
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
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
from flask_storage.multipart import Part
from flask_storage.types import WriteOptions
from tests.descriptors import descriptors

PLAIN = WriteOptions()


@contextmanager
def umask(mask):
    """The process's umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path):
    """The permission bits of a file or a directory."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def disk(tmp_path):
    """A quick storage in an empty directory."""
    return LocalFSStorage(tmp_path / "root", create=True, fsync=False)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o177])
@pytest.mark.parametrize(
    "modes", [{}, {"file_mode": 0o640, "directory_mode": 0o750}, {"file_mode": 0o444, "directory_mode": 0o2775}]
)
def test_modes_are_the_options_whatever_the_umask(mask, modes, tmp_path):
    """Files, their directories, every directory between, and the root with what is above it."""
    with umask(mask):
        storage = LocalFSStorage(tmp_path / "made/root", create=True, fsync=False, **modes)
        storage.write("a/b/c.txt", b"1")
        storage.copy("a/b/c.txt", "d/e/copied.txt")
        storage.write("m.txt", b"2")
        storage.move("m.txt", "f/g/moved.txt")
        with storage.open("a/b/c.txt", "rw") as file:
            file.write(b"3")
        upload_id = storage.multipart.create("h/i/joined.txt", PLAIN)
        hidden = mode(storage.root / f".fs-tmp-{upload_id}" / "upload.json")
        part = storage.multipart.upload_part("h/i/joined.txt", upload_id, 1, b"4")
        storage.multipart.complete("h/i/joined.txt", upload_id, [part], PLAIN)

    below = list(storage.root.rglob("*"))
    assert len([path for path in below if path.is_file()]) == 4
    assert {mode(path) for path in below if path.is_file()} == {modes.get("file_mode", 0o600)}
    assert {mode(path) for path in below if path.is_dir()} == {modes.get("directory_mode", 0o700)}
    assert mode(storage.root) == mode(storage.root.parent) == modes.get("directory_mode", 0o700)
    assert hidden == 0o600


def test_threads_that_write_at_once_never_touch_the_umask(disk):
    """The umask belongs to the whole process: what another thread creates must not change its mode."""
    stop, strays = threading.Event(), set()

    def others(directory):
        while not stop.is_set():
            path = directory / "stray"
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            strays.add(mode(path))
            path.unlink()

    with umask(0o027):
        stray = threading.Thread(target=others, args=(disk.root.parent,))
        stray.start()
        writers = [
            threading.Thread(target=lambda n=n: [disk.write(f"{n}/{turn}/a.txt", b"1") for turn in range(50)])
            for n in range(4)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        stop.set()
        stray.join()

    assert strays == {0o640}
    assert {mode(path) for path in disk.root.rglob("*")} == {0o600, 0o700}


def test_a_folder_that_is_there_keeps_its_mode(disk):
    """Only what is made here gets ours."""
    (disk.root / "theirs").mkdir(mode=0o755)
    (disk.root / "theirs").chmod(0o755)

    disk.write("theirs/a.txt", b"1")

    assert mode(disk.root / "theirs") == 0o755


@pytest.mark.parametrize("root", ["missing", "file", "missing/below"])
def test_a_root_that_is_no_folder_is_refused(root, tmp_path):
    """At once, with what to do."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(LocalFSError, match="create=True"):
        LocalFSStorage(tmp_path / root)

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_root_that_cannot_be_made_is_refused(root, tmp_path):
    """A file is in the way."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(LocalFSError):
        LocalFSStorage(tmp_path / root, create=True)


def test_a_root_may_be_a_link_to_a_folder(tmp_path):
    """The one who configures a root decides where it is; links are refused below it only."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    storage = LocalFSStorage(tmp_path / "link")
    storage.write("a.txt", b"1")

    assert storage.name == "fs-link"
    assert (tmp_path / "real/a.txt").read_bytes() == b"1"
    assert storage.local_path("a.txt") == tmp_path / "real/a.txt"


def test_a_link_to_nowhere_as_a_root_makes_the_folder_it_names(tmp_path):
    """With create=True."""
    (tmp_path / "link").symlink_to("real")

    LocalFSStorage(str(tmp_path / "link"), create=True).write("a.txt", b"1")

    assert (tmp_path / "real/a.txt").read_bytes() == b"1"


def test_two_processes_may_make_one_root_at_once(tmp_path, monkeypatch):
    """Workers start together; the second finds the directory made."""
    really = os.mkdir

    def late(path, *arguments, **keywords):
        really(path, *arguments, **keywords)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "mkdir", late)

    assert LocalFSStorage(tmp_path / "a/b", create=True).list() == []


@pytest.mark.parametrize("url", ["local://{}/my%20root?x", "local:{}/my%20root"])
def test_a_url_names_the_root(url, tmp_path):
    """With escapes, absolute."""
    storage = LocalFSStorage.from_url(urlsplit(url.format(tmp_path)), {"create": True, "name": "docs"})

    assert storage.root == tmp_path / "my root"


def test_a_relative_url_names_a_root_below_the_working_folder(tmp_path, monkeypatch):
    """And stays there when the process goes elsewhere."""
    monkeypatch.chdir(tmp_path)
    storage = LocalFSStorage.from_url(urlsplit("local:uploads"), {"create": True})

    monkeypatch.chdir("/")
    storage.write("a.txt", b"1")

    assert (tmp_path / "uploads/a.txt").exists()


def test_folders_go_with_their_last_file_and_the_root_stays(disk):
    """Object stores have no directories; neither do users see empty ones here."""
    disk.write("a/b/c/1.txt", b"1")
    disk.write("a/2.txt", b"2")

    disk.delete("a/b/c/1.txt")
    after_one = sorted(path.name for path in disk.root.rglob("*"))
    disk.move("a/2.txt", "3.txt")
    after_two = [path.name for path in disk.root.rglob("*")]
    disk.delete("3.txt")
    disk.delete("never/was.txt")

    assert after_one == ["2.txt", "a"]
    assert after_two == ["3.txt"]
    assert list(disk.root.iterdir()) == []


def test_a_discarded_write_takes_its_folders_along(disk):
    """Unless something else is in them."""
    disk.write("a/kept.txt", b"1")

    def write_and_fail():
        with disk.open("a/b/c/d.txt", "w") as writer:
            writer.write(b"1")
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()

    assert [path.name for path in disk.root.rglob("*")] == ["a", "kept.txt"]


def test_a_forgotten_writer_warns_and_leaves_no_file(disk):
    """The garbage collector unlinks the hidden file and publishes nothing."""

    def forget():
        disk.open("a.txt", "w").write(b"1")
        gc.collect()

    with pytest.warns(ResourceWarning, match="nothing was published"):
        forget()

    assert list(disk.root.iterdir()) == []


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_a_writer_inherited_by_a_child_publishes_nothing_there(disk):
    """Closing it in the child neither publishes nor spoils what the parent goes on writing."""
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


def test_each_version_has_an_etag_of_its_own(disk):
    """Also those that are written within one tick of the clock, and have one length."""
    tags = set()

    for number in range(300):
        disk.write("a.txt", b"%03d" % number)
        tags.add(disk.stat("a.txt").etag)

    assert len(tags) == 300


def test_if_match_replaces_the_version_that_was_named_only(disk):
    """For writing, copying and moving; also when it is missing."""
    disk.write("a.txt", b"1")
    disk.write("b.txt", b"2")
    tag = disk.stat("a.txt").etag

    for deed in (
        lambda: disk.write("b.txt", b"new", if_match=tag),
        lambda: disk.write("missing.txt", b"new", if_match=tag),
        lambda: disk.copy("a.txt", "b.txt", if_match=tag),
        lambda: disk.move("a.txt", "b.txt", if_match=tag),
    ):
        with pytest.raises(PreconditionFailedError):
            deed()
    disk.write("a.txt", b"new", if_match=tag)
    disk.move("b.txt", "a.txt", if_match=disk.stat("a.txt").etag)

    assert [(entry.name, disk.read(entry.name)) for entry in disk.list()] == [("a.txt", b"2")]


def test_a_move_onto_another_name_of_the_same_file_removes_the_old_one(disk):
    """The system's own rename does nothing then, and says that all went well."""
    disk.write("a.txt", b"1")
    os.link(disk.root / "a.txt", disk.root / "b.txt")

    disk.move("a.txt", "b.txt")

    assert [entry.name for entry in disk.list()] == ["b.txt"]


def test_exclusive_moves_and_copies_refuse_a_taken_name(disk):
    """Both files stay as they are."""
    disk.write("a.txt", b"1")
    disk.write("d/b.txt", b"2")

    for verb in (disk.copy, disk.move):
        with pytest.raises(FileExistsInStorageError):
            verb("a.txt", "d/b.txt", exclusive=True)
    disk.move("a.txt", "d/c.txt", exclusive=True)

    assert [(entry.name, disk.read(entry.name)) for entry in disk.list()] == [("d/b.txt", b"2"), ("d/c.txt", b"1")]


def test_an_edited_file_keeps_its_headers_and_gets_those_that_are_given(disk):
    """The rest is as it was."""
    disk.write("a.txt", b"1", content_type="text/plain", metadata={"by": "us"})

    with disk.open("a.txt", "rw", content_type="text/html") as file:
        file.write(b"2")

    info = disk.stat("a.txt")
    assert (info.content_type, info.metadata) == ("text/html", {"by": "us"})


def test_a_failed_beginning_of_an_edit_leaves_nothing(disk, monkeypatch):
    """The private copy could not be made: the error is raised and its file is gone, without a warning."""
    disk.write("a.txt", b"1")

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.delattr(os, "copy_file_range")
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(LocalFSError):
        disk.open("a.txt", "rw")

    assert [path.name for path in disk.root.iterdir()] == ["a.txt"]


def test_a_reader_keeps_its_version(disk):
    """Whatever happens to the name."""
    disk.write("a.txt", b"old")

    with disk.open("a.txt", "r") as reader:
        disk.write("a.txt", b"new")
        disk.delete("a.txt")
        content = reader.read()

    assert content == b"old"


def test_a_file_opened_without_a_storage(tmp_path, monkeypatch):
    """The class stands alone too: a local path, with the same all-or-nothing; links may lead to its directory."""
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


def test_folders_are_listed_on_their_own_level(disk):
    """Those with files below them, once each; hidden ones never."""
    disk.write("a/b/c.txt", b"1")
    disk.write("d.txt", b"2")
    disk.multipart.create("e.txt", PLAIN)
    (disk.root / "empty/emptier").mkdir(parents=True)

    assert [entry.name for entry in disk.list(recursive=False)] == ["a/", "d.txt"]
    assert [entry.name for entry in disk.list("a", recursive=False)] == ["a/b/"]
    assert disk.list("missing") == []


def test_a_file_that_goes_while_it_is_listed_is_left_out(disk):
    """Like one that was never there."""
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


def test_a_file_that_goes_while_a_folder_is_deleted_is_not_counted(disk):
    """Somebody else deleted it, and its directory."""
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


def test_the_sweep_takes_what_is_old_and_leaves_what_is_young(disk):
    """A writer at work must not lose its file to somebody's cron job."""
    writer = disk.open("d/young.txt", "w")
    upload_id = disk.multipart.create("big.bin", PLAIN)
    for path in (disk.root / "e/.fs-tmp-0000000000000000", disk.root / ".fs-tmp-1111111111111111"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left over")
        os.utime(path, (0, 0))
    old = disk.root / ".fs-tmp-AAAAAAAAAAAAAAAAAAAAAA"
    old.mkdir()
    (old / "part-00001").write_bytes(b"left over")
    os.utime(old, (0, 0))

    swept = disk.sweep()
    writer.write(b"1")
    writer.close()

    assert swept == 3
    assert [entry.name for entry in disk.list()] == ["d/young.txt"]
    assert [pending.upload_id for pending in disk.multipart.list_uploads()] == [upload_id]
    assert sorted(path.name for path in disk.root.iterdir()) == [f".fs-tmp-{upload_id}", "d"]


def test_a_leftover_that_goes_while_it_is_swept_is_not_counted(disk):
    """Its writer published it in that moment."""
    (disk.root / ".fs-tmp-0000000000000000").write_bytes(b"")
    walk = disk.tree.walk

    def walk_and_delete(*arguments, **keywords):
        for prefix, entry in walk(*arguments, **keywords):
            os.unlink(disk.root / entry.name)
            yield prefix, entry

    disk.tree.walk = walk_and_delete

    assert disk.sweep(timedelta(0)) == 0


@pytest.mark.parametrize("upload_id", ["../../etc", "", "A" * 22, "A" * 21 + "/", ".fs-tmp-"])
def test_an_upload_id_that_is_none_of_ours_finds_nothing(upload_id, disk):
    """It never becomes part of a path."""
    for deed in (
        lambda: disk.multipart.upload_part("a.bin", upload_id, 1, b"1"),
        lambda: disk.multipart.list_parts("a.bin", upload_id),
        lambda: disk.multipart.complete("a.bin", upload_id, [Part(number=1, size=1, etag="x")], PLAIN),
    ):
        with pytest.raises(FileNotFoundInStorageError):
            deed()
    disk.multipart.abort("a.bin", upload_id)


def test_an_upload_belongs_to_its_path(disk):
    """Another path with its id finds nothing."""
    upload_id = disk.multipart.create("a.bin", PLAIN)

    with pytest.raises(FileNotFoundInStorageError):
        disk.multipart.upload_part("b.bin", upload_id, 1, b"1")

    assert disk.multipart.list_parts("a.bin", upload_id) == []


def test_uploads_are_listed_by_folder(disk):
    """What is being begun, or was left by a crash without a note, is none yet."""
    ids = {path: disk.multipart.create(path, PLAIN) for path in ("a/1.bin", "ab/2.bin", "3.bin")}
    (disk.root / ".fs-tmp-BBBBBBBBBBBBBBBBBBBBBB").mkdir()
    disk.write("4.bin", b"1")

    assert {pending.path: pending.upload_id for pending in disk.multipart.list_uploads()} == ids
    assert [pending.path for pending in disk.multipart.list_uploads("a")] == ["a/1.bin"]


def test_a_note_that_cannot_be_read_loses_no_descriptor(disk):
    """Whatever damaged it."""
    upload_id = disk.multipart.create("a.bin", PLAIN)
    (disk.root / f".fs-tmp-{upload_id}" / "upload.json").write_bytes(b"{")
    before = descriptors()

    with pytest.raises(IntegrityError, match="begin anew"):
        disk.multipart.list_parts("a.bin", upload_id)
    assert list(disk.multipart.list_uploads()) == []

    assert descriptors() == before


def test_a_part_is_replaced_and_compared(disk):
    """Only the parts that were named are joined, and only as they were named."""
    upload_id = disk.multipart.create("a.bin", WriteOptions(content_type="text/plain"))
    first = disk.multipart.upload_part("a.bin", upload_id, 1, b"old")
    new = disk.multipart.upload_part("a.bin", upload_id, 1, b"new")
    other = disk.multipart.upload_part("a.bin", upload_id, 2, memoryview(b"er"))
    extra = disk.multipart.upload_part("a.bin", upload_id, 3, b"not wanted")

    with pytest.raises(IntegrityError, match="not the one"):
        disk.multipart.complete("a.bin", upload_id, [first, other], PLAIN)
    (disk.root / f".fs-tmp-{upload_id}" / "part-00003").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        disk.multipart.complete("a.bin", upload_id, [new, extra], PLAIN)
    listed = disk.multipart.list_parts("a.bin", upload_id)
    disk.multipart.complete("a.bin", upload_id, [new, other], PLAIN)

    assert listed == [new, other]
    assert disk.read("a.bin") == b"newer"
    assert disk.stat("a.bin").content_type == "text/plain"
    assert [path.name for path in disk.root.iterdir()] == ["a.bin"]


def test_a_small_upload_goes_in_whole(disk):
    """With its options."""
    disk.multipart.put("a/b.bin", b"12", WriteOptions(content_type="text/plain", size=2))

    with pytest.raises(IntegrityError):
        disk.multipart.put("a/b.bin", b"1", WriteOptions(size=2))

    assert disk.read("a/b.bin") == b"12"
    assert disk.stat("a/b.bin").content_type == "text/plain"


def test_a_part_that_cannot_be_stored_leaves_no_file(disk, monkeypatch):
    """Neither when it is written nor when it is named."""
    upload_id = disk.multipart.create("a.bin", PLAIN)

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("write", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StorageError):
                disk.multipart.upload_part("a.bin", upload_id, 1, b"1")
            with pytest.raises(StorageError):
                disk.multipart.create("b.bin", PLAIN)

    assert os.listdir(disk.root) == [f".fs-tmp-{upload_id}"]
    assert os.listdir(disk.root / f".fs-tmp-{upload_id}") == ["upload.json"]


def test_the_check_leaves_nothing(disk):
    """It writes, reads and deletes."""
    disk.check()

    assert list(disk.root.iterdir()) == []


def test_a_folder_swapped_for_a_link_while_it_is_entered_is_refused(disk, monkeypatch):
    """Between what a listing saw and what it opens."""
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


def test_every_verb_syncs_files_and_folders(tmp_path, monkeypatch):
    """By default nothing is reported done before it is durable."""
    storage = LocalFSStorage(tmp_path)
    really, synced = os.fsync, []

    def fsync(fd):
        synced.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        really(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    told = {}
    for name, deed in {
        "write": lambda: storage.write("a.txt", b"1"),
        "write into a folder": lambda: storage.write("d/a.txt", b"1"),
        "copy": lambda: storage.copy("a.txt", "b.txt"),
        "move": lambda: storage.move("b.txt", "d/b.txt"),
        "delete": lambda: storage.delete("a.txt"),
        "delete_prefix": lambda: storage.delete_prefix("d"),
        "begin an upload": lambda: storage.multipart.create("a.txt", PLAIN),
    }.items():
        synced.clear()
        deed()
        told[name] = list(synced)

    assert told == {
        "write": ["file", "folder"],
        "write into a folder": ["folder", "file", "folder"],
        "copy": ["file", "folder"],
        "move": ["folder", "folder"],
        "delete": ["folder"],
        "delete_prefix": ["folder"],
        "begin an upload": ["folder", "file", "folder"],
    }


def test_an_attribute_on_the_root_itself_does_no_harm(disk):
    """Whoever put it there: the file system has attributes."""
    os.setxattr(disk.root, "user.flask_storage", b"x")

    assert disk.capabilities.metadata


def test_a_folder_that_is_not_ours_to_look_into_is_shown(disk):
    """Whether a file is below it, nobody here can say."""
    disk.write("d/a.txt", b"1")
    walk = disk.tree.walk

    def refuse(path="", **keywords):
        if path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return walk(path, **keywords)

    disk.tree.walk = refuse

    assert [entry.name for entry in disk.list(recursive=False)] == ["d/"]


def test_a_system_without_posix_locks_is_named(monkeypatch):
    """Instead of a missing module that nobody knows."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    shipped = importlib.util.find_spec("flask_storage.backends.local.directory")
    assert shipped
    assert shipped.origin
    spec = importlib.util.spec_from_file_location("flask_storage.backends.disk_again", shipped.origin)
    assert spec
    assert spec.loader

    with pytest.raises(ImportError, match="POSIX"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_note_that_is_no_file_is_refused(disk, in_bounded_time):
    """Whoever put a pipe in its place gets no answer, and nobody waits for one."""
    upload_id = disk.multipart.create("a.bin", PLAIN)
    note = disk.root / f".fs-tmp-{upload_id}" / "upload.json"
    note.unlink()
    os.mkfifo(note)
    before = descriptors()

    with pytest.raises(NotAFileError):
        disk.multipart.list_parts("a.bin", upload_id)

    assert descriptors() == before


def test_two_folders_of_one_name_do_not_accept_each_others_tokens(tmp_path):
    """Both are called fs-uploads; with names of their own they would be told apart by those."""
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


def test_modes_may_be_text_and_nonsense_is_refused(tmp_path):
    """Settings from the environment and from URLs are text."""
    storage = LocalFSStorage(tmp_path / "root", create=True, file_mode="0o640", directory_mode="750")

    storage.write("d/a.txt", b"1")
    with pytest.raises(ConfigurationError, match="is no file_mode"):
        LocalFSStorage(tmp_path / "root", file_mode="rw-r-----")

    assert mode(storage.root / "d") == 0o750
    assert mode(storage.root / "d/a.txt") == 0o640


def test_a_mistake_in_the_program_is_not_called_a_fault_of_the_disk(disk, monkeypatch):
    """Only what the system says is translated."""

    def mistake(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(os, "open", mistake)

    with pytest.raises(RuntimeError, match="a bug"):
        disk.read("a.txt")


def test_a_folder_that_another_process_makes_first_is_used(disk, monkeypatch):
    """Between finding it missing and making it."""
    really = os.mkdir

    def late(name, *arguments, **keywords):
        really(name, *arguments, **keywords)
        return really(name, *arguments, **keywords)

    monkeypatch.setattr(os, "mkdir", late)
    disk.write("d/a.txt", b"1")

    assert disk.read("d/a.txt") == b"1"


def test_an_upload_that_is_discarded_twice_is_gone(disk, monkeypatch):
    """Also when another process removes it at the same moment."""
    upload_id = disk.multipart.create("a.bin", PLAIN)
    hidden = disk.root / f".fs-tmp-{upload_id}"
    really = os.listdir

    def late(directory):
        (hidden / "upload.json").unlink()
        hidden.rmdir()
        return really(directory)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", late)
        disk.multipart.abort("a.bin", upload_id)
    disk.multipart.abort("a.bin", upload_id)

    assert list(disk.root.iterdir()) == []


def test_exclusive_is_refused_where_nothing_could_decide_it(disk, monkeypatch):
    """A file system with neither hard links nor locks would let the later of two writers win."""

    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(UnsupportedOperationError, match="neither hard links nor locks"):
        disk.write("a.txt", b"1", exclusive=True)

    assert disk.list() == []
    assert list(disk.root.iterdir()) == []


@pytest.mark.parametrize("deed", ["write", "move"])
def test_a_name_that_could_not_be_made_durable_is_said_to_be_in_place(tmp_path, monkeypatch, deed):
    """The new content is visible by then, and the text does not deny it."""
    storage = LocalFSStorage(tmp_path)
    storage.write("old.txt", b"1")
    sync = os.fsync

    def fail(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(LocalFSError, match=r"new\.txt is in place, but the disk failed to make it durable"):
        storage.write("new.txt", b"1") if deed == "write" else storage.move("old.txt", "new.txt")

    assert storage.read("new.txt") == b"1"


def test_a_folder_that_is_closed_to_us_is_no_empty_one(disk, monkeypatch):
    """What may be below it nobody knows, so a listing says so instead of leaving it out."""
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


def test_the_systems_folder_is_left_out_where_it_is_closed(disk, monkeypatch):
    """At the top of an ext4 volume stands one that is nobody's."""
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


def test_a_disk_that_is_full_of_names_is_full(tmp_path, monkeypatch):
    """Also when it is the directory's own entry that finds no room."""
    storage = LocalFSStorage(tmp_path)
    sync = os.fsync

    def fail(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(StorageFullError):
        storage.write("new.txt", b"1")
