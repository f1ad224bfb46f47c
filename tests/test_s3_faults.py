"""Network faults between the client and S3: what is cut, corrupted or stalled succeeds or raises an error."""

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
from flask_storage.backends.s3.multipart import S3Multipart
from flask_storage.backends.s3.presets import PRESETS
from flask_storage.multipart import Part
from tests.counts import count
from tests.network_faults import (
    MIB,
    OLD,
    SHORT_TIMEOUTS,
    SMALL,
    FaultyBackend,
    attempt,
    no_threads_left,
    offsets_in_content,
    spread,
)
from tests.s3_storages import make_storage
from tests.services.fault_proxy import Faults
from tests.variants import variants

pytest_plugins = ["tests.services.localstack", "tests.services.rclone_s3", "tests.services.rgw"]

PART = 5 * MIB
NOW = timedelta(0)
LARGE = random.Random(2).randbytes(11 * MIB)
CONTENTS = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["one request", "multipart"])
DIRECTIONS = pytest.mark.parametrize("direction", ["up", "down"])
CUT_BY = pytest.mark.parametrize("cut_by", ["reset", "close"])


class FaultyS3(FaultyBackend):
    """A bucket, with one storage that reaches it directly and others that reach it through the fault proxy.

    Args:
        server: The server that has the bucket.
    """

    def __init__(self, server):
        self.bucket = server.make_bucket()
        self.server = server
        super().__init__(server.http, self._make_storage)

    def unfinished_uploads(self):
        """Return the multipart uploads that are neither completed nor aborted."""
        return list(self.direct.multipart.list_uploads())

    def store_old(self, path, content):
        """Store what a failed upload of *content* must leave unchanged, and return it.

        LocalStack is not atomic: it overwrites the stored object while a PutObject request arrives. No object is stored
        there before such a request.
        """
        if self.server.name == "localstack" and len(content) < PART:
            self.direct.delete(path)
            return None
        self.direct.write(path, OLD)
        return OLD

    def response_sizes(self, path):
        """Return the bytes of the responses that create and that complete a multipart upload of *path*."""
        created = []
        _, create = self.passed(
            lambda storage: created.append(S3Multipart(storage._gateway).create_own(path, WriteOptions()))
        )
        part = self.direct.multipart.upload_part(path, created[0], 1, b"x")
        _, complete = self.passed(lambda storage: storage.multipart.complete(path, created[0], [part], WriteOptions()))
        return create, complete

    def close(self):
        """Remove the bucket and all connections."""
        super().close()
        self.server.remove_bucket(self.bucket)

    def _make_storage(self, address, **arguments):
        if self.server.name == "localstack":
            # LocalStack answers a copy whose condition fails with an error, but copies the object all the same.
            arguments = {"preset": dataclasses.replace(PRESETS["aws"], copy_conditions=False), **arguments}
        return make_storage(dataclasses.replace(self.server, http=address), bucket=self.bucket, **arguments)


@pytest.fixture(scope="module")
def networks(request):
    """Return a function that makes one FaultyS3 for each server."""
    made = {}

    def network(name):
        if name not in made:
            made[name] = FaultyS3(request.getfixturevalue(name))
        return made[name]

    yield network
    for each in made.values():
        each.close()


@pytest.fixture(params=variants("localstack", "rgw"))
def network(networks, request):
    """The faulty network before LocalStack, or before the server that the test names."""
    made = networks(request.param)
    made.proxy.remove_faults()
    yield made
    made.proxy.kill()
    made.proxy.remove_faults()
    if made.server.name != "rclone":  # which cannot list unfinished uploads
        made.direct.sweep(NOW)


def on(*names):
    """Run a test on each of these servers."""
    return pytest.mark.parametrize("network", names, indirect=True)


# -- cut --------------------------------------------------------------------------------------------------------------


