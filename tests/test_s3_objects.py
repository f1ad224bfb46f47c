"""Objects of a bucket: headers and metadata, keys, objects of other programs, prefixes, and large listings."""

import contextlib
import dataclasses
import itertools
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import boto3
import pytest

from flask_storage import (
    FileNotFoundInStorageError,
    InvalidPathError,
    PartialFailureError,
    PermissionDeniedError,
    S3Preset,
    StorageError,
    WriteOptions,
)
from flask_storage.backends.s3.presets import PRESETS
from tests.s3_storages import make_storage
from tests.services.scripted_proxy import ScriptedProxy, ScriptedResponse
from tests.variants import extra_variant

pytest_plugins = ["tests.services.s3"]

MIB = 1 << 20
CUSTOMER_KEY = bytes(range(32))
PART = 5 * MIB


@pytest.fixture(scope="module")
def buckets():
    """The bucket of each server; tests share it and have different prefixes."""
    return {}


@pytest.fixture(scope="module")
def session_of():
    """Return a boto3 session for each server: creating one takes ten times as long as a client of it."""
    made: dict[str, Any] = {}

    def session(server):
        if server.name not in made:
            made[server.name] = boto3.session.Session(server.access_key, server.secret_key, region_name=server.region)
        return made[server.name]

    return session


@pytest.fixture(scope="module")
def boto_client():
    """Return boto3's own client for a server, to store objects that no storage would."""
    made: dict[str, Any] = {}
    yield lambda server: made.get(server.name) or made.setdefault(server.name, server.client())
    for client in made.values():
        client.close()


@pytest.fixture(scope="module")
def storage_on(session_of):
    """Make a storage with a bucket of its own on a server."""

    def make(server, **arguments):
        defaults = {"session": session_of(server), "aws_access_key_id": None, "aws_secret_access_key": None}
        return make_storage(server, **{**defaults, **arguments})

    return make


@pytest.fixture
def server(s3):
    """The S3 server."""
    return s3


@pytest.fixture
def on(buckets, storage_on):
    """Make a storage with a prefix of its own on a server."""
    prefixes: dict[str, str] = {}

    def make(server, **arguments):
        if server.name not in buckets:
            buckets[server.name] = server.make_bucket()
        prefix = prefixes.setdefault(server.name, secrets.token_hex(8))
        return storage_on(server, **{"bucket": buckets[server.name], "prefix": prefix, **arguments})

    return make


@pytest.fixture
def head(boto_client):
    """Return the HeadObject response for a file."""
    return lambda server, storage, path, **more: boto_client(server).head_object(
        Bucket=storage.bucket, Key=storage._gateway.key(path), **more
    )


@pytest.fixture
def proxied():
    """Return a scripted proxy before a server, and the server as seen through it."""
    with contextlib.ExitStack() as stack:

        def make(server):
            host, _, port = server.http.removeprefix("http://").partition(":")
            proxy = stack.enter_context(ScriptedProxy(host, int(port)))
            return proxy, dataclasses.replace(server, http=proxy.url)

        yield make


# -- headers ----------------------------------------------------------------------------------------------------------


def test_headers_and_metadata_are_returned_unchanged(server, on):
    """Of a small file and of a multipart one."""
    storage = on(server)
    given = {
        "content_type": "text/x-special; charset=utf-8",
        "content_encoding": "gzip",
        "cache_control": "max-age=3600, private",
        "content_disposition": 'attachment; filename="report.txt"',
        "metadata": {"color": "blue", "with_underscores": "and values: with, punctuation"},
    }
    storage.write("small", b"1", **given)
    storage.write("large", bytes(PART + 1), **given)

    for path in ("small", "large"):
        info = storage.stat(path)
        with storage.open(path, "r") as reader:
            read = reader.info

        assert {name: getattr(info, name) for name in given} == given
        assert dataclasses.replace(read, checksums={}) == dataclasses.replace(info, checksums={})


