"""The door to a folder of an SFTP server: nobody gets where links lead, and what becomes of folders and modes."""

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
    WriteOptions,
)
from flask_storage.backends.sftp.atomic_write import FSYNC, HARDLINK, POSIX_RENAME, AtomicWrite
from flask_storage.backends.sftp.protocol import (
    CLOSE,
    EOF,
    FAILURE,
    FSETSTAT,
    FSTAT,
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
    SETSTAT,
    STAT,
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
from tests.sftp_storages import make_storage, temporary_files

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

SECRET = b"not of this storage"
FLIPPER = Path(crash.__file__).with_name("flipper.py")
FILES_ONLY = "is no regular file"
LINKS = "a symbolic link"


@pytest.fixture(params=["openssh", "plain_sftp"])
def either(request):
    """An empty storage on either server, and where it is on this machine."""
    server = request.getfixturevalue(request.param)
    storage = make_storage(server)
    yield storage, server.folder / storage.root
    storage.close()


@pytest.fixture
def openssh_storage(openssh):
    """An empty storage on OpenSSH, and where it is on this machine."""
    storage = make_storage(openssh)
    yield storage, openssh.folder / storage.root
    storage.close()


def snapshot(folder):
    """Every name below *folder* with what changes when somebody writes there."""
    seen = {path.relative_to(folder): path.lstat() for path in folder.rglob("*")}
    return {name: (about.st_ino, about.st_mode, about.st_size, about.st_mtime_ns) for name, about in seen.items()}


def mode(path):
    """The mode of a file or folder."""
    return stat.S_IMODE(os.lstat(path).st_mode)


# -- ways out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["../a.txt", "d/../../a.txt", "..", "d/..", "/../a.txt", "./a.txt", "d//a.txt", "a\0b"]
)
def test_no_path_leads_out(openssh_storage, path):
    """It is refused before the server hears of it."""
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
def linked(either, tmp_path):
    """A storage with links to files and folders outside and inside, and to nowhere; outside, there is a snapshot."""
    storage, root = either
    outside = root.parent / f"{root.name}-outside"  # where a server without a root of its own leads too
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


WAYS_OUT = ["out/a.txt", "near/sub/b.txt", "out/none.txt", "in/none.txt", "file", "own", "in/ours.txt", "nowhere"]
"""Through links of folders, and links themselves."""


@pytest.mark.parametrize("path", WAYS_OUT)
def test_what_a_link_leads_to_is_never_read(linked, tmp_path, path):
    """Neither what is outside nor what is inside; the refusal names no secret, and is no missing file."""
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
        # A server that shows one folder only knows of nothing outside it.
        with pytest.raises((PermissionDeniedError, FileNotFoundInStorageError)) as caught:
            operation()
        if "plain" not in str(root):
            assert isinstance(caught.value, PermissionDeniedError)
            assert LINKS in str(caught.value)

    assert (snapshot(outside), snapshot(root)) == before
    assert not (tmp_path / "got").exists()
    assert temporary_files(storage) == []


@pytest.mark.parametrize("folder", ["out", "near", "near/sub", "in", "out/new", "in/new"])
def test_nothing_is_written_through_a_link(linked, folder):
    """No file, no folder, no hidden file; and nothing is deleted there."""
    storage, root, outside = linked
    before = snapshot(outside), snapshot(root)

    def stream():
        with storage.open(f"{folder}/new.txt", "w") as writer:
            writer.write(b"1")

    for operation in (
        lambda: storage.write(f"{folder}/new.txt", b"1"),
        stream,
        lambda: storage.save(f"{folder}/new.txt", b"1"),
        lambda: storage.copy("d/ours.txt", f"{folder}/new.txt"),
        lambda: storage.move("d/ours.txt", f"{folder}/new.txt"),
        lambda: storage.multipart.put(f"{folder}/new.txt", b"1", WriteOptions()),
    ):
        with pytest.raises((PermissionDeniedError, FileNotFoundInStorageError)) as caught:
            operation()
        assert "plain" in str(root) or isinstance(caught.value, PermissionDeniedError)
    for path in (f"{folder}/a.txt", f"{folder}/b.txt", f"{folder}/ours.txt", f"{folder}/none"):
        for delete in (storage.delete, storage.delete_prefix):
            with suppress(PermissionDeniedError, NotAFileError):  # what is not there is deleted
                delete(path)

    assert (snapshot(outside), snapshot(root)) == before


