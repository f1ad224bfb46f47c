"""Large files go to an SFTP server and come back in little memory, and what nobody reads hardly comes."""

import hashlib
import io
import random

import pytest

from tests.counts import count
from tests.services.fault_proxy import FaultProxy
from tests.sftp_storages import make_storage
from tests.streaming import MIB, stream

pytest_plugins = ["tests.services.openssh", "tests.services.plain_sftp"]

KIB = 1024
# Up, nine parts of 2 MiB, and what of them is being sent; down, 12 MiB ahead, which may be held twice: where they go,
# and where paramiko keeps what came early. All of it in pieces that leave gaps between them.
ROOM = 64 * MIB


@pytest.mark.parametrize(("kind", "way"), [("openssh", "verbs"), ("openssh", "files"), ("plain_sftp", "copies")])
def test_streaming_holds_little(request, kind, way):
    """Up and down, by one verb, in pieces of one's own or copied by us: memory grows by little, no byte is another."""
    server = request.getfixturevalue(kind)
    storage = make_storage(server)

    stream("SFTPStorage", {**server.login, "root": storage.root}, way, ROOM)


def test_streaming_to_a_far_server_holds_little(openssh):
    """Through several sessions at once, each with parts of its own."""
    storage = make_storage(openssh)
    with FaultProxy("127.0.0.1", openssh.port) as proxy:
        openssh.know(proxy.port)
        proxy.down.latency = 0.02

        stream("SFTPStorage", {**openssh.login, "port": proxy.port, "root": storage.root}, "files", ROOM)


@pytest.fixture
def line(openssh):
    """A line to the server on which the bytes are counted, and a storage at the end of it."""
    with FaultProxy("127.0.0.1", openssh.port) as proxy:
        openssh.know(proxy.port)
        storage = make_storage(openssh, port=proxy.port)
        yield proxy, storage
        storage.close()


def test_random_ranges_are_exact_and_move_hardly_more(line):
    """Wherever a reader is told to go, the server sends what is read there and at most one chunk more."""
    proxy, storage = line
    rng = random.Random(24)
    content = rng.randbytes(6 * MIB + 345)
    storage.write("a.bin", content)

    for _ in range(count(40, 1000)):
        length = int(len(content) ** rng.random())
        start = rng.randrange(len(content) - length + 1)
        before = proxy.counters.down
        with storage.open("a.bin", "r") as reader:
            opening = proxy.counters.down - before
            reader.seek(start)
            read = reader.read(length)

        assert read == content[start : start + length]
        assert opening <= 66 * KIB
        # What was asked for ahead comes before the response to the next request.
        assert storage.exists("a.bin")
        assert proxy.counters.down - before <= length + length // 50 + MIB + 100 * KIB


def test_a_reader_that_jumps_about_fetches_what_it_reads(line):
    """Many short reads in one open file: the bytes of each, and of the rest hardly any."""
    proxy, storage = line
    rng = random.Random(7)
    content = rng.randbytes(12 * MIB)
    storage.write("a.bin", content)
    rounds = count(40, 400)

    before = proxy.counters.down
    with storage.open("a.bin", "r") as reader:
        for _ in range(rounds):
            start = rng.randrange(len(content) - 100)
            reader.seek(start)
            assert reader.read(100) == content[start : start + 100]

    assert proxy.counters.down - before <= MIB + rounds * 66 * KIB


def test_a_file_goes_up_and_comes_down_once(line):
    """No byte is sent twice, and no range is asked for twice."""
    proxy, storage = line
    content = random.Random(9).randbytes(9 * MIB + 1)
    storage.list()
    up, down = proxy.counters.up, proxy.counters.down

    storage.upload(io.BytesIO(content), "a.bin")
    sent = proxy.counters.up - up
    came = io.BytesIO()
    storage.download("a.bin", came)

    assert hashlib.sha256(came.getvalue()).digest() == hashlib.sha256(content).digest()
    assert len(content) <= sent <= len(content) + 64 * KIB
    assert len(content) <= proxy.counters.down - down <= len(content) + 64 * KIB


def test_what_is_copied_on_the_server_does_not_come_here(line):
    """OpenSSH is asked to copy, and no byte moves."""
    proxy, storage = line
    storage.write("a.bin", random.Random(9).randbytes(9 * MIB))
    up, down = proxy.counters.up, proxy.counters.down

    storage.copy("a.bin", "b.bin")

    assert storage.size("b.bin") == 9 * MIB
    assert proxy.counters.up - up < 16 * KIB
    assert proxy.counters.down - down < 16 * KIB