@pytest.mark.parametrize(
    "value",
    [
        "",
        " leading",
        "trailing ",
        "  both  ",
        "naïve ☃ 😀",
        "=?UTF-8?B?aGVsbG8=?=",
        "=?utf-8?q?hello?=",
        "a =?UTF-8?B?aGVsbG8=?= b",
        "=?",
        "a=?b",
        "=?x?=",
        "=?UTF-8?B?!!!?=",
        "a=b?c",
        "tilde ~ and all !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}",
        "x" * 1000,
        "ü" * 500,
    ],
    ids=lambda value: f"{value[:12]!a}-{len(value)}",
)
def test_metadata_may_be_any_line_of_text(server, on, value):
    """Non-ASCII text, spaces at the ends, and text that looks like an encoded word."""
    storage = on(server)

    storage.write("a", b"1", metadata={"key": value, "other": "plain"})

    assert storage.stat("a").metadata == {"key": value, "other": "plain"}


def test_a_header_may_be_non_ascii_text(server, on):
    """It is sent as UTF-8."""
    storage = on(server)
    disposition = 'attachment; filename="Übersicht ☃.txt"'

    storage.write("a", b"1", content_disposition=disposition)

    assert storage.stat("a").content_disposition == disposition


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ("=?UTF-8?B?Z3LDvG4=?=", "grün"),
        ("=?ISO-8859-1?Q?gr=FCn?=", "grün"),
        ("=?nonsense?B?Z3LDvG4=?=", "=?nonsense?B?Z3LDvG4=?="),
        ("=?UTF-8?B?a?=", "=?UTF-8?B?a?="),
        ("plain", "plain"),
    ],
)
def test_encoded_metadata_of_other_programs_is_decoded(rgw, on, boto_client, sent, found):
    """S3 encodes non-ASCII text so; text that cannot be decoded is returned unchanged."""
    storage = on(rgw)
    boto_client(rgw).put_object(
        Bucket=storage.bucket, Key=storage._gateway.key("a"), Body=b"1", Metadata={"color": sent}
    )

    info = storage.stat("a")

    assert info.metadata == {"color": found}


def test_a_header_that_is_not_utf_8_is_decoded_as_latin_1(s3, on, proxied):
    """Each byte becomes one character."""
    proxy, seen = proxied(s3)
    storage = on(seen)
    headers = {
        "Content-Disposition": "attachment; filename=gr\xfcn",
        "ETag": '"0"',
        "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
    }
    proxy.script = lambda _: ScriptedResponse(200, headers=headers)

    info = storage.stat("a")

    assert info.content_disposition == "attachment; filename=grün"


