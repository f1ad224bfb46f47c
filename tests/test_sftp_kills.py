"""Processes that are killed while they write over SFTP, or exit with open writers: no file is ever partly written."""

import gc
import signal
from datetime import timedelta

import pytest

from tests.counts import count
from tests.killed_programs import (
    ENDS,
    MIB,
    NEW,
    OLD,
    WRITES,
    content,
    on_demand,
    program as start,
    random_times,
    run_and_kill,
)
from tests.sftp_storages import make_storage, temporary_files, wait_until_idle

pytest_plugins = ["tests.services.openssh"]

NOW = timedelta(0)
OPERATIONS = {
    "write in pieces": WRITES["write in pieces"],
    "upload in several sessions": """
        import flask_storage.backends.sftp.upload as upload_module
        upload_module.NEAR_ROUND_TRIP = 0
        with open(source, "rb") as file:
            storage.upload(file, "a.bin")
    """,
    "multipart upload": """
        from flask_storage.types import WriteOptions
        upload = storage.multipart.create("a.bin", WriteOptions())
        parts = []
        with open(source, "rb") as file:
            while piece := file.read(1 << 20):
                parts.append(storage.multipart.upload_part("a.bin", upload, len(parts) + 1, piece))
        storage.multipart.complete("a.bin", upload, parts, WriteOptions())
    """,
    "edit": """
        with storage.open("a.bin", "rw") as file, open(source, "rb") as new:
            while piece := new.read(1 << 20):
                file.write(piece)
    """,
    "copy": """
        storage.copy("source.bin", "a.bin")
    """,
}


@pytest.fixture(scope="module")
def server(make_openssh):
    """A server that no other test module uses."""
    return make_openssh("MaxSessions 10")


@pytest.fixture
def storage(server):
    """An empty storage; after the test, a sweep removes all temporary files."""
    storage = make_storage(server)
    yield storage
    storage.close()
    wait_until_idle(server)
    storage.sweep(NOW)
    assert not temporary_files(storage)
    storage.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A local file with the new content."""
    path = tmp_path_factory.mktemp("kills") / "source.bin"
    path.write_bytes(NEW)
    return path


@pytest.fixture
def program(storage, server, source):
    """Return a function that starts a program of these lines, with a storage on the same directory."""
    constructor = f"SFTPStorage(**{server.login!r}, root={storage.root!r})"
    return lambda lines: start(constructor, source, lines)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_process_that_is_killed_leaves_the_old_file_or_the_new_one(program, storage, server, operation):
    """At any time; a sweep removes all temporary files."""
    lines = on_demand(OPERATIONS[operation])
    storage.write("source.bin", NEW)
    storage.write("a.bin", OLD)
    end, duration = run_and_kill(program(lines))
    assert end == 0
    assert content(storage, "a.bin") == NEW
    assert not temporary_files(storage)
    exit_codes = []

    for after in random_times(duration, count(6, 50)):
        storage.write("a.bin", OLD)
        exit_codes.append(run_and_kill(program(lines), after)[0])

        assert content(storage, "a.bin") in (OLD, NEW)
        assert [entry.name for entry in storage.list()] == ["a.bin", "source.bin"]
        # The server still processes the requests that the process had sent.
        storage.close()
        wait_until_idle(server)
        storage.sweep(NOW)
        assert not temporary_files(storage)
        assert content(storage, "a.bin") in (OLD, NEW)

    assert -signal.SIGKILL in exit_codes


def test_a_process_that_is_killed_during_a_write_leaves_a_temporary_file(program, storage):
    """A sweep of older files keeps it, and one of all files removes it."""
    storage.write("deep/a.bin", OLD)
    lines = f"""
    writer = storage.open("deep/a.bin", "w")
    writer.write(bytes({8 * MIB}))
    print("ready", flush=True)
    sys.stdin.readline()
    sys.stdin.readline()
    """

    assert run_and_kill(program(lines), 0)[0] == -signal.SIGKILL

    assert len(temporary_files(storage)) == 1
    assert [entry.name for entry in storage.list()] == ["deep/a.bin"]
    assert storage.sweep(timedelta(hours=1)) == 0
    assert storage.sweep(NOW) == 1
    assert not temporary_files(storage)
    assert content(storage, "deep/a.bin") == OLD


def test_a_process_that_is_killed_during_a_multipart_upload_leaves_its_directory(program, storage):
    """A sweep counts the directory as one."""
    storage.write("a.bin", OLD)
    lines = """
    from flask_storage.types import WriteOptions
    upload = storage.multipart.create("a.bin", WriteOptions())
    storage.multipart.upload_part("a.bin", upload, 1, b"new")
    print("ready", flush=True)
    sys.stdin.readline()
    sys.stdin.readline()
    """

    assert run_and_kill(program(lines), 0)[0] == -signal.SIGKILL

    assert temporary_files(storage)
    assert len(list(storage.multipart.list_uploads())) == 1
    assert [entry.name for entry in storage.list()] == ["a.bin"]
    assert storage.sweep(timedelta(hours=1)) == 0
    assert storage.sweep(NOW) == 1
    assert not temporary_files(storage)
    assert content(storage, "a.bin") == OLD


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [4, 9 * MIB])
def test_a_program_that_exits_with_an_open_writer_publishes_nothing(program, storage, end, size):
    """However the interpreter exits, it exits immediately, and a sweep removes the temporary files."""
    storage.write("old.bin", OLD)
    lines = f"""
    writers = [storage.open(path, "w") for path in ("old.bin", "new.bin")]
    for writer in writers:
        writer.write(bytes({size}))
    {ENDS[end]}
    """

    with program(lines) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == (1 if end == "an error" else 0), errors
    assert content(storage, "old.bin") == OLD
    assert not storage.exists("new.bin")


@pytest.mark.parametrize("size", [0, 4, 9 * MIB])
def test_a_writer_that_is_never_closed_warns_and_publishes_nothing(storage, size):
    """The finalizer does not use the network; the sweep removes the temporary file."""
    storage.write("old.bin", OLD)

    for path in ("old.bin", "new.bin"):
        writer = storage.open(path, "w")
        writer.write(bytes(size))
        with pytest.warns(ResourceWarning, match="unclosed writer"):  # noqa: PT031 - dropping it is two steps
            del writer
            gc.collect()

    assert content(storage, "old.bin") == OLD
    assert content(storage, "new.bin") is None


def test_a_writer_that_is_open_at_exit_warns(program, storage):
    """With warnings enabled, and the path of the file."""
    with program("import warnings\nwarnings.simplefilter('always')\nstorage.open('new.bin', 'w')\n") as process:
        _, errors = process.communicate(timeout=60)

    assert "unclosed writer" in errors
    assert "nothing was published" in errors
    assert not storage.exists("new.bin")
