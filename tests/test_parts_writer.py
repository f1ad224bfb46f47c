"""Writing in parts: what is held, what is on its way, and what becomes of it when something fails."""

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
SECONDS = 60  # until a test that waits for a thread gives up
S3_LIMITS = PartLimits(min_size=5 * MIB, max_size=5 * GIB, max_count=10_000)


class Place(MultipartStore):
    """A place in memory, which notes every call that it gets."""

    def __init__(self, limits=None):
        self.limits = limits or PartLimits()
        self.calls = []
        self.files = {}
        self.parts = {}
        self.options = {}
        self.handed_in = []
        self.failures = {}
        self._lock = threading.Lock()

    def put(self, path, data, options):
        """Store a file at once."""
        self._note("put")
        self.options["put"] = options
        self.handed_in.append(data)
        self.files[path] = bytes(data)

    def create(self, path, options):
        """Open an upload."""
        self._note("create")
        self.options["create"] = options
        return "upload"

    def upload_part(self, path, upload_id, number, data):
        """Keep a part, or fail as often as was asked for."""
        self._note(f"upload_part {number}")
        with self._lock:
            failures = self.failures.get(number)
            if failures:
                raise failures.pop(0)
            self.handed_in.append(data)
            self.parts[number] = bytes(data)
        return Part(number=number, size=len(data), etag=f"tag-{number}")

    def complete(self, path, upload_id, parts, options):
        """Join the parts."""
        self._note("complete")
        self.options["complete"] = options
        assert [part.number for part in parts] == sorted(self.parts)
        assert [part.etag for part in parts] == [f"tag-{part.number}" for part in parts]
        self.files[path] = b"".join(self.parts[part.number] for part in parts)

    def abort(self, path, upload_id):
        """Forget the upload."""
        self._note("abort")
        self.parts.clear()

    def list_parts(self, path, upload_id):
        """Tell of the parts."""
        return [Part(number=number, size=len(data), etag=f"tag-{number}") for number, data in self.parts.items()]

    def list_uploads(self, path=""):
        """Tell of no upload."""
        found: list[PendingUpload] = []
        return iter(found)

    def _note(self, call):
        with self._lock:
            self.calls.append(call)


