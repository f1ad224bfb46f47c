"""The remote tree: links are never followed, and what happens to directories, modes and temporary files."""

import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flask_storage import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    InvalidPathError,
    NotAFileError,
    PartialFailureError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    WriteOptions,
)
from flask_storage.backends.sftp.atomic_write import FSYNC, POSIX_RENAME, AtomicWrite
from flask_storage.backends.sftp.protocol import (
    BAD_MESSAGE,
    CLOSE,
    EOF,
    FAILURE,
    FSTAT,
    HARDLINK,
    LSTAT,
    MKDIR,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    OPEN,
    PERMISSION_DENIED,
    READ,
    REALPATH,
    REMOVE,
    RENAME,
    RMDIR,
    SETSTAT,
    STAT,
    Session,
    StatusError,
)
from flask_storage.backends.sftp.remote_tree import RemoteTree
from flask_storage.testing.concurrency import run_concurrently
from tests import crash
from tests.counts import count
from tests.scripted_sftp import (
    ATTRS,
    DIRECTORY,
    EXTENDED,
    FILE,
    RoundTrips,
    attributes,
    handle,
    make_session,
    names,
    response,
    status,
)
from tests.sftp_storages import end_waiting_openers, make_storage, temporary_files, wait_until

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

SECRET = b"not of this storage"
FLIPPER = Path(crash.__file__).with_name("flipper.py")
FILES_ONLY = "is not a regular file"
LINKS = "a symbolic link"


@pytest.fixture(params=["openssh", "plain_sftp"])
def any_storage(request):
    """An empty storage on any_storage server, and its root on this machine."""
    server = request.getfixturevalue(request.param)
    storage = make_storage(server)
    yield storage, server.folder / storage.root
    storage.close()


@pytest.fixture
def openssh_storage(openssh):
    """An empty storage on OpenSSH, and its root on this machine."""
    storage = make_storage(openssh)
    yield storage, openssh.folder / storage.root
    storage.close()


def snapshot(directory):
    """Return every path below *directory* with the attributes that a write changes."""
    stats = {path.relative_to(directory): path.lstat() for path in directory.rglob("*")}
    return {path: (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns) for path, found in stats.items()}


def mode(path):
    """Return the mode of a file or directory."""
    return stat.S_IMODE(os.lstat(path).st_mode)


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["../a.txt", "d/../../a.txt", "..", "d/..", "/../a.txt", "./a.txt", "d//a.txt", "a\0b"]
)
def test_a_path_that_leaves_the_root_is_refused(openssh_storage, path):
    """Before any request is sent."""
    storage, root = openssh_storage
    before = snapshot(root.parent)

    for operation in (
        lambda: storage.read(path),
        lambda: storage.write(path, b"1"),
        lambda: storage.delete(path),
        lambda: storage.copy("a.txt", path),
        lambda: storage.delete_prefix(path),
        lambda: storage.list(path),
    ):
        with pytest.raises(InvalidPathError):
            operation()

    assert snapshot(root.parent) == before


@pytest.fixture
def linked(any_storage, tmp_path):
    """A storage with links to files and directories outside and inside, and to a missing file."""
    storage, root = any_storage
    outside = root.parent / f"{root.name}-outside"  # within the directory that plain_sftp is confined to
    (outside / "sub/empty").mkdir(parents=True)
    for path in ("a.txt", "sub/b.txt"):
        (outside / path).write_bytes(SECRET)
    storage.write("d/ours.txt", b"ours")
    for name, target in (
        ("out", outside),
        ("near", f"../{outside.name}"),
        ("in", "d"),
        ("file", outside / "a.txt"),
        ("own", "d/ours.txt"),
        ("nowhere", outside / "new.txt"),
    ):
        (root / name).symlink_to(target)
    return storage, root, outside


LINKED_PATHS = ["out/a.txt", "near/sub/b.txt", "out/none.txt", "in/none.txt", "file", "own", "in/ours.txt", "nowhere"]
"""Paths through links to directories, and links to files."""


@pytest.mark.parametrize("path", LINKED_PATHS)
def test_reading_through_a_link_is_refused(linked, tmp_path, path):
    """Also a link to a file inside. The error does not say that the file is missing."""
    storage, root, outside = linked
    before = snapshot(outside), snapshot(root)

    for operation in (
        lambda: storage.read(path),
        lambda: storage.get(path, tmp_path / "got"),
        lambda: storage.stat(path),
        lambda: storage.copy(path, "got.txt"),
        lambda: storage.move(path, "got.txt"),
        lambda: storage.open(path, "rw"),
    ):
        # For a server that is confined to a directory, nothing exists outside of it.
        with pytest.raises((PermissionDeniedError, FileNotFoundInStorageError)) as caught:
            operation()
        if "plain" not in str(root):
            assert isinstance(caught.value, PermissionDeniedError)
            assert LINKS in str(caught.value)

    assert (snapshot(outside), snapshot(root)) == before
    assert not (tmp_path / "got").exists()
    assert temporary_files(storage) == []


