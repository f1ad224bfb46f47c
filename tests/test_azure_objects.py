"""What is kept with a blob and found of it: headers, metadata, strange names, long listings, many deletions."""

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
"""More than two requests delete."""


@pytest.fixture(scope="module")
def ground(azurite):
    """A storage, kept for the whole module."""
    made = make_storage(azurite, chunk_size=BLOCK)
    yield made
    made.close()
    azurite.remove_container(made.bucket)


@pytest.fixture
def storage(ground, azurite):
    """An empty storage."""
    azurite.empty_container(ground.bucket)
    return ground


@pytest.fixture
def raw(storage, azurite):
    """Azure's own client of the container, to do what others do."""
    with azurite.service() as service, service.get_container_client(storage.bucket) as client:
        yield client


@pytest.fixture
def watched(azurite):
    """Make a storage behind a proxy that counts."""
    address = urlsplit(azurite.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy, contextlib.ExitStack() as stack:

        def make(**arguments):
            through = dataclasses.replace(azurite, http=proxy.url + address.path)
            made = make_storage(through, **arguments)
            stack.callback(made.close)
            return made

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
def test_headers_and_metadata_come_back(storage, size):
    """As they were given, of a small file and of one in blocks; from ``stat``, a reader, a listing and a copy."""
    given: dict[str, Any] = {
        "content_type": "text/x-special; charset=utf-8",
        "content_encoding": "gzip",
        "cache_control": "max-age=3600, private",
        "content_disposition": "attachment; filename=\"a.txt\"; filename*=UTF-8''%C3%A9.txt",
    }
    metadata = {f"key_{number}": value for number, value in enumerate(VALUES) if value}
    storage.write("a", bytes(size), **given, metadata=metadata)
    storage.copy("a", "b")

    with storage.open("a", "r") as reader:
        found = [storage.stat("a"), reader.info, *storage.iter(details=True)]

    assert [info.path for info in found] == ["a", "a", "a", "b"]
    for info in found:
        assert {name: getattr(info, name) for name in given} == given
        assert (info.metadata, info.size, info.etag_is_strong) == (metadata, size, True)


def test_a_header_in_other_letters_than_ascii_is_refused(storage):
    """The service would not keep it; what to write instead is said."""
    with pytest.raises(ValueError, match=r"content_disposition is kept in ASCII here; .* filename\*=UTF-8"):
        storage.write("a", b"1", content_disposition='attachment; filename="\u00e9.txt"')

    assert storage.list() == []


def test_the_md5_of_a_small_file_is_kept(storage, raw):
    """As hexadecimal digits; of one in blocks the service knows none."""
    storage.write("small", b"hello")
    storage.write("large", bytes(BLOCK + 1))

    assert storage.stat("small").checksums == {"md5": hashlib.md5(b"hello").hexdigest()}
    assert storage.stat("large").checksums == {}
    digest = bytearray(hashlib.md5(b"of others").digest())
    raw.upload_blob("others", b"of others", content_settings=ContentSettings(content_md5=digest))
    assert storage.stat("others").checksums == {"md5": bytes(digest).hex()}


@pytest.mark.parametrize(
    ("path", "given", "profile", "found"),
    [
        ("a.png", None, None, "image/png"),
        ("a.png", "text/plain", "text/x-profile", "text/plain"),
        ("a", None, "text/x-profile", "text/x-profile"),
        ("a", None, None, None),
    ],
)
def test_the_content_type_is_given_guessed_or_the_profiles(azurite, storage, path, given, profile, found):
    """In this order; without any, none is told."""
    with contextlib.closing(make_storage(azurite, bucket=storage.bucket, content_type=profile)) as own:
        own.write(path, b"1", content_type=given)

        assert own.stat(path).content_type == found


def test_what_the_profile_adds_is_kept_with_every_file(azurite, storage):
    """Metadata and caching, beside what the file is given itself."""
    arguments: dict[str, Any] = {"metadata": {"app": "mine", "kind": "any"}, "cache_control": "max-age=9"}
    with contextlib.closing(make_storage(azurite, bucket=storage.bucket, guess_content_type=False, **arguments)) as own:
        own.write("a.png", b"1", metadata={"kind": "this"})
        own.write("b.png", b"1", cache_control="private")

        first, second = own.stat("a.png"), own.stat("b.png")

    assert (first.metadata, first.cache_control) == ({"app": "mine", "kind": "this"}, "max-age=9")
    assert (second.metadata, second.cache_control) == ({"app": "mine", "kind": "any"}, "private")
    assert first.content_type is None


def test_what_tells_a_write_from_another_is_not_shown(storage, raw):
    """It is kept with a file that was written with a condition."""
    storage.write("a", b"1", exclusive=True, metadata={"color": "blue"})

    assert storage.stat("a").metadata == {"color": "blue"}
    assert set(raw.get_blob_client("a").get_blob_properties().metadata) == {"color", "_fs_write"}


def test_the_encryption_scope_is_sent_with_everything_that_is_stored(watched):
    """Azurite knows no scopes: the header is what counts."""
    proxy, make = watched
    storage = make(encryption_scope="mine", chunk_size=BLOCK, max_attempts=1)
    proxy.exchanges.clear()  # the container was made through it

    for size in (1, BLOCK + 1):
        with contextlib.suppress(Exception):
            storage.write("a", bytes(size))

    puts = [exchange.request for exchange in proxy.exchanges if exchange.request.method == "PUT"]
    assert puts
    assert [r.target for r in puts if r.headers["x-ms-encryption-scope"] != "mine"] == []


# -- what others have made --------------------------------------------------------------------------------------------


def test_blobs_of_others_are_read_as_they_are(storage, raw):
    """Append blobs, other metadata, and texts that only look encoded."""
    log = raw.get_blob_client("log")
    log.create_append_blob(metadata={"Path": "/a", "_hidden": "x", "odd": "=?UTF-8?B?broken"})
    log.append_block(b"line")
    raw.upload_blob("bare", b"1")

    assert storage.read("log") == b"line"
    assert storage.stat("log").metadata == {"Path": "/a", "_hidden": "x", "odd": "=?UTF-8?B?broken"}
    assert [(info.path, info.size) for info in storage.iter(details=True)] == [("bare", 1), ("log", 4)]


STRANGE = ["folder/", "folder//double", "/leading", "a/../b", ".fs-tmp-x", "folder/.fs-tmp-x"]


@pytest.fixture
def littered(storage, raw):
    """A container in which somebody else has left what no verb would take."""
    for name in STRANGE:
        with contextlib.suppress(Exception):  # some names the service itself changes
            raw.upload_blob(name, b"")
    storage.write("folder/good", b"1")
    storage.write("good", b"1")
    return storage


@pytest.mark.parametrize("details", [False, True])
def test_listing_leaves_out_what_no_verb_would_take(littered, details):
    """A name that ends in a slash is what tools make to show an empty folder."""
    found = list(littered.iter(details=details))

    assert [getattr(entry, "path", None) or entry.name for entry in found] == ["folder/good", "good"]
    assert sorted(entry.name for entry in littered.list(recursive=False)) == ["folder/", "good"]
    assert [info.path for info in littered.iter(recursive=False, details=True)] == ["good"]
    assert [entry.name for entry in littered.list("folder")] == ["folder/good"]


def test_deleting_a_folder_leaves_the_others(littered):
    """Only what is below it goes."""
    littered.delete_prefix("folder")

    assert [entry.name for entry in littered.list()] == ["good"]


@pytest.mark.parametrize("path", ["a/../b", "a//b", "..", "a\0b"])
def test_no_verb_takes_a_name_that_breaks_the_grammar(storage, path):
    """Before anything is asked."""
    for verb in (storage.read, storage.stat, storage.delete, lambda path: storage.write(path, b"")):
        with pytest.raises(InvalidPathError):
            verb(path)


@pytest.mark.parametrize(
    "path",
    ["a b+c&d=e;f,g", "caf\u00e9/\u4e2d\u6587/\U0001f600.png", "100%/%2F%25", "#?~'()[]{}!$*", "x" * 255, "a.b."],
)
def test_any_legal_path_goes_through_every_verb(storage, path):
    """Whatever has to be quoted in an address."""
    storage.write(path, b"1")
    storage.copy(path, f"copy/{path}")
    storage.move(path, f"moved/{path}")

    assert [entry.name for entry in storage.list()] == sorted([f"copy/{path}", f"moved/{path}"])
    assert storage.read(f"moved/{path}") == storage.read(f"copy/{path}") == b"1"
    storage.delete(f"moved/{path}")
    storage.delete_many([f"copy/{path}"])
    storage.delete(path)
    assert storage.list() == []


def test_snapshots_do_not_keep_a_file_from_being_deleted(storage, raw):
    """They go with it, one by one and many at once."""
    for path in ("a", "b"):
        storage.write(path, b"1")
        raw.get_blob_client(path).create_snapshot()

    storage.delete("a")
    storage.delete_many(["b"])

    assert [blob.name for blob in raw.list_blobs(include=["snapshots"])] == []


# -- prefixes ---------------------------------------------------------------------------------------------------------


def test_a_prefix_confines_a_storage(azurite, storage, raw):
    """What lies beside it is neither seen nor touched, also by a sweep."""
    with contextlib.closing(make_storage(azurite, bucket=storage.bucket, prefix="tenant/a")) as below:
        for path in ("x", "tenant/b", "tenant/ab/x", "tenant/a"):
            storage.write(path, b"others")
        below.write("x", b"own")
        foreign = storage.multipart.create("y", WriteOptions())
        own = below.multipart.create("y", WriteOptions())

        swept = below.sweep(older_than=timedelta(seconds=-5))
        assert [entry.name for entry in below.list()] == ["x"]
        assert [info.path for info in below.iter(details=True)] == ["x"]
        below.delete_many(["x"])

    assert swept == 1
    assert [upload.upload_id for upload in storage.multipart.list_uploads()] == [foreign] != [own]
    assert [entry.name for entry in storage.list()] == ["tenant/a", "tenant/ab/x", "tenant/b", "x"]


def test_a_sweep_spares_what_is_young(storage):
    """And what is no upload at all."""
    storage.multipart.create("a", WriteOptions())
    storage.write("b", b"1")

    assert storage.sweep() == 0
    assert storage.sweep(older_than=timedelta(seconds=-5)) == 1
    assert list(storage.multipart.list_uploads()) == []
    assert storage.read("b") == b"1"


# -- many -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(azurite):
    """A container with more blobs than two requests delete."""
    made = make_storage(azurite, max_connections=8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: made.write(f"folder-{number % 2}/{number:04}", b""), range(MANY)))
    yield made
    made.close()


