"""`RangeReader`: it returns the right bytes, transfers few others, and prefetches as the latency requires."""

import csv
import gc
import gzip
import hashlib
import io
import os
import random
import signal
import threading
import tracemalloc
import weakref
import zipfile
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import arrow
import pytest
from hypothesis import given, settings, strategies as st

from flask_storage import FileInfo, IntegrityError, MemoryStorage, StorageUnavailableError
from flask_storage.range_reader import RangeReader
from tests.counts import count

MIB, GIB = 1 << 20, 1 << 30
MIN_FETCH = RangeReader.min_fetch_size
SECONDS = 60  # how long a test waits for a thread before it fails


def _into(fetch):
    """Adapt a function that returns a range to one that writes it into the reader's buffer."""
    return lambda start, stop, buffer: buffer.write(fetch(start, stop))


class RemoteContent:
    """A remote file that records the requested ranges, and can fail once for the ranges with certain bytes."""

    def __init__(self, content):
        self.content = content
        self.size = len(content)
        self.requested = []
        self.failures = {}

    def fetch(self, start, stop):
        """Return a range, or raise the error that was set for one of its bytes."""
        self.requested.append((start, stop))
        for byte in list(self.failures):
            if start <= byte < stop:
                raise self.failures.pop(byte)
        return self.content[start:stop]

    @property
    def transferred(self):
        """The total number of bytes requested."""
        return sum(stop - start for start, stop in self.requested)


class FastStream:
    """A response that is fast for a number of requested ranges."""

    def __init__(self, remote, ranges):
        self.remote = remote
        self.ranges = ranges
        self.pauses = 0

    def is_fast(self):
        """Whether few ranges have been requested."""
        return len(self.remote.requested) < self.ranges

    def pause(self):
        """Count the call."""
        self.pauses += 1


class HugeContent(RemoteContent):
    """A file of zeros that is too large for memory."""

    def __init__(self, size):
        super().__init__(b"")
        self.size = size

    def fetch(self, start, stop):
        """Return zeros."""
        self.requested.append((start, stop))
        return bytes(stop - start)


class ImmediateExecutor(Executor):
    """An executor whose futures are always done: latency is zero, and the reader never waits."""

    def __init__(self):
        self.submitted = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
        """Run the function immediately."""
        self.submitted.append(arguments)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(*arguments))
        except StorageUnavailableError as error:
            future.set_exception(error)
        return future


class SlowExecutor(Executor):
    """An executor whose futures are never done before the reader waits for them: latency is high."""

    def __init__(self):
        self.submitted = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
        """Return a future that runs the function when its result is requested."""
        self.submitted.append(arguments)
        future = LazyFuture(lambda: function(*arguments))
        future.set_running_or_notify_cancel()
        return future


class LazyFuture(Future[Any]):
    """A future that runs its function when its result is requested."""

    def __init__(self, work):
        super().__init__()
        self.work = work

    def result(self, timeout=None):
        """Run the function."""
        return self.work()


class RecordingCheck:
    """A content check that records its input, and succeeds or fails as configured."""

    def __init__(self, valid=True):
        self.received = bytearray()
        self.valid = valid
        self.verified = 0

    def update(self, data):
        """Record the data."""
        self.received += data

    def verify(self):
        """Raise if configured as invalid."""
        self.verified += 1
        if not self.valid:
            raise IntegrityError("not the bytes that were stored")


def no_threads():
    """Fail: passed where no executor may be requested."""
    raise AssertionError("no executor may be requested")


def info_of(size):
    """Return the attributes of a file of *size* bytes."""
    return FileInfo(path="file.bin", size=size, last_modified=arrow.utcnow())


def open_reader(remote, pool=None, *, kind=RangeReader, chunk_size=MIB, concurrency=4, **options):
    """Open a reader of *remote*; without a pool, it may not request an executor."""
    workers = no_threads if pool is None else lambda: pool
    return kind(
        _into(remote.fetch),
        info_of(remote.size),
        chunk_size=chunk_size,
        concurrency=concurrency,
        workers=workers,
        **options,
    )


def content_of(size):
    """Return random bytes."""
    return random.Random(size).randbytes(size)


@pytest.fixture
def pool():
    """More threads than any reader in these tests uses."""
    with ThreadPoolExecutor(16) as executor:
        yield executor


# -- the right bytes --------------------------------------------------------------------------------------------------


class SmallReader(RangeReader):
    """A reader with small ranges, so that a short file has many."""

    min_fetch_size = 16