def test_a_composite_checksum_is_not_returned(localstack, on, boto_client):
    """It is a checksum of the checksums of the parts, not of the content."""
    storage, client = on(localstack), boto_client(localstack)
    target = {"Bucket": storage.bucket, "Key": storage._gateway.key("a")}
    upload = client.create_multipart_upload(**target, ChecksumAlgorithm="SHA256")["UploadId"]
    part = client.upload_part(**target, UploadId=upload, PartNumber=1, Body=b"1", ChecksumAlgorithm="SHA256")
    named = {"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}
    client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": [named]})

    assert storage.stat("a").checksums == {}


@pytest.mark.parametrize(
    ("path", "given", "profile", "found"),
    [
        ("photo.jpg", None, {}, "image/jpeg"),
        ("photo.jpg", "image/x-mine", {}, "image/x-mine"),
        ("photo.jpg", None, {"content_type": "text/x-default"}, "image/jpeg"),
        ("photo.jpg", None, {"guess_content_type": False}, None),
        ("photo.jpg", None, {"guess_content_type": False, "content_type": "text/x-default"}, "text/x-default"),
        ("README", None, {}, None),
        ("README", None, {"content_type": "text/x-default"}, "text/x-default"),
        ("README", "image/x-mine", {"content_type": "text/x-default"}, "image/x-mine"),
    ],
)
def test_the_content_type_is_given_guessed_or_that_of_the_profile(s3, on, path, given, profile, found):
    """In this order; None if there is none."""
    storage = on(s3, **profile)

    storage.write(path, b"1", content_type=given)

    assert storage.stat(path).content_type == found


def test_a_file_without_a_type_is_stored_as_binary_octet_stream(localstack, on, head):
    """So that the service does not guess a type itself."""
    storage = on(localstack)

    storage.write("README", b"1")

    assert head(localstack, storage, "README")["ContentType"] == "binary/octet-stream"


def test_the_cache_control_of_the_profile_is_a_default(server, on):
    """The value given for a file takes precedence."""
    storage = on(server, cache_control="max-age=60")

    storage.write("a", b"1")
    storage.write("b", b"1", cache_control="no-store")

    assert storage.stat("a").cache_control == "max-age=60"
    assert storage.stat("b").cache_control == "no-store"


def test_aws_chunked_is_not_a_content_encoding(localstack, on):
    """Over https boto3 sends trailing checksums in this encoding, which S3 stores."""
    storage = on(localstack, https=True)

    storage.write("a", b"1")
    storage.write("b", b"1", content_encoding="gzip")

    assert storage.stat("a").content_encoding is None
    assert storage.stat("b").content_encoding == "gzip"


def test_the_metadata_that_identifies_a_write_is_not_returned(server, on):
    """Its key cannot be a key of an application."""
    storage = on(server)

    storage.write("a", bytes(PART + 1))

    assert storage.stat("a").metadata == {}


def test_the_version_is_returned_in_a_versioned_bucket(server, on, boto_client, storage_on):
    """Each write has another one."""
    storage = storage_on(server)
    boto_client(server).put_bucket_versioning(Bucket=storage.bucket, VersioningConfiguration={"Status": "Enabled"})

    versions = []
    for content in (b"1", b"2"):
        storage.write("a", content)
        versions.append(storage.stat("a").version)

    assert None not in versions
    assert len(set(versions)) == 2


# -- how objects are stored -------------------------------------------------------------------------------------------


def grants(client, storage, path):
    """Return the permissions of others than the owner of an object."""
    acl = client.get_object_acl(Bucket=storage.bucket, Key=storage._gateway.key(path))
    return [grant["Permission"] for grant in acl["Grants"] if grant["Grantee"]["Type"] == "Group"]


@pytest.mark.parametrize("size", [1, PART + 1], ids=["one request", "multipart"])
def test_an_acl_is_set_only_if_configured(server, on, boto_client, size):
    """Since 2023 new buckets of AWS reject all ACLs; so none is sent by default."""
    plain, public = on(server), on(server, acl="public-read")

    plain.write("plain", bytes(size))
    public.write("public", bytes(size))
    public.copy("plain", "copied")

    assert grants(boto_client(server), plain, "plain") == []
    assert grants(boto_client(server), plain, "public") == ["READ"]
    assert grants(boto_client(server), plain, "copied") == ["READ"]


def test_storage_headers_are_not_sent_by_default(s3, on, proxied):
    """Neither an ACL nor a storage class nor encryption."""
    proxy, seen = proxied(s3)
    storage = on(seen)

    storage.write("a", b"1")
    storage.write("b", bytes(PART + 1))
    storage.copy("a", "c")

    sent = {name.lower() for exchange in proxy.exchanges for name in exchange.request.headers}
    assert not {name for name in sent if "acl" in name or "storage-class" in name or "encryption" in name}
    assert "x-amz-content-sha256" in sent


@pytest.mark.parametrize("size", [1, PART + 1], ids=["one request", "multipart"])
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"storage_class": "STANDARD_IA"}, {"StorageClass": "STANDARD_IA"}),
        ({"server_side_encryption": "AES256"}, {"ServerSideEncryption": "AES256"}),
        ({"kms_key_id": "some-key"}, {"ServerSideEncryption": "aws:kms"}),
        ({"kms_key_id": "some-key", "server_side_encryption": "aws:kms"}, {"ServerSideEncryption": "aws:kms"}),
    ],
)
def test_storage_settings_of_the_profile_apply_to_every_write(localstack, on, head, size, arguments, found):
    """Single requests, multipart uploads and copies."""
    storage = on(localstack, **arguments)

    storage.write("a", bytes(size))
    storage.copy("a", "b")

    for path in ("a", "b"):
        response = head(localstack, storage, path)
        assert {name: response.get(name) for name in found} == found
        if "kms_key_id" in arguments:
            assert response["SSEKMSKeyId"].endswith("some-key")
    assert storage.read("b") == bytes(size)


