"""Blob headers and metadata, unusual names, long listings and batch deletion."""

import contextlib
import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import ContentSettings

from flask_storage import (
    IntegrityError,
    InvalidPathError,
    PartialFailureError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageUnavailableError,
    WriteOptions,
)
from tests.azure_storages import make_storage
from tests.counts import count
from tests.services.scripted_proxy import ScriptedProxy

pytest_plugins = ["tests.services.azurite"]

BLOCK = 1 << 18
MANY = count(600, 6_000)
"""More than two batch requests can delete."""


@pytest.fixture(scope="module")
def shared_storage(azurite):
    """A storage for the whole module."""
    storage = make_storage(azurite, chunk_size=BLOCK)
    yield storage
    storage.close()
    azurite.remove_container(storage.bucket)


@pytest.fixture
def storage(shared_storage, azurite):
    """An empty storage."""
    azurite.empty_container(shared_storage.bucket)
    return shared_storage


@pytest.fixture
def sdk_client(storage, azurite):
    """The SDK's client of the container, to act as another program."""
    with azurite.service() as service, service.get_container_client(storage.bucket) as client:
        yield client


@pytest.fixture
def counting_proxy(azurite):
    """A proxy that records requests, and a function that creates storages behind it."""
    address = urlsplit(azurite.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy, contextlib.ExitStack() as stack:

        def make(**arguments):
            proxied = dataclasses.replace(azurite, http=proxy.url + address.path)
            storage = make_storage(proxied, **arguments)
            stack.callback(storage.close)
            return storage

        yield proxy, make


# -- headers and metadata ---------------------------------------------------------------------------------------------

VALUES = [
    "plain",
    "two words",
    " spaces at the ends ",
    "caf\u00e9 \u4e2d \U0001f600",
    "=?UTF-8?B?eA==?=",
    "a: b; c=d",
    "",
]


@pytest.mark.parametrize("size", [1, BLOCK + 1])
def test_headers_and_metadata_are_stored_unchanged(storage, size):
    """Of a small file and of one in blocks; stat, a reader, a listing and a copy have them."""
    headers: dict[str, Any] = {
        "content_type": "text/x-special; charset=utf-8",
        "content_encoding": "gzip",
        "cache_control": "max-age=3600, private",
        "content_disposition": "attachment; filename=\"a.txt\"; filename*=UTF-8''%C3%A9.txt",
    }
    metadata = {f"key_{number}": value for number, value in enumerate(VALUES) if value}
    storage.write("a", bytes(size), **headers, metadata=metadata)
    storage.copy("a", "b")

    with storage.open("a", "r") as reader:
        found = [storage.stat("a"), reader.info, *storage.iter(details=True)]

    assert [info.path for info in found] == ["a", "a", "a", "b"]
    for info in found:
        assert {name: getattr(info, name) for name in headers} == headers
        assert (info.metadata, info.size, info.etag_is_strong) == (metadata, size, True)


def test_a_header_that_is_not_ascii_is_refused(storage):
    """The service would not keep it; the error says what to write instead."""
    with pytest.raises(ValueError, match=r"content_disposition must be ASCII on this backend; .* filename\*=UTF-8"):
        storage.write("a", b"1", content_disposition='attachment; filename="\u00e9.txt"')

    assert storage.list() == []


def test_stat_has_the_md5_of_a_small_file(storage, sdk_client):
    """In hexadecimal; the service has none of a file in blocks."""
    storage.write("small", b"hello")
    storage.write("large", bytes(BLOCK + 1))

    assert storage.stat("small").checksums == {"md5": hashlib.md5(b"hello").hexdigest()}
    assert storage.stat("large").checksums == {}
    digest = bytearray(hashlib.md5(b"another program").digest())
    sdk_client.upload_blob("other", b"another program", content_settings=ContentSettings(content_md5=digest))
    assert storage.stat("other").checksums == {"md5": bytes(digest).hex()}


@pytest.mark.parametrize(
    ("path", "given", "profile", "stored"),
    [
        ("a.png", None, None, "image/png"),
        ("a.png", "text/plain", "text/x-profile", "text/plain"),
        ("a", None, "text/x-profile", "text/x-profile"),
        ("a", None, None, None),
    ],
)
def test_the_content_type_is_the_given_the_guessed_or_the_profiles(azurite, storage, path, given, profile, stored):
    """In this order; without any of them there is none."""
    with contextlib.closing(make_storage(azurite, bucket=storage.bucket, content_type=profile)) as own:
        own.write(path, b"1", content_type=given)

        assert own.stat(path).content_type == stored


def test_metadata_and_caching_of_the_profile_apply_to_every_file(azurite, storage):
    """The file's own values take precedence."""
    arguments: dict[str, Any] = {"metadata": {"app": "mine", "type": "any"}, "cache_control": "max-age=9"}
    with contextlib.closing(make_storage(azurite, bucket=storage.bucket, guess_content_type=False, **arguments)) as own:
        own.write("a.png", b"1", metadata={"type": "this"})
        own.write("b.png", b"1", cache_control="private")

        first, second = own.stat("a.png"), own.stat("b.png")

    assert (first.metadata, first.cache_control) == ({"app": "mine", "type": "this"}, "max-age=9")
    assert (second.metadata, second.cache_control) == ({"app": "mine", "type": "any"}, "private")
    assert first.content_type is None


def test_the_write_id_is_not_part_of_the_metadata(storage, sdk_client):
    """It is stored with a file that was written with a condition."""
    storage.write("a", b"1", exclusive=True, metadata={"color": "blue"})

    assert storage.stat("a").metadata == {"color": "blue"}
    assert set(sdk_client.get_blob_client("a").get_blob_properties().metadata) == {"color", "_fs_write"}


def test_the_encryption_scope_is_sent_with_every_write(counting_proxy):
    """Azurite has no scopes, so only the header is checked."""
    proxy, make = counting_proxy
    storage = make(encryption_scope="mine", chunk_size=BLOCK, max_attempts=1)
    proxy.exchanges.clear()  # the container was created through it

    for size in (1, BLOCK + 1):
        with contextlib.suppress(Exception):
            storage.write("a", bytes(size))

    puts = [exchange.request for exchange in proxy.exchanges if exchange.request.method == "PUT"]
    assert puts
    assert [r.target for r in puts if r.headers["x-ms-encryption-scope"] != "mine"] == []


# -- blobs of other programs ------------------------------------------------------------------------------------------


def test_blobs_of_other_programs_can_be_read(storage, sdk_client):
    """Append blobs, other metadata keys (in lower case), and text that only looks encoded."""
    log = sdk_client.get_blob_client("log")
    log.create_append_blob(metadata={"Path": "/a", "_hidden": "x", "odd": "=?UTF-8?B?broken"})
    log.append_block(b"line")
    sdk_client.upload_blob("bare", b"1")

    assert storage.read("log") == b"line"
    assert storage.stat("log").metadata == {"path": "/a", "_hidden": "x", "odd": "=?UTF-8?B?broken"}
    assert [(info.path, info.size) for info in storage.iter(details=True)] == [("bare", 1), ("log", 4)]


INVALID_NAMES = ["folder/", "folder//double", "/leading", "a/../b", ".fs-tmp-x", "folder/.fs-tmp-x"]


@pytest.fixture
def storage_with_invalid_names(storage, sdk_client):
    """A container in which another program has stored blobs with names that we refuse."""
    for name in INVALID_NAMES:
        with contextlib.suppress(Exception):  # the service itself changes some names
            sdk_client.upload_blob(name, b"")
    storage.write("folder/good", b"1")
    storage.write("good", b"1")
    return storage


@pytest.mark.parametrize("details", [False, True])
def test_a_listing_omits_names_that_no_operation_accepts(storage_with_invalid_names, details):
    """A name that ends in a slash is a tool's marker of an empty directory."""
    found = list(storage_with_invalid_names.iter(details=details))

    assert [getattr(entry, "path", None) or entry.name for entry in found] == ["folder/good", "good"]
    assert sorted(entry.name for entry in storage_with_invalid_names.list(recursive=False)) == ["folder/", "good"]
    assert [info.path for info in storage_with_invalid_names.iter(recursive=False, details=True)] == ["good"]
    assert [entry.name for entry in storage_with_invalid_names.list("folder")] == ["folder/good"]


def test_deleting_a_directory_keeps_other_files(storage_with_invalid_names, sdk_client):
    """All blobs below it are deleted, also markers of directories, which are not counted as files."""
    sdk_client.upload_blob("folder/empty/", b"")
    below = sum(not name.endswith("/") for name in sdk_client.list_blob_names(name_starts_with="folder/"))

    count = storage_with_invalid_names.delete_prefix("folder")

    assert count == below > 1
    assert list(sdk_client.list_blob_names(name_starts_with="folder")) == []
    assert [entry.name for entry in storage_with_invalid_names.list()] == ["good"]


def test_a_directory_that_has_a_file_that_cannot_be_deleted_is_an_error(storage, sdk_client):
    """A lease of another program protects it."""
    storage.write("folder/file", b"1")
    lease = sdk_client.get_blob_client("folder/file").acquire_lease()

    with pytest.raises(PermissionDeniedError) as caught:
        storage.delete_prefix("folder")
    lease.release()

    assert caught.value.path == "folder/file"


@pytest.mark.parametrize("path", ["a/../b", "a//b", "..", "a\0b"])
def test_every_operation_refuses_an_invalid_path(storage, path):
    """Before a request is sent."""
    for operation in (storage.read, storage.stat, storage.delete, lambda path: storage.write(path, b"")):
        with pytest.raises(InvalidPathError):
            operation(path)


@pytest.mark.parametrize(
    "path",
    ["a b+c&d=e;f,g", "caf\u00e9/\u4e2d\u6587/\U0001f600.png", "100%/%2F%25", "#?~'()[]{}!$*", "x" * 255, ".a.b"],
)
def test_every_operation_accepts_any_valid_path(storage, path):
    """Whatever must be percent-encoded in a URL."""
    storage.write(path, b"1")
    storage.copy(path, f"copy/{path}")
    storage.move(path, f"moved/{path}")

    assert [entry.name for entry in storage.list()] == sorted([f"copy/{path}", f"moved/{path}"])
    assert storage.read(f"moved/{path}") == storage.read(f"copy/{path}") == b"1"
    storage.delete(f"moved/{path}")
    storage.delete_many([f"copy/{path}"])
    storage.delete(path)
    assert storage.list() == []


DOTTED = ["file.", "a./file", "a/b..", "..."]


@pytest.mark.parametrize("path", DOTTED)
def test_every_operation_refuses_a_segment_that_ends_in_a_dot(storage, path):
    """Azure drops the dot, so the operation would concern another file."""
    operations = [
        storage.read,
        storage.stat,
        storage.delete,
        storage.url,
        lambda path: storage.write(path, b""),
        lambda path: storage.copy(path, "b"),
        lambda path: storage.move("b", path),
        lambda path: storage.delete_many(["b", path]),
        lambda path: storage.link_to(path, "download", timedelta(hours=1)),
        lambda path: storage.upload_request(path, timedelta(hours=1)),
        lambda path: storage.multipart.create(path, WriteOptions()),
        storage.confirm_upload,
    ]
    for operation in operations:
        with pytest.raises(InvalidPathError, match="a dot, which Azure drops"):
            operation(path)
    saved = storage.save(path, b"1") if path.strip("./") else storage.save("x.", b"1")

    assert not any(segment.endswith(".") for segment in saved.split("/"))


def test_a_listing_skips_and_counts_names_that_end_in_a_dot(storage, sdk_client, caplog):
    """An emulator stores them."""
    for name in [*DOTTED, "good", "a/good"]:
        sdk_client.upload_blob(name, b"")

    assert [entry.name for entry in storage.list()] == ["a/good", "good"]
    assert "4 names below ''" in caplog.text
    assert [info.path for info in storage.iter(details=True)] == ["a/good", "good"]
    assert [entry.name for entry in storage.list(recursive=False)] == ["a/", "good"]


def test_a_file_with_snapshots_can_be_deleted(storage, sdk_client):
    """With its snapshots, alone and in a batch."""
    for path in ("a", "b"):
        storage.write(path, b"1")
        sdk_client.get_blob_client(path).create_snapshot()

    storage.delete("a")
    storage.delete_many(["b"])

    assert [blob.name for blob in sdk_client.list_blobs(include=["snapshots"])] == []


# -- prefixes ---------------------------------------------------------------------------------------------------------


def test_a_prefix_confines_a_storage(azurite, storage, sdk_client):
    """Other files are not listed or changed, also not by a sweep."""
    with contextlib.closing(make_storage(azurite, bucket=storage.bucket, prefix="tenant/a")) as prefixed:
        for path in ("x", "tenant/b", "tenant/ab/x", "tenant/a"):
            storage.write(path, b"others")
        prefixed.write("x", b"own")
        foreign = storage.multipart.create("y", WriteOptions())
        own = prefixed.multipart.create("y", WriteOptions())

        swept = prefixed.sweep(older_than=timedelta(seconds=-5))
        assert [entry.name for entry in prefixed.list()] == ["x"]
        assert [info.path for info in prefixed.iter(details=True)] == ["x"]
        prefixed.delete_many(["x"])

    assert swept == 1
    assert [upload.upload_id for upload in storage.multipart.list_uploads()] == [foreign] != [own]
    assert [entry.name for entry in storage.list()] == ["tenant/a", "tenant/ab/x", "tenant/b", "x"]


def test_a_sweep_continues_after_an_upload_that_cannot_be_removed(storage, sdk_client):
    """The error is raised when all others are removed."""
    for path in ("a", "b", "c"):
        storage.multipart.create(path, WriteOptions())
    manifests = [blob.name for blob in sdk_client.list_blobs()]
    lease = sdk_client.get_blob_client(manifests[1]).acquire_lease()

    with pytest.raises(PermissionDeniedError):
        storage.sweep(timedelta(0))
    left = [blob.name for blob in sdk_client.list_blobs()]
    lease.release()

    assert left == [manifests[1]]
    assert storage.sweep(timedelta(0)) == 1


def test_a_sweep_keeps_recent_uploads(storage):
    """And files."""
    storage.multipart.create("a", WriteOptions())
    storage.write("b", b"1")

    assert storage.sweep() == 0
    assert storage.sweep(older_than=timedelta(seconds=-5)) == 1
    assert list(storage.multipart.list_uploads()) == []
    assert storage.read("b") == b"1"


# -- many -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_container(azurite):
    """A container with more blobs than two batch requests can delete."""
    storage = make_storage(azurite, max_connections=8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: storage.write(f"folder-{number % 2}/{number:04}", b""), range(MANY)))
    yield storage
    storage.close()