@CONTENTS
@DIRECTIONS
@CUT_BY
def test_an_upload_that_is_cut_once_is_stored_whole_or_not_at_all(network, content, direction, cut_by):
    """Wherever a request or a response is cut; no unfinished upload is left."""
    total = network.passed(lambda storage: storage.write("cut.bin", content))[direction == "down"]
    create_size, complete_size = network.response_sizes("cut.bin")
    if network.server.name == "localstack":
        # LocalStack ends each connection after one response: the longest of an upload carry a part, or complete it.
        total = min(total, complete_size if direction == "down" and content is LARGE else PART)
    # A request that was cut may still overwrite what its retry has stored on LocalStack, which is not atomic.
    attempts = 1 if network.server.name == "localstack" and direction == "up" and content is SMALL else 2
    network.direct.sweep(NOW)
    successes = 0
    before = network.proxy.counters.cuts
    offsets = spread(total, count(3, 25))

    for offset in offsets:
        old = network.store_old("cut.bin", content)
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=cut_by, cut_times=1))
        storage = network.faulty(max_attempts=attempts)

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        assert network.content("cut.bin") == (old if error else content)
        # A client that did not receive the id of an upload cannot abort it; the sweep does.
        id_lost = direction == "down" and content is LARGE and offset < create_size
        assert len(network.unfinished_uploads()) <= id_lost
        network.direct.sweep(NOW)
        assert not network.unfinished_uploads()
        successes += error is None
        storage.close()

    assert successes or attempts == 1
    # The last offset may be after the last byte.
    assert network.proxy.counters.cuts - before >= len(offsets) - 1


@CONTENTS
@DIRECTIONS
@CUT_BY
def test_an_upload_whose_every_connection_is_cut_raises_an_error(network, content, direction, cut_by):
    """No partial content is visible, and the parts are freed as soon as the server can be reached."""
    total = network.passed(lambda storage: storage.write("cut.bin", content))[direction == "down"]
    limit = total if content is SMALL else 3000 if direction == "up" else total
    errors = []

    for offset in spread(limit, count(3, 12)):
        old = network.store_old("cut.bin", content)
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=cut_by))
        storage = network.faulty(max_attempts=2)

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        # When every response is lost, the client cannot find out that the upload succeeded.
        possible = {old} if direction == "up" and error else {old, content} if error else {content}
        assert network.content("cut.bin") in possible
        network.proxy.remove_faults()
        network.direct.sweep(NOW)
        assert not network.unfinished_uploads()
        errors += [error] if error else []
        storage.close()

    assert errors
    for error in errors:
        assert isinstance(error, StorageUnavailableError)
        assert "cut.bin" in str(error)


def test_a_multipart_upload_whose_parts_cannot_be_sent_is_aborted(network):
    """Every connection is cut within a part; the request that aborts the upload is shorter and gets through."""
    network.direct.write("cut.bin", OLD)
    network.proxy.up = Faults(cut_after=2 * MIB)
    storage = network.faulty(max_attempts=2, concurrency=3)

    with pytest.raises(StorageUnavailableError, match=r"cut\.bin"):
        storage.write("cut.bin", LARGE)

    assert network.content("cut.bin") == OLD
    assert not network.unfinished_uploads()


@CONTENTS
@CUT_BY
def test_a_download_that_is_cut_once_is_complete(network, content, cut_by):
    """The client requests the missing range, whether the first or the last byte of a response was cut."""
    network.direct.write("there.bin", content)
    _, total = network.passed(lambda storage: storage.read("there.bin"))

    for offset in spread(total, count(6, 25)):
        before = network.proxy.counters.cuts
        network.proxy.down = Faults(cut_after=offset, cut_by=cut_by, cut_times=1)
        storage, target = network.faulty(max_attempts=2), io.BytesIO()

        storage.download("there.bin", target)

        assert network.proxy.counters.cuts <= before + 1
        assert target.getvalue() == content
        storage.close()


@DIRECTIONS
@CUT_BY
def test_a_download_whose_every_connection_is_cut_is_complete_or_raises_an_error(network, direction, cut_by):
    """Truncated content is never returned: each attempt makes progress, or the download fails."""
    network.direct.write("there.bin", LARGE)
    errors = 0

    for offset in [0, 1, 100, 300, MIB, 3 * MIB] if direction == "down" else [0, 1, 100, 300]:
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=cut_by))
        storage, target = network.faulty(max_attempts=2), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("there.bin", target))

        assert error or target.getvalue() == LARGE
        assert not error or isinstance(error, StorageUnavailableError)
        errors += error is not None
        storage.close()

    assert errors >= 4


TRUNCATED_RESPONSES = {
    "stat": lambda storage: storage.stat("half.bin").size == len(LARGE),
    "list": lambda storage: "half.bin" in [entry.name for entry in storage.list()],
    "read": lambda storage: storage.read("half.bin") == LARGE,
    "upload": lambda storage: storage.write("half.bin", LARGE) is None,
}


