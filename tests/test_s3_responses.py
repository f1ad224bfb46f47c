"""Unusual and missing responses of the service: the right error, or success, and nothing left behind."""

import dataclasses
import hashlib
import io
from datetime import timedelta
from urllib.parse import unquote

import pytest

from flask_storage import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    ThrottledError,
    WriteOptions,
)
from flask_storage.backends.s3.presets import PRESETS
from flask_storage.multipart import Part
from tests.s3_storages import make_storage
from tests.scripted_backend import ScriptedBackend
from tests.services.scripted_proxy import LostResponse, Request, ScriptedResponse, s3_error
from tests.variants import variants

pytest_plugins = ["tests.services.s3"]

NOW = timedelta(0)
OLD, NEW = b"old" * 1000, b"new" * 1000
LARGE = bytes(range(256)) * (4096 * 6)  # 6 MiB: two parts


class ScriptedS3(ScriptedBackend):
    """A bucket, with a storage that reaches it directly and one that reaches it through a scripted proxy.

    Args:
        server: The server that has the bucket.
    """

    def __init__(self, server):
        super().__init__(server.http, operation)
        self.server = server
        self.bucket = server.make_bucket()
        self.direct = self.storage(server)
        self.proxied = dataclasses.replace(server, http=self.proxy.url)
        self.through = self.storage(self.proxied, max_attempts=2)

    def storage(self, server, **arguments):
        """Return a storage on the bucket."""
        if server.name == "localstack" and "preset" not in arguments:
            arguments["preset"] = dataclasses.replace(PRESETS["aws"], copy_conditions=False)
        self.storages.append(make_storage(server, bucket=self.bucket, **arguments))
        return self.storages[-1]

    def unfinished_uploads(self):
        """Return the multipart uploads that are neither completed nor aborted."""
        return list(self.direct.multipart.list_uploads())

    def close(self):
        """Remove the bucket and all connections."""
        super().close()
        self.server.remove_bucket(self.bucket)


def operation(request):
    """Return the S3 operation of a request."""
    names = set(request.query) - {"prefix", "max-keys"}
    if "uploads" in names:
        return "CreateMultipartUpload" if request.method == "POST" else "ListMultipartUploads"
    if "uploadId" in names:
        return {
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }[request.method]
    return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}[request.method]


@pytest.fixture(scope="module")
def services(request):
    """Return a function that makes one ScriptedS3 for each server."""
    made = {}

    def service(name):
        if name not in made:
            made[name] = ScriptedS3(request.getfixturevalue(name))
        return made[name]

    yield service
    for each in made.values():
        each.close()


@pytest.fixture(params=variants("localstack", "rgw"))
def service(services, request):
    """LocalStack behind the scripted proxy, or the server that the test names, with the old content stored."""
    made = services(request.param)
    made.pass_on()
    made.direct.write("a.bin", OLD)
    yield made
    made.pass_on()
    unfinished = made.unfinished_uploads()
    made.direct.sweep(NOW)
    for entry in made.direct.list():
        made.direct.delete(entry.name)
    assert not unfinished


def on(*names):
    """Run a test on each of these servers."""
    return pytest.mark.parametrize("service", names, indirect=True)


SERVER_ERRORS = [s3_error(500, "InternalError"), s3_error(503, "SlowDown"), s3_error(503, "ServiceUnavailable")]
SERVER_ERRORS_IDS = ["500", "slow down", "503"]
WRITES = {
    "PutObject": NEW,
    "CreateMultipartUpload": LARGE,
    "UploadPart": LARGE,
    "CompleteMultipartUpload": LARGE,
}

# -- errors of the service --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_error", SERVER_ERRORS, ids=SERVER_ERRORS_IDS)
@pytest.mark.parametrize("step", WRITES)
def test_a_write_is_retried_after_one_server_error(service, step, server_error):
    """The request is sent again, and succeeds."""
    service.script(step, server_error)

    service.through.write("a.bin", WRITES[step])

    assert service.direct.read("a.bin") == WRITES[step]
    assert service.operations().count(step) == (3 if step == "UploadPart" else 2)


