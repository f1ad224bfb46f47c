"""Links into S3: each is valid for exactly what was signed, and servers reject any other request."""

import hashlib
import http.client
import string
import time
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from hypothesis import given, settings, strategies as st

from flask_storage import S3Storage, signals
from flask_storage.backends.s3.presign import S3Presigner
from flask_storage.backends.s3.sigv4 import MAX_EXPIRES
from flask_storage.errors import ConfigurationError, InvalidPathError, UnsupportedOperationError
from flask_storage.paths import normalize
from flask_storage.types import LinkRequest, ShareLinkOperation
from tests.counts import count
from tests.plain_client import follow, send
from tests.s3_storages import make_storage
from tests.variants import extra_variant, variants

pytest_plugins = ["tests.services.s3"]

HOUR = timedelta(hours=1)
BODY = b"some content"
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
SERVERS = variants("localstack", "rgw", "rclone_s3")
PATH = "a folder/caf\u00e9 \u4e2d+&=%2F#?.txt"
REJECTED = {403, 400}
"""Statuses of rejected requests: 403 for a wrong signature, 400 for a malformed request or another digest."""
SERVER_ERRORS = {"localstack": {500}}
"""Statuses that a server sends for some malformed requests, without executing them."""


@pytest.fixture(params=SERVERS)
def server(request):
    """Each server that verifies the signatures of links."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def storages():
    """One storage on each server, shared by the module: creating one takes longer than most tests."""
    return {}


@pytest.fixture
def storage(server, storages):
    """An empty storage on each server."""
    made = storages.get(server.name) or storages.setdefault(server.name, make_storage(server))
    made.delete_many([entry.name for entry in made.list()])
    return made


def aws_storage(**arguments):
    """Return a storage of AWS; links are signed without network access."""
    ours = {
        "aws_region": "eu-central-1",
        "aws_access_key_id": "AKIDEXAMPLE",
        "aws_secret_access_key": "a secret not for the logs",
    }
    return S3Storage("a-bucket", **{**ours, **arguments})


def with_clock(storage, clock, rounding=0):
    """Make a storage sign links with another clock."""
    storage._presigner = S3Presigner(storage._gateway, storage._clients, clock=clock, rounding=rounding)
    return storage


def query_of(url):
    """Return the query parameters of a link, unquoted."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def validity_of(url):
    """Return the start and the end of the validity of a link, in seconds since 1970."""
    query = query_of(url)
    start = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    return start, start + int(query["X-Amz-Expires"])


# -- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraints", "header", "value"),
    [
        ({"output_path": "report.pdf"}, "Content-Disposition", 'attachment; filename="report.pdf"'),
        (
            {"output_path": 'Zo\u00eb "1"; x=\\.txt'},
            "Content-Disposition",
            "attachment; filename=\"Zoe _1_; x=_.txt\"; filename*=UTF-8''Zo%C3%AB%20%221%22%3B%20x%3D%5C.txt",
        ),
        (
            {"output_path": "\u4e2d\U0001f600.txt"},
            "Content-Disposition",
            "attachment; filename=\"__.txt\"; filename*=UTF-8''%E4%B8%AD%F0%9F%98%80.txt",
        ),
        ({"content_type": "text/x-special; a=b"}, "Content-Type", "text/x-special; a=b"),
        ({"content_encoding": "gzip"}, "Content-Encoding", "gzip"),
        ({"cache_control": "private, max-age=5"}, "Cache-Control", "private, max-age=5"),
        ({"disposition": "attachment", "output_path": "b.txt"}, "Content-Disposition", 'attachment; filename="b.txt"'),
        ({"disposition": "inline", "output_path": "b.txt"}, "Content-Disposition", 'inline; filename="b.txt"'),
    ],
)
def test_response_headers_of_a_link_are_sent_by_the_service(storage, constraints, header, value):
    """Name, type, encoding and caching are signed into the link, and arrive unchanged."""
    storage.write(PATH, BODY)

    response = send(storage.link_to(PATH, "download", HOUR, **constraints), "GET")

    assert (response.status, response.body, response.headers[header]) == (200, BODY, value)


@pytest.mark.parametrize(
    ("path", "content_type", "shown"),
    [
        ("a.png", None, True),
        ("a.html", None, False),
        ("a.svg", None, False),
        ("a", None, False),
        ("a.png", "text/html", False),
        ("a.html", "text/plain", True),
    ],
)
def test_only_passive_content_is_shown_inline(storage, path, content_type, shown):
    """Pages with scripts are always downloaded; the stored content type has no influence."""
    storage.write(path, BODY, content_type="text/html")

    response = send(storage.link_to(path, "download", HOUR, disposition="inline", content_type=content_type), "GET")

    assert response.headers["Content-Disposition"].startswith("inline" if shown else "attachment")
    assert (response.headers["Content-Type"] != "text/html") is (content_type != "text/html")


