"""Copying inside a bucket: atomic, with headers and metadata, for objects of any size."""

import dataclasses
import secrets
from datetime import UTC, datetime

import pytest

from flask_storage import (
    FileExistsInStorageError,
    PermissionDeniedError,
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
    check_copy_keeps_content_and_headers,
    check_copy_of_a_missing_file,
    check_copy_replaces_the_target,
    check_move,
    stored_headers,
)
from tests.s3_storages import make_storage
from tests.services.scripted_proxy import ScriptedProxy, ScriptedResponse, s3_error

pytest_plugins = ["tests.services.s3"]

MIB = 1 << 20
LARGE = 64 * MIB + 1  # two parts of a copy


@pytest.fixture(scope="module")
def large():
    """Content that takes two parts, and is not periodic."""
    return secrets.token_bytes(MIB) * 64 + b"!"


@pytest.fixture
def server(s3):
    """The S3 server."""
    return s3


@pytest.fixture
def proxied(server):
    """A scripted proxy before the server, and the server as proxied through it."""
    yield from _behind_a_proxy(server)


def _behind_a_proxy(server):
    host, _, port = server.http.removeprefix("http://").partition(":")
    with ScriptedProxy(host, int(port)) as proxy:
        yield proxy, dataclasses.replace(server, http=proxy.url)


def copy_multipart(storage, path, new_path, **options):
    """Copy with a multipart threshold of 5 MiB; errors are boto3's own."""
    gateway, workers = storage._gateway, storage._workers
    return copy_object(
        gateway, path, gateway.head(path), new_path, WriteOptions(**options), workers, multipart_threshold=5 * MIB
    )


# -- one request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_copy_has_content_headers_and_metadata(server, content):
    """The server copies them."""
    check_copy_keeps_content_and_headers(make_storage(server), content)


def test_a_file_above_the_limit_is_streamed_where_parts_cannot_be_copied(s3, monkeypatch):
    """The copy is a download and an upload, with headers and metadata."""
    monkeypatch.setattr("flask_storage.backends.s3.copy.MAX_PART", 4)
    storage = make_storage(s3, preset=dataclasses.replace(PRESETS["ceph"], part_copy=False))
    storage.write("a", b"hello", **HEADERS)

    storage.copy("a", "b")

    assert storage.read("b") == b"hello"
    assert stored_headers(storage.stat("b")) == HEADERS


def test_a_copy_replaces_its_target(server):
    """With its headers and metadata."""
    check_copy_replaces_the_target(make_storage(server))


def test_copying_a_missing_file_raises_an_error(server):
    """Moving it too; the target does not change."""
    check_copy_of_a_missing_file(make_storage(server))


def test_a_move_deletes_the_source(server):
    """The file has its new name only."""
    check_move(make_storage(server))


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_an_exclusive_copy_to_an_existing_name_is_rejected(localstack, operation):
    """Neither file changes."""
    storage = make_storage(localstack)
    storage.write("a", b"new")
    storage.write("b", b"old")
    before = storage.stat("b")

    with pytest.raises(FileExistsInStorageError):
        getattr(storage, operation)("a", "b", exclusive=True)
    getattr(storage, operation)("a", "c", exclusive=True)

    # The content is not compared: LocalStack stores the new bytes all the same, under the old ETag.
    assert storage.stat("b") == before
    assert storage.read("c") == b"new"


def test_a_copy_with_if_match_checks_the_version_of_its_target(localstack):
    """Another version is not replaced, and a missing target is not created."""
    storage = make_storage(localstack)
    storage.write("a", b"new")
    storage.write("b", b"old")
    before = storage.stat("b")

    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b", if_match="0" * 32)
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "c", if_match=before.etag)
    untouched = storage.stat("b")  # the content is not compared, as above
    storage.copy("a", "b", if_match=before.etag)

    assert untouched == before
    assert storage.read("b") == b"new"
    assert not storage.exists("c")


def test_conditions_are_rejected_where_the_service_ignores_them(rgw):
    """The storage does not claim to enforce them."""
    storage = make_storage(rgw)
    storage.write("a", b"1")

    with pytest.raises(UnsupportedOperationError):
        storage.copy("a", "b", exclusive=True)

    assert not storage.exists("b")


def test_conditions_apply_to_multipart_copies(localstack, large):
    """The service checks them at completion; the parts are freed."""
    storage = make_storage(localstack)
    storage.write("a", large)
    storage.write("b", b"old")

    with pytest.raises(FileExistsInStorageError):
        copy_multipart(storage, "a", "b", exclusive=True)
    with pytest.raises(PreconditionFailedError):
        copy_multipart(storage, "a", "b", if_match="0" * 32)

    assert storage.read("b") == b"old"
    assert list(storage.multipart.list_uploads()) == []


# -- multipart --------------------------------------------------------------------------------------------------------


def test_a_multipart_copy_has_content_headers_and_metadata(server, large):
    """Downloads of it are verified as usual."""
    storage = make_storage(server, verify_downloads=True)
    storage.write("a", large, **HEADERS)

    copied = copy_multipart(storage, "a", "b")

    assert copied
    assert storage.read("b") == large
    assert stored_headers(storage.stat("b")) == HEADERS
    assert list(storage.multipart.list_uploads()) == []


