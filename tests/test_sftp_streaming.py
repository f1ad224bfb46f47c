"""Streaming of large files to and from an SFTP server: bounded memory, and little data beyond what is read."""

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
# Up: nine parts of 2 MiB, and what is being sent of them. Down: 12 MiB of read-ahead, which may be in memory twice, in
# the buffers of the reader and in those of paramiko. The rest is for fragmentation.
MEMORY_LIMIT = 64 * MIB


@pytest.mark.parametrize(("kind", "mode"), [("openssh", "operations"), ("openssh", "files"), ("plain_sftp", "copies")])
def test_streaming_uses_little_memory(request, kind, mode):
    """By upload and download, by open files, or by a copy through this process; every byte arrives."""
    server = request.getfixturevalue(kind)
    storage = make_storage(server)

    stream("SFTPStorage", {**server.login, "root": storage.root}, mode, MEMORY_LIMIT)


def test_streaming_to_a_far_server_uses_little_memory(openssh):
    """In several sessions at once, each with its own parts."""
    storage = make_storage(openssh)
    with FaultProxy("127.0.0.1", openssh.port) as proxy:
        openssh.know(proxy.port)
        proxy.down.latency = 0.02

        stream("SFTPStorage", {**openssh.login, "port": proxy.port, "root": storage.root}, "files", MEMORY_LIMIT)


@pytest.fixture
def line(openssh):
    """A proxy to the server that counts bytes, and a storage behind it."""
    with FaultProxy("127.0.0.1", openssh.port) as proxy:
        openssh.know(proxy.port)
        storage = make_storage(openssh, port=proxy.port)
        yield proxy, storage
        storage.close()


def test_reading_a_range_transfers_little_more_than_the_range(line):
    """At most one chunk more, wherever the range is."""
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
        # The responses to read-ahead requests arrive before that to the next request.
        assert storage.exists("a.bin")
        assert proxy.counters.down - before <= length + length // 50 + MIB + 100 * KIB


def test_short_reads_at_random_positions_transfer_little_more(line):
    """Many reads of one open file."""
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


def test_a_file_is_transferred_once(line):
    """No byte is sent twice, and no range is requested twice."""
    proxy, storage = line
    content = random.Random(9).randbytes(9 * MIB + 1)
    storage.list()
    up, down = proxy.counters.up, proxy.counters.down

    storage.upload(io.BytesIO(content), "a.bin")
    sent = proxy.counters.up - up
    target = io.BytesIO()
    storage.download("a.bin", target)

    assert hashlib.sha256(target.getvalue()).digest() == hashlib.sha256(content).digest()
    assert len(content) <= sent <= len(content) + 64 * KIB
    assert len(content) <= proxy.counters.down - down <= len(content) + 64 * KIB


def test_a_copy_on_the_server_transfers_no_content(line):
    """OpenSSH supports copy-data."""
    proxy, storage = line
    storage.write("a.bin", random.Random(9).randbytes(9 * MIB))
    up, down = proxy.counters.up, proxy.counters.down

    storage.copy("a.bin", "b.bin")

    assert storage.size("b.bin") == 9 * MIB
    assert proxy.counters.up - up < 16 * KIB
    assert proxy.counters.down - down < 16 * KIB