@pytest.mark.parametrize("directory", ["out", "near", "near/sub", "in", "out/new", "in/new"])
def test_writing_and_deleting_through_a_link_is_refused(linked, directory):
    """No file, no directory and no temporary file is created existing."""
    storage, root, outside = linked
    before = snapshot(outside), snapshot(root)

    def stream():
        with storage.open(f"{directory}/new.txt", "w") as writer:
            writer.write(b"1")

    for operation in (
        lambda: storage.write(f"{directory}/new.txt", b"1"),
        stream,
        lambda: storage.save(f"{directory}/new.txt", b"1"),
        lambda: storage.copy("d/ours.txt", f"{directory}/new.txt"),
        lambda: storage.move("d/ours.txt", f"{directory}/new.txt"),
        lambda: storage.multipart.put(f"{directory}/new.txt", b"1", WriteOptions()),
    ):
        with pytest.raises((PermissionDeniedError, FileNotFoundInStorageError)) as caught:
            operation()
        assert "plain" in str(root) or isinstance(caught.value, PermissionDeniedError)
    for path in (f"{directory}/a.txt", f"{directory}/b.txt", f"{directory}/ours.txt", f"{directory}/none"):
        for delete in (storage.delete, storage.delete_prefix):
            with suppress(PermissionDeniedError, NotAFileError):  # deleting a missing file is no error
                delete(path)

    assert (snapshot(outside), snapshot(root)) == before


@pytest.mark.parametrize("path", ["out/sub/none", "out/sub/empty/none/deep", "near/sub/empty/none", "out/none"])
def test_an_empty_directory_behind_a_link_is_not_removed(linked, path):
    """Deleting a missing file removes its empty parents; through a link, these would be others."""
    storage, _, outside = linked
    shutil.rmtree(outside / "sub")
    (outside / "sub/empty").mkdir(parents=True)

    for operation in (storage.delete_prefix, storage.delete, lambda path: storage.delete_many([path])):
        with suppress(PermissionDeniedError, PartialFailureError):
            operation(path)

    assert (outside / "sub/empty").is_dir()


@pytest.mark.parametrize("name", ["file", "own", "nowhere"])
def test_writing_to_or_deleting_a_link_changes_the_link_only(linked, name):
    """Its target stays as it is."""
    storage, root, outside = linked
    before = snapshot(outside)

    storage.write(name, b"new")
    written = storage.read(name)
    (root / name).unlink()
    (root / name).symlink_to(outside / "a.txt")
    storage.copy("d/ours.txt", name)
    copied = storage.read(name)
    (root / name).unlink()
    (root / name).symlink_to(outside / "a.txt")
    with pytest.raises(FileExistsInStorageError):
        storage.write(name, b"new", exclusive=True)
    storage.delete(name)

    assert (written, copied) == (b"new", b"ours")
    assert not os.path.lexists(root / name)
    assert (snapshot(outside), storage.read("d/ours.txt")) == (before, b"ours")


@contextmanager
def flipping(*names):
    """Let another process swap *names* in pairs until the block ends."""
    with subprocess.Popen([sys.executable, "-S", "-E", str(FLIPPER), *map(str, names)], stdout=-1) as flipper:
        assert flipper.stdout
        assert flipper.stdout.readline() == b"ready\n"
        try:
            yield flipper
        finally:
            flipper.kill()


