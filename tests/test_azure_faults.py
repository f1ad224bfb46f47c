"""Network faults between us and Azure: cut, corrupted or stalled connections never cause a wrong file."""

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
from tests.services.fault_proxy import Faults

pytest_plugins = ["tests.services.azurite"]

NOW = timedelta(0)
LARGE = random.Random(2).randbytes(2 * MIB + 100_001)
CONTENTS = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["one request", "in blocks"])
# The SDK's own retry, without the backoff.
ONE_IMMEDIATE_RETRY = {
    "max_attempts": 2,
    "retry_policy": ExponentialRetry(initial_backoff=0, increment_base=0, random_jitter_range=0, retry_total=1),
}


class FaultyAzure(FaultyBackend):
    """A container that is accessed directly and through a fault proxy.

    Args:
        server: The server of the container.
    """

    def __init__(self, server):
        self.container = server.make_container()
        self.server = server
        super().__init__(server.http, self._make)

    def manifests(self):
        """Return the manifests of unfinished uploads."""
        return leftovers(self.direct)

    def close(self):
        """Remove the container."""
        super().close()
        self.server.remove_container(self.container)

    def _make(self, address, **arguments):
        arguments = {"chunk_size": MIB, **arguments}
        return make_storage(dataclasses.replace(self.server, http=address), bucket=self.container, **arguments)


@pytest.fixture(scope="module")
def shared_network(azurite):
    """The fault proxy before Azurite."""
    network = FaultyAzure(azurite)
    yield network
    network.close()


@pytest.fixture
def network(shared_network):
    """The fault proxy without faults; after the test no manifest may remain."""
    shared_network.proxy.remove_faults()
    yield shared_network
    shared_network.proxy.kill()
    shared_network.proxy.remove_faults()
    assert not shared_network.manifests()


# -- cut --------------------------------------------------------------------------------------------------------------


@CONTENTS
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("arguments", [{}, {"exclusive": True}], ids=["unconditional", "exclusive"])
def test_an_upload_is_complete_after_one_cut(network, content, direction, how, arguments):
    """At any byte of a request or of a response."""
    network.direct.delete("cut.bin")
    total = network.passed(lambda storage: storage.write("cut.bin", content, **arguments))[direction == "down"]
    before = network.proxy.counters.cuts
    offsets = spread(total, count(6, 40))

    for offset in offsets:
        network.direct.delete("cut.bin")
        if not arguments:
            network.direct.write("cut.bin", OLD)
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=how, cut_times=1))
        storage = network.faulty(**ONE_IMMEDIATE_RETRY)

        storage.write("cut.bin", content, **arguments)

        assert network.content("cut.bin") == content
        storage.close()
        network.proxy.kill()  # a connection that ends late would count as the next cut

    # The length of the SDK's headers varies, so the last cut may come too late.
    assert network.proxy.counters.cuts - before >= len(offsets) - 1


@CONTENTS
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_upload_with_one_attempt_that_is_cut_is_atomic(network, content, direction, how):
    """Either an error and the old content, or no error and the new one."""
    total = network.passed(lambda storage: storage.write("cut.bin", content))[direction == "down"]
    errors = []

    for offset in spread(total, count(8, 40)):
        network.direct.write("cut.bin", OLD)
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=how))
        storage = network.faulty(max_attempts=1)

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        # After a lost response the client cannot know that the write succeeded.
        possible = {OLD} if direction == "up" and error else {OLD, content} if error else {content}
        assert network.content("cut.bin") in possible
        errors += [error] if error else []
        storage.close()

    assert errors
    for error in errors:
        assert isinstance(error, StorageUnavailableError)
        assert "cut.bin" in str(error)


