"""Range requests: exactly the requested bytes are sent, and hardly more are read."""

import random
from datetime import timedelta

import pytest
from werkzeug.http import http_date

from flask_storage import LocalFSStorage
from flask_storage.http.file_body import CHUNK_BYTES
from tests.test_send_file import RecordingStorage, make_app

SIZE = 5 * CHUNK_BYTES + 12_345
CONTENT = random.Random(5).randbytes(SIZE)
SMALL = bytes(range(100))


@pytest.fixture
def storage():
    """A recording storage with a file of several chunks, a small one and an empty one."""
    storage = RecordingStorage()
    storage.write("file", CONTENT)
    storage.write("small", SMALL)
    storage.write("empty", b"")
    return storage


def request_range(storage, value, path="small", **headers):
    """Request a range of a file."""
    return make_app(storage).test_client().get(f"/{path}", headers={"Range": value, **headers})


def test_a_thousand_random_ranges_are_exact(storage):
    """No byte before the range is read, and at most a chunk after it."""
    client = make_app(storage).test_client()
    rng = random.Random(24)

    for _ in range(1000):
        start = rng.randrange(SIZE)
        end = min(SIZE - 1, start + int(rng.paretovariate(0.3)))
        storage.reads.clear()

        response = client.get("/file", headers={"Range": f"bytes={start}-{end}"})

        assert response.status_code == 206
        assert response.data == CONTENT[start : end + 1]
        assert response.headers["Content-Range"] == f"bytes {start}-{end}/{SIZE}"
        assert response.headers["Content-Length"] == str(end + 1 - start)
        assert sum(storage.reads) <= end + 1 - start + CHUNK_BYTES
        assert max(storage.reads) <= CHUNK_BYTES


def test_ranges_of_a_local_file_are_exact(tmp_path):
    """From any position to any position."""
    disk = LocalFSStorage(tmp_path)
    disk.write("file", CONTENT)
    client = make_app(disk).test_client()
    rng = random.Random(25)

    for _ in range(100):
        start, end = sorted(rng.sample(range(SIZE), 2))

        response = client.get("/file", headers={"Range": f"bytes={start}-{end}"})

        assert response.data == CONTENT[start : end + 1]


def test_a_range_of_a_very_large_file_reads_only_the_range(tmp_path):
    """A hundred bytes at 4.9 of 5 GiB (the file is sparse)."""
    disk = LocalFSStorage(tmp_path)
    disk.write("file", b"")
    start, size = 49 * 1024**3 // 10, 5 * 1024**3
    with open(tmp_path / "file", "r+b") as file:
        file.truncate(size)
        file.seek(start)
        file.write(SMALL)

    response = request_range(disk, f"bytes={start}-{start + 99}", "file")

    assert response.status_code == 206
    assert response.data == SMALL
    assert response.headers["Content-Range"] == f"bytes {start}-{start + 99}/{size}"


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("bytes=0-", 0, 99),
        ("bytes=0-99", 0, 99),
        ("bytes=0-1000", 0, 99),
        ("bytes=99-", 99, 99),
        ("bytes=10-10", 10, 10),
        ("bytes=-1", 99, 99),
        ("bytes=-100", 0, 99),
        ("bytes=-1000", 0, 99),
        ("BYTES=5-6", 5, 6),
        ("bytes = 5 - 6 ", 5, 6),
        ("bytes=0000000000000000000000005-6", 5, 6),
        (f"bytes=5-{'9' * 5000}", 5, 99),
        (f"bytes=-{'9' * 5000}", 0, 99),
    ],
)
def test_one_range_is_sent_as_partial_content(storage, value, first, last):
    """From a position, between two positions, or the last bytes."""
    response = request_range(storage, value)

    assert response.status_code == 206
    assert response.data == SMALL[first : last + 1]
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/100"


@pytest.mark.parametrize(
    "value",
    [
        "bytes=100-",
        "bytes=100-200",
        "bytes=5-4",
        "bytes=-0",
        "bytes=-",
        "bytes=",
        "bytes=abc",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=\xb2-",
        f"bytes={'9' * 5000}-",
    ],
)
def test_a_range_that_does_not_exist_is_refused_with_the_size(storage, value):
    """416 with the size of the file, which is closed unread."""
    response = request_range(storage, value)

    assert response.status_code == 416
    assert response.headers["Content-Range"] == "bytes */100"
    assert storage.reads == []
    assert storage.closed == storage.opened == 1


@pytest.mark.parametrize(
    "value",
    [
        "bytes=0-0,2-3",
        "bytes=0-0, -1",
        "bytes=" + ",".join(f"{n}-{n}" for n in range(1000)),
        "bytes=" + "," * 60_000,
        "items=0-5",
        "bytes",
        "",
        "=",
    ],
)
def test_several_ranges_or_another_unit_get_the_whole_file(storage, value):
    """A request for a thousand ranges costs no more than one download."""
    response = request_range(storage, value)

    assert response.status_code == 200
    assert response.data == SMALL
    assert "Content-Range" not in response.headers
    assert storage.reads == [100]


@pytest.mark.parametrize(
    ("value", "status"),
    [("bytes=-5", 200), ("bytes=0-", 200), ("bytes=0-1048575", 200), ("bytes=1-", 416), ("bytes=-0", 416)],
)
def test_a_range_at_the_beginning_of_an_empty_file_is_the_whole_file(storage, value, status):
    """As nginx answers, whose `slice` module asks for a range although the client did not."""
    response = request_range(storage, value, "empty")

    assert (response.status_code, response.headers.get("Content-Range")) == (
        (200, None) if status == 200 else (416, "bytes */0")
    )
    assert status == 416 or (response.data, response.headers["Content-Length"]) == (b"", "0")


@pytest.mark.parametrize(
    ("validator", "status"),
    [
        ("ETAG", 206),
        ("+0", 206),
        ("+1", 200),
        ("-1", 200),
        ('"another"', 200),
        ("W/ETAG", 200),
        ("", 200),
        ("nonsense", 200),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", 200),
    ],
)
def test_a_range_applies_only_to_the_version_in_if_range(storage, validator, status):
    """Only this strong ETag or this date matches; otherwise the whole file is sent."""
    info = storage.stat("small")
    if validator[:1] in {"+", "-"}:
        validator = http_date(info.last_modified.datetime + timedelta(seconds=int(validator)))
    headers = {"If-Range": validator.replace("ETAG", f'"{info.etag}"')}

    response = request_range(storage, "bytes=50-", **headers)

    assert response.status_code == status
    assert response.data == (SMALL[50:] if status == 206 else SMALL)


def test_a_range_of_a_cached_version_is_not_modified(storage):
    """Preconditions are evaluated before the range."""
    response = request_range(storage, "bytes=500-", **{"If-None-Match": f'"{storage.stat("small").etag}"'})

    assert response.status_code == 304