OPERATIONS = {
    "read": lambda storage: storage.read("d/secret.txt"),
    "read file": lambda storage: storage.read("link.txt"),
    "stat": lambda storage: storage.stat("d/secret.txt").size == len(b"ours"),
    "list": lambda storage: [entry.name for entry in storage.list("d")] or "FileNotFoundInStorageError",
    "write": lambda storage: storage.write("d/secret.txt", b"ours"),
    "delete": lambda storage: storage.delete("d/theirs.txt"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_directory_that_is_swapped_with_a_link_is_used_or_refused(openssh_storage, tmp_path, operation):
    """Nothing else is read or changed, and the operation succeeds or ends with a documented error."""
    storage, root = openssh_storage
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("secret.txt", "theirs.txt"):
        (outside / name).write_bytes(SECRET)
    storage.write("d/secret.txt", b"ours")
    storage.write("link.txt", b"ours")
    expected = str(OPERATIONS[operation](storage))
    (root / "d2").symlink_to(outside)
    (root / "link2").symlink_to(outside / "secret.txt")
    before = snapshot(outside)
    outcomes = set()

    with flipping(root / "d", root / "d2", root / "link.txt", root / "link2"):
        for _ in range(count(40, 2000)):
            try:
                outcomes.add(str(OPERATIONS[operation](storage)))
            except StorageError as error:
                outcomes.add(type(error).__name__)

    # A path through a directory that is swapped at this moment leads nowhere.
    errors = {"PermissionDeniedError", "FileNotFoundInStorageError", "StorageUnavailableError"}
    assert outcomes <= {expected} | errors | ({"StorageError"} if operation == "write" else set())
    assert snapshot(outside) == before


@pytest.fixture
def before_open(monkeypatch):
    """Returns a function that lets another process act once after a file was checked and before it is opened."""

    def set_action(action):
        actions, session_open = [action], Session.open

        def acting_open(session, path, flags, mode=None):
            if actions:
                for pending in list(session._pending.values()):
                    with suppress(StatusError):
                        session.wait(pending)
                actions.pop()()
            return session_open(session, path, flags, mode)

        monkeypatch.setattr(Session, "open", acting_open)

    return set_action


@pytest.mark.parametrize("kind", ["directory", "file", "twin"])
def test_a_link_that_appears_before_a_file_is_opened_is_detected(any_storage, tmp_path, before_open, kind):
    """Also if a file of the same attributes is behind it: the path is checked again before anything is read."""
    storage, root = any_storage
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    storage.write("d/a.txt", b"ours")
    found = (root / "d/a.txt").stat()
    (outside / "a.txt").write_bytes(b"else" if kind == "twin" else SECRET)
    (outside / "a.txt").chmod(found.st_mode)
    os.utime(outside / "a.txt", (found.st_atime, found.st_mtime))

    def replace():
        path = root / ("d" if kind == "directory" else "d/a.txt")
        path.rename(root / "e")
        path.symlink_to(os.path.relpath(outside if kind == "directory" else outside / "a.txt", path.parent))

    before_open(replace)
    with pytest.raises((PermissionDeniedError, FileNotFoundInStorageError)) as caught:
        storage.read("d/a.txt")

    if "plain" not in str(root):  # for a server that is confined to a directory, nothing exists outside of it
        assert isinstance(caught.value, PermissionDeniedError)


def test_a_file_that_is_deleted_before_it_is_opened_is_not_found(any_storage, before_open):
    """It existed when it was checked."""
    storage, root = any_storage
    storage.write("d/a.txt", b"1")
    before_open((root / "d/a.txt").unlink)

    with pytest.raises(FileNotFoundInStorageError):
        storage.read("d/a.txt")


def test_a_file_that_is_replaced_before_it_is_opened_is_read(any_storage, before_open):
    """The new version, whose attributes are returned with it."""
    storage, root = any_storage
    storage.write("a.txt", b"old")

    def replace():
        (root / "b.txt").write_bytes(b"the new one")
        (root / "b.txt").rename(root / "a.txt")

    before_open(replace)
    with storage.open("a.txt", "r") as reader:
        assert (reader.info.size, reader.read()) == (11, b"the new one")


def test_a_file_that_grows_while_it_is_opened_is_read(any_storage, before_open):
    """It is still the file that was checked, as a second look at its path shows; it is not opened again."""
    storage, root = any_storage
    storage.write("a.txt", b"old")

    def grow():
        with (root / "a.txt").open("ab") as file:
            file.write(b" and new")

    before_open(grow)
    assert storage.read("a.txt") == b"old and new"


def test_a_directory_of_a_deleted_file_may_vanish_while_it_is_opened(openssh_storage, monkeypatch):
    """The open file stays readable."""
    storage, root = openssh_storage
    storage.write("d/a.txt", b"1")
    request = Session.request

    def deleting_request(session, kind, *fields):
        if kind == FSTAT and (root / "d").exists():
            shutil.rmtree(root / "d")
        return request(session, kind, *fields)

    monkeypatch.setattr(Session, "request", deleting_request)

    assert storage.read("d/a.txt") == b"1"


def test_a_link_that_vanishes_while_it_is_resolved_is_no_invalid_path():
    """OpenSSH reports it as it reports a name that is too long."""
    atomic_write, session, _ = failing_server({REALPATH: BAD_MESSAGE}, existing=[b"/r/d/a.txt"])

    for operation in (
        lambda: atomic_write.tree.open_file(session, "d/a.txt"),
        lambda: atomic_write.tree.stat(session, "d/a.txt"),
        lambda: atomic_write.create(session, "d/a.txt"),
    ):
        session.broken = False
        with pytest.raises(PermissionDeniedError, match=LINKS):
            operation()


@pytest.mark.parametrize("target", ["outside", "outside/d"])
def test_a_checked_directory_that_is_replaced_with_a_link_is_refused_for_writes(openssh_storage, tmp_path, target):
    """Its check and the creation of a file are one round trip: nothing stays where the link leads."""
    storage, root = openssh_storage
    storage.write("d/a.txt", b"1")
    (root / "d").rename(root / "e")
    (tmp_path / "outside/d").mkdir(parents=True)
    (root / "d").symlink_to(tmp_path / target)

    for _ in range(2):
        with pytest.raises(PermissionDeniedError, match=LINKS):
            storage.write("d/b.txt", b"2")

    assert [path.name for path in (tmp_path / "outside").rglob("*")] == ["d"]
    assert sorted(os.listdir(root)) == ["d", "e"]


def test_small_files_take_two_round_trips_to_read_and_three_to_write(openssh_storage, monkeypatch):
    """Once the session has written to the directory."""
    storage, _ = openssh_storage
    storage.write("d/a.txt", b"1")
    round_trips = RoundTrips(monkeypatch)

    storage.write("d/a.txt", b"22")
    assert round_trips.count == 3
    assert storage.read("d/a.txt") == b"22"
    assert round_trips.count == 5


# -- special files ----------------------------------------------------------------------------------------------------


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as unix_socket:
        unix_socket.bind(str(path))


@pytest.mark.parametrize("make", [_pipe, _socket], ids=["pipe", "socket"])
def test_pipes_and_sockets_are_refused(openssh_storage, in_bounded_time, make):
    """Also through a link. Opening a pipe holds a process of the server, which happens at most once for a storage."""
    storage, root = openssh_storage
    short = Path("/tmp") / f"node-{root.name[-8:]}"  # the path of a socket is at most 107 bytes long
    make(short)
    short.rename(root / "odd")
    make(short)
    short.rename(root / "other")
    (root / "link").symlink_to("other")
    storage.write("d/a.txt", b"1")

    for operation in (
        storage.read,
        storage.stat,
        lambda path: storage.copy(path, "b.txt"),
        lambda path: storage.open(path, "r"),
    ):
        with pytest.raises(NotAFileError, match=FILES_ONLY):
            operation("odd")
        with pytest.raises(PermissionDeniedError, match=LINKS):
            operation("link")
        assert storage.read("d/a.txt") == b"1"
        if make is _pipe and operation == storage.read:
            wait_until(lambda: end_waiting_openers(root / "odd"))
            wait_until(lambda: not end_waiting_openers(root / "odd"))  # the process has ended
        assert not end_waiting_openers(root / "odd")
    assert not end_waiting_openers(root / "other")

    assert [entry.name for entry in storage.list()] == ["d/a.txt"]
    storage.write("odd", b"a file")
    storage.delete("other")
    assert storage.read("odd") == b"a file"
    assert not (root / "other").exists()


def test_a_device_cannot_be_read(openssh):
    """It has no end."""
    with closing(make_storage(openssh, root="/dev")) as storage:
        for operation in (storage.read, storage.stat):
            with pytest.raises(NotAFileError, match=FILES_ONLY):
                operation("zero")


def test_a_directory_is_not_a_file_and_a_file_is_not_a_directory(any_storage):
    """Whatever status the server sends."""
    storage, root = any_storage
    storage.write("d/a.txt", b"1")

    for operation in (storage.read, storage.stat, lambda path: storage.open(path, "rw")):
        for path in ("d", "d/a.txt/below", "d/a.txt/far/below"):
            with pytest.raises(FileNotFoundInStorageError):
                operation(path)
    for operation in (
        lambda: storage.write("d", b"2"),
        lambda: storage.write("d/a.txt/below", b"2"),
        lambda: storage.write("d/a.txt/far/below", b"2"),
        lambda: storage.copy("d/a.txt", "d"),
        lambda: storage.delete("d"),
    ):
        with pytest.raises(NotAFileError):
            operation()
    storage.delete("d/a.txt/below")

    assert storage.read("d/a.txt") == b"1"
    assert temporary_files(storage) == []
    assert sorted(os.listdir(root)) == ["d"]


# -- the root ---------------------------------------------------------------------------------------------------------


def test_the_root_may_be_a_link_and_contain_dots(openssh):
    """Its administrator decides where the root is; links are refused below it only."""
    (openssh.folder / "real").mkdir(exist_ok=True)
    if not (openssh.folder / "link").is_symlink():
        (openssh.folder / "link").symlink_to("real")

    for root in ("link", "./link/", "real/../link", str(openssh.folder / "link"), "real//"):
        with closing(make_storage(openssh, root=root)) as storage:
            storage.write("d/a.txt", root.encode())
            assert [entry.name for entry in storage.list()] == ["d/a.txt"]
        assert (openssh.folder / "real/d/a.txt").read_text() == root


def test_the_root_directory_of_the_server_can_be_the_root(openssh):
    """Paths on the server begin with one slash then."""
    with closing(make_storage(openssh, root="/")) as storage:
        path = str(openssh.folder).lstrip("/") + "/slash/a.txt"
        storage.write(path, b"1")

        assert (openssh.folder / "slash/a.txt").read_bytes() == b"1"
        assert [entry.name for entry in storage.list(os.path.dirname(path))] == [path]
        storage.delete(path)
    assert not (openssh.folder / "slash").exists()


def test_an_empty_root_is_not_removed(any_storage):
    """Other directories are removed with their last file."""
    storage, root = any_storage
    storage.write("a/b/c.txt", b"1")
    storage.write("d.txt", b"1")

    storage.delete("a/b/c.txt")
    storage.delete("d.txt")

    assert os.listdir(root) == []


@pytest.fixture
def chroot_server(request, openssh):
    """A server that is confined to one directory, and the directory: OpenSSH's if we are root, another one if not."""
    if os.getuid() != 0:
        server = request.getfixturevalue("plain_sftp")
        yield server, server.folder
        return
    directory = Path(tempfile.mkdtemp(dir="/run"))  # only root may write to its parents
    directory.chmod(0o755)
    server = type(openssh)(f"ChrootDirectory {directory}", arguments="-d /")
    yield server, directory
    server.remove()
    shutil.rmtree(directory)


def test_a_server_with_a_chroot_works(chroot_server):
    """Its paths begin in that directory, and nothing else exists."""
    server, directory = chroot_server
    (directory / "files/d").mkdir(parents=True)
    (directory / "files/d/link").symlink_to("/etc/passwd")
    (directory / "files/d/up").symlink_to("../../..")

    for root in ("/files", "files", "."):
        with closing(make_storage(server, root=root)) as storage:
            prefix = "files/" if root == "." else ""
            storage.write(f"{prefix}d/e/a.txt", b"1")
            storage.copy(f"{prefix}d/e/a.txt", f"{prefix}d/e/b.txt")
            assert sorted(os.listdir(directory / "files/d/e")) == ["a.txt", "b.txt"]
            assert [entry.name for entry in storage.list()] == [f"{prefix}d/e/a.txt", f"{prefix}d/e/b.txt"]
            for path in ("d/link", "d/up/etc/passwd", "d/up/files/d/e/a.txt"):
                with pytest.raises((PermissionDeniedError, FileNotFoundInStorageError)):
                    storage.read(prefix + path)
            assert storage.delete_prefix(f"{prefix}d/e") == 2
    shutil.rmtree(directory / "files")


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", ["000", "027", "077"])
def test_modes_are_set_regardless_of_the_umask_of_the_server(make_openssh, umask):
    """For files of every kind of write, and for every new directory."""
    server = make_openssh(arguments=f"-u {umask}")

    for file_mode, directory_mode in ((0o600, 0o700), (0o664, 0o775), (0o640, 0o750)):
        with closing(make_storage(server, file_mode=file_mode, directory_mode=directory_mode)) as storage:
            root = server.folder / storage.root
            storage.write("a/b/c.txt", b"1")
            storage.copy("a/b/c.txt", "d/e/c.txt")
            with storage.open("a/b/f.txt", "w") as writer:
                writer.write(b"2")
            with storage.open("a/b/f.txt", "rw") as file:
                file.write(b"3")

            for directory in ("a", "a/b", "d", "d/e"):
                assert mode(root / directory) == directory_mode, directory
            for path in ("a/b/c.txt", "d/e/c.txt", "a/b/f.txt"):
                assert mode(root / path) == file_mode, path


def test_modes_that_are_left_to_the_server_are_those_of_its_umask(make_openssh):
    """Also on a server that refuses to change modes, as a network mount there does."""
    server = make_openssh(arguments="-u 027 -P setstat,fsetstat")

    with closing(make_storage(server, file_mode=None, directory_mode="none")) as storage:
        root = server.folder / storage.root
        storage.write("a/b.txt", b"1")
        storage.copy("a/b.txt", "c.txt")

        assert (mode(root / "a"), mode(root / "a/b.txt"), mode(root / "c.txt")) == (0o750, 0o640, 0o640)


@pytest.mark.parametrize("setting", ["file_mode", "directory_mode"])
def test_a_refused_mode_names_the_setting(make_openssh, setting):
    """Nothing remains of the write; a mode that the file has anyway is no error."""
    server = make_openssh(arguments="-u 027 -P setstat,fsetstat")
    modes: dict[str, Any] = {setting: 0o770}

    with closing(make_storage(server, **modes)) as storage:
        with pytest.raises(PermissionDeniedError, match=f"cannot be set to 0o770: .*; pass {setting}=None"):
            storage.write("a/b/c.txt", b"1")

        assert list((server.folder / storage.root).iterdir()) == []
    with closing(make_storage(server, directory_mode=0o750)) as storage:
        storage.write("a/b.txt", b"1")


def test_existing_directories_keep_their_mode(openssh_storage):
    """Only new directories get the mode of the profile."""
    storage, root = openssh_storage
    (root / "theirs").mkdir()
    (root / "theirs").chmod(0o711)

    storage.write("theirs/ours/a.txt", b"1")

    assert (mode(root / "theirs"), mode(root / "theirs/ours")) == (0o711, 0o700)


# -- race conditions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["openssh", "plain_sftp"])
def test_a_directory_that_is_removed_concurrently_is_created_again(request, server):
    """Deleting the last file of a directory removes it, while another thread writes to it: no write fails."""
    with closing(make_storage(request.getfixturevalue(server))) as storage:

        def churn(number):
            for turn in range(count(15, 300)):
                path = f"a/b/c/{number}.txt" if turn % 2 else f"a/b/{number}.txt"
                storage.write(path, b"1")
                if turn % 3 == 0:
                    storage.move(path, f"x/y/{number}.txt")
                    storage.list("x")
                    path = f"x/y/{number}.txt"
                storage.delete(path)
                if turn % 5 == 0:
                    storage.list(recursive=False)
                    storage.delete_prefix("nowhere/at/all")

        run_concurrently(churn, 6)

        assert os.listdir(request.getfixturevalue(server).folder / storage.root) == []


def test_a_directory_can_be_deleted_by_several_threads_at_once(openssh_storage):
    """Each file is counted once, and no thread raises an error."""
    storage, root = openssh_storage

    for _ in range(count(5, 50)):
        for number in range(150):
            (root / f"d/{number % 7}").mkdir(parents=True, exist_ok=True)
            (root / f"d/{number % 7}/{number}.txt").touch()
        deleted = run_concurrently(lambda _: storage.delete_prefix("d"), 4)
        assert (sum(deleted), os.listdir(root)) == (150, [])


def test_a_directory_that_is_always_removed_raises_an_error(openssh_storage, monkeypatch):
    """The number of retries is limited."""
    storage, _ = openssh_storage
    monkeypatch.setattr(type(storage._tree), "make_directories", lambda *_: None)

    storage.write("a.txt", b"1")
    for operation in (lambda: storage.write("d/a.txt", b"1"), lambda: storage.move("a.txt", "d/a.txt")):
        with pytest.raises(StorageError, match="another process deletes the directory repeatedly"):
            operation()

    assert [entry.name for entry in storage.list()] == ["a.txt"]


@pytest.mark.parametrize("target_exists", [False, True])
def test_moving_a_file_that_is_deleted_concurrently_raises_not_found(any_storage, monkeypatch, target_exists):
    """The error names the source, and a file at the target stays."""
    storage, root = any_storage
    storage.write("a.txt", b"1")
    if target_exists:
        storage.write("d/b.txt", b"2")
    publish = type(storage._atomic_write).publish

    def deleting_publish(*arguments):
        (root / "a.txt").unlink(missing_ok=True)
        publish(*arguments)

    monkeypatch.setattr(type(storage._atomic_write), "publish", deleting_publish)
    with pytest.raises(FileNotFoundInStorageError) as caught:
        storage.move("a.txt", "d/b.txt")

    assert caught.value.path == "a.txt"
    assert [storage.read(entry.name) for entry in storage.list()] == [b"2"] * target_exists


def test_sweep_keeps_new_temporary_files(openssh_storage):
    """Directories that were made for the removed ones are removed too."""
    storage, root = openssh_storage
    (root / "d").mkdir()
    for name in ("d/.fs-tmp-0123456789abcdef", ".fs-tmp-fedcba9876543210"):
        (root / name).touch()
    os.utime(root / "d/.fs-tmp-0123456789abcdef", (0, 0))

    assert storage.sweep(older_than=timedelta(hours=1)) == 1
    assert os.listdir(root) == [".fs-tmp-fedcba9876543210"]


# -- scripted servers -------------------------------------------------------------------------------------------------


def failing_server(statuses, *extensions, existing=()):
    """Return an AtomicWrite, a session and its channel, for a server that answers some requests with a status.

    Args:
        statuses: Status codes by type of request, or by name of an extension; every other request succeeds.
        extensions: The names of its extensions.
        existing: The paths of its files; temporary files always exist.
    """

    def script(request):
        text = request.texts[0]
        if (code := statuses.get(text if request.kind == EXTENDED else request.kind)) is not None:
            return status(request, code)
        if request.kind == REALPATH:
            return names(request, (text, attributes(DIRECTORY)))
        if request.kind in (LSTAT, STAT):
            modes = {b"r": DIRECTORY, b"/r/d": DIRECTORY, **dict.fromkeys(existing, FILE)}
            mode = FILE if b"/.fs-" in text else modes.get(text)
            return status(request, NO_SUCH_FILE) if mode is None else response(request, ATTRS, attributes(mode))
        if request.kind == FSTAT:
            return response(request, ATTRS, statuses.get("attributes", attributes(size=statuses.get("size", 1))))
        return handle(request) if request.kind == OPEN else status(request, 0)

    session, channel = make_session(script, extensions=extensions)
    session.root = b"/r"
    tree = RemoteTree("r", directory_mode=0o750, storage="sftp")
    return AtomicWrite(tree, file_mode=0o640, sync=True), session, channel


def commit(server, path="a.txt", *, exclusive=False):
    """Write a file of one byte, and return the types of the requests of the commit."""
    atomic_write, session, channel = server
    temporary, opened = atomic_write.create(session, path)
    channel.requests.clear()
    atomic_write.commit(session, opened, 1, temporary, path, WriteOptions(exclusive=exclusive))
    return [request.kind for request in channel.requests]


def test_a_server_that_loses_bytes_is_reported():
    """It had confirmed that all bytes had arrived."""
    with pytest.raises(StorageFullError, match="stored 0 of 1 bytes"):
        commit(failing_server({"size": 0}))


def test_a_commit_renames_in_one_request_if_the_server_supports_it():
    """The rename comes after mode, fsync and close."""
    existing = {"existing": [b"/r/a.txt"]}

    assert commit(failing_server({}, POSIX_RENAME, FSYNC))[-1] == EXTENDED
    assert commit(failing_server({}))[-1] == RENAME
    assert commit(failing_server({}, HARDLINK), exclusive=True)[-2:] == [EXTENDED, REMOVE]
    with pytest.raises(StatusError):
        commit(failing_server({RENAME: FAILURE}, **existing))
    with pytest.raises(FileExistsInStorageError):
        commit(failing_server({HARDLINK: FAILURE}, HARDLINK, **existing), exclusive=True)
    with pytest.raises(FileExistsInStorageError):
        commit(failing_server({RENAME: FAILURE}, **existing), exclusive=True)


@pytest.mark.parametrize("code", [FAILURE, OP_UNSUPPORTED, PERMISSION_DENIED])
def test_without_hard_links_an_exclusive_commit_renames(code):
    """Some file systems have no hard links."""
    assert commit(failing_server({HARDLINK: code}, HARDLINK), exclusive=True)[-1] == RENAME


def test_a_temporary_file_that_stays_after_the_commit_is_not_an_error():
    """The file is published, so the write has succeeded."""
    assert commit(failing_server({REMOVE: FAILURE}, HARDLINK), exclusive=True)[-1] == REMOVE


@pytest.mark.parametrize(
    ("statuses", "extensions", "exclusive"),
    [
        ({RENAME: FAILURE}, (), False),
        ({RENAME: FAILURE}, (), True),
        ({RENAME: NO_SUCH_FILE}, (), True),
        ({HARDLINK: PERMISSION_DENIED, RENAME: PERMISSION_DENIED}, (HARDLINK,), True),
        ({POSIX_RENAME: FAILURE}, (POSIX_RENAME,), False),
        ({FSYNC: FAILURE}, (FSYNC,), False),
        ({CLOSE: FAILURE}, (), False),
    ],
)
def test_a_failed_commit_raises_the_status_of_the_server(statuses, extensions, exclusive):
    """Whatever is requested after it."""
    with pytest.raises(StatusError) as caught:
        commit(failing_server(statuses, *extensions), exclusive=exclusive)

    assert {caught.value.code} == {*statuses.values()}


def test_a_move_that_the_server_refuses_raises_an_error(make_openssh):
    """The file stays at its old path."""
    server = make_openssh(arguments="-P rename")
    with closing(make_storage(server)) as storage:
        storage.write("a.txt", b"1")
        with pytest.raises(StorageError, match="denies this user access"):
            storage.move("a.txt", "b.txt", exclusive=True)

        assert storage.read("a.txt") == b"1"
        assert not storage.exists("b.txt")


@pytest.mark.parametrize("extensions", [(), (POSIX_RENAME, HARDLINK)], ids=["plain", "extensions"])
@pytest.mark.parametrize(("path", "new_path"), [("Photo.JPG", "photo.jpg"), ("Dir/x", "dir/x"), ("ÄÖ", "äö")])
def test_a_move_that_changes_only_the_case_keeps_the_file_on_a_server_that_ignores_case(path, new_path, extensions):
    """Whether its plain rename replaces a file or, as OpenSSH's, refuses because the target exists."""
    names_by_key = {b"/r": b"/r", b"/r/dir": b"/r/Dir", f"/r/{path}".lower().encode(): f"/r/{path}".encode()}

    def key(name):
        return os.path.normpath(name.decode().lower()).encode()

    def script(request):
        fields = request.texts[1:] if request.kind == EXTENDED else request.texts
        if request.kind == REALPATH:
            return names(request, (fields[0], attributes(DIRECTORY)))
        if key(fields[0]) not in names_by_key:
            return status(request, NO_SUCH_FILE)
        if request.kind in (LSTAT, STAT):
            return response(request, ATTRS, attributes(DIRECTORY if key(fields[0]) in (b"/r", b"/r/dir") else FILE))
        if request.kind == RENAME and key(fields[1]) in names_by_key:
            return status(request, FAILURE)
        if request.kind in (RENAME, EXTENDED):
            del names_by_key[key(fields[0])]
            names_by_key[key(fields[1])] = os.path.normpath(fields[1])
        if request.kind == REMOVE:
            del names_by_key[key(fields[0])]
        return status(request, FAILURE if request.kind == RMDIR else 0)

    session, _ = make_session(script, extensions=extensions)
    atomic_write = AtomicWrite(RemoteTree("/r", directory_mode=0o700, storage="sftp"), file_mode=0o600, sync=True)
    found = atomic_write.tree.stat(session, path)

    atomic_write.move(session, path, found, new_path, WriteOptions())
    atomic_write.tree.remove_empty_parents(session, os.path.dirname(path))

    assert [name for name in names_by_key.values() if name not in (b"/r", b"/r/Dir")] == [f"/r/{new_path}".encode()]


def test_a_refused_rename_keeps_the_old_file():
    """On servers whose rename does not replace files."""
    server = failing_server({RENAME: PERMISSION_DENIED}, existing=[b"/r/a.txt"])

    with pytest.raises(StatusError) as caught:
        commit(server)

    assert caught.value.code == PERMISSION_DENIED
    assert REMOVE not in [request.kind for request in server[2].requests]


@pytest.mark.parametrize("extensions", [(), (POSIX_RENAME,)])
def test_a_commit_to_a_directory_is_refused(extensions):
    """The directory stays."""
    server = failing_server({RENAME: FAILURE, POSIX_RENAME: FAILURE}, *extensions)

    with pytest.raises(NotAFileError, match="d cannot be written: a directory has this path"):
        commit(server, "d")

    assert REMOVE not in [request.kind for request in server[2].requests]


@pytest.mark.parametrize("kind", [OPEN, LSTAT, MKDIR, REALPATH])
def test_a_refusal_to_create_a_directory_is_reported(kind):
    """It is not retried."""
    atomic_write, session, channel = failing_server({kind: PERMISSION_DENIED})

    with pytest.raises(StatusError) as caught:
        atomic_write.create(session, "new/a.txt") if kind in (OPEN, REALPATH) else atomic_write.tree.make_directories(
            session, "new"
        )

    assert caught.value.code == PERMISSION_DENIED
    assert len(channel.requests) < 10


def test_a_temporary_file_that_cannot_be_created_is_reported():
    """After it was checked that its directory is not a file."""
    atomic_write, session, channel = failing_server({OPEN: FAILURE})

    with pytest.raises(StatusError):
        atomic_write.create(session, "d/a.txt")

    assert [request.kind for request in channel.requests] == [REALPATH, OPEN, REALPATH, LSTAT]


def test_a_directory_whose_mode_cannot_be_set_is_ignored():
    """Another process may have removed it."""
    atomic_write, session, channel = failing_server({SETSTAT: NO_SUCH_FILE})

    atomic_write.tree.make_directories(session, "new/deep")

    assert [request.kind for request in channel.requests].count(SETSTAT) == 2


@pytest.mark.parametrize(("code", "error_type"), [(NO_SUCH_FILE, None), (PERMISSION_DENIED, StatusError)])
def test_deleting_a_file_that_was_deleted_concurrently_succeeds(code, error_type):
    """One that may not be deleted is an error."""
    atomic_write, session, _ = failing_server({REMOVE: code}, existing=[b"/r/a.txt"])

    with pytest.raises(error_type) if error_type else nullcontext():
        atomic_write.tree.remove(session, "a.txt")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (attributes(DIRECTORY), "replaced by another process each time"),
        (attributes(FILE, mtime=2), "replaced by another process each time"),
        (struct.pack(">II", 4, FILE), "does not report the sizes of files"),
    ],
    ids=["directory", "another file", "no size"],
)
def test_an_open_file_must_be_the_one_that_was_checked_and_have_a_size(found, text):
    """The number of retries is limited."""
    atomic_write, session, channel = failing_server({"attributes": found}, existing=[b"/r/a.txt"])

    with pytest.raises(StorageError, match=text):
        atomic_write.tree.open_file(session, "a.txt")

    session.flush()
    assert channel.requests[-1].kind == CLOSE