def test_a_multipart_copy_has_metadata_of_other_programs(rgw):
    """Also non-ASCII text, which boto3 would not send."""
    storage = make_storage(rgw)
    client = rgw.client()
    client.meta.events.register(
        "before-call.s3.PutObject",
        lambda params, **_: params["headers"].update({"x-amz-meta-color": "grün", "x-amz-meta-a": "=?x"}),
    )
    client.put_object(Bucket=storage.bucket, Key="a", Body=bytes(5 * MIB))
    client.close()

    copy_multipart(storage, "a", "b")

    assert storage.stat("a").metadata == storage.stat("b").metadata == {"color": "grün", "a": "=?x"}


def test_a_multipart_copy_adds_no_headers_or_metadata(server):
    """A plain object stays plain."""
    storage = make_storage(server, guess_content_type=False)
    storage.write("a", bytes(5 * MIB))

    copy_multipart(storage, "a", "b")

    assert stored_headers(storage.stat("b")) == stored_headers(storage.stat("a"))
    assert storage.read("b") == bytes(5 * MIB)


def test_storage_settings_of_the_profile_apply_to_multipart_copies(localstack):
    """Class and encryption."""
    make_storage(localstack, bucket=(bucket := localstack.make_bucket())).write("a", bytes(5 * MIB))
    storage = make_storage(localstack, bucket=bucket, storage_class="STANDARD_IA", server_side_encryption="AES256")

    copy_multipart(storage, "a", "b")

    response = storage.client.head_object(Bucket=bucket, Key="b")
    assert response["StorageClass"] == "STANDARD_IA"
    assert response["ServerSideEncryption"] == "AES256"


def test_a_multipart_copy_works_with_a_customer_key(localstack):
    """Source and target have the same key."""
    storage = make_storage(localstack, customer_key=bytes(range(32)))
    content = secrets.token_bytes(5 * MIB)
    storage.write("a", content)

    copy_multipart(storage, "a", "b")

    assert storage.read("b") == content
    with pytest.raises(StorageError):
        make_storage(localstack, bucket=storage.bucket).read("b")


def test_a_failing_part_aborts_the_copy(proxied, large):
    """After the parts in progress; the target does not change."""
    proxy, server = proxied
    storage = make_storage(server, max_attempts=1)
    storage.write("a", large)
    storage.write("b", b"old")
    proxy.script = lambda request: s3_error(500, "InternalError") if request.query.get("partNumber") == "2" else None

    with pytest.raises(StorageUnavailableError), storage._error_translator("a"):
        copy_multipart(storage, "a", "b")

    assert storage.read("b") == b"old"
    assert list(storage.multipart.list_uploads()) == []
    methods = [(exchange.request.method, "uploadId" in exchange.request.query) for exchange in proxy.exchanges]
    assert methods.index(("DELETE", True)) > max(
        position
        for position, exchange in enumerate(proxy.exchanges)
        if "partNumber" in exchange.request.query and exchange.request.method == "PUT"
    )


def test_a_multipart_copy_that_cannot_be_completed_is_aborted(proxied):
    """The parts are freed."""
    proxy, server = proxied
    storage = make_storage(server, max_attempts=1)
    storage.write("a", bytes(5 * MIB))
    proxy.script = lambda request: (
        s3_error(500, "InternalError") if request.method == "POST" and "uploadId" in request.query else None
    )

    with pytest.raises(StorageUnavailableError), storage._error_translator("a"):
        copy_multipart(storage, "a", "b")

    assert not storage.exists("b")
    assert list(storage.multipart.list_uploads()) == []


@pytest.mark.parametrize("multipart", [False, True], ids=["one request", "multipart"])
def test_a_source_that_is_replaced_concurrently_raises_an_error(localstack, multipart):
    """The copy is never a mixture of versions, nor another version than the one examined."""
    content = bytes(5 * MIB)
    direct = make_storage(localstack)
    direct.write("a", content)

    for proxy, server in _behind_a_proxy(localstack):
        storage = make_storage(server, bucket=direct.bucket)

        def script(request):
            if "x-amz-copy-source" in request.headers:
                direct.write("a", b"x" * (5 * MIB))

        proxy.script = script
        with pytest.raises(PreconditionFailedError), storage._error_translator("a"):
            copy_multipart(storage, "a", "b") if multipart else storage.copy("a", "b")

    assert not direct.exists("b")
    assert list(direct.multipart.list_uploads()) == []


def test_a_multipart_copy_has_the_tags(localstack):
    """As a copy by one request has; also tags that need encoding."""
    storage = make_storage(localstack)
    tags = [{"Key": "kind", "Value": "a +b=ü"}, {"Key": "x:y", "Value": ""}]
    storage.write("a", bytes(5 * MIB))
    storage.client.put_object_tagging(Bucket=storage.bucket, Key="a", Tagging={"TagSet": tags})

    copy_multipart(storage, "a", "b")
    storage.copy("a", "c")

    for key in ("b", "c"):
        found = storage.client.get_object_tagging(Bucket=storage.bucket, Key=key)["TagSet"]
        assert sorted(found, key=lambda tag: tag["Key"]) == tags


