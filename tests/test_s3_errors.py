"""Errors of S3 and boto3 become storage errors whose messages say what to do."""

import contextlib
import dataclasses
import io
import re
import traceback

import pytest
from botocore import exceptions as sdk

from flask_storage import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnavailableError,
    ThrottledError,
    TooLargeError,
    UnsupportedOperationError,
    WriteOptions,
)
from flask_storage.backends.s3.errors import (
    _BY_CLASS,
    _BY_CODE,
    _BY_STATUS,
    code_of,
    status_of,
    translate_error,
    translating_conditions,
)
from tests.s3_storages import make_storage
from tests.services.s3_servers import free_port
from tests.services.scripted_proxy import LostResponse, ScriptedProxy, ScriptedResponse, s3_error

pytest_plugins = ["tests.services.s3"]

MIB = 1 << 20
SECRET = "not-for-the-logs"

# Every message must contain a step that the reader can take, or a fact after which nothing can be done.
STEP = re.compile(
    r"check|create|try again|get new|set |delete files|remove |must|limits|contact|restore|see the"
    r"|smaller than|larger than|longer than|cannot store|too long|arrived|in transit|valid bucket name"
    r"|in order|missing|not valid|no such|read it again"
)


def client_error(code="", status=400, **more):
    """Return boto3's error for a response whose message quotes what was signed."""
    response = {
        "Error": {"Code": code, "Message": f"quoting {SECRET}", "StringToSign": SECRET},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}, **more},
    }
    return sdk.ClientError(response, "GetObject")


def translated(error, path="a.txt"):
    """Return the storage error for one of boto3's."""
    storage_error = translate_error(error, path, "bucket", "docs")
    assert storage_error is not None
    return storage_error


# -- translation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(_BY_CODE))
def test_each_code_becomes_a_storage_error(code):
    """Of the type in the table; the message names path, bucket, code and a step to take, but no secret."""
    sdk_error = client_error(code)

    error = translated(sdk_error)

    assert type(error) is _BY_CODE[code][0]
    assert isinstance(error, StorageError)
    assert "a.txt" in str(error)
    assert SECRET not in str(error)
    if not isinstance(error, FileNotFoundInStorageError):
        assert f"({code})" in str(error)
        assert "in the bucket bucket" in str(error)
        assert STEP.search(str(error)), error


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        ("AccessDenied", PermissionDeniedError, PermissionError),
        ("InvalidAccessKeyId", PermissionDeniedError, PermissionError),
        ("SignatureDoesNotMatch", PermissionDeniedError, PermissionError),
        ("ExpiredToken", PermissionDeniedError, PermissionError),
        ("RequestTimeTooSkewed", PermissionDeniedError, PermissionError),
        ("InvalidObjectState", PermissionDeniedError, PermissionError),
        ("NoSuchKey", FileNotFoundInStorageError, FileNotFoundError),
        ("NoSuchUpload", FileNotFoundInStorageError, FileNotFoundError),
        ("NoSuchBucket", ConfigurationError, ValueError),
        ("PermanentRedirect", ConfigurationError, ValueError),
        ("AuthorizationHeaderMalformed", ConfigurationError, ValueError),
        ("InvalidStorageClass", ConfigurationError, ValueError),
        ("PreconditionFailed", PreconditionFailedError, StorageError),
        ("ConditionalRequestConflict", PreconditionFailedError, StorageError),
        ("OperationAborted", StorageUnavailableError, ConnectionError),
        ("BadDigest", IntegrityError, StorageError),
        ("EntityTooLarge", TooLargeError, StorageError),
        ("KeyTooLongError", InvalidPathError, ValueError),
        ("QuotaExceeded", StorageFullError, StorageError),
        ("SlowDown", ThrottledError, ConnectionError),
        ("RequestTimeout", StorageTimeoutError, TimeoutError),
        ("InternalError", StorageUnavailableError, ConnectionError),
        ("NotImplemented", UnsupportedOperationError, NotImplementedError),
    ],
)
def test_common_codes_have_their_error_types(code, kind, builtin):
    """Stated a second time, so that no change of the table goes unnoticed; each is a built-in where one fits."""
    error = translated(client_error(code))

    assert type(error) is kind
    assert isinstance(error, builtin)


