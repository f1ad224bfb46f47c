"""The seed's file classes on a plain client, and the corners of a service that seldom show."""

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
    """A boto3 client as anybody makes one."""
    with contextlib.closing(s3.client()) as made:
        yield made


def test_the_seeds_classes_need_no_storage(s3, client):
    """Bucket, key and client are enough to write, to give up, and to read."""
    bucket = s3.make_bucket()
    content = bytes(11 * MIB) + b"end"

    with S3Writer(bucket, "a/b.bin", client) as writer:
        writer.write(content)
    given_up = S3Writer(bucket, "never.bin", client)
    given_up.write(content)
    given_up.abort()
    with S3Reader(bucket, "a/b.bin", client) as reader:
        found = reader.read()

    assert found == content
    assert (writer.bucket, writer.filename, writer.s3) == (reader.bucket, reader.filename, reader.s3)
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/b.bin"]
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_the_seeds_base_class_keeps_what_it_is_given():
    """Whoever subclasses it finds mode, bucket, key and client where they were."""
    file = S3FileBase("r", "bucket", "key", "client")

    assert (file.mode, file.bucket, file.filename, file.s3) == ("rb", "bucket", "key", "client")


def test_more_parts_than_fit_one_page_are_listed(s3):
    """The service tells a thousand at a time."""
    storage = make_storage(s3)
    upload_id = storage.multipart.create("file.bin", WriteOptions())
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda number: storage.multipart.upload_part("file.bin", upload_id, number, b"x"), range(1, 1003))
        )

    listed = storage.multipart.list_parts("file.bin", upload_id)

    assert [part.number for part in listed] == list(range(1, 1003))


def test_what_a_service_cannot_copy_goes_through_the_app(s3, monkeypatch):
    """Where there is no copying in parts, a file beyond the limit of one call is read and written."""
    monkeypatch.setattr(copy_module, "MAX_PART", 2)
    storage = make_storage(s3, preset=S3Preset(bulk_delete=1000))
    storage.write("from.bin", b"more than two", content_type="text/plain")

    storage.copy("from.bin", "to.bin")

    assert storage.read("to.bin") == b"more than two"
    assert storage.stat("to.bin").content_type == "text/plain"


def test_trouble_with_clearing_away_a_copy_hides_nothing(s3, caplog):
    """What made it give up is raised, and what was left behind is in the log."""

    def script(request):
        if "partNumber" in request.query:
            return s3_error(403, "AccessDenied")
        return s3_error(503, "SlowDown") if request.method == "DELETE" else None

    address = urlsplit(s3.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        through = make_storage(s3, endpoint_url=proxy.url)
        through.write("from.bin", bytes(6 * MIB))
        proxy.script = script

        with pytest.raises(ClientError, match="AccessDenied"):
            copy_module.copy_object(
                through._gateway, "from.bin", "to.bin", WriteOptions(), through._workers, multipart_threshold=5 * MIB
            )

    assert "an unfinished copy was left behind for the sweep" in caplog.text


@pytest.mark.parametrize("content", [b"", b"some bytes"])
def test_a_checksum_of_the_whole_is_compared(content):
    """Where a service keeps one, other bytes are found out."""
    kept = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    answer = {"ChecksumCRC32": kept, "ChecksumType": "FULL_OBJECT", "ETag": '"x"'}

    right = select_check(answer, etag_is_md5=True)
    wrong = select_check(answer, etag_is_md5=True)
    assert right is not None
    assert wrong is not None
    right.update(content)
    wrong.update(content + b"!")

    right.verify()
    with pytest.raises(IntegrityError):
        wrong.verify()


@pytest.mark.parametrize(
    "answer",
    [
        {"ETag": '"0123456789abcdef0123456789abcdef"', "ServerSideEncryption": "aws:kms"},
        {"ETag": '"0123456789abcdef0123456789abcdef"', "SSECustomerAlgorithm": "AES256"},
        {"ETag": '"opaque"'},
        {"ETag": '"0123456789abcdef0123456789abcdef-3"'},
    ],
    ids=str,
)
def test_an_etag_that_is_no_md5_is_not_taken_for_one(answer):
    """Nor is one of parts."""
    assert select_check(answer, etag_is_md5=True) is None


@pytest.mark.parametrize(
    "error", [CancelledError(), RuntimeError("cannot schedule new futures after shutdown")], ids=repr
)
def test_what_a_closed_storage_cut_off_is_told(error):
    """Work that was called back is no mystery to the caller."""
    found = translate_error(error, "a.bin", "bucket", "s3")

    assert isinstance(found, StorageUnavailableError)
    assert "closed meanwhile" in str(found)
    assert translate_error(RuntimeError("something else"), "a.bin", "bucket", "s3") is None


def test_a_refusal_in_the_middle_of_a_read_is_a_refusal(s3):
    """It is told as what it is, and not as another version."""
    address = urlsplit(s3.http)
    with ScriptedProxy(address.hostname or "", address.port or 0) as proxy:
        storage = make_storage(s3, endpoint_url=proxy.url)
        storage.write("a.bin", bytes(MIB))

        with storage.open("a.bin", "r") as reader:
            proxy.script = lambda request: s3_error(403, "AccessDenied")

            with pytest.raises(PermissionDeniedError):
                reader.read()


def test_links_in_bulk_are_announced_one_by_one():
    """Whoever audits hears of each."""
    storage = S3Storage("bucket", "eu-west-1", "AKID", "secret")
    issued = []

    def note(sender, path, **extra):
        issued.append(path)

    with signals.link_issued.connected_to(note, sender=storage):
        storage.links_to(["a", "b"], "download", timedelta(hours=1))

    assert issued == ["a", "b"]


@pytest.mark.parametrize("options", [{"size": "5"}, {"size": True}, {"size": -1}, {"if_match": "a\r\nb"}], ids=str)
def test_a_promise_that_makes_no_sense_is_refused_before_anything_is_sent(options):
    """So is a version that no header could name."""
    storage = MemoryStorage()

    with pytest.raises(ValueError, match=next(iter(options))):
        storage.upload(io.BytesIO(b"12345"), "a.bin", **options)

    assert storage.list() == []
