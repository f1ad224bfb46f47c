"""A real server transfers large files in bounded memory."""

import hashlib
import http.client
import random
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.counts import count
from tests.services.web_servers import running

HOUR = timedelta(hours=1)
MIB = 1024 * 1024
SIZE = count(256, 5 * 1024) * MIB
MEMORY_LIMIT = 64 * MIB
BLOCK = random.Random(7).randbytes(MIB)
RANGES = count(100, 1000)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one worker, which handles every request."""
    with running("gunicorn gthread", tmp_path_factory.mktemp("streaming")) as started:
        yield started


def _request(server, method, url, body=None, headers=None):
    """Send a request on a new connection; the server closes idle ones while a test compares gigabytes."""
    target = urlsplit(url)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    client.request(method, f"{target.path}?{target.query}", body, {"Connection": "close", **(headers or {})})
    return client.getresponse()


def _blocks(size):
    """Yield *size* bytes in which every MiB is different."""
    for number in range(size // MIB):
        yield number.to_bytes(8, "big") + BLOCK[8:]


def _digest_of(size):
    digest = hashlib.sha256()
    for block in _blocks(size):
        digest.update(block)
    return digest.hexdigest()


def _memory(process):
    """Return the peak memory of the process and its children, in bytes."""
    pids = [process.pid, *map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())]
    peaks = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line]
    return sum(int(line.split()[1]) * 1024 for line in peaks)


def test_an_upload_and_a_download_use_bounded_memory(server):
    """The worker's memory grows by at most 64 MiB, and the content is unchanged."""
    before = _memory(server.process)

    uploaded = _request(
        server,
        "PUT",
        server.storage.link_to("large", "upload", HOUR, max_size=SIZE),
        _blocks(SIZE),
        {"Content-Length": str(SIZE)},
    )
    status = uploaded.status, uploaded.read()
    digest = hashlib.sha256()
    response = _request(server, "GET", server.storage.link_to("large", "download", HOUR))
    while chunk := response.read(MIB):
        digest.update(chunk)

    assert status == (200, b"OK")
    assert server.storage.size("large") == SIZE
    assert digest.hexdigest() == _digest_of(SIZE)
    assert _memory(server.process) - before <= MEMORY_LIMIT


def test_any_range_of_a_large_file_is_returned(server):
    """At random positions, and at the end of the file."""
    if not server.storage.exists("large"):
        server.storage.upload(_Source(), "large")
    link = server.storage.link_to("large", "download", HOUR)
    generator = random.Random(11)
    wrong = []

    for number in range(RANGES):
        start = SIZE - 1000 if number == 0 else generator.randrange(SIZE - 1000)
        length = generator.randint(1, 1000)
        response = _request(server, "GET", link, headers={"Range": f"bytes={start}-{start + length - 1}"})
        if (response.status, response.read()) != (206, _at(start, length)):
            wrong.append((start, length))

    assert wrong == []


def _at(start, length):
    """Return the bytes of the large file at this position."""
    first = start // MIB
    block = b"".join(number.to_bytes(8, "big") + BLOCK[8:] for number in (first, first + 1))
    return block[start - first * MIB :][:length]


class _Source:
    """A file object with the content of the large file."""

    def __init__(self):
        self._blocks = _blocks(SIZE)

    def read(self, size):
        """Return the next MiB, whatever *size* is."""
        return next(self._blocks, b"")