CHUNK = 64
EDGES = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200]
SIZES = st.one_of(st.sampled_from(EDGES), st.integers(0, 300))
STEPS = st.one_of(
    st.tuples(st.sampled_from(["read", "readline", "readinto", "read1"]), SIZES),
    st.tuples(st.sampled_from(["read", "readline"]), st.sampled_from([-1, None])),
    st.tuples(st.just("iter_chunks"), st.sampled_from([1, 7, 64, 100])),
    st.tuples(st.just("seek"), st.one_of(st.sampled_from(EDGES), st.integers(0, 1300))),
    st.tuples(st.just("seek back"), st.integers(0, 70)),
    st.tuples(st.just("seek forward"), st.integers(0, 70)),
    st.tuples(st.just("seek before end"), SIZES),
)


def _call(file, step, argument):
    """Perform one step on *file* and return the result."""
    if step == "readinto":
        buffer = bytearray(argument)
        return file.readinto(buffer), bytes(buffer)
    if step == "iter_chunks":
        return b"".join(file.read(argument) for _ in range(5))
    if step == "seek back":
        return file.seek(max(file.tell() - argument, 0))
    if step == "seek forward":
        return file.seek(argument, io.SEEK_CUR)
    if step == "seek before end":
        size = file.seek(0, io.SEEK_END)
        return file.seek(-min(argument, size), io.SEEK_END)
    return getattr(file, step)(argument)


@settings(max_examples=count(300, 20_000), deadline=None)
@given(
    size=st.one_of(st.sampled_from(EDGES), st.integers(0, 1000)),
    line=st.integers(1, 150),
    head=st.sampled_from([0, 1, 16, 64]),
    chunk_size=st.sampled_from([1, 10, CHUNK]),
    concurrency=st.integers(1, 4),
    pool=st.sampled_from([ImmediateExecutor, SlowExecutor, lambda: ThreadPoolExecutor(2)]),
    eager=st.booleans(),
    read_ahead_from=st.sampled_from([None, 16]),
    fast=st.integers(0, 4),
    steps=st.lists(STEPS, max_size=12),
)
def test_any_sequence_of_reads_equals_that_of_a_file_in_memory(
    size, line, head, chunk_size, concurrency, pool, eager, read_ahead_from, fast, steps
):
    """No byte is verified twice, and nothing beyond the end is requested."""
    content = b"".join(b"\n" if number % line == 0 else bytes([number % 251 + 11 & 255]) for number in range(size))
    remote, expected, check = RemoteContent(content), io.BytesIO(content), RecordingCheck()
    with pool() as executor:
        reader = open_reader(
            remote,
            executor,
            kind=SmallReader,
            head=content[: min(head, chunk_size)],
            chunk_size=chunk_size,
            concurrency=concurrency,
            check=check,
            eager=eager,
            read_ahead_from=read_ahead_from,
            stream=FastStream(remote, fast),
        )

        for step, argument in steps:
            assert _call(reader, step, argument) == _call(expected, step, argument)
            assert reader.tell() == expected.tell()
        reader.close()

    assert all(0 <= start < stop <= size for start, stop in remote.requested)
    assert content.startswith(check.received)
    assert check.verified <= 1


@pytest.mark.parametrize("size", [0, 1, MIN_FETCH, 3 * MIB, 3 * MIB + 1])
@pytest.mark.parametrize("eager", [False, True])
def test_reading_to_the_end_transfers_every_byte_once(size, eager, pool):
    """No range is fetched twice or in vain, and only the last chunk is shorter."""
    remote = RemoteContent(content_of(size))
    reader = open_reader(remote, pool, eager=eager)

    chunks = list(reader.iter_chunks())

    assert b"".join(chunks) == remote.content
    assert all(len(chunk) == MIB for chunk in chunks[:-1])
    assert remote.transferred == size


def test_a_chunk_that_is_read_whole_is_not_copied(pool):
    """The reader returns the content of its buffer, whether prefetched or not."""
    remote = RemoteContent(content_of(5 * MIB))
    buffers = []

    def fetch(start, stop, buffer):
        buffer.write(remote.content[start:stop])
        buffers.append(buffer)

    reader = RangeReader(fetch, info_of(remote.size), chunk_size=MIB, concurrency=2, workers=lambda: pool)

    chunks = list(reader.iter_chunks())

    assert {id(chunk) for chunk in chunks} == {id(buffer.getvalue()) for buffer in buffers}


