"""boto3 clients and their connections: one client for each process, created lazily, with a bounded pool."""

import dataclasses
import io
import json
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import boto3
import pytest

from flask_storage import ConfigurationError, S3Reader, S3Storage, StorageError
from flask_storage.backends.s3 import bounded_client, object_stream
from flask_storage.backends.s3.client import Clients, ClientSettings
from flask_storage.backends.s3.presets import PRESETS
from tests.counts import count
from tests.s3_storages import make_storage
from tests.services.fault_proxy import FaultProxy
from tests.services.scripted_proxy import ScriptedProxy, s3_error

pytest_plugins = ["tests.services.s3"]

MIB = 1 << 20
SECONDS = 60  # time-out of waiting for threads
THREADS = 50
ROUNDS = count(2, 20)  # mixed operations of each thread


@pytest.fixture
def proxied(rclone_s3):
    """A counting proxy before rclone, which keeps connections open; LocalStack closes them."""
    host, _, port = rclone_s3.http.removeprefix("http://").partition(":")
    with FaultProxy(host, int(port)) as proxy:
        yield proxy, dataclasses.replace(rclone_s3, http=f"http://{proxy.address}")


@pytest.fixture
def scripted(s3):
    """A scripted proxy before the server, and the server as seen through it."""
    host, _, port = s3.http.removeprefix("http://").partition(":")
    with ScriptedProxy(host, int(port)) as proxy:
        yield proxy, dataclasses.replace(s3, http=proxy.url)


# -- creation ---------------------------------------------------------------------------------------------------------


def test_a_client_is_created_once_by_concurrent_threads():
    """When it is first used."""
    clients = Clients(ClientSettings(region="us-east-1", access_key="AKID", secret_key="secret"))
    start = Barrier(8)

    def get(_):
        start.wait(SECONDS)
        return clients.bounded_client()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(get, range(8)))

    assert len({id(connection) for connection in found}) == 1
    assert clients.bounded_client() is found[0]
    assert clients.session() is clients.session()


def test_a_session_of_the_application_is_used():
    """The application refreshes its credentials."""
    session = boto3.session.Session("AKID", "secret", region_name="us-east-1")

    clients = Clients(ClientSettings(), session=session)

    assert clients.session() is session
    assert clients.bounded_client().client.meta.region_name == "us-east-1"


# -- number of connections --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_connections", [1, 4])
def test_fifty_threads_open_no_more_than_max_connections(proxied, max_connections):
    """No further connection is opened, none is discarded, and every thread reads its own content."""
    proxy, server = proxied
    storage = make_storage(server, max_connections=max_connections)
    before = proxy.counters.connections
    start = Barrier(THREADS)

    def work(number):
        start.wait(SECONDS)
        for turn in range(ROUNDS):
            content = f"{number}-{turn}".encode() * 1000
            storage.write(f"{number}/a", content)
            assert storage.read(f"{number}/a") == content
            assert storage.size(f"{number}/a") == len(content)
            assert [entry.name for entry in storage.list(str(number))] == [f"{number}/a"]
            storage.delete(f"{number}/a")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))

    assert proxy.counters.connections - before <= max_connections


def test_a_multipart_upload_opens_no_more_than_max_connections(proxied, monkeypatch):
    """Also if the concurrency is higher."""
    proxy, server = proxied
    storage = make_storage(server, max_connections=2, concurrency=8)
    content = bytes(12 * MIB)
    # A response that is slow, or the first one from far away, is dropped with its connection.
    monkeypatch.setattr(bounded_client, "MAX_LATENCY", SECONDS)
    monkeypatch.setattr(object_stream, "_MIN_RATE", 0)
    before = proxy.counters.connections

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: storage.write(f"{number}", content), range(4)))
        read = list(pool.map(lambda number: storage.read(f"{number}"), range(4)))

    assert read == [content] * 4
    assert proxy.counters.connections - before <= 2


def test_a_paused_listing_holds_no_connection(s3):
    """Nor does an open reader: other calls use the only connection."""
    storage = make_storage(s3, max_connections=1)
    storage.write("a", bytes(12 * MIB))
    storage.write("b", b"1")

    entries = storage.iter()
    next(entries)
    with storage.open("a", "r") as reader:
        reader.read(1)
        other = storage.read("b")

    assert other == b"1"
    assert [entry.name for entry in entries] == ["b"]


def test_a_client_of_the_application_opens_no_more_than_its_own_limit(proxied):
    """That of its max_pool_connections."""
    proxy, server = proxied
    client = server.client(max_pool_connections=2)
    storage = S3Storage(server.make_bucket(), client=client, preset="ceph")
    before = proxy.counters.connections

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.write(f"{number}", b"1"), range(64)))

    assert proxy.counters.connections - before <= 2
    assert len(storage.list()) == 64


# -- requests ---------------------------------------------------------------------------------------------------------


def test_parts_and_small_objects_are_sent_without_expect_100_continue(scripted):
    """The header costs a round trip; a larger single request sends it, as it may be rejected."""
    proxy, server = scripted
    storage = make_storage(server)

    storage.write("small", b"1")
    storage.write("medium", bytes(MIB))
    storage.write("large", bytes(5 * MIB + 1))

    expect = {
        exchange.request.path.rpartition("/")[2]: exchange.request.headers.get("Expect")
        for exchange in proxy.exchanges
        if exchange.request.method == "PUT" and exchange.request.path.count("/") > 1
    }
    assert expect == {"small": None, "medium": "100-continue", "large": None}


