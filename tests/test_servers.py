"""Signed links on common WSGI servers: complete bodies are stored, truncated ones are discarded."""

import contextlib
import http.client
import random
import socket
import struct
import time
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from urllib3.filepost import encode_multipart_formdata

from tests.services.web_servers import COMMANDS, running

HOUR = timedelta(hours=1)
LENGTH = 500_000
BODY = random.Random(5).randbytes(LENGTH)
OLD = b"what was there before"
OFFSETS = [0, 1, 1000, 8192, 65_535, 65_536, 100_000, 262_144, 400_000, LENGTH - 1]
TIMEOUT = 20  # seconds in which a server must remove an unfinished file


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, tmp_path_factory):
    """Each kind of server, running the same app."""
    with running(request.param, tmp_path_factory.mktemp("server")) as started:
        yield started


def _request(server, path, body, headers, method="PUT", link=None):
    """Return a connection, and the bytes of an upload request to send on it."""
    target = urlsplit(link or server.storage.link_to(path, "upload", HOUR))
    lines = [f"{method} {target.path}?{target.query} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *headers]
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
    return connection, "\r\n".join([*lines, "", ""]).encode() + body


def _chunked(body):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:300_000], body[300_000:]) if part)


def _disconnect(connection, closing):
    """Close the connection in the given way, and return what the server sent."""
    received = b""
    if closing == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif closing == "half-close":
        with contextlib.suppress(OSError):  # the server may close the connection too
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65_536):
                received += chunk
    connection.close()
    return received


def _wait_until_clean(server):
    """Wait until the server has removed all unfinished files."""
    deadline = time.monotonic() + TIMEOUT
    while leftovers := [*server.root.rglob(".fs-tmp-*")]:
        assert time.monotonic() < deadline, f"left behind: {leftovers}"
        time.sleep(0.05)


@pytest.mark.parametrize("closing", ["close", "half-close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_truncated_upload_does_not_replace_the_file(server, framing, closing):
    """At ten positions of the body, with each framing and each way to close the connection."""
    received = {}

    for offset in OFFSETS:
        path = f"{framing}/{closing}/{offset}"
        server.storage.write(path, OLD)
        if framing == "length":
            connection, sent = _request(server, path, BODY[:offset], [f"Content-Length: {LENGTH}"])
        else:
            connection, sent = _request(server, path, _chunked(BODY)[:offset], ["Transfer-Encoding: chunked"])
        with contextlib.suppress(OSError):  # the server refused it before the whole body was sent
            connection.sendall(sent)
        received[offset] = _disconnect(connection, closing)

    _wait_until_clean(server)
    assert [
        entry.name for entry in server.storage.list(f"{framing}/{closing}") if server.storage.read(entry.name) != OLD
    ] == []
    assert not any(response.startswith(b"HTTP/1.1 2") for response in received.values())


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_complete_upload_is_stored(server, method):
    """Byte for byte."""
    path = f"whole/{method}"
    connection, sent = _request(server, path, BODY, [f"Content-Length: {LENGTH}", "Connection: close"], method)

    with connection:
        connection.sendall(sent)
        response = connection.recv(65_536)

    assert response.split(b" ", 2)[1] == b"200"
    assert server.storage.read(path) == BODY


def test_a_form_is_stored_when_it_is_complete(server):
    """Byte for byte, and 204; one that breaks off, or whose file is too large (413), stores nothing."""
    form = server.storage.create_upload_form("form.bin", HOUR, max_size=LENGTH)
    server.storage.write("form.bin", OLD)
    responses, stored = [], []

    for content, ending in ((BODY + b"x", None), (BODY * 10, None), (BODY, -1000), (BODY, None)):
        body, content_type = encode_multipart_formdata([*form.fields.items(), ("file", ("a", content))])
        headers = [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close"]
        connection, sent = _request(server, "", body[:ending], headers, "POST", form.url)
        with connection:
            with contextlib.suppress(OSError):  # the server refused it before the whole body was sent
                connection.sendall(sent)
            if ending is None:
                responses.append(connection.recv(65_536).split(b" ", 2)[1])
        stored.append(server.storage.read("form.bin"))

    assert responses == [b"413", b"413", b"204"]
    assert stored == [OLD, OLD, OLD, BODY]
    _wait_until_clean(server)


def test_a_body_of_unknown_length_is_refused(server):
    """Some servers pass a chunked body on as empty, or a truncated one as complete: 411."""
    server.storage.write("unknown-length", OLD)
    body = _chunked(BODY) + b"0\r\n\r\n"
    response = b""
    connection, sent = _request(server, "unknown-length", body, ["Transfer-Encoding: chunked", "Connection: close"])

    with connection:
        with contextlib.suppress(OSError):  # the server refused it before the whole body was sent
            connection.sendall(sent)
        with contextlib.suppress(OSError):
            response = connection.recv(65_536)

    stored = server.storage.read("unknown-length")
    if server.kind == "waitress":  # buffers the body, so that its length is known
        assert (response.split(b" ", 2)[1], stored) == (b"200", BODY)
    else:
        assert response == b"" or response.split(b" ", 2)[1] == b"411"
        assert stored == OLD


def test_downloads_and_ranges_are_complete(server):
    """With each server's wsgi.file_wrapper."""
    server.storage.write("file", BODY)
    target = urlsplit(server.storage.link_to("file", "download", HOUR))
    results: list[tuple[int, object]] = []

    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
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


def test_a_storage_created_before_the_fork_works_in_every_worker(tmp_path):
    """While one of two workers waits for its client, the other serves an upload and a download."""
    halves, workers, downloads = BODY[: LENGTH // 2], {}, {}
    with running("gunicorn preload", tmp_path) as server:
        for round_number in range(2):
            # A sync worker handles one request at a time; this one is busy until its body is complete.
            headers = [f"Content-Length: {LENGTH}", "Connection: close"]
            busy, sent = _request(server, f"{round_number}/slow", halves, headers)
            with busy:
                busy.sendall(sent)
                quick, whole = _request(server, f"{round_number}/quick", BODY, headers)
                with quick:
                    quick.sendall(whole)
                    workers[round_number, "quick"] = _worker(quick)
                target = urlsplit(server.storage.link_to(f"{round_number}/quick", "download", HOUR))
                client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
                client.request("GET", f"{target.path}?{target.query}")
                with contextlib.closing(client), client.getresponse() as response:
                    downloads[round_number] = response.getheader("Worker"), response.read() == BODY
                busy.sendall(BODY[LENGTH // 2 :])
                workers[round_number, "slow"] = _worker(busy)
        stored = {entry.name: server.storage.read(entry.name) == BODY for entry in server.storage.list()}
        parent = str(server.process.pid)

    assert stored == {"0/quick": True, "0/slow": True, "1/quick": True, "1/slow": True}
    for round_number in range(2):
        assert len({workers[round_number, "slow"], workers[round_number, "quick"], parent}) == 3
        assert downloads[round_number] == (workers[round_number, "quick"], True)


def _worker(connection):
    """Return the id of the process that stored the upload."""
    with connection.makefile("rb") as response:
        assert response.readline().split()[1] == b"200"
        headers = http.client.parse_headers(response)
    return headers["Worker"]
