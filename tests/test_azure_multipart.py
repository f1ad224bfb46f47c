"""Multipart uploads on Azure: manifests beside the blobs, blocks under the blob's own name, and other writers."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import BlobBlock

from flask_storage import (
    ConfigurationError,
    FileNotFoundInStorageError,
    IntegrityError,
    PermissionDeniedError,
    PreconditionFailedError,
    WriteOptions,
)
from flask_storage.backends.azure.multipart import BlockUpload, block_name
from flask_storage.backends.multipart_manifest import is_upload_id
from flask_storage.multipart import Part
from tests.azure_storages import leftovers, make_storage
from tests.services.scripted_proxy import LostResponse, ScriptedProxy, azure_error

pytest_plugins = ["tests.services.azurite"]

PATH = "a folder/caf\u00e9.bin"
MISSING = "A" * 22


@pytest.fixture(scope="module")
def shared_storage(azurite):
    """A storage for the whole module."""
    storage = make_storage(azurite)
    yield storage
    storage.close()
    azurite.remove_container(storage.bucket)


@pytest.fixture
def storage(shared_storage, azurite):
    """An empty storage."""
    azurite.empty_container(shared_storage.bucket)
    return shared_storage


@pytest.fixture
def proxied(azurite):
    """A storage behind a proxy, and the proxy."""
    address = urlsplit(azurite.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        storage = make_storage(azurite, endpoint_url=proxy.url + address.path, max_attempts=1)
        yield storage, proxy
        storage.close()


def test_headers_and_metadata_of_create_are_stored(storage):
    """Headers given to complete() take precedence."""
    upload = storage.multipart.create(
        PATH, WriteOptions(content_type="text/x-a", cache_control="private", metadata={"color": "blue \u00e9"})
    )
    sent = [storage.multipart.upload_part(PATH, upload, number, content) for number, content in ((2, b"b"), (1, b"a"))]
    pending = list(storage.multipart.list_uploads("a folder"))

    storage.multipart.complete(
        PATH, upload, sorted(sent, key=lambda part: part.number), WriteOptions(content_type="text/x-b")
    )

    info = storage.stat(PATH)
    assert [(found.path, found.upload_id) for found in pending] == [(PATH, upload)]
    assert pending[0].started_at > datetime.now(UTC) - timedelta(minutes=5)
    assert storage.read(PATH) == b"ab"
    assert (info.content_type, info.cache_control, info.metadata) == ("text/x-b", "private", {"color": "blue \u00e9"})
    assert (list(storage.multipart.list_uploads()), leftovers(storage)) == ([], [])


def test_two_uploads_of_one_path_do_not_mix(storage):
    """Block names contain the upload id; completing one upload discards the blocks of the other."""
    first, second = (storage.multipart.create("a", WriteOptions()) for _ in range(2))
    one = storage.multipart.upload_part("a", first, 1, b"first")
    two = storage.multipart.upload_part("a", second, 1, b"second")

    listed = [[part.etag for part in storage.multipart.list_parts("a", upload)] for upload in (first, second)]
    storage.multipart.complete("a", second, [two], WriteOptions())

    assert listed == [[one.etag], [two.etag]]
    with pytest.raises(IntegrityError, match="part 1 is missing: upload it again"):
        storage.multipart.complete("a", first, [one], WriteOptions())
    assert storage.read("a") == b"second"


def test_a_part_that_is_sent_again_replaces_the_first(storage):
    """Completing with the first one fails."""
    upload = storage.multipart.create("a", WriteOptions())
    old = storage.multipart.upload_part("a", upload, 1, b"old")
    new = storage.multipart.upload_part("a", upload, 1, b"new!")

    assert [(part.number, part.size) for part in storage.multipart.list_parts("a", upload)] == [(1, 4)]
    with pytest.raises(IntegrityError, match="part 1 was replaced: list the parts again"):
        storage.multipart.complete("a", upload, [old], WriteOptions())
    storage.multipart.complete("a", upload, [new], WriteOptions())
    assert storage.read("a") == b"new!"


def test_a_wrong_size_publishes_nothing(storage):
    """The upload can remaining be completed."""
    upload = storage.multipart.create("a", WriteOptions())
    part = storage.multipart.upload_part("a", upload, 1, b"12345")

    with pytest.raises(IntegrityError, match="the parts have 5 bytes where 6 were expected; nothing was published"):
        storage.multipart.complete("a", upload, [part], WriteOptions(size=6))

    assert not storage.exists("a")
    storage.multipart.complete("a", upload, [part], WriteOptions(size=5))
    assert storage.read("a") == b"12345"


@pytest.mark.parametrize("upload_id", [MISSING, "", "../a", "A" * 21 + "\u00e4"])
def test_a_missing_upload_is_not_found(storage, upload_id):
    """By every operation but abort, which is idempotent."""
    for operation in (
        lambda: storage.multipart.upload_part("a", upload_id, 1, b"1"),
        lambda: storage.multipart.list_parts("a", upload_id),
        lambda: storage.multipart.complete("a", upload_id, [Part(number=1, size=1, etag="")], WriteOptions()),
    ):
        with pytest.raises(FileNotFoundInStorageError):
            operation()
    storage.multipart.abort("a", upload_id)


def test_an_upload_belongs_to_one_path(storage):
    """With another path it is not found; abort() with its path ends it."""
    upload = storage.multipart.create("a", WriteOptions())

    with pytest.raises(FileNotFoundInStorageError, match=r"b \(upload\)"):
        storage.multipart.upload_part("b", upload, 1, b"1")
    storage.multipart.abort("b", upload)
    remaining = [found.upload_id for found in storage.multipart.list_uploads()]
    storage.multipart.abort("a", upload)
    storage.multipart.abort("a", upload)

    assert remaining == [upload]
    assert list(storage.multipart.list_uploads()) == []


def test_listings_do_not_warn_about_an_unfinished_upload(storage, caplog):
    """Its manifest is a blob of this package, not one with an invalid name."""
    storage.write("a folder/b", b"")
    upload = storage.multipart.create(PATH, WriteOptions())

    names = [entry.name for entry in storage.list()]
    details = [info.path for info in storage.iter(details=True)]

    assert (names, details, caplog.text) == (["a folder/b"], ["a folder/b"], "")
    storage.multipart.abort(PATH, upload)


def test_a_blob_that_only_looks_like_a_manifest_is_ignored(storage, azurite):
    """It is neither listed nor swept."""
    with azurite.service() as service, service.get_container_client(storage.bucket) as client:
        client.upload_blob(f".fs-tmp-upload-{MISSING}", b"", metadata={"path": "\u00e4".encode().hex()})
        client.upload_blob(f".fs-tmp-upload-{'B' * 22}", b"")
        client.upload_blob(f".fs-tmp-upload-{'C' * 22}", b"", metadata={"path": "/w=="})

    assert list(storage.multipart.list_uploads()) == []
    assert storage.sweep(older_than=timedelta(seconds=-5)) == 0
    with pytest.raises(FileNotFoundInStorageError):
        storage.multipart.list_parts("a", "B" * 22)


def test_blocks_of_other_programs_are_ignored(storage, azurite):
    """Another program's blocks with names of the same length can coexist."""
    upload = storage.multipart.create("a", WriteOptions())
    with azurite.service() as service, service.get_blob_client(storage.bucket, "a") as blob:
        blob.stage_block(block_name(upload, 1).replace("0", "x"), b"another program")
        part = storage.multipart.upload_part("a", upload, 1, b"ours")

        assert storage.multipart.list_parts("a", upload) == [part]
        storage.multipart.complete("a", upload, [part], WriteOptions())
    assert storage.read("a") == b"ours"


