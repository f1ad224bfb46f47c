"""A bad net between us and Azure: what is cut, flipped or stalled is made good or an error, and never a wrong file."""

import dataclasses
import io
import random
from datetime import timedelta

import pytest
from azure.storage.blob import ExponentialRetry

from flask_storage import (
    IntegrityError,
    PreconditionFailedError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    WriteOptions,
)
from flask_storage.multipart import Part
from tests.azure_storages import leftovers, make_storage
from tests.bad_net import (
    IMPATIENT,
    MIB,
    OLD,
    SMALL,
    FaultyGround,
    attempt,
    leaving_no_thread,
    places_in,
    spread,
)
from tests.counts import count
from tests.services.fault_proxy import Faults

pytest_plugins = ["tests.services.azurite"]

NOW = timedelta(0)
LARGE = random.Random(2).randbytes(2 * MIB + 100_001)
CONTENTS = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["in one go", "in blocks"])
# What the SDK does of its own accord, without its breaks.
TWICE_AT_ONCE = {
    "max_attempts": 2,
    "retry_policy": ExponentialRetry(initial_backoff=0, increment_base=0, random_jitter_range=0, retry_total=1),
}


class Ground(FaultyGround):
    """A container, a way to it past the proxy and as many as wanted through it.

    Args:
        server: Where the container is.
    """

    def __init__(self, server):
        self.container = server.make_container()
        self.server = server
        super().__init__(server.http, self._place)

    def left(self):
        """The notes of uploads that were begun and not ended."""
        return leftovers(self.direct)

    def close(self):
        """Remove everything."""
        super().close()
        self.server.remove_container(self.container)

    def _place(self, address, **arguments):
        arguments = {"chunk_size": MIB, **arguments}
        return make_storage(dataclasses.replace(self.server, http=address), bucket=self.container, **arguments)


@pytest.fixture(scope="module")
def whole_ground(azurite):
    """The ground on Azurite."""
    made = Ground(azurite)
    yield made
    made.close()


@pytest.fixture
def ground(whole_ground):
    """The ground, in good health; afterwards no note of an upload is there."""
    whole_ground.proxy.heal()
    yield whole_ground
    whole_ground.proxy.kill()
    whole_ground.proxy.heal()
    assert not whole_ground.left()


# -- cut --------------------------------------------------------------------------------------------------------------


@CONTENTS
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("arguments", [{}, {"exclusive": True}], ids=["in any case", "exclusive"])
def test_an_upload_that_is_cut_once_is_all_there(ground, content, way, how, arguments):
    """Wherever: in the first byte or the last, in a request or in an answer, after the deed or before it."""
    ground.direct.delete("cut.bin")
    total = ground.passed(lambda storage: storage.write("cut.bin", content, **arguments))[way == "down"]
    before = ground.proxy.counters.cuts
    offsets = spread(total, count(6, 40))

    for offset in offsets:
        ground.direct.delete("cut.bin")
        if not arguments:
            ground.direct.write("cut.bin", OLD)
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how, cut_times=1))
        storage = ground.faulty(**TWICE_AT_ONCE)

        storage.write("cut.bin", content, **arguments)

        assert ground.content("cut.bin") == content
        storage.close()
        ground.proxy.kill()  # what ends late would be counted as the next cut

    # What the SDK says of itself is not always of one length, so the last cut may come too late.
    assert ground.proxy.counters.cuts - before >= len(offsets) - 1


@CONTENTS
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_upload_that_is_cut_and_not_tried_again_is_all_there_or_not_at_all(ground, content, way, how):
    """With one attempt: an error of ours and the old content, or no error and the new one."""
    total = ground.passed(lambda storage: storage.write("cut.bin", content))[way == "down"]
    errors = []

    for offset in spread(total, count(8, 40)):
        ground.direct.write("cut.bin", OLD)
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how))
        storage = ground.faulty(max_attempts=1)

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        # With the answer lost nobody can know that it went well.
        possible = {OLD} if way == "up" and error else {OLD, content} if error else {content}
        assert ground.content("cut.bin") in possible
        errors += [error] if error else []
        storage.close()

    assert errors
    for error in errors:
        assert isinstance(error, StorageUnavailableError)
        assert "cut.bin" in str(error)


