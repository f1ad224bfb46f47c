"""What S3 answers when something is wrong, and what we say of it: the right error, and what to do."""

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
from tests.services.scripted_proxy import Answer, Lose, ScriptedProxy, s3_error

pytest_plugins = ["tests.services.s3"]

MIB = 1 << 20
SECRET = "not-for-the-logs"

# What stands in the texts must be a step that somebody can take, or a fact that leaves nothing to do.
STEP = re.compile(
    r"check|create|try again|get new|set |delete something|give |leave |needs|must|at most|ask|choose|restore|see the"
    r"|smaller than|longer than|cannot hold|too long|arrived|name of a bucket|does not do this here"
    r"|refreshed|is none|in order|missing|closed to everybody|not valid|as large|no room|no such"
    r"|not the version|waited in vain|did not answer|cannot be reached"
)


def client_error(code="", status=400, **more):
    """Return boto3's error for an answer; the message is one that quotes what was signed."""
    response = {
        "Error": {"Code": code, "Message": f"quoting {SECRET}", "StringToSign": SECRET},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}, **more},
    }
    return sdk.ClientError(response, "GetObject")


def made_of(error, path="a.txt"):
    """Return our error for one of boto3's."""
    made = translate_error(error, path, "bucket", "docs")
    assert made is not None
    return made


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(_BY_CODE))
def test_each_code_becomes_our_error(code):
    """Of the type in the table; the text names path and bucket, the code, and a step to take, but no secret."""
    error = client_error(code)

    made = made_of(error)

    assert type(made) is _BY_CODE[code][0]
    assert isinstance(made, StorageError)
    assert "a.txt" in str(made)
    assert SECRET not in str(made)
    if not isinstance(made, FileNotFoundInStorageError):
        assert f"({code})" in str(made)
        assert "in the bucket bucket" in str(made)
        assert STEP.search(str(made)), made


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
def test_what_the_well_known_codes_become(code, kind, builtin):
    """Said once more beside the table, so that nobody changes it unseen; each is a built-in where one fits."""
    made = made_of(client_error(code))

    assert type(made) is kind
    assert isinstance(made, builtin)


@pytest.mark.parametrize("status", sorted(_BY_STATUS))
def test_an_answer_without_a_code_counts_by_its_status(status):
    """As that of a HEAD, or of a proxy in between; boto3 then gives the number as the code, or none."""
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
def test_what_the_statuses_become(status, kind):
    """A refusal is never the same as "not found"."""
    assert type(made_of(client_error(str(status), status))) is kind


def test_an_unknown_code_is_told_as_it_is():
    """It is what to search for."""
    made = made_of(client_error("SomethingNew", 400))

    assert type(made) is StorageError
    assert "see the error before this one (SomethingNew)" in str(made)


def test_an_unknown_code_with_a_servers_error_is_a_servers_error():
    """Trying again may help."""
    made = made_of(client_error("SomethingNew", 503))

    assert type(made) is StorageUnavailableError
    assert "(ServiceUnavailable)" in str(made)


def test_an_answer_that_says_nothing_at_all_is_told_too():
    """No code, no status."""
    error = sdk.ClientError({}, "GetObject")

    assert (code_of(error), status_of(error)) == ("", 0)
    assert type(made_of(error)) is StorageError


@pytest.mark.parametrize(
    ("metadata", "error"),
    [({"HTTPHeaders": {"x-amz-bucket-region": "eu-west-3"}}, {}), ({}, {"Region": "eu-west-3"})],
    ids=["in a header", "in the body"],
)
@pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed"])
def test_the_right_region_is_told_where_the_service_tells_it(code, metadata, error):
    """Ready to be copied into the settings."""
    answer = sdk.ClientError(
        {"Error": {"Code": code, **error}, "ResponseMetadata": {"HTTPStatusCode": 301, **metadata}}, "GetObject"
    )

    made = made_of(answer)

    assert f"the bucket is in another region: set aws_region to eu-west-3 ({code})" in str(made)


def test_a_region_is_told_only_where_it_is_the_trouble():
    """Every answer of Amazon has that header."""
    made = made_of(client_error("AccessDenied", 403, HTTPHeaders={"x-amz-bucket-region": "eu-west-3"}))

    assert "eu-west-3" not in str(made)


def test_what_concerns_no_path_names_the_bucket():
    """And has none among its facts."""
    made = made_of(client_error("NoSuchBucket", 404), path=None)

    assert str(made).startswith("the bucket bucket: there is no such bucket")


