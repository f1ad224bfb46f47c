"""Reading from far away: the right bytes, no more of them than needed, and as many at a time as it takes."""

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
LEAST = RangeReader.min_fetch_size
SECONDS = 60  # until a test that waits for a thread gives up


def _into(fetch):
    """What a reader is given: the range that *fetch* returns is written into the reader's buffer."""
    return lambda start, stop, buffer: buffer.write(fetch(start, stop))


class Place:
    """A remote place with one file: it notes which ranges are asked for, and may fail once at some of its bytes."""

    def __init__(self, content):
        self.content = content
        self.size = len(content)
        self.asked = []
        self.failures = {}

    def fetch(self, start, stop):
        """Return a range, or fail."""
        self.asked.append((start, stop))
        for byte in list(self.failures):
            if start <= byte < stop:
                raise self.failures.pop(byte)
        return self.content[start:stop]

    @property
    def moved(self):
        """How many bytes were asked for, in all."""
        return sum(stop - start for start, stop in self.asked)


class Huge(Place):
    """A place whose file nobody could hold."""

    def __init__(self, size):
        super().__init__(b"")
        self.size = size

    def fetch(self, start, stop):
        """Return as many zeros."""
        self.asked.append((start, stop))
        return bytes(stop - start)


class Near(Executor):
    """A pool whose work is done before one looks: the place is so near that nobody ever waits."""

    def __init__(self):
        self.ahead = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
        """Work at once."""
        self.ahead.append(arguments)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(*arguments))
        except StorageUnavailableError as error:
            future.set_exception(error)
        return future


class Far(Executor):
    """A pool whose work is under way, and never done until one waits for it."""

    def __init__(self):
        self.ahead = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
        """Begin, and do not come to an end."""
        self.ahead.append(arguments)
        future = Awaited(lambda: function(*arguments))
        future.set_running_or_notify_cancel()
        return future


class Awaited(Future[Any]):
    """Work that is done when its result is asked for."""

    def __init__(self, work):
        super().__init__()
        self.work = work

    def result(self, timeout=None):
        """End the work."""
        return self.work()


class Sum:
    """A check that remembers what it was told, and finds it right or not."""

    def __init__(self, right=True):
        self.told = bytearray()
        self.right = right
        self.asked = 0

    def update(self, data):
        """Listen."""
        self.told += data

    def verify(self):
        """Say what was decided beforehand."""
        self.asked += 1
        if not self.right:
            raise IntegrityError("not the bytes that were stored")


def no_threads():
    """Stand in for the pool where none may be asked for."""
    raise AssertionError("no thread is needed for this")


def info_of(size):
    """Return what a place would say of a file of *size* bytes."""
    return FileInfo(path="file.bin", size=size, last_modified=arrow.utcnow())


def open_reader(place, pool=None, *, kind=RangeReader, chunk_size=MIB, concurrency=4, **options):
    """Open the file of *place*; without a pool no thread may be used."""
    workers = no_threads if pool is None else lambda: pool
    return kind(
        _into(place.fetch),
        info_of(place.size),
        chunk_size=chunk_size,
        concurrency=concurrency,
        workers=workers,
        **options,
    )


def content_of(size):
    """Return bytes that differ from place to place."""
    return random.Random(size).randbytes(size)


@pytest.fixture
def pool():
    """Threads, more than any reader here may use."""
    with ThreadPoolExecutor(16) as executor:
        yield executor


# -- the right bytes --------------------------------------------------------------------------------------------------


class SmallReader(RangeReader):
    """A reader whose ranges are so small that a short file has many."""

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
    st.tuples(st.just("seek on"), st.integers(0, 70)),
    st.tuples(st.just("seek before end"), SIZES),
)