@pytest.fixture(
    params=[("localstack", False), ("localstack", True), pytest.param(("rgw", True), marks=extra_variant)], ids=str
)
def encrypted(request, on):
    """A server that supports customer-provided keys, a storage with a key and one without."""
    name, https = request.param
    server = request.getfixturevalue(name)
    return server, on(server, https=https, customer_key=CUSTOMER_KEY), on(server, https=https)


def test_a_customer_key_encrypts_and_decrypts(encrypted):
    """Every operation works with the key, on small and multipart files, and none without it."""
    _, storage, without = encrypted
    large = secrets.token_bytes(PART + 1)

    storage.write("small", b"hello", metadata={"a": "b"})
    storage.write("large", large)

    assert storage.read("small") == b"hello"
    assert storage.read("large") == large
    assert storage.stat("small").metadata == {"a": "b"}
    assert {entry.name for entry in storage.list()} == {"large", "small"}
    for read in (lambda: without.read("small"), lambda: without.stat("small"), lambda: without.read("large")):
        with pytest.raises(StorageError):
            read()


def test_files_with_a_customer_key_can_be_copied(encrypted):
    """The copy has the same key. Ceph cannot copy it, so that the content passes through this process."""
    _, storage, without = encrypted
    storage.write("a", b"hello", metadata={"a": "b"})

    storage.copy("a", "copied")
    storage.move("a", "moved")

    assert storage.read("copied") == storage.read("moved") == b"hello"
    assert storage.stat("copied").metadata == {"a": "b"}
    with pytest.raises(StorageError):
        without.read("copied")


def test_another_customer_key_is_rejected(encrypted, on):
    """The message does not contain the keys."""
    server, storage, without = encrypted
    storage.write("a", b"hello")
    https = without.client.meta.endpoint_url.startswith("https")
    other = on(server, https=https, customer_key=bytes(32))

    with pytest.raises(StorageError) as caught:
        other.read("a")

    assert not isinstance(caught.value, FileNotFoundInStorageError)
    assert "AAAA" not in str(caught.value)


def test_multipart_calls_work_with_a_customer_key(encrypted):
    """Each call sends the key."""
    _, storage, _ = encrypted

    upload = storage.multipart.create("a", WriteOptions())
    sent = storage.multipart.upload_part("a", upload, 1, b"hello")
    listed = storage.multipart.list_parts("a", upload)
    storage.multipart.complete("a", upload, [sent], WriteOptions(size=5))

    assert [part.number for part in listed] == [1]
    assert storage.read("a") == b"hello"


# -- keys -------------------------------------------------------------------------------------------------------------

KEYS = [
    "with space.txt",
    " leading and trailing ",
    "plus+plus.txt",
    "per%cent%20.txt",
    "%2e%2e%2fx",
    "question?mark=1&b=2",
    "hash#tag",
    "amp&amp;<tag>",
    'quote\'s "double" `back`',
    "ünïcödé ☃.txt",
    "emoji 😀/日本語.txt",
    "a=b;c,d:e@f$g!h*i(j)k~l^m|n{o}p[q]",
    "dots...and.-_.txt",
    "~tilde",
    "a/b c/d+e/f%g",
    "k" * 255,
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:20].encode("ascii", "backslashreplace").decode())
def test_every_operation_accepts_any_valid_path(server, on, key):
    """With characters that need quoting in paths, queries, XML and copy sources."""
    storage = on(server)

    storage.write(key, b"hello")
    info = storage.stat(key)
    listed = [entry.name for entry in storage.list()]
    found = [entry.name for entry in storage.list(prefix=key)]
    with storage.open(key, "r") as reader:
        content = reader.read()
    storage.copy(key, f"copies/{key}")
    storage.move(f"copies/{key}", f"moved/{key}")
    upload = storage.multipart.create(key, WriteOptions())
    pending = [upload.path for upload in storage.multipart.list_uploads()]
    storage.multipart.abort(key, upload)
    moved = storage.read(f"moved/{key}")
    storage.delete_many([key])
    deleted = storage.delete_prefix("moved")

    assert info.path == key
    assert listed == found == pending == [key]
    assert content == moved == b"hello"
    assert deleted == 1
    assert storage.list() == []