def test_an_upload_fails_if_every_connection_is_cut_within_a_block(network):
    """The old content remains."""
    network.direct.write("cut.bin", OLD)
    network.proxy.up = Faults(cut_after=MIB // 2)
    storage = network.faulty(concurrency=3, **ONE_IMMEDIATE_RETRY)

    with pytest.raises(StorageUnavailableError, match=r"cut\.bin"):
        storage.write("cut.bin", LARGE)

    assert network.content("cut.bin") == OLD


@CONTENTS
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_download_is_complete_after_one_cut(network, content, how):
    """It resumes where the connection was cut, at any byte."""
    network.direct.write("there.bin", content)
    _, total = network.passed(lambda storage: storage.read("there.bin"))

    for offset in spread(total, count(10, 60)):
        before = network.proxy.counters.cuts
        network.proxy.down = Faults(cut_after=offset, cut_by=how, cut_times=1)
        storage, target = network.faulty(**ONE_IMMEDIATE_RETRY), io.BytesIO()

        storage.download("there.bin", target)

        assert network.proxy.counters.cuts <= before + 1
        assert target.getvalue() == content
        storage.close()
        network.proxy.kill()


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_download_with_every_connection_cut_is_complete_or_an_error(network, direction, how):
    """Truncated content is never returned."""
    network.direct.write("there.bin", LARGE)
    errors = 0

    for offset in [0, 1, 100, 300, MIB // 2, MIB + 3000] if direction == "down" else [0, 1, 100, 300]:
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=how))
        storage, target = network.faulty(**ONE_IMMEDIATE_RETRY), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("there.bin", target))

        assert error or target.getvalue() == LARGE
        assert LARGE.startswith(target.getvalue())
        assert not error or isinstance(error, StorageUnavailableError)
        errors += error is not None
        storage.close()

    assert errors >= 4


OPERATIONS_ON_HALF = {
    "stat": lambda storage: storage.stat("half.bin").size == len(LARGE),
    "list": lambda storage: "half.bin" in [entry.name for entry in storage.list()],
    "read": lambda storage: storage.read("half.bin") == LARGE,
    "upload": lambda storage: storage.write("half.bin", LARGE) is None,
}


@pytest.mark.parametrize("name", OPERATIONS_ON_HALF)
def test_a_response_that_ends_within_its_headers_is_retried(network, name):
    """If every response does, it is an error."""
    network.direct.write("half.bin", LARGE)
    network.proxy.down = Faults(cut_after=40, cut_by="close", cut_times=1)
    storage = network.faulty(**ONE_IMMEDIATE_RETRY)

    assert OPERATIONS_ON_HALF[name](storage)

    storage.close()
    network.proxy.down = Faults(cut_after=40, cut_by="close")
    with pytest.raises(StorageUnavailableError):
        OPERATIONS_ON_HALF[name](storage)
    network.proxy.remove_faults()
    assert network.content("half.bin") == LARGE


def test_a_response_that_ends_after_its_headers_is_not_an_empty_file(network):
    """The content is requested again; if every response does, it is an error."""
    content = LARGE[:1000]
    network.direct.write("half.bin", content)
    _, total = network.passed(lambda storage: storage.read("half.bin"))
    network.proxy.down = Faults(cut_after=total - len(content), cut_by="close", cut_times=1)
    storage = network.faulty(**ONE_IMMEDIATE_RETRY)

    assert storage.read("half.bin") == content

    storage.close()
    network.proxy.down = Faults(cut_after=total - len(content), cut_by="close")
    with pytest.raises(StorageUnavailableError, match="broke off"):
        storage.read("half.bin")


def test_a_download_that_gets_few_bytes_per_response_fails(network, in_bounded_time):
    """In bounded time: 100 bytes of each response count as no progress."""
    network.direct.write("there.bin", LARGE)
    _, response_size = network.passed(lambda storage: storage.stat("there.bin"))
    network.proxy.down = Faults(cut_after=response_size + 200)
    storage = network.faulty(check_content=False, **ONE_IMMEDIATE_RETRY)

    with pytest.raises(StorageUnavailableError):
        storage.read("there.bin")


# -- corrupted --------------------------------------------------------------------------------------------------------


