"""Large files go through a real server in little memory."""

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
ROOM = 64 * MIB
BLOCK = random.Random(7).randbytes(MIB)
RANGES = count(100, 1000)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One worker, so that its memory is everybody's."""
    with running("gunicorn gthread", tmp_path_factory.mktemp("streaming")) as started:
        yield started


def _ask(server, method, url, body=None, headers=None):
    """Ask on a connection of its own: the server ends one that is idle while a test looks at gigabytes."""
    target = urlsplit(url)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    client.request(method, f"{target.path}?{target.query}", body, {"Connection": "close", **(headers or {})})
    return client.getresponse()


def _blocks(size):
    """A body of *size* bytes in which every MiB is another."""
    for number in range(size // MIB):
        yield number.to_bytes(8, "big") + BLOCK[8:]


def _digest_of(size):
    digest = hashlib.sha256()
    for block in _blocks(size):
        digest.update(block)
    return digest.hexdigest()


def _memory(process):
    """What the process and its children have held at most, in bytes."""
    pids = [process.pid, *map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())]
    peaks = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line]
    return sum(int(line.split()[1]) * 1024 for line in peaks)


def test_an_upload_and_a_download_hold_little_of_the_file(server):
    """The worker's memory grows by at most 64 MiB, and every byte is the one that was sent."""
    before = _memory(server.process)

    sent = _ask(
        server,
        "PUT",
        server.storage.link_to("large", "upload", HOUR, max_size=SIZE),
        _blocks(SIZE),
        {"Content-Length": str(SIZE)},
    )
    status = sent.status, sent.read()
    digest = hashlib.sha256()
    answer = _ask(server, "GET", server.storage.link_to("large", "download", HOUR))
    while chunk := answer.read(MIB):
        digest.update(chunk)

    assert status == (200, b"OK")
    assert server.storage.size("large") == SIZE
    assert digest.hexdigest() == _digest_of(SIZE)
    assert _memory(server.process) - before <= ROOM


def test_any_range_of_a_large_file_is_those_bytes(server):
    """Wherever it lies, and the last bytes of all."""
    if not server.storage.exists("large"):
        server.storage.upload(_Source(), "large")
    link = server.storage.link_to("large", "download", HOUR)
    chance = random.Random(11)
    wrong = []

    for number in range(RANGES):
        start = SIZE - 1000 if number == 0 else chance.randrange(SIZE - 1000)
        length = chance.randint(1, 1000)
        answer = _ask(server, "GET", link, headers={"Range": f"bytes={start}-{start + length - 1}"})
        if (answer.status, answer.read()) != (206, _at(start, length)):
            wrong.append((start, length))

    assert wrong == []


def _at(start, length):
    """The bytes of the large file at this place."""
    first = start // MIB
    block = b"".join(number.to_bytes(8, "big") + BLOCK[8:] for number in (first, first + 1))
    return block[start - first * MIB :][:length]


class _Source:
    """The large file, to read from."""

    def __init__(self):
        self._blocks = _blocks(SIZE)

    def read(self, size):
        """The next MiB, whatever the size asked for."""
        return next(self._blocks, b"")
