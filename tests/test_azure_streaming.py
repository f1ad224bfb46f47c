"""Large files go to Azure and come back in little memory."""

import dataclasses
import hashlib
import io
import random
from urllib.parse import urlsplit

import pytest

from tests.azure_places import place
from tests.counts import count
from tests.services.fault_proxy import FaultProxy
from tests.streaming import MIB, stream

pytest_plugins = ["tests.services.azurite"]

KIB = 1024


@pytest.mark.parametrize("way", ["verbs", "files"])
@pytest.mark.parametrize("server", ["azurite", "azurite_https"])
def test_streaming_holds_little(request, server, way):
    """Up and down, by one verb or in pieces of one's own, memory grows by at most 64 MiB, and every byte is the one."""
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
    """A line to the server on which the bytes are counted, and the server at the end of it."""
    parts = urlsplit(azurite.url)
    with FaultProxy(parts.hostname, parts.port) as proxy:
        yield proxy, dataclasses.replace(azurite, http=f"http://{proxy.address}{parts.path}")


@pytest.mark.parametrize("chunk_size", [256 * KIB, 5 * MIB])
def test_random_ranges_are_exact_and_move_hardly_more(line, chunk_size):
    """Wherever a reader is told to go, the service sends what is read there and at most one chunk more."""
    proxy, server = line
    storage = place(server, chunk_size=chunk_size)
    rng = random.Random(24)
    content = rng.randbytes(12 * MIB + 345)
    storage.write("a.bin", content)
    headers = 10 * KIB  # of the answers

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
        proxy.wait_until(lambda counters: counters.closed == counters.connections)  # what was fetched ahead has come


def test_a_reader_that_jumps_about_fetches_what_it_reads(line):
    """Many short reads in one open file: the bytes of each, and of the rest hardly any."""
    proxy, server = line
    storage = place(server)
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


def test_a_file_goes_up_and_comes_down_once(line):
    """Blocks are sent once each, and no range is asked for twice."""
    proxy, server = line
    storage = place(server, chunk_size=MIB)
    content = random.Random(9).randbytes(9 * MIB + 1)
    up, down = proxy.counters.up, proxy.counters.down

    storage.upload(io.BytesIO(content), "a.bin")
    sent = proxy.counters.up - up
    came = io.BytesIO()
    storage.download("a.bin", came)

    assert hashlib.sha256(came.getvalue()).digest() == hashlib.sha256(content).digest()
    assert len(content) <= sent <= len(content) + 64 * KIB
    assert len(content) <= proxy.counters.down - down <= len(content) + 64 * KIB
    storage.close()
