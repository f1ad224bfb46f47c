"""keg-storage's file classes on a plain boto3 client, and rare cases of copying and verification."""

import base64
import contextlib
import io
import zlib
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from flask_storage import (
    IntegrityError,
    MemoryStorage,
    PermissionDeniedError,
    S3FileBase,
    S3Preset,
    S3Reader,
    S3Storage,
    S3Writer,
    StorageUnavailableError,
    WriteOptions,
    signals,
)
from flask_storage.backends.s3 import copy as copy_module
from flask_storage.backends.s3.errors import translate_error
from flask_storage.backends.s3.integrity import select_check
from tests.s3_storages import make_storage
from tests.services.scripted_proxy import ScriptedProxy, s3_error

pytest_plugins = ["tests.services.s3"]

MIB = 1024 * 1024


@pytest.fixture
def client(s3):
    """A plain boto3 client."""
    with contextlib.closing(s3.client()) as client:
        yield client


def test_reader_and_writer_need_no_storage(s3, client):
    """Bucket, key and client are enough to write, to abort, and to read."""
    bucket = s3.make_bucket()
    content = bytes(11 * MIB) + b"end"

    with S3Writer(bucket, "a/b.bin", client) as writer:
        writer.write(content)
    aborted = S3Writer(bucket, "never.bin", client)
    aborted.write(content)
    aborted.abort()
    with S3Reader(bucket, "a/b.bin", client) as reader:
        found = reader.read()

    assert found == content
    assert (writer.bucket, writer.filename, writer.s3) == (reader.bucket, reader.filename, reader.s3)
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/b.bin"]
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_the_base_class_has_the_attributes_of_keg_storage():
    """Subclasses find mode, bucket, key and client."""
    file = S3FileBase("r", "bucket", "key", "client")

    assert (file.mode, file.bucket, file.filename, file.s3) == ("rb", "bucket", "key", "client")


def test_list_parts_returns_all_pages(s3):
    """A page has at most a thousand parts."""
    storage = make_storage(s3)
    upload_id = storage.multipart.create("file.bin", WriteOptions())
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda number: storage.multipart.upload_part("file.bin", upload_id, number, b"x"), range(1, 1003))
        )

    listed = storage.multipart.list_parts("file.bin", upload_id)

    assert [part.number for part in listed] == list(range(1, 1003))


def test_an_unknown_service_streams_copies_above_the_limit(s3, monkeypatch):
    """Without part copy, a file above the limit of one call is downloaded and uploaded."""
    monkeypatch.setattr(copy_module, "MAX_PART", 2)
    storage = make_storage(s3, preset=S3Preset(bulk_delete=1000))
    storage.write("from.bin", b"more than two", content_type="text/plain")

    storage.copy("from.bin", "to.bin")

    assert storage.read("to.bin") == b"more than two"
    assert storage.stat("to.bin").content_type == "text/plain"


def test_a_failed_abort_of_a_copy_is_logged_and_the_first_error_is_raised(s3, caplog):
    """The log says that an upload was left."""

    def script(request):
        if "partNumber" in request.query:
            return s3_error(403, "AccessDenied")
        return s3_error(503, "SlowDown") if request.method == "DELETE" else None

    address = urlsplit(s3.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        through = make_storage(s3, endpoint_url=proxy.url)
        through.write("from.bin", bytes(6 * MIB))
        proxy.script = script

        gateway = through._gateway
        response = gateway.head("from.bin")
        with pytest.raises(ClientError, match="AccessDenied"):
            copy_module.copy_object(
                gateway, "from.bin", response, "to.bin", WriteOptions(), through._workers, multipart_threshold=5 * MIB
            )

    assert "could not abort an unfinished copy, which sweep will remove" in caplog.text


@pytest.mark.parametrize("content", [b"", b"some bytes"])
def test_a_full_object_checksum_is_verified(content):
    """Other content is detected."""
    checksum = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    response = {"ChecksumCRC32": checksum, "ChecksumType": "FULL_OBJECT", "ETag": '"x"'}

    right = select_check(response, etag_is_md5=True)
    wrong = select_check(response, etag_is_md5=True)
    assert right is not None
    assert wrong is not None
    right.update(content)
    wrong.update(content + b"!")

    right.verify()
    with pytest.raises(IntegrityError):
        wrong.verify()


@pytest.mark.parametrize(
    "response",
    [
        {"ETag": '"0123456789abcdef0123456789abcdef"', "ServerSideEncryption": "aws:kms"},
        {"ETag": '"0123456789abcdef0123456789abcdef"', "SSECustomerAlgorithm": "AES256"},
        {"ETag": '"opaque"'},
        {"ETag": '"0123456789abcdef0123456789abcdef-3"'},
    ],
    ids=str,
)
def test_an_etag_that_is_not_an_md5_digest_is_not_verified(response):
    """Nor is that of a multipart object."""
    assert select_check(response, etag_is_md5=True) is None


@pytest.mark.parametrize(
    "error", [CancelledError(), RuntimeError("cannot schedule new futures after shutdown")], ids=repr
)
def test_an_operation_that_close_interrupts_is_reported(error):
    """The error says that the storage was closed."""
    found = translate_error(error, "a.bin", "bucket", "s3")

    assert isinstance(found, StorageUnavailableError)
    assert "closed concurrently" in str(found)
    assert translate_error(RuntimeError("something else"), "a.bin", "bucket", "s3") is None


def test_denied_access_within_a_read_is_reported_as_such(s3):
    """Not as a replaced file."""
    address = urlsplit(s3.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        storage = make_storage(s3, endpoint_url=proxy.url)
        storage.write("a.bin", bytes(MIB))

        with storage.open("a.bin", "r") as reader:
            proxy.script = lambda request: s3_error(403, "AccessDenied")

            with pytest.raises(PermissionDeniedError):
                reader.read()


def test_links_in_bulk_are_signaled_one_by_one():
    """The signal link_issued is sent for each."""
    storage = S3Storage("bucket", "eu-west-1", "AKID", "secret")
    issued = []

    def note(sender, path, **extra):
        issued.append(path)

    with signals.link_issued.connected_to(note, sender=storage):
        storage.links_to(["a", "b"], "download", timedelta(hours=1))

    assert issued == ["a", "b"]


@pytest.mark.parametrize("options", [{"size": "5"}, {"size": True}, {"size": -1}, {"if_match": "a\r\nb"}], ids=str)
def test_invalid_write_options_are_rejected_before_anything_is_sent(options):
    """An invalid size, or a version that a header cannot contain."""
    storage = MemoryStorage()

    with pytest.raises(ValueError, match=next(iter(options))):
        storage.upload(io.BytesIO(b"12345"), "a.bin", **options)

    assert storage.list() == []