@pytest.mark.parametrize("term", ["output_path", "content_type", "content_encoding", "cache_control"])
@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: b=c", "a\nb", "a\0b"])
def test_line_breaks_in_response_headers_are_rejected(term, text):
    """They would inject a header into the response of the service."""
    with pytest.raises(ValueError, match="one line of text"):
        aws_storage().link_to("a", "download", HOUR, **{term: text})


def test_a_plain_link_returns_the_stored_content_and_type(storage):
    """Ranges can be requested too."""
    storage.write(PATH, BODY, content_type="text/x-mine")
    url = storage.link_to(PATH, "download", HOUR)

    whole, piece = send(url, "GET"), send(url, "GET", {"Range": "bytes=5-6"})

    assert (whole.status, whole.body, whole.headers["Content-Type"]) == (200, BODY, "text/x-mine")
    assert piece.status in (200, 206)  # rclone sends the range with the status 200
    assert piece.body == BODY[5:7]


def test_links_in_bulk_equal_single_links():
    """The same text, with the prefix, in the order of the paths."""
    storage = with_clock(aws_storage(prefix="a/prefix"), lambda: 1_900_000_000.5)
    paths = [PATH, "b.txt", "b.txt"]
    until = datetime.fromtimestamp(1_900_003_600, UTC)

    together = storage.links_to(paths, "download", until)
    shown = storage.links_to(paths, "download", until, disposition="inline")

    assert together == [storage.link_to(path, "download", until) for path in paths]
    assert shown == [storage.link_to(path, "download", until, disposition="inline") for path in paths]
    assert all("/a/prefix/" in url for url in together)
    assert query_of(shown[1])["response-content-type"] == "text/plain; charset=utf-8"
    assert storage.links_to([], "download", until) == []


def test_prefixes_and_keys_with_unicode_characters_are_signed(server):
    """The link leads to the file that the storage has under this path."""
    storage = make_storage(server, prefix="\u00e4 prefix/b")
    storage.write(PATH, BODY)

    response = send(storage.link_to(PATH, "download", HOUR), "GET")

    assert (response.status, response.body) == (200, BODY)


# -- uploads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [None, "text/x-mine; charset=utf-8", "application/x-www-form-urlencoded"])
def test_an_upload_is_stored_with_the_signed_content_type(storage, content_type):
    """The default is application/octet-stream; the type is not guessed from the name."""
    upload = storage.upload_request("a.html", HOUR, content_type=content_type)

    response = follow(upload, BODY)

    info = storage.stat("a.html")
    assert (response.status, storage.read("a.html")) == (200, BODY)
    assert info.content_type == content_type or content_type is None
    assert info.content_type == upload.headers["Content-Type"] or storage.preset.checksums != "when_supported"
    assert upload.headers["Content-Type"] == (content_type or "application/octet-stream")


@pytest.mark.parametrize("altered", [{"Content-Type": "text/html"}, {}])
def test_an_upload_with_another_content_type_is_rejected(storage, altered):
    """So that a client cannot upload a page in place of a picture."""
    upload = storage.upload_request("a.png", HOUR, content_type="image/png")

    response = send(upload.url, "PUT", altered, BODY)

    assert response.status == 403
    assert not storage.exists("a.png")


@pytest.mark.parametrize("by", [-1, 1, 1000])
def test_an_upload_of_another_size_is_rejected(storage, by):
    """Neither shorter nor longer content is stored."""
    upload = storage.upload_request("a", HOUR, size=5000)

    response = follow(upload, b"x" * (5000 + by))

    assert response.status == 403
    assert not storage.exists("a")
    assert "Content-Length" not in upload.headers  # which a browser sets itself, and lets no script do it


@pytest.mark.parametrize("size", [0, 5000])
def test_an_upload_of_the_signed_size_is_accepted(storage, size):
    """Also of size 0."""
    upload = storage.upload_request("a", HOUR, size=size)

    response = follow(upload, b"x" * size)

    assert (response.status, storage.size("a")) == (200, size)


@pytest.mark.parametrize(("name", "checksum"), [("localstack", SHA256), *((server, MD5) for server in SERVERS)])
def test_a_signed_checksum_is_enforced(request, name, checksum):
    """Other content is rejected, also when the checksum header is left out or changed."""
    storage = make_storage(request.getfixturevalue(name))
    upload = storage.upload_request("a", HOUR, checksum=checksum)
    checksum_headers = {name: value for name, value in upload.headers.items() if name != "Content-Type"}
    without_checksum = {"Content-Type": upload.headers["Content-Type"]}
    changed = {**upload.headers, **dict.fromkeys(checksum_headers, "AAAAAAAAAAAAAAAAAAAAAA==")}

    wrong = follow(upload, BODY[::-1])
    bare = send(upload.url, "PUT", without_checksum, BODY[::-1])
    other = send(upload.url, "PUT", changed, BODY[::-1])
    stored_before = storage.exists("a")
    right = follow(upload, BODY)

    assert len(checksum_headers) == 1
    assert (wrong.status, wrong.code, bare.status, other.status) == (400, "BadDigest", 403, 403)
    assert stored_before is False
    assert (right.status, storage.read("a")) == (200, BODY)


