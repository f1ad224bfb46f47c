"""Reading a whole object: one request without a range, and ranges in parallel where that is slow."""

import dataclasses
import gc
import io
import os
import threading

import pytest

from flask_storage import PermissionDeniedError, PreconditionFailedError, S3Reader, StorageUnavailableError
from flask_storage.backends.s3 import bounded_client, object_stream
from flask_storage.backends.s3.bounded_client import BoundedClient
from tests.s3_storages import make_storage
from tests.services.scripted_proxy import ScriptedProxy, ScriptedResponse, s3_error

pytest_plugins = ["tests.services.s3"]

MIB = 1024 * 1024
CONTENT = bytes(range(256)) * (4096 * 12) + b"end"  # 12 MiB: three ranges
SECONDS = 60  # time-out of waiting for threads
DATE = "Sat, 21 Nov 2026 10:00:00 GMT"


class Service:
    """A bucket, a storage that reaches it directly, and a scripted proxy before the server."""

    def __init__(self, server, proxy):
        self.proxy = proxy
        self.direct = make_storage(server)
        self.direct.write("a.bin", CONTENT)
        self._server = dataclasses.replace(server, http=proxy.url)

    def storage(self, **arguments):
        """Return a storage that reaches the bucket through the proxy; a download needs all connections."""
        return make_storage(self._server, bucket=self.direct.bucket, **{"max_connections": 1, **arguments})

    def ranges(self):
        """Return the ranges of the requests for content; None is a request without one."""
        requests = [exchange.request for exchange in self.proxy.exchanges]
        return [request.headers["Range"] for request in requests if request.method == "GET"]


@pytest.fixture
def service(s3):
    """A service with one file."""
    host, _, port = s3.http.removeprefix("http://").partition(":")
    with ScriptedProxy(host, int(port)) as proxy:
        yield Service(s3, proxy)


@pytest.fixture
def near(monkeypatch):
    """Every response begins soon enough, and every rate is fast enough."""
    monkeypatch.setattr(bounded_client, "MAX_LATENCY", SECONDS)
    monkeypatch.setattr(object_stream, "_MIN_RATE", 0)


@pytest.fixture
def far(monkeypatch):
    """No response begins soon enough."""
    monkeypatch.setattr(bounded_client, "MAX_LATENCY", 0)


