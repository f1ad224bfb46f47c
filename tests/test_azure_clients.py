"""Clients and connections: one client for each process, created when needed, with a bounded number of connections."""

import dataclasses
import http.server
import io
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import BlobSasPermissions, ContainerClient, LinearRetry, generate_blob_sas
from urllib3.connection import HTTPConnection

from flask_storage import (
    AzureReader,
    AzureStorage,
    AzureWriter,
    ConfigurationError,
    FileNotFoundInStorageError,
    InvalidPathError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    ThrottledError,
    UnsupportedOperationError,
    WriteOptions,
)
from flask_storage.backends.azure.account import Account
from flask_storage.backends.azure.client import Clients, ClientSettings
from flask_storage.testing.concurrency import run_concurrently
from tests.azure_storages import make_storage
from tests.counts import count
from tests.services.fault_proxy import FaultProxy
from tests.services.scripted_proxy import ScriptedProxy, azure_error

pytest_plugins = ["tests.services.azurite"]

MIB = 1 << 20
SECONDS = 60  # time-out of a test that waits for a thread
THREADS = 50
ROUNDS = count(2, 10)  # mixed operations of each thread
HOUR = timedelta(hours=1)
_OPTIONS = WriteOptions()
NOWHERE = Account(name="a", url="https://a.blob.core.windows.net", container="c", key="a2V5")


@pytest.fixture
def proxied(azurite):
    """A proxy that counts connections, and Azurite as seen through it."""
    address = urlsplit(azurite.url)
    with FaultProxy(address.hostname, address.port) as proxy:
        yield proxy, dataclasses.replace(azurite, http=f"http://{proxy.address}{address.path}")


@pytest.fixture
def scripted(azurite):
    """A proxy that records requests, and Azurite as seen through it."""
    address = urlsplit(azurite.url)
    with ScriptedProxy(address.hostname, address.port) as proxy:
        yield proxy, dataclasses.replace(azurite, http=f"{proxy.url}{address.path}")


# -- creating clients ------------------------------------------------------------------------------------------------


def test_concurrent_threads_create_one_client():
    """The first of many threads creates it."""
    clients = Clients(NOWHERE, ClientSettings())
    begun = Barrier(8)

    def ask(_):
        begun.wait(SECONDS)
        return clients.container()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))

    assert len({id(client) for client in found}) == 1
    assert clients.container() is found[0]
    clients.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # plugins have threads of their own
def test_a_forked_process_creates_its_own_client(azurite):
    """The client of the parent does not change."""
    storage = make_storage(azurite)
    storage.write("a", b"1")
    before = storage.client, storage._clients.blob("a")
    child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(storage, *before))

    child.start()
    child.join(SECONDS)

    assert child.exitcode == 0
    assert (storage.client, storage._clients.blob("a")) == before
    assert storage.read("a") == b"1"
    storage.close()


def _use_in_child(storage, before, blob_before):
    same = storage.client is before or storage._clients.blob("a") is blob_before
    storage.write("b", b"2")
    storage.close()
    os._exit(1 if same else 0)


def test_the_client_of_a_blob_is_created_once_for_consecutive_requests():
    """A client for another blob, with short time-outs, or after closing is another one."""
    clients = Clients(NOWHERE, ClientSettings())
    first = clients.blob("a")
    again = clients.blob("a")
    others = [clients.blob("b"), clients.blob("a", for_cleanup=True)]
    clients.close()
    others.append(clients.blob("a"))
    clients.close()

    assert again is first
    assert first not in others
    assert [client.blob_name for client in others] == ["b", "a", "a"]


def test_threads_get_the_client_of_the_blob_they_name():
    """Whatever other threads name at the same time."""
    clients = Clients(NOWHERE, ClientSettings())

    def work(number):
        return {clients.blob(f"{number}").blob_name for _ in range(200)}

    names = run_concurrently(work, 4)
    clients.close()

    assert list(names) == [{"0"}, {"1"}, {"2"}, {"3"}]


def test_the_client_attribute_is_an_sdk_client(azurite):
    """It has the credentials and options of the storage."""
    storage = make_storage(azurite, client_options={"api_version": "2021-12-02"})
    storage.write("a", b"1")

    client = storage.client

    assert isinstance(client, ContainerClient)
    assert client.container_name == storage.bucket
    assert client.api_version == "2021-12-02"
    assert client.get_blob_client("a").create_snapshot()["snapshot"]
    storage.delete("a")
    assert storage.list() == []
    storage.close()