def test_a_large_upload_that_cannot_get_through_is_given_up(ground):
    """Every connection dies amid a block, which is longer than that."""
    ground.direct.write("cut.bin", OLD)
    ground.proxy.up = Faults(cut_after=MIB // 2)
    storage = ground.faulty(concurrency=3, **TWICE_AT_ONCE)

    with pytest.raises(StorageUnavailableError, match=r"cut\.bin"):
        storage.write("cut.bin", LARGE)

    assert ground.content("cut.bin") == OLD


@CONTENTS
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_download_that_is_cut_once_is_whole(ground, content, how):
    """It goes on where it broke off, in the first byte of the answer or in the last."""
    ground.direct.write("there.bin", content)
    _, total = ground.passed(lambda storage: storage.read("there.bin"))

    for offset in spread(total, count(10, 60)):
        before = ground.proxy.counters.cuts
        ground.proxy.down = Faults(cut_after=offset, cut_by=how, cut_times=1)
        storage, target = ground.faulty(**TWICE_AT_ONCE), io.BytesIO()

        storage.download("there.bin", target)

        assert ground.proxy.counters.cuts <= before + 1
        assert target.getvalue() == content
        storage.close()
        ground.proxy.kill()


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_download_whose_every_connection_is_cut_is_whole_or_an_error(ground, way, how):
    """Short data never comes: either every cut leaves something that the next one goes on from, or it is given up."""
    ground.direct.write("there.bin", LARGE)
    errors = 0

    for offset in [0, 1, 100, 300, MIB // 2, MIB + 3000] if way == "down" else [0, 1, 100, 300]:
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how))
        storage, target = ground.faulty(**TWICE_AT_ONCE), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("there.bin", target))

        assert error or target.getvalue() == LARGE
        assert LARGE.startswith(target.getvalue())
        assert not error or isinstance(error, StorageUnavailableError)
        errors += error is not None
        storage.close()

    assert errors >= 4


HALF_ANSWERS = {
    "stat": lambda storage: storage.stat("half.bin").size == len(LARGE),
    "list": lambda storage: "half.bin" in [entry.name for entry in storage.list()],
    "read": lambda storage: storage.read("half.bin") == LARGE,
    "upload": lambda storage: storage.write("half.bin", LARGE) is None,
}


@pytest.mark.parametrize("verb", HALF_ANSWERS)
def test_an_answer_that_ends_amid_its_headers_is_no_answer(ground, verb):
    """What has come of them is not taken for all: the request is made again, and in the end it is an error."""
    ground.direct.write("half.bin", LARGE)
    ground.proxy.down = Faults(cut_after=40, cut_by="close", cut_times=1)
    storage = ground.faulty(**TWICE_AT_ONCE)

    assert HALF_ANSWERS[verb](storage)

    storage.close()
    ground.proxy.down = Faults(cut_after=40, cut_by="close")
    with pytest.raises(StorageUnavailableError):
        HALF_ANSWERS[verb](storage)
    ground.proxy.heal()
    assert ground.content("half.bin") == LARGE


def test_an_answer_that_ends_after_its_headers_is_no_empty_file(ground):
    """The content is asked for again, and in the end it is an error."""
    content = LARGE[:1000]
    ground.direct.write("half.bin", content)
    _, total = ground.passed(lambda storage: storage.read("half.bin"))
    ground.proxy.down = Faults(cut_after=total - len(content), cut_by="close", cut_times=1)
    storage = ground.faulty(**TWICE_AT_ONCE)

    assert storage.read("half.bin") == content

    storage.close()
    ground.proxy.down = Faults(cut_after=total - len(content), cut_by="close")
    with pytest.raises(StorageUnavailableError, match="broke off"):
        storage.read("half.bin")


def test_a_download_that_gets_a_few_bytes_at_a_time_is_given_up(ground, in_bounded_time):
    """A server that lets through a hundred bytes of each answer is as good as one that sends nothing."""
    ground.direct.write("there.bin", LARGE)
    _, of_answer = ground.passed(lambda storage: storage.stat("there.bin"))
    ground.proxy.down = Faults(cut_after=of_answer + 200)
    storage = ground.faulty(check_content=False, **TWICE_AT_ONCE)

    with pytest.raises(StorageUnavailableError):
        storage.read("there.bin")