class Target(io.BytesIO):
    """A target that calls a function at its first write."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def write(self, data):
        """Call the function, then store the data."""
        action, self.action = self.action, lambda: None
        action()
        return super().write(data)


def downloaded(storage, action=lambda: None):
    """Return the content of the file; call *action* after its beginning has arrived."""
    target = Target(action)
    storage.download("a.bin", target)
    return target.getvalue()


@pytest.mark.parametrize("how", ["read", "download"])
def test_a_whole_object_is_requested_at_once(service, near, how):
    """Without a range, which would cost the service time."""
    storage = service.storage()

    content = storage.read("a.bin") if how == "read" else downloaded(storage)

    assert content == CONTENT
    assert service.ranges() == [None]


def test_a_read_with_a_limit_requests_a_range(service, near):
    """Of a large file little is transferred."""
    with pytest.raises(Exception, match="larger than 10 bytes"):
        service.storage().read("a.bin", max_size=10)

    assert service.ranges() == ["bytes=0-65535"]


def test_far_away_the_rest_is_requested_in_parallel(service, far):
    """While the first bytes arrive. Only the first download requests more than it takes from that response."""
    storage = service.storage(max_connections=50)
    rest = [f"bytes={10 * MIB}-{12 * MIB + 2}", f"bytes={5 * MIB}-{10 * MIB - 1}"]

    contents = [downloaded(storage), downloaded(storage)]

    assert contents == [CONTENT] * 2
    assert sorted(service.ranges(), key=str) == sorted([None, f"bytes=0-{5 * MIB - 1}", *rest, *rest], key=str)


def test_an_empty_object_has_no_first_byte(service, far):
    """A request for its first bytes is refused."""
    storage = service.storage()
    storage.write("empty", b"")

    contents = [storage.read(path) for path in ("a.bin", "empty")]

    assert contents == [CONTENT, b""]


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (s3_error(403, "AccessDenied"), PermissionDeniedError),
        (
            ScriptedResponse(206, b"x", {"ETag": '"another"', "Last-Modified": DATE, "Content-Range": "bytes 0-0/1"}),
            PreconditionFailedError,
        ),
    ],
    ids=["denied", "another version"],
)
def test_an_error_of_a_range_ends_the_download(service, far, response, error):
    """Also if the service ignores the condition and sends another version."""
    storage = service.storage(max_connections=50)
    service.proxy.script = lambda request: response if "Range" in request.headers else None

    with pytest.raises(error):
        downloaded(storage)


@pytest.mark.parametrize("how", ["download", "open"])
def test_ranges_may_be_ignored_by_the_service(service, far, how):
    """It sends the whole object each time; the bytes before the range are dropped."""
    etag = service.direct.stat("a.bin").etag
    whole = ScriptedResponse(200, CONTENT, {"ETag": f'"{etag}"', "Last-Modified": DATE})
    service.proxy.script = lambda request: whole if request.method == "GET" else None
    storage = service.storage(max_connections=50)

    if how == "download":
        content = downloaded(storage)
    else:
        with storage.open("a.bin", "r") as reader:
            content = reader.read()

    assert content == CONTENT


def test_far_away_reading_ahead_begins_early(service, far):
    """After 1 MiB of sequential reads instead of a whole chunk."""
    storage = service.storage(max_connections=50)
    with storage.open("a.bin", "r") as reader:
        while reader.tell() <= 2 * MIB:
            reader.read(64 * 1024)
        end = reader.tell()
        storage._workers().shutdown()  # waits for the ranges that were requested
        requested = max(int(text.rpartition("-")[2]) for text in service.ranges())

    assert end + MIB <= requested <= 3 * end


def test_a_slow_stream_is_replaced_by_ranges(service, near, monkeypatch):
    """After 4 MiB its rate is known."""
    monkeypatch.setattr(object_stream, "_MIN_RATE", 1 << 60)

    content = downloaded(service.storage())

    assert content == CONTENT
    first, *ranges = service.ranges()
    assert first is None
    assert min(int(text.removeprefix("bytes=").partition("-")[0]) for text in ranges) >= 4 * MIB


def test_an_object_that_is_replaced_during_one_request_is_read_in_its_old_version(service, near):
    """The response belongs to one version. LocalStack mixes them, so the proxy responds."""
    etag = service.direct.stat("a.bin").etag
    response = ScriptedResponse(200, CONTENT, {"ETag": f'"{etag}"', "Last-Modified": DATE})
    service.proxy.script = lambda request: None if "Range" in request.headers else response

    content = downloaded(service.storage(), lambda: service.direct.write("a.bin", b"new"))

    assert content == CONTENT
    assert service.direct.read("a.bin") == b"new"


def test_a_broken_stream_is_continued_by_ranges(service, near):
    """Of the same version."""
    headers = {"ETag": f'"{service.direct.stat("a.bin").etag}"', "Last-Modified": DATE}
    broken = ScriptedResponse(
        200, CONTENT[: 3 * MIB], {**headers, "Content-Length": str(len(CONTENT))}, before_body=True
    )
    service.proxy.script = lambda request: None if "Range" in request.headers else broken

    assert downloaded(service.storage()) == CONTENT
    assert service.ranges()[0] is None
    assert all(service.ranges()[1:])


# -- connections ------------------------------------------------------------------------------------------------------


def test_a_download_yields_its_connection_to_another_call(service, near):
    """The target of a download may use the same storage, with its only connection."""
    storage = service.storage()

    content = downloaded(storage, lambda: storage.write("b.bin", b"1"))

    assert content == CONTENT
    assert storage.read("b.bin") == b"1"


def test_a_pause_is_refused_while_a_caller_waits():
    """The stream must be closed instead."""
    bounded = BoundedClient("client", 1)

    def acquire():
        with bounded.acquire():
            pass

    with bounded.acquire():
        caller = threading.Thread(target=acquire)
        caller.start()
        while not bounded._waiting:
            pass
        refused = bounded.pause(object_stream.ObjectStream.__new__(object_stream.ObjectStream))
    caller.join(SECONDS)

    assert refused is False
    assert not caller.is_alive()


def test_a_stream_is_closed_for_a_caller_that_waits(service, near, monkeypatch):
    """When its reader pauses: the rest is requested by ranges."""
    storage = service.storage()
    monkeypatch.setattr(storage._clients.bounded_client(), "pause", lambda stream: False)

    assert downloaded(storage) == CONTENT
    assert service.ranges()[0] is None
    assert all(service.ranges()[1:])


def test_an_error_releases_the_connection(service, near):
    """Of the target, or for an invalid response."""
    storage = service.storage()

    def fail():
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"):
        downloaded(storage, fail)
    service.proxy.script = lambda request: ScriptedResponse(200, b"abc", {"Last-Modified": DATE})
    with pytest.raises(StorageUnavailableError, match="no ETag"):
        storage.read("a.bin")
    service.proxy.script = lambda request: None

    assert storage.size("a.bin") == len(CONTENT)


def test_a_forgotten_reader_releases_the_connection(service, near):
    """When it is garbage collected."""
    storage = service.storage()
    reader = S3Reader(storage._gateway, "a.bin", whole=True)
    reader.read(10)

    del reader
    gc.collect()

    assert storage._clients.bounded_client()._slots.acquire(blocking=False)


def test_a_forked_process_does_not_read_from_the_connection_of_its_parent(service, near, monkeypatch):
    """Two processes that read from one connection would each miss bytes."""
    pid = os.getpid()

    content = downloaded(service.storage(), lambda: monkeypatch.setattr(os, "getpid", lambda: pid + 1))

    assert content == CONTENT
    assert service.ranges()[0] is None
    assert all(service.ranges()[1:])


@pytest.mark.parametrize("how", ["whole", "range"])
def test_a_response_that_always_breaks_off_before_its_content_is_an_error(service, how):
    """Its headers may be incomplete, so it is not used."""
    headers = {"ETag": '"1"', "Last-Modified": DATE, "Content-Length": "10", "Content-Range": "bytes 0-9/10"}
    service.proxy.script = lambda request: ScriptedResponse(200, b"", headers, before_body=True)
    storage = service.storage(max_attempts=2)

    with pytest.raises(StorageUnavailableError, match="the connection broke off 2 times"):
        storage.read("a.bin") if how == "whole" else storage.open("a.bin", "r")

    assert len(service.ranges()) == 2