@CONTENTS
def test_a_flipped_bit_of_an_upload_is_detected(network, content):
    """Over plain HTTP, by the MD5 of each request."""
    for offset in offsets_in_content(content, count(5, 40), MIB):
        network.direct.write("flip.bin", OLD)
        network.proxy.up = Faults(corrupt_at=offset, corrupt_times=1)
        storage = network.faulty()

        # Azure has the code Md5Mismatch, which is an IntegrityError; Azurite has another one.
        with pytest.raises(
            StorageError, match=r"flip\.bin in the container .* (content changed in transit|\(InvalidO)"
        ):
            storage.write("flip.bin", content)

        assert network.content("flip.bin") == OLD
        storage.close()


READS = {
    "download": lambda storage: storage.download("flip.bin", io.BytesIO()),
    "read": lambda storage: storage.read("flip.bin"),
    "ranges": lambda storage: list(storage.open("flip.bin", "r")),
}


@CONTENTS
@pytest.mark.parametrize("how", READS)
def test_a_flipped_bit_of_a_download_is_detected(network, content, how):
    """Over plain HTTP, by the MD5 of each range."""
    network.direct.write("flip.bin", content)

    for offset in offsets_in_content(content, count(4, 25), MIB):
        network.proxy.down = Faults(corrupt_at=offset, corrupt_times=1)
        storage = network.faulty()

        with pytest.raises(IntegrityError, match="does not match the stored checksum: read the file again"):
            READS[how](storage)

        assert storage.read("flip.bin") == content
        storage.close()


