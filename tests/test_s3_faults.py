"""A bad net between us and S3: what is cut, flipped or stalled is made good or is an error, and never a wrong file."""

import dataclasses
import io
import random
from datetime import timedelta

import pytest

from flask_storage import (
    IntegrityError,
    PreconditionFailedError,
    StorageTimeoutError,
    StorageUnavailableError,
    WriteOptions,
)
from flask_storage.backends.s3.presets import PRESETS
from flask_storage.multipart import Part
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
from tests.s3_places import place
from tests.services.fault_proxy import Faults
from tests.variants import variants

pytest_plugins = ["tests.services.localstack", "tests.services.rclone_s3", "tests.services.rgw"]

PART = 5 * MIB
NOW = timedelta(0)
LARGE = random.Random(2).randbytes(11 * MIB)
CONTENTS = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["in one go", "in parts"])


class Ground(FaultyGround):
    """A bucket, a way to it past the proxy and as many as wanted through it.

    Args:
        server: Where the bucket is.
    """

    def __init__(self, server):
        self.bucket = server.make_bucket()
        self.server = server
        super().__init__(server.http, self._place)

    def left(self):
        """The uploads that were begun and not ended."""
        return list(self.direct.multipart.list_uploads())

    def close(self):
        """Remove everything."""
        super().close()
        self.server.remove_bucket(self.bucket)

    def _place(self, address, **arguments):
        if self.server.name == "localstack":
            # It refuses a copy whose condition does not hold, and copies all the same.
            arguments = {"preset": dataclasses.replace(PRESETS["aws"], copy_conditions=False), **arguments}
        return place(dataclasses.replace(self.server, http=address), bucket=self.bucket, **arguments)


@pytest.fixture(scope="module")
def grounds(request):
    """One ground for each server that is asked for."""
    made = {}

    def ground(name):
        if name not in made:
            made[name] = Ground(request.getfixturevalue(name))
        return made[name]

    yield ground
    for each in made.values():
        each.close()


@pytest.fixture(params=variants("localstack", "rgw"))
def ground(grounds, request):
    """The ground on Ceph, or on the server that the test names."""
    made = grounds(request.param)
    made.proxy.heal()
    yield made
    made.proxy.kill()
    made.proxy.heal()
    if made.server.name != "rclone":  # which cannot list what is unfinished
        made.direct.sweep(NOW)


def on(*names):
    """Run a test on each of these servers."""
    return pytest.mark.parametrize("ground", names, indirect=True)


# -- cut --------------------------------------------------------------------------------------------------------------


@CONTENTS
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_upload_that_is_cut_once_is_all_there_or_not_at_all(ground, content, way, how):
    """Wherever: in the first byte or the last, in a request or in an answer. No unfinished upload stays behind."""
    total = ground.passed(lambda storage: storage.write("cut.bin", content))[way == "down"]
    if ground.server.name == "localstack":
        total = min(total, PART)  # it ends each connection after one response: the longest one carries a part
    _, of_begin = ground.passed(lambda storage: storage.multipart.create("x", WriteOptions()))
    ground.direct.sweep(NOW)
    successes = 0

    before = ground.proxy.counters.cuts
    offsets = spread(total, count(3, 25))

    for offset in offsets:
        ground.direct.write("cut.bin", OLD)
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how, cut_times=1))
        storage = ground.faulty(max_attempts=2)

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        assert ground.content("cut.bin") == (OLD if error else content)
        # Whoever is not told the id of an upload cannot end it; the sweep does.
        nameless = way == "down" and content is LARGE and offset < of_begin
        assert len(ground.left()) <= nameless
        ground.direct.sweep(NOW)
        assert not ground.left()
        successes += error is None
        storage.close()

    assert successes
    # What boto3 says of itself is not always of one length, so the last cut may come too late.
    assert ground.proxy.counters.cuts - before >= len(offsets) - 1


