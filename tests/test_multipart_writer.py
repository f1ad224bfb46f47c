"""`MultipartWriter`: part sizes, memory, concurrency, retries and cleanup."""

import os
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flask_storage.errors import (
    IntegrityError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    ThrottledError,
    TooLargeError,
)
from flask_storage.multipart import MultipartStore, MultipartWriter, Part, PartLimits, PartSizing, PendingUpload
from flask_storage.types import WriteOptions

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SECONDS = 60  # how long a test waits for a thread before it fails
S3_LIMITS = PartLimits(min_size=5 * MIB, max_size=5 * GIB, max_count=10_000)


class FakeStore(MultipartStore):
    """A store in memory that records every call, and can fail for certain parts."""

    def __init__(self, limits=None):
        self.limits = limits or PartLimits()
        self.calls = []
        self.files = {}
        self.parts = {}
        self.options = {}
        self.received = []
        self.failures = {}
        self._lock = threading.Lock()

    def put(self, path, data, options):
        """Store a file."""
        self._record("put")
        self.options["put"] = options
        self.received.append(data)
        self.files[path] = bytes(data)

    def create(self, path, options):
        """Create an upload."""
        self._record("create")
        self.options["create"] = options
        return "upload"

    def upload_part(self, path, upload_id, number, data):
        """Store a part, or raise the next error that was set for it."""
        self._record(f"upload_part {number}")
        with self._lock:
            failures = self.failures.get(number)
            if failures:
                raise failures.pop(0)
            self.received.append(data)
            self.parts[number] = bytes(data)
        return Part(number=number, size=len(data), etag=f"tag-{number}")

    def complete(self, path, upload_id, parts, options):
        """Join the parts."""
        self._record("complete")
        self.options["complete"] = options
        assert [part.number for part in parts] == sorted(self.parts)
        assert [part.etag for part in parts] == [f"tag-{part.number}" for part in parts]
        self.files[path] = b"".join(self.parts[part.number] for part in parts)

    def abort(self, path, upload_id):
        """Delete the parts."""
        self._record("abort")
        self.parts.clear()

    def list_parts(self, path, upload_id):
        """Return the stored parts."""
        return [Part(number=number, size=len(data), etag=f"tag-{number}") for number, data in self.parts.items()]

    def list_uploads(self, path=""):
        """Return no upload."""
        found: list[PendingUpload] = []
        return iter(found)

    def _record(self, call):
        with self._lock:
            self.calls.append(call)