# -- flipped ----------------------------------------------------------------------------------------------------------


@CONTENTS
def test_a_bit_that_flips_on_its_way_up_is_found(ground, content):
    """By plain http: nothing is published that was not sent."""
    for offset in places_in(content, count(5, 40), MIB):
        ground.direct.write("flip.bin", OLD)
        ground.proxy.up = Faults(corrupt_at=offset, corrupt_times=1)
        storage = ground.faulty()

        # Azure says Md5Mismatch, which is an IntegrityError; Azurite has a word of its own.
        with pytest.raises(
            StorageError, match=r"flip\.bin in the container .* (not the ones that were sent|\(InvalidO)"
        ):
            storage.write("flip.bin", content)

        assert ground.content("flip.bin") == OLD
        storage.close()


READS = {
    "download": lambda storage: storage.download("flip.bin", io.BytesIO()),
    "read": lambda storage: storage.read("flip.bin"),
    "ranges": lambda storage: list(storage.open("flip.bin", "r")),
}


@CONTENTS
@pytest.mark.parametrize("how", READS)
def test_a_bit_that_flips_on_its_way_down_is_found(ground, content, how):
    """By plain http, in any range of the blob: not the content, but an error that says so."""
    ground.direct.write("flip.bin", content)

    for offset in places_in(content, count(4, 25), MIB):
        ground.proxy.down = Faults(corrupt_at=offset, corrupt_times=1)
        storage = ground.faulty()

        with pytest.raises(IntegrityError, match="not the ones that were stored: read the file again"):
            READS[how](storage)

        assert storage.read("flip.bin") == content
        storage.close()