@pytest.mark.parametrize("path", ["out/sub/none", "out/sub/empty/none/deep", "near/sub/empty/none", "out/none"])
def test_an_empty_folder_outside_stays(linked, path):
    """Deleting what is not there cleans up above it; through a link, it would clean up elsewhere."""
    storage, _, outside = linked
    shutil.rmtree(outside / "sub")
    (outside / "sub/empty").mkdir(parents=True)

    for operation in (storage.delete_prefix, storage.delete, lambda path: storage.delete_many([path])):
        with suppress(PermissionDeniedError, PartialFailureError):
            operation(path)

    assert (outside / "sub/empty").is_dir()


@pytest.mark.parametrize("name", ["file", "own", "nowhere"])
def test_a_link_at_the_end_is_replaced_or_deleted_itself(linked, name):
    """What it leads to stays as it is."""
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
    """Another process swaps *names*, in pairs, all the time."""
    with subprocess.Popen([sys.executable, "-S", "-E", str(FLIPPER), *map(str, names)], stdout=-1) as flipper:
        assert flipper.stdout
        assert flipper.stdout.readline() == b"ready\n"
        try:
            yield flipper
        finally:
            flipper.kill()


READS = {
    "read": lambda storage: storage.read("d/secret.txt"),
    "read file": lambda storage: storage.read("link.txt"),
    "stat": lambda storage: storage.stat("d/secret.txt"),
}


@pytest.mark.parametrize("operation", READS)
def test_a_folder_that_takes_turns_with_a_link_ends_in_a_file_or_an_error(openssh_storage, tmp_path, operation):
    """Between two requests a link may come and go, which SFTP cannot rule out; what is told is never a surprise."""
    storage, root = openssh_storage
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_bytes(SECRET)
    storage.write("d/secret.txt", b"ours")
    storage.write("link.txt", b"ours")
    (root / "d2").symlink_to(outside)
    (root / "link2").symlink_to(outside / "secret.txt")
    before = snapshot(outside)
    ends = set()

    with flipping(root / "d", root / "d2", root / "link.txt", root / "link2"):
        for _ in range(count(40, 2000)):
            try:
                READS[operation](storage)
                ends.add("done")
            except StorageError as error:
                ends.add(type(error).__name__)

    # OpenSSH has one word for a link that vanished while it looked, and for a name that is too long.
    assert ends <= {"done", "PermissionDeniedError", "FileNotFoundInStorageError", "InvalidPathError"}
    assert snapshot(outside) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_link_that_comes_before_a_file_is_opened_is_noticed(openssh_storage, tmp_path, monkeypatch, kind):
    """The server is asked once more, when the file is open: what was opened through a link is not read."""
    storage, root = openssh_storage
    (tmp_path / "a.txt").write_bytes(SECRET)
    storage.write("d/a.txt", b"ours")
    tree = type(storage._tree)
    judge = tree._check_stat
    seen = []

    def late(*arguments):
        told = judge(*arguments)
        seen.append(told)
        return told

    ask = tree._request_stat

    def asked(self, session, path):
        pending = ask(self, session, path)
        if not seen and not os.path.lexists(root / "e"):
            for one in pending:
                session.wait(one)  # the responses are here, and still tell of no link
            if kind == "folder":
                (root / "d").rename(root / "e")
                (root / "d").symlink_to(tmp_path)
            else:
                (root / "d/a.txt").rename(root / "e")
                (root / "d/a.txt").symlink_to(tmp_path / "a.txt")
        return pending

    monkeypatch.setattr(tree, "_check_stat", late)
    monkeypatch.setattr(tree, "_request_stat", asked)

    with pytest.raises(PermissionDeniedError, match=LINKS):
        storage.read("d/a.txt")
    assert len(seen) == 1


# -- what is no file --------------------------------------------------------------------------------------------------


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as session:
        session.bind(str(path))


@pytest.mark.parametrize("make", [_pipe, _socket], ids=["pipe", "socket"])
def test_what_is_no_file_is_never_opened(openssh_storage, in_bounded_time, make):
    """Nobody waits for a pipe to which nobody writes, also where a link leads to it; the next operation works."""
    storage, root = openssh_storage
    short = Path("/tmp") / f"session-{root.name[-8:]}"  # the path of a socket is at most 107 bytes long
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

    assert [entry.name for entry in storage.list()] == ["d/a.txt"]
    storage.write("odd", b"a file")
    storage.delete("other")
    assert storage.read("odd") == b"a file"
    assert not (root / "other").exists()