# -- number of connections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [1, 4])
def test_fifty_threads_share_max_connections(proxied, allowed):
    """No further connection is opened, none is dropped, and no thread reads another's bytes."""
    proxy, server = proxied
    storage = make_storage(server, max_connections=allowed)
    before = proxy.counters.connections

    def work(number):
        for turn in range(ROUNDS):
            content = f"{number}-{turn}".encode() * 1000
            storage.write(f"{number}/a", content)
            assert storage.read(f"{number}/a") == content
            assert storage.size(f"{number}/a") == len(content)
            assert [entry.name for entry in storage.list(str(number))] == [f"{number}/a"]
            storage.delete(f"{number}/a")
            assert not storage.exists(f"{number}/a")

    run_concurrently(work, THREADS)

    assert proxy.counters.connections - before <= allowed
    storage.close()


def test_parallel_blocks_are_limited_by_max_connections(proxied):
    """Also when concurrency is greater."""
    proxy, server = proxied
    storage = make_storage(server, max_connections=2, concurrency=8, chunk_size=MIB)
    content = bytes(4 * MIB)
    before = proxy.counters.connections

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: storage.write(f"{number}", content), range(4)))
        read = list(pool.map(lambda number: storage.read(f"{number}"), range(4)))

    assert read == [content] * 4
    assert proxy.counters.connections - before <= 2
    storage.close()


def test_an_unfinished_listing_holds_no_connection(azurite):
    """Nor does an open reader or writer: other requests use the only connection."""
    storage = make_storage(azurite, max_connections=1, chunk_size=MIB)
    storage.write("a", bytes(4 * MIB))
    storage.write("b", b"1")

    entries = storage.iter()
    next(entries)
    with storage.open("a", "r") as reader, storage.open("c", "w") as writer:
        reader.read(1)
        writer.write(bytes(3 * MIB))
        other = storage.read("b")

    assert other == b"1"
    assert [entry.name for entry in entries] == ["b"]
    assert storage.size("c") == 3 * MIB
    storage.close()


def test_an_error_releases_its_connection(azurite):
    """With one connection, the next caller would otherwise block forever."""
    storage = make_storage(azurite, max_connections=1)
    storage.write("a", b"1")
    etag = storage.stat("a").etag

    for _ in range(3):
        for refused in (storage.read, storage.stat):
            with pytest.raises(FileNotFoundInStorageError):
                refused("nothing")
        with pytest.raises(StorageError):
            storage.write("a", b"2", exclusive=True)
        with pytest.raises(StorageError):
            storage.write("b", b"2", if_match=etag)

    assert storage.read("a") == b"1"
    storage.close()


def test_a_retried_error_releases_its_connection(scripted):
    """After every attempt, for content and for other requests."""
    proxy, server = scripted
    at_once = LinearRetry(backoff=0, random_jitter_range=0, retry_total=1)
    storage = make_storage(server, max_connections=1, retry_policy=at_once)
    storage.write("a", b"1")

    proxy.script = lambda request: azure_error(503, "ServerBusy") if request.number % 2 else None
    read = [(storage.read("a"), storage.size("a"), len(storage.list())) for _ in range(3)]
    proxy.script = lambda request: azure_error(503, "ServerBusy")
    with pytest.raises(ThrottledError):
        storage.read("a")
    proxy.script = lambda request: None

    assert read == [(b"1", 1, 1)] * 3
    assert storage.read("a") == b"1"
    storage.close()


def test_an_interrupted_download_releases_its_connection(proxied):
    """The rest is downloaded by another one."""
    proxy, server = proxied
    storage = make_storage(server, max_connections=1)
    content = os.urandom(2 * MIB)
    storage.write("a", content)
    storage.close()

    proxy.down.cut_after, proxy.down.cut_times = MIB, 2
    read = storage.read("a")

    assert read == content
    assert proxy.counters.cuts == 2
    storage.close()


# -- retries and time-outs --------------------------------------------------------------------------------------------


def test_max_attempts_includes_the_first_attempt(scripted):
    """A service that is always busy gets two requests."""
    proxy, server = scripted
    storage = make_storage(server, max_attempts=2)
    before = len(proxy.exchanges)
    proxy.script = lambda request: azure_error(503, "ServerBusy")

    with pytest.raises(ThrottledError):
        storage.list()

    assert len(proxy.exchanges) - before == 2
    storage.close()


def test_a_given_retry_policy_replaces_max_attempts(scripted):
    """Whatever *max_attempts* is."""
    proxy, server = scripted
    storage = make_storage(
        server, max_attempts=1, retry_policy=LinearRetry(backoff=0, random_jitter_range=0, retry_total=3)
    )
    before = len(proxy.exchanges)
    proxy.script = lambda request: azure_error(503, "ServerBusy")

    with pytest.raises(ThrottledError):
        storage.stat("a")

    assert len(proxy.exchanges) - before == 4
    storage.close()