@pytest.mark.parametrize(
    ("name", "checksum"), [("localstack", f"sha512:{'0' * 128}"), pytest.param("rgw", SHA256, marks=extra_variant)]
)
def test_a_checksum_that_the_service_would_ignore_is_rejected(request, name, checksum):
    """No link is made whose checksum would not be verified."""
    storage = make_storage(request.getfixturevalue(name))

    with pytest.raises(UnsupportedOperationError, match="of uploads by link, only md5"):
        storage.link_to("a", "upload", HOUR, checksum=checksum)


@pytest.mark.parametrize("name", variants("localstack", "rgw"))
def test_an_exclusive_upload_link_creates_a_file_once(request, name):
    """The second upload with the same link is rejected, and the header cannot be left out."""
    storage = make_storage(request.getfixturevalue(name))
    upload = storage.upload_request("a", HOUR, exclusive=True)

    first, second = follow(upload, BODY), follow(upload, b"another")
    bare = send(upload.url, "PUT", {"Content-Type": upload.headers["Content-Type"]}, b"another")

    assert (first.status, second.status, bare.status) == (200, 412, 403)
    assert storage.read("a") == BODY


def test_an_exclusive_upload_link_is_rejected_where_the_service_ignores_it(rclone_s3):
    """The upload would replace an existing file."""
    with pytest.raises(UnsupportedOperationError, match="exclusive"):
        make_storage(rclone_s3).upload_request("a", HOUR, exclusive=True)


def _all_constraints(name):
    constraints = {"content_type": "image/png", "content_encoding": "br", "cache_control": "no-cache", "checksum": MD5}
    return {**constraints, "size": len(BODY), **({} if name == "rclone_s3" else {"exclusive": True})}


@pytest.mark.parametrize("name", SERVERS)
def test_a_presigned_upload_has_exactly_the_needed_headers(request, name):
    """The request succeeds as given; without any header, or with another value, it is rejected."""
    server = request.getfixturevalue(name)
    stored: dict[str, Any] = {} if name == "rclone_s3" else {"acl": "public-read"}
    storage = make_storage(server, storage_class="STANDARD", **stored)
    upload = storage.upload_request("a", HOUR, **_all_constraints(name))
    results: dict[Any, int] = {}

    for header in upload.headers:
        less = {key: value for key, value in upload.headers.items() if key != header}
        results[header] = send(upload.url, "PUT", less, BODY).status
        results[header, "other"] = send(upload.url, "PUT", {**less, header: "text"}, BODY).status
    stored_before = storage.exists("a")
    response = follow(upload, BODY)

    assert stored_before is False
    assert set(results.values()) <= REJECTED
    assert [results[header] for header in upload.headers if header != "Content-MD5"].count(403) >= 4
    assert (response.status, storage.read("a")) == (200, BODY)
    assert {"x-amz-storage-class": "STANDARD", "Content-Type": "image/png"}.items() <= upload.headers.items()
    assert upload.headers.get("x-amz-acl") == stored.get("acl")


def test_storage_settings_of_the_profile_are_signed(localstack):
    """Encryption, class and ACL apply to uploads by link; the client must send them."""
    storage = make_storage(
        localstack, acl="public-read", storage_class="STANDARD_IA", server_side_encryption="AES256", cache_control="x=1"
    )
    upload = storage.upload_request("a", HOUR)

    response = follow(upload, BODY)

    head = storage.client.head_object(Bucket=storage.bucket, Key="a")
    assert response.status == 200
    assert upload.headers == {
        "Content-Type": "application/octet-stream",
        "Cache-Control": "x=1",
        "x-amz-acl": "public-read",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "AES256",
    }
    assert (head["StorageClass"], head["ServerSideEncryption"], head["CacheControl"]) == (
        "STANDARD_IA",
        "AES256",
        "x=1",
    )
    assert send(f"{localstack.http}/{storage.bucket}/a", "GET").status == 200


def test_the_kms_key_is_signed():
    """So that the client cannot choose another."""
    storage = aws_storage(kms_key_id="arn:aws:kms:eu-central-1:1:key/2")

    headers = storage.upload_request("a", HOUR).headers

    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:aws:kms:eu-central-1:1:key/2"


# -- what a link does not allow ---------------------------------------------------------------------------------------


def test_a_remove_link_deletes_the_file(storage):
    """A second request is no error, as with delete."""
    storage.write(PATH, BODY)
    url = storage.link_to(PATH, "remove", HOUR)

    responses = [send(url, "DELETE").status for _ in range(2)]

    assert responses == [204, 204]
    assert not storage.exists(PATH)


@pytest.mark.parametrize("operation", ["download", "upload", "remove"])
def test_a_link_is_valid_for_one_method(storage, operation):
    """Any other method is rejected, HEAD too."""
    storage.write("a", BODY)
    own = {"download": "GET", "upload": "PUT", "remove": "DELETE"}[operation]
    url = storage.link_to("a", operation, HOUR)
    results = {}

    for method in {"GET", "HEAD", "PUT", "DELETE", "POST"} - {own}:
        headers = {"Content-Type": "application/octet-stream"} if operation == "upload" else {}
        results[method] = send(url, method, headers, b"x" if method in ("PUT", "POST") else None).status

    assert set(results.values()) == {403}
    assert storage.read("a") == BODY