def _take(file, step, argument):
    """Do one step with *file* and return what came of it."""
    if step == "readinto":
        buffer = bytearray(argument)
        return file.readinto(buffer), bytes(buffer)
    if step == "iter_chunks":
        return b"".join(file.read(argument) for _ in range(5))
    if step == "seek back":
        return file.seek(max(file.tell() - argument, 0))
    if step == "seek on":
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
    pool=st.sampled_from([Near, Far, lambda: ThreadPoolExecutor(2)]),
    eager=st.booleans(),
    steps=st.lists(STEPS, max_size=12),
)
def test_it_reads_what_a_file_in_memory_would(size, line, head, chunk_size, concurrency, pool, eager, steps):
    """Whatever is read, in whatever order: the same bytes, none checked twice, and nothing beyond the end is asked."""
    content = b"".join(b"\n" if number % line == 0 else bytes([number % 251 + 11 & 255]) for number in range(size))
    place, expected, check = Place(content), io.BytesIO(content), Sum()
    with pool() as executor:
        reader = open_reader(
            place,
            executor,
            kind=SmallReader,
            head=content[: min(head, chunk_size)],
            chunk_size=chunk_size,
            concurrency=concurrency,
            check=check,
            eager=eager,
        )

        for step, argument in steps:
            assert _take(reader, step, argument) == _take(expected, step, argument)
            assert reader.tell() == expected.tell()
        reader.close()

    assert all(0 <= start < stop <= size for start, stop in place.asked)
    assert content.startswith(check.told)
    assert check.asked <= 1


@pytest.mark.parametrize("size", [0, 1, LEAST, 3 * MIB, 3 * MIB + 1])
@pytest.mark.parametrize("eager", [False, True])
def test_reading_to_the_end_moves_every_byte_once(size, eager, pool):
    """No range is fetched twice and none in vain; a chunk is short only at the end."""
    place = Place(content_of(size))
    reader = open_reader(place, pool, eager=eager)

    chunks = list(reader.iter_chunks())

    assert b"".join(chunks) == place.content
    assert all(len(chunk) == MIB for chunk in chunks[:-1])
    assert place.moved == size


def test_a_chunk_that_is_read_whole_is_not_copied(pool):
    """The reader hands out what its buffer holds, whether it was fetched here or ahead."""
    place = Place(content_of(5 * MIB))
    buffers = []

    def fetch(start, stop, buffer):
        buffer.write(place.content[start:stop])
        buffers.append(buffer)

    reader = RangeReader(fetch, info_of(place.size), chunk_size=MIB, concurrency=2, workers=lambda: pool)

    chunks = list(reader.iter_chunks())

    assert {id(chunk) for chunk in chunks} == {id(buffer.getvalue()) for buffer in buffers}


def test_chunks_after_the_head_lie_as_they_are_read(pool):
    """A head that opening brought shifts the first chunk alone; those behind it are handed out as they came."""
    place = Place(content_of(4 * MIB))
    reader = open_reader(place, pool, head=place.content[:LEAST], eager=True)

    assert b"".join(reader.iter_chunks()) == place.content
    assert sorted(place.asked) == [(LEAST, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB), (3 * MIB, 4 * MIB)]


