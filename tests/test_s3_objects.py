"""Objects of a bucket: what is kept with them, which keys they may have, and what lies there that is not ours."""

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
from tests.services.scripted_proxy import Answer, ScriptedProxy
from tests.variants import extra_variant

pytest_plugins = ["tests.services.s3"]

MIB = 1 << 20
CUSTOMER_KEY = bytes(range(32))
PART = 5 * MIB


@pytest.fixture(scope="module")
def buckets():
    """The bucket of each server; tests share it and keep apart by their prefixes."""
    return {}


@pytest.fixture(scope="module")
def session_of():
    """A boto3 session for each server: making one takes ten times as long as making a client of it."""
    made: dict[str, Any] = {}

    def session(server):
        if server.name not in made:
            made[server.name] = boto3.session.Session(server.access_key, server.secret_key, region_name=server.region)
        return made[server.name]

    return session


@pytest.fixture(scope="module")
def raw():
    """boto3's own client for a server, to put there what no storage of ours would."""
    made: dict[str, Any] = {}
    yield lambda server: made.get(server.name) or made.setdefault(server.name, server.client())
    for client in made.values():
        client.close()


@pytest.fixture(scope="module")
def storage_on(session_of):
    """Make a storage in a bucket of its own, on a server."""

    def make(server, **arguments):
        ours = {"session": session_of(server), "aws_access_key_id": None, "aws_secret_access_key": None}
        return make_storage(server, **{**ours, **arguments})

    return make


@pytest.fixture
def server(s3):
    """The S3 server."""
    return s3


@pytest.fixture
def on(buckets, storage_on):
    """Make a storage in a folder of its own, on a server."""
    folders: dict[str, str] = {}

    def make(server, **arguments):
        if server.name not in buckets:
            buckets[server.name] = server.make_bucket()
        prefix = folders.setdefault(server.name, secrets.token_hex(8))
        return storage_on(server, **{"bucket": buckets[server.name], "prefix": prefix, **arguments})

    return make


@pytest.fixture
def head(raw):
    """What the server itself says of a file."""
    return lambda server, storage, path, **more: raw(server).head_object(
        Bucket=storage.bucket, Key=storage._gateway.key(path), **more
    )


@pytest.fixture
def watched():
    """A proxy before a server, and the server as it is seen through it."""
    with contextlib.ExitStack() as stack:

        def make(server):
            host, _, port = server.http.removeprefix("http://").partition(":")
            proxy = stack.enter_context(ScriptedProxy(host, int(port)))
            return proxy, dataclasses.replace(server, http=proxy.url)

        yield make


# -- headers ----------------------------------------------------------------------------------------------------------


def test_headers_and_metadata_come_back(server, on):
    """As they were given, of a small file and of one in parts."""
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
def test_any_line_of_text_may_be_metadata(server, on, value):
    """Other text than ASCII, spaces at the ends, and what only looks like an encoded word."""
    storage = on(server)

    storage.write("a", b"1", metadata={"key": value, "other": "plain"})

    assert storage.stat("a").metadata == {"key": value, "other": "plain"}


def test_a_header_may_be_other_text_than_ascii(server, on):
    """It travels as UTF-8."""
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
def test_metadata_of_others_is_read_where_it_can_be(rgw, on, raw, sent, found):
    """S3 itself writes other text than ASCII so; what nobody can read is left as it is."""
    storage = on(rgw)
    raw(rgw).put_object(Bucket=storage.bucket, Key=storage._gateway.key("a"), Body=b"1", Metadata={"color": sent})

    info = storage.stat("a")

    assert info.metadata == {"color": found}


def test_a_header_of_others_that_is_no_utf_8_is_left_as_it_is(s3, on, watched):
    """Each byte is a character then."""
    proxy, seen = watched(s3)
    storage = on(seen)
    headers = {
        "Content-Disposition": "attachment; filename=gr\xfcn",
        "ETag": '"0"',
        "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
    }
    proxy.script = lambda _: Answer(200, headers=headers)

    info = storage.stat("a")

    assert info.content_disposition == "attachment; filename=grün"