class Gated(Place):
    """A place at which parts wait for a gate, and that counts how many do."""

    def __init__(self, limits=None):
        super().__init__(limits)
        self.gate = threading.Event()
        self.arrived = threading.Semaphore(0)

    def upload_part(self, path, upload_id, number, data):
        """Wait for the gate, then keep the part."""
        self.arrived.release()
        assert self.gate.wait(SECONDS)
        return super().upload_part(path, upload_id, number, data)

    def wait_for(self, count):
        """Return when so many more parts have come to the gate."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=SECONDS)


@pytest.fixture
def pool():
    """Threads that end with the test."""
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture
def write_to(pool):
    """Make a writer with small parts."""

    def make(place, *, chunk_size=10, concurrency=2, workers=pool, **options):
        return MultipartWriter(
            place,
            "a.bin",
            WriteOptions(**options),
            chunk_size=chunk_size,
            concurrency=concurrency,
            workers=lambda: workers,
        )

    return make


# -- one call or an upload --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 9, 10])
def test_what_fits_one_part_is_stored_by_one_call(write_to, size):
    """So is the empty file; no upload is begun."""
    place = Place()

    with write_to(place) as writer:
        writer.write(b"x" * size)

    assert place.calls == ["put"]
    assert place.files == {"a.bin": b"x" * size}


def test_a_file_into_which_nothing_was_written_exists(write_to):
    """Closing is enough."""
    place = Place()

    write_to(place).close()

    assert place.files == {"a.bin": b""}


@pytest.mark.parametrize(("size", "parts"), [(11, 2), (19, 2), (20, 2), (21, 3), (100, 10), (101, 11)])
@pytest.mark.parametrize("step", [1, 3, 10, 64, 1000])
def test_more_goes_out_in_full_parts(write_to, size, parts, step):
    """All parts but the last are full, however the pieces come; a full last part brings no empty one after it."""
    place = Place()
    content = bytes(number % 251 for number in range(size))

    with write_to(place) as writer:
        for start in range(0, size, step):
            writer.write(content[start : start + step])

    assert place.files == {"a.bin": content}
    assert len(place.parts) == parts
    assert {len(place.parts[number]) for number in range(1, parts)} == {10}
    assert place.calls[0] == "create"
    assert place.calls[-1] == "complete"


def test_the_size_of_the_next_part_is_told(write_to):
    """Who writes so much at a time saves a copy."""
    writer = write_to(Place(), chunk_size=64)

    told = writer.part_size
    writer.abort()

    assert told == 64


def test_each_end_gets_the_options_that_it_decides(write_to):
    """Headers are kept from the beginning, conditions decided at the end; size and checksum the file watches itself."""
    place = Place()
    kept: Any = {"content_type": "text/plain", "metadata": {"a": "b"}}

    with write_to(place, if_match="tag", size=11, checksum="md5:" + "0" * 32, **kept) as writer:
        writer.write(b"x" * 11)

    assert place.options["create"] == WriteOptions(**kept)
    assert place.options["complete"] == WriteOptions(if_match="tag")


def test_one_call_gets_all_options(write_to):
    """It is beginning and end in one."""
    place = Place()
    options: Any = {"content_type": "text/plain", "exclusive": True, "size": 3}

    with write_to(place, **options) as writer:
        writer.write(b"abc")

    assert place.options == {"put": WriteOptions(**options)}


# -- memory -----------------------------------------------------------------------------------------------------------


def test_whole_parts_of_bytes_are_not_copied(write_to):
    """Bytes never change, so the place gets the very same."""
    place = Place()
    content = b"x" * 30

    with write_to(place) as writer:
        writer.write(content)

    assert len(place.handed_in) == 3
    assert all(isinstance(data, memoryview) and data.obj is content for data in place.handed_in)


def test_one_whole_part_of_bytes_is_not_copied_either(write_to):
    """Even where it is all that comes."""
    place = Place()
    content = b"x" * 10

    with write_to(place) as writer:
        writer.write(content)

    assert place.handed_in[0].obj is content


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_buffer_may_be_used_again_after_writing(write_to, kind):
    """What can change is copied, also while its part is still on the way."""
    place = Gated()
    buffer = bytearray(b"a" * 10)
    writer = write_to(place)

    for letter in b"abcd":
        buffer[:] = bytes([letter]) * 10
        writer.write(kind(buffer))
        if letter == ord("b"):
            place.gate.set()
    buffer[:] = b"z" * 10
    writer.close()

    assert place.files == {"a.bin": b"a" * 10 + b"b" * 10 + b"c" * 10 + b"d" * 10}


def test_a_view_of_elements_counts_in_bytes(write_to):
    """An array of wider elements is written as the bytes that it is."""
    place = Place()
    view = memoryview(bytes(range(24))).cast("I")

    with write_to(place) as writer:
        written = writer.write(view)

    assert written == 24
    assert place.files == {"a.bin": bytes(range(24))}


def test_writing_waits_when_enough_parts_are_on_their_way(write_to, pool):
    """With two on their way and one full, the writer waits until one has arrived: no more than three parts are held."""
    place = Gated()
    writer = write_to(place, concurrency=2)
    begun, done = threading.Event(), threading.Event()

    def write():
        writer.write(b"x" * 29)  # two parts go out, and the third is nearly full
        begun.set()
        writer.write(b"y")
        done.set()

    writing = pool.submit(write)
    assert begun.wait(SECONDS)
    place.wait_for(2)
    blocked = not done.is_set() and not place.arrived.acquire(blocking=False)
    place.gate.set()
    writing.result(SECONDS)
    writer.close()

    assert blocked
    assert place.files == {"a.bin": b"x" * 29 + b"y"}


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_no_more_parts_than_allowed_are_on_their_way(write_to, concurrency):
    """Not at any time, over many parts, the last ones included."""
    place = _Counting()

    with write_to(place, concurrency=concurrency) as writer:
        writer.write(b"x" * 1003)

    assert place.files == {"a.bin": b"x" * 1003}
    assert 1 <= place.most <= concurrency


class _Counting(Place):
    """A place that knows how many parts came at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def upload_part(self, path, upload_id, number, data):
        """Count while the part is being kept."""
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        part = super().upload_part(path, upload_id, number, data)
        with self._lock:
            self.now -= 1
        return part


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StorageUnavailableError, ThrottledError])
def test_a_part_that_was_not_taken_is_sent_once_more(write_to, error):
    """One failure of each is forgiven, with the same number."""
    place = Place()
    place.failures = {number: [error("try again")] for number in (1, 2, 3)}

    with write_to(place) as writer:
        writer.write(b"x" * 25)

    assert place.files == {"a.bin": b"x" * 25}
    assert sorted(place.calls) == ["complete", "create", *(f"upload_part {number}" for number in (1, 1, 2, 2, 3, 3))]