def test_a_device_is_no_file(openssh):
    """It has no end."""
    with closing(make_storage(openssh, root="/dev")) as storage:
        for operation in (storage.read, storage.stat):
            with pytest.raises(NotAFileError, match=FILES_ONLY):
                operation("zero")


def test_a_folder_is_no_file_and_a_file_no_folder(either):
    """Whichever word the server has for it."""
    storage, root = either
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


def test_a_root_may_be_a_link_and_have_dots(openssh):
    """The one who configures a root decides where it is; links are refused below it only."""
    (openssh.folder / "real").mkdir(exist_ok=True)
    if not (openssh.folder / "link").is_symlink():
        (openssh.folder / "link").symlink_to("real")

    for root in ("link", "./link/", "real/../link", str(openssh.folder / "link"), "real//"):
        with closing(make_storage(openssh, root=root)) as storage:
            storage.write("d/a.txt", root.encode())
            assert [entry.name for entry in storage.list()] == ["d/a.txt"]
        assert (openssh.folder / "real/d/a.txt").read_text() == root


def test_the_root_of_the_server_is_a_root_too(openssh):
    """Its paths begin with one slash."""
    with closing(make_storage(openssh, root="/")) as storage:
        path = str(openssh.folder).lstrip("/") + "/slash/a.txt"
        storage.write(path, b"1")

        assert (openssh.folder / "slash/a.txt").read_bytes() == b"1"
        assert [entry.name for entry in storage.list(os.path.dirname(path))] == [path]
        storage.delete(path)
    assert not (openssh.folder / "slash").exists()


def test_a_root_stays_when_it_is_empty(either):
    """Folders go with their last file, the root does not."""
    storage, root = either
    storage.write("a/b/c.txt", b"1")
    storage.write("d.txt", b"1")

    storage.delete("a/b/c.txt")
    storage.delete("d.txt")

    assert os.listdir(root) == []


@pytest.fixture
def jail(request, openssh):
    """A server that shows one folder only, and that folder: OpenSSH's where we may confine, else another one."""
    if os.getuid() != 0:
        server = request.getfixturevalue("plain_sftp")
        yield server, server.folder
        return
    folder = Path(tempfile.mkdtemp(dir="/run"))  # nobody but root may write to anything above it
    folder.chmod(0o755)
    server = type(openssh)(f"ChrootDirectory {folder}", arguments="-d /")
    yield server, folder
    server.remove()
    shutil.rmtree(folder)


def test_a_server_that_shows_one_folder_only_is_served(jail):
    """Its paths begin there, and nothing else exists."""
    server, folder = jail
    (folder / "files/d").mkdir(parents=True)
    (folder / "files/d/link").symlink_to("/etc/passwd")
    (folder / "files/d/up").symlink_to("../../..")

    for root in ("/files", "files", "."):
        with closing(make_storage(server, root=root)) as storage:
            below = "files/" if root == "." else ""
            storage.write(f"{below}d/e/a.txt", b"1")
            storage.copy(f"{below}d/e/a.txt", f"{below}d/e/b.txt")
            assert sorted(os.listdir(folder / "files/d/e")) == ["a.txt", "b.txt"]
            assert [entry.name for entry in storage.list()] == [f"{below}d/e/a.txt", f"{below}d/e/b.txt"]
            for path in ("d/link", "d/up/etc/passwd", "d/up/files/d/e/a.txt"):
                with pytest.raises((PermissionDeniedError, FileNotFoundInStorageError)):
                    storage.read(below + path)
            assert storage.delete_prefix(f"{below}d/e") == 2
    shutil.rmtree(folder / "files")


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", ["000", "027", "077"])
def test_modes_are_those_of_the_profile_whatever_the_servers_umask(make_openssh, umask):
    """For files of every kind of write, and for every folder that is session."""
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

            for folder in ("a", "a/b", "d", "d/e"):
                assert mode(root / folder) == directory_mode, folder
            for path in ("a/b/c.txt", "d/e/c.txt", "a/b/f.txt"):
                assert mode(root / path) == file_mode, path


def test_folders_that_are_there_keep_their_mode(openssh_storage):
    """Only what we make is ours to set."""
    storage, root = openssh_storage
    (root / "theirs").mkdir()
    (root / "theirs").chmod(0o711)

    storage.write("theirs/ours/a.txt", b"1")

    assert (mode(root / "theirs"), mode(root / "theirs/ours")) == (0o711, 0o700)


