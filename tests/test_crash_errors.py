"""A system call that fails, whichever, is an error of ours, and nothing that was stored is touched."""

import errno
import os
import re

import pytest

from flask_storage import LocalFSStorage, StorageError
from tests.counts import count
from tests.crash.deeds import DEEDS, view
from tests.crash.tracing import Driver, changes
from tests.test_crash_kills import NOW, remains

KINDS = {
    "EIO": "LocalFSError",
    "ENOSPC": "StorageFullError",
    "EDQUOT": "StorageFullError",
    "EINTR": "LocalFSError",
    "EACCES": "PermissionDeniedError",
}
NOT_ALL = (
    "put_exclusive",
    "put_into_folders",
    "put_local_file",
    "edit",
    "copy",
    "move_between_folders",
    "finish_parts",
)
EVERYDAY = [(name, "EIO") for name in DEEDS] + [(name, "ENOSPC") for name in NOT_ALL]
FULL = [(name, code) for name in DEEDS for code in ("EIO", "ENOSPC", "EDQUOT", "EINTR")]
PUBLISHES = re.compile(r"(rename|renameat|renameat2|link|linkat|unlink|unlinkat)\(")
REMOVES = re.compile(r"(unlink|unlinkat|rmdir)\(.*INJECTED")


@pytest.fixture(scope="module")
def driver():
    """The program whose children do the deeds."""
    with Driver() as driver:
        yield driver


def fail_each(driver, name, code, calls, directory):
    """Do a deed once for each of its system calls, which fails; yield how each ended."""
    deed = DEEDS[name]
    for call, times in calls.items():
        for number in range(1, times + 1):
            root = directory / f"{call}-{number}" / "root"
            root.parent.mkdir()
            _, told = deed.ready(root)
            end, lines = driver.traced(name, root, told, "-e", f"inject={call}:error={code}:when={number}")
            assert sum("INJECTED" in line for line in lines) == 1
            yield root, end, lines


def target(line):
    """The file or directory that the descriptor of a call belongs to."""
    return line.partition("<")[2].partition(">")[0]


def expected(code, line):
    """The types that may tell of this failure of this call."""
    if "/source>" in line or '/source"' in line:
        return {"OSError"}  # the caller's own file, and no matter of the storage
    if "xattr" in line and code == "ENOSPC":
        return {"UnsupportedOperationError"}  # the disk has room, so it is the metadata that has none
    return {KINDS[code]}


@pytest.mark.parametrize(("name", "code"), EVERYDAY + [pair for pair in FULL if pair not in EVERYDAY][: count(0, 999)])
def test_a_failing_system_call_is_an_error_of_ours_and_harms_nothing(name, code, driver, tmp_path):
    """The error has our type, what was there is there, and no hidden file stays that could be removed."""
    deed = DEEDS[name]
    (tmp_path / "whole").mkdir()
    _, told = deed.ready(tmp_path / "whole" / "root")
    calls = changes(driver.traced(name, tmp_path / "whole" / "root", told)[1])
    raised = 0

    for root, end, lines in fail_each(driver, name, code, calls, tmp_path):
        storage = LocalFSStorage(root)
        shown = view(storage)
        injected = next(number for number, line in enumerate(lines) if "INJECTED" in line)
        published = any(PUBLISHES.match(line) and line.endswith("= 0") for line in lines[:injected])
        assert end["status"] == 0
        assert shown in deed.views()
        if end["raised"] is None:
            assert shown == deed.views()[-1]
        else:
            raised += 1
            assert set(end["raised"]["types"]) & expected(code, lines[injected])
            assert published or shown == deed.views()[0]
        begun = "upload_id" in told or (name == "begin_parts" and not end["raised"])
        if not begun and not REMOVES.match(lines[injected]):
            assert not [name for name in remains(root) if name.startswith(".fs-tmp-")]
        storage.sweep(NOW)
        assert not list(remains(root))

    assert raised


@pytest.mark.parametrize("name", DEEDS)
def test_a_file_that_may_not_be_opened_is_a_refusal(name, driver, tmp_path):
    """Whichever open is denied: PermissionDeniedError, and everything as before."""
    deed = DEEDS[name]
    (tmp_path / "whole").mkdir()
    _, told = deed.ready(tmp_path / "whole" / "root")
    calls = changes(driver.traced(name, tmp_path / "whole" / "root", told)[1])

    refused = [
        (end["raised"]["types"], view(LocalFSStorage(root)))
        for root, end, _ in fail_each(driver, name, "EACCES", {"openat": calls["openat"]}, tmp_path)
        if end["raised"]
    ]

    assert refused
    for types, shown in refused:
        assert "StorageError" in types or name == "put_local_file"
        assert "PermissionError" in types
        assert shown in deed.views()


