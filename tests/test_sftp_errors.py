"""What a server of SFTP responses when something is wrong, and what we say of it: the right error, and what to do."""

import os
import re
import shutil
import struct
import subprocess
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from pathlib import Path

import paramiko
import pytest

from flask_storage import (
    FileNotFoundInStorageError,
    InvalidPathError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from flask_storage.backends.sftp.errors import STATVFS, translate_error, write_error
from flask_storage.backends.sftp.protocol import (
    BAD_MESSAGE,
    EOF,
    FAILURE,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    ConnectionLostError,
    PendingReply,
    ProtocolError,
    Session,
    StatusError,
)
from tests.scripted_sftp import EXTENDED_REPLY, make_session, response
from tests.sftp_storages import make_storage, wait_until

pytest_plugins = ["tests.services.openssh"]

SERVER = "/usr/lib/openssh/sftp-server"
NOBODY = 65534
MIB = 1 << 20
SMALL = 8 * MIB
# What stands in the texts must be a step that somebody can take.
STEP = re.compile(r"check|try again|begin anew|choose|see its log|does not do this|make room")


def made_of(error, path: str | None = "a.txt"):
    """Return our error for one of the server's or the connection's."""
    made = translate_error(error, path, "docs")
    assert made is not None
    return made


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "builtin"),
    [
        (StatusError(NO_SUCH_FILE, "No such file"), FileNotFoundInStorageError, FileNotFoundError),
        (StatusError(PERMISSION_DENIED, "Permission denied"), PermissionDeniedError, PermissionError),
        (StatusError(OP_UNSUPPORTED, "Operation unsupported"), UnsupportedOperationError, NotImplementedError),
        (StatusError(BAD_MESSAGE, "Bad message"), InvalidPathError, ValueError),
        (StatusError(FAILURE, "Failure"), StorageError, StorageError),
        (StatusError(EOF, "End of file"), StorageError, StorageError),
        (StatusError(99, "words of its own"), StorageError, StorageError),
        (ConnectionLostError("the server ended the connection"), StorageUnavailableError, ConnectionError),
        (EOFError(), StorageUnavailableError, ConnectionError),
        (CancelledError(), StorageUnavailableError, ConnectionError),
        (ProtocolError("an response makes no sense"), StorageUnavailableError, ConnectionError),
        (TimeoutError(), StorageTimeoutError, TimeoutError),
        (paramiko.ChannelException(1, "Administratively prohibited"), StorageUnavailableError, ConnectionError),
        (paramiko.SSHException("Timeout opening channel."), StorageUnavailableError, ConnectionError),
    ],
    ids=repr,
)
def test_each_trouble_becomes_our_error(error, kind, builtin):
    """Of the type that fits, which is a built-in too where Python has a word for it; the text says what to do."""
    made = made_of(error)

    assert type(made) is kind
    assert isinstance(made, builtin)
    if kind is FileNotFoundInStorageError:
        assert str(made) == "File a.txt not found in docs."
    else:
        assert STEP.search(str(made)), made
    for words in (getattr(error, "text", ""), *error.args):
        if not isinstance(error, StatusError) or error.code in (FAILURE, EOF, 99):
            assert str(words) in str(made) or isinstance(words, int) or words == str(error)


def test_what_the_server_said_is_told_where_it_is_all_there_is():
    """And so is why a connection could not be used."""
    assert "'disk on fire'" in str(made_of(StatusError(FAILURE, "disk on fire")))
    assert "(Timeout opening channel.)" in str(made_of(paramiko.SSHException("Timeout opening channel.")))
    assert "(Connect failed)" in str(made_of(paramiko.ChannelException(2, "Connect failed")))
    assert "MaxSessions" in str(made_of(paramiko.ChannelException(2, "Connect failed")))
    assert "read_timeout" in str(made_of(TimeoutError()))


def test_a_trouble_that_concerns_no_file_names_none():
    """As that of a listing."""
    error = made_of(StatusError(NO_SUCH_FILE, "No such file"), None)

    assert type(error) is StorageError
    assert "somebody else removed it" in str(error)


@pytest.mark.parametrize(
    "error", [ValueError("ours"), KeyError("ours"), OSError("ours"), RuntimeError("ours")], ids=repr
)
def test_what_is_neither_the_servers_nor_the_connections_is_left_alone(error):
    """A mistake of ours, or of who called, must not look like one of the server's."""
    assert translate_error(error, "a.txt", "docs") is None