@CONTENTS
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_upload_whose_every_connection_is_cut_is_an_error_that_says_so(ground, content, way, how):
    """Nothing half-written is visible, and what can be told to the server is: it forgets the parts."""
    total = ground.passed(lambda storage: storage.write("cut.bin", content))[way == "down"]
    limit = total if content is SMALL else 3000 if way == "up" else total
    errors = []

    for offset in spread(limit, count(3, 12)):
        ground.direct.write("cut.bin", OLD)
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how))
        storage = ground.faulty(max_attempts=2)

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        # With every answer lost, also those to the question what is stored, nobody can know that it went well.
        possible = {OLD} if way == "up" and error else {OLD, content} if error else {content}
        assert ground.content("cut.bin") in possible
        ground.proxy.heal()
        ground.direct.sweep(NOW)
        assert not ground.left()
        errors += [error] if error else []
        storage.close()

    assert errors
    for error in errors:
        assert isinstance(error, StorageUnavailableError)
        assert "cut.bin" in str(error)


def test_a_large_upload_that_cannot_get_through_is_cleared_away(ground):
    """Every connection dies amid a part, which is longer than that; the request that forgets the parts is not."""
    ground.direct.write("cut.bin", OLD)
    ground.proxy.up = Faults(cut_after=2 * MIB)
    storage = ground.faulty(max_attempts=2, concurrency=3)

    with pytest.raises(StorageUnavailableError, match=r"cut\.bin"):
        storage.write("cut.bin", LARGE)

    assert ground.content("cut.bin") == OLD
    assert not ground.left()


@CONTENTS
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_download_that_is_cut_once_is_whole(ground, content, how):
    """It goes on where it broke off, in the first byte of the answer or in the last."""
    ground.direct.write("there.bin", content)
    _, total = ground.passed(lambda storage: storage.read("there.bin"))

    for offset in spread(total, count(6, 25)):
        before = ground.proxy.counters.cuts
        ground.proxy.down = Faults(cut_after=offset, cut_by=how, cut_times=1)
        storage, target = ground.faulty(max_attempts=2), io.BytesIO()

        storage.download("there.bin", target)

        assert ground.proxy.counters.cuts <= before + 1
        assert target.getvalue() == content
        storage.close()


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_download_whose_every_connection_is_cut_is_whole_or_an_error(ground, way, how):
    """Short data never comes: either every cut leaves something that the next one goes on from, or it is given up."""
    ground.direct.write("there.bin", LARGE)
    errors = 0

    for offset in [0, 1, 100, 300, MIB, 3 * MIB] if way == "down" else [0, 1, 100, 300]:
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by=how))
        storage, target = ground.faulty(max_attempts=2), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("there.bin", target))

        assert error or target.getvalue() == LARGE
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
    storage = ground.faulty(max_attempts=2)

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
    storage = ground.faulty(max_attempts=2)

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
    storage = ground.faulty(**IMPATIENT)

    with pytest.raises(StorageUnavailableError):
        storage.read("there.bin")


# -- flipped ----------------------------------------------------------------------------------------------------------


@CONTENTS
def test_a_bit_that_flips_on_its_way_up_is_found(ground, content):
    """By plain http: nothing is published that was not sent, and no unfinished upload stays behind."""
    # A LocalStack that refuses content for its checksum has lost what was there before.
    old = None if ground.server.name == "localstack" and content is SMALL else OLD

    for offset in places_in(content, count(3, 25), PART):
        ground.direct.delete("flip.bin")
        if old:
            ground.direct.write("flip.bin", old)
        ground.proxy.up = Faults(corrupt_at=offset, corrupt_times=1)
        storage = ground.faulty()

        with pytest.raises(IntegrityError, match=r"flip\.bin in the bucket .* not the ones that were sent"):
            storage.write("flip.bin", content)

        assert ground.content("flip.bin") == old
        assert not ground.left()
        storage.close()