@pytest.mark.parametrize("operations", ["du", "dr", "ur", "dur"])
def test_several_operations_in_one_link_are_rejected(operations):
    """An S3 signature is valid for one method."""
    with pytest.raises(UnsupportedOperationError, match="several operations in one link; a link of the app could"):
        aws_storage().link_to("a", operations, HOUR)


@pytest.mark.parametrize("constraints", [{"uses": 1}, {"ip": "203.0.113.0/24"}])
def test_constraints_that_s3_cannot_enforce_are_rejected(constraints):
    """S3 neither counts uses nor restricts addresses."""
    with pytest.raises(UnsupportedOperationError, match="enforce"):
        aws_storage().link_to("a", "download", HOUR, **constraints)


@pytest.mark.parametrize("operation", ["download", "upload", "remove"])
def test_an_expired_link_is_rejected(storage, operation):
    """It expired five seconds ago."""
    storage.write("a", BODY)
    presigner = S3Presigner(storage._gateway, storage._clients, clock=lambda: time.time() - 100)
    expired = datetime.now(UTC) - timedelta(seconds=5)
    method = {"download": "GET", "upload": "PUT", "remove": "DELETE"}[operation]
    url = presigner.url("a", LinkRequest(operations=ShareLinkOperation.as_operation(operation), expires_at=expired))

    headers = {"Content-Type": "application/octet-stream"} if operation == "upload" else {}
    response = send(url, method, headers, b"x" if operation == "upload" else None)

    assert response.status in REJECTED
    assert storage.read("a") == BODY


def test_links_with_a_customer_key_are_rejected():
    """The client of a link would need the key."""
    storage = aws_storage(customer_key=b"k" * 32)

    for make in (
        lambda: storage.link_to("a", "download", HOUR),
        lambda: storage.links_to(["a"], "remove", HOUR),
        lambda: storage.upload_request("a", HOUR),
    ):
        with pytest.raises(UnsupportedOperationError, match="sign a link"):
            make()


