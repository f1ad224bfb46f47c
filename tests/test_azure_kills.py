"""A process that dies while it writes to Azure, or forgets to end: the old content or the new, nothing in between."""

import gc
import signal
from datetime import timedelta

import pytest

from tests.azure_storages import leftovers, make_storage
from tests.counts import count
from tests.dying_programs import ENDS, MIB, NEW, OLD, WRITES, content, killed, moments, on_demand, program as start

pytest_plugins = ["tests.services.azurite"]

NOW = timedelta(0)
DEEDS = {
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
def ground(azurite):
    """A storage on Azurite."""
    made = make_storage(azurite)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


@pytest.fixture
def storage(ground, azurite):
    """The storage, empty."""
    azurite.empty_container(ground.bucket)
    return ground


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The new content in a local file."""
    path = tmp_path_factory.mktemp("kills") / "source.bin"
    path.write_bytes(NEW)
    return path


@pytest.fixture
def program(azurite, storage, source):
    """Make a program of these lines, on the same container; its key is in its environment."""
    made = f"""AzureStorage(
        {azurite.account!r}, os.environ["KEY_OF_THE_ACCOUNT"], {storage.bucket!r}, endpoint_url={azurite.url!r},
        chunk_size={MIB}, concurrency=2,
    )"""
    return lambda lines: start(made, source, lines, KEY_OF_THE_ACCOUNT=azurite.key)


@pytest.mark.parametrize("deed", DEEDS)
def test_killed_at_any_moment_nothing_is_torn(program, storage, deed):
    """The old content is whole, or the new is; and a sweep leaves no note of an upload."""
    lines = on_demand(DEEDS[deed])
    storage.write("source.bin", NEW)
    storage.write("a.bin", OLD)
    end, duration = killed(program(lines))
    assert end == 0
    assert content(storage, "a.bin") == NEW
    assert not leftovers(storage)
    ends = []

    for after in moments(duration, count(3, 50)):
        storage.write("a.bin", OLD)
        ends.append(killed(program(lines), after)[0])

        assert content(storage, "a.bin") in (OLD, NEW)
        storage.sweep(NOW)
        assert content(storage, "a.bin") in (OLD, NEW)
        # What was sent and never committed is in nobody's way.
        storage.write("a.bin", NEW[:1000])
        assert content(storage, "a.bin") == NEW[:1000]

    # What was on its way to the server when the process died may have arrived since.
    storage.sweep(NOW)
    assert not leftovers(storage)
    assert [entry.name for entry in storage.list()] == ["a.bin", "source.bin"]
    assert -signal.SIGKILL in ends


def test_a_process_that_is_killed_amid_an_upload_of_parts_leaves_a_note_for_the_sweep(program, storage):
    """It is hidden, it is found, and it goes; a sweep of what is older leaves it."""
    storage.write("a.bin", OLD)
    lines = """
    from flask_storage.types import WriteOptions
    upload = storage.multipart.create("a.bin", WriteOptions())
    storage.multipart.upload_part("a.bin", upload, 1, b"new")
    print("ready", flush=True)
    sys.stdin.readline()
    sys.stdin.readline()
    """

    assert killed(program(lines), 0)[0] == -signal.SIGKILL

    assert len(leftovers(storage)) == 1
    assert [entry.name for entry in storage.list()] == ["a.bin"]
    assert storage.sweep(timedelta(hours=1)) == 0
    assert storage.sweep(NOW) == 1
    assert not leftovers(storage)
    assert content(storage, "a.bin") == OLD


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [4, 2 * MIB + 1])
def test_a_program_that_ends_with_an_open_writer_publishes_nothing(program, storage, end, size):
    """However the interpreter goes: nothing becomes visible, and no note is left."""
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
def test_a_writer_that_is_forgotten_warns_and_publishes_nothing(storage, size):
    """Garbage collection never talks to the service, and what it holds already is visible to nobody."""
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


def test_a_forgotten_writer_says_so_at_the_end_of_a_program(program, storage):
    """Whoever runs Python with its warnings on is told which file was lost."""
    with program("import warnings\nwarnings.simplefilter('always')\nstorage.open('new.bin', 'w')\n") as process:
        _, errors = process.communicate(timeout=60)

    assert "unclosed writer" in errors
    assert "nothing was published" in errors
    assert not storage.exists("new.bin")