@pytest.mark.parametrize(
    ("numbers", "is_full"),
    [
        ({4: 5, 5: 9, 6: 3, 7: 3}, False),
        ({4: 0, 5: 9, 6: 3, 7: 3}, True),
        ({4: 5, 5: 9, 6: 3, 7: 0}, True),
        ({4: 5, 5: 0, 6: 0, 7: 0}, False),  # btrfs, FAT and many over the net count no files
    ],
)
def test_a_disk_is_full_when_nothing_is_left_for_users(numbers, is_full):
    """Neither blocks nor files, where they are counted at all."""
    said = b"".join(numbers.get(place, 0).to_bytes(8) for place in range(11))
    asked, _ = make_session(lambda request: response(request, EXTENDED_REPLY, said), extensions=(STATVFS,))
    asked.root = b"/srv"

    found = write_error(asked, StatusError(FAILURE, "Failure"))

    assert isinstance(found, StorageFullError) == is_full


def test_an_answer_about_the_disk_that_is_cut_short_tells_nothing():
    """The server's own word stays what is known."""
    error = StatusError(FAILURE, "Failure")
    asked, _ = make_session(lambda request: response(request, EXTENDED_REPLY, bytes(87)), extensions=(STATVFS,))
    asked.root = b"/srv"

    assert write_error(asked, error) is error


# -- as servers say it ------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named(openssh):
    """With its storage, and the server's own response behind it."""
    with closing(make_storage(openssh, name="docs")) as storage:
        for operation in (
            lambda: storage.read("a/b.txt"),
            lambda: storage.stat("a/b.txt"),
            lambda: storage.copy("a/b.txt", "c.txt"),
            lambda: storage.move("a/b.txt", "c.txt"),
            lambda: storage.open("a/b.txt", "rw"),
        ):
            with pytest.raises(FileNotFoundInStorageError, match=r"^File a/b\.txt not found in docs\.$") as caught:
                operation()
            assert (caught.value.path, caught.value.backend) == ("a/b.txt", "docs")
            assert isinstance(caught.value.__cause__, StatusError)
        storage.delete("a/b.txt")
        assert storage.list() == []


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_root_that_is_none_is_no_empty_storage(openssh, kind):
    """What is not mounted must not look as if everything were deleted."""
    (openssh.folder / "file").touch()
    with closing(make_storage(openssh, root=kind)) as storage:
        for operation in (storage.list, lambda: storage.read("a.txt"), lambda: storage.write("a.txt", b"1")):
            with pytest.raises(StorageError, match=f"the root '{kind}' is") as caught:
                operation()
            assert type(caught.value) is StorageError
    assert not (openssh.folder / "missing").exists()


def test_a_root_that_goes_while_it_is_in_use_is_no_empty_storage(openssh):
    """A volume that is not mounted any more must not look like one without files."""
    with closing(make_storage(openssh)) as storage:
        storage.write("d/a.txt", b"1")
        root = openssh.folder / storage.root
        gone = root.with_name(f"{root.name}-gone")

        for operation in (
            storage.list,
            storage.sweep,
            lambda: storage.exists("d/a.txt"),
            lambda: storage.read("d/a.txt"),
            lambda: storage.write("a.txt", b"1"),
            lambda: storage.write("d/e/a.txt", b"1"),
        ):
            storage.stat("d/a.txt")
            root.rename(gone)
            with pytest.raises(StorageError, match=r"the root .* is not there"):
                operation()
            gone.rename(root)

        assert [entry.name for entry in storage.list()] == ["d/a.txt"]


def test_a_path_that_the_server_cannot_hold_is_told(openssh):
    """Ours is not too long, but the root stands before it."""
    root = "/".join(["r" * 200] * 16)
    (openssh.folder / root).mkdir(parents=True)
    try:
        with (
            closing(make_storage(openssh, root=root)) as storage,
            pytest.raises(InvalidPathError, match="choose a shorter one") as caught,
        ):
            storage.write("/".join(["f" * 200] * 5), b"1")
        assert isinstance(caught.value, ValueError)
    finally:
        shutil.rmtree(openssh.folder / ("r" * 200))


# -- refusals ---------------------------------------------------------------------------------------------------------


def refuse_every_change(storage):
    """Try all that would change a storage which holds ``d/a.txt``; return how each was refused."""
    refused = {
        "write": lambda: storage.write("d/a.txt", b"new"),
        "long write": lambda: storage.write("d/a.txt", bytes(9 * MIB)),
        "new folder": lambda: storage.write("e/f/b.txt", b"new"),
        "copy": lambda: storage.copy("d/a.txt", "d/b.txt"),
        "move": lambda: storage.move("d/a.txt", "d/b.txt"),
        "delete": lambda: storage.delete("d/a.txt"),
        "delete_prefix": lambda: storage.delete_prefix("d"),
        "edit": lambda: storage.open("d/a.txt", "rw"),
        "save": lambda: storage.save("d/a.txt", b"new"),
    }
    kinds = {}
    for name, operation in refused.items():
        with pytest.raises(StorageError) as caught:
            operation()
        kinds[name] = type(caught.value)
        assert STEP.search(str(caught.value)), caught.value
    return kinds