def test_an_upload_that_is_gone_is_named():
    """It is not the file that is missing."""
    assert "a.txt (upload)" in str(made_of(client_error("NoSuchUpload", 404)))
    assert " (upload)" in str(made_of(client_error("NoSuchUpload", 404), path=None))


FACTS = {
    "endpoint_url": "https://s3.example.com",
    "proxy_url": "http://proxy",
    "error": SECRET,
    "provider": "test",
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
def test_each_class_becomes_our_error(known, kind, advice):
    """The more special one wins, and no text is taken over from boto3: some quote what was signed."""
    error = known(**FACTS)

    made = made_of(error)

    assert type(made) is kind
    assert str(made) == f"a.txt in the bucket bucket: {advice}"
    assert SECRET not in str(made)
    assert STEP.search(str(made)), made


def test_no_class_is_shadowed():
    """One that stands after its own base class would never be found."""
    classes = [known for known, _, _ in _BY_CLASS]

    shadowed = [
        later.__name__
        for position, later in enumerate(classes)
        if any(issubclass(later, earlier) for earlier in classes[:position])
    ]

    assert shadowed == []


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), KeyError("x"), StorageError("x")])
def test_what_is_not_boto3s_stays_what_it_is(error):
    """A mistake in our own code must look like one."""
    assert translate_error(error, "a.txt", "bucket", "docs") is None


@pytest.mark.parametrize("code", ["PreconditionFailed", "NoSuchKey", "AccessDenied"])
def test_a_condition_is_told_as_whose_it_was(code):
    """S3 answers the same to a taken name and to another version."""
    error = client_error(code)
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
            raise error

        assert kind is other or caught.value.__cause__ is error


# -- a bucket that is missing -----------------------------------------------------------------------------------------