# -- others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["openssh", "plain_sftp"])
def test_folders_that_others_remove_are_made_again(request, server):
    """A folder goes with its last file while somebody else is about to put one into it: nobody ever fails."""
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


def test_a_folder_that_is_deleted_by_several_is_gone(openssh_storage):
    """Each file is counted by one of them, and nobody fails because another was quicker."""
    storage, root = openssh_storage

    for _ in range(count(5, 50)):
        for number in range(150):
            (root / f"d/{number % 7}").mkdir(parents=True, exist_ok=True)
            (root / f"d/{number % 7}/{number}.txt").touch()
        deleted = run_concurrently(lambda _: storage.delete_prefix("d"), 4)
        assert (sum(deleted), os.listdir(root)) == (150, [])


def test_a_folder_that_is_removed_for_ever_is_told(openssh_storage, monkeypatch):
    """Instead of trying for ever."""
    storage, _ = openssh_storage
    monkeypatch.setattr(type(storage._tree), "make_directories", lambda *_: None)

    storage.write("a.txt", b"1")
    for operation in (lambda: storage.write("d/a.txt", b"1"), lambda: storage.move("a.txt", "d/a.txt")):
        with pytest.raises(StorageError, match="the folder is deleted again and again by somebody else: try again"):
            operation()

    assert [entry.name for entry in storage.list()] == ["a.txt"]


@pytest.mark.parametrize("taken", [False, True])
def test_a_file_that_goes_while_it_is_moved_is_missing(either, monkeypatch, taken):
    """It, and not where it was to go; what is there stays there."""
    storage, root = either
    storage.write("a.txt", b"1")
    if taken:
        storage.write("d/b.txt", b"2")
    publish = type(storage._atomic_write).publish

    def late(*arguments):
        (root / "a.txt").unlink(missing_ok=True)
        publish(*arguments)

    monkeypatch.setattr(type(storage._atomic_write), "publish", late)
    with pytest.raises(FileNotFoundInStorageError) as caught:
        storage.move("a.txt", "d/b.txt")

    assert caught.value.path == "a.txt"
    assert [storage.read(entry.name) for entry in storage.list()] == [b"2"] * taken


def test_a_sweep_leaves_what_is_new(openssh_storage):
    """And folders that were session for what it takes go along."""
    storage, root = openssh_storage
    (root / "d").mkdir()
    for name in ("d/.fs-tmp-0123456789abcdef", ".fs-tmp-fedcba9876543210"):
        (root / name).touch()
    os.utime(root / "d/.fs-tmp-0123456789abcdef", (0, 0))

    assert storage.sweep(older_than=timedelta(hours=1)) == 1
    assert os.listdir(root) == [".fs-tmp-fedcba9876543210"]


# -- servers of their own mind ----------------------------------------------------------------------------------------


def stubborn(responses, *extensions, there=()):
    """Return atomic_write on a server that responses some kinds of requests, or extensions, with a status; and its session.

    Args:
        responses: Codes by kind, or by the name of an extension; everything else is done.
        extensions: Which it knows.
        there: The names that it has, as files; those of hidden files it has anyway.
    """

    def script(request):
        text = request.texts[0]
        if (code := responses.get(text if request.kind == EXTENDED else request.kind)) is not None:
            return status(request, code)
        if request.kind == REALPATH:
            return names(request, (text, attributes(DIRECTORY)))
        if request.kind in (LSTAT, STAT):
            kinds = {b"r": DIRECTORY, b"/r/d": DIRECTORY, **dict.fromkeys(there, FILE)}
            kind = FILE if b"/.fs-" in text else kinds.get(text)
            return status(request, NO_SUCH_FILE) if kind is None else response(request, ATTRS, attributes(kind))
        if request.kind == FSTAT:
            return response(request, ATTRS, responses.get("about", attributes(size=responses.get("size", 1))))
        return handle(request) if request.kind == OPEN else status(request, 0)

    session, channel = make_session(script, extensions=extensions)
    session.root = b"/r"
    return (
        AtomicWrite(RemoteTree("r", directory_mode=0o750, storage="sftp"), file_mode=0o640, sync=True),
        session,
        channel,
    )


def finished(given, path="a.txt", *, exclusive=False):
    """Write a file of one byte, and return which kinds of requests that took after the last byte."""
    atomic_write, session, channel = given
    temporary, opened = atomic_write.create(session, path)
    channel.requests.clear()
    atomic_write.commit(session, opened, 1, temporary, path, WriteOptions(exclusive=exclusive))
    return [request.kind for request in channel.requests]


