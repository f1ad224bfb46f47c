"""Network faults between us and an SFTP server: cuts, flipped bits and stalls are retried or raise an error."""

import io
import itertools
import random
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from flask_storage import IntegrityError, PreconditionFailedError, StorageTimeoutError
from tests.counts import count
from tests.network_faults import MIB, OLD, SMALL, FaultyBackend, attempt, no_threads_left, spread
from tests.services.fault_proxy import Faults
from tests.sftp_storages import backdate, make_storage, pooled_session, temporary_files, wait_until_idle

pytest_plugins = ["tests.services.openssh"]

NOW = timedelta(0)
PART = MIB // 4
LARGE = random.Random(2).randbytes(2 * MIB + 100_001)
CONTENTS = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "multipart"])
DIRECTIONS = pytest.mark.parametrize("direction", ["up", "down"])
SHORT_TIMEOUTS = {"connect_timeout": 0.3, "read_timeout": 0.3}
CUTS: list[Literal["reset", "close"]] = ["reset", "close"]


class FaultySFTP(FaultyBackend):
    """A directory of a server, with one storage that is connected directly and others behind a fault proxy.

    Args:
        server: The server.
    """

    def __init__(self, server):
        self.server = server
        (server.folder / "faulty").mkdir()
        super().__init__(f"ssh://127.0.0.1:{server.port}", self._make_storage)
        server.know(self.proxy.port)

    def faulty(self, **arguments):
        """Return a new storage behind the proxy."""
        return self._register(self._make_storage(self._proxy_address, **arguments))

    def left(self):
        """Return the temporary files of unfinished writes."""
        return temporary_files(self.direct)

    def mend(self):
        """Close the connections of the proxy, and end its faults."""
        self.proxy.kill()
        self.proxy.remove_faults()

    def _make_storage(self, address, **arguments):
        return make_storage(self.server, root="faulty", port=urlsplit(address).port, **arguments)


