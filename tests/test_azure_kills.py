"""Processes that are killed while they write to Azure, or end with open writers: the old content or the new one."""

import gc
import signal
from datetime import timedelta

import pytest

from tests.azure_storages import leftovers, make_storage
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

pytest_plugins = ["tests.services.azurite"]

NOW = timedelta(0)
OPERATIONS = {
    **WRITES,
    "send parts": """
        from flask_storage.types import WriteOptions
        upload = storage.multipart.create("a.bin", WriteOptions())
        parts = []
        with open(source, "rb") as file:
            while piece := file.read(1 << 20):
                parts.append(storage.multipart.upload_part("a.bin", upload, len(parts) + 1, piece))
        storage.multipart.complete("a.bin", upload, parts, WriteOptions())
    """,
    "copy": """
        storage.copy("source.bin", "a.bin")
    """,
}


@pytest.fixture(scope="module")
def shared_storage(azurite):
    """A storage on Azurite."""
    storage = make_storage(azurite)
    yield storage
    storage.close()
    azurite.remove_container(storage.bucket)


@pytest.fixture
def storage(shared_storage, azurite):
    """The storage, emptied."""
    azurite.empty_container(shared_storage.bucket)
    return shared_storage


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The new content in a local file."""
    path = tmp_path_factory.mktemp("kills") / "source.bin"
    path.write_bytes(NEW)
    return path


@pytest.fixture
def program(azurite, storage, source):
    """Return a function that runs these lines in a program with a storage on the same container."""
    expression = f"""AzureStorage(
        {azurite.account!r}, os.environ["ACCOUNT_KEY"], {storage.bucket!r}, endpoint_url={azurite.url!r},
        chunk_size={MIB}, concurrency=2,
    )"""
    return lambda lines: start(expression, source, lines, ACCOUNT_KEY=azurite.key)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_process_killed_at_any_moment_leaves_complete_content(program, storage, operation):
    """The old or the new one; a sweep removes all manifests."""
    lines = on_demand(OPERATIONS[operation])
    storage.write("source.bin", NEW)
    storage.write("a.bin", OLD)
    exit_code, duration = run_and_kill(program(lines))
    assert exit_code == 0
    assert content(storage, "a.bin") == NEW
    assert not leftovers(storage)
    exit_codes = []

    for after in random_times(duration, count(3, 50)):
        storage.write("a.bin", OLD)
        exit_codes.append(run_and_kill(program(lines), after)[0])

        assert content(storage, "a.bin") in (OLD, NEW)
        storage.sweep(NOW)
        assert content(storage, "a.bin") in (OLD, NEW)
        # Blocks that were sent and never committed do not disturb later writes.
        storage.write("a.bin", NEW[:1000])
        assert content(storage, "a.bin") == NEW[:1000]

    # Requests that were on their way when the process was killed may have arrived since.
    storage.sweep(NOW)
    assert not leftovers(storage)
    assert [entry.name for entry in storage.list()] == ["a.bin", "source.bin"]
    assert -signal.SIGKILL in exit_codes


def test_the_manifest_of_a_killed_multipart_upload_is_swept(program, storage):
    """It is hidden, and a sweep of older uploads keeps it."""
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

    assert len(leftovers(storage)) == 1
    assert [entry.name for entry in storage.list()] == ["a.bin"]
    assert storage.sweep(timedelta(hours=1)) == 0
    assert storage.sweep(NOW) == 1
    assert not leftovers(storage)
    assert content(storage, "a.bin") == OLD


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [4, 2 * MIB + 1])
def test_a_program_that_ends_with_an_open_writer_publishes_nothing(program, storage, end, size):
    """Whichever way the interpreter exits, no manifest is left."""
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
    assert not leftovers(storage)


@pytest.mark.parametrize("size", [0, 4, 6 * MIB, 11 * MIB])
def test_an_unclosed_writer_warns_and_publishes_nothing(storage, size):
    """Garbage collection sends no request."""
    storage.write("old.bin", OLD)

    for path in ("old.bin", "new.bin"):
        writer = storage.open(path, "w")
        writer.write(bytes(size))
        with pytest.warns(ResourceWarning, match="unclosed writer"):  # noqa: PT031 - dropping it is two steps
            del writer
            gc.collect()

    assert content(storage, "old.bin") == OLD
    assert content(storage, "new.bin") is None
    assert not leftovers(storage)


def test_an_unclosed_writer_warns_at_the_end_of_a_program(program, storage):
    """The warning says that nothing was published."""
    with program("import warnings\nwarnings.simplefilter('always')\nstorage.open('new.bin', 'w')\n") as process:
        _, errors = process.communicate(timeout=60)

    assert "unclosed writer" in errors
    assert "nothing was published" in errors
    assert not storage.exists("new.bin")