def test_a_server_that_loses_bytes_is_told():
    """It said that all had arrived."""
    with pytest.raises(StorageFullError, match="0 bytes are on the server where 1 were written"):
        finished(stubborn({"size": 0}))


def test_a_name_is_given_in_one_request_where_the_server_can():
    """After the mode, the disk and the end; elsewhere the old file goes first."""
    there = {"there": [b"/r/a.txt"]}

    assert finished(stubborn({}, POSIX_RENAME, FSYNC))[-1] == EXTENDED
    assert finished(stubborn({}))[-1] == RENAME
    assert finished(stubborn({}, HARDLINK), exclusive=True)[-2:] == [EXTENDED, REMOVE]
    with pytest.raises(StatusError):
        finished(stubborn({RENAME: FAILURE}, **there))
    with pytest.raises(FileExistsInStorageError):
        finished(stubborn({HARDLINK: FAILURE}, HARDLINK, **there), exclusive=True)
    with pytest.raises(FileExistsInStorageError):
        finished(stubborn({RENAME: FAILURE}, **there), exclusive=True)


@pytest.mark.parametrize("code", [FAILURE, OP_UNSUPPORTED, PERMISSION_DENIED])
def test_where_there_are_no_hard_links_a_free_name_is_given_by_renaming(code):
    """Some file systems have none."""
    assert finished(stubborn({HARDLINK: code}, HARDLINK), exclusive=True)[-1] == RENAME


def test_a_second_name_that_stays_is_no_error():
    """The file is published, which an error would deny."""
    assert finished(stubborn({REMOVE: FAILURE}, HARDLINK), exclusive=True)[-1] == REMOVE


@pytest.mark.parametrize(
    ("responses", "extensions", "exclusive"),
    [
        ({RENAME: FAILURE}, (), False),
        ({RENAME: FAILURE}, (), True),
        ({RENAME: NO_SUCH_FILE}, (), True),
        ({HARDLINK: PERMISSION_DENIED, RENAME: PERMISSION_DENIED}, (HARDLINK,), True),
        ({POSIX_RENAME: FAILURE}, (POSIX_RENAME,), False),
        ({FSYNC: FAILURE}, (FSYNC,), False),
        ({CLOSE: FAILURE}, (), False),
        ({FSETSTAT: PERMISSION_DENIED}, (), False),
    ],
)
def test_a_file_that_cannot_get_its_name_is_an_error(responses, extensions, exclusive):
    """What the server said of it, whatever it was asked afterwards."""
    with pytest.raises(StatusError) as caught:
        finished(stubborn(responses, *extensions), exclusive=exclusive)

    assert {caught.value.code} == {*responses.values()}


def test_a_file_that_cannot_leave_its_old_name_was_not_moved(make_openssh):
    """Nobody hears that it was."""
    server = make_openssh(arguments="-P rename")
    with closing(make_storage(server)) as storage:
        storage.write("a.txt", b"1")
        with pytest.raises(StorageError, match="denies this user access"):
            storage.move("a.txt", "b.txt", exclusive=True)

        assert storage.read("a.txt") == b"1"
        assert not storage.exists("b.txt")


def test_what_may_not_be_renamed_does_not_cost_the_old_file():
    """On servers that rename to free names only."""
    given = stubborn({RENAME: PERMISSION_DENIED}, there=[b"/r/a.txt"])

    with pytest.raises(StatusError) as caught:
        finished(given)

    assert caught.value.code == PERMISSION_DENIED
    assert REMOVE not in [request.kind for request in given[2].asked]


@pytest.mark.parametrize("extensions", [(), (POSIX_RENAME,)])
def test_a_folder_in_the_place_of_a_file_is_told(extensions):
    """And left alone."""
    given = stubborn({RENAME: FAILURE, POSIX_RENAME: FAILURE}, *extensions)

    with pytest.raises(NotAFileError, match="a folder stands where the file d should be"):
        finished(given, "d")

    assert REMOVE not in [request.kind for request in given[2].asked]


@pytest.mark.parametrize("kind", [OPEN, LSTAT, MKDIR, REALPATH])
def test_a_refusal_while_a_folder_is_made_is_told(kind):
    """It is not tried again and again."""
    atomic_write, session, channel = stubborn({kind: PERMISSION_DENIED})

    with pytest.raises(StatusError) as caught:
        atomic_write.create(session, "new/a.txt") if kind in (OPEN, REALPATH) else atomic_write.tree.make_directories(
            session, "new"
        )

    assert caught.value.code == PERMISSION_DENIED
    assert len(channel.requests) < 10