def test_links_without_credentials_raise_an_error(monkeypatch, tmp_path):
    """The message says what to do."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = S3Storage("a-bucket", "eu-central-1")

    with pytest.raises(ConfigurationError, match="credentials to sign with"):
        storage.link_to("a", "download", HOUR)


# -- tampering --------------------------------------------------------------------------------------------------------


def _changed(text, index):
    """Return the text with one character replaced by another of its kind."""
    old = text[index]
    kind = next((kind for kind in (string.digits, string.ascii_letters) if old in kind), "-_")
    return text[:index] + next(char for char in kind if char != old) + text[index + 1 :]


def _with_query(url, query):
    return f"{url.partition('?')[0]}?{urlencode(query, quote_via=quote, safe='')}"


def _tampered_queries(url):
    """Yield the link with each parameter changed, emptied or removed, and with additional ones."""
    query = query_of(url)
    for name, value in query.items():
        # Up to six characters of each value are changed.
        for index in range(0, len(value), max(1, len(value) // 5)):
            yield f"{name} changed at {index}", _with_query(url, {**query, name: _changed(value, index)})
        yield f"{name} empty", _with_query(url, {**query, name: ""})
        yield f"no {name}", _with_query(url, {key: value for key, value in query.items() if key != name})
    longer = {"X-Amz-Expires": str(int(query["X-Amz-Expires"]) + 1)}
    yield "longer", _with_query(url, {**query, **longer})
    for more in ("response-expires=x", "versionId=1", "acl=", "tagging=", "uploads=", "uploadId=1&partNumber=1"):
        yield f"with {more}", f"{url}&{more}"


def _tampered_paths(url, other_bucket):
    """Yield the link to many other keys, to another bucket, and to the bucket itself."""
    parts = urlsplit(url)
    _, bucket, key = parts.path.split("/", 2)
    for number in range(len(unquote(key))):
        yield f"key at {number}", f"/{bucket}/{quote(_changed(unquote(key), number))}"
    yield "longer key", f"/{bucket}/{key}1"
    yield "below the key", f"/{bucket}/{key}/1"
    yield "shorter key", f"/{bucket}/{key[:-1]}"
    yield "quoted twice", f"/{bucket}/{quote(key, safe='')}".replace("%2F", "%252F")
    yield "the bucket", f"/{bucket}/"
    yield "other bucket", f"/{other_bucket}/{key}"


def _tampered_uploads(upload, other_bucket):
    """Yield requests (method, URL, headers, body) that differ from the signed one in one respect."""
    url, headers = upload.url, dict(upload.headers)
    for what, changed in _tampered_queries(url):
        yield what, ("PUT", changed, headers, BODY)
    for what, path in _tampered_paths(url, other_bucket):
        yield what, ("PUT", urlsplit(url)._replace(path=path).geturl(), headers, BODY)
    for method in ("GET", "HEAD", "DELETE", "POST"):
        yield method, (method, url, headers, BODY if method == "POST" else None)
    for name, value in headers.items():
        yield f"no {name}", ("PUT", url, {key: text for key, text in headers.items() if key != name}, BODY)
        for index in range(0, len(value), max(1, len(value) // 5)):
            yield f"{name} changed at {index}", ("PUT", url, {**headers, name: _changed(value, index)}, BODY)
        yield f"{name} longer", ("PUT", url, {**headers, name: f"{value}x"}, BODY)
    yield "one byte more", ("PUT", url, headers, BODY + b"x")
    yield "one byte less", ("PUT", url, headers, BODY[:-1])
    yield "nothing", ("PUT", url, headers, b"")
    yield "other bytes", ("PUT", url, headers, BODY[::-1])
    yield "other host", ("PUT", url.replace("127.0.0.1", "localhost"), headers, BODY)


@pytest.mark.parametrize("name", SERVERS)
def test_every_modified_upload_is_rejected(request, name):
    """More than 100 changes of method, key, bucket, parameters, headers and length."""
    server = request.getfixturevalue(name)
    storage, other = make_storage(server), server.make_bucket()
    refusals = REJECTED | SERVER_ERRORS.get(name, set())
    upload = storage.upload_request("folder/file", HOUR, **_all_constraints(name))
    cases = dict(_tampered_uploads(upload, other))

    statuses = {}
    for what, (method, url, headers, body) in cases.items():
        statuses[what] = send(url, method, headers, body).status

    assert len(cases) >= 100
    assert {what: status for what, status in statuses.items() if status not in refusals} == {}
    assert storage.list() == make_storage(server, bucket=other).list() == []
    assert follow(upload, BODY).status == 200


@pytest.mark.parametrize("name", SERVERS)
def test_every_modified_download_is_rejected(request, name):
    """The response contains no content."""
    server = request.getfixturevalue(name)
    storage, other = make_storage(server), server.make_bucket()
    refusals = REJECTED | SERVER_ERRORS.get(name, set())
    for held in (storage, make_storage(server, bucket=other)):
        held.write("folder/file", BODY)
        held.write("folder/filf", BODY)
    url = storage.link_to("folder/file", "download", HOUR, "a.txt", "text/plain", cache_control="private")
    paths = ((what, urlsplit(url)._replace(path=path).geturl()) for what, path in _tampered_paths(url, other))
    cases = {**dict(_tampered_queries(url)), **dict(paths)}

    responses = {what: send(changed, "GET") for what, changed in cases.items()}

    assert {what: response.status for what, response in responses.items() if response.status not in refusals} == {}
    assert not any(BODY in response.body for response in responses.values())
    assert send(url, "GET").body == BODY


# -- expiry -----------------------------------------------------------------------------------------------------------


def test_a_link_expires_when_requested():
    """To the second, and never earlier."""
    before = time.time()

    url = aws_storage().link_to("a", "download", HOUR)

    start, end = validity_of(url)
    assert before - 1 < start <= time.time()
    assert before + 3600 <= end <= time.time() + 3601


@pytest.mark.parametrize("rounding", [0, 3600])
def test_a_lifetime_above_seven_days_is_reduced_with_a_warning(rounding):
    """S3 would reject the link when it is used."""
    storage = aws_storage(link_rounding=rounding)

    with pytest.warns(UserWarning, match="seven days at most"):
        url = storage.link_to("a", "download", timedelta(days=8))

    assert query_of(url)["X-Amz-Expires"] == str(MAX_EXPIRES)


@pytest.mark.parametrize("method", ["link_to", "links_to", "upload_request", "multipart_request", "create_upload_form"])
def test_the_warning_points_to_the_caller(method):
    """Not to a line of the package."""
    storage, late = aws_storage(), timedelta(days=8)
    call = {
        "link_to": lambda: storage.link_to("a", "download", late),
        "links_to": lambda: storage.links_to(["a"], "download", late),
        "upload_request": lambda: storage.upload_request("a", late),
        "multipart_request": lambda: storage.multipart_request("a", "create", late),
        "create_upload_form": lambda: storage.create_upload_form("a", late, max_size=5),
    }[method]

    with pytest.warns(UserWarning, match="seven days at most") as warned:
        call()

    assert warned[0].filename == __file__


def test_the_expiry_of_an_upload_is_the_reduced_one():
    """Not the requested one."""
    with pytest.warns(UserWarning, match="seven days at most"):
        upload = aws_storage().upload_request("a", timedelta(days=30))

    assert upload.expires_at.timestamp() == validity_of(upload.url)[1]


def test_a_lifetime_of_exactly_seven_days_does_not_warn():
    """With rounding the link expires a little earlier, as S3 accepts no more."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = aws_storage().link_to("a", "download", timedelta(days=7))
        rounded = aws_storage(link_rounding=3600).link_to("a", "download", timedelta(days=7))

    for url in (exact, rounded):  # signing waits for boto3's client
        assert MAX_EXPIRES - 60 < int(query_of(url)["X-Amz-Expires"]) <= MAX_EXPIRES