@pytest.mark.parametrize("code", ["EXDEV", "EINVAL", "ENOSYS", "EOPNOTSUPP", "EPERM", "EIO"])
@pytest.mark.parametrize("name", ["put_local_file", "copy", "edit", "finish_parts"])
def test_where_the_kernel_refuses_to_copy_the_bytes_are_the_same(name, code, driver, tmp_path):
    """`copy_file_range` is only the quick way: without it the content goes through the process."""
    deed = DEEDS[name]
    _, told = deed.ready(tmp_path / "root")

    end, lines = driver.traced(name, tmp_path / "root", told, "-e", f"inject=copy_file_range:error={code}")

    assert end["raised"] is None
    assert view(LocalFSStorage(tmp_path / "root")) == deed.views()[-1]
    assert any(line.startswith("pread64(") for line in lines)


@pytest.mark.parametrize("name", ["put_exclusive", "move_exclusive"])
def test_without_hard_links_an_exclusive_write_still_works(name, driver, tmp_path):
    """Some file systems have no links: the name is looked at and given while the directory is locked."""
    deed = DEEDS[name]
    _, told = deed.ready(tmp_path / "root")

    end, lines = driver.traced(name, tmp_path / "root", told, "-e", "inject=link,linkat:error=EPERM")

    assert end["raised"] is None
    assert view(LocalFSStorage(tmp_path / "root")) == deed.views()[-1]
    assert sum("INJECTED" in line for line in lines) == 1


def test_without_locks_everything_but_conditions_works(driver, tmp_path):
    """A network file system without locks stores as ever."""
    deed = DEEDS["put_over"]
    _, told = deed.ready(tmp_path / "root")

    end, lines = driver.traced("put_over", tmp_path / "root", told, "-e", "inject=flock:error=ENOLCK")

    assert end["raised"] is None
    assert view(LocalFSStorage(tmp_path / "root")) == deed.views()[-1]
    assert any("INJECTED" in line for line in lines)


def test_a_file_system_that_syncs_no_folder_is_no_error(driver, tmp_path):
    """Some cannot (EINVAL), and need not."""
    deed = DEEDS["move"]
    _, told = deed.ready(tmp_path / "root")

    end, lines = driver.traced("move", tmp_path / "root", told, "-e", "inject=fsync:error=EINVAL")

    assert end["raised"] is None
    assert sum("INJECTED" in line for line in lines) == 2


@pytest.mark.parametrize("name", DEEDS)
def test_without_fsync_nothing_is_synced(name, driver, tmp_path):
    """The option means every verb."""
    _, told = DEEDS[name].ready(tmp_path / "root")

    end, lines = driver.traced(name, tmp_path / "root", told, fsync=False)

    assert end["raised"] is None
    assert not changes(lines)["fsync"]
    assert view(LocalFSStorage(tmp_path / "root")) == DEEDS[name].views()[-1]


def test_content_is_durable_before_it_is_visible_and_its_name_before_it_is_reported(driver, tmp_path):
    """Each new directory in the one above it, the file, the rename, the file's directory: in this order."""
    _, told = DEEDS["put_into_folders"].ready(tmp_path / "root")

    _, lines = driver.traced("put_into_folders", tmp_path / "root", told)

    steps = [line for line in lines if re.match(r"(mkdir|fsync|rename)", line)]
    kinds = [
        "made" if line.startswith("mkdir") else "renamed" if line.startswith("rename") else target(line)
        for line in steps
    ]
    root = str(tmp_path / "root")
    assert kinds[:4] == ["made", root, "made", f"{root}/x"]
    assert re.fullmatch(rf"{root}/x/y/\.fs-tmp-\w+", kinds[4])
    assert kinds[5:] == ["renamed", f"{root}/x/y"]


@pytest.mark.parametrize(("name", "directories"), [("delete", ["d/e"]), ("delete_prefix", ["d/e", "d"])])
def test_a_deletion_is_durable_before_it_is_reported(name, directories, driver, tmp_path):
    """The directory that held the file is synced after the last file in it is gone, and before it goes itself."""
    _, told = DEEDS[name].ready(tmp_path / "root")

    _, lines = driver.traced(name, tmp_path / "root", told)

    synced = [target(line) for line in lines if line.startswith("fsync")]
    assert synced == [str(tmp_path / "root" / directory) for directory in directories]


@pytest.mark.parametrize("name", ["copy", "put_local_file", "finish_parts"])
def test_a_copy_is_made_by_the_kernel(name, driver, tmp_path):
    """No byte of the content passes through the process."""
    _, told = DEEDS[name].ready(tmp_path / "root")

    _, lines = driver.traced(name, tmp_path / "root", told)

    assert changes(lines)["copy_file_range"]
    assert not changes(lines)["write"]
    assert not [line for line in lines if "new!" in line or "old " in line]


def test_the_errors_that_are_staged_are_those_of_this_system():
    """What `strace` calls them, Python calls them."""
    assert all(hasattr(errno, code) for code in KINDS)
    assert all(issubclass(getattr(__import__("flask_storage").errors, kind), StorageError) for kind in KINDS.values())
    assert os.sep == "/"
