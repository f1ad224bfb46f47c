"""LocalFSStorage where the file system does less than ext4: inexact times, no permissions, case-insensitive names."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pytest

from flask_storage import (
    FileExistsInStorageError,
    LocalFSError,
    LocalFSStorage,
    PermissionDeniedError,
    PreconditionFailedError,
    UnsupportedOperationError,
)
from flask_storage.errors import IntegrityError
from flask_storage.types import WriteOptions
from tests.crash.tracing import clean_environment
from tests.crash.unprivileged import run_unprivileged

SECOND = 10**9
DEFAULTS = WriteOptions()


@pytest.fixture
def make_disk(tmp_path):
    """Return a function that creates a storage without fsync in an empty directory."""
    return lambda **options: LocalFSStorage(tmp_path / "root", name="nas", create=True, fsync=False, **options)


@pytest.fixture
def refuse(monkeypatch):
    """Return a function that makes functions of :mod:`os` fail."""

    def refuse(*names, code=errno.EPERM):
        def fail(*_args, **_options):
            raise OSError(code, os.strerror(code))

        for name in names:
            monkeypatch.setattr(os, name, fail)

    return refuse


@pytest.fixture
def round_times(monkeypatch):
    """Return a function that sets the resolution of time stamps, in nanoseconds; all files have one inode number."""

    def round_status(status, resolution):
        fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        for name in ("mode", "ino", "dev", "nlink", "uid", "gid", "size"):  # they are in the tuple
            del fields[f"st_{name}"]
        for name in ("atime", "mtime", "ctime"):
            fields[f"st_{name}_ns"] -= fields[f"st_{name}_ns"] % resolution
            fields[f"st_{name}"] = fields[f"st_{name}_ns"] / SECOND
        inode = 12 if stat.S_ISREG(status.st_mode) else status.st_ino
        return os.stat_result((status.st_mode, inode, *tuple(status)[2:]), fields)

    def round_times(resolution):
        for name in ("stat", "fstat"):
            original = getattr(os, name)
            monkeypatch.setattr(
                os,
                name,
                lambda *arguments, original=original, **options: round_status(
                    original(*arguments, **options), resolution
                ),
            )

    return round_times


@pytest.fixture
def stopped_clock(monkeypatch):
    """Stop the clock for the storage: every version is written within one microsecond."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)


# -- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("resolution", [10**6, 10**7, SECOND, 2 * SECOND])
@pytest.mark.parametrize("headers", [{}, {"content_type": "text/plain", "metadata": {"by": "us"}}])
def test_two_versions_of_one_second_have_different_strong_etags(resolution, headers, make_disk, round_times):
    """Where time stamps are inexact and an inode is reused, a number in the extended attribute tells versions apart."""
    disk = make_disk()
    round_times(resolution)

    disk.write("a.txt", b"one", **headers)
    first = disk.stat("a.txt")
    disk.delete("a.txt")
    disk.write("a.txt", b"two", **headers)
    second = disk.stat("a.txt")

    assert first.last_modified == second.last_modified
    assert first.etag != second.etag
    assert first.etag_is_strong
    assert second.etag_is_strong
    assert (second.content_type, second.metadata) == (headers.get("content_type"), headers.get("metadata", {}))
    with disk.open("a.txt", "r") as file:
        assert file.info == second
    with pytest.raises(PreconditionFailedError, match="not the version"):
        disk.write("a.txt", b"new", if_match=first.etag)
    disk.write("a.txt", b"new", if_match=second.etag)
    assert disk.read("a.txt") == b"new"


def test_a_version_number_is_not_copied(make_disk, round_times):
    """A copy is a version of its own; a moved file stays the same version."""
    disk = make_disk()
    round_times(SECOND)
    disk.write("a.txt", b"one", content_type="text/plain")
    tag = disk.stat("a.txt").etag

    disk.copy("a.txt", "b.txt")
    with disk.open("b.txt", "rw"):
        pass
    disk.move("a.txt", "c.txt")

    assert disk.stat("b.txt").etag.partition("-")[0] != tag.partition("-")[0]
    assert disk.stat("b.txt").content_type == "text/plain"
    assert disk.stat("c.txt").etag == tag


@pytest.mark.parametrize("version", ["", "0123", "0123456789abcdef\n", "0123456789ABCDEF", 16, None])
def test_an_invalid_version_number_is_no_version(version, make_disk, round_times):
    """Any process with access can set the attribute."""
    disk = make_disk()
    disk.write("a.txt", b"one", content_type="text/plain")
    attribute = os.getxattr(disk.root / "a.txt", "user.flask_storage").decode()
    invalid = attribute.replace("{", f'{{"version": {version!r}, '.replace("'", '"').replace("None", "null"))
    os.setxattr(disk.root / "a.txt", "user.flask_storage", invalid.encode())
    round_times(SECOND)

    info = disk.stat("a.txt")

    assert info.content_type == "text/plain"
    assert not info.etag_is_strong


