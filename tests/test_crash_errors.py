"""When any system call fails, the operation raises a storage error, and no stored file is damaged."""

import errno
import os
import re

import pytest

from flask_storage import LocalFSStorage, StorageError
from tests.counts import count
from tests.crash.scenarios import SCENARIOS, state_of
from tests.crash.tracing import Runner, changes
from tests.test_crash_kills import NOW, leftovers

ERRORS = {
    "EIO": "LocalFSError",
    "ENOSPC": "StorageFullError",
    "EDQUOT": "StorageFullError",
    "EINTR": "LocalFSError",
    "EACCES": "PermissionDeniedError",
}
SELECTED = (
    "put_exclusive",
    "put_into_directories",
    "put_local_file",
    "edit",
    "copy",
    "move_between_directories",
    "complete_upload",
)
DEFAULT_CASES = [(name, "EIO") for name in SCENARIOS] + [(name, "ENOSPC") for name in SELECTED]
ALL_CASES = [(name, code) for name in SCENARIOS for code in ("EIO", "ENOSPC", "EDQUOT", "EINTR")]
PUBLISHES = re.compile(r"(rename|renameat|renameat2|link|linkat|unlink|unlinkat)\(")
REMOVES = re.compile(r"(unlink|unlinkat|rmdir)\(.*INJECTED")


@pytest.fixture(scope="module")
def runner():
    """The program that runs the scenarios in its children."""
    with Runner() as runner:
        yield runner


def fail_each(runner, name, code, calls, directory):
    """Run a scenario once for each of its system calls and make that call fail; yield root, outcome and trace."""
    scenario = SCENARIOS[name]
    for call, times in calls.items():
        for number in range(1, times + 1):
            root = directory / f"{call}-{number}" / "root"
            root.parent.mkdir()
            _, data = scenario.set_up(root)
            outcome, lines = runner.traced(name, root, data, "-e", f"inject={call}:error={code}:when={number}")
            assert sum("INJECTED" in line for line in lines) == 1
            yield root, outcome, lines


def target(line):
    """Return the file or directory that the descriptor of a call belongs to."""
    return line.partition("<")[2].partition(">")[0]


def expected(code, line):
    """Return the error types that are allowed for this failure."""
    if "/source>" in line or '/source"' in line:
        return {"OSError"}  # the caller's own file, so no storage error
    if "xattr" in line and code == "ENOSPC":
        return {"UnsupportedOperationError"}  # the disk is not full, so the metadata are too long
    return {ERRORS[code]}


@pytest.mark.parametrize(
    ("name", "code"), DEFAULT_CASES + [pair for pair in ALL_CASES if pair not in DEFAULT_CASES][: count(0, 999)]
)
def test_a_failing_system_call_raises_a_storage_error_and_changes_nothing(name, code, runner, tmp_path):
    """The error has the expected type, the state is allowed, and hidden files are removed if possible."""
    scenario = SCENARIOS[name]
    (tmp_path / "whole").mkdir()
    _, data = scenario.set_up(tmp_path / "whole" / "root")
    calls = changes(runner.traced(name, tmp_path / "whole" / "root", data)[1])
    raised = 0

    for root, outcome, lines in fail_each(runner, name, code, calls, tmp_path):
        storage = LocalFSStorage(root)
        state = state_of(storage)
        injected = next(number for number, line in enumerate(lines) if "INJECTED" in line)
        published = any(PUBLISHES.match(line) and line.endswith("= 0") for line in lines[:injected])
        assert outcome["status"] == 0
        assert state in scenario.allowed_states()
        if outcome["raised"] is None:
            assert state == scenario.allowed_states()[-1]
        else:
            raised += 1
            assert set(outcome["raised"]["types"]) & expected(code, lines[injected])
            assert published or state == scenario.allowed_states()[0]
        has_upload = "upload_id" in data or (name == "create_upload" and not outcome["raised"])
        if not has_upload and not REMOVES.match(lines[injected]):
            assert not [name for name in leftovers(root) if name.startswith(".fs-tmp-")]
        storage.sweep(NOW)
        assert not list(leftovers(root))

    assert raised


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_denied_open_raises_a_permission_error(name, runner, tmp_path):
    """PermissionDeniedError for every `openat` that fails with EACCES; the stored files are unchanged."""
    scenario = SCENARIOS[name]
    (tmp_path / "whole").mkdir()
    _, data = scenario.set_up(tmp_path / "whole" / "root")
    calls = changes(runner.traced(name, tmp_path / "whole" / "root", data)[1])

    refused = [
        (outcome["raised"]["types"], state_of(LocalFSStorage(root)))
        for root, outcome, _ in fail_each(runner, name, "EACCES", {"openat": calls["openat"]}, tmp_path)
        if outcome["raised"]
    ]

    assert refused
    for types, state in refused:
        assert "StorageError" in types or name == "put_local_file"
        assert "PermissionError" in types
        assert state in scenario.allowed_states()