def test_chunks_after_the_head_are_aligned_with_reads(pool):
    """Only the first chunk is shortened by the head; the others are returned without a copy."""
    remote = RemoteContent(content_of(4 * MIB))
    reader = open_reader(remote, pool, head=remote.content[:MIN_FETCH], eager=True)

    assert b"".join(reader.iter_chunks()) == remote.content
    assert sorted(remote.requested) == [(MIN_FETCH, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB), (3 * MIB, 4 * MIB)]


# -- streams and distance ---------------------------------------------------------------------------------------------


def test_a_fast_stream_is_read_in_order_by_the_reading_thread():
    """In ranges of 1 MiB, without threads; it is told when each read ends."""
    remote = RemoteContent(content_of(3 * MIB + 1))
    stream = FastStream(remote, 100)
    reader = open_reader(remote, chunk_size=5 * MIB, eager=True, stream=stream)

    chunks = list(reader.iter_chunks())

    assert b"".join(chunks) == remote.content
    assert remote.requested == [(0, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB), (3 * MIB, 3 * MIB + 1)]
    assert stream.pauses >= len(chunks)


def test_the_rest_of_a_slow_stream_is_fetched_in_parallel(pool):
    """In whole chunks."""
    remote = RemoteContent(content_of(12 * MIB))
    reader = open_reader(remote, pool, chunk_size=5 * MIB, eager=True, stream=FastStream(remote, 2))

    content = b"".join(reader.iter_chunks())

    assert content == remote.content
    assert sorted(remote.requested) == [(0, MIB), (MIB, 2 * MIB), (2 * MIB, 7 * MIB), (7 * MIB, 12 * MIB)]


