"""Errors of an SFTP server: the type and the text of the error that is raised for each, and full disks."""

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
UNPRIVILEGED_UID = 65534
MIB = 1 << 20
SMALL = 8 * MIB
# Each message says what to do, or that the operation is not supported.
STEP = re.compile(r"check|try again|start it again|choose|see its log|does not support this|free space|mount it")


def translated(error, path: str | None = "a.txt"):
    """Return the storage error for an error of the server or the connection."""
    result = translate_error(error, path, "docs")
    assert result is not None
    return result


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "error_type", "builtin"),
    [
        (StatusError(NO_SUCH_FILE, "No such file"), FileNotFoundInStorageError, FileNotFoundError),
        (StatusError(PERMISSION_DENIED, "Permission denied"), PermissionDeniedError, PermissionError),
        (StatusError(OP_UNSUPPORTED, "Operation unsupported"), UnsupportedOperationError, NotImplementedError),
        (StatusError(BAD_MESSAGE, "Bad message"), InvalidPathError, ValueError),
        (StatusError(FAILURE, "Failure"), StorageError, StorageError),
        (StatusError(EOF, "End of file"), StorageError, StorageError),
        (StatusError(99, "an unknown status"), StorageError, StorageError),
        (ConnectionLostError("the server closed the connection"), StorageUnavailableError, ConnectionError),
        (EOFError(), StorageUnavailableError, ConnectionError),
        (CancelledError(), StorageUnavailableError, ConnectionError),
        (ProtocolError("the server sent a malformed response"), StorageUnavailableError, ConnectionError),
        (TimeoutError(), StorageTimeoutError, TimeoutError),
        (paramiko.ChannelException(1, "Administratively prohibited"), StorageUnavailableError, ConnectionError),
        (paramiko.SSHException("Timeout opening channel."), StorageUnavailableError, ConnectionError),
    ],
    ids=repr,
)
def test_each_error_is_translated(error, error_type, builtin):
    """To the type that fits, which is a built-in type too where Python has one; the message says what to do."""
    result = translated(error)

    assert type(result) is error_type
    assert isinstance(result, builtin)
    if error_type is FileNotFoundInStorageError:
        assert str(result) == "File a.txt not found in docs."
    else:
        assert STEP.search(str(result)), result
    for text in (getattr(error, "text", ""), *error.args):
        if not isinstance(error, StatusError) or error.code in (FAILURE, EOF, 99):
            assert str(text) in str(result) or isinstance(text, int) or text == str(error)


def test_the_message_of_the_server_is_shown_if_there_is_no_other_reason():
    """The same for errors of the connection."""
    assert "'disk on fire'" in str(translated(StatusError(FAILURE, "disk on fire")))
    assert "(Timeout opening channel.)" in str(translated(paramiko.SSHException("Timeout opening channel.")))
    assert "(Connect failed)" in str(translated(paramiko.ChannelException(2, "Connect failed")))
    assert "MaxSessions" in str(translated(paramiko.ChannelException(2, "Connect failed")))
    assert "read_timeout" in str(translated(TimeoutError()))


def test_an_error_without_a_path_names_no_file():
    """As that of a listing."""
    error = translated(StatusError(NO_SUCH_FILE, "No such file"), None)

    assert type(error) is StorageError
    assert "removed by another process" in str(error)


@pytest.mark.parametrize(
    "error", [ValueError("text"), KeyError("text"), OSError("text"), RuntimeError("text")], ids=repr
)
def test_other_errors_are_not_translated(error):
    """A programming error must not look like an error of the server."""
    assert translate_error(error, "a.txt", "docs") is None