@pytest.mark.parametrize("status", sorted(_BY_STATUS))
def test_a_response_without_a_code_is_classified_by_its_status(status):
    """As for HEAD, or for a proxy; boto3 then sets the code to the number, or to nothing."""
    code = _BY_STATUS[status]

    found = [code_of(client_error(given, status)) for given in ("", str(status))]

    assert found == [code, code]
    assert code in _BY_CODE


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, ConfigurationError),
        (403, PermissionDeniedError),
        (404, FileNotFoundInStorageError),
        (409, StorageUnavailableError),
        (412, PreconditionFailedError),
        (413, TooLargeError),
        (429, ThrottledError),
        (500, StorageUnavailableError),
        (501, UnsupportedOperationError),
        (503, StorageUnavailableError),
        (507, StorageFullError),
    ],
)
def test_statuses_have_their_error_types(status, kind):
    """Denied access is never reported as "not found"."""
    assert type(translated(client_error(str(status), status))) is kind


def test_an_unknown_code_is_in_the_message():
    """So that it can be searched for."""
    error = translated(client_error("SomethingNew", 400))

    assert type(error) is StorageError
    assert "see the error before this one (SomethingNew)" in str(error)


def test_an_unknown_code_with_status_5xx_means_unavailable():
    """A retry may succeed."""
    error = translated(client_error("SomethingNew", 503))

    assert type(error) is StorageUnavailableError
    assert "(ServiceUnavailable)" in str(error)


def test_a_response_without_code_and_status_is_a_storage_error():
    """Neither is in the response."""
    error = sdk.ClientError({}, "GetObject")

    assert (code_of(error), status_of(error)) == ("", 0)
    assert type(translated(error)) is StorageError


@pytest.mark.parametrize(
    ("metadata", "error"),
    [({"HTTPHeaders": {"x-amz-bucket-region": "eu-west-3"}}, {}), ({}, {"Region": "eu-west-3"})],
    ids=["in a header", "in the body"],
)
@pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed"])
def test_the_region_of_the_bucket_is_in_the_message(code, metadata, error):
    """Where the service names it; ready to be copied into the settings."""
    response = sdk.ClientError(
        {"Error": {"Code": code, **error}, "ResponseMetadata": {"HTTPStatusCode": 301, **metadata}}, "GetObject"
    )

    error = translated(response)

    assert f"the bucket is in another region: set aws_region to eu-west-3 ({code})" in str(error)


def test_the_region_is_only_named_when_it_is_wrong():
    """Every response of AWS has that header."""
    error = translated(client_error("AccessDenied", 403, HTTPHeaders={"x-amz-bucket-region": "eu-west-3"}))

    assert "eu-west-3" not in str(error)


def test_an_error_without_a_path_names_the_bucket():
    """The message begins with the bucket."""
    error = translated(client_error("NoSuchBucket", 404), path=None)

    assert str(error).startswith("the bucket bucket: there is no such bucket")


def test_a_missing_upload_is_distinguished_from_a_missing_file():
    """The message says that the upload is missing."""
    assert "a.txt (upload)" in str(translated(client_error("NoSuchUpload", 404)))
    assert " (upload)" in str(translated(client_error("NoSuchUpload", 404), path=None))


ARGUMENTS = {
    "endpoint_url": "https://s3.example.com",
    "proxy_url": "http://proxy",
    "error": SECRET,
    "provider": "test",
    "region_name": "not-for-the-logs",
    "cred_var": "secret_key",
    "error_msg": SECRET,
    "report": SECRET,
    "actual_bytes": 1,
    "expected_bytes": 2,
    "checksum_type": "crc32",
    "expected_checksum": "a",
    "actual_checksum": "b",
    "msg": SECRET,
}


@pytest.mark.parametrize(("known", "kind", "advice"), _BY_CLASS, ids=[known.__name__ for known, _, _ in _BY_CLASS])
def test_each_sdk_class_becomes_a_storage_error(known, kind, advice):
    """Subclasses first; the message quotes nothing of boto3's, some of which quotes what was signed."""
    sdk_error = known(**ARGUMENTS)

    error = translated(sdk_error)

    assert type(error) is kind
    assert str(error) == f"a.txt in the bucket bucket: {advice}"
    assert SECRET not in str(error)
    assert STEP.search(str(error)), error


def test_no_class_is_shadowed():
    """A class after its base class in the table would never match."""
    classes = [known for known, _, _ in _BY_CLASS]

    shadowed = [
        later.__name__
        for position, later in enumerate(classes)
        if any(issubclass(later, earlier) for earlier in classes[:position])
    ]

    assert shadowed == []


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), KeyError("x"), StorageError("x")])
def test_other_exceptions_are_not_translated(error):
    """A programming error stays visible as such."""
    assert translate_error(error, "a.txt", "bucket", "docs") is None