def test_blocks_of_another_program_with_other_name_lengths_are_an_error(proxied):
    """The service refuses to mix them; the message says what to do."""
    storage, proxy = proxied
    upload = storage.multipart.create("a", WriteOptions())
    proxy.script = lambda request: azure_error(400, "InvalidBlobOrBlock") if "blockid" in request.query else None

    with pytest.raises(PreconditionFailedError, match="the blob has uncommitted blocks of another program"):
        storage.multipart.upload_part("a", upload, 1, b"ours")


def test_a_writer_fails_if_another_write_is_committed_first(azurite, storage):
    """Azure discards the blocks at any other write, Azurite at one in blocks."""
    in_blocks = make_storage(azurite, bucket=storage.bucket, chunk_size=1000)
    writer = in_blocks.open("a", "w")
    writer.write(bytes(5000))
    while not BlockUpload(in_blocks._gateway)._container.call("get_block_list", "a", "uncommitted")[1]:
        pass
    in_blocks.write("a", b"quick" * 1000)

    with pytest.raises(PreconditionFailedError, match="another write of this file ended during this one"):
        writer.close()

    assert storage.read("a") == b"quick" * 1000


def test_parts_that_are_lost_before_the_commit_are_an_error(proxied):
    """Another write may end between the check and the commit."""
    storage, proxy = proxied
    upload = storage.multipart.create("a", WriteOptions())
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    proxy.script = lambda request: (
        azure_error(400, "InvalidBlockList")
        if (request.method, request.query.get("comp")) == ("PUT", "blocklist")
        else None
    )

    with pytest.raises(IntegrityError, match="parts are missing: another write of this file ended during the upload"):
        storage.multipart.complete("a", upload, [part], WriteOptions())


@pytest.mark.parametrize("operation", ["complete", "list_parts", "abort", "delete manifest"])
def test_a_403_is_a_permission_error(proxied, operation):
    """Never a missing upload, nor a success."""
    storage, proxy = proxied
    upload = storage.multipart.create("a", WriteOptions())
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    refused = {"complete": ("PUT", "blocklist"), "list_parts": ("GET", "blocklist"), "abort": ("HEAD", None)}
    refused["delete manifest"] = ("DELETE", None)
    proxy.script = lambda request: (
        azure_error(403, "AuthorizationFailure")
        if (request.method, request.query.get("comp")) == refused[operation]
        else None
    )

    arguments = ("a", upload, [part], WriteOptions()) if operation == "complete" else ("a", upload)
    method = getattr(storage.multipart, operation.replace("delete manifest", "abort"))
    with pytest.raises(PermissionDeniedError):
        method(*arguments)


