"""Copies storage a container: content, headers and metadata are copied, atomically, at every size."""

import base64
import dataclasses
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from flask_storage import (
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageUnavailableError,
    WriteOptions,
)
from flask_storage.backends.azure import copy as copy_module, storage as storage_module
from flask_storage.backends.azure.copy import copy_blob
from tests.azure_storages import make_storage
from tests.copies import (
    ASCII_HEADERS,
    check_copy_keeps_content_and_headers,
    check_copy_of_a_missing_file,
    check_copy_replaces_the_target,
    check_move,
    stored_headers,
)
from tests.plain_client import send
from tests.services.scripted_proxy import ScriptedProxy, ScriptedResponse, azure_error

pytest_plugins = ["tests.services.azurite"]

MIB = 1 << 20
HOUR = timedelta(hours=1)


@pytest.fixture(params=["key", "container", "identity"])
def storage(request):
    """An empty storage with the account's key, a container SAS or an identity."""
    if request.param == "identity":
        server = request.getfixturevalue("azurite_https")
        made = make_storage(server, credential=request.getfixturevalue("fake_credential")())
    else:
        server = request.getfixturevalue("azurite")
        made = make_storage(server)
        if request.param == "container":
            made = make_storage(server, sas_container_url=made.create_container_url(HOUR))
    yield made
    made.close()
    server.remove_container(made.bucket)


@pytest.fixture
def by_key(azurite):
    """An empty storage."""
    made = make_storage(azurite)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