def test_a_checksum_of_checksums_is_not_shown(localstack, on, raw):
    """It says nothing to those who do not know the parts."""
    storage, client = on(localstack), raw(localstack)
    whose = {"Bucket": storage.bucket, "Key": storage._gateway.key("a")}
    upload = client.create_multipart_upload(**whose, ChecksumAlgorithm="SHA256")["UploadId"]
    part = client.upload_part(**whose, UploadId=upload, PartNumber=1, Body=b"1", ChecksumAlgorithm="SHA256")
    named = {"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}
    client.complete_multipart_upload(**whose, UploadId=upload, MultipartUpload={"Parts": [named]})

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
def test_the_content_type_is_given_guessed_or_the_profiles(s3, on, path, given, profile, found):
    """In this order; None where nobody knows it."""
    storage = on(s3, **profile)

    storage.write(path, b"1", content_type=given)

    assert storage.stat(path).content_type == found


def test_a_service_may_not_guess_a_type_itself(localstack, on, head):
    """What has no type is stored as S3's own word for that."""
    storage = on(localstack)

    storage.write("README", b"1")

    assert head(localstack, storage, "README")["ContentType"] == "binary/octet-stream"


def test_the_profiles_cache_control_is_for_files_that_are_given_none(server, on):
    """A file's own wins."""
    storage = on(server, cache_control="max-age=60")

    storage.write("a", b"1")
    storage.write("b", b"1", cache_control="no-store")

    assert storage.stat("a").cache_control == "max-age=60"
    assert storage.stat("b").cache_control == "no-store"


def test_how_it_was_sent_is_no_content_encoding(localstack, on):
    """By https content is sent in chunks with a checksum behind it, which S3 counts as an encoding; we do not."""
    storage = on(localstack, https=True)

    storage.write("a", b"1")
    storage.write("b", b"1", content_encoding="gzip")

    assert storage.stat("a").content_encoding is None
    assert storage.stat("b").content_encoding == "gzip"


def test_what_marks_a_write_is_not_shown_as_metadata(server, on):
    """It is kept among the metadata, under a key that nobody else can have."""
    storage = on(server)

    storage.write("a", bytes(PART + 1))

    assert storage.stat("a").metadata == {}


def test_a_version_is_told_where_the_bucket_keeps_them(server, on, raw, storage_on):
    """Another one for each write."""
    storage = storage_on(server)
    raw(server).put_bucket_versioning(Bucket=storage.bucket, VersioningConfiguration={"Status": "Enabled"})

    versions = []
    for content in (b"1", b"2"):
        storage.write("a", content)
        versions.append(storage.stat("a").version)

    assert None not in versions
    assert len(set(versions)) == 2


# -- how objects are stored -------------------------------------------------------------------------------------------


def grants(client, storage, path):
    """Return whom an object is open to beside its owner."""
    acl = client.get_object_acl(Bucket=storage.bucket, Key=storage._gateway.key(path))
    return [grant["Permission"] for grant in acl["Grants"] if grant["Grantee"]["Type"] == "Group"]


@pytest.mark.parametrize("size", [1, PART + 1], ids=["at once", "in parts"])
def test_an_acl_is_set_only_where_one_is_asked_for(server, on, raw, size):
    """Amazon's own default since 2023 refuses all; so nothing is sent without a word."""
    plain, public = on(server), on(server, acl="public-read")

    plain.write("plain", bytes(size))
    public.write("public", bytes(size))
    public.copy("plain", "copied")

    assert grants(raw(server), plain, "plain") == []
    assert grants(raw(server), plain, "public") == ["READ"]
    assert grants(raw(server), plain, "copied") == ["READ"]


def test_no_header_of_an_acl_is_sent_unless_asked_for(s3, on, watched):
    """Nor a storage class, nor encryption."""
    proxy, seen = watched(s3)
    storage = on(seen)

    storage.write("a", b"1")
    storage.write("b", bytes(PART + 1))
    storage.copy("a", "c")

    sent = {name.lower() for exchange in proxy.exchanges for name in exchange.request.headers}
    assert not {name for name in sent if "acl" in name or "storage-class" in name or "encryption" in name}
    assert "x-amz-content-sha256" in sent


@pytest.mark.parametrize("size", [1, PART + 1], ids=["at once", "in parts"])
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"storage_class": "STANDARD_IA"}, {"StorageClass": "STANDARD_IA"}),
        ({"server_side_encryption": "AES256"}, {"ServerSideEncryption": "AES256"}),
        ({"kms_key_id": "some-key"}, {"ServerSideEncryption": "aws:kms"}),
        ({"kms_key_id": "some-key", "server_side_encryption": "aws:kms"}, {"ServerSideEncryption": "aws:kms"}),
    ],
)
def test_objects_are_stored_as_the_profile_says(localstack, on, head, size, arguments, found):
    """At once, in parts and as copies."""
    storage = on(localstack, **arguments)

    storage.write("a", bytes(size))
    storage.copy("a", "b")

    for path in ("a", "b"):
        answer = head(localstack, storage, path)
        assert {name: answer.get(name) for name in found} == found
        if "kms_key_id" in arguments:
            assert answer["SSEKMSKeyId"].endswith("some-key")
    assert storage.read("b") == bytes(size)


