"""Copying inside a bucket: with everything that belongs to the object, whole or not at all, whatever its size."""

import dataclasses
import secrets

import pytest

from flask_storage import (
    FileExistsInStorageError,
    PreconditionFailedError,
    S3Preset,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
    WriteOptions,
)
from flask_storage.backends.s3.copy import copy_object
from flask_storage.backends.s3.presets import PRESETS
from tests.copies import (
    HEADERS,
    copy_all_that_belongs_to_it,
    copy_what_is_not_there,
    kept,
    move_away,
    replace_by_a_copy,
)
from tests.s3_storages import make_storage
from tests.services.scripted_proxy import Answer, ScriptedProxy, s3_error

pytest_plugins = ["tests.services.s3"]

MIB = 1 << 20
LARGE = 64 * MIB + 1  # two parts of a copy


@pytest.fixture(scope="module")
def large():
    """What takes two parts, and is no pattern."""
    return secrets.token_bytes(MIB) * 64 + b"!"


@pytest.fixture
def server(s3):
    """The S3 server."""
    return s3


@pytest.fixture
def seen(server):
    """A proxy before the server, and the server as it is seen through it."""
    yield from _behind_a_proxy(server)


def _behind_a_proxy(server):
    host, _, port = server.http.removeprefix("http://").partition(":")
    with ScriptedProxy(host, int(port)) as proxy:
        yield proxy, dataclasses.replace(server, http=proxy.url)


def copy_in_parts(storage, path, new_path, **options):
    """Copy as an object is that is larger than ours; errors are boto3's own."""
    return copy_object(
        storage._gateway, path, new_path, WriteOptions(**options), storage._workers, multipart_threshold=5 * MIB
    )


# -- at once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_copy_has_all_that_belongs_to_the_file(server, content):
    """Content, headers and metadata; no byte comes here."""
    copy_all_that_belongs_to_it(make_storage(server), content)


def test_what_is_too_large_for_one_call_goes_through_here_where_nothing_else_is_offered(s3, monkeypatch):
    """Some services copy no parts; with them a copy is a download and an upload, and the same file."""
    monkeypatch.setattr("flask_storage.backends.s3.copy.MAX_PART", 4)
    storage = make_storage(s3, preset=dataclasses.replace(PRESETS["ceph"], part_copy=False))
    storage.write("a", b"hello", **HEADERS)

    storage.copy("a", "b")

    assert storage.read("b") == b"hello"
    assert kept(storage.stat("b")) == HEADERS


def test_a_copy_replaces_its_target(server):
    """With everything that belonged to it."""
    replace_by_a_copy(make_storage(server))


def test_what_is_not_there_cannot_be_copied(server):
    """Nor moved; the target stays what it is."""
    copy_what_is_not_there(make_storage(server))


def test_a_move_leaves_nothing_behind(server):
    """But the file under its new name."""
    move_away(make_storage(server))


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["copy", "move"])
def test_an_exclusive_copy_refuses_a_taken_name(localstack, verb):
    """Both files stay what they are."""
    storage = make_storage(localstack)
    storage.write("a", b"new")
    storage.write("b", b"old")
    before = storage.stat("b")

    with pytest.raises(FileExistsInStorageError):
        getattr(storage, verb)("a", "b", exclusive=True)
    getattr(storage, verb)("a", "c", exclusive=True)

    # Not the content: LocalStack's storage has the new bytes all the same, under the old ETag.
    assert storage.stat("b") == before
    assert storage.read("c") == b"new"


def test_a_copy_may_ask_for_a_version_of_its_target(localstack):
    """Another one is left alone, and so is a name that is free."""
    storage = make_storage(localstack)
    storage.write("a", b"new")
    storage.write("b", b"old")
    before = storage.stat("b")

    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b", if_match="0" * 32)
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "c", if_match=before.etag)
    untouched = storage.stat("b")  # not the content, for LocalStack's sake: see above
    storage.copy("a", "b", if_match=before.etag)

    assert untouched == before
    assert storage.read("b") == b"new"
    assert not storage.exists("c")


def test_conditions_are_refused_where_the_service_ignores_them(rgw):
    """Rather than promised and not kept."""
    storage = make_storage(rgw)
    storage.write("a", b"1")

    with pytest.raises(UnsupportedOperationError):
        storage.copy("a", "b", exclusive=True)

    assert not storage.exists("b")


def test_conditions_count_in_parts_too(localstack, large):
    """They are decided when the copy is completed; the parts are freed."""
    storage = make_storage(localstack)
    storage.write("a", large)
    storage.write("b", b"old")

    with pytest.raises(FileExistsInStorageError):
        copy_in_parts(storage, "a", "b", exclusive=True)
    with pytest.raises(PreconditionFailedError):
        copy_in_parts(storage, "a", "b", if_match="0" * 32)

    assert storage.read("b") == b"old"
    assert list(storage.multipart.list_uploads()) == []


# -- in parts ---------------------------------------------------------------------------------------------------------


def test_a_copy_in_parts_has_all_that_belongs_to_the_file(server, large):
    """As one at once has; what is read is compared with it as ever."""
    storage = make_storage(server, verify_downloads=True)
    storage.write("a", large, **HEADERS)

    copied = copy_in_parts(storage, "a", "b")

    assert copied
    assert storage.read("b") == large
    assert kept(storage.stat("b")) == HEADERS
    assert list(storage.multipart.list_uploads()) == []