def test_without_exact_times_and_attributes_etags_are_weak_and_if_match_is_refused(make_disk, round_times, refuse):
    """The storage declares it, and nothing is overwritten."""
    disk = make_disk()
    round_times(SECOND)
    refuse("getxattr", "setxattr", code=errno.ENOTSUP)

    disk.write("a.txt", b"one")

    info = disk.stat("a.txt")
    assert not info.etag_is_strong
    assert not disk.capabilities.if_match
    with pytest.raises(UnsupportedOperationError, match="compare the stored version"):
        disk.write("a.txt", b"two", if_match=info.etag)
    assert disk.read("a.txt") == b"one"


@pytest.mark.parametrize("operation", ["write", "copy", "move"])
def test_if_match_is_refused_for_a_file_without_a_provable_version(operation, make_disk, round_times):
    """Another program has written it, or it is on another file system; a wrong etag is still told apart."""
    disk = make_disk()
    disk.write("other.txt", b"other")
    (disk.root / "a.txt").write_bytes(b"one")
    round_times(SECOND)
    run = {
        "write": lambda tag: disk.write("a.txt", b"two", if_match=tag),
        "copy": lambda tag: disk.copy("other.txt", "a.txt", if_match=tag),
        "move": lambda tag: disk.move("other.txt", "a.txt", if_match=tag),
    }[operation]

    with pytest.raises(UnsupportedOperationError, match=r"no exact time stamps.*omit it"):
        run(disk.stat("a.txt").etag)
    with pytest.raises(PreconditionFailedError):
        run("12-0-3")

    assert disk.read("a.txt") == b"one"
    assert disk.read("other.txt") == b"other"


@pytest.mark.usefixtures("stopped_clock")
def test_a_replaced_part_is_noticed_where_time_stamps_are_inexact(make_disk, round_times):
    """The etags of two versions of a part differ."""
    disk = make_disk()
    round_times(SECOND)
    upload_id = disk.multipart.create("a.txt", DEFAULTS)
    first = disk.multipart.upload_part("a.txt", upload_id, 1, b"one")
    second = disk.multipart.upload_part("a.txt", upload_id, 1, b"two")

    assert disk.multipart.list_parts("a.txt", upload_id) == [second]
    with pytest.raises(IntegrityError, match="part 1 was replaced"):
        disk.multipart.complete("a.txt", upload_id, [first], DEFAULTS)
    disk.multipart.complete("a.txt", upload_id, [second], DEFAULTS)

    assert disk.read("a.txt") == b"two"


@pytest.mark.parametrize("program_time", [0, 1_700_000_000])
def test_a_whole_second_set_by_another_program_makes_no_etag_weak(program_time, make_disk):
    """Archives keep whole seconds; the time of the last status change shows that the file system is exact."""
    disk = make_disk()
    (disk.root / "a.txt").write_bytes(b"one")
    os.utime(disk.root / "a.txt", (program_time, program_time))

    assert disk.stat("a.txt").etag_is_strong


def test_the_time_stamp_of_a_version_is_never_a_whole_millisecond(make_disk, monkeypatch):
    """Otherwise the file system would look inexact, once in a thousand writes."""
    disk = make_disk()
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000 * SECOND + 500)

    disk.write("a.txt", b"one")

    assert os.stat(disk.root / "a.txt").st_mtime_ns == 1_700_000_000 * SECOND + 1000


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_a_file_system_that_does_not_set_times_gets_version_numbers(code, make_disk, refuse):
    """Only the owner may set times on FAT, and some FUSE file systems cannot."""
    disk = make_disk()
    refuse("utime", code=code)

    disk.write("a.txt", b"one")

    assert b'"version"' in os.getxattr(disk.root / "a.txt", "user.flask_storage")
    assert disk.stat("a.txt").etag_is_strong


def test_capabilities_of_a_root_that_is_gone_raise_nothing(make_disk, monkeypatch):
    """The next operation raises the error that says why."""
    disk = make_disk()
    monkeypatch.delattr(os, "getxattr")
    shutil.rmtree(disk.root)

    assert disk.capabilities.if_match


# -- permissions ------------------------------------------------------------------------------------------------------