def test_the_outcome_of_a_write_is_checked_with_two_attempts(scripted):
    """Whatever *max_attempts* is: the service itself may be failing."""
    proxy, server = scripted
    storage = make_storage(server, max_attempts=3)
    storage.write("a", b"1")
    proxy.exchanges.clear()
    proxy.script = lambda request: azure_error(503, "ServerBusy")

    with pytest.raises(ThrottledError):
        storage.write("b", b"2", exclusive=True)

    methods = [exchange.request.method for exchange in proxy.exchanges]
    assert methods == ["PUT"] * 3 + ["HEAD"] * 2
    storage.close()


def test_a_service_that_does_not_respond_is_a_timeout(proxied):
    """After read_timeout the connection is free for the next request."""
    proxy, server = proxied
    storage = make_storage(server, max_connections=1, read_timeout=2, max_attempts=1)
    storage.write("a", bytes(1000))

    storage.close()
    proxy.wait_until(lambda counters: counters.closed == counters.connections)
    proxy.down.cut_after, proxy.down.cut_by, proxy.down.cut_times = 1, "stall", 1
    with pytest.raises(StorageTimeoutError, match="read_timeout"):
        storage.read("a")

    assert storage.read("a") == bytes(1000)
    storage.close()


class _AcceptAnyPut(http.server.BaseHTTPRequestHandler):
    """Accepts any PUT request."""

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        for name, value in {"ETag": '"0x1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Print nothing."""


def test_a_large_body_is_sent_in_pieces(monkeypatch):
    """The time-out of a socket applies to one send call, so a slow connection would fail with one large call."""
    sizes = []
    send = HTTPConnection.send

    def record_size(self, data):
        sizes.append(len(data))
        send(self, data)

    monkeypatch.setattr(HTTPConnection, "send", record_size)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _AcceptAnyPut)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    storage = _storage_on_port(server.server_address[1])

    storage.write("a", bytes(3 * MIB + 1))

    storage.close()
    server.shutdown()
    thread.join()
    server.server_close()
    assert max(sizes) <= 256 * 1024
    assert sum(sizes) >= 3 * MIB + 1


def _storage_on_port(port):
    return AzureStorage("account", "a2V5", "container", endpoint_url=f"http://127.0.0.1:{port}/account")


# -- closing ----------------------------------------------------------------------------------------------------------


def test_a_closed_storage_can_be_used_again(proxied):
    """Closing ends the connections; the next operation opens new ones."""
    proxy, server = proxied
    storage = make_storage(server)
    storage.write("a", b"1")
    client = storage.client
    before = proxy.counters.closed

    storage.close()
    proxy.wait_until(lambda counters: counters.closed > before)
    storage.close()

    assert storage.read("a") == b"1"
    assert storage.client is not client
    storage.close()


def test_closing_a_storage_ends_its_threads(azurite):
    """A later transfer starts new ones."""
    storage = make_storage(azurite, chunk_size=MIB)
    before = set(threading.enumerate())
    storage.upload(io.BytesIO(bytes(3 * MIB)), "large.bin")
    threads = set(threading.enumerate()) - before

    storage.close()
    for thread in threads:
        thread.join(SECONDS)

    assert threads
    assert not any(thread.is_alive() for thread in threads)
    assert storage.size("large.bin") == 3 * MIB
    storage.close()


def test_an_open_file_can_be_used_after_its_storage_is_closed(azurite):
    """It opens new connections."""
    storage = make_storage(azurite, chunk_size=MIB)
    content = os.urandom(3 * MIB)
    storage.write("a", content)

    with storage.open("a", "r") as reader, storage.open("b", "w") as writer:
        writer.write(reader.read(MIB))
        storage.close()
        writer.write(reader.read())

    assert storage.read("b") == content
    storage.close()


def test_closing_while_other_threads_read_raises_no_parse_error(azurite):
    """The reads succeed or fail as unavailable."""
    storage = make_storage(azurite)
    storage.write("a", b"1")

    def work(number):
        malformed = set()
        for _ in range(count(20, 200)):
            if number == 0:
                storage.close()
                continue
            try:
                assert storage.read("a") == b"1"
            except StorageUnavailableError as error:
                malformed.add("malformed" in str(error))
        return malformed

    malformed = set().union(*run_concurrently(work, 8))

    assert True not in malformed
    assert storage.read("a") == b"1"
    storage.close()


def test_a_retry_succeeds_after_the_storage_is_closed(scripted):
    """The storage is closed between two attempts."""
    proxy, server = scripted
    storage = make_storage(server)
    storage.write("a", b"1")
    closed = threading.Event()

    def close_once(_):
        if closed.is_set():
            return None
        storage.close()
        closed.set()
        return azure_error(503, "ServerBusy")

    proxy.script = close_once

    assert storage.read("a") == b"1"
    assert closed.is_set()
    storage.close()