def test_an_abort_is_attempted_twice(scripted):
    """Whatever max_attempts is; the caller gets the error that caused the abort."""
    proxy, server = scripted
    storage = make_storage(server, max_attempts=4)
    proxy.script = lambda request: s3_error(503, "SlowDown") if request.method == "DELETE" else None

    with pytest.raises(ZeroDivisionError), storage.open("a", "w") as writer:
        _write_and_fail(writer)

    deletions = [exchange for exchange in proxy.exchanges if exchange.request.method == "DELETE"]
    assert len(deletions) == 2


def _write_and_fail(writer):
    writer.write(bytes(5 * MIB + 1))
    raise ZeroDivisionError


def test_the_cleanup_client_has_short_timeouts():
    """The service may be the cause of the failure."""
    clients = Clients(ClientSettings(region="us-east-1", access_key="AKID", secret_key="secret", read_timeout=100))

    config = clients.cleanup_client().client.meta.config

    assert (config.connect_timeout, config.read_timeout) == (2, 2)
    assert clients.cleanup_client() is not clients.bounded_client()


def test_a_request_is_attempted_max_attempts_times(scripted):
    """The first attempt included."""
    proxy, server = scripted
    storage = make_storage(server, max_attempts=2)
    before = len(proxy.exchanges)
    proxy.script = lambda request: s3_error(503, "SlowDown")

    with pytest.raises(StorageError):
        storage.list()

    assert len(proxy.exchanges) - before == 2


def test_bulk_delete_md5_sends_content_md5(scripted):
    """In place of the checksum that boto3 sends."""
    proxy, server = scripted
    storage = make_storage(server, preset=dataclasses.replace(PRESETS["ceph"], bulk_delete_md5=True))
    storage.write("a", b"1")

    storage.delete_many(["a", "b"])

    headers = proxy.exchanges[-1].request.headers
    assert headers["Content-MD5"]
    assert not [name for name in headers if "checksum" in name.lower()]
    assert not storage.exists("a")


# -- links ------------------------------------------------------------------------------------------------------------


def test_links_are_signed_by_the_credentials_of_the_storage(s3):
    """Unless link_credentials are set."""
    storage = make_storage(s3)

    link = storage.link_to("a.txt", "download", timedelta(hours=1))

    assert s3.access_key in link


# -- forking ----------------------------------------------------------------------------------------------------------

FORKED = """
    import hashlib, json, os, sys
    import boto3
    from botocore.config import Config
    from concurrent.futures import ThreadPoolExecutor
    from flask_storage import S3Storage

    server = json.loads(sys.argv[1])
    keys = dict(aws_access_key_id=server["access_key"], aws_secret_access_key=server["secret_key"])
    session = boto3.session.Session(**keys, region_name="us-east-1")
    config = Config(
        signature_version="s3v4", s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
    )
    arguments = {
        "keys": dict(keys, aws_region="us-east-1", endpoint_url=server["http"]),
        "session": dict(session=session, endpoint_url=server["http"]),
        "client": dict(client=session.client("s3", endpoint_url=server["http"], config=config)),
    }[sys.argv[2]]
    storage = S3Storage(server["bucket"], preset="ceph", **arguments)
    storage.write("before", bytes(6_000_000))  # with connections and threads of its own

    def work(who):
        for turn in range(3):
            content = f"{who}-{turn}".encode() * 10_000
            storage.write(f"{who}-{turn}", content)
            if storage.read(f"{who}-{turn}") != content:
                sys.exit(f"{who} read the content of another process")

    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            work(f"child-{number}")
            sys.exit(0)
        children.append(child)
    work("parent")
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    work("parent-afterwards")
    print(json.dumps([ended, len(storage.list())]))
"""


@pytest.mark.parametrize("client_source", ["keys", "session", "client"])
def test_a_storage_that_was_used_before_a_fork_works_in_the_children(s3, client_source):
    """Concurrently with the parent, and no process reads the content of another."""
    server = {"http": s3.http, "access_key": s3.access_key, "secret_key": s3.secret_key}
    server["bucket"] = s3.make_bucket()

    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKED), json.dumps(server), client_source],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == [[0, 0, 0], 1 + 5 * 3]


# -- closing ----------------------------------------------------------------------------------------------------------


def test_closing_ends_the_connections_and_later_calls_open_new_ones(proxied):
    """The storage can be used again."""
    proxy, server = proxied
    storage = make_storage(server)
    storage.write("a", b"1")
    client = storage.client
    before = proxy.counters.closed

    storage._clients.close()
    proxy.wait_until(lambda counters: counters.closed > before)
    storage._clients.close()

    assert storage.read("a") == b"1"
    assert storage.client is not client


def test_closing_does_not_close_a_client_of_the_application(s3):
    """The application may still use it."""
    client = s3.client()
    storage = S3Storage(s3.make_bucket(), client=client, preset="ceph")
    storage.write("a", b"1")

    storage._clients.close()

    assert client.get_object(Bucket=storage.bucket, Key="a")["Body"].read() == b"1"


def test_closing_a_storage_ends_its_threads(s3):
    """Later operations start new ones."""
    storage = make_storage(s3)
    before = set(threading.enumerate())
    storage.upload(io.BytesIO(bytes(11 * MIB)), "large.bin")
    threads = set(threading.enumerate()) - before

    storage.close()
    for thread in threads:
        thread.join(60)

    assert threads
    assert not any(thread.is_alive() for thread in threads)
    assert storage.size("large.bin") == 11 * MIB
    storage.close()


def test_a_reader_without_a_gateway_needs_a_client():
    """There is no connection to the bucket otherwise."""
    with pytest.raises(ConfigurationError, match="client"):
        S3Reader("bucket", "file.bin")