def test_a_failure_to_open_a_file_is_not_reported_as_missing():
    """The status of the server is raised."""
    atomic_write, session, _ = failing_server({OPEN: FAILURE}, existing=[b"/r/a.txt"])

    with pytest.raises(StatusError) as caught:
        atomic_write.tree.open_file(session, "a.txt")

    assert caught.value.code == FAILURE


def test_a_file_that_exists_and_cannot_be_found_is_unavailable():
    """The number of retries is limited."""
    atomic_write, session, _ = failing_server({OPEN: NO_SUCH_FILE}, existing=[b"/r/a.txt"])

    with pytest.raises(StorageUnavailableError, match="replaced by another process each time"):
        atomic_write.tree.open_file(session, "a.txt")


def test_a_directory_that_cannot_be_resolved_is_not_asked_for_again_and_again():
    """The number of retries is limited."""
    atomic_write, session, channel = failing_server({REALPATH: NO_SUCH_FILE})

    with pytest.raises(StatusError):
        atomic_write.tree.make_directories(session, "d")

    assert len(channel.requests) < 100


def test_a_session_remembers_a_limited_number_of_directories(monkeypatch):
    """A process may run for months."""
    monkeypatch.setattr("flask_storage.backends.sftp.remote_tree._MAX_CHECKED_DIRECTORIES", 2)
    atomic_write, session, _ = failing_server({})

    for number in range(5):
        atomic_write.create(session, f"{number}/a.txt")

    assert session.checked_directories == {"4"}