# -- links to a container or a blob -----------------------------------------------------------------------------------


def test_a_storage_with_a_container_sas_can_do_all_but_sign(azurite):
    """It has no key to sign links with."""
    with_key = make_storage(azurite)
    storage = make_storage(azurite, sas_container_url=with_key.create_container_url(HOUR))

    storage.write("a/ü+%.txt", b"hello", metadata={"a": "b"})
    storage.move("a/ü+%.txt", "b")
    upload_id = storage.multipart.create("c", _OPTIONS)
    storage.multipart.complete("c", upload_id, [storage.multipart.upload_part("c", upload_id, 1, b"part")], _OPTIONS)

    assert storage.bucket == with_key.bucket
    assert [entry.name for entry in storage.list()] == ["b", "c"]
    assert (storage.read("b"), storage.read("c"), storage.stat("b").metadata) == (b"hello", b"part", {"a": "b"})
    storage.delete_many(["b", "c"])
    assert with_key.list() == []
    for sign in (lambda: storage.link_to("b", "download", HOUR), lambda: storage.create_container_url(HOUR)):
        with pytest.raises(ConfigurationError, match="without account credentials"):
            sign()
    storage.close()
    with_key.close()


def _blob_link(server, container, name, **permissions):
    query = generate_blob_sas(
        server.account,
        container,
        name,
        account_key=server.key,
        permission=BlobSasPermissions(**permissions),
        expiry=datetime.now(UTC) + HOUR,
    )
    with server.service() as service:
        return f"{service.get_blob_client(container, name).url}?{query}"


@pytest.mark.parametrize("name", ["file.txt", "folder/ü +%25.txt"])
def test_a_storage_with_a_blob_sas_refuses_other_paths(azurite, name):
    """No request is sent for another path."""
    with_key = make_storage(azurite)
    link = _blob_link(azurite, with_key.bucket, name, read=True, write=True, create=True, delete=True)
    storage = make_storage(azurite, sas_blob_url=link, chunk_size=MIB)
    long = os.urandom(2 * MIB + 1)

    storage.write(name, b"hello", content_type="text/x-special")
    assert storage.read(name) == with_key.read(name) == b"hello"
    assert (storage.exists(name), storage.size(name), storage.stat(name).content_type) == (True, 5, "text/x-special")
    with storage.open(name, "w") as writer:
        writer.write(long)
    assert storage.read(name) == with_key.read(name) == long
    others = [
        lambda: storage.read("other"),
        lambda: storage.write("other", b"1"),
        lambda: storage.exists("other"),
        lambda: storage.delete("other"),
        lambda: storage.delete_many([name, "other"]),
        lambda: storage.copy(name, "other"),
        lambda: storage.move("other", name),
        lambda: storage.open("other", "r"),
    ]
    for other in others:
        with pytest.raises(InvalidPathError, match="Invalid path for the configured SAS blob URL"):
            other()
    storage.delete_many([name])
    assert with_key.list() == []
    storage.close()
    with_key.close()


def test_a_storage_with_a_blob_sas_cannot_list(azurite):
    """The error says what to configure instead; operations that need a listing raise it too."""
    with_key = make_storage(azurite)
    link = _blob_link(azurite, with_key.bucket, "file.txt", read=True, write=True, delete=True)
    storage = make_storage(azurite, sas_blob_url=link)
    with_key.write("file.txt", b"1")

    listings = [
        storage.list,
        lambda: storage.list(""),
        lambda: list(storage.iter()),
        lambda: storage.delete_prefix("folder"),
        lambda: storage.client,
    ]
    for listing in listings:
        with pytest.raises(
            ValueError, match="Cannot perform list operation when configured with SAS blob URL"
        ) as caught:
            listing()
        assert isinstance(caught.value, ConfigurationError)
        assert "sig=" not in str(caught.value)
    with pytest.raises(UnsupportedOperationError):
        storage.multipart.create("file.txt", _OPTIONS)
    assert storage.read("file.txt") == b"1"
    storage.close()
    with_key.close()


# -- file classes without a storage ----------------------------------------------------------------------------------


def test_the_file_classes_work_with_an_sdk_client_alone(azurite):
    """They read and write without a storage."""
    container = azurite.make_container()
    content = os.urandom(3 * MIB)
    with azurite.service() as service:
        client = service.get_blob_client(container, "a")
        with AzureWriter("w", client, MIB) as writer:
            writer.write(content)
        with AzureReader("r", client, MIB) as reader:
            read = reader.read()
        with pytest.raises(ValueError, match="opens files with mode"):
            AzureReader("w", client)
        with pytest.raises(ValueError, match="opens files with mode"):
            AzureWriter("r", client)

    assert read == content
    azurite.remove_container(container)