WRITES_ON_A_MOUNT_THAT_REFUSES_CHMOD = """
import sys
from flask_storage import LocalFSStorage, StorageError
for options in ({}, {"file_mode": None, "directory_mode": None}, {"file_mode": 0o640}):
    try:
        storage = LocalFSStorage(sys.argv[1], name="nas", create=True, **options)
        storage.write("d/a.txt", b"x")
        print(storage.read("d/a.txt"))
    except StorageError as error:
        print(type(error).__name__, error)
"""


def test_a_mount_that_refuses_chmod_can_be_used(tmp_path):
    """With the defaults where nothing need be changed, with file_mode=None always; the error names the true cause."""
    environment, home = clean_environment()
    calls = "?chmod,?fchmod,?fchmodat"
    command = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EPERM", "-o", "/dev/null"]

    result = subprocess.run(
        [*command, sys.executable, "-c", WRITES_ON_A_MOUNT_THAT_REFUSES_CHMOD, tmp_path / "new/root"],
        env={**environment, "PYTHONPATH": home},
        capture_output=True,
        text=True,
        check=True,
    )

    *stored, error = result.stdout.splitlines()
    assert stored == ["b'x'", "b'x'"]
    assert error == (
        "PermissionDeniedError permissions cannot be set to 0o640: the file system refuses that (Operation not "
        "permitted), as some network mounts do; pass file_mode=None, which leaves them to the file system"
    )


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize(
    ("setting", "path"), [("file_mode", "new/a.txt"), ("directory_mode", "new/a.txt"), ("directory_mode", "")]
)
def test_a_refused_permission_names_the_setting(code, setting, path, make_disk, refuse):
    """Nothing remains of the write, and the setting in the message is the one that helps."""
    options = {setting: 0o750}
    disk = make_disk(**options) if path else None
    refuse("fchmod", code=code)

    with pytest.raises(
        PermissionDeniedError, match=f"cannot be set to 0o750: the file system refuses .*; pass {setting}=None"
    ):
        disk.write(path, b"1") if disk else make_disk(**options)

    assert not disk or not list(disk.root.iterdir())


@pytest.mark.parametrize("call", ["fchmod", "utime"])
def test_another_error_is_not_taken_for_a_refusal(call, make_disk, refuse):
    """A read-only file system has its own message."""
    disk = make_disk(file_mode=0o640)
    refuse(call, code=errno.EROFS)

    with pytest.raises(PermissionDeniedError, match="read-only"):
        disk.write("a.txt", b"1")


def test_no_mode_leaves_permissions_to_the_umask(tmp_path, monkeypatch):
    """Files and directories, the root included, get what other programs' files get."""
    before = os.umask(0o027)
    try:
        disk = LocalFSStorage(tmp_path / "new/root", create=True, file_mode=None, directory_mode="None")
        disk.write("d/a.txt", b"1")
        disk.copy("d/a.txt", "e/b.txt")
    finally:
        os.umask(before)

    assert {stat.S_IMODE(path.stat().st_mode) for path in disk.root.rglob("*.txt")} == {0o640}
    directories = [disk.root.parent, disk.root, disk.root / "d", disk.root / "e"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o750}