@pytest.mark.parametrize("length", [10, 200])
def test_a_long_path_is_sent_once(length):
    """Some systems resolve paths of up to 1023 bytes."""
    atomic_write, session, _ = failing_server({}, HARDLINK)
    directory = "/".join("d" * length for _ in range(3))

    sent = atomic_write.tree.remote_path(session, f"{directory}/a.txt")

    plain = f"/r/{directory}/a.txt".encode()
    assert sent == (plain if length == 200 else f"/r/{directory}/../../../{directory}/a.txt".encode())


def test_a_temporary_file_that_cannot_be_checked_is_not_published():
    """The error does not say that it was swept."""
    server = failing_server({LSTAT: FAILURE}, POSIX_RENAME)

    with pytest.raises(StatusError) as caught:
        commit(server)

    assert caught.value.code == FAILURE
    assert POSIX_RENAME not in [request.texts[0] for request in server[2].requests if request.kind == EXTENDED]


def test_a_full_disk_is_reported_when_a_directory_is_created(monkeypatch):
    """Not as a race condition with another process."""
    monkeypatch.setattr("flask_storage.backends.sftp.remote_tree.write_error", lambda *_: StorageFullError("full"))
    atomic_write, session, _ = failing_server({MKDIR: FAILURE})

    with pytest.raises(StorageFullError):
        atomic_write.tree.make_directories(session, "new")


