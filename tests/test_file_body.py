"""The body of a response from a remote storage: read ahead for fast clients only."""

import random

import pytest

from flask_storage.http import file_body
from flask_storage.range_reader import RangeReader
from tests.test_range_reader import MIB, ImmediateExecutor, RemoteContent, open_reader

CONTENT = random.Random(7).randbytes(40 * MIB)
FAST, SLOW, STALLED = 0.001, 0.05, 1.0  # seconds for which the server sends a chunk


class Download:
    """Takes a body as a server does, at a rate that a test sets, and looks at what was read ahead."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(file_body, "monotonic", lambda: self.now)
        self.remote = RemoteContent(CONTENT)
        self.reader = open_reader(self.remote, ImmediateExecutor(), chunk_size=5 * MIB, concurrency=8)
        self.body = file_body.file_body(self.reader, len(CONTENT))
        self.received = b""

    def take(self, size, seconds):
        """Take *size* bytes; return the largest number of bytes that were read ahead."""
        most = 0
        end = len(self.received) + size
        while len(self.received) < end:
            self.received += next(self.body)
            self.now += seconds
            most = max(most, self.held())
        return most

    def held(self):
        """Return how many bytes the reader holds beyond those that it has returned."""
        position = self.reader.tell()
        return sum(len(part.data or part.buffer.getbuffer()) - max(position - part.start, 0) for part in self.parts())

    def parts(self):
        """Return the ranges of the reader that it has not returned entirely."""
        return [part for part in self.reader._ranges if part.stop > self.reader.tell()]

    def rest(self):
        """Take the rest, and close the body."""
        self.received += b"".join(self.body)
        self.body.close()
        return self.received


@pytest.mark.parametrize("seconds", [SLOW, STALLED])
def test_at_most_two_mib_are_read_ahead_for_a_slow_client(monkeypatch, seconds):
    """However much it takes."""
    download = Download(monkeypatch)

    assert download.take(30 * MIB, seconds) <= 2 * MIB
    assert download.rest() == CONTENT


def test_more_is_read_ahead_once_a_client_has_taken_six_mib_fast(monkeypatch):
    """Sockets take several MiB at once even from a server whose client reads nothing."""
    download = Download(monkeypatch)

    first = download.take(6 * MIB, FAST)
    then = download.take(4 * MIB, FAST)

    assert first <= 2 * MIB
    assert then > 5 * MIB
    assert download.rest() == CONTENT
    assert max(stop - start for start, stop in download.remote.requested) == 5 * MIB


def test_what_was_read_ahead_is_released_when_a_fast_client_becomes_slow(monkeypatch):
    """And it becomes fast again by taking six MiB fast."""
    download = Download(monkeypatch)
    download.take(10 * MIB, FAST)

    download.take(1, STALLED)
    slow = download.take(4 * MIB, SLOW)
    trial = download.take(8 * MIB, SLOW / 10)
    again = download.take(6 * MIB, FAST)

    assert slow <= 2 * MIB
    assert trial <= 2 * MIB
    assert again > 5 * MIB
    assert download.rest() == CONTENT


def test_hardly_anything_beyond_a_range_is_read(monkeypatch):
    """At most the smallest fetch of the reader."""
    download = Download(monkeypatch)
    download.reader.seek(MIB)
    body = file_body.file_body(download.reader, 300_000)

    assert b"".join(body) == CONTENT[MIB : MIB + 300_000]
    assert download.remote.transferred <= 300_000 + RangeReader.min_fetch_size