def test_a_server_that_only_lets_read_refuses_every_change(openssh):
    """``internal-sftp -R``: PermissionDeniedError, never "not found", and everything can still be read."""
    server = type(openssh)(arguments="-R")
    try:
        (server.folder / "root/d").mkdir(parents=True)
        (server.folder / "root/d/a.txt").write_bytes(b"old")
        with closing(make_storage(server, root="root")) as storage:
            kinds = refuse_every_change(storage)

            assert set(kinds.values()) == {PermissionDeniedError}, kinds
            assert storage.read("d/a.txt") == b"old"
            assert [entry.name for entry in storage.list()] == ["d/a.txt"]
    finally:
        server.remove()


@pytest.fixture(scope="module")
def ordinary(openssh):
    """A server on which modes mean something: what serves the files is not root."""
    someone = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups " if os.getuid() == 0 else ""
    server = type(openssh)(f"ForceCommand {someone}{SERVER}")
    server.home.chmod(0o755)
    yield server
    server.remove()


@pytest.fixture
def shared(ordinary):
    """A storage with ``d/a.txt`` that everybody may read and nobody but its owner may change."""
    root = ordinary.folder / "shared"
    (root / "d").mkdir(parents=True)
    (root / "d/a.txt").write_bytes(b"old")
    for one, mode in ((root, 0o755), (root / "d", 0o755), (root / "d/a.txt", 0o644)):
        one.chmod(mode)
    with closing(make_storage(ordinary, root=str(root))) as storage:
        yield storage
    (root / "d").chmod(0o755)
    root.chmod(0o755)
    shutil.rmtree(root)


def in_place(storage, path):
    """Return where a file of a storage is on this machine."""
    return os.path.join(storage.root, path)


def test_a_folder_that_may_not_be_written_is_a_refusal(shared):
    """Both of the root and of what is below."""
    for folder in ("", "d"):
        os.chmod(in_place(shared, folder), 0o555)

    kinds = refuse_every_change(shared)

    assert set(kinds.values()) == {PermissionDeniedError}, kinds
    assert shared.read("d/a.txt") == b"old"
    assert [entry.name for entry in shared.list()] == ["d/a.txt"]


@pytest.mark.parametrize("operation", ["read", "get", "edit", "copy"])
def test_a_file_that_may_not_be_read_is_a_refusal(shared, operation, tmp_path):
    """It is not a missing one; what may be known of it is."""
    os.chmod(in_place(shared, "d/a.txt"), 0o000)
    operations = {
        "read": lambda: shared.read("d/a.txt"),
        "get": lambda: shared.get("d/a.txt", tmp_path / "a.txt"),
        "edit": lambda: shared.open("d/a.txt", "rw"),
        "copy": lambda: shared.copy("d/a.txt", "b.txt"),
    }

    with pytest.raises(PermissionDeniedError, match="owner and mode") as caught:
        operations[operation]()

    assert caught.value.path == "d/a.txt"
    assert shared.stat("d/a.txt").size == 3
    assert not (tmp_path / "a.txt").exists()


def test_a_folder_that_may_not_be_looked_into_is_a_refusal_and_still_shown(shared):
    """It is not an empty one: whether anything is below it, only others know."""
    os.chmod(in_place(shared, "d"), 0o000)

    assert [entry.name for entry in shared.list(recursive=False)] == ["d/"]
    for operation in (shared.list, lambda: shared.stat("d/a.txt"), lambda: shared.exists("d/a.txt")):
        with pytest.raises(PermissionDeniedError):
            operation()


def test_the_folder_of_a_disk_s_repair_is_nobody_s(shared):
    """It stands at the top of a volume, closed to all but root."""
    os.mkdir(in_place(shared, "lost+found"), 0o700)

    assert [entry.name for entry in shared.list()] == ["d/a.txt"]
    assert [entry.name for entry in shared.list(recursive=False)] == ["d/"]
    assert shared.sweep() == 0


def test_a_sweep_that_is_refused_somewhere_takes_the_rest(shared):
    """The error tells that something stays."""
    for name in ("d/.fs-tmp-1", ".fs-tmp-2"):
        Path(in_place(shared, name)).touch()
        os.utime(in_place(shared, name), (0, 0))
    os.chmod(in_place(shared, ""), 0o777)
    os.mkdir(in_place(shared, "a"), 0o700)

    with pytest.raises(PermissionDeniedError):
        shared.sweep()

    assert os.path.exists(in_place(shared, "d/.fs-tmp-1"))
    assert not os.path.exists(in_place(shared, ".fs-tmp-2"))