def test_a_listing_is_requested_page_by_page(large_container, counting_proxy, monkeypatch):
    """The first entry costs one request; a listing of one level costs one in all."""
    proxy, make = counting_proxy
    storage = make(bucket=large_container.bucket)
    list_blobs = storage.client.list_blobs
    monkeypatch.setattr(
        storage.client, "list_blobs", lambda *args, **kwargs: list_blobs(*args, **kwargs, results_per_page=250)
    )

    entries = storage.iter()
    requests = [len(proxy.exchanges)]
    next(entries)
    requests.append(len(proxy.exchanges))
    names = [entry.name for entry in entries]
    pages = len(proxy.exchanges)
    folders = [entry.name for entry in storage.list(recursive=False)]

    assert requests == [0, 1]
    assert (len(names), names) == (MANY - 1, sorted(names))
    assert pages == -(-MANY // 250)
    assert folders == ["folder-0/", "folder-1/"]
    assert len(proxy.exchanges) == pages + 1


def test_details_need_no_request_per_file(large_container, counting_proxy):
    """A page of the listing contains them."""
    proxy, make = counting_proxy

    found = list(make(bucket=large_container.bucket).iter("folder-0", details=True))

    assert len(found) == MANY // 2
    assert len(proxy.exchanges) == 1
    assert all(info.last_modified.datetime > datetime.now(UTC) - timedelta(hours=1) for info in found)


def test_a_batch_deletion_reports_an_error_per_file(large_container, azurite, counting_proxy):
    """600 files need three requests; leased files remain, and missing ones are no error."""
    proxy, make = counting_proxy
    storage = make(bucket=large_container.bucket)
    paths = [f"folder-{number % 2}/{number:04}" for number in range(MANY)]
    leased = [paths[1], paths[300], paths[-1]]

    with azurite.service() as service:
        leases = [service.get_blob_client(storage.bucket, path).acquire_lease() for path in leased]
        with pytest.raises(PartialFailureError, match=f"3 of {MANY + 1} files could not be deleted") as caught:
            storage.delete_many([*paths, "missing"])
        left = [entry.name for entry in storage.list()]
        for lease in leases:
            lease.release()

    assert sorted(caught.value.errors) == sorted(leased)
    for path, error in caught.value.errors.items():
        assert isinstance(error, PermissionDeniedError)
        assert (error.path, error.backend) == (path, storage.name)
        assert f"{path} in the container {storage.bucket}: another client holds a lease" in str(error)
    assert left == sorted(leased)
    assert [exchange.request.method for exchange in proxy.exchanges].count("POST") == -(-(MANY + 1) // 256)
    storage.delete_many(leased)
    assert storage.list() == []


INVALID_ETAGS = ["*", '"0x1"', '0x1", "0x2', "日", "0 1", ""]


@pytest.mark.parametrize("etag", INVALID_ETAGS)
def test_an_invalid_if_match_matches_no_file(shared_storage, etag):
    """To the service, a star would match any version, and a quote would end the condition."""
    shared_storage.write("a", b"old")
    shared_storage.write("source", b"new")

    with pytest.raises(PreconditionFailedError):
        shared_storage.write("a", b"new", if_match=etag)
    with pytest.raises(PreconditionFailedError):
        shared_storage.copy("source", "a", if_match=etag)

    assert shared_storage.read("a") == b"old"


def test_exclusive_with_if_match_always_fails(shared_storage):
    """A new file has no version."""
    shared_storage.write("source", b"new")

    with pytest.raises(PreconditionFailedError):
        shared_storage.write("fresh", b"new", exclusive=True, if_match="0x1")
    with pytest.raises(PreconditionFailedError):
        shared_storage.copy("source", "fresh", exclusive=True, if_match="0x1")

    assert not shared_storage.exists("fresh")


def test_if_match_of_a_copy_must_be_one_line(shared_storage):
    """As that of a write."""
    shared_storage.write("source", b"new")

    for condition in ("x\r\ny", 5, b"x"):
        with pytest.raises(ValueError, match="one line of text"):
            shared_storage.copy("source", "a", if_match=condition)


def test_content_is_compared_with_the_md5_of_the_blob(shared_storage):
    """When it is read from beginning to end over plain HTTP."""
    wrong = ContentSettings(content_md5=bytearray(hashlib.md5(b"other", usedforsecurity=False).digest()))
    shared_storage.write("wrong", bytes(BLOCK))
    shared_storage.client.get_blob_client("wrong").set_http_headers(wrong)

    with pytest.raises(IntegrityError, match="does not match the stored checksum"):
        shared_storage.read("wrong")
    with shared_storage.open("wrong", "r") as reader:
        assert reader.read(3) == bytes(3)


def test_a_sweep_with_a_blob_sas_does_nothing(shared_storage, azurite):
    """The SAS does not allow listing."""
    shared_storage.write("a.txt", b"hello")
    link = shared_storage.link_to("a.txt", "du", timedelta(hours=1))

    assert make_storage(azurite, sas_blob_url=link).sweep(timedelta(0)) == 0


def test_a_batch_response_without_a_result_per_file_is_an_error(shared_storage, monkeypatch):
    """It is unknown which files were deleted."""
    shared_storage.write("a", b"1")
    monkeypatch.setattr("azure.storage.blob.ContainerClient.delete_blobs", lambda *_, **__: [])

    with pytest.raises(StorageUnavailableError, match="malformed"):
        shared_storage.delete_many(["a"])