VERBS = {
    "list": lambda storage: storage.list(),
    "list a folder": lambda storage: storage.list("folder", recursive=False),
    "list details": lambda storage: list(storage.iter(details=True)),
    "exists": lambda storage: storage.exists("a.txt"),
    "stat": lambda storage: storage.stat("a.txt"),
    "read": lambda storage: storage.read("a.txt"),
    "download": lambda storage: storage.download("a.txt", io.BytesIO()),
    "write": lambda storage: storage.write("a.txt", b"1"),
    "write parts": lambda storage: storage.write("a.txt", bytes(5 * MIB + 1)),
    "save": lambda storage: storage.save("a.txt", b"1"),
    "copy": lambda storage: storage.copy("a.txt", "b.txt"),
    "move": lambda storage: storage.move("a.txt", "b.txt"),
    "delete": lambda storage: storage.delete("a.txt"),
    "delete many": lambda storage: storage.delete_many(["a.txt"]),
    "delete a folder": lambda storage: storage.delete_prefix("folder"),
    "sweep": lambda storage: storage.sweep(),
    "check": lambda storage: storage.check(),
    "create": lambda storage: storage.multipart.create("a.txt", WriteOptions()),
    "list uploads": lambda storage: list(storage.multipart.list_uploads()),
    "put a part": lambda storage: storage.multipart.upload_part("a.txt", "some-upload", 1, b"1"),
    "list parts": lambda storage: storage.multipart.list_parts("a.txt", "some-upload"),
    "abort": lambda storage: storage.multipart.abort("a.txt", "some-upload"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_bucket_is_never_a_missing_file(s3, verb):
    """Whatever is asked of it: somebody must look at the configuration."""
    storage = make_storage(s3, bucket="no-such-bucket-here", max_attempts=1)

    with pytest.raises(ConfigurationError, match="there is no such bucket: create it, or check its name and the endp"):
        VERBS[verb](storage)


def test_an_impossible_name_of_a_bucket_is_told(s3):
    """boto3 asks nobody about it."""
    with pytest.raises(ConfigurationError, match="an argument is none that S3 takes; see the error before this one"):
        make_storage(s3, bucket="No Bucket!").list()


def test_an_error_carries_its_facts(s3):
    """The path, the storage, and boto3's own error before it."""
    storage = make_storage(s3, bucket="no-such-bucket-here", name="docs")

    with pytest.raises(ConfigurationError) as caught:
        storage.write("a.txt", b"1")

    assert caught.value.path == "a.txt"
    assert caught.value.backend == "docs"
    assert isinstance(caught.value.__cause__, sdk.ClientError)


# -- refusals ---------------------------------------------------------------------------------------------------------

ASKED = sorted(set(VERBS) - {"put a part", "list parts", "abort", "list uploads", "create", "save"})


@pytest.fixture(scope="module")
def closed_bucket(rgw, rgw_cluster):
    """A bucket with a file, and the server as somebody sees it to whom it is closed."""
    make_storage(rgw, bucket=(bucket := rgw.make_bucket())).write("a.txt", b"1")
    return rgw_cluster.other_user(), bucket


@pytest.mark.parametrize("verb", ASKED)
def test_a_refusal_is_never_a_missing_file(closed_bucket, verb):
    """Nor is it False; the text says that a policy must allow it."""
    server, bucket = closed_bucket

    with pytest.raises((PermissionDeniedError, StorageError)) as caught:
        VERBS[verb](make_storage(server, bucket=bucket))

    error = caught.value
    if verb == "delete many":
        error = error.errors["a.txt"] if hasattr(error, "errors") else error
    assert isinstance(error, PermissionDeniedError)
    assert "access is denied: a policy must allow this" in str(error)


@pytest.mark.parametrize("verb", ASKED)
def test_a_wrong_secret_is_told_by_every_operation(rclone_s3, verb):
    """With what to look at, and never as a missing file."""
    storage = make_storage(
        rclone_s3, aws_access_key_id=rclone_s3.access_key, aws_secret_access_key=SECRET, bucket="any"
    )

    with pytest.raises(StorageError) as caught:
        VERBS[verb](storage)

    error = caught.value
    if verb == "delete many":
        error = error.errors["a.txt"] if hasattr(error, "errors") else error
    assert isinstance(error, PermissionDeniedError)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_who_may_not_list_is_told_so_of_a_missing_object(rgw, rgw_cluster):
    """S3 does not say whether it exists, and so we do not either."""
    bucket = rgw.make_bucket()
    storage = make_storage(rgw_cluster.limited_user(bucket, "s3:GetObject", "s3:PutObject"), bucket=bucket)
    storage.write("a.txt", b"1")

    with pytest.raises(PermissionDeniedError, match="Without s3:ListBucket, S3 says so of a missing object too"):
        storage.exists("missing.txt")

    assert storage.read("a.txt") == b"1"


def test_a_wrong_secret_is_told(rclone_s3):
    """With what to look at."""
    with pytest.raises(PermissionDeniedError, match="signature does not match: check the secret key") as caught:
        make_storage(rclone_s3, aws_access_key_id=rclone_s3.access_key, aws_secret_access_key=SECRET).write(
            "a.txt", b"1"
        )

    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_unknown_access_key_is_told(rclone_s3):
    """With what to look at."""
    with pytest.raises(PermissionDeniedError, match="access key is unknown there: check it, and the endpoint_url"):
        make_storage(rclone_s3, aws_access_key_id="nobody", aws_secret_access_key=SECRET).write("a.txt", b"1")


def test_no_credentials_at_all_are_told(s3, monkeypatch, tmp_path):
    """With the ways to give some."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = make_storage(s3, aws_access_key_id=None, aws_secret_access_key=None)

    with pytest.raises(ConfigurationError, match="there are no credentials: give keys or aws_profile, or set up"):
        storage.list()


# -- other answers of real servers ------------------------------------------------------------------------------------


def test_a_storage_class_that_does_not_exist_is_told(rgw, localstack):
    """Ceph only says that an argument is wrong; which ones it may be is said."""
    with pytest.raises(ConfigurationError, match="the service has no such storage_class"):
        make_storage(localstack, storage_class="NONSENSE").write("a.txt", b"1")
    with pytest.raises(StorageError, match="the service refuses a value: check storage_class, acl"):
        make_storage(rgw, storage_class="NONSENSE").write("a.txt", b"1")


def test_a_part_that_is_too_small_is_told(s3):
    """Every one but the last has 5 MiB at least."""
    parts = make_storage(s3).multipart
    upload = parts.create("a.txt", WriteOptions())
    sent = [parts.upload_part("a.txt", upload, number, b"small") for number in (1, 2)]

    with pytest.raises(IntegrityError, match="a part other than the last is smaller than 5 MiB"):
        parts.complete("a.txt", upload, sent, WriteOptions())


def test_a_part_that_never_came_is_told(rgw):
    """The upload stays."""
    parts = make_storage(rgw).multipart
    upload = parts.create("a.txt", WriteOptions())
    sent = parts.upload_part("a.txt", upload, 1, b"first")

    with pytest.raises(IntegrityError, match="a part is missing, or is not the one that was stored"):
        parts.complete("a.txt", upload, [sent, dataclasses.replace(sent, number=2)], WriteOptions())

    assert [part.number for part in parts.list_parts("a.txt", upload)] == [1]


def test_an_unknown_certificate_is_told(s3, monkeypatch):
    """With the argument that helps."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    storage = make_storage(s3, https=True, verify=None, max_attempts=1)

    with pytest.raises(StorageUnavailableError, match="no trusted https: set verify to your CA's file"):
        storage.list()


def test_a_refused_connection_is_told(s3):
    """With what to look at."""
    storage = make_storage(s3, endpoint_url=f"http://127.0.0.1:{free_port()}", max_attempts=1)

    with pytest.raises(StorageUnavailableError, match="it cannot be reached: check the endpoint_url and the net"):
        storage.list()


def test_a_form_of_encryption_that_needs_https_is_told(rgw):
    """Ceph takes a customer's key by https only."""
    storage = make_storage(rgw, customer_key=bytes(32))

    with pytest.raises(StorageError, match=r"what encrypts \(customer_key\) it may take by https only"):
        storage.write("a.txt", b"1")


# -- what no server here can be brought to say ------------------------------------------------------------------------


@pytest.fixture
def scripted(s3):
    """Make a storage on Ceph behind a proxy whose script answers in its place."""
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
        (403, "RequestTimeTooSkewed", PermissionDeniedError, r"clock of this machine is wrong .* set it, with NTP"),
        (403, "ExpiredToken", PermissionDeniedError, "temporary credentials have expired: get new ones"),
        (403, "InvalidObjectState", PermissionDeniedError, "restore it first"),
        (400, "EntityTooLarge", TooLargeError, "no object or part as large as this"),
        (400, "KeyTooLongError", InvalidPathError, "longer than 1024 bytes"),
        (409, "ConditionalRequestConflict", PreconditionFailedError, "somebody else was writing the same file"),
        (403, "QuotaExceeded", StorageFullError, "the quota is used up"),
        (507, "XMinioStorageFull", StorageFullError, "no room is left"),
        (503, "SlowDown", ThrottledError, "send fewer requests, or raise max_attempts"),
        (501, "NotImplemented", UnsupportedOperationError, "check the preset"),
        (400, "RequestTimeout", StorageTimeoutError, "waited in vain for the rest of the request"),
        (500, "InternalError", StorageUnavailableError, "try again"),
        (502, "", StorageUnavailableError, "the service is not available: try again"),
    ],
)
def test_an_answer_becomes_our_error(scripted, status, code, kind, text):
    """With what is to be done; by the code in it, or by the status alone."""
    answer = s3_error(status, code) if code else Answer(status, b"<html>Bad Gateway</html>")
    storage = scripted(lambda _: answer)

    with pytest.raises(kind, match=text) as caught:
        storage.write("a.txt", b"1")

    assert type(caught.value) is kind


@pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed"])
def test_a_bucket_in_another_region_is_told(scripted, code):
    """With the region that the service says it is in."""
    body = f"<Error><Code>{code}</Code><Message>x</Message><Region>eu-west-3</Region></Error>".encode()
    storage = scripted(lambda _: Answer(400, body, {"Content-Type": "application/xml"}))

    with pytest.raises(ConfigurationError, match="the bucket is in another region: set aws_region to eu-west-3"):
        storage.write("a.txt", b"1")


def test_a_redirect_to_another_region_is_told(scripted):
    """Also where the answer has no body, as that of HEAD."""
    storage = scripted(lambda _: Answer(301, headers={"x-amz-bucket-region": "eu-west-3"}))

    with pytest.raises(ConfigurationError, match="set aws_region to eu-west-3"):
        storage.stat("a.txt")


def test_a_connection_that_breaks_off_is_told(scripted):
    """Trying again may help."""
    storage = scripted(lambda _: Lose(after_server=False))

    with pytest.raises(StorageUnavailableError, match="the connection broke off: try again"):
        storage.list()


def test_a_refusal_in_the_middle_of_a_listing_is_an_error(scripted):
    """And not a shorter listing."""
    page = (
        "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>"
        "<Contents><Key>a.txt</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        "</ListBucketResult>"
    )

    def script(request):
        if "continuation-token" in request.query:
            return s3_error(403, "AccessDenied")
        return Answer(200, page.encode(), {"Content-Type": "application/xml"})

    found = scripted(script).iter()

    assert next(found).name == "a.txt"
    with pytest.raises(PermissionDeniedError):
        next(found)


def test_the_bucket_is_looked_at_once(scripted, s3):
    """To tell it from the object; a refusal to show it is no reason to say that the object is there."""
    asked = []

    def script(request):
        asked.append((request.method, request.path))
        return Answer(404) if request.path != "/any" else Answer(403)

    storage = scripted(script)

    assert storage.exists("a.txt") is False
    assert storage.exists("b.txt") is False
    assert asked == [("HEAD", "/any/a.txt"), ("HEAD", "/any"), ("HEAD", "/any/b.txt")]