@pytest.mark.parametrize("operation", TRUNCATED_RESPONSES)
def test_a_response_that_ends_within_its_headers_is_retried(network, operation):
    """The headers that arrived are not taken as complete; when every response ends so, an error is raised."""
    network.direct.write("half.bin", LARGE)
    network.proxy.down = Faults(cut_after=40, cut_by="close", cut_times=1)
    storage = network.faulty(max_attempts=2)

    assert TRUNCATED_RESPONSES[operation](storage)

    storage.close()
    network.proxy.down = Faults(cut_after=40, cut_by="close")
    with pytest.raises(StorageUnavailableError):
        TRUNCATED_RESPONSES[operation](storage)
    network.proxy.remove_faults()
    assert network.content("half.bin") == LARGE


def test_a_response_that_ends_after_its_headers_is_not_an_empty_file(network):
    """The content is requested again; when every response ends so, an error is raised."""
    content = LARGE[:1000]
    network.direct.write("half.bin", content)
    _, total = network.passed(lambda storage: storage.read("half.bin"))
    network.proxy.down = Faults(cut_after=total - len(content), cut_by="close", cut_times=1)
    storage = network.faulty(max_attempts=2)

    assert storage.read("half.bin") == content

    storage.close()
    network.proxy.down = Faults(cut_after=total - len(content), cut_by="close")
    with pytest.raises(StorageUnavailableError, match="broke off"):
        storage.read("half.bin")


def test_a_download_of_a_few_bytes_per_response_raises_an_error(network, in_bounded_time):
    """The proxy passes about 200 bytes of the content of each response, which is too little progress."""
    network.direct.write("there.bin", LARGE)
    _, response_size = network.passed(lambda storage: storage.stat("there.bin"))
    network.proxy.down = Faults(cut_after=response_size + 200)
    storage = network.faulty(**SHORT_TIMEOUTS)

    with pytest.raises(StorageUnavailableError):
        storage.read("there.bin")


# -- flipped ----------------------------------------------------------------------------------------------------------


@CONTENTS
def test_a_flipped_bit_in_an_upload_is_detected(network, content):
    """Over plain HTTP: corrupted content is not published, and no unfinished upload is left."""
    # LocalStack ends each connection after one response, so that none has the bytes of a second part.
    sent = content[:PART] if network.server.name == "localstack" else content
    for offset in offsets_in_content(sent, count(3, 25), PART):
        old = network.store_old("flip.bin", content)
        network.proxy.up = Faults(corrupt_at=offset, corrupt_times=1)
        storage = network.faulty()

        with pytest.raises(IntegrityError, match=r"flip\.bin in the bucket .* content changed in transit"):
            storage.write("flip.bin", content)

        assert network.content("flip.bin") == old
        assert not network.unfinished_uploads()
        storage.close()


def test_a_flipped_bit_in_a_download_is_detected(network):
    """Over plain HTTP, in an object that one request stored: an IntegrityError instead of the content."""
    network.direct.write("flip.bin", SMALL)

    for offset in offsets_in_content(SMALL, count(3, 25), PART):
        network.proxy.down = Faults(corrupt_at=offset, corrupt_times=1)
        storage = network.faulty()

        with pytest.raises(IntegrityError, match="does not match the stored checksum: read the file again"):
            storage.download("flip.bin", io.BytesIO())

        assert storage.read("flip.bin") == SMALL
        storage.close()


@DIRECTIONS
def test_a_flipped_bit_in_the_headers_of_an_upload_never_stores_wrong_content(network, direction):
    """In the request or in the response: a storage error, or the content that was sent."""
    total = network.passed(lambda storage: storage.write("flip.bin", b"new"))[direction == "down"]
    start = 0
    if network.server.name == "localstack" and direction == "up":
        # LocalStack does not verify the signature of this request, so that another key in its first line is accepted.
        start = len(f"PUT /{network.bucket}/flip.bin HTTP/1.1\r\n")
    chance = random.Random(5)

    for _ in range(count(12, 100)):
        old = network.store_old("flip.bin", b"new")
        setattr(network.proxy, direction, Faults(corrupt_at=chance.randrange(start, total), corrupt_times=1))
        storage = network.faulty(**SHORT_TIMEOUTS)

        error = attempt(lambda storage=storage: storage.write("flip.bin", b"new"))

        stored = network.content("flip.bin")
        # A response that cannot be parsed does not tell what the server did.
        assert stored == b"new" or (error and stored == old)
        names = [entry.name for entry in network.direct.list() if entry.name.startswith("flip")]
        assert names == ([] if stored is None else ["flip.bin"])
        storage.close()