@pytest.mark.parametrize("whence", [io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
def test_there_is_no_byte_before_the_first(whence):
    """Seeking there is refused, from wherever it is counted; the position stays."""
    reader = open_reader(Place(b"some bytes"))
    reader.read(3)

    with pytest.raises(ValueError, match="no byte at position"):
        reader.seek(-11, whence)

    assert reader.tell() == 3


def test_seeking_takes_positions_only():
    """An unknown whence and a fraction of a byte are refused."""
    reader = open_reader(Place(b"some bytes"))

    with pytest.raises(ValueError, match="SEEK_CUR"):
        reader.seek(0, 7)
    with pytest.raises(TypeError):
        reader.seek(1.5)


def test_a_closed_reader_takes_nothing():
    """Neither reading nor moving; and it was readable and seekable, and never writable."""
    reader = open_reader(Place(b"some bytes"))
    able = (reader.readable(), reader.seekable(), reader.writable())

    reader.close()

    assert able == (True, True, False)
    for use in (reader.read, reader.readline, reader.tell, lambda: reader.seek(0), lambda: reader.readinto(b"")):
        with pytest.raises(ValueError, match="closed"):
            use()


# -- no more than needed ----------------------------------------------------------------------------------------------


def test_opening_and_seeking_fetch_nothing():
    """Neither does asking how long the file is, and what was fetched ahead is still there afterwards."""
    place, near = Place(content_of(4 * MIB)), Near()
    reader = open_reader(place, near)
    untouched = list(place.asked)
    reader.read(MIB)
    reader.read(MIB)
    before = list(place.asked)

    length = reader.seek(0, io.SEEK_END)
    reader.seek(2 * MIB)

    assert untouched == []
    assert length == 4 * MIB
    assert place.asked == before
    assert reader.read(MIB) == place.content[2 * MIB : 3 * MIB]
    assert place.asked.count((2 * MIB, 3 * MIB)) == 1


@pytest.mark.parametrize("position", [0, 1, 3 * GIB, 5 * GIB - 1])
@pytest.mark.parametrize("asked", [1, LEAST, LEAST + 1, 3 * MIB])
def test_a_small_read_of_a_large_file_moves_little(position, asked, pool):
    """What was asked for, at least 64 KiB; it is the same after opening and after seeking, also near the end."""
    place = Huge(5 * GIB)
    reader = open_reader(place, pool)
    reader.seek(position)

    length = len(reader.read(asked))

    assert length == min(asked, 5 * GIB - position)
    assert place.moved == max(length, LEAST)


def test_the_end_of_an_archive_is_fetched_once():
    """Who reads the last bytes reads those before them next: they came along."""
    place = Huge(5 * GIB)
    reader = open_reader(place)

    reader.seek(-22, io.SEEK_END)
    reader.read()
    reader.seek(-40_000, io.SEEK_END)
    reader.read(30_000)

    assert place.asked == [(5 * GIB - LEAST, 5 * GIB)]


def test_ranges_grow_while_reading_goes_on():
    """Each fetch is as long as all that was read before it, up to a chunk; a jump begins small again."""
    place = Huge(5 * GIB)
    reader = open_reader(place, Near())

    while reader.tell() < MIB:
        reader.read(1024)
    reader.seek(GIB)
    reader.read(1024)

    lengths = [stop - start for start, stop in place.asked]
    assert lengths[:5] == [LEAST, LEAST, 2 * LEAST, 4 * LEAST, 8 * LEAST]
    assert lengths[-1] == LEAST


@pytest.mark.parametrize("length", [100, 10_000, 300_000, MIB])
def test_reading_on_and_stopping_moves_at_most_twice_as_much(length):
    """Until a whole chunk was read in one go, nothing is fetched ahead, and no thread is asked for."""
    place = Huge(5 * GIB)
    reader = open_reader(place)
    reader.seek(GIB)

    for _ in range(MIB // length):
        reader.read(length)

    assert place.moved <= max(2 * (reader.tell() - GIB), LEAST)


def test_what_is_held_is_not_fetched_again():
    """Going back and forth within it costs nothing."""
    place = Place(content_of(MIB))
    reader = open_reader(place)
    reader.read(100)
    before = list(place.asked)

    reader.seek(50)
    reader.read(1000)
    reader.seek(LEAST - 10)
    reader.read(10)
    reader.seek(0)

    assert reader.read(100) == place.content[:100]
    assert place.asked == before == [(0, LEAST)]


def test_a_jump_within_what_is_fetched_ahead_uses_it():
    """The ranges in between are given up, those behind are kept."""
    place, near = Place(content_of(8 * MIB)), Near()
    reader = open_reader(place, near, eager=True)
    reader.read(MIB)

    reader.seek(3 * MIB)

    assert reader.read() == place.content[3 * MIB :]
    assert len(place.asked) == len(set(place.asked)) == 8


def test_a_file_that_came_with_opening_costs_no_request():
    """The head may be all of it."""
    place = Place(b"a whole, short file")
    reader = open_reader(place, head=place.content)

    assert reader.read(7) == b"a whole"
    assert reader.read() == b", short file"
    assert reader.read() == b""
    assert place.asked == []


def test_lines_are_read_without_going_back():
    """Reading by lines moves every byte once."""
    lines = [b"line %d of some length\n" % number for number in range(20_000)]
    place = Place(b"".join(lines))
    reader = open_reader(place, chunk_size=4 * MIB)

    assert list(reader) == lines
    assert place.moved == place.size


def test_a_line_without_end_takes_few_requests():
    """It asks for as much again as there is of it already, up to the limit that is given."""
    place = Huge(64 * MIB)
    reader = open_reader(place, Near(), chunk_size=8 * MIB)

    line = reader.readline()

    assert len(line) == 64 * MIB
    assert len(place.asked) <= 8 + 7


# -- as many at a time as it takes ------------------------------------------------------------------------------------


def test_a_near_place_is_read_with_one_range_ahead():
    """Where nobody ever waits, one is enough, however long the file."""
    place, near = Place(content_of(20 * MIB)), Near()
    reader = open_reader(place, near, concurrency=8)

    for number in range(2, 20):
        reader.read(MIB)

        assert len(near.ahead) == max(number - 2, 0)


def test_a_far_place_is_read_with_all_ranges_ahead():
    """With each wait the number of ranges under way doubles, until it is the full one."""
    place, far = Huge(5 * GIB), Far()
    reader = open_reader(place, far, concurrency=8)
    under_way = []

    for _ in range(12):
        reader.read(MIB)
        under_way.append(len(far.ahead) - (len(place.asked) - 2) if far.ahead else 0)

    assert under_way == [0, 1, 2, 4, 8, 8, 8, 8, 8, 8, 8, 8]


def test_after_a_jump_the_distance_is_still_known():
    """Fetching ahead pauses until a whole chunk was read again, and then goes on with as many ranges as before."""
    far = Far()
    reader = open_reader(Huge(5 * GIB), far, concurrency=8)
    for _ in range(8):
        reader.read(MIB)

    reader.seek(GIB)
    reader.read(MIB)
    paused = max(start for start, *_ in far.ahead) < GIB
    reader.read(MIB)

    assert paused
    assert len([start for start, *_ in far.ahead if start >= GIB]) == 8


@pytest.mark.parametrize(("eager", "reads"), [(True, [1, MIB, -1]), (False, [-1]), (False, [4 * MIB])])
def test_what_is_wanted_for_sure_is_fetched_in_parallel(eager, reads, pool):
    """Of a whole file, or of one large read, as many chunks as allowed are under way at once, from the start."""
    together = threading.Barrier(4)
    content = content_of(4 * MIB)
    gate = 1 if eager else 0

    def fetch(start, stop):
        together.wait(SECONDS)
        return content[start:stop]

    reader = RangeReader(
        _into(fetch),
        info_of(len(content)),
        head=content[:gate],
        chunk_size=MIB,
        concurrency=4,
        workers=lambda: pool,
        eager=eager,
    )

    assert b"".join(reader.read(size) for size in reads) == content


@pytest.mark.parametrize("way", [lambda reader: reader.read(), lambda reader: b"".join(reader.iter_chunks(70_000))])
def test_never_more_at_a_time_than_allowed(way, pool):
    """However the file is read."""
    content, lock, running, most = content_of(20 * MIB), threading.Lock(), 0, 0

    def fetch(start, stop):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        data = content[start:stop]
        with lock:
            running -= 1
        return data

    reader = RangeReader(
        _into(fetch), info_of(len(content)), chunk_size=MIB // 2, concurrency=3, workers=lambda: pool, eager=True
    )

    assert way(reader) == content
    assert most <= 3


@pytest.mark.parametrize(
    "way",
    [
        lambda reader: [len(reader.read(10_000)) for _ in range(1700)] and 0,
        lambda reader: [len(reader.read(MIB)) for _ in range(17)] and MIB,
        lambda reader: [reader.readinto(bytearray(3 * MIB)) for _ in range(6)] and 3 * MIB,
        lambda reader: [len(reader.readline()) for _ in range(170)] and 300_000,
        lambda reader: len(reader.read()),
    ],
    ids=["small reads", "chunks", "into a buffer", "lines", "at once"],
)
def test_no_more_is_held_than_promised(way):
    """``chunk_size * (concurrency + 1)`` at most, beyond what the caller asked for; the worst is when all has come."""
    source = b"\n".join([bytes(100_000)] * 12)

    def fetch(start, stop, buffer):
        begin = start % 100_001
        buffer.write(memoryview(source)[begin : begin + stop - start])

    def read():
        return way(RangeReader(fetch, info_of(16 * MIB), chunk_size=MIB, concurrency=4, workers=Near, eager=True))

    read()
    tracemalloc.start()
    asked = read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak <= asked + MIB * (4 + 1) + 200_000


def test_what_was_given_up_and_still_runs_counts():
    """Jumping about does not pile up fetches: until they end there is room for what is needed now, and no more."""
    place, free = Huge(5 * GIB), threading.Event()
    reading_thread = threading.get_ident()
    begun = threading.Semaphore(0)

    def fetch(start, stop):
        if threading.get_ident() != reading_thread:
            begun.release()
            assert free.wait(SECONDS)
        return place.fetch(start, stop)

    first, second = ThreadPoolExecutor(8), Near()
    reader = RangeReader(
        _into(fetch), info_of(5 * GIB), head=b"?", chunk_size=MIB, concurrency=2, workers=lambda: pools[-1], eager=True
    )
    pools: list[Executor] = [first]
    reader.read(MIB)
    assert begun.acquire(timeout=SECONDS)
    assert begun.acquire(timeout=SECONDS)
    pools.append(second)

    for number in range(1, 4):
        reader.seek(number * GIB)
        reader.read(MIB)
    while_they_ran = len(second.ahead)
    free.set()
    first.shutdown()
    reader.seek(0)
    reader.read(MIB)

    assert while_they_ran == 0
    assert len(second.ahead) == 2


def test_a_busy_pool_holds_nobody_up():
    """What no thread has begun when it is needed is fetched by the reader: it may even run in the only thread."""
    place = Place(content_of(8 * MIB))
    only = ThreadPoolExecutor(1)
    reader = open_reader(place, only, eager=True)

    try:
        data = only.submit(reader.read).result(SECONDS)
    finally:
        only.shutdown(cancel_futures=True)

    assert data == place.content


def test_without_threads_it_reads_on():
    """When the interpreter ends, pools take no more work; the rest is fetched by the reader itself."""
    place, pool = Place(content_of(8 * MIB)), ThreadPoolExecutor(2)
    reader = open_reader(place, pool, eager=True)
    first = reader.read(MIB)

    pool.shutdown(cancel_futures=True)

    assert first + reader.read() == place.content


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("make_pool", [Near, Far, lambda: ThreadPoolExecutor(4)], ids=["near", "far", "threads"])
def test_a_range_that_failed_is_told_once_and_fetched_anew(number, make_pool):
    """The error comes when the reader is there, once; the same read, tried again, goes on without a gap."""
    place = Place(content_of(6 * MIB))
    place.failures[number * MIB] = StorageUnavailableError("the line is down")
    with make_pool() as executor:
        reader = open_reader(place, executor, eager=True)
        for before in range(number):
            assert reader.read(MIB) == place.content[before * MIB : (before + 1) * MIB]

        with pytest.raises(StorageUnavailableError, match="the line is down"):
            reader.read(MIB)

        assert reader.tell() == number * MIB
        assert reader.read() == place.content[number * MIB :]


@pytest.mark.parametrize("read", ["read", "readinto", "readline"])
@pytest.mark.parametrize("number", range(4))
def test_a_large_read_that_failed_moves_nothing_on(read, number, pool):
    """What had come of it is not lost: tried again, it yields all from where it began, and the check hears it once."""
    content = bytes(4 * MIB)
    place, check = Place(content), Sum()
    place.failures[number * MIB] = StorageUnavailableError("the line is down")
    reader = open_reader(place, pool, check=check, eager=True)

    def take():
        if read == "readinto":
            buffer = bytearray(b"x") * len(content)
            return bytes(buffer[: reader.readinto(buffer)])
        return getattr(reader, read)()

    with pytest.raises(StorageUnavailableError):
        take()

    assert reader.tell() == 0
    assert take() == content
    assert check.told == content


def test_a_range_of_another_length_is_an_error(pool):
    """Whatever the place did there: bytes in the wrong place are worse than none."""
    reader = RangeReader(
        _into(lambda start, stop: bytes(stop - start - 1)),
        info_of(MIB),
        chunk_size=MIB,
        concurrency=1,
        workers=no_threads,
    )

    with pytest.raises(IntegrityError, match="65535 bytes came where 65536 were asked for, from byte 0 on"):
        reader.read(5)


@pytest.mark.parametrize("end", ["closed", "forgotten"])
def test_closing_waits_for_nobody(end, capfd, recwarn):
    """What is queued is cancelled, what runs is left to end, and an error that nobody asked for is not shown."""
    place, begun, free = Place(content_of(8 * MIB)), threading.Event(), threading.Event()
    in_thread = []

    def fetch(start, stop):
        if threading.current_thread() is not threading.main_thread():
            in_thread.append(start)
            begun.set()
            assert free.wait(SECONDS)
            raise StorageUnavailableError("nobody wants to know")
        return place.content[start:stop]

    pool = ThreadPoolExecutor(1)
    reader = RangeReader(
        _into(fetch), info_of(place.size), head=b"?", chunk_size=MIB, concurrency=4, workers=lambda: pool, eager=True
    )
    reader.read(MIB)
    assert begun.wait(SECONDS)

    if end == "closed":
        reader.close()
    del reader
    gc.collect()
    free.set()
    pool.shutdown()

    assert len(in_thread) == 1
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []


def test_an_error_keeps_nothing_alive(pool):
    """Once it was handled it is gone, and with it all that it knew of; it need not wait for the garbage collector."""
    place, known = Place(content_of(4 * MIB)), []
    reader = open_reader(place, pool, eager=True)

    def provoke():
        error = StorageUnavailableError("the line is down")
        known.append(weakref.ref(error))
        place.failures[2 * MIB] = error
        del error
        try:
            reader.read()
        except StorageUnavailableError:
            return
        raise AssertionError("it reads on")

    gc.disable()
    try:
        provoke()
        reader.close()
        pool.shutdown()
        left = [error() for error in known]
    finally:
        gc.enable()

    assert left == [None]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # the reader's threads are the point
def test_a_reader_goes_on_in_a_forked_child(in_bounded_time):
    """What the parent's threads were fetching is fetched anew in the child, and the parent goes on as well."""
    place, begun, free = Place(content_of(8 * MIB)), threading.Event(), threading.Event()
    parent = os.getpid()
    pools: dict[int, Executor] = {}

    def fetch(start, stop):
        if os.getpid() == parent and threading.current_thread() is not threading.main_thread():
            begun.set()
            assert free.wait(SECONDS)
        return place.content[start:stop]

    def workers():
        return pools.setdefault(os.getpid(), ThreadPoolExecutor(2))

    head = place.content[:1]
    reader = RangeReader(
        _into(fetch), info_of(place.size), head=head, chunk_size=MIB, concurrency=4, workers=workers, eager=True
    )
    first = reader.read(MIB)
    assert begun.wait(SECONDS)

    child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)
            data = reader.read()
            reader.close()
            os._exit(0 if first + data == place.content else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    free.set()
    data = reader.read()
    pools[parent].shutdown()

    assert os.waitstatus_to_exitcode(status) == 0
    assert first + data == place.content


@pytest.mark.parametrize("way", ["reads on", "jumps", "begins", "closes"])
def test_a_child_leaves_the_parents_futures_alone(way, monkeypatch):
    """Asking them may wait for ever, since a thread of the parent may have held their lock during the fork."""

    class Locked(Future[Any]):
        def cancel(self):
            raise AssertionError("it waits for ever")

        done = running = cancelled = cancel

    class Parents(Near):
        def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
            return Locked()

    place = Place(content_of(8 * MIB))
    pools: list[Executor] = [Parents()]
    reader = RangeReader(
        _into(place.fetch),
        info_of(place.size),
        head=place.content[:1],
        chunk_size=MIB,
        concurrency=4,
        workers=lambda: pools[-1],
        eager=True,
    )
    start = {"reads on": MIB, "jumps": 5 * MIB, "begins": 0, "closes": MIB}[way]
    if way != "begins":
        reader.read(MIB)

    monkeypatch.setattr(os, "getpid", lambda: -1)
    pools.append(Near())
    reader.seek(start)
    data = b"" if way == "closes" else reader.read()
    reader.close()

    assert data == (b"" if way == "closes" else place.content[start:])


# -- whether the bytes are right --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, LEAST, 3 * MIB + 1])
@pytest.mark.parametrize("length", [-1, 1000, MIB])
def test_the_check_hears_every_byte_once(size, length, pool):
    """In order, and is asked when the last one is delivered; not again by reading at the end."""
    place, check = Place(content_of(size)), Sum()
    reader = open_reader(place, pool, check=check)

    while reader.read(length):
        pass
    reader.read()

    assert hashlib.sha256(check.told).digest() == hashlib.sha256(place.content).digest()
    assert check.asked == 1


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
def test_wrong_bytes_are_an_error_of_the_read_that_ends_them(content, read):
    """Nobody gets the last bytes, also when asking again."""
    reader = open_reader(Place(content), check=Sum(right=False))

    with pytest.raises(IntegrityError, match="not the bytes"):
        read(reader)
    with pytest.raises(IntegrityError, match="not the bytes"):
        reader.read()
    reader.seek(0)
    with pytest.raises(IntegrityError, match="not the bytes"):
        reader.read()


def test_going_back_is_fine_for_the_check():
    """What it has heard it does not hear again; a look at the end without reading there is no gap."""
    content, check = content_of(1000), Sum()
    reader = open_reader(Place(content), check=check)

    reader.read(300)
    reader.seek(100)
    reader.read(100)
    reader.seek(250)
    reader.read(250)
    reader.seek(0, io.SEEK_END)
    reader.read()
    reader.seek(500)
    reader.read()

    assert check.told == content
    assert check.asked == 1


def test_leaving_out_bytes_ends_the_check():
    """Of a part nothing can be said: it is neither told nor asked any more, also when the gap is read later."""
    content, check = content_of(1000), Sum(right=False)
    reader = open_reader(Place(content), check=check)
    reader.read(100)
    reader.seek(101)

    rest = reader.read()
    reader.seek(0)

    assert rest == content[101:]
    assert reader.read() == content
    assert check.told == content[:100]
    assert check.asked == 0


# -- a file to everyone -----------------------------------------------------------------------------------------------


def test_text_and_tables_are_read_from_it(pool):
    """`TextIOWrapper` and `csv` see an ordinary file; the text may be gone through twice."""
    rows = [[str(number), "öäü" * 20] for number in range(5000)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    reader = open_reader(Place(text.getvalue().encode()), pool, chunk_size=100_000)

    with reader, io.TextIOWrapper(reader, encoding="utf-8", newline="") as wrapper:
        first = list(csv.reader(wrapper))
        wrapper.seek(0)
        second = list(csv.reader(wrapper))

    assert first == second == rows


def test_packed_content_is_read_from_it(pool):
    """`gzip` and `zipfile` see an ordinary file; one member of an archive does not move the others."""
    content = os.urandom(MIB)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("first", "second", "third"):
            file.writestr(name, content)
    place = Place(archive.getvalue())

    unpacked = gzip.GzipFile(fileobj=open_reader(Place(gzip.compress(content)), pool)).read()
    member = zipfile.ZipFile(open_reader(place, pool)).read("second")

    assert unpacked == member == content
    assert place.moved < 2.2 * MIB


def test_a_buffered_reader_fits_on_it():
    """Its `peek` and its small reads cost no more requests."""
    place = Place(content_of(MIB))
    buffered = io.BufferedReader(open_reader(place))

    peeked = buffered.peek(10)[:10]

    assert peeked == buffered.read(10) == place.content[:10]
    assert place.asked == [(0, LEAST)]


def test_what_is_expected_is_fetched_in_chunks_and_nothing_beyond_it():
    """Who serves a range of a huge file moves that range, in few requests, and not what lies behind it."""
    place = Huge(5 * GIB)
    reader = open_reader(place, Near(), concurrency=4)
    reader.seek(GIB)

    reader.will_read(10 * MIB)
    for _ in range(40):
        assert len(reader.read(MIB // 4)) == MIB // 4

    assert sorted(place.asked) == [(GIB + number * MIB, GIB + (number + 1) * MIB) for number in range(10)]


def test_after_what_was_expected_reading_goes_on_as_always():
    """An expectation is no limit: what lies behind it is there, and so is what was read before."""
    place = Place(content_of(3 * MIB))
    reader = open_reader(place, Near())
    reader.will_read(MIB)

    assert reader.read() == place.content
    reader.seek(5)
    reader.will_read(10)
    assert reader.read(20) == place.content[5:25]


def test_to_expect_something_of_a_file_that_is_near_changes_nothing():
    """Every file can be told; only a far one has use for it."""
    storage = MemoryStorage()
    storage.write("file.bin", b"abc")

    with storage.open("file.bin", "r") as reader:
        reader.will_read(1)
        assert reader.read() == b"abc"
