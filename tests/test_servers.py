"""Links on the servers that people run: whole bodies arrive, and cut ones leave nothing."""

import contextlib
import http.client
import random
import socket
import struct
import time
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from tests.services.web_servers import COMMANDS, running

HOUR = timedelta(hours=1)
LENGTH = 500_000
BODY = random.Random(5).randbytes(LENGTH)
OLD = b"what was there before"
OFFSETS = [0, 1, 1000, 8192, 65_535, 65_536, 100_000, 262_144, 400_000, LENGTH - 1]
PATIENCE = 20  # seconds until a server that still holds an unfinished file is called wrong


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, tmp_path_factory):
    """Each kind of server, running the same app."""
    with running(request.param, tmp_path_factory.mktemp("server")) as started:
        yield started


def _request(server, path, body, headers, method="PUT"):
    """The bytes of an upload, and the connection to send them on."""
    target = urlsplit(server.storage.link_to(path, "upload", HOUR))
    lines = [f"{method} {target.path}?{target.query} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *headers]
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    return connection, "\r\n".join([*lines, "", ""]).encode() + body


def _chunked(body):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:300_000], body[300_000:]) if part)


def _cut(connection, how):
    """End the connection as a client does that goes away; return what the server still said."""
    said = b""
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "half-close":
        with contextlib.suppress(OSError):  # the server may cut the line in its turn
            connection.shutdown(socket.SHUT_WR)
            while received := connection.recv(65_536):
                said += received
    connection.close()
    return said


def _settled(server):
    """Wait until no unfinished file is left, which every server must reach by itself."""
    deadline = time.monotonic() + PATIENCE
    while leftovers := [*server.root.rglob(".fs-tmp-*")]:
        assert time.monotonic() < deadline, f"left behind: {leftovers}"
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_that_is_cut_short_leaves_what_was_there(server, framing, how):
    """At ten places of the body, however the client goes away and however it announced the length."""
    said = {}

    for offset in OFFSETS:
        path = f"{framing}/{how}/{offset}"
        server.storage.write(path, OLD)
        if framing == "length":
            connection, sent = _request(server, path, BODY[:offset], [f"Content-Length: {LENGTH}"])
        else:
            connection, sent = _request(server, path, _chunked(BODY)[:offset], ["Transfer-Encoding: chunked"])
        with contextlib.suppress(OSError):  # refused before all of it was sent
            connection.sendall(sent)
        said[offset] = _cut(connection, how)

    _settled(server)
    assert [
        entry.name for entry in server.storage.list(f"{framing}/{how}") if server.storage.read(entry.name) != OLD
    ] == []
    assert not any(answer.startswith(b"HTTP/1.1 2") for answer in said.values())


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_whole_upload_is_stored(server, method):
    """Byte for byte."""
    path = f"whole/{method}"
    connection, sent = _request(server, path, BODY, [f"Content-Length: {LENGTH}", "Connection: close"], method)

    with connection:
        connection.sendall(sent)
        answer = connection.recv(65_536)

    assert answer.split(b" ", 2)[1] == b"200"
    assert server.storage.read(path) == BODY


def test_a_body_of_unknown_length_is_refused(server):
    """Some servers show a chunked body as empty, others as ended when it was cut: 411 for all of it."""
    server.storage.write("unknown-length", OLD)
    body = _chunked(BODY) + b"0\r\n\r\n"
    answer = b""
    connection, sent = _request(server, "unknown-length", body, ["Transfer-Encoding: chunked", "Connection: close"])

    with connection:
        with contextlib.suppress(OSError):  # refused before all of it was sent
            connection.sendall(sent)
        with contextlib.suppress(OSError):
            answer = connection.recv(65_536)

    stored = server.storage.read("unknown-length")
    if server.kind == "waitress":  # gathers the body itself, so that its length is known and it is whole
        assert (answer.split(b" ", 2)[1], stored) == (b"200", BODY)
    else:
        assert answer == b"" or answer.split(b" ", 2)[1] == b"411"
        assert stored == OLD


def test_a_download_is_whole_and_a_range_ends_where_it_should(server):
    """Whatever the server does with files it may send by itself."""
    server.storage.write("file", BODY)
    target = urlsplit(server.storage.link_to("file", "download", HOUR))
    results: list[tuple[int, object]] = []

    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for headers in ({}, {"Range": "bytes=1000-1999"}, {"Range": "bytes=-10"}, {"Range": "bytes=499990-"}):
        client.request("GET", f"{target.path}?{target.query}", headers=headers)
        response = client.getresponse()
        results.append((response.status, response.read()))
    client.request("HEAD", f"{target.path}?{target.query}")
    response = client.getresponse()
    results.append((response.status, (response.getheader("Content-Length"), response.read())))
    client.close()

    assert results == [
        (200, BODY),
        (206, BODY[1000:2000]),
        (206, BODY[-10:]),
        (206, BODY[499_990:]),
        (200, (str(LENGTH), b"")),
    ]


def test_a_storage_made_before_the_fork_works_in_every_worker(tmp_path):
    """Each of two workers takes an upload and gives it back: while one waits for its client, the other must answer."""
    halves, workers, downloads = BODY[: LENGTH // 2], {}, {}
    with running("gunicorn preload", tmp_path) as server:
        for turn in range(2):
            # A worker of this kind does one request at a time; this one is busy until its body is complete.
            ending = [f"Content-Length: {LENGTH}", "Connection: close"]
            busy, sent = _request(server, f"{turn}/slow", halves, ending)
            with busy:
                busy.sendall(sent)
                quick, whole = _request(server, f"{turn}/quick", BODY, ending)
                with quick:
                    quick.sendall(whole)
                    workers[turn, "quick"] = _worker(quick)
                target = urlsplit(server.storage.link_to(f"{turn}/quick", "download", HOUR))
                client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
                client.request("GET", f"{target.path}?{target.query}")
                with contextlib.closing(client), client.getresponse() as answer:
                    downloads[turn] = answer.getheader("Worker"), answer.read() == BODY
                busy.sendall(BODY[LENGTH // 2 :])
                workers[turn, "slow"] = _worker(busy)
        stored = {entry.name: server.storage.read(entry.name) == BODY for entry in server.storage.list()}
        parent = str(server.process.pid)

    assert stored == {"0/quick": True, "0/slow": True, "1/quick": True, "1/slow": True}
    for turn in range(2):
        assert len({workers[turn, "slow"], workers[turn, "quick"], parent}) == 3
        assert downloads[turn] == (workers[turn, "quick"], True)


def _worker(connection):
    """The process that answered, and stored what it was sent."""
    with connection.makefile("rb") as answer:
        assert answer.readline().split()[1] == b"200"
        headers = http.client.parse_headers(answer)
    return headers["Worker"]