@pytest.fixture(
    params=[("localstack", False), ("localstack", True), pytest.param(("rgw", True), marks=extra_variant)], ids=str
)
def keyed(request, on):
    """A server that takes a customer's key, whether by https, and a storage with one."""
    name, https = request.param
    server = request.getfixturevalue(name)
    return server, on(server, https=https, customer_key=CUSTOMER_KEY), on(server, https=https)


def test_a_customers_key_opens_what_it_has_closed(keyed):
    """Every verb works with it, on files at once and in parts, and none without."""
    _, storage, without = keyed
    large = secrets.token_bytes(PART + 1)

    storage.write("small", b"hello", metadata={"a": "b"})
    storage.write("large", large)

    assert storage.read("small") == b"hello"
    assert storage.read("large") == large
    assert storage.stat("small").metadata == {"a": "b"}
    assert {entry.name for entry in storage.list()} == {"large", "small"}
    for refused in (lambda: without.read("small"), lambda: without.stat("small"), lambda: without.read("large")):
        with pytest.raises(StorageError):
            refused()


def test_what_a_customers_key_has_closed_can_be_copied(keyed):
    """The copy is closed with the same key. Ceph does not copy it, so that the content comes through here."""
    _, storage, without = keyed
    storage.write("a", b"hello", metadata={"a": "b"})

    storage.copy("a", "copied")
    storage.move("a", "moved")

    assert storage.read("copied") == storage.read("moved") == b"hello"
    assert storage.stat("copied").metadata == {"a": "b"}
    with pytest.raises(StorageError):
        without.read("copied")


def test_another_customers_key_opens_nothing(keyed, on):
    """The text does not hold the keys."""
    server, storage, without = keyed
    storage.write("a", b"hello")
    https = without.client.meta.endpoint_url.startswith("https")
    other = on(server, https=https, customer_key=bytes(32))

    with pytest.raises(StorageError) as caught:
        other.read("a")

    assert not isinstance(caught.value, FileNotFoundInStorageError)
    assert "AAAA" not in str(caught.value)


def test_uploads_in_parts_with_a_customers_key_can_be_driven_by_hand(keyed):
    """Each call sends the key."""
    _, storage, _ = keyed

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
def test_any_legal_path_goes_through_every_verb(server, on, key):
    """Whatever has to be escaped on the way, as a path, in a query, in XML or as the source of a copy."""
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
def test_deleting_once_and_twice_is_the_same(server, on, path):
    """One by one and many at a time."""
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
def littered(server, on, raw):
    """A storage with a few files of ours, and keys that no verb would take beside them."""
    storage = on(server)
    for key in FOREIGN:
        raw(server).put_object(Bucket=storage.bucket, Key=f"{storage._gateway.prefix}{key}", Body=b"1")
    for path in ("a/ours", "folder/ours", "ours"):
        storage.write(path, b"1")
    return storage