def test_a_server_that_opens_no_session_for_paramiko_is_told(make_openssh):
    """In our words; what is done in the block is paramiko's business."""
    with (
        closing(make_storage(make_openssh("MaxSessions 0"))) as storage,
        pytest.raises(StorageUnavailableError, match="check its MaxSessions"),
        storage.connection(),
    ):
        raise AssertionError


# -- no room ----------------------------------------------------------------------------------------------------------


def may_mount():
    """Whether this process may mount file systems: root on a machine may, root in a container often may not."""
    response = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return response.returncode == 0


@contextmanager
def small_disk(openssh, monkeypatch):
    """A disk of 8 MiB below a server."""
    disk = openssh.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", str(disk)], check=True)
    try:
        yield openssh, disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the server may still be letting go
        disk.rmdir()


@contextmanager
def small_files(openssh, monkeypatch):
    """A server that may write no file of more than 8 MiB, and fails as with a full disk."""
    server = type(openssh)(f"ForceCommand trap '' XFSZ; ulimit -f {SMALL // 1024}; exec {SERVER}")
    disk = server.folder / "disk"
    disk.mkdir()
    try:
        yield server, disk
    finally:
        server.remove()


def say_of_the_disk(monkeypatch, *numbers):
    """Have servers say this of their disks."""
    ask = Session.extended

    def extended(session, name, *fields):
        if name != STATVFS:
            return ask(session, name, *fields)
        response = PendingReply()
        response.value, response.is_done = struct.pack(">11Q", *numbers), True
        return response

    monkeypatch.setattr(Session, "extended", extended)


@contextmanager
def said_to_be_small(openssh, monkeypatch):
    """Likewise, and it says that its disk is full."""
    with small_files(openssh, monkeypatch) as (server, disk):
        say_of_the_disk(monkeypatch, *[0] * 11)
        yield server, disk


# Where nothing may be mounted, the limit of the process stands in for the small disk. It is not a full one.
NO_ROOM = [(small_files, StorageError), (small_disk if may_mount() else said_to_be_small, StorageFullError)]


@pytest.mark.parametrize(("no_room", "kind"), NO_ROOM)
@pytest.mark.parametrize("operation", ["write", "put", "stream", "edit", "copy"])
def test_no_room_is_said_and_keeps_what_there_is(openssh, tmp_path, monkeypatch, no_room, kind, operation):
    """16 MiB and more do not fit: the old file is whole, nothing of the new one is left, and the room is free again."""
    (tmp_path / "source").write_bytes(bytes(16 * MIB))
    too_long = bytes(40 * MIB)
    old = os.urandom(MIB)

    def write(storage, mode):
        with storage.open("a.bin", mode) as writer:
            for _ in range(16):
                writer.write(bytes(MIB))

    too_much = {
        "write": lambda storage: storage.write("a.bin", too_long),
        "put": lambda storage: storage.put(tmp_path / "source", "a.bin"),
        "stream": lambda storage: write(storage, "w"),
        "edit": lambda storage: write(storage, "rw"),
        "copy": lambda storage: storage.copy("big.bin", "a.bin"),
    }
    with no_room(openssh, monkeypatch) as (server, disk), closing(make_storage(server, root=str(disk))) as storage:
        storage.write("a.bin", old)
        if operation == "copy":
            (disk / "big.bin").write_bytes(bytes(5 * MIB if no_room is small_disk else 16 * MIB))
        there = sorted(os.listdir(disk))
        free = os.statvfs(disk).f_bavail
        for _ in range(3):
            with pytest.raises(kind) as caught:
                too_much[operation](storage)

            assert type(caught.value) is kind
            assert STEP.search(str(caught.value)), caught.value
            assert (caught.value.path, caught.value.backend) == ("a.bin", storage.name)
            assert storage.read("a.bin") == old
            assert sorted(os.listdir(disk)) == there
            if no_room is small_disk:
                wait_until(lambda: os.statvfs(disk).f_bavail == free)  # another session may have the file open still


def test_a_file_system_that_is_read_only_is_told_from_a_full_one(openssh, monkeypatch):
    """The server has one word for both."""
    with small_files(openssh, monkeypatch) as (server, disk), closing(make_storage(server, root=str(disk))) as storage:
        say_of_the_disk(monkeypatch, *[0] * 9, 1, 255)
        with pytest.raises(PermissionDeniedError, match="is read-only: have it mounted for writing"):
            storage.write("a.bin", bytes(16 * MIB))

        assert os.listdir(disk) == []