@pytest.mark.parametrize("server_error", SERVER_ERRORS, ids=SERVER_ERRORS_IDS)
@pytest.mark.parametrize("step", WRITES)
def test_a_write_fails_after_repeated_server_errors(service, step, server_error):
    """The error says what is wrong; the old content stays, and no unfinished upload is left."""
    service.script(step, server_error, ...)
    kind = ThrottledError if b"SlowDown" in server_error.body else StorageUnavailableError

    with pytest.raises(kind, match=r"a\.bin in the bucket .*: (send fewer requests|try again)") as caught:
        service.through.write("a.bin", WRITES[step])

    assert type(caught.value) is kind
    assert service.direct.read("a.bin") == OLD


@pytest.mark.parametrize("server_error", SERVER_ERRORS, ids=SERVER_ERRORS_IDS)
def test_a_read_is_retried_once_and_fails_after_repeated_server_errors(service, server_error):
    """As a write does."""
    service.script("GetObject", server_error)
    assert service.through.read("a.bin") == OLD
    service.script("GetObject", server_error, ...)

    with pytest.raises(StorageUnavailableError, match=r"send fewer requests|try again"):
        service.through.read("a.bin")


def test_a_part_is_retried_after_the_attempts_of_boto3(service):
    """boto3's own attempts are used up; the part is sent once more."""
    service.script("UploadPart", *[s3_error(500, "InternalError")] * 2)

    service.through.write("a.bin", LARGE)

    assert service.direct.read("a.bin") == LARGE