def test_a_bit_that_flips_on_its_way_down_is_found(ground):
    """By plain http, in an object that was stored in one go: not the content, but an error that says so."""
    ground.direct.write("flip.bin", SMALL)

    for offset in places_in(SMALL, count(3, 25), PART):
        ground.proxy.down = Faults(corrupt_at=offset, corrupt_times=1)
        storage = ground.faulty()

        with pytest.raises(IntegrityError, match="not the ones that were stored: read the file again"):
            storage.download("flip.bin", io.BytesIO())

        assert storage.read("flip.bin") == SMALL
        storage.close()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_bit_that_flips_amid_the_headers_never_makes_a_wrong_file(ground, way):
    """In the request or in the answer of an upload: an error of ours, or the content that was sent."""
    totals = ground.passed(lambda storage: storage.write("flip.bin", b"new"))
    chance = random.Random(5)

    for _ in range(count(12, 100)):
        ground.direct.write("flip.bin", OLD)
        setattr(ground.proxy, way, Faults(corrupt_at=chance.randrange(totals[way == "down"]), corrupt_times=1))
        storage = ground.faulty(**IMPATIENT)

        error = attempt(lambda storage=storage: storage.write("flip.bin", b"new"))

        stored = ground.content("flip.bin")
        # An answer that cannot be read says nothing of what the server did.
        assert stored == b"new" or (error and stored == OLD)
        assert [entry.name for entry in ground.direct.list() if entry.name.startswith("flip")] == ["flip.bin"]
        storage.close()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_bit_that_flips_amid_the_headers_never_makes_wrong_content(ground, way):
    """In the request or in the answer of a download: an error of ours, or the content that is stored."""
    ground.direct.write("flip.bin", b"content")
    totals = ground.passed(lambda storage: storage.read("flip.bin"))
    chance = random.Random(6)

    for _ in range(count(12, 100)):
        setattr(ground.proxy, way, Faults(corrupt_at=chance.randrange(totals[way == "down"]), corrupt_times=1))
        storage, target = ground.faulty(**IMPATIENT), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("flip.bin", target))

        assert error or target.getvalue() == b"content"
        storage.close()


# -- replaced ---------------------------------------------------------------------------------------------------------


@on(*variants("localstack", "rgw", "rclone_s3"))
def test_an_object_that_is_replaced_while_it_is_read_is_never_a_mixture(ground):
    """The read that comes to it says so; also where the server does not look at the condition."""
    old, other = LARGE[:MIB], LARGE[MIB : 2 * MIB]
    chance = random.Random(7)

    for number in range(count(3, 20)):
        path = f"replaced{number}.bin"
        ground.direct.write(path, old)
        with ground.faulty(chunk_size=PART).open(path, "r") as reader:
            begun = reader.read(chance.randrange(1, 64 * 1024))
            ground.direct.write(path, other)

            with pytest.raises(PreconditionFailedError, match="replaced"):
                reader.read()

            assert old.startswith(begun)
        ground.direct.delete(path)


@on(*variants("localstack", "rgw", "rclone_s3"))
def test_an_object_that_is_deleted_while_it_is_read_is_an_error(ground):
    """Not the end of the file."""
    ground.direct.write("deleted.bin", LARGE[:MIB])
    with ground.faulty().open("deleted.bin", "r") as reader:
        reader.read(10)
        ground.direct.delete("deleted.bin")

        with pytest.raises(PreconditionFailedError, match="deleted"):
            reader.read()


def test_a_download_during_which_the_object_is_replaced_is_an_error(ground):
    """What was fetched ahead was all of one version; what was not, is not taken from the other."""
    ground.direct.write("long.bin", LARGE + LARGE)
    arrived = io.BytesIO()

    class Target:
        def write(self, data):
            if not arrived.tell():
                ground.direct.write("long.bin", bytes(2 * len(LARGE)))
            return arrived.write(data)

    with pytest.raises(PreconditionFailedError, match="replaced"):
        ground.faulty().download("long.bin", Target())

    assert (LARGE + LARGE).startswith(arrived.getvalue())


# -- stalled ----------------------------------------------------------------------------------------------------------


def longest(config):
    """The most that a silent server costs one call, in seconds: each attempt in full, and the breaks in between."""
    attempts = config.retries["total_max_attempts"]
    return attempts * config.read_timeout + sum(2**number for number in range(attempts - 1))


@pytest.fixture
def no_more_threads(ground):
    """No thread is left of what the test has started, once its storages are closed."""
    with leaving_no_thread(ground):
        yield


