"""Transfers of large files to and from Azure in little memory."""

import dataclasses
import hashlib
import io
import random
from urllib.parse import urlsplit

import pytest

from tests.azure_storages import make_storage
from tests.counts import count
from tests.services.fault_proxy import FaultProxy
from tests.streaming import MIB, stream

pytest_plugins = ["tests.services.azurite"]

KIB = 1024


@pytest.mark.parametrize("way", ["operations", "files"])
@pytest.mark.parametrize("server", ["azurite", "azurite_https"])
def test_streaming_holds_little_memory(request, server, way):
    """Uploads and downloads add at most 64 MiB to the process, and every byte is right."""
    running = request.getfixturevalue(server)
    arguments = {
        "account": running.account,
        "key": running.key,
        "bucket": running.make_container(),
        "endpoint_url": running.url,
        "verify": str(running.ca),
        "concurrency": 6,  # written in small pieces, the eight of the default take up to 66 MiB
    }

    stream("AzureStorage", arguments, way, 64 * MIB)

    running.remove_container(arguments["bucket"])


@pytest.fixture
def line(azurite):
    """A proxy that counts the bytes, and the server as seen through it."""
    parts = urlsplit(azurite.url)
    with FaultProxy(parts.hostname, parts.port) as proxy:
        yield proxy, dataclasses.replace(azurite, http=f"http://{proxy.address}{parts.path}")


@pytest.mark.parametrize("chunk_size", [256 * KIB, 5 * MIB])
def test_random_ranges_are_exact_and_transfer_little_more(line, chunk_size):
    """A seek and read transfers what is read and at most one chunk more."""
    proxy, server = line
    storage = make_storage(server, chunk_size=chunk_size)
    rng = random.Random(24)
    content = rng.randbytes(12 * MIB + 345)
    storage.write("a.bin", content)
    headers = 10 * KIB  # of the responses

    for _ in range(count(60, 1000)):
        length = int(len(content) ** rng.random())
        start = rng.randrange(len(content) - length + 1)
        before = proxy.counters.down
        with storage.open("a.bin", "r") as reader:
            opening = proxy.counters.down - before
            reader.seek(start)
            read = reader.read(length)

        assert read == content[start : start + length]
        assert opening <= 64 * KIB + headers
        requests = 1 + length // min(chunk_size, 4 * MIB) + 2
        assert proxy.counters.down - before <= length + chunk_size + requests * headers
        storage.close()
        proxy.wait_until(lambda counters: counters.closed == counters.connections)  # what was read ahead has arrived


def test_many_short_reads_fetch_little_more_than_they_read(line):
    """All in one open file, at random positions."""
    proxy, server = line
    storage = make_storage(server)
    rng = random.Random(7)
    content = rng.randbytes(24 * MIB)
    storage.write("a.bin", content)
    rounds = count(40, 400)

    before = proxy.counters.down
    with storage.open("a.bin", "r") as reader:
        for _ in range(rounds):
            start = rng.randrange(len(content) - 100)
            reader.seek(start)
            assert reader.read(100) == content[start : start + 100]

    assert proxy.counters.down - before <= storage._chunk_size + rounds * 64 * KIB
    storage.close()


def test_a_file_is_uploaded_and_downloaded_once(line):
    """Every block is sent once, and no range is requested twice."""
    proxy, server = line
    storage = make_storage(server, chunk_size=MIB)
    content = random.Random(9).randbytes(9 * MIB + 1)
    up, down = proxy.counters.up, proxy.counters.down

    storage.upload(io.BytesIO(content), "a.bin")
    sent = proxy.counters.up - up
    received = io.BytesIO()
    storage.download("a.bin", received)

    assert hashlib.sha256(received.getvalue()).digest() == hashlib.sha256(content).digest()
    assert len(content) <= sent <= len(content) + 64 * KIB
    assert len(content) <= proxy.counters.down - down <= len(content) + 64 * KIB
    storage.close()