def test_an_html_response_of_a_proxy_is_classified_by_its_status(service):
    """The body is not XML of S3; the status 502 is enough."""
    page = ScriptedResponse(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", {"Content-Type": "text/html"})
    service.script("PutObject", page, ...)

    with pytest.raises(StorageUnavailableError, match="not available: try again"):
        service.through.write("a.bin", NEW)

    assert service.direct.read("a.bin") == OLD


@pytest.mark.parametrize("operation_name", ["write", "read", "stat"])
def test_an_empty_403_response_is_denied_access(service, operation_name):
    """Some firewalls send such a response."""
    service.proxy.script = lambda request: ScriptedResponse(403)
    call = {
        "write": lambda: service.through.write("a.bin", NEW),
        "read": lambda: service.through.read("a.bin"),
        "stat": lambda: service.through.stat("a.bin"),
    }[operation_name]

    with pytest.raises(PermissionDeniedError, match="access is denied: a policy must allow this"):
        call()

    assert service.direct.read("a.bin") == OLD


@pytest.mark.parametrize("status", [301, 307])
@pytest.mark.parametrize("operation_name", ["write", "read", "stat"])
def test_a_redirect_names_the_right_region(service, operation_name, status):
    """It is not followed: the signature is valid for one endpoint only."""
    body = s3_error(status, "PermanentRedirect").body
    headers = {"Content-Type": "application/xml", "x-amz-bucket-region": "eu-west-9"}
    service.proxy.script = lambda request: ScriptedResponse(status, b"" if request.method == "HEAD" else body, headers)
    call = {
        "write": lambda: service.through.write("a.bin", NEW),
        "read": lambda: service.through.read("a.bin"),
        "stat": lambda: service.through.stat("a.bin"),
    }[operation_name]

    with pytest.raises(StorageError) as caught:
        call()

    assert isinstance(caught.value, ConfigurationError)
    assert "set aws_region to eu-west-9" in str(caught.value)


REFUSALS = {
    "ExpiredToken": (400, PermissionDeniedError, "have expired: get new ones"),
    "BadDigest": (400, IntegrityError, "content changed in transit"),
    "RequestTimeTooSkewed": (403, PermissionDeniedError, "with NTP"),
    "NoSuchBucket": (404, ConfigurationError, "no such bucket"),
    "OperationAborted": (409, StorageUnavailableError, "try again"),
}


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("step", WRITES)
def test_a_rejected_write_leaves_nothing_behind(service, step, code):
    """At each step: the error says why, the old content stays, and no unfinished upload is left."""
    status, kind, text = REFUSALS[code]
    service.script(step, s3_error(status, code), ...)

    with pytest.raises(kind, match=text):
        service.through.write("a.bin", WRITES[step])

    assert service.direct.read("a.bin") == OLD


# -- multipart uploads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_an_error_in_a_200_response_is_an_error(service, code):
    """S3 sends the status 200 before CompleteMultipartUpload is done, and may then report an error in the body."""
    service.script("CompleteMultipartUpload", s3_error(500, code, as_status=200), ...)

    with pytest.raises(StorageUnavailableError):
        service.through.write("a.bin", LARGE)

    assert service.direct.read("a.bin") == OLD


def test_one_error_in_a_200_response_is_retried(service):
    """The second attempt completes the upload."""
    service.script("CompleteMultipartUpload", s3_error(500, "InternalError", as_status=200))

    service.through.write("a.bin", LARGE)

    assert service.direct.read("a.bin") == LARGE


def test_a_failed_completion_keeps_its_error_without_the_right_to_list_parts(service):
    """Without that right it is unknown whether the upload still exists; the first error is raised."""
    failures = {
        "CompleteMultipartUpload": s3_error(500, "InternalError", as_status=200),
        "ListParts": s3_error(403, "AccessDenied"),
    }
    service.proxy.script = lambda request: failures.get(operation(request))

    with pytest.raises(StorageUnavailableError):
        service.through.write("a.bin", LARGE)

    assert service.direct.read("a.bin") == OLD


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("step", ["PutObject", "CompleteMultipartUpload"])
def test_a_write_succeeds_when_its_response_is_lost(service, step, lost):
    """Also when the retry is rejected; the stored object confirms the write."""
    service.script(step, *[LostResponse(after_server=True)] * lost)

    service.through.write("a.bin", WRITES[step])

    assert service.direct.read("a.bin") == WRITES[step]
    assert service.operations().count("CreateMultipartUpload") == (step != "PutObject")


@pytest.mark.parametrize("step", ["PutObject", "CompleteMultipartUpload"])
def test_a_write_succeeds_when_an_error_follows_it(service, step):
    """A gateway timed out waiting for a server that executed the request."""
    service.script(step, *[s3_error(504, "GatewayTimeout", after_server=True)] * 2)

    service.through.write("a.bin", WRITES[step])

    assert service.direct.read("a.bin") == WRITES[step]


def test_a_lost_completion_is_not_confirmed_without_md5_etags(service):
    """Where the ETags of the parts are not MD5 digests, the client cannot compute the ETag of the stored object."""
    upload_id = service.through.multipart.create("a.bin", WriteOptions())
    service.script("CompleteMultipartUpload", LostResponse(after_server=False), ...)

    with pytest.raises(StorageUnavailableError):
        service.through.multipart.complete("a.bin", upload_id, [Part(number=1, size=1, etag="opaque")], WriteOptions())

    service.direct.multipart.abort("a.bin", upload_id)
    assert service.direct.read("a.bin") == OLD


@on("localstack")
@pytest.mark.parametrize("step", ["PutObject", "CompleteMultipartUpload"])
def test_an_exclusive_write_succeeds_when_its_response_is_lost(service, step):
    """The retry is rejected because the first attempt created the object."""
    service.script(step, LostResponse(after_server=True))

    service.through.write("new.bin", WRITES[step], exclusive=True)

    assert service.direct.read("new.bin") == WRITES[step]


@on("localstack")
@pytest.mark.parametrize("step", ["PutObject", "CompleteMultipartUpload"])
@pytest.mark.parametrize("lost", [False, True])
def test_an_exclusive_write_to_an_existing_name_is_rejected(service, step, lost):
    """Also when the request was lost once; the stored content stays."""
    service.script(step, *[LostResponse(after_server=False)] * lost)

    with pytest.raises(FileExistsInStorageError, match="exists: choose another name"):
        service.through.write("a.bin", WRITES[step], exclusive=True)

    assert service.direct.read("a.bin") == OLD


@on("localstack")
@pytest.mark.parametrize("step", ["PutObject", "CompleteMultipartUpload"])
def test_an_exclusive_write_is_not_confirmed_by_equal_content_of_another_client(service, step):
    """Of two clients that write the same content, as for a lock, only one succeeds, whatever is lost."""
    service.direct.write("a.bin", WRITES[step])
    service.script(step, LostResponse(after_server=False))

    with pytest.raises(FileExistsInStorageError):
        service.through.write("a.bin", WRITES[step], exclusive=True)


@on("localstack")
@pytest.mark.parametrize("step", ["PutObject", "CompleteMultipartUpload"])
def test_a_409_response_reports_a_concurrent_write(service, step):
    """It is not retried: that would overwrite the content of the other client."""
    service.script(step, s3_error(409, "ConditionalRequestConflict"), ...)

    with pytest.raises(PreconditionFailedError, match="check what is stored, and try again"):
        service.through.write("new.bin", WRITES[step], exclusive=True)

    assert not service.direct.exists("new.bin")


def test_a_part_response_without_an_etag_raises_an_error(service):
    """The upload cannot be completed without it."""
    service.script("UploadPart", ScriptedResponse(200), ...)

    with pytest.raises(StorageError):
        service.through.write("a.bin", LARGE)

    assert service.direct.read("a.bin") == OLD


def test_a_truncated_etag_is_treated_as_missing(service):
    """The response ended within the header."""
    service.proxy.script = lambda request: ScriptedResponse(
        200, b"", {"ETag": '"0123', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
    )

    with pytest.raises(StorageError, match="no ETag"):
        service.through.stat("a.bin")


@pytest.mark.parametrize("operation_name", ["read", "stat"])
def test_a_response_without_last_modified_raises_an_error(service, operation_name):
    """The time is not guessed."""
    service.proxy.script = lambda request: ScriptedResponse(200, OLD, {"ETag": '"0123"'})

    with pytest.raises(StorageError):
        getattr(service.through, operation_name)("a.bin")


@pytest.mark.parametrize("step", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
def test_a_response_without_required_content_is_retried(service, step):
    """The connection may have ended within its headers."""
    service.script(step, ScriptedResponse(200))

    service.through.write("a.bin", LARGE)

    assert service.direct.read("a.bin") == LARGE


@pytest.mark.parametrize("step", ["PutObject", "CompleteMultipartUpload"])
def test_the_response_to_the_final_step_needs_no_etag(service, step):
    """The status 200 is enough."""
    done = b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
    body = done if step == "CompleteMultipartUpload" else b""
    service.script(step, ScriptedResponse(200, body, after_server=True))

    service.through.write("a.bin", WRITES[step])

    assert service.direct.read("a.bin") == WRITES[step]


@pytest.mark.parametrize("operation_name", ["read", "stat"])
def test_a_response_without_an_etag_raises_an_error(service, operation_name):
    """Without it the version cannot be identified."""
    service.proxy.script = lambda request: ScriptedResponse(
        200, OLD, {"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
    )

    with pytest.raises(StorageError):
        getattr(service.through, operation_name)("a.bin")


@pytest.mark.parametrize("step", ["UploadPart", "CompleteMultipartUpload"])
def test_an_upload_that_is_aborted_concurrently_raises_an_error(service, step):
    """A sweep that runs too early removes the parts; the stored content stays."""
    seen: list[Request] = []

    def respond(request):
        if operation(request) == step and not seen:
            seen.append(request)
            service.direct.sweep(NOW)

    service.proxy.script = respond

    # LocalStack does not answer a part of an upload that is gone, so that only the retry gets a response.
    through = service.storage(dataclasses.replace(service.server, http=service.proxy.url), read_timeout=2)
    with pytest.raises(FileNotFoundInStorageError, match=r"a\.bin \(upload\)"):
        through.write("a.bin", LARGE)

    assert service.direct.read("a.bin") == OLD


def test_a_failed_abort_is_logged_and_the_first_error_is_raised(service, caplog):
    """The sweep removes the upload later."""

    def respond(request):
        if operation(request) == "UploadPart":
            return s3_error(403, "AccessDenied")
        return s3_error(500, "InternalError") if operation(request) == "AbortMultipartUpload" else None

    service.proxy.script = respond

    with pytest.raises(PermissionDeniedError):
        service.through.write("a.bin", LARGE)

    assert "could not remove an unfinished write, which sweep will remove" in caplog.text
    assert len(service.unfinished_uploads()) == 1
    service.proxy.script = lambda request: None
    service.direct.sweep(NOW)
    assert service.direct.read("a.bin") == OLD


# -- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation_name", ["download", "open"])
@pytest.mark.parametrize("short", [0, 1, len(OLD) - 1])
def test_the_rest_of_a_truncated_body_is_requested(service, operation_name, short):
    """The announced length is right, and a second request fetches the missing bytes."""
    info = service.direct.stat("a.bin")
    headers = {
        "ETag": f'"{info.etag}"',
        "Content-Length": str(len(OLD)),
        "Content-Range": f"bytes 0-{len(OLD) - 1}/{len(OLD)}",
        "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
        "Connection": "close",
    }
    service.script("GetObject", ScriptedResponse(206, OLD[:short], headers, before_body=True))
    target = io.BytesIO()

    if operation_name == "download":
        service.through.download("a.bin", target)
    else:
        with service.through.open("a.bin", "r") as reader:
            target.write(reader.read())

    assert target.getvalue() == OLD
    assert service.operations() == ["GetObject", "GetObject"]


def test_bytes_after_the_end_of_the_object_are_dropped(service):
    """They never reach the reader."""
    headers = {
        "ETag": f'"{service.direct.stat("a.bin").etag}"',
        "Content-Range": f"bytes 0-{len(OLD) - 1}/{len(OLD)}",
        "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
    }
    service.script("GetObject", ScriptedResponse(206, OLD + b"more", headers))

    data = service.through.read("a.bin")

    assert data == OLD


def test_a_response_that_cannot_be_parsed_raises_a_storage_error(service):
    """boto3 raises a generic error for it."""
    headers = {"Last-Modified": "?", "ETag": '"1"', "Content-Length": "1"}
    service.script("HeadObject", ScriptedResponse(200, b"", headers), ...)

    with pytest.raises(StorageUnavailableError, match="cannot be parsed"):
        service.through.stat("a.bin")


@pytest.mark.parametrize("operation_name", ["read", "stat"])
def test_a_checksum_header_that_cannot_be_decoded_raises_a_storage_error(service, operation_name):
    """A bit of it may have been flipped on the way."""
    headers = {
        "ETag": '"0123"',
        "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
        "x-amz-checksum-crc32": ".sUwqQ==",
        "x-amz-checksum-type": "FULL_OBJECT",
    }
    service.proxy.script = lambda request: ScriptedResponse(200, b"" if request.method == "HEAD" else OLD, headers)

    with pytest.raises(StorageUnavailableError, match="cannot be parsed"):
        getattr(service.through, operation_name)("a.bin")


@on("localstack")
def test_a_multipart_upload_requests_a_checksum_of_the_whole_object(service):
    """Downloads are verified against it; the ETag of such an object is not a digest of its content."""
    service.script("CreateMultipartUpload")

    service.through.write("a.bin", LARGE)

    requests = [exchange.request for exchange in service.proxy.exchanges]
    (headers,) = (request.headers for request in requests if operation(request) == "CreateMultipartUpload")
    assert (headers["x-amz-checksum-algorithm"], headers["x-amz-checksum-type"]) == ("CRC32", "FULL_OBJECT")


HTML = b"<!DOCTYPE html><html><title>Log in</title></html>"
CALLS = {
    "write": lambda storage: storage.write("a.bin", NEW),
    "write parts": lambda storage: storage.write("a.bin", LARGE),
    "delete": lambda storage: storage.delete("a.bin"),
    "delete_many": lambda storage: storage.delete_many(["a.bin", "b.bin"]),
    "delete_prefix": lambda storage: storage.delete_prefix("x"),
    "list": lambda storage: storage.list(),
    "sweep": lambda storage: storage.sweep(timedelta(0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_page_of_html_is_not_a_success(service, name):
    """The address is that of a console, or a login page is in between: nothing was stored, deleted or listed."""
    service.proxy.script = lambda request: ScriptedResponse(200, HTML, {"Content-Type": "text/html"})

    with pytest.raises(StorageUnavailableError, match="cannot be parsed"):
        CALLS[name](service.through)

    assert service.direct.read("a.bin") == OLD


@pytest.mark.parametrize("name", ["delete_prefix", "list", "sweep"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<Another><Document/></Another>", "no listing: check the endpoint_url"),
        (
            b"<ListBucketResult><Contents><Size>5</Size></Contents><Upload><Key>a</Key></Upload></ListBucketResult>",
            "parsed",
        ),
    ],
    ids=["another document", "no key"],
)
def test_a_malformed_listing_is_not_empty(service, name, body, message):
    """`list` would return nothing, and `sweep` would abort nothing."""
    service.proxy.script = lambda request: ScriptedResponse(200, body, {"Content-Type": "application/xml"})

    with pytest.raises(StorageUnavailableError, match=message):
        CALLS[name](service.through)


INVALID = {
    "a date far away": (
        "stat",
        ScriptedResponse(200, b"", {"ETag": '"1"', "Last-Modified": "99999999999999999999"}),
        "cannot be parsed",
    ),
    "text in place of an element": (
        "list",
        ScriptedResponse(
            200,
            b"<ListBucketResult><EncodingType>url</EncodingType><Contents>text</Contents></ListBucketResult>",
            {"Content-Type": "application/xml"},
        ),
        "cannot be parsed",
    ),
    "an error that breaks off": (
        "read",
        ScriptedResponse(404, b"not a chunk", {"Transfer-Encoding": "chunked"}, without_length=True),
        "the connection broke off: try again",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_response_raises_a_storage_error(service, name):
    """boto3 and urllib3 raise many errors of their own, some of them built-in ones."""
    operation_name, response, message = INVALID[name]
    service.proxy.script = lambda request: response
    storage = service.storage(service.proxied, max_attempts=1)
    arguments = [] if operation_name == "list" else ["a.bin"]

    with pytest.raises(StorageUnavailableError, match=message):
        getattr(storage, operation_name)(*arguments)


@on("localstack")
def test_an_error_response_that_stalls_raises_a_timeout(service):
    """The status has arrived, and its body does not."""

    def respond(request):
        return ScriptedResponse(404, b"", {"Content-Length": "10"})  # the connection stays open

    service.proxy.script = respond
    storage = service.storage(service.proxied, max_attempts=1, read_timeout=0.1)

    with pytest.raises(StorageTimeoutError, match="within read_timeout"):
        storage.read("a.bin")


@pytest.mark.parametrize("content_range", ["bytes 0-2/*", "bytes x-y/z"])
def test_a_content_range_without_a_size_raises_a_storage_error(service, content_range):
    """The size of the file is unknown then."""
    headers = {"ETag": '"1"', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT", "Content-Range": content_range}
    service.proxy.script = lambda request: ScriptedResponse(206, b"abc", headers)

    with pytest.raises(StorageUnavailableError, match="cannot be parsed"):
        service.through.read("a.bin")


DATE = "Sat, 21 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize("name", ["stat", "read", "copy", "open"])
def test_a_response_without_a_size_raises_a_storage_error(service, name):
    """Google Cloud Storage sends none for a compressed object that it decompresses."""
    response = ScriptedResponse(200, OLD, {"ETag": '"1"', "Last-Modified": DATE}, without_length=True)
    service.proxy.script = lambda request: response
    calls = {
        "stat": lambda storage: storage.stat("a.bin"),
        "read": lambda storage: storage.read("a.bin"),
        "copy": lambda storage: storage.copy("a.bin", "b.bin"),
        "open": lambda storage: storage.open("a.bin", "r"),
    }

    with pytest.raises(StorageUnavailableError, match=r'no size: .*Google Cloud Storage needs "gcs"'):
        calls[name](service.through)


def test_an_object_with_an_invalid_response_does_not_end_a_detailed_listing(service, caplog):
    """It has the size and the date of the listing, and the log names it."""
    service.direct.write("b.bin", b"1", metadata={"key": "value"})
    listed = service.direct.list()[0]
    service.script(
        "HeadObject", ScriptedResponse(200, b"", {"ETag": '"1"', "Last-Modified": DATE}, without_length=True)
    )

    infos = list(service.storage(service.proxied, concurrency=1).iter(details=True))

    assert [(info.path, info.size, info.metadata) for info in infos] == [
        ("a.bin", len(OLD), {}),
        ("b.bin", 1, {"key": "value"}),
    ]
    assert infos[0].last_modified == listed.last_modified
    assert "a.bin in 's3' is listed without headers and metadata" in caplog.text


def test_compressed_objects_are_requested_as_they_are_stored(service):
    """From Google Cloud Storage, which would decompress them. The service changes the header, so it is not signed."""
    storage = service.storage(service.proxied, preset=PRESETS["gcs"])
    service.script("GetObject")

    storage.write("a.bin", b"1", content_encoding="gzip")
    storage.read("a.bin")
    storage.stat("a.bin")
    storage.list("a")

    accepted = {"GET": 0, "HEAD": 0}
    for request in (exchange.request for exchange in service.proxy.exchanges):
        is_object = request.path.endswith("/a.bin") and request.method != "PUT"
        assert (request.headers["Accept-Encoding"] == "gzip") == is_object
        assert "accept-encoding" not in request.headers["Authorization"]
        accepted[request.method if is_object else "PUT"] = True
    assert accepted == {"GET": True, "HEAD": True, "PUT": True}


def test_metadata_keys_are_lower_case(service):
    """As S3 stores them: proxies and servers that are written in Go change the case of the names of headers."""
    headers = {"X-Amz-Meta-Sha256": "ab", "X-Amz-Meta-Fs-Write": "1", "ETag": '"1"', "Last-Modified": DATE}
    service.script("HeadObject", ScriptedResponse(200, b"", headers))

    assert service.through.stat("a.bin").metadata == {"sha256": "ab"}


def test_metadata_keys_of_rclone_are_lower_case(rclone_s3):
    """It is written in Go. It adds a key of its own."""
    storage = make_storage(rclone_s3)
    storage.write("a.bin", b"1", metadata={"sha256": "ab"})

    assert storage.stat("a.bin").metadata["sha256"] == "ab"


@on("localstack")
def test_a_lost_response_is_confirmed_by_metadata_in_any_case(service):
    """A proxy may change the case of the name of the header."""
    nonces = []

    def respond(request):
        if request.method == "PUT":
            nonces.append(request.headers["x-amz-meta-fs-write"])
            return LostResponse(after_server=True)
        headers = {"X-Amz-Meta-Fs-Write": nonces[0], "ETag": f'"{hashlib.md5(NEW).hexdigest()}"', "Last-Modified": DATE}
        return ScriptedResponse(200, b"", headers)

    service.proxy.script = respond
    service.through.write("new.bin", NEW, exclusive=True)

    assert service.direct.read("new.bin") == NEW


def uploads_page(*keys, encoded=True, next_marker=None):
    """Return a page of ListMultipartUploads."""
    uploads = "".join(
        f"<Upload><Key>{key}</Key><UploadId>id</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated></Upload>"
        for key in keys
    )
    more = f"<IsTruncated>true</IsTruncated><NextKeyMarker>{next_marker}</NextKeyMarker>" if next_marker else ""
    encoding = "<EncodingType>url</EncodingType>" if encoded else ""
    return ScriptedResponse(
        200,
        f"<ListMultipartUploadsResult>{encoding}{more}<NextUploadIdMarker>id</NextUploadIdMarker>{uploads}"
        "</ListMultipartUploadsResult>".encode(),
        {"Content-Type": "application/xml"},
    )


def test_an_upload_whose_key_xml_cannot_represent_does_not_end_a_sweep(service):
    """The listing is requested again with encoded keys. All uploads are aborted, on all pages."""
    pages = {
        None: uploads_page("plain", "odd%EF%BF%BE+x", next_marker="odd%EF%BF%BE+x"),
        "odd\ufffe x": uploads_page("z"),
    }
    aborted = []

    def respond(request):
        if request.method == "DELETE":
            aborted.append(unquote(request.path).partition(f"{service.bucket}/")[2])
            return ScriptedResponse(204)
        if request.query.get("encoding-type") != "url":
            return uploads_page("odd\ufffe x", encoded=False)
        return pages[request.query.get("key-marker")]

    service.proxy.script = respond
    count = service.storage(service.proxied, max_attempts=1).sweep(NOW)

    assert count == 3
    assert aborted == ["plain", "odd\ufffe x", "z"]


def test_a_page_that_is_repeated_ends_a_sweep_with_an_error(service):
    """It would never end."""
    service.script("ListMultipartUploads", uploads_page("a", next_marker="a"), ...)

    with pytest.raises(StorageUnavailableError, match="repeats a page"):
        service.through.sweep(NOW)


@on("localstack")
def test_a_sweep_aborts_the_other_uploads_when_one_cannot_be_aborted(service):
    """The error is raised at the end."""
    for path in ("a.bin", "b.bin"):
        service.direct.multipart.create(path, WriteOptions())
    service.script("AbortMultipartUpload", s3_error(403, "AccessDenied"))

    with pytest.raises(PermissionDeniedError):
        service.through.sweep(NOW)

    assert [upload.path for upload in service.unfinished_uploads()] == ["a.bin"]
    service.direct.sweep(NOW)


@on("localstack")
@pytest.mark.parametrize("status", [200, 301, 403])
def test_a_check_compares_the_region_of_the_bucket(service, status):
    """boto3 follows redirects, so only links would fail. The refusal of the request names the region, too."""

    def respond(request):
        if request.method == "HEAD" and "a.bin" not in request.path and ".check" not in request.path:
            return ScriptedResponse(status, b"", {"x-amz-bucket-region": "eu-west-9"})
        return None

    service.proxy.script = respond

    with pytest.raises(
        ConfigurationError, match="is in the region eu-west-9, and its links are signed for us-east-1: set"
    ):
        service.through.check()


@on("localstack")
def test_a_check_passes_without_the_right_to_see_the_region(service):
    """Reading and writing works."""
    service.script("HeadObject", s3_error(403, "AccessDenied"), ...)

    service.through.check()


def test_an_upload_without_an_id_raises_a_storage_error(service):
    """The file is unchanged."""
    body = b"<InitiateMultipartUploadResult></InitiateMultipartUploadResult>"
    service.script("CreateMultipartUpload", ScriptedResponse(200, body), ...)

    with pytest.raises(StorageUnavailableError, match="cannot be parsed"):
        service.through.write("a.bin", LARGE)

    assert service.direct.read("a.bin") == OLD


@pytest.mark.parametrize("status", [301, 302, 307])
@pytest.mark.parametrize("name", ["write", "stat", "check"])
def test_a_redirect_of_every_request_is_a_configuration_error(service, name, status):
    """A web server that redirects to https, for example; boto3 would look up the region without end."""
    service.proxy.script = lambda request: ScriptedResponse(status, b"", {"Location": "https://files.example.com/"})
    calls = {**CALLS, "stat": lambda storage: storage.stat("a.bin"), "check": lambda storage: storage.check()}

    with pytest.raises(ConfigurationError, match="redirect"):
        calls[name](service.through)