@pytest.mark.parametrize("rounding", [60, 900, 3600])
@pytest.mark.parametrize("lifetime", [7200, 7201, 100_000.5])
def test_links_within_one_rounding_window_are_identical(rounding, lifetime):
    """So that caches can use them, whatever their lifetime; the next window has another link."""
    begin = 1_900_000_800 - 1_900_000_800 % rounding
    storage, texts = aws_storage(), []

    for now in (begin, begin + rounding * 0.25, begin + rounding - 1, begin + rounding + 1):
        with_clock(storage, lambda now=now: now, rounding)
        texts.append(storage.link_to("a", "download", datetime.fromtimestamp(now + lifetime, UTC)))

    assert len(set(texts[:3])) == 1
    assert texts[3] != texts[0]


@settings(max_examples=count(100, 2_000), deadline=None)
@given(
    now=st.floats(1_900_000_000, 1_900_100_000),
    rounding=st.integers(0, 86_400),
    lifetime=st.floats(0.001, MAX_EXPIRES),
)
def test_a_rounded_link_is_valid_for_the_requested_time(now, rounding, lifetime):
    """And at most two windows longer; only the limit of seven days shortens it."""
    until = datetime.fromtimestamp(now + lifetime, UTC)
    storage = with_clock(SHARED, lambda: now, rounding)

    start, end = validity_of(storage.link_to("a", "download", until))

    assert now - 1 - rounding < start <= now
    assert until.timestamp() <= end or end - start == MAX_EXPIRES
    assert end < until.timestamp() + 2 + 2 * rounding


@pytest.mark.parametrize(
    ("rounding", "lifetime"), [(3600, 59), (3600, 3500), (86_400, 3600), (10, 59), (1, 0.5)], ids=str
)
def test_a_short_link_is_not_rounded(rounding, lifetime):
    """One window more would multiply its lifetime."""
    now = 1_900_000_000.25
    storage = with_clock(aws_storage(), lambda: now, rounding)

    start, end = validity_of(storage.link_to("a", "download", datetime.fromtimestamp(now + lifetime, UTC)))

    assert start == int(now)
    assert now + lifetime <= end < now + lifetime + 1


def test_a_link_as_long_as_the_rounding_is_rounded():
    """Although a little of its time has passed when it is signed."""
    storage = aws_storage(link_rounding=HOUR)

    start, end = validity_of(storage.link_to("a", "download", HOUR))

    assert (start % 3600, end % 3600) == (0, 0)


SHARED = aws_storage()
BEGIN = int(time.time())


@pytest.fixture(autouse=True)
def _reset_begin(monkeypatch):
    """Set BEGIN at the start of each test: a run may last longer than the credentials made here."""
    monkeypatch.setitem(globals(), "BEGIN", int(time.time()))


def _temporary_session(lifetime, refreshed=()):
    """Return a session whose credentials expire in *lifetime* seconds; *refreshed* has the next lifetimes."""
    following = iter(refreshed)

    def metadata(name, seconds):
        return {
            "access_key": name,
            "secret_key": f"secret of {name}",
            "token": f"token of {name}",
            "expiry_time": datetime.fromtimestamp(BEGIN + seconds, UTC).isoformat(),
        }

    session = botocore.session.Session()
    session._credentials = RefreshableCredentials.create_from_metadata(
        metadata("FIRST", lifetime),
        refresh_using=lambda: metadata("NEXT", next(following)),
        method="by-hand",
        advisory_timeout=0,
        mandatory_timeout=0,
    )
    return boto3.session.Session(botocore_session=session, region_name="eu-central-1")


def test_a_link_expires_with_its_credentials():
    """The service would not accept it longer; the presigned upload has the same expiry."""
    storage = S3Storage("a-bucket", session=_temporary_session(600))

    upload = storage.upload_request("a", HOUR)
    form = storage.create_upload_form("a", HOUR, max_size=10)

    assert validity_of(upload.url)[1] == BEGIN + 600
    assert upload.expires_at.timestamp() == form.expires_at.timestamp() == BEGIN + 600
    assert query_of(upload.url)["X-Amz-Security-Token"] == "token of FIRST"
    assert form.fields["x-amz-security-token"] == "token of FIRST"
    assert validity_of(storage.link_to("a", "download", timedelta(seconds=60)))[1] < BEGIN + 600


def test_expired_credentials_are_refreshed_before_signing():
    """The first link after an idle night has the requested lifetime."""
    storage = S3Storage("a-bucket", session=_temporary_session(-10, [7200]))

    url = storage.link_to("a", "download", HOUR)

    assert query_of(url)["X-Amz-Security-Token"] == "token of NEXT"
    assert validity_of(url)[1] >= BEGIN + 3600


def test_refreshed_credentials_sign_the_next_link():
    """Credentials change by the hour in a process that runs for weeks."""
    session = _temporary_session(600, [7200])
    storage = S3Storage("a-bucket", session=session)
    before = query_of(storage.link_to("a", "download", HOUR))
    session.get_credentials()._expiry_time = datetime.fromtimestamp(BEGIN - 1, UTC)

    after = query_of(storage.link_to("a", "download", HOUR))

    assert [query["X-Amz-Credential"].split("/")[0] for query in (before, after)] == ["FIRST", "NEXT"]


