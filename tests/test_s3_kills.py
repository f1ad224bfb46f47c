"""A process that is killed while it writes to S3, or does not close a writer: the old content or the new, complete."""

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
from tests.s3_storages import make_storage

pytest_plugins = ["tests.services.s3"]

NOW = timedelta(0)
OPERATIONS = {
    **WRITES,
    "copy one request": """
        storage.copy("source.bin", "a.bin")
    """,
    "copy multipart": """
        import flask_storage.backends.s3.copy as copy_module
        from flask_storage.types import WriteOptions
        copy_module._PART = 5 << 20
        bucket = storage._gateway
        copy_module.copy_object(
            bucket, "source.bin", bucket.head("source.bin"), "a.bin", WriteOptions(), storage._workers,
            multipart_threshold=1,
        )
    """,
}


@pytest.fixture(scope="module")
def storage(rgw):
    """A storage on Ceph."""
    storage = make_storage(rgw)
    yield storage
    storage.close()
    rgw.remove_bucket(storage.bucket)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The new content in a local file."""
    path = tmp_path_factory.mktemp("kills") / "source.bin"
    path.write_bytes(NEW)
    return path


@pytest.fixture
def program(rgw, storage, source):
    """Return a function that runs a program with these lines on the same bucket; credentials are in its environment."""
    expression = f"""S3Storage(
        {storage.bucket!r}, {rgw.region!r}, endpoint_url={rgw.http!r}, preset={rgw.preset!r},
        addressing_style="path", concurrency=2,
    )"""
    keys = {"AWS_ACCESS_KEY_ID": rgw.access_key, "AWS_SECRET_ACCESS_KEY": rgw.secret_key}
    return lambda lines: start(expression, source, lines, **keys)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_killed_write_is_atomic(program, storage, operation):
    """The old or the new content is complete, and a sweep removes the unfinished upload."""
    lines = on_demand(OPERATIONS[operation])
    storage.write("source.bin", NEW)
    storage.write("a.bin", OLD)
    end, duration = run_and_kill(program(lines))
    assert end == 0
    assert content(storage, "a.bin") == NEW
    ends = []

    for after in random_times(duration, count(3, 50)):
        storage.write("a.bin", OLD)
        ends.append(run_and_kill(program(lines), after)[0])

        assert content(storage, "a.bin") in (OLD, NEW)
        storage.sweep(NOW)
        assert content(storage, "a.bin") in (OLD, NEW)

    # Requests that were in transit when the process was killed may have arrived since.
    storage.sweep(NOW)
    assert not list(storage.multipart.list_uploads())
    assert -signal.SIGKILL in ends


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [4, 6 * MIB])
@pytest.mark.parametrize("path", ["old.bin", "new.bin"])
def test_a_program_that_ends_with_an_open_writer_publishes_nothing(program, storage, end, size, path):
    """However the interpreter exits, and a sweep removes the parts that were sent."""
    storage.write("old.bin", OLD)
    storage.delete("new.bin")

    with program(f"writer = storage.open({path!r}, 'w')\nwriter.write(bytes({size}))\n{ENDS[end]}\n") as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == (1 if end == "an error" else 0), errors
    assert content(storage, "old.bin") == OLD
    assert not storage.exists("new.bin")
    storage.sweep(NOW)
    assert not list(storage.multipart.list_uploads())


@pytest.mark.parametrize("size", [0, 4, 6 * MIB, 11 * MIB])
def test_an_unclosed_writer_warns_and_publishes_nothing(storage, size):
    """The garbage collector sends no request to the service; the sweep removes the parts."""
    storage.write("old.bin", OLD)

    for path in ("old.bin", "new.bin"):
        writer = storage.open(path, "w")
        writer.write(bytes(size))
        with pytest.warns(ResourceWarning, match="unclosed writer"):  # noqa: PT031 - dropping it is two steps
            del writer
            gc.collect()

    storage.sweep(NOW)
    assert content(storage, "old.bin") == OLD
    assert content(storage, "new.bin") is None


def test_an_unclosed_writer_warns_at_the_end_of_a_program(program, storage):
    """With warnings enabled, the message names the file that was lost."""
    with program("import warnings\nwarnings.simplefilter('always')\nstorage.open('new.bin', 'w')\n") as process:
        _, errors = process.communicate(timeout=60)

    assert "unclosed writer" in errors
    assert "nothing was published" in errors
    assert not storage.exists("new.bin")