def test_aborting_an_upload_that_ended_concurrently_is_no_error(proxied):
    """Its manifest may be gone when it is deleted."""
    storage, proxy = proxied
    upload = storage.multipart.create("a", WriteOptions())
    proxy.script = lambda request: azure_error(404, "BlobNotFound") if request.method == "DELETE" else None

    storage.multipart.abort("a", upload)

    assert [found.upload_id for found in storage.multipart.list_uploads()] == [upload]


@pytest.mark.parametrize("size", [5, 3000])
def test_an_exclusive_write_succeeds_after_a_lost_response(azurite, size):
    """The retry is refused because the first attempt has stored the file."""
    address = urlsplit(azurite.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        storage = make_storage(azurite, endpoint_url=proxy.url + address.path, max_attempts=2, chunk_size=1000)
        lost: list[Any] = []

        def script(request):
            if request.method == "PUT" and request.query.get("comp") in (None, "blocklist") and not lost:
                lost.append(request)
                return LostResponse(after_server=True)
            return None

        proxy.script = script
        storage.write("a", bytes(size), exclusive=True)
        storage.close()

        assert storage.size("a") == size
        assert lost


def test_a_write_whose_outcome_cannot_be_checked_raises_the_first_error(proxied):
    """It is not taken for a success."""
    storage, proxy = proxied
    proxy.script = lambda request: (
        azure_error(403, "AuthorizationFailure") if request.method == "PUT" else LostResponse(after_server=False)
    )

    with pytest.raises(PermissionDeniedError):
        storage.write("a", b"1", exclusive=True)


def test_a_writers_upload_has_no_manifest(storage):
    """It is not listed, and has no blocks where there is no blob."""
    store = BlockUpload(storage._gateway)
    upload = store.create("a", WriteOptions())

    assert list(store.list_uploads()) == []
    assert store.list_parts("a", upload) == []
    store.abort("a", upload)
    store.abort("a", upload)
    assert leftovers(storage) == []


def test_listing_blocks_in_a_missing_container_is_a_configuration_error(azurite):
    """It is not taken for an empty list."""
    storage = make_storage(azurite, bucket="no-such-container", max_attempts=1)

    with pytest.raises(ConfigurationError), storage._error_translator("a"):
        BlockUpload(storage._gateway).list_parts("a", MISSING)


def test_all_block_names_have_one_length():
    """The service requires it for the blocks of one blob."""
    names = [block_name(MISSING, number, tag) for number, tag in ((1, "0" * 36), (50_000, "f" * 36))]

    assert {len(name) for name in names} == {63}
    assert len(base64.b64encode(names[0].encode())) <= 88
    assert BlobBlock(names[0]).id == names[0]
    assert [is_upload_id(text) for text in (MISSING, "", "A" * 23, f"{MISSING}\n", "../" + "A" * 19)] == [True] + [
        False
    ] * 4


def test_an_empty_part_is_refused(storage):
    """Azure has no empty blocks."""
    upload = storage.multipart.create("a", WriteOptions())

    with pytest.raises(ValueError, match="at least one byte"):
        storage.multipart.upload_part("a", upload, 1, b"")


def test_an_upload_whose_manifest_cannot_be_deleted_is_published(proxied, caplog):
    """With a warning, and completing it again is no error."""
    storage, proxy = proxied
    upload = storage.multipart.create("a", WriteOptions())
    part = storage.multipart.upload_part("a", upload, 1, b"1")
    proxy.script = lambda request: azure_error(503, "ServerBusy") if request.method == "DELETE" else None

    storage.multipart.complete("a", upload, [part], WriteOptions())

    assert storage.read("a") == b"1"
    assert "sweep() will delete it" in caplog.text
    proxy.script = lambda _: None
    storage.multipart.complete("a", upload, [part], WriteOptions())  # by a caller without a response
    assert storage.read("a") == b"1"
    assert not leftovers(storage)


@pytest.mark.parametrize("upload_id", [None, 5, b"A" * 22])
def test_an_upload_id_that_is_no_text_is_not_found(storage, upload_id):
    """As any missing upload."""
    with pytest.raises(FileNotFoundInStorageError):
        storage.multipart.list_parts("a", upload_id)


def test_an_error_while_checking_a_condition_is_raised(proxied):
    """A part is missing, and it is unknown whether the target exists."""
    storage, proxy = proxied
    upload = storage.multipart.create("a", WriteOptions())
    proxy.script = lambda request: (
        azure_error(403, "AuthorizationFailure") if request.method == "HEAD" and request.path.endswith("/a") else None
    )

    with pytest.raises(PermissionDeniedError):
        storage.multipart.complete("a", upload, [Part(number=1, size=1, etag="")], WriteOptions(exclusive=True))