@pytest.mark.parametrize("code", [EOF, FAILURE])
def test_opening_a_file_returns_its_first_bytes(code):
    """An empty file has none; if they cannot be read, the file is closed."""
    atomic_write, session, channel = failing_server({READ: code}, existing=[b"/r/a.txt"])

    if code == EOF:
        assert atomic_write.tree.open_file(session, "a.txt", first=100)[2] == b""
        return
    with pytest.raises(StatusError):
        atomic_write.tree.open_file(session, "a.txt", first=100)
    session.flush()
    assert channel.requests[-1].kind == CLOSE


def test_many_files_are_deleted_in_few_round_trips(openssh_storage, monkeypatch):
    """Also in many directories, which are removed too; a file that cannot be deleted does not prevent the others."""
    storage, root = openssh_storage
    for number in range(200):
        (root / f"d{number % 50}/e").mkdir(parents=True, exist_ok=True)
        (root / f"d{number % 50}/e/{number}.txt").touch()
    paths = [f"d{number % 50}/e/{number}.txt" for number in range(200)]
    round_trips = RoundTrips(monkeypatch)

    with pytest.raises(PartialFailureError) as caught:
        storage.delete_many(["d1/e", *paths, "none.txt"])

    assert list(caught.value.errors) == ["d1/e"]
    assert round_trips.requests > 600
    assert round_trips.count < 30
    assert os.listdir(root) == []