@pytest.mark.parametrize(
    ("fields", "is_full"),
    [
        ({4: 5, 5: 9, 6: 3, 7: 3}, False),
        ({4: 0, 5: 9, 6: 3, 7: 3}, True),
        ({4: 5, 5: 9, 6: 3, 7: 0}, True),
        ({4: 5, 5: 0, 6: 0, 7: 0}, False),  # btrfs, FAT and many network file systems do not count files
    ],
)
def test_a_disk_is_full_without_free_blocks_or_files(fields, is_full):
    """Some file systems do not count files."""
    reply = b"".join(fields.get(index, 0).to_bytes(8) for index in range(11))
    session, _ = make_session(lambda request: response(request, EXTENDED_REPLY, reply), extensions=(STATVFS,))
    session.root = b"/srv"

    error = write_error(session, StatusError(FAILURE, "Failure"))

    assert isinstance(error, StorageFullError) == is_full


def test_a_truncated_statvfs_response_is_ignored():
    """The error of the server is raised."""
    error = StatusError(FAILURE, "Failure")
    session, _ = make_session(lambda request: response(request, EXTENDED_REPLY, bytes(87)), extensions=(STATVFS,))
    session.root = b"/srv"

    assert write_error(session, error) is error


# -- missing files and roots ------------------------------------------------------------------------------------------


def test_a_missing_file_is_reported_with_path_and_storage(openssh):
    """The status of the server is the cause."""
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
def test_a_missing_root_is_not_an_empty_storage(openssh, kind):
    """A file system that is not mounted must not look like one without files."""
    (openssh.folder / "file").touch()
    with closing(make_storage(openssh, root=kind)) as storage:
        for operation in (storage.list, lambda: storage.read("a.txt"), lambda: storage.write("a.txt", b"1")):
            with pytest.raises(StorageError, match=f"the root '{kind}' (is not a directory|does not exist)") as caught:
                operation()
            assert type(caught.value) is StorageError
    assert not (openssh.folder / "missing").exists()


def test_a_root_that_disappears_is_not_an_empty_storage(openssh):
    """The same while a session is open."""
    with closing(make_storage(openssh)) as storage:
        storage.write("d/a.txt", b"1")
        root = openssh.folder / storage.root
        moved = root.with_name(f"{root.name}-moved")

        for operation in (
            storage.list,
            storage.sweep,
            lambda: storage.exists("d/a.txt"),
            lambda: storage.read("d/a.txt"),
            lambda: storage.write("a.txt", b"1"),
            lambda: storage.write("d/e/a.txt", b"1"),
        ):
            storage.stat("d/a.txt")
            root.rename(moved)
            with pytest.raises(StorageError, match=r"the root .* does not exist"):
                operation()
            moved.rename(root)

        assert [entry.name for entry in storage.list()] == ["d/a.txt"]


def test_a_path_that_is_too_long_for_the_server_is_invalid(openssh):
    """The path is short enough, but not together with the root."""
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


# -- permissions ------------------------------------------------------------------------------------------------------


def errors_of_changes(storage):
    """Check that every operation that changes ``d/a.txt`` raises an error; return the types."""
    changes = {
        "write": lambda: storage.write("d/a.txt", b"new"),
        "long write": lambda: storage.write("d/a.txt", bytes(9 * MIB)),
        "new directory": lambda: storage.write("e/f/b.txt", b"new"),
        "copy": lambda: storage.copy("d/a.txt", "d/b.txt"),
        "move": lambda: storage.move("d/a.txt", "d/b.txt"),
        "delete": lambda: storage.delete("d/a.txt"),
        "delete_prefix": lambda: storage.delete_prefix("d"),
        "edit": lambda: storage.open("d/a.txt", "rw"),
        "save": lambda: storage.save("d/a.txt", b"new"),
    }
    types = {}
    for name, operation in changes.items():
        with pytest.raises(StorageError) as caught:
            operation()
        types[name] = type(caught.value)
        assert STEP.search(str(caught.value)), caught.value
    return types


def test_a_read_only_server_raises_permission_denied(openssh):
    """``internal-sftp -R``: never "not found", and everything can still be read."""
    server = type(openssh)(arguments="-R")
    try:
        (server.folder / "root/d").mkdir(parents=True)
        (server.folder / "root/d/a.txt").write_bytes(b"old")
        with closing(make_storage(server, root="root")) as storage:
            types = errors_of_changes(storage)

            assert set(types.values()) == {PermissionDeniedError}, types
            assert storage.read("d/a.txt") == b"old"
            assert [entry.name for entry in storage.list()] == ["d/a.txt"]
    finally:
        server.remove()