def test_a_listing_is_asked_for_page_by_page(crowded, watched, monkeypatch):
    """The first entry costs one request, whatever comes after it; one level of folders costs one in all."""
    proxy, make = watched
    storage = make(bucket=crowded.bucket)
    whole = storage.client.list_blobs
    monkeypatch.setattr(storage.client, "list_blobs", lambda *args, **more: whole(*args, **more, results_per_page=250))

    entries = storage.iter()
    asked = [len(proxy.exchanges)]
    next(entries)
    asked.append(len(proxy.exchanges))
    names = [entry.name for entry in entries]
    pages = len(proxy.exchanges)
    folders = [entry.name for entry in storage.list(recursive=False)]

    assert asked == [0, 1]
    assert (len(names), names) == (MANY - 1, sorted(names))
    assert pages == -(-MANY // 250)
    assert folders == ["folder-0/", "folder-1/"]
    assert len(proxy.exchanges) == pages + 1


def test_details_cost_no_request_for_each(crowded, watched):
    """A page of the listing has them."""
    proxy, make = watched

    found = list(make(bucket=crowded.bucket).iter("folder-0", details=True))

    assert len(found) == MANY // 2
    assert len(proxy.exchanges) == 1
    assert all(info.last_modified.datetime > datetime.now(UTC) - timedelta(hours=1) for info in found)


def test_many_are_deleted_by_few_requests_with_an_error_for_each(crowded, azurite, watched):
    """Of 600, three requests; the others are gone, what somebody holds is still there, what was missing is no error."""
    proxy, make = watched
    storage = make(bucket=crowded.bucket)
    paths = [f"folder-{number % 2}/{number:04}" for number in range(MANY)]
    held = [paths[1], paths[300], paths[-1]]

    with azurite.service() as service:
        leases = [service.get_blob_client(storage.bucket, path).acquire_lease() for path in held]
        with pytest.raises(PartialFailureError, match=f"3 of {MANY + 1} files could not be deleted") as caught:
            storage.delete_many([*paths, "missing"])
        left = [entry.name for entry in storage.list()]
        for lease in leases:
            lease.release()

    assert sorted(caught.value.errors) == sorted(held)
    for path, error in caught.value.errors.items():
        assert isinstance(error, PermissionDeniedError)
        assert f"{path} in the container {storage.bucket}: somebody holds a lease" in str(error)
    assert left == sorted(held)
    assert [exchange.request.method for exchange in proxy.exchanges].count("POST") == -(-(MANY + 1) // 256)
    storage.delete_many(held)
    assert storage.list() == []


NO_TAGS = ["*", '"0x1"', '0x1", "0x2', "日", "0 1", ""]


@pytest.mark.parametrize("tag", NO_TAGS)
def test_what_is_no_tag_is_the_tag_of_no_file(ground, tag):
    """To the service, a star would be any version, and what ends the quotes another condition."""
    ground.write("a", b"old")
    ground.write("source", b"new")

    with pytest.raises(PreconditionFailedError):
        ground.write("a", b"new", if_match=tag)
    with pytest.raises(PreconditionFailedError):
        ground.copy("source", "a", if_match=tag)

    assert ground.read("a") == b"old"


def test_two_conditions_that_exclude_each_other_never_hold(ground):
    """A file that is to be new has no version."""
    ground.write("source", b"new")

    with pytest.raises(PreconditionFailedError):
        ground.write("fresh", b"new", exclusive=True, if_match="0x1")
    with pytest.raises(PreconditionFailedError):
        ground.copy("source", "fresh", exclusive=True, if_match="0x1")

    assert not ground.exists("fresh")


def test_a_condition_of_a_copy_is_one_line(ground):
    """As that of a write."""
    ground.write("source", b"new")

    for condition in ("x\r\ny", 5, b"x"):
        with pytest.raises(ValueError, match="one line of text"):
            ground.copy("source", "a", if_match=condition)


def test_content_is_compared_with_what_the_blob_says_of_itself(ground):
    """Where it is read from beginning to end over plain http."""
    wrong = ContentSettings(content_md5=bytearray(hashlib.md5(b"other", usedforsecurity=False).digest()))
    ground.write("wrong", bytes(BLOCK))
    ground.client.get_blob_client("wrong").set_http_headers(wrong)

    with pytest.raises(IntegrityError, match="not the ones that were stored"):
        ground.read("wrong")
    with ground.open("wrong", "r") as reader:
        assert reader.read(3) == bytes(3)


def test_a_single_blob_has_nothing_to_sweep(ground, azurite):
    """Nor may anything else be listed by its signature."""
    ground.write("a.txt", b"hello")
    link = ground.link_to("a.txt", "du", timedelta(hours=1))

    assert make_storage(azurite, sas_blob_url=link).sweep(timedelta(0)) == 0


def test_a_batch_that_answers_too_little_is_an_error(ground, monkeypatch):
    """Which of the files it is that were deleted, nobody knows."""
    ground.write("a", b"1")
    monkeypatch.setattr("azure.storage.blob.ContainerClient.delete_blobs", lambda *_, **__: [])

    with pytest.raises(StorageUnavailableError, match="makes no sense"):
        ground.delete_many(["a"])