class BlockingStore(FakeStore):
    """A store whose part uploads block until an event is set, and are counted."""

    def __init__(self, limits=None):
        super().__init__(limits)
        self.resume = threading.Event()
        self.arrived = threading.Semaphore(0)

    def upload_part(self, path, upload_id, number, data):
        """Block until the event is set, then store the part."""
        self.arrived.release()
        assert self.resume.wait(SECONDS)
        return super().upload_part(path, upload_id, number, data)

    def wait_for(self, count):
        """Block until *count* more uploads have started."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=SECONDS)


@pytest.fixture
def pool():
    """Threads that end with the test."""
    with ThreadPoolExecutor(8) as executor:
        yield executor


@pytest.fixture
def write_to(pool):
    """Returns a function that creates a writer with small parts."""

    def make(store, *, chunk_size=10, concurrency=2, workers=pool, **options):
        return MultipartWriter(
            store,
            "a.bin",
            WriteOptions(**options),
            chunk_size=chunk_size,
            concurrency=concurrency,
            workers=lambda: workers,
        )

    return make


# -- put or multipart upload ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 9, 10])
def test_content_that_fits_one_part_is_stored_by_put(write_to, size):
    """Also an empty file; no upload is created."""
    store = FakeStore()

    with write_to(store) as writer:
        writer.write(b"x" * size)

    assert store.calls == ["put"]
    assert store.files == {"a.bin": b"x" * size}


def test_a_file_without_a_write_exists_after_closing(write_to):
    """It is empty."""
    store = FakeStore()

    write_to(store).close()

    assert store.files == {"a.bin": b""}


@pytest.mark.parametrize(("size", "parts"), [(11, 2), (19, 2), (20, 2), (21, 3), (100, 10), (101, 11)])
@pytest.mark.parametrize("step", [1, 3, 10, 64, 1000])
def test_larger_content_is_uploaded_in_full_parts(write_to, size, parts, step):
    """Whatever the sizes of the writes; after a full last part there is no empty one."""
    store = FakeStore()
    content = bytes(number % 251 for number in range(size))

    with write_to(store) as writer:
        for start in range(0, size, step):
            writer.write(content[start : start + step])

    assert store.files == {"a.bin": content}
    assert len(store.parts) == parts
    assert {len(store.parts[number]) for number in range(1, parts)} == {10}
    assert store.calls[0] == "create"
    assert store.calls[-1] == "complete"


def test_the_part_size_is_public(write_to):
    """Writes of this size avoid a copy."""
    writer = write_to(FakeStore(), chunk_size=64)

    part_size = writer.part_size
    writer.abort()

    assert part_size == 64


def test_create_gets_the_headers_and_complete_the_conditions(write_to):
    """The file itself checks size and checksum."""
    store = FakeStore()
    headers: Any = {"content_type": "text/plain", "metadata": {"a": "b"}}

    with write_to(store, if_match="tag", size=11, checksum="md5:" + "0" * 32, **headers) as writer:
        writer.write(b"x" * 11)

    assert store.options["create"] == WriteOptions(**headers)
    assert store.options["complete"] == WriteOptions(if_match="tag")


def test_put_gets_all_options(write_to):
    """Headers and conditions."""
    store = FakeStore()
    options: Any = {"content_type": "text/plain", "exclusive": True, "size": 3}

    with write_to(store, **options) as writer:
        writer.write(b"abc")

    assert store.options == {"put": WriteOptions(**options)}


# -- memory -----------------------------------------------------------------------------------------------------------


def test_whole_parts_of_bytes_are_not_copied(write_to):
    """Bytes are immutable, so the store gets the same object."""
    store = FakeStore()
    content = b"x" * 30

    with write_to(store) as writer:
        writer.write(content)

    assert len(store.received) == 3
    assert all(isinstance(data, memoryview) and data.obj is content for data in store.received)


def test_a_single_full_part_of_bytes_is_not_copied(write_to):
    """Also when it is stored by `put`."""
    store = FakeStore()
    content = b"x" * 10

    with write_to(store) as writer:
        writer.write(content)

    assert store.received[0].obj is content


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_buffer_can_be_reused_after_writing(write_to, kind):
    """Mutable buffers are copied, so parts in flight do not change."""
    store = BlockingStore()
    buffer = bytearray(b"a" * 10)
    writer = write_to(store)

    for letter in b"abcd":
        buffer[:] = bytes([letter]) * 10
        writer.write(kind(buffer))
        if letter == ord("b"):
            store.resume.set()
    buffer[:] = b"z" * 10
    writer.close()

    assert store.files == {"a.bin": b"a" * 10 + b"b" * 10 + b"c" * 10 + b"d" * 10}


def test_a_view_of_wider_elements_is_written_as_bytes(write_to):
    """The count is in bytes."""
    store = FakeStore()
    view = memoryview(bytes(range(24))).cast("I")

    with write_to(store) as writer:
        written = writer.write(view)

    assert written == 24
    assert store.files == {"a.bin": bytes(range(24))}


def test_writing_blocks_while_the_allowed_uploads_are_in_flight(write_to, pool):
    """With two in flight and one full part, `write` blocks: at most three parts are held."""
    store = BlockingStore()
    writer = write_to(store, concurrency=2)
    started, done = threading.Event(), threading.Event()

    def write():
        writer.write(b"x" * 29)  # two parts are uploaded, and the third is nearly full
        started.set()
        writer.write(b"y")
        done.set()

    writing = pool.submit(write)
    assert started.wait(SECONDS)
    store.wait_for(2)
    blocked = not done.is_set() and not store.arrived.acquire(blocking=False)
    store.resume.set()
    writing.result(SECONDS)
    writer.close()

    assert blocked
    assert store.files == {"a.bin": b"x" * 29 + b"y"}


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_no_more_uploads_than_concurrency_are_in_flight(write_to, concurrency):
    """Over many parts, including the last ones."""
    store = _CountingStore()

    with write_to(store, concurrency=concurrency) as writer:
        writer.write(b"x" * 1003)

    assert store.files == {"a.bin": b"x" * 1003}
    assert 1 <= store.peak <= concurrency


class _CountingStore(FakeStore):
    """A store that records how many parts were uploaded concurrently."""

    def __init__(self):
        super().__init__()
        self.running = self.peak = 0

    def upload_part(self, path, upload_id, number, data):
        """Count while the part is stored."""
        with self._lock:
            self.running += 1
            self.peak = max(self.peak, self.running)
        part = super().upload_part(path, upload_id, number, data)
        with self._lock:
            self.running -= 1
        return part


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StorageUnavailableError, ThrottledError])
def test_an_unavailable_store_is_retried_once_per_part(write_to, error):
    """With the same part number."""
    store = FakeStore()
    store.failures = {number: [error("try again")] for number in (1, 2, 3)}

    with write_to(store) as writer:
        writer.write(b"x" * 25)

    assert store.files == {"a.bin": b"x" * 25}
    assert sorted(store.calls) == ["complete", "create", *(f"upload_part {number}" for number in (1, 1, 2, 2, 3, 3))]


@pytest.mark.parametrize(
    ("failures", "attempts"),
    [
        ([StorageUnavailableError("gone"), StorageUnavailableError("gone")], 2),
        ([StorageTimeoutError("too slow")], 1),  # a time-out is not retried
        ([IntegrityError("damaged")], 1),
        ([RuntimeError("a fault of ours")], 1),
    ],
)
def test_a_part_that_fails_aborts_the_upload(write_to, failures, attempts):
    """`write` or `close` raises the error, and nothing is published."""
    store = FakeStore()
    store.failures = {1: list(failures)}
    writer = write_to(store)

    with pytest.raises(type(failures[-1])), writer:
        writer.write(b"x" * 100)

    assert store.files == {}
    assert store.calls.count("upload_part 1") == attempts
    assert store.calls[-1] == "abort"
    assert writer.closed
    assert not writer.published


def test_a_part_that_fails_while_closing_aborts_the_upload(write_to):
    """Closing waits for all parts before it completes the upload."""
    store = FakeStore()
    store.failures = {2: [IntegrityError("damaged")]}
    writer = write_to(store, concurrency=8)
    writer.write(b"x" * 11)

    with pytest.raises(IntegrityError, match="damaged"):
        writer.close()

    assert store.files == {}
    assert "complete" not in store.calls
    assert store.calls[-1] == "abort"


def test_a_failed_complete_aborts_the_upload(write_to):
    """No part remains in the store."""
    store = FakeStore()

    def refuse(*_):
        raise StorageError("refused")

    store.complete = refuse  # type: ignore[method-assign]  # the injected failure
    writer = write_to(store)

    with pytest.raises(StorageError, match="refused"), writer:
        writer.write(b"x" * 11)

    assert store.calls[-1] == "abort"
    assert store.files == {}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_in_the_block_aborts_the_upload(write_to, error):
    """Whatever its type."""
    store = FakeStore()

    with pytest.raises(error):
        _write_and_fail(write_to(store), b"x" * 25, error)

    assert store.files == {}
    assert store.calls[-1] == "abort"


def test_an_exception_before_the_first_part_sends_no_request(write_to):
    """There is no upload to abort."""
    store = FakeStore()

    with pytest.raises(ZeroDivisionError):
        _write_and_fail(write_to(store), b"x" * 10, ZeroDivisionError)

    assert store.calls == []


def _write_and_fail(writer, data, error):
    with writer:
        writer.write(data)
        raise error


def test_an_upload_is_aborted_after_the_parts_in_flight(write_to, pool):
    """A part that arrives after the abort would remain; queued parts are not sent."""
    store = BlockingStore()
    writer = write_to(store, concurrency=2)
    writer.write(b"x" * 29)
    store.wait_for(2)

    aborting = pool.submit(writer.abort)
    discarded_early = "abort" in store.calls
    store.resume.set()
    aborting.result(SECONDS)

    assert not discarded_early
    assert store.calls[0] == "create"
    assert sorted(store.calls[1:-1]) == ["upload_part 1", "upload_part 2"]
    assert store.calls[-1] == "abort"


@pytest.mark.usefixtures("in_bounded_time")
def test_queued_parts_are_cancelled_by_abort(write_to):
    """Aborting neither sends them nor waits for a thread."""
    store = FakeStore()
    queue = BusyExecutor()
    writer = write_to(store, concurrency=4, workers=queue)
    writer.write(b"x" * 45)

    writer.abort()

    assert len(queue.waiting) == 4
    assert all(future.cancelled() for future in queue.waiting)
    assert store.calls == ["create", "abort"]


class BusyExecutor(Executor):
    """An executor that never starts what is submitted."""

    def __init__(self):
        self.waiting = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
        """Return a pending future."""
        self.waiting.append(Future[Any]())
        return self.waiting[-1]


# -- part sizes -------------------------------------------------------------------------------------------------------


def test_content_of_unknown_size_can_have_five_tebibytes():
    """With parts of 5 MiB; the first 10 GiB in parts of the same size."""
    plan = PartSizing.for_upload(S3_LIMITS, 5 * MIB, None)

    sizes = [plan.size_of(number, S3_LIMITS) for number in range(1, 10_001)]

    assert set(sizes[:2000]) == {5 * MIB}
    assert sizes == sorted(sizes)
    assert sum(sizes) >= 5 * TIB
    assert max(sizes) <= 5 * GIB


@pytest.mark.parametrize("chunk", [5 * MIB, 8 * MIB, 64 * MIB, GIB, 5 * GIB])
def test_a_part_never_exceeds_the_maximum_size(chunk):
    """Whatever the first size is."""
    plan = PartSizing.for_upload(S3_LIMITS, chunk, None)

    last = plan.size_of(10_000, S3_LIMITS)

    assert last == min(chunk << 10, 5 * GIB)
    assert plan.size_of(2000, S3_LIMITS) == chunk
    assert plan.size_of(2001, S3_LIMITS) == min(chunk * 2, 5 * GIB)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 50_000 * MIB, 50_001 * MIB, 5 * TIB])
def test_parts_of_an_upload_of_known_size_have_one_size(size):
    """Large enough for the allowed number of parts, rounded up to whole MiB, and not growing."""
    plan = PartSizing.for_upload(S3_LIMITS, 5 * MIB, size)

    sizes = {plan.size_of(number, S3_LIMITS) for number in (1, 2000, 2001, 10_000)}

    assert sizes == {plan.first}
    assert plan.first >= 5 * MIB
    assert plan.first % MIB == 0
    assert plan.first * 10_000 >= size
    assert plan.first == 5 * MIB or (plan.first - MIB) * 10_000 < size


def test_parts_do_not_grow_where_they_must_be_uniform():
    """Also when the size is unknown."""
    limits = PartLimits(min_size=5 * MIB, max_size=5 * GIB, uniform=True)

    plan = PartSizing.for_upload(limits, 5 * MIB, None)

    assert {plan.size_of(number, limits) for number in (1, 2001, 10_000)} == {5 * MIB}


def test_the_part_size_is_within_the_limits_of_the_store():
    """A smaller chunk size is raised to the minimum, a larger one lowered to the maximum; None is no limit."""
    limits = PartLimits(min_size=100, max_size=1000)

    sizes = [PartSizing.for_upload(limits, chunk_size, None).first for chunk_size in (1, 100, 500, 5000)]
    unlimited = PartSizing.for_upload(PartLimits(), 5000, None)

    assert sizes == [100, 100, 500, 1000]
    assert unlimited.first == 5000
    assert unlimited.size_of(10_000, PartLimits()) == 5000 << 10


def test_parts_grow_during_an_upload(write_to):
    """After the first fifth of the allowed parts, the size doubles every 8 % of them."""
    store = FakeStore(PartLimits(max_count=25))
    content = os.urandom(100)

    with write_to(store, chunk_size=2) as writer:
        writer.write(content)

    assert store.files == {"a.bin": content}
    assert [len(store.parts[number]) for number in sorted(store.parts)] == [2, 2, 2, 2, 2, 4, 4, 8, 8, 16, 16, 32, 2]


@pytest.mark.parametrize("expected", [{"size": 100}, {"size": None}])
def test_the_expected_size_takes_precedence_over_the_estimate(pool, expected):
    """The estimate is used when there is no expected size."""
    store = FakeStore(PartLimits(max_count=4))

    writer = MultipartWriter(
        store,
        "a.bin",
        WriteOptions(**expected),
        chunk_size=10,
        concurrency=1,
        workers=lambda: pool,
        size=7 if expected["size"] else 100,
    )
    part_size = writer.part_size
    writer.abort()

    assert part_size == MIB  # the next whole MiB in which 100 bytes fit four parts


def test_too_many_parts_are_an_error_that_says_what_to_do(write_to):
    """It is raised before the part is sent, and the upload is aborted."""
    store = FakeStore(PartLimits(max_count=3, uniform=True))

    with (
        pytest.raises(TooLargeError, match=r"3 parts: pass the expected size \(size=…\), or use a larger"),
        write_to(store) as writer,
    ):
        writer.write(b"x" * 31)

    assert store.calls[-1] == "abort"
    assert "upload_part 4" not in store.calls
    assert store.files == {}


def test_the_maximum_number_of_parts_is_allowed(write_to):
    """The limit is inclusive."""
    store = FakeStore(PartLimits(max_count=3, uniform=True))

    with write_to(store) as writer:
        writer.write(b"x" * 30)

    assert store.files == {"a.bin": b"x" * 30}


# -- garbage collection and forks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 25])
def test_an_unclosed_writer_warns_and_publishes_nothing(write_to, size):
    """It sends no request, not even to abort the upload."""
    store = FakeStore()
    writers = [write_to(store)]
    writers[0].write(b"x" * size)

    with pytest.warns(ResourceWarning, match="nothing was published"):
        writers.clear()

    assert store.files == {}
    assert not {"put", "complete", "abort"} & set(store.calls)


def test_a_writer_can_be_collected_while_parts_are_in_flight(write_to):
    """The worker threads reference the parts, not the file."""
    store = BlockingStore()
    writers = [write_to(store, concurrency=2)]
    writers[0].write(b"x" * 29)
    store.wait_for(2)
    reference = weakref.ref(writers[0])

    with pytest.warns(ResourceWarning, match="nothing was published"):
        writers.clear()
    collected = reference() is None
    store.resume.set()

    assert collected
    assert store.files == {}


@pytest.mark.parametrize("size", [5, 25])
@pytest.mark.parametrize("end", ["close", "abort", "collect"])
def test_a_forked_child_neither_publishes_nor_aborts(write_to, size, end):
    """The upload belongs to the parent, which can complete it."""
    store = FakeStore()
    writer = write_to(store)
    writer.write(b"x" * size)
    before = len(store.calls)

    status = _in_a_child(lambda: _end(writer, end, store, before))
    writer.close()

    assert status == 0
    assert store.files == {"a.bin": b"x" * size}


def _end(writer, end, store, before):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            writer.write(b"from the child")
        except ValueError:
            pass
        else:
            return False
        if end == "collect":
            writer.__del__()
        else:
            getattr(writer, end)()
    return not {"put", "complete", "abort"} & set(store.calls[before:]) and not writer.published


def _in_a_child(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about threads, which this test needs
        child = os.fork()
    if child == 0:
        try:
            os._exit(0 if function() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_that_exits_does_not_touch_the_upload():
    """Not even at interpreter shutdown, when its objects are finalized."""
    script = """
        import os, sys
        from concurrent.futures import ThreadPoolExecutor
        from flask_storage.multipart import MultipartWriter
        from flask_storage.types import WriteOptions
        from tests.test_multipart_writer import FakeStore

        pool = ThreadPoolExecutor(1)
        store = FakeStore()
        writer = MultipartWriter(store, "a.bin", WriteOptions(), chunk_size=10, concurrency=1, workers=lambda: pool)
        writer.write(b"x" * 25)
        child = os.fork()
        writer.close()
        if child == 0:
            sys.exit(0 if not store.files and "abort" not in store.calls else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, store.files)
    """

    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"0 { ({'a.bin': b'x' * 25}) }\n"


def test_parts_are_sent_by_the_writing_thread_without_an_executor(write_to):
    """At interpreter shutdown executors accept no work; the content is stored all the same."""
    store = FakeStore()
    pool = ThreadPoolExecutor(1)
    pool.shutdown()

    with write_to(store, workers=pool) as writer:
        writer.write(b"x" * 35)

    assert store.files == {"a.bin": b"x" * 35}


def test_a_writer_of_a_closed_storage_fails(write_to):
    """Queued parts were cancelled, and nothing is published."""
    store = BlockingStore()
    pool = ThreadPoolExecutor(1)
    writer = write_to(store, workers=pool, concurrency=2)
    writer.write(b"x" * 29)
    store.wait_for(1)

    pool.shutdown(wait=False, cancel_futures=True)
    store.resume.set()

    with pytest.raises(StorageUnavailableError, match="closed during the upload"):
        writer.close()
    assert store.files == {}