@pytest.mark.parametrize(
    ("failures", "attempts"),
    [
        ([StorageUnavailableError("gone"), StorageUnavailableError("gone")], 2),
        ([StorageTimeoutError("too slow")], 1),  # who has waited long enough once does not wait again
        ([IntegrityError("damaged")], 1),
        ([RuntimeError("a fault of ours")], 1),
    ],
)
def test_a_part_that_fails_for_good_ends_the_upload(write_to, failures, attempts):
    """The error comes out of writing or closing, nothing is published, and the upload is discarded."""
    place = Place()
    place.failures = {1: list(failures)}
    writer = write_to(place)

    with pytest.raises(type(failures[-1])), writer:
        writer.write(b"x" * 100)

    assert place.files == {}
    assert place.calls.count("upload_part 1") == attempts
    assert place.calls[-1] == "abort"
    assert writer.closed
    assert not writer.published


def test_a_failure_that_shows_only_at_the_end_ends_the_upload_too(write_to):
    """Closing waits for all parts before it publishes."""
    place = Place()
    place.failures = {2: [IntegrityError("damaged")]}
    writer = write_to(place, concurrency=8)
    writer.write(b"x" * 11)

    with pytest.raises(IntegrityError, match="damaged"):
        writer.close()

    assert place.files == {}
    assert "complete" not in place.calls
    assert place.calls[-1] == "abort"


def test_a_failing_completion_discards_the_upload(write_to):
    """What was sent does not stay behind."""
    place = Place()

    def refuse(*_):
        raise StorageError("not like this")

    place.complete = refuse  # type: ignore[method-assign]  # the fault itself
    writer = write_to(place)

    with pytest.raises(StorageError, match="not like this"), writer:
        writer.write(b"x" * 11)

    assert place.calls[-1] == "abort"
    assert place.files == {}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_in_the_block_discards_the_upload(write_to, error):
    """Whatever it is."""
    place = Place()

    with pytest.raises(error):
        _write_and_fail(write_to(place), b"x" * 25, error)

    assert place.files == {}
    assert place.calls[-1] == "abort"


def test_an_exception_before_the_first_part_needs_no_call(write_to):
    """There is no upload to discard."""
    place = Place()

    with pytest.raises(ZeroDivisionError):
        _write_and_fail(write_to(place), b"x" * 10, ZeroDivisionError)

    assert place.calls == []


def _write_and_fail(writer, data, error):
    with writer:
        writer.write(data)
        raise error


def test_an_upload_is_discarded_after_the_parts_on_their_way(write_to, pool):
    """A part that comes after the upload is gone would stay behind; what waits in the queue is never sent."""
    place = Gated()
    writer = write_to(place, concurrency=2)
    writer.write(b"x" * 29)
    place.wait_for(2)

    aborting = pool.submit(writer.abort)
    discarded_early = "abort" in place.calls
    place.gate.set()
    aborting.result(SECONDS)

    assert not discarded_early
    assert place.calls[0] == "create"
    assert sorted(place.calls[1:-1]) == ["upload_part 1", "upload_part 2"]
    assert place.calls[-1] == "abort"


@pytest.mark.usefixtures("in_bounded_time")
def test_a_part_that_has_not_left_yet_is_called_back(write_to):
    """Aborting neither sends it nor waits for a thread that would."""
    place = Place()
    queue = Queue()
    writer = write_to(place, concurrency=4, workers=queue)
    writer.write(b"x" * 45)

    writer.abort()

    assert len(queue.waiting) == 4
    assert all(future.cancelled() for future in queue.waiting)
    assert place.calls == ["create", "abort"]