@pytest.mark.parametrize("path", ["a.txt", "ü +%.txt"])
def test_deleting_is_idempotent(server, on, path):
    """One file at a time, and many at a time."""
    storage = on(server)
    storage.write(path, b"1")

    storage.delete(path)
    storage.delete(path)
    storage.delete_many([path, path])

    assert not storage.exists(path)


FOREIGN = [
    "a//b",
    "../x",
    "a/../b",
    "./c",
    "/absolute",
    "trailing/",
    "folder/trailing/",
    "folder//x",
    "folder/a\\b",
    "folder/con\x01trol",
    "folder/tab\tnew\nline\rreturn",
    ".fs-tmp-leftover",
    "folder/.fs-tmp-leftover",
]


@pytest.fixture
def storage_with_foreign_keys(server, on, boto_client):
    """A storage with a few files, and objects whose keys are not valid paths."""
    storage = on(server)
    for key in FOREIGN:
        boto_client(server).put_object(Bucket=storage.bucket, Key=f"{storage._gateway.prefix}{key}", Body=b"1")
    for path in ("a/ours", "folder/ours", "ours"):
        storage.write(path, b"1")
    return storage


def keys_of(client, storage):
    """Return the keys below the prefix, as the server lists them."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=storage.bucket, Prefix=storage._gateway.prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return sorted(key.removeprefix(storage._gateway.prefix) for key in keys)


@pytest.mark.parametrize("details", [False, True])
def test_a_listing_skips_keys_that_are_not_valid_paths(storage_with_foreign_keys, caplog, details):
    """It logs their number once; the empty directories of consoles do not count."""
    found = [
        entry.path if hasattr(entry, "path") else entry.name  # a FileInfo, or a ListEntry
        for entry in storage_with_foreign_keys.iter(details=details)
    ]

    assert sorted(found) == ["a/ours", "folder/ours", "ours"]
    assert "are not valid paths and were skipped" in caplog.text


def test_a_listing_of_one_level_skips_them_too(storage_with_foreign_keys):
    """A key that ends in a slash makes a directory."""
    found = [entry.name for entry in storage_with_foreign_keys.list("folder", recursive=False)]

    assert found == ["folder/ours", "folder/trailing/"]


def test_delete_prefix_deletes_them_too(storage_with_foreign_keys, server, boto_client):
    """Whatever their names; keys beside the directory stay."""
    before = keys_of(boto_client(server), storage_with_foreign_keys)

    deleted = storage_with_foreign_keys.delete_prefix("folder")

    left = keys_of(boto_client(server), storage_with_foreign_keys)
    assert left == [key for key in before if not key.startswith("folder/")]
    assert deleted == len(before) - len(left) - 1  # a name that ends in a slash is no file


@pytest.mark.parametrize("path", ["../x", "a//b", "a/../b", "trailing/", "/../x", "con\x01trol"])
def test_every_operation_rejects_an_invalid_path(s3, on, path):
    """No request is sent."""
    storage = on(s3)

    for operation in (storage.read, storage.stat, storage.exists, storage.delete):
        with pytest.raises(InvalidPathError):
            operation(path)


# -- prefixes ---------------------------------------------------------------------------------------------------------


def test_a_prefix_confines_a_storage(server, boto_client, storage_on):
    """No operation sees or changes objects outside, not even a neighbor whose name begins with the prefix."""
    outer = storage_on(server)
    inner = storage_on(server, bucket=outer.bucket, prefix="a")
    for path in ("ab/x", "a.txt", "b/x", "x", "a/x", "a/sub/y"):
        outer.write(path, path.encode())

    seen = [entry.name for entry in inner.list()]
    by_prefix = [entry.name for entry in inner.list(prefix="s")]
    one_level = [entry.name for entry in inner.list(recursive=False)]
    details = sorted(info.path for info in inner.iter(details=True))
    inner.copy("x", "copied")
    inner.move("copied", "moved")
    inner.write("b/x", b"inner")
    deleted = inner.delete_prefix("sub"), inner.delete_prefix("b")
    inner.delete_many(["moved", "ab/x"])

    assert seen == details == ["sub/y", "x"]
    assert by_prefix == ["sub/y"]
    assert one_level == ["sub/", "x"]
    assert deleted == (1, 1)
    assert {path: outer.read(path) for path in [entry.name for entry in outer.list()]} == {
        path: path.encode() for path in ("ab/x", "a.txt", "b/x", "x", "a/x")
    }


def test_a_sweep_stays_below_the_prefix(server, storage_on):
    """Uploads outside are not removed."""
    outer = storage_on(server)
    inner = storage_on(server, bucket=outer.bucket, prefix="a")
    for path in ("ab/x", "x", "a/x", "a/sub/x"):
        outer.multipart.create(path, WriteOptions())

    pending = sorted(upload.path for upload in inner.multipart.list_uploads())
    in_directory = [upload.path for upload in inner.multipart.list_uploads("sub")]
    recent = inner.sweep(timedelta(hours=1))
    swept = inner.sweep(timedelta(seconds=-60))  # the server's clock has whole seconds

    assert pending == ["sub/x", "x"]
    assert in_directory == ["sub/x"]
    assert (recent, swept) == (0, 2)
    assert sorted(upload.path for upload in outer.multipart.list_uploads()) == ["ab/x", "x"]


def test_a_sweep_of_a_bucket_without_uploads_removes_nothing(rclone_s3):
    """Also where the service responds that there is no such upload."""
    storage = make_storage(rclone_s3)

    assert storage.sweep() == 0


def test_a_sweep_is_rejected_where_uploads_cannot_be_listed(s3, on):
    """The message says what to do instead."""
    storage = on(s3, preset=S3Preset(upload_listing=False))

    with pytest.raises(NotImplementedError, match="cannot list unfinished uploads: set a lifecycle rule"):
        storage.sweep()


# -- large listings ---------------------------------------------------------------------------------------------------

MANY = 1005  # a page of a listing and a list of deletions hold a thousand


@pytest.fixture(scope="module")
def large_bucket(s3, storage_on):
    """A storage with more files than one page of a listing has, in two directories."""
    storage = storage_on(s3)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.write(f"folder-{number % 2}/{number:04}", b""), range(MANY)))
    return storage


def test_a_listing_has_all_pages(large_bucket):
    """Each file is listed once."""
    found = [entry.name for entry in large_bucket.list()]

    assert found == sorted(f"folder-{number % 2}/{number:04}" for number in range(MANY))


def test_a_listing_of_one_level_takes_one_request_for_any_number_of_files(large_bucket, s3, proxied, storage_on):
    """The service groups the keys of a directory."""
    proxy, seen = proxied(s3)
    storage = storage_on(seen, bucket=large_bucket.bucket)

    found = [entry.name for entry in storage.list(recursive=False)]

    assert found == ["folder-0/", "folder-1/"]
    assert len(proxy.exchanges) == 1


def test_pages_are_requested_lazily(large_bucket, s3, proxied, storage_on):
    """The first entry costs one request, all of them two."""
    proxy, seen = proxied(s3)
    storage = storage_on(seen, bucket=large_bucket.bucket)

    entries = storage.iter()
    requests = [len(proxy.exchanges)]
    next(entries)
    requests.append(len(proxy.exchanges))
    rest = sum(1 for _ in entries)
    requests.append(len(proxy.exchanges))

    assert requests == [0, 1, 2]
    assert rest == MANY - 1


def test_details_of_the_first_files_cost_few_requests(large_bucket, s3, proxied, storage_on):
    """One for the page, and as many HEAD requests as the concurrency."""
    proxy, seen = proxied(s3)
    storage = storage_on(seen, bucket=large_bucket.bucket, concurrency=4)

    found = list(itertools.islice(storage.iter(details=True), 2))

    assert [info.size for info in found] == [0, 0]
    assert len(proxy.exchanges) <= 1 + 4


def test_details_skip_files_that_are_deleted_concurrently(s3, on, proxied):
    """Between the listing and the HEAD request."""
    proxy, seen = proxied(s3)
    storage = on(seen)
    for path in ("a", "b"):
        storage.write(path, b"1")
    other = on(s3)

    def script(request):
        if request.method == "HEAD":
            other.delete("a")

    proxy.script = script

    assert [info.path for info in storage.iter(details=True)] == ["b"]


def test_delete_many_sends_a_request_for_each_thousand(s3, large_bucket, proxied, storage_on):
    """Two requests for 1,005 paths, although the files do not exist."""
    proxy, seen = proxied(s3)
    storage = storage_on(seen, bucket=large_bucket.bucket)

    storage.delete_many([f"missing/{number:04}" for number in range(MANY)])

    assert [exchange.request.method for exchange in proxy.exchanges] == ["POST", "POST"]


def test_delete_prefix_deletes_all_pages(s3, storage_on):
    """More files than one page of a listing has."""
    storage = storage_on(s3)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.write(f"folder/{number:04}", b""), range(MANY)))
    storage.write("folder-beside", b"1")

    deleted = storage.delete_prefix("folder")

    assert deleted == MANY
    assert [entry.name for entry in storage.list()] == ["folder-beside"]


@pytest.mark.parametrize("bulk", [1000, 2, 0])
def test_delete_many_reports_each_file_that_could_not_be_deleted(rgw_cluster, rgw, boto_client, bulk, storage_on):
    """With bulk and with single requests: the other files are deleted."""
    bucket = rgw.make_bucket()
    storage = storage_on(rgw, bucket=bucket, preset=dataclasses.replace(PRESETS["ceph"], bulk_delete=bulk))
    for path in ("keep-1", "go-1", "keep-2", "go-2", "ünder/keep"):
        storage.write(path, b"1")
    denied = ", ".join(f'"arn:aws:s3:::{bucket}/{path}"' for path in ("keep-1", "keep-2"))
    boto_client(rgw).put_bucket_policy(
        Bucket=bucket,
        Policy='{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
        f'"Action": ["s3:DeleteObject"], "Resource": [{denied}]}}]}}',
    )

    with pytest.raises(PartialFailureError, match="2 of 6 files could not be deleted") as caught:
        storage.delete_many(["keep-1", "go-1", "missing", "keep-2", "go-2", "ünder/keep"])

    assert sorted(caught.value.errors) == ["keep-1", "keep-2"]
    for path, error in caught.value.errors.items():
        assert isinstance(error, PermissionDeniedError)
        assert path in str(error)
    assert [entry.name for entry in storage.list()] == ["keep-1", "keep-2"]
    with pytest.raises(PermissionDeniedError):
        storage.delete("keep-1")


def test_delete_prefix_raises_an_error_if_a_file_cannot_be_deleted(rgw, boto_client, storage_on):
    """It does not return a smaller number instead."""
    storage = storage_on(rgw)
    storage.write("folder/keep", b"1")
    boto_client(rgw).put_bucket_policy(
        Bucket=storage.bucket,
        Policy='{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
        f'"Action": ["s3:DeleteObject"], "Resource": ["arn:aws:s3:::{storage.bucket}/folder/keep"]}}]}}',
    )

    with pytest.raises(PermissionDeniedError):
        storage.delete_prefix("folder")

    assert storage.exists("folder/keep")


def test_keys_that_xml_cannot_represent_are_deleted_one_by_one(s3, on, boto_client):
    """XML cannot represent control characters; the other keys are deleted in bulk."""
    storage = on(s3)
    for key in ("folder/a\x01", "folder/b\x1f", "folder/c"):
        boto_client(s3).put_object(Bucket=storage.bucket, Key=storage._gateway.key(key), Body=b"1")

    deleted = storage.delete_prefix("folder")

    assert deleted == 3
    assert keys_of(boto_client(s3), storage) == []