def keys_of(client, storage):
    """Return what lies below the prefix, as the server itself tells it."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=storage.bucket, Prefix=storage._gateway.prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return sorted(key.removeprefix(storage._gateway.prefix) for key in keys)


@pytest.mark.parametrize("details", [False, True])
def test_listing_leaves_out_what_no_verb_would_take(littered, caplog, details):
    """And says once how many that were; empty folders that a console made are none."""
    found = [
        entry.path if hasattr(entry, "path") else entry.name  # a FileInfo, or a ListEntry
        for entry in littered.iter(details=details)
    ]

    assert sorted(found) == ["a/ours", "folder/ours", "ours"]
    assert "are no paths and were skipped" in caplog.text


def test_a_listing_of_one_level_leaves_them_out_too(littered):
    """A folder that somebody has made by its name alone is a folder."""
    found = [entry.name for entry in littered.list("folder", recursive=False)]

    assert found == ["folder/ours", "folder/trailing/"]


def test_deleting_a_folder_deletes_them_too(littered, server, raw):
    """Whatever their names; what lies beside the folder stays."""
    before = keys_of(raw(server), littered)

    deleted = littered.delete_prefix("folder")

    left = keys_of(raw(server), littered)
    assert left == [key for key in before if not key.startswith("folder/")]
    assert deleted == len(before) - len(left) - 1  # a name that ends in a slash is no file


@pytest.mark.parametrize("path", ["../x", "a//b", "a/../b", "trailing/", "/../x", "con\x01trol"])
def test_no_verb_takes_such_a_name(s3, on, path):
    """Nothing is asked of the service."""
    storage = on(s3)

    for verb in (storage.read, storage.stat, storage.exists, storage.delete):
        with pytest.raises(InvalidPathError):
            verb(path)


# -- prefixes ---------------------------------------------------------------------------------------------------------


def test_a_prefix_confines_a_storage(server, raw, storage_on):
    """No verb sees or touches what lies outside, be it a neighbour whose name begins alike."""
    outer = storage_on(server)
    inner = storage_on(server, bucket=outer.bucket, prefix="a")
    for path in ("ab/x", "a.txt", "b/x", "x", "a/x", "a/sub/y"):
        outer.write(path, path.encode())

    seen = [entry.name for entry in inner.list()]
    by_prefix = [entry.name for entry in inner.list(prefix="s")]
    level = [entry.name for entry in inner.list(recursive=False)]
    details = sorted(info.path for info in inner.iter(details=True))
    inner.copy("x", "copied")
    inner.move("copied", "moved")
    inner.write("b/x", b"inner")
    deleted = inner.delete_prefix("sub"), inner.delete_prefix("b")
    inner.delete_many(["moved", "ab/x"])

    assert seen == details == ["sub/y", "x"]
    assert by_prefix == ["sub/y"]
    assert level == ["sub/", "x"]
    assert deleted == (1, 1)
    assert {path: outer.read(path) for path in [entry.name for entry in outer.list()]} == {
        path: path.encode() for path in ("ab/x", "a.txt", "b/x", "x", "a/x")
    }


def test_a_sweep_stays_below_the_prefix(server, storage_on):
    """Uploads of others are theirs."""
    outer = storage_on(server)
    inner = storage_on(server, bucket=outer.bucket, prefix="a")
    for path in ("ab/x", "x", "a/x", "a/sub/x"):
        outer.multipart.create(path, WriteOptions())

    pending = sorted(upload.path for upload in inner.multipart.list_uploads())
    in_folder = [upload.path for upload in inner.multipart.list_uploads("sub")]
    young = inner.sweep(timedelta(hours=1))
    swept = inner.sweep(timedelta(seconds=-60))  # the server's clock counts whole seconds

    assert pending == ["sub/x", "x"]
    assert in_folder == ["sub/x"]
    assert (young, swept) == (0, 2)
    assert sorted(upload.path for upload in outer.multipart.list_uploads()) == ["ab/x", "x"]


def test_a_sweep_is_refused_where_uploads_cannot_be_listed(s3, on):
    """With what to do instead."""
    storage = on(s3, preset=S3Preset(upload_listing=False))

    with pytest.raises(NotImplementedError, match="cannot list unfinished uploads: have the service abort them"):
        storage.sweep()


# -- many -------------------------------------------------------------------------------------------------------------

MANY = 1005  # a page of a listing and a list of deletions hold a thousand


@pytest.fixture(scope="module")
def crowded(s3, storage_on):
    """A storage with more files than a page takes, in two folders."""
    storage = storage_on(s3)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.write(f"folder-{number % 2}/{number:04}", b""), range(MANY)))
    return storage


def test_a_listing_takes_as_many_pages_as_there_are(crowded):
    """Each file comes once."""
    found = [entry.name for entry in crowded.list()]

    assert found == sorted(f"folder-{number % 2}/{number:04}" for number in range(MANY))


def test_a_listing_of_one_level_takes_one_request_for_any_number_of_files(crowded, s3, watched, storage_on):
    """The service puts folders together."""
    proxy, seen = watched(s3)
    storage = storage_on(seen, bucket=crowded.bucket)

    found = [entry.name for entry in storage.list(recursive=False)]

    assert found == ["folder-0/", "folder-1/"]
    assert len(proxy.exchanges) == 1


def test_pages_are_asked_for_when_they_are_needed(crowded, s3, watched, storage_on):
    """The first entry costs one request, all of them two."""
    proxy, seen = watched(s3)
    storage = storage_on(seen, bucket=crowded.bucket)

    entries = storage.iter()
    asked = [len(proxy.exchanges)]
    next(entries)
    asked.append(len(proxy.exchanges))
    rest = sum(1 for _ in entries)
    asked.append(len(proxy.exchanges))

    assert asked == [0, 1, 2]
    assert rest == MANY - 1


def test_details_of_the_first_files_cost_few_requests(crowded, s3, watched, storage_on):
    """One for the page, and as many at once as the storage may."""
    proxy, seen = watched(s3)
    storage = storage_on(seen, bucket=crowded.bucket, concurrency=4)

    found = list(itertools.islice(storage.iter(details=True), 2))

    assert [info.size for info in found] == [0, 0]
    assert len(proxy.exchanges) <= 1 + 4


def test_details_leave_out_what_has_vanished_meanwhile(s3, on, watched):
    """Between the listing and the question."""
    proxy, seen = watched(s3)
    storage = on(seen)
    for path in ("a", "b"):
        storage.write(path, b"1")
    other = on(s3)

    def script(request):
        if request.method == "HEAD":
            other.delete("a")

    proxy.script = script

    assert [info.path for info in storage.iter(details=True)] == ["b"]


def test_many_are_deleted_a_thousand_at_a_time(s3, crowded, watched, storage_on):
    """Two requests for 1,005 of them, missing ones among them; each is told to those who listen."""
    proxy, seen = watched(s3)
    storage = storage_on(seen, bucket=crowded.bucket)

    storage.delete_many([f"missing/{number:04}" for number in range(MANY)])

    assert [exchange.request.method for exchange in proxy.exchanges] == ["POST", "POST"]


def test_a_crowded_folder_is_deleted_whole(s3, storage_on):
    """Every page of it."""
    storage = storage_on(s3)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.write(f"folder/{number:04}", b""), range(MANY)))
    storage.write("folder-beside", b"1")

    deleted = storage.delete_prefix("folder")

    assert deleted == MANY
    assert [entry.name for entry in storage.list()] == ["folder-beside"]


@pytest.mark.parametrize("bulk", [1000, 2, 0])
def test_what_could_not_be_deleted_is_told_for_each(rgw_cluster, rgw, raw, bulk, storage_on):
    """By one call for many or by one for each: the others are gone, the refused ones are still there."""
    bucket = rgw.make_bucket()
    storage = storage_on(rgw, bucket=bucket, preset=dataclasses.replace(PRESETS["ceph"], bulk_delete=bulk))
    for path in ("keep-1", "go-1", "keep-2", "go-2", "ünder/keep"):
        storage.write(path, b"1")
    denied = ", ".join(f'"arn:aws:s3:::{bucket}/{path}"' for path in ("keep-1", "keep-2"))
    raw(rgw).put_bucket_policy(
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


def test_a_folder_that_cannot_be_deleted_whole_is_an_error(rgw, raw, storage_on):
    """And no smaller number."""
    storage = storage_on(rgw)
    storage.write("folder/keep", b"1")
    raw(rgw).put_bucket_policy(
        Bucket=storage.bucket,
        Policy='{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
        f'"Action": ["s3:DeleteObject"], "Resource": ["arn:aws:s3:::{storage.bucket}/folder/keep"]}}]}}',
    )

    with pytest.raises(PermissionDeniedError):
        storage.delete_prefix("folder")

    assert storage.exists("folder/keep")


def test_keys_that_no_list_could_hold_are_deleted_one_by_one(s3, on, raw):
    """XML cannot write control characters; the keys beside them go all the same."""
    storage = on(s3)
    for key in ("folder/a\x01", "folder/b\x1f", "folder/c"):
        raw(s3).put_object(Bucket=storage.bucket, Key=storage._gateway.key(key), Body=b"1")

    deleted = storage.delete_prefix("folder")

    assert deleted == 3
    assert keys_of(raw(s3), storage) == []