def test_a_hidden_file_that_cannot_be_made_is_told():
    """Once it is sure that no file stands where its folder should be."""
    atomic_write, session, channel = stubborn({OPEN: FAILURE})

    with pytest.raises(StatusError):
        atomic_write.create(session, "d/a.txt")

    assert [request.kind for request in channel.requests] == [REALPATH, OPEN, REALPATH, LSTAT]


def test_a_mode_that_cannot_be_set_on_a_folder_is_passed_over():
    """It may have been pruned by somebody else."""
    atomic_write, session, channel = stubborn({SETSTAT: NO_SUCH_FILE})

    atomic_write.tree.make_directories(session, "new/deep")

    assert [request.kind for request in channel.requests].count(SETSTAT) == 2


@pytest.mark.parametrize(("code", "kind"), [(NO_SUCH_FILE, None), (PERMISSION_DENIED, StatusError)])
def test_a_file_that_is_gone_when_it_is_deleted_is_deleted(code, kind):
    """One that may not be deleted is not."""
    atomic_write, session, _ = stubborn({REMOVE: code}, there=[b"/r/a.txt"])

    with pytest.raises(kind) if kind else nullcontext():
        atomic_write.tree.remove(session, "a.txt")


@pytest.mark.parametrize(
    ("about", "error"),
    [(attributes(DIRECTORY), NotAFileError), (struct.pack(">II", 4, FILE), StorageError)],
    ids=["no file", "no size"],
)
def test_what_is_open_must_be_a_file_of_some_length(about, error):
    """Whatever the server said before it was opened."""
    atomic_write, session, channel = stubborn({"about": about}, there=[b"/r/a.txt"])

    with pytest.raises(error, match=r"no regular file|how long files are"):
        atomic_write.tree.open_file(session, "a.txt")

    session.flush()
    assert channel.requests[-1].kind == CLOSE


def test_a_file_that_the_server_does_not_open_is_not_taken_for_missing():
    """Its own word stays."""
    atomic_write, session, _ = stubborn({OPEN: FAILURE}, there=[b"/r/a.txt"])

    with pytest.raises(StatusError) as caught:
        atomic_write.tree.open_file(session, "a.txt")

    assert caught.value.code == FAILURE


def test_a_file_that_goes_before_it_is_opened_is_missing():
    """It was there a moment ago."""
    atomic_write, session, _ = stubborn({OPEN: NO_SUCH_FILE}, there=[b"/r/a.txt"])

    with pytest.raises(FileNotFoundInStorageError):
        atomic_write.tree.open_file(session, "a.txt")


def test_a_hidden_file_that_nobody_can_look_at_is_not_taken_for_swept():
    """Nor is it published."""
    given = stubborn({LSTAT: FAILURE}, POSIX_RENAME)

    with pytest.raises(StatusError) as caught:
        finished(given)

    assert caught.value.code == FAILURE
    assert POSIX_RENAME not in [request.texts[0] for request in given[2].asked if request.kind == EXTENDED]


def test_a_folder_for_which_there_is_no_room_is_told(monkeypatch):
    """And not that others delete it again and again."""
    monkeypatch.setattr("flask_storage.backends.sftp.remote_tree.write_error", lambda *_: StorageFullError("make room"))
    atomic_write, session, _ = stubborn({MKDIR: FAILURE})

    with pytest.raises(StorageFullError):
        atomic_write.tree.make_directories(session, "new")


@pytest.mark.parametrize("code", [EOF, FAILURE])
def test_the_first_bytes_of_a_file_come_with_it(code):
    """An empty one has none; one that cannot be read is given back."""
    atomic_write, session, channel = stubborn({READ: code}, there=[b"/r/a.txt"])

    if code == EOF:
        assert atomic_write.tree.open_file(session, "a.txt", first=100)[2] == b""
        return
    with pytest.raises(StatusError):
        atomic_write.tree.open_file(session, "a.txt", first=100)
    session.flush()
    assert channel.requests[-1].kind == CLOSE


def test_many_files_are_deleted_in_few_turns(openssh_storage, monkeypatch):
    """Also where they lie in many folders, which go with them; what cannot go is told, and keeps nothing else."""
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