@pytest.mark.parametrize("code", ["PreconditionFailed", "NoSuchKey", "AccessDenied"])
def test_a_failed_condition_raises_the_error_of_that_condition(code):
    """S3 sends the same code for an existing name and for another version."""
    sdk_error = client_error(code)
    other = sdk.ClientError
    expected = {
        "PreconditionFailed": (FileExistsInStorageError, PreconditionFailedError, other),
        "NoSuchKey": (other, PreconditionFailedError, other),
        "AccessDenied": (other, other, other),
    }

    for options, kind in zip(
        (WriteOptions(exclusive=True), WriteOptions(if_match="tag"), WriteOptions()), expected[code], strict=True
    ):
        with pytest.raises(kind) as caught, translating_conditions("a.txt", options):
            raise sdk_error

        assert kind is other or caught.value.__cause__ is sdk_error


# -- a bucket that is missing -----------------------------------------------------------------------------------------

OPERATIONS = {
    "list": lambda storage: storage.list(),
    "list a directory": lambda storage: storage.list("folder", recursive=False),
    "list details": lambda storage: list(storage.iter(details=True)),
    "exists": lambda storage: storage.exists("a.txt"),
    "stat": lambda storage: storage.stat("a.txt"),
    "read": lambda storage: storage.read("a.txt"),
    "download": lambda storage: storage.download("a.txt", io.BytesIO()),
    "write": lambda storage: storage.write("a.txt", b"1"),
    "write multipart": lambda storage: storage.write("a.txt", bytes(5 * MIB + 1)),
    "save": lambda storage: storage.save("a.txt", b"1"),
    "copy": lambda storage: storage.copy("a.txt", "b.txt"),
    "move": lambda storage: storage.move("a.txt", "b.txt"),
    "delete": lambda storage: storage.delete("a.txt"),
    "delete many": lambda storage: storage.delete_many(["a.txt"]),
    "delete a directory": lambda storage: storage.delete_prefix("folder"),
    "sweep": lambda storage: storage.sweep(),
    "check": lambda storage: storage.check(),
    "create": lambda storage: storage.multipart.create("a.txt", WriteOptions()),
    "list uploads": lambda storage: list(storage.multipart.list_uploads()),
    "upload a part": lambda storage: storage.multipart.upload_part("a.txt", "some-upload", 1, b"1"),
    "list parts": lambda storage: storage.multipart.list_parts("a.txt", "some-upload"),
    "abort": lambda storage: storage.multipart.abort("a.txt", "some-upload"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_bucket_is_never_a_missing_file(s3, operation):
    """For every operation, a missing bucket is a configuration error."""
    storage = make_storage(s3, bucket="no-such-bucket-here", max_attempts=1)

    with pytest.raises(ConfigurationError, match="there is no such bucket: create it, or check its name and the endp"):
        OPERATIONS[operation](storage)


def test_an_error_has_path_backend_and_cause(s3):
    """The cause is boto3's own error."""
    storage = make_storage(s3, bucket="no-such-bucket-here", name="docs")

    with pytest.raises(ConfigurationError) as caught:
        storage.write("a.txt", b"1")

    assert caught.value.path == "a.txt"
    assert caught.value.backend == "docs"
    assert isinstance(caught.value.__cause__, sdk.ClientError)


# -- denied access ----------------------------------------------------------------------------------------------------

DENIED_OPERATIONS = sorted(set(OPERATIONS) - {"upload a part", "list parts", "abort", "list uploads", "create", "save"})


@pytest.fixture(scope="module")
def denied_bucket(rgw, rgw_cluster):
    """A bucket with a file, and the server with the keys of a user who may not access it."""
    make_storage(rgw, bucket=(bucket := rgw.make_bucket())).write("a.txt", b"1")
    return rgw_cluster.other_user(), bucket


@pytest.mark.parametrize("operation", DENIED_OPERATIONS)
def test_denied_access_is_never_a_missing_file(denied_bucket, operation):
    """Nor False; the message says that a policy must allow it."""
    server, bucket = denied_bucket

    with pytest.raises((PermissionDeniedError, StorageError)) as caught:
        OPERATIONS[operation](make_storage(server, bucket=bucket))

    error = caught.value
    if operation == "delete many":
        error = error.errors["a.txt"] if hasattr(error, "errors") else error
    assert isinstance(error, PermissionDeniedError)
    assert "access is denied: a policy must allow this" in str(error)


@pytest.mark.parametrize("operation", DENIED_OPERATIONS)
def test_a_wrong_secret_is_reported_by_every_operation(rclone_s3, operation):
    """Never as a missing file, and without showing the secret."""
    storage = make_storage(
        rclone_s3, aws_access_key_id=rclone_s3.access_key, aws_secret_access_key=SECRET, bucket="any"
    )

    with pytest.raises(StorageError) as caught:
        OPERATIONS[operation](storage)

    error = caught.value
    if operation == "delete many":
        error = error.errors["a.txt"] if hasattr(error, "errors") else error
    assert isinstance(error, PermissionDeniedError)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_without_the_right_to_list_a_missing_object_is_denied_access(rgw, rgw_cluster):
    """S3 does not reveal whether the object exists."""
    bucket = rgw.make_bucket()
    storage = make_storage(rgw_cluster.limited_user(bucket, "s3:GetObject", "s3:PutObject"), bucket=bucket)
    storage.write("a.txt", b"1")

    with pytest.raises(PermissionDeniedError, match="Without s3:ListBucket, S3 denies access to missing objects too"):
        storage.exists("missing.txt")

    assert storage.read("a.txt") == b"1"


def test_a_wrong_secret_is_reported(rclone_s3):
    """The message says what to check."""
    with pytest.raises(PermissionDeniedError, match="signature does not match: check the secret key") as caught:
        make_storage(rclone_s3, aws_access_key_id=rclone_s3.access_key, aws_secret_access_key=SECRET).write(
            "a.txt", b"1"
        )

    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_unknown_access_key_is_reported(rclone_s3):
    """The message says what to check."""
    with pytest.raises(
        PermissionDeniedError, match="the service has no such access key: check aws_access_key_id and endpoint_url"
    ):
        make_storage(rclone_s3, aws_access_key_id="UNKNOWN", aws_secret_access_key=SECRET).write("a.txt", b"1")


def test_missing_credentials_are_reported(s3, monkeypatch, tmp_path):
    """The message says how to configure some."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = make_storage(s3, aws_access_key_id=None, aws_secret_access_key=None)

    with pytest.raises(ConfigurationError, match="there are no credentials: set keys or aws_profile, or configure"):
        storage.list()


# -- other responses of real servers ----------------------------------------------------------------------------------


def test_an_unknown_storage_class_is_reported(rgw, localstack):
    """Ceph reports an invalid argument only; the message lists the candidates."""
    with pytest.raises(ConfigurationError, match="the service has no such storage_class"):
        make_storage(localstack, storage_class="NONSENSE").write("a.txt", b"1")
    with pytest.raises(StorageError, match="the service rejected a value: check storage_class, acl"):
        make_storage(rgw, storage_class="NONSENSE").write("a.txt", b"1")


def test_a_part_that_is_too_small_is_reported(s3):
    """Every part except the last must have at least 5 MiB."""
    parts = make_storage(s3).multipart
    upload = parts.create("a.txt", WriteOptions())
    sent = [parts.upload_part("a.txt", upload, number, b"small") for number in (1, 2)]

    with pytest.raises(IntegrityError, match="a part other than the last is smaller than 5 MiB"):
        parts.complete("a.txt", upload, sent, WriteOptions())


def test_a_missing_part_is_reported(rgw):
    """The upload is not removed."""
    parts = make_storage(rgw).multipart
    upload = parts.create("a.txt", WriteOptions())
    sent = parts.upload_part("a.txt", upload, 1, b"first")

    with pytest.raises(
        IntegrityError, match="a part is missing or was replaced: list the parts again, or upload it again"
    ):
        parts.complete("a.txt", upload, [sent, dataclasses.replace(sent, number=2)], WriteOptions())

    assert [part.number for part in parts.list_parts("a.txt", upload)] == [1]


def test_an_untrusted_certificate_is_reported(s3, monkeypatch):
    """The message names the argument to set."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    storage = make_storage(s3, https=True, verify=None, max_attempts=1)

    with pytest.raises(
        StorageUnavailableError, match="TLS handshake failed: set verify to the certificate file of your CA"
    ):
        storage.list()


def test_a_refused_connection_is_reported(s3):
    """The message says what to check."""
    storage = make_storage(s3, endpoint_url=f"http://127.0.0.1:{free_port()}", max_attempts=1)

    with pytest.raises(
        StorageUnavailableError, match="the service cannot be reached: check the endpoint_url and the network"
    ):
        storage.list()


def test_a_customer_key_over_http_is_reported(rgw):
    """Ceph accepts customer-provided keys over https only."""
    storage = make_storage(rgw, customer_key=bytes(32))

    with pytest.raises(StorageError, match="it may accept customer_key over https only"):
        storage.write("a.txt", b"1")


# -- responses that the test servers do not send ----------------------------------------------------------------------


@pytest.fixture
def scripted(s3):
    """Make a storage behind a proxy whose script responds instead of the server."""
    host, _, port = s3.http.removeprefix("http://").partition(":")
    with contextlib.ExitStack() as stack:

        def make(script, **arguments):
            proxy = stack.enter_context(ScriptedProxy(host, int(port), script))
            return make_storage(
                dataclasses.replace(s3, http=proxy.url), **{"max_attempts": 1, "bucket": "any", **arguments}
            )

        yield make


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (403, "RequestTimeTooSkewed", PermissionDeniedError, r"clock of this machine differs .* set it, with NTP"),
        (403, "ExpiredToken", PermissionDeniedError, "temporary credentials have expired: get new ones"),
        (403, "InvalidObjectState", PermissionDeniedError, "restore it first"),
        (400, "EntityTooLarge", TooLargeError, "larger than the service allows"),
        (400, "KeyTooLongError", InvalidPathError, "longer than 1024 bytes"),
        (409, "ConditionalRequestConflict", PreconditionFailedError, "another client wrote the same file concurrently"),
        (403, "QuotaExceeded", StorageFullError, "the quota is exceeded"),
        (507, "XMinioStorageFull", StorageFullError, "the service has no space left"),
        (503, "SlowDown", ThrottledError, "send fewer requests, or raise max_attempts"),
        (501, "NotImplemented", UnsupportedOperationError, "check the preset"),
        (400, "RequestTimeout", StorageTimeoutError, "timed out waiting for the rest of the request"),
        (500, "InternalError", StorageUnavailableError, "try again"),
        (502, "", StorageUnavailableError, "the service is not available: try again"),
    ],
)
def test_a_response_becomes_a_storage_error(scripted, status, code, kind, text):
    """By its code, or by its status alone; the message says what to do."""
    response = s3_error(status, code) if code else ScriptedResponse(status, b"<html>Bad Gateway</html>")
    storage = scripted(lambda _: response)

    with pytest.raises(kind, match=text) as caught:
        storage.write("a.txt", b"1")

    assert type(caught.value) is kind


@pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed"])
def test_a_bucket_in_another_region_is_reported(scripted, code):
    """With the region that the service names."""
    body = f"<Error><Code>{code}</Code><Message>x</Message><Region>eu-west-3</Region></Error>".encode()
    storage = scripted(lambda _: ScriptedResponse(400, body, {"Content-Type": "application/xml"}))

    with pytest.raises(ConfigurationError, match="the bucket is in another region: set aws_region to eu-west-3"):
        storage.write("a.txt", b"1")


def test_a_redirect_to_another_region_is_reported(scripted):
    """Also where the response has no body, as for HEAD."""
    storage = scripted(lambda _: ScriptedResponse(301, headers={"x-amz-bucket-region": "eu-west-3"}))

    with pytest.raises(ConfigurationError, match="set aws_region to eu-west-3"):
        storage.stat("a.txt")


def test_a_lost_connection_is_reported(scripted):
    """The message says to try again."""
    storage = scripted(lambda _: LostResponse(after_server=False))

    with pytest.raises(StorageUnavailableError, match="the connection broke off: try again"):
        storage.list()


def test_denied_access_to_a_later_page_of_a_listing_raises_an_error(scripted):
    """The listing is not shortened."""
    page = (
        "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>"
        "<Contents><Key>a.txt</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        "</ListBucketResult>"
    )

    def script(request):
        if "continuation-token" in request.query:
            return s3_error(403, "AccessDenied")
        return ScriptedResponse(200, page.encode(), {"Content-Type": "application/xml"})

    found = scripted(script).iter()

    assert next(found).name == "a.txt"
    with pytest.raises(PermissionDeniedError):
        next(found)


def test_the_existence_of_the_bucket_is_checked_once(scripted, s3):
    """Denied access to the bucket does not mean that the object exists."""
    asked = []

    def script(request):
        asked.append((request.method, request.path))
        return ScriptedResponse(404) if request.path != "/any" else ScriptedResponse(403)

    storage = scripted(script)

    assert storage.exists("a.txt") is False
    assert storage.exists("b.txt") is False
    assert asked == [("HEAD", "/any/a.txt"), ("HEAD", "/any"), ("HEAD", "/any/b.txt")]