@pytest.mark.parametrize("content", [b"new", LARGE[: MIB + 1]], ids=["one request", "in blocks"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_flipped_bit_in_the_headers_of_an_upload_never_stores_wrong_content(network, direction, content):
    """The result is an error, or the right content."""
    totals = network.passed(lambda storage: storage.write("flip.bin", content))
    rng = random.Random(5)

    for _ in range(count(15, 200)):
        network.direct.write("flip.bin", OLD)
        position = rng.randrange(min(totals[direction == "down"], 1500))
        setattr(network.proxy, direction, Faults(corrupt_at=position, corrupt_times=1))
        storage = network.faulty(connect_timeout=1, read_timeout=0.3, **ONE_IMMEDIATE_RETRY)

        error = attempt(lambda storage=storage: storage.write("flip.bin", content))

        stored = network.content("flip.bin")
        # A malformed response does not tell what the server did.
        assert stored == content or (error and stored == OLD)
        assert [entry.name for entry in network.direct.list() if entry.name.startswith("flip")] == ["flip.bin"]
        storage.close()


@pytest.mark.parametrize("size", [7, 64 * 1024, 64 * 1024 + 1, 99_999])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_flipped_bit_in_the_headers_of_a_download_never_returns_wrong_content(network, direction, size):
    """The result is an error, or the right content."""
    content = LARGE[:size]
    network.direct.write("flip.bin", content)
    totals = network.passed(lambda storage: storage.read("flip.bin"))
    rng = random.Random(size)

    for _ in range(count(15, 700)):
        position = rng.randrange(min(totals[direction == "down"], 1500))
        setattr(network.proxy, direction, Faults(corrupt_at=position, corrupt_times=1))
        storage = network.faulty(connect_timeout=1, read_timeout=0.3, **ONE_IMMEDIATE_RETRY)
        found: list[bytes] = []

        error = attempt(lambda storage=storage, found=found: found.append(storage.read("flip.bin")))

        assert error or found == [content]
        storage.close()


# -- replaced ---------------------------------------------------------------------------------------------------------


def test_a_blob_that_is_replaced_while_it_is_read_is_an_error(network):
    """The content read is never a mixture."""
    old, other = LARGE[:MIB], LARGE[MIB : 2 * MIB]
    rng = random.Random(7)

    for number in range(count(4, 20)):
        path = f"replaced{number}.bin"
        network.direct.write(path, old)
        with network.faulty(chunk_size=64 * 1024).open(path, "r") as reader:
            beginning = reader.read(rng.randrange(1, 64 * 1024))
            network.direct.write(path, other)

            with pytest.raises(PreconditionFailedError, match="replaced"):
                reader.read()

            assert old.startswith(beginning)
        network.direct.delete(path)


def test_a_blob_that_is_deleted_while_it_is_read_is_an_error(network):
    """It is not taken for the end of the file."""
    network.direct.write("deleted.bin", LARGE[:MIB])
    with network.faulty().open("deleted.bin", "r") as reader:
        reader.read(10)
        network.direct.delete("deleted.bin")

        with pytest.raises(PreconditionFailedError, match="deleted"):
            reader.read()


def test_a_blob_that_gets_shorter_while_it_is_read_is_an_error(network):
    """The requested range is after the end of the new version."""
    network.direct.write("shorter.bin", LARGE[:MIB])
    with network.faulty().open("shorter.bin", "r") as reader:
        reader.read(10)
        network.direct.write("shorter.bin", b"short")
        reader.seek(MIB // 2)

        with pytest.raises(PreconditionFailedError, match="replaced"):
            reader.read()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_blob_that_is_replaced_during_a_download_is_an_error(network, concurrency):
    """What was read ahead is all of one version."""
    network.direct.write("long.bin", LARGE)
    arrived = io.BytesIO()

    class Target:
        def write(self, data):
            if not arrived.tell():
                network.direct.write("long.bin", bytes(len(LARGE)))
            return arrived.write(data)

    with pytest.raises(PreconditionFailedError, match="replaced"):
        network.faulty(chunk_size=64 * 1024, concurrency=concurrency).download("long.bin", Target())

    assert LARGE.startswith(arrived.getvalue())


# -- stalled ----------------------------------------------------------------------------------------------------------


def max_call_duration(client):
    """Return how long one call to an unresponsive server may take, in seconds: all attempts and waits."""
    policy = client._pipeline._impl_policies[0]
    while not hasattr(policy, "get_backoff_time"):
        policy = policy.next
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "uniform", lambda low, high: high)
        waits = [policy.get_backoff_time({"count": number}) for number in range(1, policy.total_retries + 1)]
    return (policy.total_retries + 1) * client._pipeline._transport.connection_config.read_timeout + sum(waits)


def max_call_durations(storage):
    """Return this for the default client and for the cleanup client."""
    return max_call_duration(storage.client), max_call_duration(storage._clients._cleanup_client())


@pytest.fixture
def no_more_threads(network):
    """After the storages are closed, no thread of the test may be left."""
    with no_threads_left(network):
        yield


OPERATIONS = {
    "write": lambda storage: storage.write("slow.bin", SMALL),
    "write if new": lambda storage: storage.write("new.bin", SMALL, exclusive=True),
    "upload": lambda storage: storage.write("slow.bin", LARGE),
    "read": lambda storage: storage.read("slow.bin"),
    "stat": lambda storage: storage.stat("slow.bin"),
    "list": lambda storage: list(storage.list()),
    "delete": lambda storage: storage.delete("slow.bin"),
    "copy": lambda storage: storage.copy("slow.bin", "copy.bin"),
}
SHORT_WITH_RETRY = {**SHORT_TIMEOUTS, **ONE_IMMEDIATE_RETRY}


@pytest.mark.parametrize("name", list(OPERATIONS)[: count(4, len(OPERATIONS))])
def test_a_server_that_does_not_respond_is_a_timeout(network, no_more_threads, in_bounded_time, name):
    """It only accepts the connection."""
    network.direct.write("slow.bin", LARGE)
    network.direct.delete("new.bin")
    network.proxy.down = Faults(cut_after=0, cut_by="stall")
    storage = network.faulty(**SHORT_TIMEOUTS)

    error = attempt(lambda: OPERATIONS[name](storage))

    assert isinstance(error, StorageTimeoutError)
    assert "read_timeout" in str(error)
    assert network.content("slow.bin") == LARGE or name in ("write", "delete")


@pytest.mark.parametrize(
    "arrived", [-10, 0, 500], ids=["within its headers", "after its headers", "within its content"]
)
def test_a_stalled_response_is_a_timeout(network, no_more_threads, in_bounded_time, arrived):
    """If every response stalls, the read is an error and returns no truncated content."""
    content = LARGE[:1000]
    network.direct.write("slow.bin", content)
    _, total = network.passed(lambda storage: storage.read("slow.bin"))
    network.proxy.down = Faults(cut_after=total - len(content) + arrived, cut_by="stall")
    storage = network.faulty(**SHORT_WITH_RETRY)

    with pytest.raises(StorageTimeoutError, match="read_timeout"):
        storage.read("slow.bin")


def test_a_download_that_stalls_in_a_later_range_is_a_timeout(network, no_more_threads, in_bounded_time):
    """As in the first range."""
    network.direct.write("slow.bin", LARGE)
    network.proxy.down = Faults(cut_after=MIB + MIB // 2, cut_by="stall", cut_times=1)
    storage, target = network.faulty(**SHORT_WITH_RETRY), io.BytesIO()

    with pytest.raises(StorageTimeoutError, match="read_timeout"):
        storage.download("slow.bin", target)

    assert LARGE.startswith(target.getvalue())


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("name", ["upload", "read", "write"][: count(2, 3)])
def test_a_server_that_stalls_in_either_direction_is_a_timeout(
    network, no_more_threads, in_bounded_time, name, direction
):
    """No partial content becomes visible."""
    network.direct.write("slow.bin", LARGE)
    total = network.passed(OPERATIONS[name])[direction == "down"]
    network.direct.write("slow.bin", LARGE)

    for offset in spread(total, count(4, 8))[1:-1]:
        network.proxy.remove_faults()
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by="stall"))
        storage = network.faulty(**SHORT_WITH_RETRY)

        error = attempt(lambda storage=storage: OPERATIONS[name](storage))

        # If the stall comes late enough, a retry on a new connection succeeds.
        assert isinstance(error, StorageTimeoutError) or error is None
        assert network.content("slow.bin") in ((LARGE, SMALL) if name == "write" else (LARGE,))
        network.proxy.kill()


def test_an_upload_that_stalls_publishes_nothing(network, no_more_threads, in_bounded_time):
    """With one attempt, all blocks of the upload are abandoned."""
    network.direct.write("slow.bin", OLD)
    network.proxy.up = Faults(cut_after=MIB // 2, cut_by="stall", cut_times=3)
    storage = network.faulty(**{**SHORT_TIMEOUTS, "max_attempts": 1}, concurrency=3)

    with pytest.raises(StorageTimeoutError):
        storage.write("slow.bin", LARGE)

    assert network.content("slow.bin") == OLD


LAST_STEPS = {
    "create": lambda storage: storage.multipart.create("slow.bin", WriteOptions()),
    "complete": lambda storage: storage.multipart.complete(
        "slow.bin", "x" * 22, [Part(number=1, size=1, etag="0" * 36)], WriteOptions(exclusive=True)
    ),
}


@pytest.mark.parametrize("name", [*OPERATIONS, *LAST_STEPS])
def test_by_default_no_operation_blocks_for_more_than_a_minute(network, name):
    """Computed, not measured: the calls to an unresponsive server, and how long each may take."""
    network.direct.write("slow.bin", LARGE)
    network.direct.delete("new.bin")
    network.proxy.down = Faults(cut_after=0, cut_by="stall")
    default, cleanup = max_call_durations(network.faulty())
    storage = network.faulty(read_timeout=0.2, connect_timeout=0.2, max_attempts=1)
    seconds = [default] if name == "list" else []
    blobs = storage._gateway.get_blob_client

    def record_duration(name, *, for_cleanup=False):
        seconds.append(cleanup if for_cleanup else default)
        return blobs(name)

    storage._gateway.get_blob_client = record_duration

    error = attempt(lambda: {**OPERATIONS, **LAST_STEPS}[name](storage))

    network.proxy.remove_faults()
    network.direct.sweep(NOW)  # after a lost response, the client does not know that it wrote a manifest
    assert isinstance(error, StorageTimeoutError)
    assert seconds
    assert sum(seconds) <= 60
