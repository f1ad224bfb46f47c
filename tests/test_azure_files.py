"""The seed's file classes on a plain client of Azure's, and the corners of a service that seldom show."""

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
from tests.services.scripted_proxy import Answer, ScriptedProxy, azure_error

pytest_plugins = ["tests.services.azurite"]

MIB = 1 << 20


@pytest.fixture(scope="module")
def container(azurite):
    """A container for the whole module."""
    return azurite.make_container()


@pytest.fixture
def client(azurite, container):
    """A client of a blob as anybody makes one."""
    with azurite.service() as service, service.get_blob_client(container, "a folder/b+é.bin") as made:
        yield made
        with azurite.service() as behind:
            for blob in behind.get_container_client(container).list_blobs():
                behind.get_blob_client(container, blob.name).delete_blob()


def _content(size):
    return bytes(range(251)) * (size // 251 + 1)


def test_the_seeds_classes_need_no_storage(client):
    """A blob's client is enough to write, to give up, and to read."""
    content = _content(3 * MIB)[: 3 * MIB]

    with AzureWriter("w", client, MIB) as writer:
        writer.write(content[:100])
        writer.write(content[100:])
    given_up = AzureWriter("w", client, MIB)
    given_up.write(b"never")
    given_up.abort()
    with AzureReader("r", client, MIB) as reader:
        found = reader.read()

    assert found == content
    assert client.download_blob().readall() == content
    assert writer.client is reader.client is client
    assert (writer.chunk_size, reader.chunk_size) == (MIB, MIB)


def test_the_seeds_base_class_keeps_what_it_is_given():
    """Whoever subclasses it finds mode, client and size where they were."""
    with BlobClient("http://127.0.0.1:1/acct", "files", "a") as client:
        file = AzureFile("r", client)
        small = AzureFile("r", client, chunk_size=7)

        assert (file.mode, file.client, file.chunk_size, small.chunk_size) == ("rb", client, 5_242_880, 7)
        assert file.buffer == b""


def test_what_is_written_waits_in_the_buffer(client):
    """Until it is enough for a block; what is only read waits nowhere."""
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


def test_a_block_has_a_hundred_mebibytes_at_most(client):
    """Whatever is asked for; the service takes no more of some accounts."""
    writer = AzureWriter("w", client, 500 * MIB)

    assert writer.chunk_size == 100 * MIB
    writer.abort()


def test_a_bare_writer_creates_what_was_written_to_it(client):
    """In one request, or in blocks that nobody sees before the end."""
    writer = AzureWriter("w", client, MIB)
    writer.write(bytes(2 * MIB + 1))
    early = client.exists()
    writer.close()

    assert early is False
    assert client.get_blob_properties().size == 2 * MIB + 1
    assert len(client.get_block_list("committed")[0]) == 3


@pytest.mark.parametrize(("kind", "mode"), [(AzureReader, "w"), (AzureReader, "rw"), (AzureWriter, "r")])
def test_a_class_is_for_one_mode(client, kind, mode):
    """And says which."""
    with pytest.raises(ValueError, match="this file is opened with"):
        kind(mode, client)


def test_a_bare_reader_of_nothing_says_what_the_sdk_says(client):
    """There is no storage that could call it otherwise."""
    with pytest.raises(sdk.ResourceNotFoundError):
        AzureReader("r", client)


@pytest.mark.parametrize("chunk_size", [64 * 1024, 1000 * 1000, 5 * MIB])
def test_any_piece_may_be_read(client, chunk_size):
    """From wherever, of whatever length, beyond the end nothing; with seek and tell as any file."""
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


def test_an_empty_blob_has_no_first_byte(client):
    """Which the service calls an error; it is read as nothing."""
    client.upload_blob(b"")

    with AzureReader("r", client) as reader:
        assert (reader.read(), reader.read(1)) == (b"", b"")


# -- what seldom shows ------------------------------------------------------------------------------------------------


@pytest.fixture
def through(azurite):
    """A storage through a proxy, and the proxy."""
    address = urlsplit(azurite.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        storage = make_storage(azurite, endpoint_url=proxy.url + address.path, max_attempts=1, chunk_size=MIB)
        yield storage, proxy
        storage.close()


def test_a_refusal_in_the_middle_of_a_read_is_a_refusal(through):
    """It is told as what it is, and not as another version."""
    storage, proxy = through
    storage.write("a.bin", bytes(3 * MIB))

    with storage.open("a.bin", "r") as reader:
        proxy.script = lambda request: azure_error(403, "AuthorizationFailure")

        with pytest.raises(PermissionDeniedError):
            reader.read()


@pytest.mark.parametrize("change", ["replaced", "deleted", "shorter"])
def test_a_blob_that_changes_while_it_is_read_is_not_mixed(azurite, change):
    """Half of one version and half of another is nobody's content."""
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
def test_bytes_that_were_changed_on_the_way_are_found_out(through, size):
    """By plain http the service sends a digest of each range; nothing that is wrong is handed on."""
    storage, proxy = through
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
        return Answer(206, bytes(count), headers)

    proxy.script = script

    with pytest.raises(IntegrityError, match="the bytes that arrived are not the ones that were stored"):
        storage.read("a.bin")


def test_bytes_that_were_changed_on_their_way_there_are_refused(azurite, monkeypatch):
    """By plain http each request says the digest of what it carries."""
    storage = make_storage(azurite, chunk_size=MIB)
    monkeypatch.setattr(storage._gateway, "md5_of", lambda data: bytearray(16))

    for content in (b"1", bytes(MIB + 1)):
        with pytest.raises(StorageError) as caught:
            storage.write("a.bin", content)
        # Azurite has a code of its own, where Azure says Md5Mismatch.
        assert "doesn't match" in str(caught.value.__cause__)
    assert storage.list() == []


def test_a_storage_by_https_checks_nothing_twice(azurite_https):
    """TLS has done it; ranges are larger then, and read as well."""
    storage = make_storage(azurite_https, chunk_size=6 * MIB)
    content = _content(7 * MIB)[: 7 * MIB]
    storage.write("a.bin", content)

    assert storage._gateway.md5_of(b"1") is None
    assert storage.read("a.bin") == content


def test_a_closed_storage_stops_its_threads(azurite):
    """Those that fetched ahead; a new verb has new ones."""
    storage = make_storage(azurite, chunk_size=MIB)
    storage.write("a.bin", bytes(4 * MIB))
    pool: Any = storage._workers()
    storage.close()

    assert pool._shutdown
    assert storage.size("a.bin") == 4 * MIB