def test_a_multipart_copy_has_the_date_of_expiry(localstack):
    """A header that other programs store; a copy by one request has it on AWS."""
    storage = make_storage(localstack)
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    storage.client.put_object(Bucket=storage.bucket, Key="a", Body=bytes(5 * MIB), Expires=expires)

    copy_multipart(storage, "a", "b")

    assert storage.client.head_object(Bucket=storage.bucket, Key="b")["Expires"] == expires


# -- moving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copied", "streamed"])
def test_a_move_deletes_only_the_version_that_it_copied(proxied, server, monkeypatch, how):
    """Where the service deletes without a condition, the version is compared before; a new one stays."""
    proxy, proxied_server = proxied
    storage = make_storage(proxied_server, preset=S3Preset())
    direct = make_storage(server, bucket=storage.bucket)
    direct.write("a", b"first")
    if how == "streamed":
        monkeypatch.setattr("flask_storage.backends.s3.copy.MAX_PART", 4)
    heads = []

    def script(request):
        if request.method == "HEAD":
            heads.append(request)
            if len(heads) == 2:
                direct.write("a", b"new")

    proxy.script = script
    storage.move("a", "b")

    assert direct.read("a") == b"new"
    assert direct.read("b") == b"first"


def test_a_move_deletes_on_condition_of_the_copied_version(proxied, server):
    """If the service says that this is not the stored version, the move is done. LocalStack has no such condition."""
    proxy, proxied_server = proxied
    storage = make_storage(proxied_server, preset=S3Preset(delete_conditions=True))
    direct = make_storage(server, bucket=storage.bucket)
    direct.write("a", b"first")
    conditions = []

    def script(request):
        if request.method == "DELETE":
            conditions.append(request.headers["If-Match"])
            direct.write("a", b"new")
            return s3_error(412, "PreconditionFailed")
        return None

    proxy.script = script
    storage.move("a", "b")

    assert direct.read("a") == b"new"
    assert conditions == [f'"{direct.stat("b").etag}"']


def test_a_move_needs_no_further_request_where_deletions_have_conditions(proxied, server):
    """The service has compared the version."""
    proxy, proxied_server = proxied
    storage = make_storage(proxied_server, preset=S3Preset(delete_conditions=True))
    storage.write("a", b"hello")
    before = len(proxy.exchanges)
    proxy.script = lambda request: ScriptedResponse(204) if request.method == "DELETE" else None

    storage.move("a", "b")

    assert [exchange.request.method for exchange in proxy.exchanges[before:]] == ["HEAD", "PUT", "DELETE"]
    assert storage.read("b") == b"hello"


def test_a_move_succeeds_when_its_source_was_deleted_concurrently(proxied, server):
    """It exists only under its new name."""
    proxy, proxied_server = proxied
    storage = make_storage(proxied_server, preset=S3Preset(delete_conditions=True))
    direct = make_storage(server, bucket=storage.bucket)

    for answers in ([s3_error(404, "NoSuchKey")], [s3_error(501, "NotImplemented")]):
        direct.write("a", b"hello")

        def script(request, answers=answers):
            if request.method == "DELETE" and answers:
                direct.delete("a")
                return answers.pop()
            return None

        proxy.script = script
        storage.move("a", "b")

        assert [entry.name for entry in direct.list()] == ["b"]


def test_a_move_without_the_right_to_delete_is_an_error(proxied):
    """Both files exist."""
    proxy, server = proxied
    storage = make_storage(server, preset=S3Preset(delete_conditions=True))
    storage.write("a", b"hello")
    proxy.script = lambda request: s3_error(403, "AccessDenied") if request.method == "DELETE" else None

    with pytest.raises(PermissionDeniedError):
        storage.move("a", "b")

    assert storage.read("a") == storage.read("b") == b"hello"


# -- services without part copy ---------------------------------------------------------------------------------------


def test_without_part_copy_one_request_copies_the_object(proxied):
    """Up to 5 GiB."""
    proxy, server = proxied
    storage = make_storage(server, preset=S3Preset())
    storage.write("a", bytes(5 * MIB))
    before = len(proxy.exchanges)

    copied = copy_multipart(storage, "a", "b")

    assert copied
    assert [exchange.request.method for exchange in proxy.exchanges[before:]] == ["HEAD", "PUT"]
    assert storage.size("b") == 5 * MIB


def test_without_part_copy_larger_objects_are_not_copied(proxied):
    """The caller must copy them in another way; no copy request is sent."""
    proxy, server = proxied
    storage = make_storage(server, preset=S3Preset())
    size = {
        "Content-Length": str(5 * (1 << 30) + 1),
        "ETag": '"0"',
        "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
    }
    proxy.script = lambda request: ScriptedResponse(200, headers=size) if request.method == "HEAD" else None

    copied = copy_multipart(storage, "a", "b")

    assert copied is False
    assert [exchange.request.method for exchange in proxy.exchanges[1:]].count("PUT") == 0