@DIRECTIONS
def test_a_flipped_bit_in_the_headers_of_a_download_never_returns_wrong_content(network, direction):
    """In the request or in the response: a storage error, or the content that is stored."""
    network.direct.write("flip.bin", b"content")
    totals = network.passed(lambda storage: storage.read("flip.bin"))
    chance = random.Random(6)

    for _ in range(count(12, 100)):
        setattr(
            network.proxy, direction, Faults(corrupt_at=chance.randrange(totals[direction == "down"]), corrupt_times=1)
        )
        storage, target = network.faulty(**SHORT_TIMEOUTS), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("flip.bin", target))

        assert error or target.getvalue() == b"content"
        storage.close()


# -- replaced ---------------------------------------------------------------------------------------------------------


@on(*variants("localstack", "rgw", "rclone_s3"))
def test_reading_an_object_that_is_replaced_concurrently_raises_an_error(network):
    """The content is never a mixture of two versions, also where the server ignores the condition."""
    old, other = LARGE[:MIB], LARGE[MIB : 2 * MIB]
    chance = random.Random(7)

    for number in range(count(3, 20)):
        path = f"replaced{number}.bin"
        network.direct.write(path, old)
        with network.faulty(chunk_size=PART).open(path, "r") as reader:
            head = reader.read(chance.randrange(1, 64 * 1024))
            network.direct.write(path, other)

            with pytest.raises(PreconditionFailedError, match="replaced"):
                reader.read()

            assert old.startswith(head)
        network.direct.delete(path)


@on(*variants("localstack", "rgw", "rclone_s3"))
def test_reading_an_object_that_is_deleted_concurrently_raises_an_error(network):
    """The deletion is not taken as the end of the file."""
    network.direct.write("deleted.bin", LARGE[:MIB])
    with network.faulty().open("deleted.bin", "r") as reader:
        reader.read(10)
        network.direct.delete("deleted.bin")

        with pytest.raises(PreconditionFailedError, match="deleted"):
            reader.read()


def test_downloading_an_object_that_is_replaced_concurrently_raises_an_error(network, monkeypatch):
    """Ranges that were fetched ahead are of the old version; the others are not taken from the new one."""
    # Otherwise one response could be the whole old version.
    monkeypatch.setattr("flask_storage.backends.s3.bounded_client.MAX_LATENCY", 0)
    network.direct.write("long.bin", LARGE + LARGE)
    arrived = io.BytesIO()

    class Target:
        def write(self, data):
            if not arrived.tell():
                network.direct.write("long.bin", bytes(2 * len(LARGE)))
            return arrived.write(data)

    with pytest.raises(PreconditionFailedError, match="replaced"):
        network.faulty().download("long.bin", Target())

    assert (LARGE + LARGE).startswith(arrived.getvalue())


# -- stalled ----------------------------------------------------------------------------------------------------------


def longest(config):
    """The longest that one call takes, in seconds, when the server does not respond: all attempts, and the pauses."""
    attempts = config.retries["total_max_attempts"]
    return attempts * config.read_timeout + sum(2**number for number in range(attempts - 1))


@pytest.fixture
def no_more_threads(network):
    """No thread that the test started is alive after its storages are closed."""
    with no_threads_left(network):
        yield


OPERATIONS = {
    "stat": lambda storage: storage.stat("slow.bin"),
    "list": lambda storage: storage.list(),
    "read": lambda storage: storage.read("slow.bin"),
    "write": lambda storage: storage.write("slow.bin", SMALL),
    "upload": lambda storage: storage.write("slow.bin", LARGE),
    "delete": lambda storage: storage.delete("slow.bin"),
    "copy": lambda storage: storage.copy("slow.bin", "copy.bin"),
}


@pytest.mark.parametrize("operation", list(OPERATIONS)[: count(4, len(OPERATIONS))])
def test_a_server_that_does_not_respond_raises_a_timeout(network, no_more_threads, in_bounded_time, operation):
    """The server accepts the connection, and sends nothing."""
    network.direct.write("slow.bin", LARGE)
    network.proxy.down = Faults(cut_after=0, cut_by="stall")
    storage = network.faulty(**SHORT_TIMEOUTS)

    error = attempt(lambda: OPERATIONS[operation](storage))

    assert isinstance(error, StorageTimeoutError)
    assert "read_timeout" in str(error)
    assert network.content("slow.bin") == LARGE or operation in ("write", "delete")