class Queue(Executor):
    """A pool whose threads all have something else to do."""

    def __init__(self):
        self.waiting = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
        """Let it wait."""
        self.waiting.append(Future[Any]())
        return self.waiting[-1]


# -- how large the parts are ------------------------------------------------------------------------------------------


def test_content_of_unknown_size_fits_up_to_five_terabytes():
    """From parts of 5 MiB on; the first 10 GiB of it in parts of one size."""
    plan = PartSizing.for_upload(S3_LIMITS, 5 * MIB, None)

    sizes = [plan.size_of(number, S3_LIMITS) for number in range(1, 10_001)]

    assert set(sizes[:2000]) == {5 * MIB}
    assert sizes == sorted(sizes)
    assert sum(sizes) >= 5 * TIB
    assert max(sizes) <= 5 * GIB


@pytest.mark.parametrize("chunk", [5 * MIB, 8 * MIB, 64 * MIB, GIB, 5 * GIB])
def test_a_part_never_grows_beyond_what_the_place_takes(chunk):
    """However large it began."""
    plan = PartSizing.for_upload(S3_LIMITS, chunk, None)

    last = plan.size_of(10_000, S3_LIMITS)

    assert last == min(chunk << 10, 5 * GIB)
    assert plan.size_of(2000, S3_LIMITS) == chunk
    assert plan.size_of(2001, S3_LIMITS) == min(chunk * 2, 5 * GIB)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 50_000 * MIB, 50_001 * MIB, 5 * TIB])
def test_a_known_size_makes_parts_of_one_size(size):
    """Large enough for the number of parts allowed, in whole MiB beyond what was asked for, and never growing."""
    plan = PartSizing.for_upload(S3_LIMITS, 5 * MIB, size)

    sizes = {plan.size_of(number, S3_LIMITS) for number in (1, 2000, 2001, 10_000)}

    assert sizes == {plan.first}
    assert plan.first >= 5 * MIB
    assert plan.first % MIB == 0
    assert plan.first * 10_000 >= size
    assert plan.first == 5 * MIB or (plan.first - MIB) * 10_000 < size


def test_where_all_parts_must_be_of_one_size_they_are():
    """Also when nobody knows how much will come."""
    limits = PartLimits(min_size=5 * MIB, max_size=5 * GIB, uniform=True)

    plan = PartSizing.for_upload(limits, 5 * MIB, None)

    assert {plan.size_of(number, limits) for number in (1, 2001, 10_000)} == {5 * MIB}


def test_the_limits_of_the_place_win():
    """A smaller wish than its least part is raised, a larger one than its largest lowered; None is no limit."""
    limits = PartLimits(min_size=100, max_size=1000)

    planned = [PartSizing.for_upload(limits, wish, None).first for wish in (1, 100, 500, 5000)]
    boundless = PartSizing.for_upload(PartLimits(), 5000, None)

    assert planned == [100, 100, 500, 1000]
    assert boundless.first == 5000
    assert boundless.size_of(10_000, PartLimits()) == 5000 << 10


def test_parts_grow_in_a_running_upload(write_to):
    """After the first fifth of the parts allowed, every 8 % of them have twice the size of those before."""
    place = Place(PartLimits(max_count=25))
    content = os.urandom(100)

    with write_to(place, chunk_size=2) as writer:
        writer.write(content)

    assert place.files == {"a.bin": content}
    assert [len(place.parts[number]) for number in sorted(place.parts)] == [2, 2, 2, 2, 2, 4, 4, 8, 8, 16, 16, 32, 2]


@pytest.mark.parametrize("promise", [{"size": 100}, {"size": None}])
def test_the_size_is_known_by_promise_or_by_hint(pool, promise):
    """The promise counts, the hint where there is none."""
    place = Place(PartLimits(max_count=4))

    writer = MultipartWriter(
        place,
        "a.bin",
        WriteOptions(**promise),
        chunk_size=10,
        concurrency=1,
        workers=lambda: pool,
        size=7 if promise["size"] else 100,
    )
    told = writer.part_size
    writer.abort()

    assert told == MIB  # the next whole MiB in which 100 bytes fit four parts