@pytest.fixture(scope="module")
def shared_network(make_openssh):
    """A FaultySFTP on its own server, since some tests stop it, with small parts and chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flask_storage.backends.sftp.storage.PART_SIZE", PART)
        patch.setattr("flask_storage.backends.sftp.files.CHUNK_SIZE", PART)
        patch.setattr("flask_storage.backends.sftp.storage.CHUNK_SIZE", PART)
        network = FaultySFTP(make_openssh("MaxSessions 10"))
        yield network
        network.close()


@pytest.fixture
def network(shared_network):
    """A FaultySFTP without files and faults; after the test, a sweep removes all that is left."""
    yield shared_network
    shared_network.mend()
    shared_network.close_storages()
    wait_until_idle(shared_network.server)
    shared_network.direct.sweep(NOW)
    shared_network.direct.delete_many([entry.name for entry in shared_network.direct.list()])
    assert not shared_network.left()


# -- cut connections --------------------------------------------------------------------------------------------------


@pytest.fixture
def distance(request, monkeypatch):
    """How far the server seems to be: a writer uses several sessions for a far one."""
    if request.param == "far":
        monkeypatch.setattr("flask_storage.backends.sftp.upload.NEAR_ROUND_TRIP", 0)


@pytest.mark.parametrize(
    ("content", "distance"),
    [(SMALL, "near"), (LARGE, "near"), (LARGE, "far")],
    ids=["small", "multipart", "several sessions"],
    indirect=["distance"],
)
@DIRECTIONS
def test_an_upload_that_is_cut_is_stored_whole_or_not_at_all(network, content, direction, distance):
    """At any byte. If the last response is lost, the outcome is unknown."""
    total = network.passed(lambda storage: storage.write("cut.bin", content))[direction == "down"]
    errors = 0

    for offset, cut_by in zip(spread(total, count(5, 40)), itertools.cycle(CUTS), strict=False):
        network.direct.write("cut.bin", OLD)
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=cut_by))
        storage = network.faulty()

        error = attempt(lambda storage=storage: storage.write("cut.bin", content))

        assert network.content("cut.bin") in ((OLD, content) if error else (content,))
        assert [entry.name for entry in network.direct.list()] == ["cut.bin"]
        errors += error is not None
        network.mend()
        storage.write("cut.bin", SMALL[::-1])
        assert network.content("cut.bin") == SMALL[::-1]

    assert errors


@DIRECTIONS
def test_a_download_that_is_cut_once_is_complete(network, direction):
    """It continues if the version is the same; a cut while connecting is an error."""
    network.direct.write("there.bin", LARGE)
    backdate(network.direct, "there.bin")
    connecting = network.passed(lambda storage: storage.exists("there.bin"))[direction == "down"]
    total = network.passed(lambda storage: storage.read("there.bin"))[direction == "down"]

    for offset, cut_by in zip(spread(total, count(8, 60)), itertools.cycle(CUTS), strict=False):
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=cut_by, cut_times=1))
        storage, target = network.faulty(), io.BytesIO()

        error = attempt(lambda storage=storage, target=target: storage.download("there.bin", target))

        assert LARGE.startswith(target.getvalue())
        assert error is None or offset <= connecting + 3000
        assert error or target.getvalue() == LARGE
        network.mend()
        assert storage.read("there.bin") == LARGE


def test_a_download_that_is_cut_does_not_continue_with_another_version(network):
    """Nothing of the new file is read."""
    network.direct.write("there.bin", LARGE)
    backdate(network.direct, "there.bin")
    storage = network.faulty()

    with storage.open("there.bin", "r") as reader:
        start = reader.read(100_000)
        network.direct.write("there.bin", LARGE[::-1])
        network.proxy.kill()
        with pytest.raises(PreconditionFailedError, match="was replaced while it was read"):
            reader.read()

    assert start == LARGE[:100_000]


FILES = {f"folder/{number}.txt": str(number).encode() for number in range(20)}
# Each operation, and the files that exist when it was carried out.
OPERATIONS = {
    "list": (lambda storage: storage.list(), FILES),
    "copy": (lambda storage: storage.copy("folder/1.txt", "b/new.txt"), {**FILES, "b/new.txt": b"1"}),
    "delete": (
        lambda storage: storage.delete("folder/1.txt"),
        {path: content for path, content in FILES.items() if path != "folder/1.txt"},
    ),
    "move": (
        lambda storage: storage.move("folder/1.txt", "folder/0.txt"),
        {path: content for path, content in FILES.items() if path != "folder/1.txt"} | {"folder/0.txt": b"1"},
    ),
}


@DIRECTIONS
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_is_cut_was_carried_out_or_was_not(network, operation, direction):
    """At any byte. Without an error it was carried out. The next operation works."""
    work, expected = OPERATIONS[operation]

    def fill():
        for path, content in FILES.items():
            if network.content(path) != content:
                network.direct.write(path, content)
        network.direct.delete("b/new.txt")

    fill()
    total = network.passed(work)[direction == "down"]
    for offset, cut_by in zip(spread(total, count(4, 40)), itertools.cycle(CUTS), strict=False):
        fill()
        setattr(network.proxy, direction, Faults(cut_after=offset, cut_by=cut_by))
        storage = network.faulty()

        error = attempt(lambda storage=storage: work(storage))

        network.mend()
        files = {entry.name: network.content(entry.name) for entry in storage.list()}
        assert files in ((FILES, expected) if error else (expected,))


@pytest.mark.parametrize("detected", ["before", "by the first request"])
@pytest.mark.parametrize("operation", ["read", "write", "list", "stat", "copy", "delete", "move", "open"])
def test_an_idle_connection_that_was_lost_is_replaced(network, operation, detected):
    """Whether the loss is known before the next operation or is detected by its first request."""
    storage = network.faulty()
    network.direct.write("a.bin", OLD)
    storage.read("a.bin")
    before = network.proxy.counters.connections

    if detected == "before":
        network.proxy.kill()
    else:
        network.proxy.up = Faults(cut_after=0, cut_times=1)
    {
        "read": lambda: storage.read("a.bin"),
        "write": lambda: storage.write("a.bin", b"new"),
        "list": storage.list,
        "stat": lambda: storage.stat("a.bin"),
        "copy": lambda: storage.copy("a.bin", "b.bin"),
        "delete": lambda: storage.delete("a.bin"),
        "move": lambda: storage.move("a.bin", "b.bin"),
        "open": lambda: storage.open("a.bin", "rw").close(),
    }[operation]()

    assert network.proxy.counters.connections == before + 1


# -- flipped bits -----------------------------------------------------------------------------------------------------


@DIRECTIONS
@CONTENTS
def test_a_flipped_bit_is_detected(network, content, direction):
    """SSH authenticates every packet: the upload raises an error, and no wrong content is stored or read."""
    total = network.passed(lambda storage: storage.write("flip.bin", content))[direction == "down"]
    rng = random.Random(len(content))

    for _ in range(count(3, 60)):
        network.direct.write("flip.bin", OLD)
        setattr(network.proxy, direction, Faults(corrupt_at=rng.randrange(total), corrupt_times=1))
        storage = network.faulty(connect_timeout=3, read_timeout=3)

        error = attempt(lambda storage=storage: storage.write("flip.bin", content))
        network.proxy.remove_faults()
        read = attempt(lambda storage=storage: storage.read("flip.bin"))

        assert network.content("flip.bin") in ((OLD, content) if error else (content,))
        assert read is None
        network.mend()


# -- stalled connections ----------------------------------------------------------------------------------------------

# Each operation, and the content of the file when it was carried out.
STALLED: dict[str, tuple[Any, bytes | None]] = {
    "read": (lambda storage: storage.read("slow.bin"), LARGE),
    "write": (lambda storage: storage.write("slow.bin", LARGE[::-1]), LARGE[::-1]),
    "list": (lambda storage: storage.list(), LARGE),
    "copy": (lambda storage: storage.copy("slow.bin", "copied.bin"), LARGE),
    "delete": (lambda storage: storage.delete("slow.bin"), None),
}


def stall(network, operation, direction, offset):
    """Run an operation on a connection that stalls; return the error, or None if no missing byte was needed."""
    work, expected = STALLED[operation]
    network.direct.write("slow.bin", LARGE)
    setattr(network.proxy, direction, Faults(cut_after=offset, cut_by="stall"))
    storage = network.faulty(**SHORT_TIMEOUTS)

    error = attempt(lambda: work(storage))

    assert network.content("slow.bin") in ((LARGE, expected) if error else (expected,))
    network.mend()
    return error


@DIRECTIONS
def test_a_server_that_stalls_while_connecting_raises_a_timeout(network, in_bounded_time, direction):
    """At any byte of it."""
    network.direct.write("slow.bin", LARGE)
    total = network.passed(lambda storage: storage.exists("slow.bin"))[direction == "down"]

    for offset in spread(total * 9 // 10, count(6, 40)):
        assert stall(network, "list", direction, offset) is not None


@pytest.mark.parametrize("operation", STALLED)
@DIRECTIONS
def test_a_server_that_stalls_raises_a_timeout(network, in_bounded_time, operation, direction):
    """At any byte of an operation, which was carried out or was not."""
    network.direct.write("slow.bin", LARGE)
    connected = network.passed(lambda storage: pooled_session(storage).__enter__())[direction == "down"]
    total = network.passed(STALLED[operation][0])[direction == "down"]

    errors = [
        stall(network, operation, direction, connected + offset)
        for offset in spread(total - connected, count(3, 12))[:-1]
    ]

    assert any(errors)


def test_the_error_of_a_timeout_says_what_to_do(network):
    """With the argument that may be raised."""
    network.direct.write("slow.bin", LARGE)
    storage = network.faulty(read_timeout=1)
    storage.stat("slow.bin")
    network.proxy.down = Faults(cut_after=0, cut_by="stall")

    with pytest.raises(StorageTimeoutError, match="did not respond in time: try again, or raise read_timeout"):
        storage.stat("slow.bin")


def test_no_thread_is_left_after_a_timeout(network):
    """When the storages are closed."""
    with no_threads_left(network):
        storage = network.faulty(read_timeout=1, fsync=False)
        storage.write("a.bin", OLD)
        network.proxy.down = Faults(cut_after=0, cut_by="stall")
        assert attempt(lambda: storage.write("a.bin", LARGE)) is not None
        network.mend()


# -- restarts of the server -------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_during_a_write_is_used_again(network):
    """The write raises an error, the old file stays, and the sweep removes the temporary file."""
    storage = network.direct
    storage.write("a.bin", OLD)
    writer = storage.open("a.bin", "w")
    writer.write(LARGE)

    network.server.stop()
    error = attempt(writer.close)
    network.server.start()

    assert error is not None
    assert storage.read("a.bin") == OLD
    assert [entry.name for entry in storage.list()] == ["a.bin"]
    assert len(network.left()) == 1
    assert storage.sweep(NOW) == 1
    storage.write("a.bin", LARGE)
    assert storage.read("a.bin") == LARGE


def test_a_read_continues_after_a_restart_of_the_server(network):
    """The same version is opened again; while the server is down, operations raise an error."""
    storage = network.direct
    storage.write("a.bin", LARGE)
    backdate(storage, "a.bin")

    with storage.open("a.bin", "r") as reader:
        start = reader.read(100_000)
        network.server.stop()
        error = attempt(lambda: storage.stat("a.bin"))
        network.server.start()
        rest = reader.read()

    assert error is not None
    assert start + rest == LARGE


def test_a_file_that_shrinks_while_it_is_read_raises_an_error(network):
    """Another program may write it in place."""
    storage = network.direct
    storage.write("a.bin", LARGE)

    with storage.open("a.bin", "r") as reader:
        reader.read(1000)
        (network.server.folder / "faulty" / "a.bin").write_bytes(b"short")
        with pytest.raises(IntegrityError, match="the file ends at byte"):
            reader.read()