def test_far_away_a_reader_prefetches_early_and_little():
    """From `read_ahead_from` on; until it has read a whole chunk, at most twice as much as was read."""
    remote, executor = RemoteContent(content_of(12 * MIB)), SlowExecutor()
    reader = open_reader(remote, executor, chunk_size=5 * MIB, read_ahead_from=MIB)

    prefetched = {}
    while reader.tell() < 4 * MIB:
        reader.read(MIB // 4)
        prefetched[reader.tell()] = len(executor.submitted)
        assert max(stop for _, stop, *_ in [*remote.requested, *executor.submitted]) <= 3 * reader.tell()

    assert prefetched[MIB] == 0
    assert prefetched[2 * MIB] > 0


@pytest.mark.parametrize("whence", [io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
def test_a_negative_position_is_refused(whence):
    """With every `whence`; the position does not change."""
    reader = open_reader(RemoteContent(b"some bytes"))
    reader.read(3)

    with pytest.raises(ValueError, match=r"the position -?[0-9]+ is negative"):
        reader.seek(-11, whence)

    assert reader.tell() == 3


def test_seek_refuses_invalid_arguments():
    """An unknown `whence`, and a position that is not an integer."""
    reader = open_reader(RemoteContent(b"some bytes"))

    with pytest.raises(ValueError, match="SEEK_CUR"):
        reader.seek(0, 7)
    with pytest.raises(TypeError):
        reader.seek(1.5)


def test_a_closed_reader_refuses_every_call():
    """Before that it is readable and seekable, and not writable."""
    reader = open_reader(RemoteContent(b"some bytes"))
    supported = (reader.readable(), reader.seekable(), reader.writable())

    reader.close()

    assert supported == (True, True, False)
    for call in (reader.read, reader.readline, reader.tell, lambda: reader.seek(0), lambda: reader.readinto(b"")):
        with pytest.raises(ValueError, match="closed"):
            call()


# -- few unneeded bytes -----------------------------------------------------------------------------------------------


def test_opening_and_seeking_fetch_nothing():
    """Finding out the length does not either, and prefetched ranges are still there afterwards."""
    remote, executor = RemoteContent(content_of(4 * MIB)), ImmediateExecutor()
    reader = open_reader(remote, executor)
    untouched = list(remote.requested)
    reader.read(MIB)
    reader.read(MIB)
    before = list(remote.requested)

    length = reader.seek(0, io.SEEK_END)
    reader.seek(2 * MIB)

    assert untouched == []
    assert length == 4 * MIB
    assert remote.requested == before
    assert reader.read(MIB) == remote.content[2 * MIB : 3 * MIB]
    assert remote.requested.count((2 * MIB, 3 * MIB)) == 1


@pytest.mark.parametrize("position", [0, 1, 3 * GIB, 5 * GIB - 1])
@pytest.mark.parametrize("size", [1, MIN_FETCH, MIN_FETCH + 1, 3 * MIB])
def test_a_small_read_of_a_large_file_transfers_little(position, size, pool):
    """The size of the read, at least 64 KiB; after opening, after seeking, and close to the end."""
    remote = HugeContent(5 * GIB)
    reader = open_reader(remote, pool)
    reader.seek(position)

    length = len(reader.read(size))

    assert length == min(size, 5 * GIB - position)
    assert remote.transferred == max(length, MIN_FETCH)


def test_the_end_of_an_archive_is_fetched_once():
    """A read of the last bytes also fetches those before them, which are usually read next."""
    remote = HugeContent(5 * GIB)
    reader = open_reader(remote)

    reader.seek(-22, io.SEEK_END)
    reader.read()
    reader.seek(-40_000, io.SEEK_END)
    reader.read(30_000)

    assert remote.requested == [(5 * GIB - MIN_FETCH, 5 * GIB)]


def test_ranges_grow_with_sequential_reads():
    """Each fetch is as long as all sequential reads before it, up to a chunk; after a seek, they start small again."""
    remote = HugeContent(5 * GIB)
    reader = open_reader(remote, ImmediateExecutor())

    while reader.tell() < MIB:
        reader.read(1024)
    reader.seek(GIB)
    reader.read(1024)

    lengths = [stop - start for start, stop in remote.requested]
    assert lengths[:5] == [MIN_FETCH, MIN_FETCH, 2 * MIN_FETCH, 4 * MIN_FETCH, 8 * MIN_FETCH]
    assert lengths[-1] == MIN_FETCH


@pytest.mark.parametrize("length", [100, 10_000, 300_000, MIB])
def test_sequential_reads_transfer_at_most_twice_their_size(length):
    """Before a whole chunk of sequential reads, nothing is prefetched and no executor is requested."""
    remote = HugeContent(5 * GIB)
    reader = open_reader(remote)
    reader.seek(GIB)

    for _ in range(MIB // length):
        reader.read(length)

    assert remote.transferred <= max(2 * (reader.tell() - GIB), MIN_FETCH)


def test_reads_within_a_fetched_range_send_no_request():
    """In any order."""
    remote = RemoteContent(content_of(MIB))
    reader = open_reader(remote)
    reader.read(100)
    before = list(remote.requested)

    reader.seek(50)
    reader.read(1000)
    reader.seek(MIN_FETCH - 10)
    reader.read(10)
    reader.seek(0)

    assert reader.read(100) == remote.content[:100]
    assert remote.requested == before == [(0, MIN_FETCH)]


def test_seeking_within_prefetched_ranges_uses_them():
    """The ranges before the new position are dropped, the others are used."""
    remote, executor = RemoteContent(content_of(8 * MIB)), ImmediateExecutor()
    reader = open_reader(remote, executor, eager=True)
    reader.read(MIB)

    reader.seek(3 * MIB)

    assert reader.read() == remote.content[3 * MIB :]
    assert len(remote.requested) == len(set(remote.requested)) == 8


def test_a_file_within_its_head_needs_no_request():
    """The head may contain the whole file."""
    remote = RemoteContent(b"a whole, short file")
    reader = open_reader(remote, head=remote.content)

    assert reader.read(7) == b"a whole"
    assert reader.read() == b", short file"
    assert reader.read() == b""
    assert remote.requested == []


def test_reading_lines_transfers_every_byte_once():
    """No range is fetched again."""
    lines = [b"line %d of some length\n" % number for number in range(20_000)]
    remote = RemoteContent(b"".join(lines))
    reader = open_reader(remote, chunk_size=4 * MIB)

    assert list(reader) == lines
    assert remote.transferred == remote.size


def test_a_long_line_needs_few_requests():
    """Each fetch is as long as the line so far, up to a chunk."""
    remote = HugeContent(64 * MIB)
    reader = open_reader(remote, ImmediateExecutor(), chunk_size=8 * MIB)

    line = reader.readline()

    assert len(line) == 64 * MIB
    assert len(remote.requested) <= 8 + 7


# -- prefetching ------------------------------------------------------------------------------------------------------


def test_one_range_is_prefetched_at_low_latency():
    """The reader never waits, so one is enough, however long the file."""
    remote, executor = RemoteContent(content_of(20 * MIB)), ImmediateExecutor()
    reader = open_reader(remote, executor, concurrency=8)

    for number in range(2, 20):
        reader.read(MIB)

        assert len(executor.submitted) == max(number - 2, 0)


def test_all_ranges_are_prefetched_at_high_latency():
    """The number of ranges in flight doubles with each wait, up to *concurrency*."""
    remote, executor = HugeContent(5 * GIB), SlowExecutor()
    reader = open_reader(remote, executor, concurrency=8)
    in_flight = []

    for _ in range(12):
        reader.read(MIB)
        in_flight.append(len(executor.submitted) - (len(remote.requested) - 2) if executor.submitted else 0)

    assert in_flight == [0, 1, 2, 4, 8, 8, 8, 8, 8, 8, 8, 8]


def test_the_prefetch_count_is_kept_after_a_seek():
    """Prefetching pauses until a whole chunk has been read again, and resumes with as many ranges as before."""
    executor = SlowExecutor()
    reader = open_reader(HugeContent(5 * GIB), executor, concurrency=8)
    for _ in range(8):
        reader.read(MIB)

    reader.seek(GIB)
    reader.read(MIB)
    paused = max(start for start, *_ in executor.submitted) < GIB
    reader.read(MIB)

    assert paused
    assert len([start for start, *_ in executor.submitted if start >= GIB]) == 8


@pytest.mark.parametrize(("eager", "reads"), [(True, [1, MIB, -1]), (False, [-1]), (False, [4 * MIB])])
def test_ranges_that_are_certainly_needed_are_fetched_in_parallel(eager, reads, pool):
    """For a whole file or a large read, *concurrency* chunks are in flight from the start."""
    barrier = threading.Barrier(4)
    content = content_of(4 * MIB)
    head_size = 1 if eager else 0

    def fetch(start, stop):
        barrier.wait(SECONDS)
        return content[start:stop]

    reader = RangeReader(
        _into(fetch),
        info_of(len(content)),
        head=content[:head_size],
        chunk_size=MIB,
        concurrency=4,
        workers=lambda: pool,
        eager=eager,
    )

    assert b"".join(reader.read(size) for size in reads) == content


@pytest.mark.parametrize("read", [lambda reader: reader.read(), lambda reader: b"".join(reader.iter_chunks(70_000))])
def test_no_more_fetches_than_concurrency_are_in_flight(read, pool):
    """For every kind of read."""
    content, lock, running, peak = content_of(20 * MIB), threading.Lock(), 0, 0

    def fetch(start, stop):
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        data = content[start:stop]
        with lock:
            running -= 1
        return data

    reader = RangeReader(
        _into(fetch), info_of(len(content)), chunk_size=MIB // 2, concurrency=3, workers=lambda: pool, eager=True
    )

    assert read(reader) == content
    assert peak <= 3


@pytest.mark.parametrize(
    "read_all",
    [
        lambda reader: [len(reader.read(10_000)) for _ in range(1700)] and 0,
        lambda reader: [len(reader.read(MIB)) for _ in range(17)] and MIB,
        lambda reader: [reader.readinto(bytearray(3 * MIB)) for _ in range(6)] and 3 * MIB,
        lambda reader: [len(reader.readline()) for _ in range(170)] and 300_000,
        lambda reader: len(reader.read()),
    ],
    ids=["small reads", "chunks", "into a buffer", "lines", "one read"],
)
def test_memory_is_limited_by_chunk_size_and_concurrency(read_all):
    """At most ``chunk_size * (concurrency + 1)`` beyond the bytes of the caller, when everything is prefetched."""
    source = b"\n".join([bytes(100_000)] * 12)

    def fetch(start, stop, buffer):
        begin = start % 100_001
        buffer.write(memoryview(source)[begin : begin + stop - start])

    def read():
        return read_all(
            RangeReader(fetch, info_of(16 * MIB), chunk_size=MIB, concurrency=4, workers=ImmediateExecutor, eager=True)
        )

    read()
    tracemalloc.start()
    buffered = read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak <= buffered + MIB * (4 + 1) + 200_000


def test_dropped_fetches_that_still_run_count_as_in_flight():
    """So seeking repeatedly does not accumulate fetches: nothing is prefetched until they end."""
    remote, resume = HugeContent(5 * GIB), threading.Event()
    reading_thread = threading.get_ident()
    started = threading.Semaphore(0)

    def fetch(start, stop):
        if threading.get_ident() != reading_thread:
            started.release()
            assert resume.wait(SECONDS)
        return remote.fetch(start, stop)

    first, second = ThreadPoolExecutor(8), ImmediateExecutor()
    reader = RangeReader(
        _into(fetch), info_of(5 * GIB), head=b"?", chunk_size=MIB, concurrency=2, workers=lambda: pools[-1], eager=True
    )
    pools: list[Executor] = [first]
    reader.read(MIB)
    assert started.acquire(timeout=SECONDS)
    assert started.acquire(timeout=SECONDS)
    pools.append(second)

    for number in range(1, 4):
        reader.seek(number * GIB)
        reader.read(MIB)
    submitted_while_running = len(second.submitted)
    resume.set()
    first.shutdown()
    reader.seek(0)
    reader.read(MIB)

    assert submitted_while_running == 0
    assert len(second.submitted) == 2


def test_a_busy_executor_does_not_block_the_reader():
    """The reader fetches what no worker has started; it may even run in the only worker thread."""
    remote = RemoteContent(content_of(8 * MIB))
    executor = ThreadPoolExecutor(1)
    reader = open_reader(remote, executor, eager=True)

    try:
        data = executor.submit(reader.read).result(SECONDS)
    finally:
        executor.shutdown(cancel_futures=True)

    assert data == remote.content


def test_reading_continues_after_the_executor_is_shut_down():
    """As at interpreter shutdown: the reader fetches the rest itself."""
    remote, pool = RemoteContent(content_of(8 * MIB)), ThreadPoolExecutor(2)
    reader = open_reader(remote, pool, eager=True)
    first = reader.read(MIB)

    pool.shutdown(cancel_futures=True)

    assert first + reader.read() == remote.content


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize(
    "make_pool", [ImmediateExecutor, SlowExecutor, lambda: ThreadPoolExecutor(4)], ids=["immediate", "slow", "threads"]
)
def test_a_failed_range_is_reported_once_and_fetched_again_on_retry(number, make_pool):
    """The read that needs the range raises the error; a retry continues without a gap."""
    remote = RemoteContent(content_of(6 * MIB))
    remote.failures[number * MIB] = StorageUnavailableError("the connection broke off")
    with make_pool() as executor:
        reader = open_reader(remote, executor, eager=True)
        for before in range(number):
            assert reader.read(MIB) == remote.content[before * MIB : (before + 1) * MIB]

        with pytest.raises(StorageUnavailableError, match="the connection broke off"):
            reader.read(MIB)

        assert reader.tell() == number * MIB
        assert reader.read() == remote.content[number * MIB :]


@pytest.mark.parametrize("read", ["read", "readinto", "readline"])
@pytest.mark.parametrize("number", range(4))
def test_a_failed_large_read_does_not_move_the_position(read, number, pool):
    """A retry returns everything from the same position, and the check gets each byte once."""
    content = bytes(4 * MIB)
    remote, check = RemoteContent(content), RecordingCheck()
    remote.failures[number * MIB] = StorageUnavailableError("the connection broke off")
    reader = open_reader(remote, pool, check=check, eager=True)

    def read_once():
        if read == "readinto":
            buffer = bytearray(b"x") * len(content)
            return bytes(buffer[: reader.readinto(buffer)])
        return getattr(reader, read)()

    with pytest.raises(StorageUnavailableError):
        read_once()

    assert reader.tell() == 0
    assert read_once() == content
    assert check.received == content


def test_a_range_of_another_length_is_an_error(pool):
    """The bytes after it would be at wrong positions."""
    reader = RangeReader(
        _into(lambda start, stop: bytes(stop - start - 1)),
        info_of(MIB),
        chunk_size=MIB,
        concurrency=1,
        workers=no_threads,
    )

    with pytest.raises(IntegrityError, match="65535 bytes were received where 65536 were requested, from byte 0 on"):
        reader.read(5)


@pytest.mark.parametrize("end", ["closed", "collected"])
def test_closing_does_not_wait_for_fetches(end, capfd, recwarn):
    """Queued fetches are cancelled, running ones are left to end, and their errors are not printed."""
    remote, started, resume = RemoteContent(content_of(8 * MIB)), threading.Event(), threading.Event()
    in_thread = []

    def fetch(start, stop):
        if threading.current_thread() is not threading.main_thread():
            in_thread.append(start)
            started.set()
            assert resume.wait(SECONDS)
            raise StorageUnavailableError("not needed any more")
        return remote.content[start:stop]

    pool = ThreadPoolExecutor(1)
    reader = RangeReader(
        _into(fetch), info_of(remote.size), head=b"?", chunk_size=MIB, concurrency=4, workers=lambda: pool, eager=True
    )
    reader.read(MIB)
    assert started.wait(SECONDS)

    if end == "closed":
        reader.close()
    del reader
    gc.collect()
    resume.set()
    pool.shutdown()

    assert len(in_thread) == 1
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []


def test_an_error_is_freed_without_the_garbage_collector(pool):
    """There is no reference cycle through its traceback."""
    remote, references = RemoteContent(content_of(4 * MIB)), []
    reader = open_reader(remote, pool, eager=True)

    def fail_once():
        error = StorageUnavailableError("the connection broke off")
        references.append(weakref.ref(error))
        remote.failures[2 * MIB] = error
        del error
        try:
            reader.read()
        except StorageUnavailableError:
            return
        raise AssertionError("no error was raised")

    gc.disable()
    try:
        fail_once()
        reader.close()
        pool.shutdown()
        alive = [error() for error in references]
    finally:
        gc.enable()

    assert alive == [None]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # the test needs threads before the fork
def test_a_reader_works_in_a_forked_child(in_bounded_time):
    """The child fetches again what the parent's threads were fetching, and the parent's reader works too."""
    remote, started, resume = RemoteContent(content_of(8 * MIB)), threading.Event(), threading.Event()
    parent = os.getpid()
    pools: dict[int, Executor] = {}

    def fetch(start, stop):
        if os.getpid() == parent and threading.current_thread() is not threading.main_thread():
            started.set()
            assert resume.wait(SECONDS)
        return remote.content[start:stop]

    def workers():
        return pools.setdefault(os.getpid(), ThreadPoolExecutor(2))

    head = remote.content[:1]
    reader = RangeReader(
        _into(fetch), info_of(remote.size), head=head, chunk_size=MIB, concurrency=4, workers=workers, eager=True
    )
    first = reader.read(MIB)
    assert started.wait(SECONDS)

    child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)
            data = reader.read()
            reader.close()
            os._exit(0 if first + data == remote.content else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    resume.set()
    data = reader.read()
    pools[parent].shutdown()

    assert os.waitstatus_to_exitcode(status) == 0
    assert first + data == remote.content


@pytest.mark.parametrize("action", ["read on", "seek", "start", "close"])
def test_a_forked_child_does_not_use_the_parents_futures(action, monkeypatch):
    """A thread of the parent may have held their locks during the fork, so any call could block for ever."""

    class LockedFuture(Future[Any]):
        def cancel(self):
            raise AssertionError("this would block for ever")

        done = running = cancelled = cancel

    class ParentExecutor(ImmediateExecutor):
        def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
            return LockedFuture()

    remote = RemoteContent(content_of(8 * MIB))
    pools: list[Executor] = [ParentExecutor()]
    reader = RangeReader(
        _into(remote.fetch),
        info_of(remote.size),
        head=remote.content[:1],
        chunk_size=MIB,
        concurrency=4,
        workers=lambda: pools[-1],
        eager=True,
    )
    start = {"read on": MIB, "seek": 5 * MIB, "start": 0, "close": MIB}[action]
    if action != "start":
        reader.read(MIB)

    monkeypatch.setattr(os, "getpid", lambda: -1)
    pools.append(ImmediateExecutor())
    reader.seek(start)
    data = b"" if action == "close" else reader.read()
    reader.close()

    assert data == (b"" if action == "close" else remote.content[start:])


# -- verification of the content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MIN_FETCH, 3 * MIB + 1])
@pytest.mark.parametrize("length", [-1, 1000, MIB])
def test_the_check_gets_every_byte_once(size, length, pool):
    """In order; `verify` is called once, when the last byte is returned."""
    remote, check = RemoteContent(content_of(size)), RecordingCheck()
    reader = open_reader(remote, pool, check=check)

    while reader.read(length):
        pass
    reader.read()

    assert hashlib.sha256(check.received).digest() == hashlib.sha256(remote.content).digest()
    assert check.verified == 1


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.read(),
        lambda reader: list(reader.iter_chunks(10)),
        lambda reader: reader.readinto(bytearray(100)),
        list,
    ],
    ids=["read", "iter_chunks", "readinto", "lines"],
)
@pytest.mark.parametrize("content", [b"", b"a line\nand another one\n"], ids=["empty", "not empty"])
def test_the_last_read_of_wrong_content_fails(content, read):
    """The last bytes are not returned, not even by a further read."""
    reader = open_reader(RemoteContent(content), check=RecordingCheck(valid=False))

    with pytest.raises(IntegrityError, match="not the bytes"):
        read(reader)
    with pytest.raises(IntegrityError, match="not the bytes"):
        reader.read()
    reader.seek(0)
    with pytest.raises(IntegrityError, match="not the bytes"):
        reader.read()


def test_seeking_back_does_not_affect_the_check():
    """It gets no byte twice, and seeking to the end without reading leaves no gap."""
    content, check = content_of(1000), RecordingCheck()
    reader = open_reader(RemoteContent(content), check=check)

    reader.read(300)
    reader.seek(100)
    reader.read(100)
    reader.seek(250)
    reader.read(250)
    reader.seek(0, io.SEEK_END)
    reader.read()
    reader.seek(500)
    reader.read()

    assert check.received == content
    assert check.verified == 1


def test_skipping_bytes_ends_the_check():
    """The content can no longer be verified as a whole, not even if the gap is read later."""
    content, check = content_of(1000), RecordingCheck(valid=False)
    reader = open_reader(RemoteContent(content), check=check)
    reader.read(100)
    reader.seek(101)

    rest = reader.read()
    reader.seek(0)

    assert rest == content[101:]
    assert reader.read() == content
    assert check.received == content[:100]
    assert check.verified == 0


# -- wrappers of the standard library ---------------------------------------------------------------------------------


def test_text_io_wrapper_and_csv_read_from_it(pool):
    """Also after seeking back to the beginning."""
    rows = [[str(number), "öäü" * 20] for number in range(5000)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    reader = open_reader(RemoteContent(text.getvalue().encode()), pool, chunk_size=100_000)

    with reader, io.TextIOWrapper(reader, encoding="utf-8", newline="") as wrapper:
        first = list(csv.reader(wrapper))
        wrapper.seek(0)
        second = list(csv.reader(wrapper))

    assert first == second == rows


def test_gzip_and_zipfile_read_from_it(pool):
    """Reading one member of an archive does not transfer the others."""
    content = os.urandom(MIB)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("first", "second", "third"):
            file.writestr(name, content)
    remote = RemoteContent(archive.getvalue())

    unpacked = gzip.GzipFile(fileobj=open_reader(RemoteContent(gzip.compress(content)), pool)).read()
    member = zipfile.ZipFile(open_reader(remote, pool)).read("second")

    assert unpacked == member == content
    assert remote.transferred < 2.2 * MIB


def test_a_buffered_reader_reads_from_it():
    """Its `peek` and small reads need no further requests."""
    remote = RemoteContent(content_of(MIB))
    buffered = io.BufferedReader(open_reader(remote))

    peeked = buffered.peek(10)[:10]

    assert peeked == buffered.read(10) == remote.content[:10]
    assert remote.requested == [(0, MIN_FETCH)]


def test_will_read_prefetches_the_announced_bytes_and_no_others():
    """So serving a range of a huge file transfers that range only, in few requests."""
    remote = HugeContent(5 * GIB)
    reader = open_reader(remote, ImmediateExecutor(), concurrency=4)
    reader.seek(GIB)

    reader.will_read(10 * MIB)
    for _ in range(40):
        assert len(reader.read(MIB // 4)) == MIB // 4

    assert sorted(remote.requested) == [(GIB + number * MIB, GIB + (number + 1) * MIB) for number in range(10)]


def test_bytes_beyond_will_read_can_be_read():
    """The announcement is not a limit."""
    remote = RemoteContent(content_of(3 * MIB))
    reader = open_reader(remote, ImmediateExecutor())
    reader.will_read(MIB)

    assert reader.read() == remote.content
    reader.seek(5)
    reader.will_read(10)
    assert reader.read(20) == remote.content[5:25]


@pytest.mark.parametrize("executor", [ImmediateExecutor, SlowExecutor])
@pytest.mark.parametrize("position", [0, MIB - 1, MIB, 3 * MIB])
@pytest.mark.parametrize("keep", [0, 10, 2 * MIB])
def test_trimming_releases_what_was_read_ahead(executor, position, keep):
    """Except for the next bytes of the current range; the rest is fetched again when it is read."""
    remote = RemoteContent(content_of(3 * MIB))
    check = RecordingCheck()
    reader = open_reader(remote, executor(), check=check, eager=True)
    start = reader.read(position)

    reader.trim(keep)

    assert sum(len(part.data) for part in reader._ranges) <= keep
    assert all(part.future is None for part in reader._ranges)
    assert start + reader.read() == remote.content == bytes(check.received)
    assert check.verified == 1


@pytest.mark.parametrize("position", [0, MIB + 5, 3 * MIB - 1])
def test_trimming_after_seeking_keeps_no_other_bytes(position):
    """Neither those before the position nor those after it."""
    remote = RemoteContent(content_of(3 * MIB))
    reader = open_reader(remote, ImmediateExecutor(), eager=True)
    reader.read(2 * MIB)
    reader.seek(position)

    reader.trim(10)

    assert reader.read() == remote.content[position:]


def test_will_read_does_nothing_for_files_that_are_not_remote():
    """Every file has the method."""
    storage = MemoryStorage()
    storage.write("file.bin", b"abc")

    with storage.open("file.bin", "r") as reader:
        reader.will_read(1)
        assert reader.read() == b"abc"