def test_too_many_parts_are_an_error_that_says_what_to_do(write_to):
    """It comes before the part is sent, and leaves nothing behind."""
    place = Place(PartLimits(max_count=3, uniform=True))

    with (
        pytest.raises(TooLargeError, match=r"3 parts: say the size beforehand \(size=…\) or choose a larger"),
        write_to(place) as writer,
    ):
        writer.write(b"x" * 31)

    assert place.calls[-1] == "abort"
    assert "upload_part 4" not in place.calls
    assert place.files == {}


def test_as_many_parts_as_allowed_are_none_too_many(write_to):
    """The limit itself is still fine."""
    place = Place(PartLimits(max_count=3, uniform=True))

    with write_to(place) as writer:
        writer.write(b"x" * 30)

    assert place.files == {"a.bin": b"x" * 30}


# -- forgetting and forking -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 25])
def test_an_unclosed_writer_warns_and_publishes_nothing(write_to, size):
    """Nor does it use the network to clear away."""
    place = Place()
    kept = [write_to(place)]
    kept[0].write(b"x" * size)

    with pytest.warns(ResourceWarning, match="nothing was published"):
        kept.clear()

    assert place.files == {}
    assert not {"put", "complete", "abort"} & set(place.calls)


def test_a_writer_can_be_forgotten_while_parts_are_on_their_way(write_to):
    """The threads hold what they send, and not the file."""
    place = Gated()
    kept = [write_to(place, concurrency=2)]
    kept[0].write(b"x" * 29)
    place.wait_for(2)
    seen = weakref.ref(kept[0])

    with pytest.warns(ResourceWarning, match="nothing was published"):
        kept.clear()
    gone = seen() is None
    place.gate.set()

    assert gone
    assert place.files == {}


@pytest.mark.parametrize("size", [5, 25])
@pytest.mark.parametrize("end", ["close", "abort", "forget"])
def test_a_child_of_a_fork_neither_publishes_nor_discards(write_to, size, end):
    """The upload is the parent's, which goes on as if nothing had been."""
    place = Place()
    writer = write_to(place)
    writer.write(b"x" * size)
    before = len(place.calls)

    status = _in_a_child(lambda: _end(writer, end, place, before))
    writer.close()

    assert status == 0
    assert place.files == {"a.bin": b"x" * size}


def _end(writer, end, place, before):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            writer.write(b"from the child")
        except ValueError:
            pass
        else:
            return False
        if end == "forget":
            writer.__del__()
        else:
            getattr(writer, end)()
    return not {"put", "complete", "abort"} & set(place.calls[before:]) and not writer.published


def _in_a_child(deed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads, which are the point here
        child = os.fork()
    if child == 0:
        try:
            os._exit(0 if deed() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_that_ends_in_order_leaves_the_upload_alone():
    """Not even at its exit, when Python clears away, does it call for the parts that its parent has sent."""
    script = """
        import os, sys
        from concurrent.futures import ThreadPoolExecutor
        from flask_storage.multipart import MultipartWriter
        from flask_storage.types import WriteOptions
        from tests.test_parts_writer import Place

        pool = ThreadPoolExecutor(1)
        place = Place()
        writer = MultipartWriter(place, "a.bin", WriteOptions(), chunk_size=10, concurrency=1, workers=lambda: pool)
        writer.write(b"x" * 25)
        child = os.fork()
        writer.close()
        if child == 0:
            sys.exit(0 if not place.files and "abort" not in place.calls else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, place.files)
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


def test_parts_leave_in_this_thread_when_no_other_is_to_be_had(write_to):
    """When the interpreter ends, pools take no more work; what is written is stored all the same."""
    place = Place()
    pool = ThreadPoolExecutor(1)
    pool.shutdown()

    with write_to(place, workers=pool) as writer:
        writer.write(b"x" * 35)

    assert place.files == {"a.bin": b"x" * 35}


def test_a_writer_whose_storage_was_closed_says_so(write_to):
    """What waited in the queue was called back, and nothing is published."""
    place = Gated()
    pool = ThreadPoolExecutor(1)
    writer = write_to(place, workers=pool, concurrency=2)
    writer.write(b"x" * 29)
    place.wait_for(1)

    pool.shutdown(wait=False, cancel_futures=True)
    place.gate.set()

    with pytest.raises(StorageUnavailableError, match="closed meanwhile"):
        writer.close()
    assert place.files == {}