@pytest.fixture(scope="module")
def unprivileged_server(openssh):
    """A server that runs without root, so that modes count."""
    setpriv = f"setpriv --reuid={UNPRIVILEGED_UID} --regid={UNPRIVILEGED_UID} --clear-groups "
    server = type(openssh)(f"ForceCommand {setpriv if os.getuid() == 0 else ''}{SERVER}")
    server.home.chmod(0o755)
    yield server
    server.remove()


@pytest.fixture
def shared(unprivileged_server):
    """A storage with ``d/a.txt`` that every user may read and only its owner may change."""
    root = unprivileged_server.folder / "shared"
    (root / "d").mkdir(parents=True)
    (root / "d/a.txt").write_bytes(b"old")
    for path, mode in ((root, 0o755), (root / "d", 0o755), (root / "d/a.txt", 0o644)):
        path.chmod(mode)
    with closing(make_storage(unprivileged_server, root=str(root))) as storage:
        yield storage
    (root / "d").chmod(0o755)
    root.chmod(0o755)
    shutil.rmtree(root)


def local_path(storage, path):
    """Return the path of a file of a storage on this machine."""
    return os.path.join(storage.root, path)


def test_a_directory_without_write_permission_raises_permission_denied(shared):
    """For the root and for directories below."""
    for directory in ("", "d"):
        os.chmod(local_path(shared, directory), 0o555)

    types = errors_of_changes(shared)

    assert set(types.values()) == {PermissionDeniedError}, types
    assert shared.read("d/a.txt") == b"old"
    assert [entry.name for entry in shared.list()] == ["d/a.txt"]


@pytest.mark.parametrize("operation", ["read", "get", "edit", "copy"])
def test_a_file_without_read_permission_raises_permission_denied(shared, operation, tmp_path):
    """It is not "not found", and ``stat`` works."""
    os.chmod(local_path(shared, "d/a.txt"), 0o000)
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


def test_a_directory_that_may_not_be_listed_is_shown_but_not_read(shared):
    """It is not empty: this user cannot know."""
    os.chmod(local_path(shared, "d"), 0o000)

    assert [entry.name for entry in shared.list(recursive=False)] == ["d/"]
    for operation in (shared.list, lambda: shared.stat("d/a.txt"), lambda: shared.exists("d/a.txt")):
        with pytest.raises(PermissionDeniedError):
            operation()


def test_lost_and_found_is_ignored(shared):
    """It is in the root of a volume, and only root may read it."""
    os.mkdir(local_path(shared, "lost+found"), 0o700)

    assert [entry.name for entry in shared.list()] == ["d/a.txt"]
    assert [entry.name for entry in shared.list(recursive=False)] == ["d/"]
    assert shared.sweep() == 0


def test_a_sweep_that_is_refused_in_one_directory_sweeps_the_others(shared):
    """And raises an error."""
    for name in ("d/.fs-tmp-1", ".fs-tmp-2"):
        Path(local_path(shared, name)).touch()
        os.utime(local_path(shared, name), (0, 0))
    os.chmod(local_path(shared, ""), 0o777)
    os.mkdir(local_path(shared, "a"), 0o700)

    with pytest.raises(PermissionDeniedError):
        shared.sweep()

    assert os.path.exists(local_path(shared, "d/.fs-tmp-1"))
    assert not os.path.exists(local_path(shared, ".fs-tmp-2"))


def test_connection_translates_a_refused_session(make_openssh):
    """Errors of calls in the block are paramiko's."""
    with (
        closing(make_storage(make_openssh("MaxSessions 0"))) as storage,
        pytest.raises(StorageUnavailableError, match="check its MaxSessions"),
        storage.connection(),
    ):
        raise AssertionError


# -- full disks -------------------------------------------------------------------------------------------------------


def may_mount():
    """Return whether this process may mount file systems: root in a container often may not."""
    process = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return process.returncode == 0