def test_credentials_at_their_expiry_sign_for_one_second():
    """A link needs a lifetime of at least one second; the service rejects it."""
    session = _temporary_session(600)
    storage = with_clock(S3Storage("a-bucket", session=session), lambda: BEGIN + 600.5)

    url = storage.link_to("a", "download", HOUR)

    assert query_of(url)["X-Amz-Expires"] == "1"


# -- credentials and endpoints ----------------------------------------------------------------------------------------


def test_link_credentials_limit_what_links_allow(rgw_cluster):
    """A link allows only what the user of link_credentials may do."""
    server = rgw_cluster.server
    bucket = server.make_bucket()
    signer = rgw_cluster.limited_user(bucket, "s3:PutObject")
    keys = {"access_key": signer.access_key, "secret_key": signer.secret_key}
    storage = make_storage(server, bucket=bucket, link_credentials=keys)
    storage.write("secret", b"private")

    upload = storage.upload_request("a", HOUR)
    stored = follow(upload, BODY)
    read = send(storage.link_to("secret", "download", HOUR), "GET")
    removed = send(storage.link_to("secret", "remove", HOUR), "DELETE")

    assert (stored.status, read.status, removed.status) == (200, 403, 403)
    assert storage.read("secret") == b"private"
    assert query_of(upload.url)["X-Amz-Credential"].startswith(f"{signer.access_key}/")
    assert server.access_key not in upload.url


@pytest.mark.parametrize("name", SERVERS)
def test_an_upload_link_cannot_copy_objects(request, name):
    """Ceph obeys headers that were not signed; there the signer must not be allowed to read."""
    server = signer = request.getfixturevalue(name)
    bucket = server.make_bucket()
    if name == "rgw":
        signer = request.getfixturevalue("rgw_cluster").limited_user(bucket, "s3:PutObject")
    keys = {"access_key": signer.access_key, "secret_key": signer.secret_key}
    storage = make_storage(server, bucket=bucket, link_credentials=keys)
    storage.write("secret", b"private")
    upload = storage.upload_request("a", HOUR)

    response = send(upload.url, "PUT", {**upload.headers, "x-amz-copy-source": f"{bucket}/secret"}, b"")

    assert response.status == 403
    assert [entry.name for entry in storage.list()] == ["secret"]


def test_the_session_token_of_link_credentials_is_in_the_link():
    """Temporary link credentials work too."""
    keys = {"access_key": "SIGNER", "secret_key": "another secret", "token": "a/token="}

    url = aws_storage(link_credentials=keys).link_to("a", "download", HOUR)

    assert query_of(url)["X-Amz-Credential"].startswith("SIGNER/")
    assert query_of(url)["X-Amz-Security-Token"] == "a/token="
    assert "AKIDEXAMPLE" not in url


def test_links_use_link_endpoint_url(server):
    """The application may reach the service at another address than browsers; the signature is for theirs."""
    outside = server.http.replace("127.0.0.1", "localhost")
    storage = make_storage(server, link_endpoint_url=outside)
    storage.write("a", BODY)

    url = storage.link_to("a", "download", HOUR)
    response = send(url, "GET")

    assert url.startswith(f"{outside}/{storage.bucket}/a?")
    assert (response.status, response.body) == (200, BODY)


def test_a_client_of_the_application_signs_links(server):
    """With its endpoint and its credentials."""
    client = server.client()
    storage = S3Storage(server.make_bucket(), client=client, preset=server.preset)
    storage.write("a", BODY)

    response = send(storage.link_to("a", "download", HOUR), "GET")

    client.close()
    assert (response.status, response.body) == (200, BODY)


def test_links_use_the_endpoint_of_the_storage(s3):
    """With https if the storage uses https."""
    storage = make_storage(s3, https=True)

    url = storage.link_to("a", "download", HOUR)

    assert url.startswith(f"{s3.https}/{storage.bucket}/")


@pytest.mark.parametrize(
    ("endpoint_url", "host"),
    [
        ("http://s3.example.com:80", "s3.example.com"),
        ("https://s3.example.com:443", "s3.example.com"),
        ("http://s3.example.com:443", "s3.example.com:443"),
    ],
)
def test_the_default_port_is_not_signed(endpoint_url, host):
    """Browsers leave it out of the Host header, which is signed."""
    url = aws_storage(endpoint_url=endpoint_url, addressing_style="path").link_to("a", "download", HOUR)

    assert url.startswith(f"{endpoint_url}/a-bucket/a?")
    assert http.client.HTTPConnection(urlsplit(endpoint_url).netloc).host == "s3.example.com"
    assert host in urlsplit(url).netloc


# -- comparison with boto3 --------------------------------------------------------------------------------------------


def _legal(path):
    try:
        return normalize(path) == path
    except InvalidPathError:
        return False