def test_a_copy_in_parts_has_the_metadata_of_others(rgw):
    """Also text that boto3 would not send, as others may have."""
    storage = make_storage(rgw)
    client = rgw.client()
    client.meta.events.register(
        "before-call.s3.PutObject",
        lambda params, **_: params["headers"].update({"x-amz-meta-color": "grün", "x-amz-meta-a": "=?x"}),
    )
    client.put_object(Bucket=storage.bucket, Key="a", Body=bytes(5 * MIB))
    client.close()

    copy_in_parts(storage, "a", "b")

    assert storage.stat("a").metadata == storage.stat("b").metadata == {"color": "grün", "a": "=?x"}


def test_a_copy_in_parts_of_a_plain_object_gains_nothing(server):
    """No metadata, no headers that were not there."""
    storage = make_storage(server, guess_content_type=False)
    storage.write("a", bytes(5 * MIB))

    copy_in_parts(storage, "a", "b")

    assert kept(storage.stat("b")) == kept(storage.stat("a"))
    assert storage.read("b") == bytes(5 * MIB)


def test_a_copy_in_parts_is_stored_as_the_profile_says(localstack):
    """Its class, its ACL, its encryption."""
    make_storage(localstack, bucket=(bucket := localstack.make_bucket())).write("a", bytes(5 * MIB))
    storage = make_storage(localstack, bucket=bucket, storage_class="STANDARD_IA", server_side_encryption="AES256")

    copy_in_parts(storage, "a", "b")

    answer = storage.client.head_object(Bucket=bucket, Key="b")
    assert answer["StorageClass"] == "STANDARD_IA"
    assert answer["ServerSideEncryption"] == "AES256"


def test_a_customers_key_opens_and_closes_the_parts(localstack):
    """Source and target have the same."""
    storage = make_storage(localstack, customer_key=bytes(range(32)))
    content = secrets.token_bytes(5 * MIB)
    storage.write("a", content)

    copy_in_parts(storage, "a", "b")

    assert storage.read("b") == content
    with pytest.raises(StorageError):
        make_storage(localstack, bucket=storage.bucket).read("b")


def test_a_failing_part_ends_the_copy(seen, large):
    """The upload is aborted after the parts on their way, and the target stays what it is."""
    proxy, server = seen
    storage = make_storage(server, max_attempts=1)
    storage.write("a", large)
    storage.write("b", b"old")
    proxy.script = lambda request: s3_error(500, "InternalError") if request.query.get("partNumber") == "2" else None

    with pytest.raises(StorageUnavailableError), storage._error_translator("a"):
        copy_in_parts(storage, "a", "b")

    assert storage.read("b") == b"old"
    assert list(storage.multipart.list_uploads()) == []
    methods = [(exchange.request.method, "uploadId" in exchange.request.query) for exchange in proxy.exchanges]
    assert methods.index(("DELETE", True)) > max(
        position
        for position, exchange in enumerate(proxy.exchanges)
        if "partNumber" in exchange.request.query and exchange.request.method == "PUT"
    )


def test_a_copy_that_cannot_be_completed_leaves_nothing(seen):
    """The parts are freed."""
    proxy, server = seen
    storage = make_storage(server, max_attempts=1)
    storage.write("a", bytes(5 * MIB))
    proxy.script = lambda request: (
        s3_error(500, "InternalError") if request.method == "POST" and "uploadId" in request.query else None
    )

    with pytest.raises(StorageUnavailableError), storage._error_translator("a"):
        copy_in_parts(storage, "a", "b")

    assert not storage.exists("b")
    assert list(storage.multipart.list_uploads()) == []


@pytest.mark.parametrize("in_parts", [False, True], ids=["at once", "in parts"])
def test_a_source_that_is_replaced_meanwhile_is_an_error(localstack, in_parts):
    """And never a mix, nor a version that nobody has looked at."""
    content = bytes(5 * MIB)
    inside = make_storage(localstack)
    inside.write("a", content)

    for proxy, server in _behind_a_proxy(localstack):
        storage = make_storage(server, bucket=inside.bucket)

        def script(request):
            if "x-amz-copy-source" in request.headers:
                inside.write("a", b"x" * (5 * MIB))

        proxy.script = script
        with pytest.raises(PreconditionFailedError), storage._error_translator("a"):
            copy_in_parts(storage, "a", "b") if in_parts else storage.copy("a", "b")

    assert not inside.exists("b")
    assert list(inside.multipart.list_uploads()) == []


# -- what a service cannot --------------------------------------------------------------------------------------------


def test_a_service_that_cannot_copy_in_parts_copies_at_once(seen):
    """Up to 5 GiB that is as good."""
    proxy, server = seen
    storage = make_storage(server, preset=S3Preset())
    storage.write("a", bytes(5 * MIB))
    before = len(proxy.exchanges)

    copied = copy_in_parts(storage, "a", "b")

    assert copied
    assert [exchange.request.method for exchange in proxy.exchanges[before:]] == ["HEAD", "PUT"]
    assert storage.size("b") == 5 * MIB


def test_a_service_that_cannot_copy_in_parts_copies_no_more_than_one_call_does(seen):
    """What is larger is told to be left to somebody else, before anything is copied."""
    proxy, server = seen
    storage = make_storage(server, preset=S3Preset())
    size = {
        "Content-Length": str(5 * (1 << 30) + 1),
        "ETag": '"0"',
        "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
    }
    proxy.script = lambda request: Answer(200, headers=size) if request.method == "HEAD" else None

    copied = copy_in_parts(storage, "a", "b")

    assert copied is False
    assert [exchange.request.method for exchange in proxy.exchanges[1:]].count("PUT") == 0
