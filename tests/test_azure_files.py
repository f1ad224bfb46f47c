"""The file classes with a client of the SDK, and rare responses of the service."""

import io
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core import exceptions as sdk
from azure.storage.blob import BlobClient

from flask_storage import (
    AzureFile,
    AzureReader,
    AzureWriter,
    IntegrityError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
)
from tests.azure_storages import make_storage
from tests.services.scripted_proxy import ScriptedProxy, ScriptedResponse, azure_error

pytest_plugins = ["tests.services.azurite"]

MIB = 1 << 20


@pytest.fixture(scope="module")
def container(azurite):
    """A container for the whole module."""
    return azurite.make_container()


@pytest.fixture
def client(azurite, container):
    """A client of a blob, created with the SDK alone."""
    with azurite.service() as service, service.get_blob_client(container, "a folder/b+é.bin") as client:
        yield client
        with azurite.service() as service_client:
            for blob in service_client.get_container_client(container).list_blobs():
                service_client.get_blob_client(container, blob.name).delete_blob()


def _content(size):
    return bytes(range(251)) * (size // 251 + 1)


def test_the_file_classes_need_no_storage(client):
    """A client of a blob is enough to write, abort and read."""
    content = _content(3 * MIB)[: 3 * MIB]

    with AzureWriter("w", client, MIB) as writer:
        writer.write(content[:100])
        writer.write(content[100:])
    aborted = AzureWriter("w", client, MIB)
    aborted.write(b"never")
    aborted.abort()
    with AzureReader("r", client, MIB) as reader:
        found = reader.read()

    assert found == content
    assert client.download_blob().readall() == content
    assert writer.client is reader.client is client
    assert (writer.chunk_size, reader.chunk_size) == (MIB, MIB)


def test_the_base_class_has_mode_client_and_chunk_size():
    """Subclasses of keg-storage's class find them there."""
    with BlobClient("http://127.0.0.1:1/acct", "files", "a") as client:
        file = AzureFile("r", client)
        small = AzureFile("r", client, chunk_size=7)

        assert (file.mode, file.client, file.chunk_size, small.chunk_size) == ("rb", client, 5_242_880, 7)
        assert file.buffer == b""


def test_the_buffer_holds_what_is_not_sent_yet(client):
    """Until it fills a block; the buffer of a reader is empty."""
    writer = AzureWriter("w", client, MIB)
    writer.write(b"some")
    before = writer.buffer
    writer.write(b" bytes")
    later = writer.buffer
    writer.close()

    with AzureReader("r", client) as reader:
        assert reader.read(4) == b"some"
        assert reader.buffer == b""
    assert (before, later) == (b"some", b"some bytes")


def test_chunk_size_is_limited_to_100_mib(client):
    """Some accounts accept no larger blocks."""
    writer = AzureWriter("w", client, 500 * MIB)

    assert writer.chunk_size == 100 * MIB
    writer.abort()


def test_a_writer_without_a_storage_stores_the_blob_when_closed(client):
    """Its blocks are not visible before."""
    writer = AzureWriter("w", client, MIB)
    writer.write(bytes(2 * MIB + 1))
    early = client.exists()
    writer.close()

    assert early is False
    assert client.get_blob_properties().size == 2 * MIB + 1
    assert len(client.get_block_list("committed")[0]) == 3


@pytest.mark.parametrize(("file_class", "mode"), [(AzureReader, "w"), (AzureReader, "rw"), (AzureWriter, "r")])
def test_a_file_class_refuses_another_mode(client, file_class, mode):
    """The message names both modes."""
    with pytest.raises(ValueError, match="this class opens files with mode"):
        file_class(mode, client)


def test_a_reader_without_a_storage_raises_the_sdks_error(client):
    """Only a storage translates errors."""
    with pytest.raises(sdk.ResourceNotFoundError):
        AzureReader("r", client)


@pytest.mark.parametrize("chunk_size", [64 * 1024, 1000 * 1000, 5 * MIB])
def test_a_reader_seeks_and_reads_like_a_file(client, chunk_size):
    """At any position and with any length; nothing after the end."""
    content = _content(2 * MIB)[: 2 * MIB]
    client.upload_blob(content)
    expected, found = io.BytesIO(content), []

    with AzureReader("r", client, chunk_size) as reader:
        for position, whence, size in [
            (0, 0, 10),
            (MIB - 5, 0, 10),
            (-7, 2, 100),
            (0, 0, 1),
            (100, 1, 70_000),
            (MIB, 0, 0),
            (3 * MIB, 0, 5),
            (-MIB, 2, -1),
        ]:
            for file in (reader, expected):
                file.seek(position, whence)
            found.append((reader.read(size), reader.tell()) == (expected.read(size), expected.tell()))

    assert found == [True] * 8


def test_an_empty_blob_is_read_as_empty(client):
    """The service responds with an error to a range of it."""
    client.upload_blob(b"")

    with AzureReader("r", client) as reader:
        assert (reader.read(), reader.read(1)) == (b"", b"")


# -- rare responses ---------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(azurite):
    """A storage behind a proxy, and the proxy."""
    address = urlsplit(azurite.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        storage = make_storage(azurite, endpoint_url=proxy.url + address.path, max_attempts=1, chunk_size=MIB)
        yield storage, proxy
        storage.close()


def test_a_403_in_the_middle_of_a_read_is_a_permission_error(proxied):
    """It is not reported as another version."""
    storage, proxy = proxied
    storage.write("a.bin", bytes(3 * MIB))

    with storage.open("a.bin", "r") as reader:
        proxy.script = lambda request: azure_error(403, "AuthorizationFailure")

        with pytest.raises(PermissionDeniedError):
            reader.read()


@pytest.mark.parametrize("change", ["replaced", "deleted", "shorter"])
def test_a_blob_that_changes_while_it_is_read_is_an_error(azurite, change):
    """The content read is never a mixture of two versions."""
    storage = make_storage(azurite, chunk_size=MIB)
    storage.write("a.bin", bytes(3 * MIB))

    with storage.open("a.bin", "r") as reader:
        reader.read(10)
        if change == "deleted":
            storage.delete("a.bin")
        else:
            storage.write("a.bin", b"x" * (3 * MIB if change == "replaced" else 5))

        with pytest.raises(PreconditionFailedError, match=r"a\.bin was replaced or deleted while it was being read"):
            reader.read()


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_bytes_that_were_corrupted_in_a_download_are_detected(proxied, size):
    """Over plain HTTP the service sends an MD5 of each range."""
    storage, proxy = proxied
    storage.write("a.bin", bytes(size))
    tag = storage.stat("a.bin").etag

    def script(request):
        if request.method != "GET":
            return None
        start, stop = (int(text) for text in request.headers["x-ms-range"].removeprefix("bytes=").split("-"))
        count = min(stop + 1, size) - start
        headers = {
            "Content-Range": f"bytes {start}-{start + count - 1}/{size}",
            "Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA==",
            "ETag": f'"{tag}"',
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            "x-ms-blob-type": "BlockBlob",
        }
        return ScriptedResponse(206, bytes(count), headers)

    proxy.script = script

    with pytest.raises(IntegrityError, match="the downloaded content does not match the stored checksum"):
        storage.read("a.bin")


def test_bytes_that_were_corrupted_in_an_upload_are_refused(azurite, monkeypatch):
    """Over plain HTTP each request has the MD5 of its content."""
    storage = make_storage(azurite, chunk_size=MIB)
    monkeypatch.setattr(storage._gateway, "md5_of", lambda data: bytearray(16))

    for content in (b"1", bytes(MIB + 1)):
        with pytest.raises(StorageError) as caught:
            storage.write("a.bin", content)
        # Azurite has another code than Azure's Md5Mismatch.
        assert "doesn't match" in str(caught.value.__cause__)
    assert storage.list() == []


def test_a_storage_over_https_sends_no_md5(azurite_https):
    """TLS protects the content, and ranges may be larger."""
    storage = make_storage(azurite_https, chunk_size=6 * MIB)
    content = _content(7 * MIB)[: 7 * MIB]
    storage.write("a.bin", content)

    assert storage._gateway.md5_of(b"1") is None
    assert storage.read("a.bin") == content


def test_closing_a_storage_stops_its_executor(azurite):
    """A later operation starts a new one."""
    storage = make_storage(azurite, chunk_size=MIB)
    storage.write("a.bin", bytes(4 * MIB))
    pool: Any = storage._workers()
    storage.close()

    assert pool._shutdown
    assert storage.size("a.bin") == 4 * MIB