def test_a_read_only_file_keeps_its_headers():
    """The system lets only a user with write permission set attributes, so permissions are set last."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        disk = LocalFSStorage(directory, file_mode=0o444)

        run_unprivileged(lambda: disk.write("a.txt", b"1", content_type="text/plain"))

        assert disk.stat("a.txt").content_type == "text/plain"


def test_get_replaces_a_file_where_chmod_is_refused(make_disk, refuse, tmp_path):
    """The replaced file has the permissions of a new one already."""
    disk = make_disk()
    disk.write("a.txt", b"new")
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(0o600)
    refuse("chmod")

    disk.get("a.txt", target)

    assert target.read_bytes() == b"new"


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["renames", "keeps the name"])
def ignore_case(request, monkeypatch):
    """Let every call that takes a name find an existing one in any spelling; return what renaming to itself does.

    APFS, NTFS and SMB change the spelling. Where the kernel itself ignores case (ext4), it does nothing.
    """
    calls = {name: getattr(os, name) for name in ("stat", "open", "unlink", "mkdir", "rmdir", "rename", "link")}

    def find(name, dir_fd):
        if dir_fd is None:
            return name
        # By its path: listing a descriptor would move the position of a scan that is in progress.
        entries = os.listdir(f"/proc/self/fd/{dir_fd}")
        return next((entry for entry in entries if entry.casefold() == name.casefold()), name)

    def folding(call):
        return lambda name, *arguments, dir_fd=None, **options: calls[call](
            find(name, dir_fd), *arguments, dir_fd=dir_fd, **options
        )

    def link(name, new_name, *, src_dir_fd, dst_dir_fd, **options):
        calls["link"](
            find(name, src_dir_fd),
            find(new_name, dst_dir_fd),
            src_dir_fd=src_dir_fd,
            dst_dir_fd=dst_dir_fd,
            **options,
        )

    def rename(name, new_name, *, src_dir_fd, dst_dir_fd):
        name, found = find(name, src_dir_fd), find(new_name, dst_dir_fd)
        if request.param == "renames" and os.path.sameopenfile(src_dir_fd, dst_dir_fd) and name == found:
            found = new_name
        calls["rename"](name, found, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    for call in ("stat", "open", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(os, call, folding(call))
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "link", link)
    return request.param


def names_in(disk):
    """Return the names of all files of a storage."""
    return [entry.name for entry in disk.list()]


@pytest.mark.parametrize(
    ("path", "new_path"), [("photo.JPG", "photo.jpg"), ("Dir/x", "dir/x"), ("Dir/Sub/x", "dir/sub/X"), ("x", "X")]
)
def test_a_move_that_changes_only_the_case_keeps_the_file(path, new_path, make_disk, ignore_case):
    """On a case-insensitive file system the old name still exists afterwards: it is the new one."""
    disk = make_disk()
    disk.write(path, b"precious")

    disk.move(path, new_path)

    assert disk.read(path) == disk.read(new_path) == b"precious"
    (name,) = names_in(disk)
    assert name.casefold() == path.casefold()
    if ignore_case == "renames":
        assert name.rpartition("/")[2] == new_path.rpartition("/")[2]


def _edit(disk):
    with disk.open("dir/photo.jpg", "rw") as file:
        file.write(b"P")


@pytest.mark.usefixtures("ignore_case")
@pytest.mark.parametrize(
    ("operation", "contents"),
    [
        (lambda disk: disk.copy("Dir/Photo.JPG", "dir/photo.jpg"), [b"precious"]),
        (lambda disk: disk.write("dir/photo.jpg", b"new"), [b"new"]),
        (_edit, [b"Precious"]),
        (lambda disk: disk.save("dir/photo.jpg", b"second"), [b"precious", b"second"]),
        (lambda disk: disk.copy("a.txt", "dir/photo.jpg"), [b"other"]),
        (lambda disk: disk.move("a.txt", "dir/photo.jpg"), [b"other"]),
        (lambda disk: disk.move("Dir/Photo.JPG", "b/Photo.JPG"), [b"precious"]),
    ],
    ids=["copy to itself", "write", "edit", "save", "copy", "move", "move away"],
)
def test_another_spelling_is_the_same_file_for_every_operation(operation, contents, make_disk):
    """Nothing is lost, also by the `sweep` that follows."""
    disk = make_disk()
    disk.write("Dir/Photo.JPG", b"precious")
    disk.write("a.txt", b"other")

    operation(disk)
    disk.delete("A.TXT")
    disk.sweep(timedelta(0))

    assert sorted(disk.read(name) for name in names_in(disk)) == contents


@pytest.mark.usefixtures("ignore_case")
def test_exclusive_finds_a_file_in_another_spelling(make_disk):
    """Also where the file itself would get another spelling."""
    disk = make_disk()
    disk.write("Dir/Photo.JPG", b"precious")

    with pytest.raises(FileExistsInStorageError):
        disk.write("dir/photo.jpg", b"new", exclusive=True)
    with pytest.raises(FileExistsInStorageError):
        disk.move("Dir/Photo.JPG", "dir/photo.jpg", exclusive=True)

    assert disk.read("Dir/Photo.JPG") == b"precious"


@pytest.mark.usefixtures("ignore_case")
def test_delete_prefix_finds_a_directory_in_another_spelling(make_disk):
    """It is the same directory."""
    disk = make_disk()
    disk.write("Dir/Sub/a.txt", b"1")
    disk.write("b.txt", b"2")

    assert disk.delete_prefix("dir/SUB") == 1
    assert names_in(disk) == ["b.txt"]


@pytest.fixture
def cross_mounts(monkeypatch):
    """Let every move need a copy, as between mounts."""
    rename = os.rename

    def refuse_moves(name, *arguments, **options):
        if not name.startswith(".fs-tmp-"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(name, *arguments, **options)

    monkeypatch.setattr(os, "rename", refuse_moves)


@pytest.mark.usefixtures("ignore_case", "cross_mounts")
def test_a_move_between_two_mounts_of_one_directory_keeps_the_file(make_disk):
    """Both paths lead to one file, which is the copy when the source would be deleted."""
    disk = make_disk()
    disk.write("Dir/x", b"precious")

    disk.move("Dir/x", "dir/x")

    assert disk.read("Dir/x") == b"precious"


@pytest.mark.usefixtures("cross_mounts")
def test_a_move_by_copy_keeps_what_was_stored_concurrently(make_disk, monkeypatch):
    """It deletes only the version that it has copied."""
    disk = make_disk()
    disk.write("a.txt", b"old")
    copy = LocalFSStorage._copy_from

    def copy_slowly(*arguments):
        copy(*arguments)
        disk.write("a.txt", b"new")

    monkeypatch.setattr(LocalFSStorage, "_copy_from", copy_slowly)
    disk.move("a.txt", "b.txt")

    assert (disk.read("a.txt"), disk.read("b.txt")) == (b"new", b"old")


@pytest.mark.parametrize(("call", "exclusive"), [("rename", False), ("link", True)])
def test_a_move_gives_up_when_the_system_never_finds_the_directory(call, exclusive, make_disk, refuse):
    """A file system that refuses a name in this way must not block the caller forever."""
    disk = make_disk()
    disk.write("a.txt", b"precious")
    refuse(call, code=errno.ENOENT)

    with pytest.raises(LocalFSError, match=r"a\.txt cannot be moved to d/b\.txt: the system reported 100 times"):
        disk.move("a.txt", "d/b.txt", exclusive=exclusive)

    assert names_in(disk) == ["a.txt"]
    assert os.listdir(disk.root) == ["a.txt"]


@pytest.mark.usefixtures("ignore_case")
def test_a_second_hard_link_is_removed_by_a_move(make_disk):
    """Two spellings are one name; two links are two names."""
    disk = make_disk()
    disk.write("a.txt", b"1")
    disk.write("d/b.txt", b"1")
    for target in ("b.txt", "d/c.txt"):
        os.link(disk.root / "a.txt", disk.root / target, src_dir_fd=None, dst_dir_fd=None)

    disk.move("a.txt", "b.txt")
    disk.move("b.txt", "d/c.txt")

    assert names_in(disk) == ["d/b.txt", "d/c.txt"]


# -- what the file system does ----------------------------------------------------------------------------------------


def test_the_report_of_a_file_system_tells_what_it_does(make_disk, tmp_path):
    """On ext4 or tmpfs everything works; nothing remains in the storage."""
    make_disk().write("a.txt", b"1")
    (tmp_path / "current").symlink_to("root")
    disk = LocalFSStorage(tmp_path / "current")

    report = disk.inspect_filesystem()

    space = os.statvfs(tmp_path)
    assert report.root == tmp_path.resolve() / "root"
    assert report.symlinks == (tmp_path / "current",)
    assert (report.case_sensitive, report.permissions, report.time_resolution) == (True, "kept", 1)
    assert (report.xattrs, report.etag_is_strong) == (True, True)
    assert abs(report.free_bytes - space.f_bavail * space.f_frsize) < space.f_blocks * space.f_frsize / 2
    assert os.listdir(disk.root) == ["a.txt"]


@pytest.mark.parametrize("resolution", [100, 10**6, 10**7, SECOND, 2 * SECOND])
def test_the_report_tells_the_resolution_of_time_stamps(resolution, make_disk, round_times, refuse):
    """Without extended attributes, etags are weak where time stamps are inexact."""
    disk = make_disk()
    round_times(resolution)
    refuse("getxattr", "setxattr", code=errno.ENOTSUP)

    report = disk.inspect_filesystem()

    assert report.time_resolution == resolution
    assert (report.xattrs, report.etag_is_strong) == (False, resolution == 100)


@pytest.mark.usefixtures("ignore_case")
def test_the_report_tells_whether_case_matters(make_disk):
    """On ext4 it does, see above."""
    assert not make_disk().inspect_filesystem().case_sensitive


def test_the_report_tells_what_is_refused(make_disk, refuse, monkeypatch):
    """Permissions may also be ignored; times may not be settable."""
    disk = make_disk()
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: None)
    ignoring = disk.inspect_filesystem()
    refuse("fchmod", "utime")

    refusing = disk.inspect_filesystem()

    assert ignoring.permissions == "ignored"
    assert (refusing.permissions, refusing.time_resolution) == ("refused", None)
    assert os.listdir(disk.root) == []


def test_the_report_raises_a_storage_error_where_nothing_can_be_created(make_disk, refuse):
    """It says why."""
    disk = make_disk()
    refuse("open", code=errno.EROFS)

    with pytest.raises(PermissionDeniedError, match="read-only"):
        disk.inspect_filesystem()