paths = st.one_of(
    st.sampled_from([PATH, "a", "x" * 200, "\U0001f600/a'()*!~", "http:/a@b:1/c"]),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30),
).filter(_legal)
lines = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=["Cc"]), min_size=1, max_size=20
)
words = st.sampled_from(["text/plain; charset=utf-8", "image/png", "no-cache, max-age=5", "a  b", 'x/y;q="1"'])

ADDRESSES = [
    ("eu-central-1", "virtual"),
    ("us-east-1", "virtual"),
    ("us-east-1", "path"),
    ("ap-southeast-2", "path"),
    ("cn-north-1", "virtual"),
]
AWS_STORAGES = {(region, style): aws_storage(aws_region=region, addressing_style=style) for region, style in ADDRESSES}
LINK_CONSTRAINTS = {
    "download": {"content_type": "ResponseContentType", "cache_control": "ResponseCacheControl"},
    "upload": {"content_type": "ContentType", "cache_control": "CacheControl", "content_encoding": "ContentEncoding"},
    "remove": {},
}
BOTO3_OPERATIONS = {"download": "get_object", "upload": "put_object", "remove": "delete_object"}


def _boto3_client(region, style):
    """Return boto3's client with the same settings."""
    return boto3.client(
        "s3",
        region_name=region,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="a secret not for the logs",
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_a_link_equals_that_of_boto3(address):
    """Byte for byte: downloads, uploads and removals, in several regions, with the bucket in the host or the path."""
    boto, storage = _boto3_client(*address), AWS_STORAGES[address]

    @settings(max_examples=count(60, 2_000), deadline=None)
    @given(
        path=paths,
        operation=st.sampled_from(sorted(BOTO3_OPERATIONS)),
        lifetime=st.integers(60, MAX_EXPIRES),
        constraints=st.fixed_dictionaries(
            {}, optional={"content_type": words, "cache_control": words, "content_encoding": st.just("gzip")}
        ),
    )
    def compare(path, operation, lifetime, constraints):
        known = LINK_CONSTRAINTS[operation]
        constraints = {name: value for name, value in constraints.items() if name in known}
        if operation == "upload":
            constraints.setdefault("content_type", "application/octet-stream")
        always = {"ResponseContentDisposition": "attachment"} if operation == "download" else {}
        # The order of boto3's parameters is that of its link.
        parameters = dict(sorted({**always, **{known[name]: value for name, value in constraints.items()}}.items()))
        theirs = boto.generate_presigned_url(
            BOTO3_OPERATIONS[operation], {"Bucket": "a-bucket", "Key": path, **parameters}, lifetime
        )
        now = validity_of(theirs)[0]
        until = datetime.fromtimestamp(now + lifetime, UTC)
        with_clock(storage, lambda: now)

        ours = storage.link_to(path, operation, until, **constraints)

        assert ours == theirs
        assert storage.links_to([path], operation, until, **constraints) == [theirs]

    compare()


def test_no_secret_is_in_a_link():
    """Nor in the repr of the storage or of a presigned upload."""
    storage = aws_storage()

    upload = storage.upload_request("a", HOUR)

    assert "not for the logs" not in unquote(upload.url) + repr(upload) + repr(storage)
    assert parse_qs(urlsplit(upload.url).query)["X-Amz-SignedHeaders"] == ["content-type;host"]


def test_rounding_never_shortens_a_link(s3):
    """Where rounding would exceed the seven days of S3, it is not applied."""
    storage = make_storage(s3, link_rounding=86_400)
    expire = timedelta(days=6, hours=23)

    query = parse_qs(urlsplit(storage.link_to("a", "download", expire)).query)

    made = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert made + timedelta(seconds=int(query["X-Amz-Expires"][0])) >= datetime.now(UTC) + expire - timedelta(minutes=1)


@pytest.mark.parametrize("rounding", [0.5, timedelta(days=2), 86_401, -1, "often"])
def test_an_invalid_rounding_is_rejected(s3, rounding):
    """A fraction of a second has no effect, and days would make every link valid for days."""
    with pytest.raises(ConfigurationError, match="link_rounding"):
        make_storage(s3, bucket="never-asked", link_rounding=rounding)


def test_forms_and_multipart_requests_are_signaled_and_validated_like_links(s3):
    """The signal link_issued is sent for them, and line breaks are rejected."""
    storage = make_storage(s3)
    issued = []

    def note(sender, path, request, **extra):
        issued.append((path, request.max_size, request.content_type))

    with signals.link_issued.connected_to(note, sender=storage):
        storage.create_upload_form("form", HOUR, max_size=5)
        storage.multipart_request("parts", "create", HOUR, content_type="text/plain")

    assert issued == [("form", 5, None), ("parts", None, "text/plain")]
    with pytest.raises(ValueError, match="one line"):
        storage.create_upload_form("form", HOUR, max_size=5, content_type="a/b\r\nx")
    with pytest.raises(ValueError, match="max_size"):
        storage.create_upload_form("form", HOUR, max_size=cast(int, "5"))
    with pytest.raises(ValueError, match="one exact content type"):
        storage.upload_request("link", HOUR, content_type="image/")