VERBS = {
    "stat": lambda storage: storage.stat("slow.bin"),
    "list": lambda storage: storage.list(),
    "read": lambda storage: storage.read("slow.bin"),
    "write": lambda storage: storage.write("slow.bin", SMALL),
    "upload": lambda storage: storage.write("slow.bin", LARGE),
    "delete": lambda storage: storage.delete("slow.bin"),
    "copy": lambda storage: storage.copy("slow.bin", "copy.bin"),
}


@pytest.mark.parametrize("verb", list(VERBS)[: count(4, len(VERBS))])
def test_a_server_that_says_nothing_is_given_up(ground, no_more_threads, in_bounded_time, verb):
    """It accepts the connection, and that is all."""
    ground.direct.write("slow.bin", LARGE)
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
    storage = ground.faulty(**IMPATIENT)

    with pytest.raises(StorageTimeoutError, match="read_timeout"):
        storage.read("slow.bin")


def test_a_download_that_stalls_late_is_given_up(ground, no_more_threads, in_bounded_time):
    """The ranges that follow the first are no different."""
    ground.direct.write("slow.bin", LARGE)
    ground.proxy.down = Faults(cut_after=7 * MIB, cut_by="stall", cut_times=1)
    storage, target = ground.faulty(**IMPATIENT), io.BytesIO()

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

    for offset in spread(total, count(3, 6))[1:-1]:
        ground.proxy.heal()
        setattr(ground.proxy, way, Faults(cut_after=offset, cut_by="stall"))
        storage = ground.faulty(**IMPATIENT)

        error = attempt(lambda storage=storage: VERBS[verb](storage))

        # What stalls so late that a new connection gets further does end well.
        assert isinstance(error, StorageTimeoutError) or error is None
        assert ground.content("slow.bin") in ((LARGE, SMALL) if verb == "write" else (LARGE,))
        ground.proxy.kill()
        ground.proxy.heal()
        ground.direct.sweep(NOW)


def test_an_upload_that_stalls_once_leaves_nothing_behind(ground, no_more_threads, in_bounded_time):
    """The part that stalls is given up, and the parts with it, as the service can still be told."""
    ground.direct.write("slow.bin", OLD)
    ground.proxy.up = Faults(cut_after=2 * MIB, cut_by="stall", cut_times=3)
    storage = ground.faulty(**{**IMPATIENT, "max_attempts": 1}, concurrency=3)

    with pytest.raises(StorageTimeoutError):
        storage.write("slow.bin", LARGE)

    assert ground.content("slow.bin") == OLD
    assert not ground.left()


LAST_STEP = {
    "complete": lambda storage: storage.multipart.complete(
        "slow.bin", "x" * 20, [Part(number=1, size=1, etag="0" * 32)], WriteOptions()
    )
}


@pytest.mark.parametrize("verb", [*VERBS, *LAST_STEP])
def test_with_the_settings_of_everybody_no_verb_waits_for_more_than_a_minute(ground, verb):
    """Computed, not waited for: the calls that are made to a silent server, and what each may cost."""
    ground.direct.write("slow.bin", LARGE)
    ground.proxy.down = Faults(cut_after=0, cut_by="stall")
    usual = ground.faulty()
    storage = ground.faulty(read_timeout=0.2, connect_timeout=0.2, max_attempts=1)
    cleanup_client = storage._clients.cleanup_client()
    cleanup_client.client = storage._clients.settings.client(storage.session)
    seconds = []
    for clients, config in (
        (storage.client, usual.client.meta.config),
        (cleanup_client.client, usual._clients.cleanup_client().client.meta.config),
    ):
        clients.meta.events.register(
            "before-send.s3", lambda config=config, **_: seconds.append(longest(config)), unique_id="counting"
        )
        if verb in LAST_STEP:
            seconds.append(0 if clients is storage.client else longest(config))  # whoever fails to end it aborts it

    error = attempt(lambda: {**VERBS, **LAST_STEP}[verb](storage))

    assert isinstance(error, StorageTimeoutError)
    assert seconds
    assert sum(seconds) <= 60