@pytest.fixture
def large():
    """Random content of four blocks, where a block of a copy is 1 MiB."""
    return random.Random(4).randbytes(3 * MIB + 1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Copy in blocks of 1 MiB, from 1 byte on."""
    monkeypatch.setattr(copy_module, "_PART", MIB)
    monkeypatch.setattr(storage_module, "copy_blob", partial(copy_blob, max_single_copy=1))


@pytest.fixture
def block_copying(azurite, by_key, small_blocks):
    """A proxy that copies blocks as Azure does, before a server that cannot, and the storage behind it."""
    address = urlsplit(azurite.url)
    with ScriptedProxy(address.hostname, address.port) as proxy:
        proxy.script = _block_copy_script(by_key, address)
        server = dataclasses.replace(azurite, http=f"{proxy.url}{address.path}")
        storage = make_storage(
            server,
            bucket=by_key.bucket,
            max_attempts=1,
            concurrency=2,
            max_connections=4,
            metadata={"team": "x"},
            cache_control="max-age=9",
        )
        yield proxy, storage
        storage.close()


def _is_block(request):
    return request.query.get("comp") == "block" and "x-ms-copy-source" in request.headers


def _block_copy_script(storage, address):
    """Return a script that does what Azurite cannot: copy a block from a signed URL."""

    def script(request):
        if not _is_block(request):
            return None
        source = urlsplit(request.headers["x-ms-copy-source"])._replace(netloc=address.netloc).geturl()
        headers = {"Range": request.headers["x-ms-source-range"], "If-Match": request.headers["x-ms-source-if-match"]}
        response = send(source, "GET", headers)
        if response.status != 206:
            code = "SourceConditionNotMet" if response.status == 412 else "CannotVerifyCopySource"
            return azure_error(response.status, code)
        name = base64.b64decode(request.query["blockid"]).decode()
        storage.client.get_blob_client(request.path.rpartition("/")[2]).stage_block(name, response.body)
        return ScriptedResponse(201)

    return script


# -- in one call ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_copy_has_content_headers_and_metadata(storage, content):
    """The service copies them; no content passes through the client."""
    check_copy_keeps_content_and_headers(storage, content, ASCII_HEADERS)


def test_a_copy_replaces_its_target(storage):
    """Content, headers and metadata."""
    check_copy_replaces_the_target(storage)


def test_a_missing_file_cannot_be_copied_or_moved(storage):
    """The target is unchanged."""
    check_copy_of_a_missing_file(storage)


def test_a_move_deletes_the_source(storage):
    """The file exists only under its new name."""
    check_move(storage, ASCII_HEADERS)


def test_a_copy_is_server_side(by_key, azurite):
    """One HEAD request and one PUT request."""
    address = urlsplit(azurite.url)
    by_key.write("a", b"hello")
    with ScriptedProxy(address.hostname, address.port) as proxy:
        server = dataclasses.replace(azurite, http=f"{proxy.url}{address.path}")
        storage = make_storage(server, bucket=by_key.bucket)
        storage.copy("a", "b")
        requests = [each.request for each in proxy.exchanges if "sig" not in each.request.query]
        storage.close()

    assert [request.method for request in requests] == ["HEAD", "PUT"]
    assert by_key.read("b") == b"hello"


def test_a_read_only_sas_cannot_copy(azurite, by_key):
    """The error is PermissionDeniedError, and there is no copy."""
    by_key.write("a", b"hello")
    with azurite.service() as service:
        url = f"{service.get_container_client(by_key.bucket).url}?{_read_only(azurite, by_key.bucket)}"
    storage = make_storage(azurite, sas_container_url=url)

    with pytest.raises(PermissionDeniedError):
        storage.copy("a", "b")

    assert storage.read("a") == b"hello"
    assert not by_key.exists("b")
    storage.close()


def _read_only(server, container):
    return generate_container_sas(
        server.account,
        container,
        account_key=server.key,
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + HOUR,
    )


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_an_exclusive_copy_of_an_existing_target_is_refused(storage, operation):
    """Both files are unchanged."""
    storage.write("a", b"new")
    storage.write("b", b"old")

    with pytest.raises(FileExistsInStorageError):
        getattr(storage, operation)("a", "b", exclusive=True)
    contents = storage.read("a"), storage.read("b")
    getattr(storage, operation)("a", "c", exclusive=True)

    assert contents == (b"new", b"old")
    assert storage.read("c") == b"new"
    assert storage.exists("a") is (operation == "copy")


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_if_match_of_a_copy_applies_to_the_target(storage, operation):
    """Another version is unchanged, and a missing target is not created."""
    storage.write("a", b"new")
    storage.write("b", b"old")
    etag = storage.stat("b").etag

    with pytest.raises(PreconditionFailedError):
        getattr(storage, operation)("a", "b", if_match="0x0")
    with pytest.raises(PreconditionFailedError):
        getattr(storage, operation)("a", "c", if_match=etag)
    untouched = storage.read("a"), storage.read("b"), storage.exists("c")
    getattr(storage, operation)("a", "b", if_match=etag)

    assert untouched == (b"new", b"old", False)
    assert storage.read("b") == b"new"


@pytest.mark.parametrize("in_blocks", [False, True], ids=["one call", "in blocks"])
def test_a_source_that_is_replaced_during_the_copy_is_an_error(monkeypatch, block_copying, by_key, large, in_blocks):
    """The copy is never a mixture, nor an unchecked version."""
    proxy, storage = block_copying
    by_key.write("a", large)
    block_copy = proxy.script
    if not in_blocks:
        monkeypatch.setattr(storage_module, "copy_blob", copy_blob)

    def script(request):
        if "x-ms-copy-source" in request.headers:
            by_key.write("a", bytes(len(large)))
        return block_copy(request)

    proxy.script = script
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b")

    assert not by_key.exists("b")
    assert "blocklist" not in [exchange.request.query.get("comp") for exchange in proxy.exchanges]


@pytest.mark.parametrize("how", ["one call", "in blocks", "streamed"])
def test_a_source_that_is_replaced_after_the_copy_is_not_deleted_by_a_move(
    monkeypatch, block_copying, by_key, large, how
):
    """Only the version that was copied is deleted; the new one stays."""
    proxy, storage = block_copying
    by_key.write("a", large)
    block_copy = proxy.script
    if how == "one call":
        monkeypatch.setattr(storage_module, "copy_blob", copy_blob)

    def script(request):
        if request.method == "DELETE":
            by_key.write("a", b"new")
        return block_copy(request) if how == "in blocks" else None

    proxy.script = script
    storage.move("a", "b")

    assert by_key.read("a") == b"new"
    assert by_key.read("b") == large


def test_a_source_that_is_deleted_after_the_copy_is_moved(block_copying, by_key):
    """It exists only under its new name."""
    proxy, storage = block_copying
    by_key.write("a", b"hello")
    proxy.script = lambda request: by_key.delete("a") if request.method == "DELETE" else None

    storage.move("a", "b")

    assert [entry.name for entry in by_key.list()] == ["b"]


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_an_error_about_the_target_names_the_target(by_key, operation):
    """A lease of another program on the target does not concern the source."""
    by_key.write("a", b"hello")
    by_key.write("b", b"old")
    lease = by_key.client.get_blob_client("b").acquire_lease()

    with pytest.raises(PermissionDeniedError, match=r"^b in the container .*LeaseId") as caught:
        getattr(by_key, operation)("a", "b")
    lease.release()

    assert caught.value.path == "b"
    assert (by_key.read("a"), by_key.read("b")) == (b"hello", b"old")


def test_an_error_about_the_source_names_the_source(block_copying, by_key):
    """It may be deleted before the service reads it."""
    proxy, storage = block_copying
    by_key.write("a", b"hello")

    for code in ("CannotVerifyCopySource", "BlobNotFound"):
        proxy.script = lambda request, code=code: azure_error(404, code) if request.method == "PUT" else None
        with pytest.raises(FileNotFoundInStorageError) as caught:
            storage.copy("a", "b")
        assert caught.value.path == "a"


def test_a_leased_source_is_copied_and_not_deleted(by_key):
    """The error of the deletion names the source."""
    by_key.write("a", b"hello")
    lease = by_key.client.get_blob_client("a").acquire_lease()

    with pytest.raises(PermissionDeniedError) as caught:
        by_key.move("a", "b")
    lease.release()

    assert caught.value.path == "a"
    assert by_key.read("a") == by_key.read("b") == b"hello"


# -- where the service cannot copy blocks -----------------------------------------------------------------------------


def test_a_copy_is_streamed_where_the_service_cannot_copy_blocks(storage, small_blocks, large):
    """An emulator reports that it cannot: content, headers and metadata are streamed."""
    storage.write("a", large, **ASCII_HEADERS)

    blob = storage._gateway.head("a")
    copied = copy_blob(
        storage._gateway, "a", "b", WriteOptions(), storage._workers, storage._sas_builder, blob, max_single_copy=MIB
    )
    storage.copy("a", "c")

    assert copied is False
    assert not storage.exists("b")
    assert storage.read("c") == large
    assert stored_headers(storage.stat("c")) == ASCII_HEADERS


def test_conditions_apply_to_a_streamed_copy(by_key, small_blocks, large):
    """As to a server-side copy."""
    by_key.write("a", large)
    by_key.write("b", b"old")
    etag = by_key.stat("b").etag

    with pytest.raises(FileExistsInStorageError):
        by_key.copy("a", "b", exclusive=True)
    with pytest.raises(PreconditionFailedError):
        by_key.copy("a", "b", if_match="0x0")
    untouched = by_key.read("b")
    by_key.move("a", "b", if_match=etag)

    assert untouched == b"old"
    assert by_key.read("b") == large
    assert not by_key.exists("a")


# -- in blocks --------------------------------------------------------------------------------------------------------


def test_a_copy_in_blocks_has_content_headers_and_metadata(block_copying, by_key, large):
    """It is server-side, and every block is copied once."""
    proxy, storage = block_copying
    by_key.write("a", large, **ASCII_HEADERS)
    proxy.exchanges.clear()

    storage.copy("a", "b")

    requests = [exchange.request for exchange in proxy.exchanges]
    ranges = [request.headers["x-ms-source-range"] for request in requests if _is_block(request)]
    assert not [request for request in requests if request.method == "GET"]
    assert sorted(ranges) == sorted(
        f"bytes={start}-{min(start + MIB, len(large)) - 1}" for start in range(0, len(large), MIB)
    )
    assert storage.read("b") == large
    assert stored_headers(storage.stat("b")) == ASCII_HEADERS


def test_a_copy_in_blocks_gets_no_defaults_of_the_profile(block_copying, by_key):
    """It has only the headers and metadata of the source."""
    _, storage = block_copying
    by_key.client.upload_blob("a.txt", bytes(MIB + 1))

    storage.copy("a.txt", "b.html")

    assert stored_headers(storage.stat("b.html")) == stored_headers(storage.stat("a.txt"))
    assert storage.stat("b.html").metadata == {}
    assert storage.read("b.html") == bytes(MIB + 1)


def test_conditions_apply_to_a_copy_in_blocks(block_copying, large):
    """They are checked when the blocks are committed."""
    _, storage = block_copying
    storage.write("a", large)
    storage.write("b", b"old")
    etag = storage.stat("b").etag

    with pytest.raises(FileExistsInStorageError):
        storage.copy("a", "b", exclusive=True)
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b", if_match="0x0")
    untouched = storage.read("b")
    storage.copy("a", "c", exclusive=True)
    storage.move("a", "b", if_match=etag)

    assert untouched == b"old"
    assert storage.read("c") == storage.read("b") == large
    assert not storage.exists("a")


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_failed_block_ends_the_copy(block_copying, large, number):
    """Nothing is committed, no block copy is running, and the target is unchanged."""
    proxy, storage = block_copying
    storage.write("a", large)
    storage.write("b", b"old")
    block_copy = proxy.script

    def script(request):
        if _is_block(request) and base64.b64decode(request.query["blockid"]).startswith(f"{number:05}".encode()):
            return azure_error(500, "InternalError")
        return block_copy(request)

    proxy.script = script
    with pytest.raises(StorageUnavailableError):
        storage.move("a", "b")
    after = len(proxy.exchanges)

    assert storage.read("b") == b"old"
    assert storage.read("a") == large
    assert not [exchange for exchange in proxy.exchanges if exchange.request.query.get("comp") == "blocklist"]
    assert not [exchange for exchange in proxy.exchanges[after:] if _is_block(exchange.request)]
    proxy.script = block_copy
    storage.copy("a", "b")
    assert storage.read("b") == large


def test_a_copy_whose_commit_fails_leaves_the_target_unchanged(block_copying, large):
    """And raises an error."""
    proxy, storage = block_copying
    storage.write("a", large)
    storage.write("b", b"old")
    block_copy = proxy.script
    proxy.script = lambda request: (
        azure_error(500, "InternalError") if request.query.get("comp") == "blocklist" else block_copy(request)
    )

    with pytest.raises(StorageUnavailableError):
        storage.copy("a", "b")

    assert storage.read("b") == b"old"


def test_a_copy_in_blocks_fails_if_the_target_is_written_during_the_copy(block_copying, azurite, large):
    """The content of the other writer remains."""
    proxy, storage = block_copying
    other = make_storage(azurite, bucket=storage.bucket, chunk_size=1000)
    storage.write("a", large)
    storage.write("b", b"old")
    block_copy = proxy.script

    def script(request):
        if request.query.get("comp") == "blocklist":
            other.write("b", b"other" * 1000)
        return block_copy(request)

    proxy.script = script
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b")

    assert storage.read("b") == b"other" * 1000
    other.close()


def test_a_copy_in_blocks_uses_the_encryption_scope_of_the_profile(azurite, by_key, small_blocks, large):
    """For every block and for the commit."""
    address = urlsplit(azurite.url)
    by_key.write("a", large)
    with ScriptedProxy(address.hostname, address.port) as proxy:
        server = dataclasses.replace(azurite, http=f"{proxy.url}{address.path}")
        storage = make_storage(server, bucket=by_key.bucket, encryption_scope="ours")
        proxy.script = lambda request: ScriptedResponse(201, headers=_WRITTEN) if request.method == "PUT" else None
        storage.copy("a", "b")
        storage.close()

    scopes = [each.request.headers["x-ms-encryption-scope"] for each in proxy.exchanges if each.request.method == "PUT"]
    assert scopes == ["ours"] * 5


_WRITTEN = {"ETag": '"0x1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "x-ms-request-server-encrypted": "true"}


# -- the URL of the source ---------------------------------------------------------------------------------------------


def _disclosed_source(storage, path):
    """Return the source URL that Azure discloses to readers of a copy."""
    return send(storage.link_to(path, "d", HOUR), "GET").headers.get("x-ms-copy-source", "")


def test_a_copy_discloses_a_url_that_is_valid_for_minutes(by_key):
    """It is shown to every reader of the copy, and allows reading this one source."""
    by_key.write("a", b"hello")

    by_key.copy("a", "b")

    parameters = parse_qs(urlsplit(_disclosed_source(by_key, "b")).query)
    assert (parameters["sp"], parameters["sr"]) == (["r"], ["b"])
    assert datetime.fromisoformat(parameters["se"][0]) - datetime.now(UTC) <= timedelta(minutes=20, seconds=1)


@pytest.mark.parametrize("copies", [True, False], ids=["in blocks", "streamed"])
def test_a_configured_sas_is_never_disclosed(block_copying, by_key, azurite, copies):
    """It may allow much for long, so blocks are copied, which discloses no URL."""
    proxy, storage = block_copying
    other = make_storage(azurite)
    other.write("a.txt", b"hello", metadata={"color": "red"})
    with_sas = make_storage(azurite, sas_container_url=other.create_container_url(HOUR))
    target = storage if copies else by_key

    target.copy_from(with_sas, "a.txt", "b")
    with_sas.copy("a.txt", "c.txt")

    assert target.read("b") == with_sas.read("c.txt") == b"hello"
    assert target.stat("b").metadata["color"] == "red"
    assert _disclosed_source(by_key, "b") == _disclosed_source(other, "c.txt") == ""
    assert any(_is_block(exchange.request) for exchange in proxy.exchanges) == copies
    azurite.remove_container(other.bucket)


def test_an_empty_file_is_copied_with_a_configured_sas(azurite):
    """There is no block to copy."""
    other = make_storage(azurite)
    other.write("a.txt", b"", metadata={"color": "red"})
    with_sas = make_storage(azurite, sas_container_url=other.create_container_url(HOUR))

    with_sas.copy("a.txt", "b.txt")

    assert (with_sas.read("b.txt"), with_sas.stat("b.txt").metadata) == (b"", {"color": "red"})
    azurite.remove_container(other.bucket)


def test_a_source_with_a_too_long_url_is_streamed(by_key):
    """The service accepts 2 KB, which percent-encoded names soon exceed."""
    path = "/".join(["ж" * 120] * 4)
    by_key.write(path, b"hello", metadata={"color": "red"})
    by_key.copy(path, "b")

    assert (by_key.read("b"), by_key.stat("b").metadata) == (b"hello", {"color": "red"})
    assert _disclosed_source(by_key, "b") == ""


def test_a_copy_has_a_longer_read_timeout(block_copying, large, monkeypatch):
    """The service responds only when everything is copied."""
    _, storage = block_copying
    storage.write("a", large)
    timeouts = {}
    call = storage._gateway.call

    def record_timeout(operation, *arguments, **keywords):
        timeouts[operation] = keywords.get("read_timeout")
        return call(operation, *arguments, **keywords)

    monkeypatch.setattr(storage._gateway, "call", record_timeout)
    storage.copy("a", "b")
    blob = storage._gateway.head("a")
    copy_blob(storage._gateway, "a", "c", WriteOptions(), storage._workers, storage._sas_builder, blob)

    assert timeouts["stage_block_from_url"] == timeouts["start_copy_from_url"] == 300