@pytest.mark.parametrize("arrived", [-10, 0, 500], ids=["in the headers", "after the headers", "in the content"])
def test_a_response_that_stalls_raises_a_timeout(network, no_more_threads, in_bounded_time, arrived):
    """Every response stalls at the same byte: an error, and no truncated content."""
    content = LARGE[:1000]
    network.direct.write("slow.bin", content)
    _, total = network.passed(lambda storage: storage.read("slow.bin"))
    network.proxy.down = Faults(cut_after=total - len(content) + arrived, cut_by="stall")
    storage = network.faulty(**SHORT_TIMEOUTS)

    with pytest.raises(StorageTimeoutError, match="read_timeout"):
        storage.read("slow.bin")


def test_a_download_that_stalls_after_its_beginning_raises_a_timeout(network, no_more_threads, in_bounded_time):
    """One response or later ranges: the time-out is that of the first byte."""
    network.direct.write("slow.bin", LARGE + LARGE)
    storage, arrived = network.faulty(**SHORT_TIMEOUTS), io.BytesIO()

    class Target:
        def write(self, data):
            network.proxy.down = Faults(cut_after=0, cut_by="stall")
            return arrived.write(data)

    with pytest.raises(StorageTimeoutError, match="read_timeout"):
        storage.download("slow.bin", Target())

    assert arrived.tell() >= MIB
    assert (LARGE + LARGE).startswith(arrived.getvalue())


@DIRECTIONS
@pytest.mark.parametrize("operation", ["upload", "read", "write"][: count(2, 3)])
def test_a_server_that_stalls_raises_a_timeout(network, no_more_threads, in_bounded_time, operation, direction):
    """After some bytes the server reads no more, or sends no more; no partial content is visible."""
    network.direct.write("slow.bin", LARGE)
    total = network.passed(OPERATIONS[operation])[direction == "down"]
    network.direct.write("slow.bin", LARGE)

    for offset in spread(total, count(3, 6))[1:-1]:
        network.proxy.remove_faults()
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by="stall"))
        storage = network.faulty(**SHORT_TIMEOUTS)

        error = attempt(lambda storage=storage: OPERATIONS[operation](storage))

        # A stall so late that a new connection gets further may end in success.
        assert isinstance(error, StorageTimeoutError) or error is None
        network.proxy.kill()  # LocalStack locks an object until the body of a write to it has ended
        assert network.content("slow.bin") in ((LARGE, SMALL) if operation == "write" else (LARGE,))
        network.proxy.remove_faults()
        network.direct.sweep(NOW)


def test_a_multipart_upload_that_stalls_is_aborted(network, no_more_threads, in_bounded_time):
    """The part times out; the server still responds to the request that aborts the upload."""
    network.direct.write("slow.bin", OLD)
    network.proxy.up = Faults(cut_after=2 * MIB, cut_by="stall", cut_times=3)
    storage = network.faulty(**{**SHORT_TIMEOUTS, "max_attempts": 1}, concurrency=3)

    with pytest.raises(StorageTimeoutError):
        storage.write("slow.bin", LARGE)

    assert network.content("slow.bin") == OLD
    assert not network.unfinished_uploads()


COMPLETE = {
    "complete": lambda storage: storage.multipart.complete(
        "slow.bin", "x" * 20, [Part(number=1, size=1, etag="0" * 32)], WriteOptions()
    )
}


@pytest.mark.parametrize("operation", [*OPERATIONS, *COMPLETE])
def test_with_default_settings_every_operation_ends_within_a_minute(network, operation):
    """Computed from the calls that are made to a server that does not respond, and the time-outs of each."""
    network.direct.write("slow.bin", LARGE)
    network.proxy.down = Faults(cut_after=0, cut_by="stall")
    default = network.faulty()
    storage = network.faulty(read_timeout=0.2, connect_timeout=0.2, max_attempts=1)
    cleanup_client = storage._clients.cleanup_client()
    cleanup_client.client = storage._clients.settings.client(storage.session)
    seconds = []
    for clients, config in (
        (storage.client, default.client.meta.config),
        (cleanup_client.client, default._clients.cleanup_client().client.meta.config),
    ):
        clients.meta.events.register(
            "before-send.s3", lambda config=config, **_: seconds.append(longest(config)), unique_id="recording"
        )
        if operation in COMPLETE:
            seconds.append(
                0 if clients is storage.client else longest(config)
            )  # a failed completion is followed by an abort

    error = attempt(lambda: {**OPERATIONS, **COMPLETE}[operation](storage))

    assert isinstance(error, StorageTimeoutError)
    assert seconds
    assert sum(seconds) <= 60