@pytest.mark.parametrize("content", [b"new", LARGE[: MIB + 1]], ids=["in one go", "in blocks"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_bit_that_flips_amid_the_headers_never_makes_a_wrong_file(ground, way, content):
    """In the request or in the answer of an upload: an error of ours, or the content that was sent."""
    totals = ground.passed(lambda storage: storage.write("flip.bin", content))
    chance = random.Random(5)

    for _ in range(count(15, 200)):
        ground.direct.write("flip.bin", OLD)
        position = chance.randrange(min(totals[way == "down"], 1500))
        setattr(ground.proxy, way, Faults(corrupt_at=position, corrupt_times=1))
        storage = ground.faulty(connect_timeout=1, read_timeout=0.3, **TWICE_AT_ONCE)

        error = attempt(lambda storage=storage: storage.write("flip.bin", content))

        stored = ground.content("flip.bin")
        # An answer that cannot be read says nothing of what the server did.
        assert stored == content or (error and stored == OLD)
        assert [entry.name for entry in ground.direct.list() if entry.name.startswith("flip")] == ["flip.bin"]
        storage.close()


@pytest.mark.parametrize("size", [7, 64 * 1024, 64 * 1024 + 1, 99_999])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_bit_that_flips_amid_the_headers_never_makes_wrong_content(ground, way, size):
    """In the request or in the answer of a download: an error of ours, or the content that is stored."""
    content = LARGE[:size]
    ground.direct.write("flip.bin", content)
    totals = ground.passed(lambda storage: storage.read("flip.bin"))
    chance = random.Random(size)

    for _ in range(count(15, 700)):
        position = chance.randrange(min(totals[way == "down"], 1500))
        setattr(ground.proxy, way, Faults(corrupt_at=position, corrupt_times=1))
        storage = ground.faulty(connect_timeout=1, read_timeout=0.3, **TWICE_AT_ONCE)
        found: list[bytes] = []

        error = attempt(lambda storage=storage, found=found: found.append(storage.read("flip.bin")))

        assert error or found == [content]
        storage.close()


# -- replaced ---------------------------------------------------------------------------------------------------------


def test_a_blob_that_is_replaced_while_it_is_read_is_never_a_mixture(ground):
    """The read that comes to it says so."""
    old, other = LARGE[:MIB], LARGE[MIB : 2 * MIB]
    chance = random.Random(7)

    for number in range(count(4, 20)):
        path = f"replaced{number}.bin"
        ground.direct.write(path, old)
        with ground.faulty(chunk_size=64 * 1024).open(path, "r") as reader:
            begun = reader.read(chance.randrange(1, 64 * 1024))
            ground.direct.write(path, other)

            with pytest.raises(PreconditionFailedError, match="replaced"):
                reader.read()

            assert old.startswith(begun)
        ground.direct.delete(path)


def test_a_blob_that_is_deleted_while_it_is_read_is_an_error(ground):
    """Not the end of the file."""
    ground.direct.write("deleted.bin", LARGE[:MIB])
    with ground.faulty().open("deleted.bin", "r") as reader:
        reader.read(10)
        ground.direct.delete("deleted.bin")

        with pytest.raises(PreconditionFailedError, match="deleted"):
            reader.read()


def test_a_blob_that_gets_shorter_while_it_is_read_is_an_error(ground):
    """Where a range lies behind the end of what is there now."""
    ground.direct.write("shorter.bin", LARGE[:MIB])
    with ground.faulty().open("shorter.bin", "r") as reader:
        reader.read(10)
        ground.direct.write("shorter.bin", b"short")
        reader.seek(MIB // 2)

        with pytest.raises(PreconditionFailedError, match="replaced"):
            reader.read()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_download_during_which_the_blob_is_replaced_is_an_error(ground, concurrency):
    """What was fetched ahead was all of one version; what was not, is not taken from the other."""
    ground.direct.write("long.bin", LARGE)
    arrived = io.BytesIO()

    class Target:
        def write(self, data):
            if not arrived.tell():
                ground.direct.write("long.bin", bytes(len(LARGE)))
            return arrived.write(data)

    with pytest.raises(PreconditionFailedError, match="replaced"):
        ground.faulty(chunk_size=64 * 1024, concurrency=concurrency).download("long.bin", Target())

    assert LARGE.startswith(arrived.getvalue())


# -- stalled ----------------------------------------------------------------------------------------------------------


def longest(client):
    """The most that a silent server costs one call, in seconds: each attempt in full, and the breaks in between."""
    policy = client._pipeline._impl_policies[0]
    while not hasattr(policy, "get_backoff_time"):
        policy = policy.next
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "uniform", lambda least, most: most)
        breaks = [policy.get_backoff_time({"count": number}) for number in range(1, policy.total_retries + 1)]
    return (policy.total_retries + 1) * client._pipeline._transport.connection_config.read_timeout + sum(breaks)


def patience(storage):
    """What a call may cost, and what a look with haste may, in seconds."""
    return longest(storage.client), longest(storage._clients._cleanup_client())


@pytest.fixture
def no_more_threads(ground):
    """No thread is left of what the test has started, once its storages are closed."""
    with leaving_no_thread(ground):
        yield


VERBS = {
    "write": lambda storage: storage.write("slow.bin", SMALL),
    "write if new": lambda storage: storage.write("new.bin", SMALL, exclusive=True),
    "upload": lambda storage: storage.write("slow.bin", LARGE),
    "read": lambda storage: storage.read("slow.bin"),
    "stat": lambda storage: storage.stat("slow.bin"),
    "list": lambda storage: list(storage.list()),
    "delete": lambda storage: storage.delete("slow.bin"),
    "copy": lambda storage: storage.copy("slow.bin", "copy.bin"),
}
SILENT_AT_ONCE = {**IMPATIENT, **TWICE_AT_ONCE}


@pytest.mark.parametrize("verb", list(VERBS)[: count(4, len(VERBS))])
def test_a_server_that_says_nothing_is_given_up(ground, no_more_threads, in_bounded_time, verb):
    """It accepts the connection, and that is all."""
    ground.direct.write("slow.bin", LARGE)
    ground.direct.delete("new.bin")
    ground.proxy.down = Faults(cut_after=0, cut_by="stall")
    storage = ground.faulty(**IMPATIENT)

    error = attempt(lambda: VERBS[verb](storage))

    assert isinstance(error, StorageTimeoutError)
    assert "read_timeout" in str(error)
    assert ground.content("slow.bin") == LARGE or verb in ("write", "delete")


@pytest.mark.parametrize("arrived", [-10, 0, 500], ids=["amid its headers", "after its headers", "amid its content"])
def test_an_answer_that_stalls_is_given_up(ground, no_more_threads, in_bounded_time, arrived):
    """Wherever it stops, every time: an error, and no short content."""
    content = LARGE[:1000]
    ground.direct.write("slow.bin", content)
    _, total = ground.passed(lambda storage: storage.read("slow.bin"))
    ground.proxy.down = Faults(cut_after=total - len(content) + arrived, cut_by="stall")
    storage = ground.faulty(**SILENT_AT_ONCE)

    with pytest.raises(StorageTimeoutError, match="read_timeout"):
        storage.read("slow.bin")


def test_a_download_that_stalls_late_is_given_up(ground, no_more_threads, in_bounded_time):
    """The ranges that follow the first are no different."""
    ground.direct.write("slow.bin", LARGE)
    ground.proxy.down = Faults(cut_after=MIB + MIB // 2, cut_by="stall", cut_times=1)
    storage, target = ground.faulty(**SILENT_AT_ONCE), io.BytesIO()

    with pytest.raises(StorageTimeoutError, match="read_timeout"):
        storage.download("slow.bin", target)

    assert LARGE.startswith(target.getvalue())


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("verb", ["upload", "read", "write"][: count(2, 3)])
def test_a_server_that_stalls_is_given_up(ground, no_more_threads, in_bounded_time, verb, way):
    """After some bytes it takes no more, or says no more: an error, and nothing half-written is visible."""
    ground.direct.write("slow.bin", LARGE)
    total = ground.passed(VERBS[verb])[way == "down"]
    ground.direct.write("slow.bin", LARGE)

    for offset in spread(total, count(4, 8))[1:-1]:
        ground.proxy.heal()
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by="stall"))
        storage = ground.faulty(**SILENT_AT_ONCE)

        error = attempt(lambda storage=storage: VERBS[verb](storage))

        # What stalls so late that a new connection gets further does end well.
        assert isinstance(error, StorageTimeoutError) or error is None
        assert ground.content("slow.bin") in ((LARGE, SMALL) if verb == "write" else (LARGE,))
        ground.proxy.kill()


def test_an_upload_that_stalls_once_publishes_nothing(ground, no_more_threads, in_bounded_time):
    """The block that stalls is given up, and the others with it."""
    ground.direct.write("slow.bin", OLD)
    ground.proxy.up = Faults(cut_after=MIB // 2, cut_by="stall", cut_times=3)
    storage = ground.faulty(**{**IMPATIENT, "max_attempts": 1}, concurrency=3)

    with pytest.raises(StorageTimeoutError):
        storage.write("slow.bin", LARGE)

    assert ground.content("slow.bin") == OLD


LAST_STEPS = {
    "create": lambda storage: storage.multipart.create("slow.bin", WriteOptions()),
    "complete": lambda storage: storage.multipart.complete(
        "slow.bin", "x" * 22, [Part(number=1, size=1, etag="0" * 36)], WriteOptions(exclusive=True)
    ),
}


@pytest.mark.parametrize("verb", [*VERBS, *LAST_STEPS])
def test_with_the_settings_of_everybody_no_verb_waits_for_more_than_a_minute(ground, verb):
    """Computed, not waited for: the calls that are made to a silent server, and what each may cost."""
    ground.direct.write("slow.bin", LARGE)
    ground.direct.delete("new.bin")
    ground.proxy.down = Faults(cut_after=0, cut_by="stall")
    usual, cleanup_client = patience(ground.faulty())
    storage = ground.faulty(read_timeout=0.2, connect_timeout=0.2, max_attempts=1)
    seconds = [usual] if verb == "list" else []
    blobs = storage._gateway.get_blob_client

    def counted(name, *, for_cleanup=False):
        seconds.append(cleanup_client if for_cleanup else usual)
        return blobs(name)

    storage._gateway.get_blob_client = counted

    error = attempt(lambda: {**VERBS, **LAST_STEPS}[verb](storage))

    ground.proxy.heal()
    ground.direct.sweep(NOW)  # whoever is not told that a note was written cannot remove it
    assert isinstance(error, StorageTimeoutError)
    assert seconds
    assert sum(seconds) <= 60