@pytest.mark.parametrize("code", ["EXDEV", "EINVAL", "ENOSYS", "EOPNOTSUPP", "EPERM", "EIO"])
@pytest.mark.parametrize("name", ["put_local_file", "copy", "edit", "complete_upload"])
def test_content_is_copied_by_the_process_if_the_kernel_cannot(name, code, runner, tmp_path):
    """If `copy_file_range` fails, the process reads and writes the bytes."""
    scenario = SCENARIOS[name]
    _, data = scenario.set_up(tmp_path / "root")

    outcome, lines = runner.traced(name, tmp_path / "root", data, "-e", f"inject=copy_file_range:error={code}")

    assert outcome["raised"] is None
    assert state_of(LocalFSStorage(tmp_path / "root")) == scenario.allowed_states()[-1]
    assert any(line.startswith("pread64(") for line in lines)


@pytest.mark.parametrize("name", ["put_exclusive", "move_exclusive"])
def test_exclusive_works_without_hard_links(name, runner, tmp_path):
    """On a file system without hard links, existence is checked under the lock of the directory."""
    scenario = SCENARIOS[name]
    _, data = scenario.set_up(tmp_path / "root")

    outcome, lines = runner.traced(name, tmp_path / "root", data, "-e", "inject=link,linkat:error=EPERM")

    assert outcome["raised"] is None
    assert state_of(LocalFSStorage(tmp_path / "root")) == scenario.allowed_states()[-1]
    assert sum("INJECTED" in line for line in lines) == 1


def test_writing_works_without_locks(runner, tmp_path):
    """A write without conditions needs no locks."""
    scenario = SCENARIOS["put_over"]
    _, data = scenario.set_up(tmp_path / "root")

    outcome, lines = runner.traced("put_over", tmp_path / "root", data, "-e", "inject=flock:error=ENOLCK")

    assert outcome["raised"] is None
    assert state_of(LocalFSStorage(tmp_path / "root")) == scenario.allowed_states()[-1]
    assert any("INJECTED" in line for line in lines)


def test_a_file_system_that_cannot_sync_directories_is_no_error(runner, tmp_path):
    """Some file systems report EINVAL for `fsync` of a directory."""
    scenario = SCENARIOS["move"]
    _, data = scenario.set_up(tmp_path / "root")

    outcome, lines = runner.traced("move", tmp_path / "root", data, "-e", "inject=fsync:error=EINVAL")

    assert outcome["raised"] is None
    assert sum("INJECTED" in line for line in lines) == 2


@pytest.mark.parametrize("name", SCENARIOS)
def test_without_fsync_nothing_is_synced(name, runner, tmp_path):
    """With `fsync=False` no operation calls `fsync`."""
    _, data = SCENARIOS[name].set_up(tmp_path / "root")

    outcome, lines = runner.traced(name, tmp_path / "root", data, fsync=False)

    assert outcome["raised"] is None
    assert not changes(lines)["fsync"]
    assert state_of(LocalFSStorage(tmp_path / "root")) == SCENARIOS[name].allowed_states()[-1]


def test_content_is_synced_before_publishing_and_names_before_returning(runner, tmp_path):
    """The order is: each new directory in its parent, the file, the rename, the directory of the file."""
    _, data = SCENARIOS["put_into_directories"].set_up(tmp_path / "root")

    _, lines = runner.traced("put_into_directories", tmp_path / "root", data)

    steps = [line for line in lines if re.match(r"(mkdir|fsync|rename)", line)]
    order = [
        "created" if line.startswith("mkdir") else "renamed" if line.startswith("rename") else target(line)
        for line in steps
    ]
    root = str(tmp_path / "root")
    assert order[:4] == ["created", root, "created", f"{root}/x"]
    assert re.fullmatch(rf"{root}/x/y/\.fs-tmp-\w+", order[4])
    assert order[5:] == ["renamed", f"{root}/x/y"]


@pytest.mark.parametrize(("name", "directories"), [("delete", ["d/e"]), ("delete_prefix", ["d/e", "d"])])
def test_a_deletion_is_synced_before_returning(name, directories, runner, tmp_path):
    """A directory is synced after its last file is deleted, and before the directory is removed."""
    _, data = SCENARIOS[name].set_up(tmp_path / "root")

    _, lines = runner.traced(name, tmp_path / "root", data)

    synced = [target(line) for line in lines if line.startswith("fsync")]
    assert synced == [str(tmp_path / "root" / directory) for directory in directories]


@pytest.mark.parametrize("name", ["copy", "put_local_file", "complete_upload"])
def test_content_is_copied_by_the_kernel(name, runner, tmp_path):
    """The process neither reads nor writes the content."""
    _, data = SCENARIOS[name].set_up(tmp_path / "root")

    _, lines = runner.traced(name, tmp_path / "root", data)

    assert changes(lines)["copy_file_range"]
    assert not changes(lines)["write"]
    assert not [line for line in lines if "new!" in line or "old " in line]


def test_the_injected_errors_exist_on_this_system():
    """Python and strace use the same names of error codes."""
    assert all(hasattr(errno, code) for code in ERRORS)
    assert all(issubclass(getattr(__import__("flask_storage").errors, kind), StorageError) for kind in ERRORS.values())
    assert os.sep == "/"