@contextmanager
def small_disk(openssh, monkeypatch):
    """A disk of 8 MiB on the server."""
    disk = openssh.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", str(disk)], check=True)
    try:
        yield openssh, disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the server may still have files open
        disk.rmdir()


@contextmanager
def small_files(openssh, monkeypatch):
    """A server that may not write files of more than 8 MiB, and fails as with a full disk."""
    server = type(openssh)(f"ForceCommand trap '' XFSZ; ulimit -f {SMALL // 1024}; exec {SERVER}")
    disk = server.folder / "disk"
    disk.mkdir()
    try:
        yield server, disk
    finally:
        server.remove()


def set_statvfs(monkeypatch, *fields):
    """Let servers respond with these fields to statvfs requests."""
    original = Session.extended

    def extended(session, name, *request_fields):
        if name != STATVFS:
            return original(session, name, *request_fields)
        pending = PendingReply()
        pending.value, pending.is_done = struct.pack(">11Q", *fields), True
        return pending

    monkeypatch.setattr(Session, "extended", extended)


@contextmanager
def small_files_and_full_disk(openssh, monkeypatch):
    """As small_files, and statvfs reports a full disk."""
    with small_files(openssh, monkeypatch) as (server, disk):
        set_statvfs(monkeypatch, *[0] * 11)
        yield server, disk


# If this process may not mount a small disk, a limit of the server's process replaces it, which is not a full disk.
FULL_DISKS = [(small_files, StorageError), (small_disk if may_mount() else small_files_and_full_disk, StorageFullError)]


@pytest.mark.parametrize(("full_disk", "error_type"), FULL_DISKS)
@pytest.mark.parametrize("operation", ["write", "put", "stream", "edit", "copy"])
def test_a_full_disk_is_reported_and_keeps_the_old_file(
    openssh, tmp_path, monkeypatch, full_disk, error_type, operation
):
    """The old file is complete, no temporary file is left, and its space is free again."""
    (tmp_path / "source").write_bytes(bytes(16 * MIB))
    too_large = bytes(40 * MIB)
    old = os.urandom(MIB)

    def write(storage, mode):
        with storage.open("a.bin", mode) as writer:
            for _ in range(16):
                writer.write(bytes(MIB))

    operations = {
        "write": lambda storage: storage.write("a.bin", too_large),
        "put": lambda storage: storage.put(tmp_path / "source", "a.bin"),
        "stream": lambda storage: write(storage, "w"),
        "edit": lambda storage: write(storage, "rw"),
        "copy": lambda storage: storage.copy("big.bin", "a.bin"),
    }
    with full_disk(openssh, monkeypatch) as (server, disk), closing(make_storage(server, root=str(disk))) as storage:
        storage.write("a.bin", old)
        if operation == "copy":
            (disk / "big.bin").write_bytes(bytes(5 * MIB if full_disk is small_disk else 16 * MIB))
        names = sorted(os.listdir(disk))
        free = os.statvfs(disk).f_bavail
        for _ in range(3):
            with pytest.raises(error_type) as caught:
                operations[operation](storage)

            assert type(caught.value) is error_type
            assert STEP.search(str(caught.value)), caught.value
            assert (caught.value.path, caught.value.backend) == ("a.bin", storage.name)
            assert storage.read("a.bin") == old
            assert sorted(os.listdir(disk)) == names
            if full_disk is small_disk:
                wait_until(lambda: os.statvfs(disk).f_bavail == free)  # another session may still have the file open


def test_a_read_only_file_system_is_not_reported_as_full(openssh, monkeypatch):
    """The server sends the same status for both."""
    with small_files(openssh, monkeypatch) as (server, disk), closing(make_storage(server, root=str(disk))) as storage:
        set_statvfs(monkeypatch, *[0] * 9, 1, 255)
        with pytest.raises(PermissionDeniedError, match="is read-only: mount it for writing"):
            storage.write("a.bin", bytes(16 * MIB))

        assert os.listdir(disk) == []
