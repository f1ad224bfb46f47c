"""Links into S3: each is good for exactly what was signed, and the servers that check signatures refuse the rest."""

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
REFUSALS = {403, 400}
"""A wrong signature is 403; what is no well-formed request any more, or has another digest, may be 400."""
STUMBLES = {"localstack": {500}}
"""What a server answers in its own confusion, where it does no more than that."""


@pytest.fixture(params=SERVERS)
def server(request):
    """Each server that checks the signatures of links."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def places():
    """A storage on each server, kept for the whole module: making one takes longer than most tests."""
    return {}


@pytest.fixture
def storage(server, places):
    """An empty storage."""
    made = places.get(server.name) or places.setdefault(server.name, make_storage(server))
    made.delete_many([entry.name for entry in made.list()])
    return made


def far(**arguments):
    """A storage of AWS, which nothing is asked of: links are made without the network."""
    ours = {
        "aws_region": "eu-central-1",
        "aws_access_key_id": "AKIDEXAMPLE",
        "aws_secret_access_key": "a secret that nobody may see",
    }
    return S3Storage("a-bucket", **{**ours, **arguments})


def at(storage, clock, rounding=0):
    """Make the links of a storage go by another clock."""
    storage._presigner = S3Presigner(storage._gateway, storage._clients, clock=clock, rounding=rounding)
    return storage


def query_of(url):
    """The parameters of a link, unquoted."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def life_of(url):
    """From when and until when a link is good, in seconds since 1970."""
    query = query_of(url)
    start = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    return start, start + int(query["X-Amz-Expires"])


# -- downloads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "header", "value"),
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
def test_a_link_says_how_the_service_answers(storage, terms, header, value):
    """Name, type, encoding and caching are signed into the link, and arrive as they were given."""
    storage.write(PATH, BODY)

    answer = send(storage.link_to(PATH, "download", HOUR, **terms), "GET")

    assert (answer.status, answer.body, answer.headers[header]) == (200, BODY, value)


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
def test_only_what_can_run_nothing_is_shown(storage, path, content_type, shown):
    """Whatever is asked for, a page with scripts is saved, and the stored type does not decide."""
    storage.write(path, BODY, content_type="text/html")

    answer = send(storage.link_to(path, "download", HOUR, disposition="inline", content_type=content_type), "GET")

    assert answer.headers["Content-Disposition"].startswith("inline" if shown else "attachment")
    assert (answer.headers["Content-Type"] != "text/html") is (content_type != "text/html")


@pytest.mark.parametrize("term", ["output_path", "content_type", "content_encoding", "cache_control"])
@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: b=c", "a\nb", "a\0b"])
def test_what_would_begin_another_header_is_refused(term, text):
    """It would be the client's header in the service's answer."""
    with pytest.raises(ValueError, match="one line of text"):
        far().link_to("a", "download", HOUR, **{term: text})


def test_a_link_without_terms_answers_with_what_is_stored(storage):
    """Type and content are those of the file, and a piece may be asked for."""
    storage.write(PATH, BODY, content_type="text/x-mine")
    url = storage.link_to(PATH, "download", HOUR)

    whole, piece = send(url, "GET"), send(url, "GET", {"Range": "bytes=5-6"})

    assert (whole.status, whole.body, whole.headers["Content-Type"]) == (200, BODY, "text/x-mine")
    assert piece.status in (200, 206)  # rclone sends the piece and calls it the whole
    assert piece.body == BODY[5:7]


def test_many_links_are_those_made_one_by_one():
    """With the text that each has alone, below the prefix, and in their order."""
    below = at(far(prefix="a/prefix"), lambda: 1_900_000_000.5)
    paths = [PATH, "b.txt", "b.txt"]
    until = datetime.fromtimestamp(1_900_003_600, UTC)

    together = below.links_to(paths, "download", until)
    shown = below.links_to(paths, "download", until, disposition="inline")

    assert together == [below.link_to(path, "download", until) for path in paths]
    assert shown == [below.link_to(path, "download", until, disposition="inline") for path in paths]
    assert all("/a/prefix/" in url for url in together)
    assert query_of(shown[1])["response-content-type"] == "text/plain; charset=utf-8"
    assert below.links_to([], "download", until) == []


def test_a_prefix_and_a_key_of_any_script_are_part_of_the_link(server):
    """The link leads to the file that the storage knows under this path."""
    below = make_storage(server, prefix="\u00e4 prefix/b")
    below.write(PATH, BODY)

    answer = send(below.link_to(PATH, "download", HOUR), "GET")

    assert (answer.status, answer.body) == (200, BODY)


# -- uploads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [None, "text/x-mine; charset=utf-8", "application/x-www-form-urlencoded"])
def test_an_upload_is_stored_with_the_type_that_was_signed(storage, content_type):
    """Without one as bytes without a meaning; the name of the file tells nothing."""
    instruction = storage.upload_request("a.html", HOUR, content_type=content_type)

    answer = follow(instruction, BODY)

    info = storage.stat("a.html")
    assert (answer.status, storage.read("a.html")) == (200, BODY)
    assert info.content_type == content_type or content_type is None
    assert info.content_type == instruction.headers["Content-Type"] or storage.preset.checksums != "when_supported"
    assert instruction.headers["Content-Type"] == (content_type or "application/octet-stream")


@pytest.mark.parametrize("altered", [{"Content-Type": "text/html"}, {}])
def test_another_type_or_none_is_refused(storage, altered):
    """The client cannot turn a picture into a page."""
    instruction = storage.upload_request("a.png", HOUR, content_type="image/png")

    answer = send(instruction.url, "PUT", altered, BODY)

    assert answer.status == 403
    assert not storage.exists("a.png")


@pytest.mark.parametrize("by", [-1, 1, 1000])
def test_another_size_is_refused(storage, by):
    """Neither shorter nor longer; nothing is stored."""
    instruction = storage.upload_request("a", HOUR, size=5000)

    answer = follow(instruction, b"x" * (5000 + by))

    assert answer.status == 403
    assert not storage.exists("a")
    assert "Content-Length" not in instruction.headers  # which a browser sets itself, and lets no script do it


@pytest.mark.parametrize("size", [0, 5000])
def test_the_right_size_is_taken(storage, size):
    """Also nothing at all."""
    instruction = storage.upload_request("a", HOUR, size=size)

    answer = follow(instruction, b"x" * size)

    assert (answer.status, storage.size("a")) == (200, size)


@pytest.mark.parametrize(("name", "checksum"), [("localstack", SHA256), *((server, MD5) for server in SERVERS)])
def test_a_checksum_binds_the_content(request, name, checksum):
    """Another content is refused, also when the header that says the checksum is left out or changed."""
    storage = make_storage(request.getfixturevalue(name))
    instruction = storage.upload_request("a", HOUR, checksum=checksum)
    told = {name: value for name, value in instruction.headers.items() if name != "Content-Type"}
    without = {"Content-Type": instruction.headers["Content-Type"]}
    changed = {**instruction.headers, **dict.fromkeys(told, "AAAAAAAAAAAAAAAAAAAAAA==")}

    wrong = follow(instruction, BODY[::-1])
    bare = send(instruction.url, "PUT", without, BODY[::-1])
    other = send(instruction.url, "PUT", changed, BODY[::-1])
    nothing_yet = storage.exists("a")
    right = follow(instruction, BODY)

    assert len(told) == 1
    assert (wrong.status, wrong.code, bare.status, other.status) == (400, "BadDigest", 403, 403)
    assert nothing_yet is False
    assert (right.status, storage.read("a")) == (200, BODY)


@pytest.mark.parametrize(
    ("name", "checksum"), [("localstack", f"sha512:{'0' * 128}"), pytest.param("rgw", SHA256, marks=extra_variant)]
)
def test_a_checksum_that_nobody_would_compare_is_refused(request, name, checksum):
    """Better no link than one that promises what the service ignores."""
    storage = make_storage(request.getfixturevalue(name))

    with pytest.raises(UnsupportedOperationError, match="give the md5"):
        storage.link_to("a", "upload", HOUR, checksum=checksum)


@pytest.mark.parametrize("name", variants("localstack", "rgw"))
def test_create_only_takes_a_free_name_once(request, name):
    """The second upload by the same link finds the name taken, and the header cannot be left out."""
    storage = make_storage(request.getfixturevalue(name))
    instruction = storage.upload_request("a", HOUR, exclusive=True)

    first, second = follow(instruction, BODY), follow(instruction, b"another")
    bare = send(instruction.url, "PUT", {"Content-Type": instruction.headers["Content-Type"]}, b"another")

    assert (first.status, second.status, bare.status) == (200, 412, 403)
    assert storage.read("a") == BODY


def test_create_only_is_refused_where_the_service_ignores_it(rclone_s3):
    """The link would replace what is there."""
    with pytest.raises(UnsupportedOperationError, match="exclusive"):
        make_storage(rclone_s3).upload_request("a", HOUR, exclusive=True)


def _everything(name):
    terms = {"content_type": "image/png", "content_encoding": "br", "cache_control": "no-cache", "checksum": MD5}
    return {**terms, "size": len(BODY), **({} if name == "rclone_s3" else {"exclusive": True})}


@pytest.mark.parametrize("name", SERVERS)
def test_an_instruction_names_all_that_is_needed_and_nothing_more(request, name):
    """Doing what it says works; leaving out any header, or saying anything else in it, does not."""
    server = request.getfixturevalue(name)
    stored: dict[str, Any] = {} if name == "rclone_s3" else {"acl": "public-read"}
    storage = make_storage(server, storage_class="STANDARD", **stored)
    instruction = storage.upload_request("a", HOUR, **_everything(name))
    results: dict[Any, int] = {}

    for header in instruction.headers:
        less = {key: value for key, value in instruction.headers.items() if key != header}
        results[header] = send(instruction.url, "PUT", less, BODY).status
        results[header, "other"] = send(instruction.url, "PUT", {**less, header: "text"}, BODY).status
    nothing_yet = storage.exists("a")
    answer = follow(instruction, BODY)

    assert nothing_yet is False
    assert set(results.values()) <= REFUSALS
    assert [results[header] for header in instruction.headers if header != "Content-MD5"].count(403) >= 4
    assert (answer.status, storage.read("a")) == (200, BODY)
    assert {"x-amz-storage-class": "STANDARD", "Content-Type": "image/png"}.items() <= instruction.headers.items()
    assert instruction.headers.get("x-amz-acl") == stored.get("acl")


def test_what_the_profile_stores_with_is_signed(localstack):
    """Encryption, class and ACL of the profile hold for uploads by a link too; the client has to send them."""
    storage = make_storage(
        localstack, acl="public-read", storage_class="STANDARD_IA", server_side_encryption="AES256", cache_control="x=1"
    )
    instruction = storage.upload_request("a", HOUR)

    answer = follow(instruction, BODY)

    with_what = storage.client.head_object(Bucket=storage.bucket, Key="a")
    assert answer.status == 200
    assert instruction.headers == {
        "Content-Type": "application/octet-stream",
        "Cache-Control": "x=1",
        "x-amz-acl": "public-read",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "AES256",
    }
    assert (with_what["StorageClass"], with_what["ServerSideEncryption"], with_what["CacheControl"]) == (
        "STANDARD_IA",
        "AES256",
        "x=1",
    )
    assert send(f"{localstack.http}/{storage.bucket}/a", "GET").status == 200


def test_the_key_of_kms_is_signed():
    """So that the client cannot choose another."""
    storage = far(kms_key_id="arn:aws:kms:eu-central-1:1:key/2")

    headers = storage.upload_request("a", HOUR).headers

    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:aws:kms:eu-central-1:1:key/2"


# -- what a link is not good for -------------------------------------------------------------------------------------


def test_a_link_to_remove_removes(storage):
    """And a second time is no error, as with the verb."""
    storage.write(PATH, BODY)
    url = storage.link_to(PATH, "remove", HOUR)

    answers = [send(url, "DELETE").status for _ in range(2)]

    assert answers == [204, 204]
    assert not storage.exists(PATH)


@pytest.mark.parametrize("operation", ["download", "upload", "remove"])
def test_a_link_is_good_for_one_method(storage, operation):
    """GET does not put, PUT does not delete, and not even HEAD may look."""
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
def test_several_operations_in_one_link_are_refused(operations):
    """A signature of S3 is for one method."""
    with pytest.raises(UnsupportedOperationError, match="one link for each"):
        far().link_to("a", operations, HOUR)


@pytest.mark.parametrize("terms", [{"uses": 1}, {"ip": "203.0.113.0/24"}])
def test_terms_that_s3_cannot_bind_are_refused(terms):
    """A link that can be used once needs somebody who counts."""
    with pytest.raises(UnsupportedOperationError, match="bind"):
        far().link_to("a", "download", HOUR, **terms)


@pytest.mark.parametrize("operation", ["download", "upload", "remove"])
def test_a_link_that_has_expired_is_refused(storage, operation):
    """It was good until five seconds ago."""
    storage.write("a", BODY)
    links = S3Presigner(storage._gateway, storage._clients, clock=lambda: time.time() - 100)
    ended = datetime.now(UTC) - timedelta(seconds=5)
    method = {"download": "GET", "upload": "PUT", "remove": "DELETE"}[operation]
    url = links.url("a", LinkRequest(operations=ShareLinkOperation.as_operation(operation), expires_at=ended))

    headers = {"Content-Type": "application/octet-stream"} if operation == "upload" else {}
    answer = send(url, method, headers, b"x" if operation == "upload" else None)

    assert answer.status in REFUSALS
    assert storage.read("a") == BODY


def test_a_customers_own_key_signs_no_link():
    """Whoever had the link would need the key as well."""
    storage = far(customer_key=b"k" * 32)

    for make in (
        lambda: storage.link_to("a", "download", HOUR),
        lambda: storage.links_to(["a"], "remove", HOUR),
        lambda: storage.upload_request("a", HOUR),
    ):
        with pytest.raises(UnsupportedOperationError, match="sign a link"):
            make()


def test_without_credentials_there_are_no_links(monkeypatch, tmp_path):
    """The error says what to do."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = S3Storage("a-bucket", "eu-central-1")

    with pytest.raises(ConfigurationError, match="credentials to sign with"):
        storage.link_to("a", "download", HOUR)


# -- tampering -----------------------------------------------------------------------------------------------------


def _flipped(text, place):
    """The text with one character changed into another of its kind."""
    old = text[place]
    kind = next((kind for kind in (string.digits, string.ascii_letters) if old in kind), "-_")
    return text[:place] + next(char for char in kind if char != old) + text[place + 1 :]


def _with_query(url, query):
    return f"{url.partition('?')[0]}?{urlencode(query, quote_via=quote, safe='')}"


def _tampered_queries(url):
    """The link with each parameter changed, doubled, emptied or left out, and with one more."""
    query = query_of(url)
    for name, value in query.items():
        # A signature or a date has many places to be changed, a fixed word few.
        for index in range(0, len(value), max(1, len(value) // 5)):
            yield f"{name} flipped at {index}", _with_query(url, {**query, name: _flipped(value, index)})
        yield f"{name} empty", _with_query(url, {**query, name: ""})
        yield f"no {name}", _with_query(url, {key: value for key, value in query.items() if key != name})
    longer = {"X-Amz-Expires": str(int(query["X-Amz-Expires"]) + 1)}
    yield "longer", _with_query(url, {**query, **longer})
    for more in ("response-expires=x", "versionId=1", "acl=", "tagging=", "uploads=", "uploadId=1&partNumber=1"):
        yield f"with {more}", f"{url}&{more}"


def _tampered_places(url, other_bucket):
    """The link to each of many other keys, to another bucket, and to the bucket itself."""
    parts = urlsplit(url)
    _, bucket, key = parts.path.split("/", 2)
    for number in range(len(unquote(key))):
        yield f"key at {number}", f"/{bucket}/{quote(_flipped(unquote(key), number))}"
    yield "longer key", f"/{bucket}/{key}1"
    yield "below the key", f"/{bucket}/{key}/1"
    yield "shorter key", f"/{bucket}/{key[:-1]}"
    yield "quoted twice", f"/{bucket}/{quote(key, safe='')}".replace("%2F", "%252F")
    yield "the bucket", f"/{bucket}/"
    yield "other bucket", f"/{other_bucket}/{key}"


def _tampered_uploads(instruction, other_bucket):
    """Requests, each as method, URL, headers and body, that differ in one thing from what was allowed."""
    url, headers = instruction.url, dict(instruction.headers)
    for what, changed in _tampered_queries(url):
        yield what, ("PUT", changed, headers, BODY)
    for what, path in _tampered_places(url, other_bucket):
        yield what, ("PUT", urlsplit(url)._replace(path=path).geturl(), headers, BODY)
    for method in ("GET", "HEAD", "DELETE", "POST"):
        yield method, (method, url, headers, BODY if method == "POST" else None)
    for name, value in headers.items():
        yield f"no {name}", ("PUT", url, {key: text for key, text in headers.items() if key != name}, BODY)
        for index in range(0, len(value), max(1, len(value) // 5)):
            yield f"{name} flipped at {index}", ("PUT", url, {**headers, name: _flipped(value, index)}, BODY)
        yield f"{name} longer", ("PUT", url, {**headers, name: f"{value}x"}, BODY)
    yield "one byte more", ("PUT", url, headers, BODY + b"x")
    yield "one byte less", ("PUT", url, headers, BODY[:-1])
    yield "nothing", ("PUT", url, headers, b"")
    yield "other bytes", ("PUT", url, headers, BODY[::-1])
    yield "other host", ("PUT", url.replace("127.0.0.1", "localhost"), headers, BODY)


@pytest.mark.parametrize("name", SERVERS)
def test_no_changed_upload_is_taken(request, name):
    """Method, key, bucket, each parameter, each header, each byte of the length: more than 100 changes, all refused."""
    server = request.getfixturevalue(name)
    storage, other = make_storage(server), server.make_bucket()
    refusals = REFUSALS | STUMBLES.get(name, set())
    instruction = storage.upload_request("folder/file", HOUR, **_everything(name))
    cases = dict(_tampered_uploads(instruction, other))

    statuses = {}
    for what, (method, url, headers, body) in cases.items():
        statuses[what] = send(url, method, headers, body).status

    assert len(cases) >= 100
    assert {what: status for what, status in statuses.items() if status not in refusals} == {}
    assert storage.list() == make_storage(server, bucket=other).list() == []
    assert follow(instruction, BODY).status == 200


@pytest.mark.parametrize("name", SERVERS)
def test_no_changed_download_is_answered(request, name):
    """Nor does anything else than what was signed decide how the service answers."""
    server = request.getfixturevalue(name)
    storage, other = make_storage(server), server.make_bucket()
    refusals = REFUSALS | STUMBLES.get(name, set())
    for held in (storage, make_storage(server, bucket=other)):
        held.write("folder/file", BODY)
        held.write("folder/filf", BODY)
    url = storage.link_to("folder/file", "download", HOUR, "a.txt", "text/plain", cache_control="private")
    places = ((what, urlsplit(url)._replace(path=path).geturl()) for what, path in _tampered_places(url, other))
    cases = {**dict(_tampered_queries(url)), **dict(places)}

    answers = {what: send(changed, "GET") for what, changed in cases.items()}

    assert {what: answer.status for what, answer in answers.items() if answer.status not in refusals} == {}
    assert not any(BODY in answer.body for answer in answers.values())
    assert send(url, "GET").body == BODY


# -- until when ----------------------------------------------------------------------------------------------------


def test_a_link_ends_when_it_was_asked_to():
    """To the second, and never earlier."""
    before = time.time()

    url = far().link_to("a", "download", HOUR)

    start, end = life_of(url)
    assert before - 1 < start <= time.time()
    assert before + 3600 <= end <= time.time() + 3601


@pytest.mark.parametrize("rounding", [0, 3600])
def test_more_than_seven_days_are_seven_days_and_a_warning(rounding):
    """S3 would refuse the link at its first use."""
    storage = far(link_rounding=rounding)

    with pytest.warns(UserWarning, match="seven days at most"):
        url = storage.link_to("a", "download", timedelta(days=8))

    assert query_of(url)["X-Amz-Expires"] == str(MAX_EXPIRES)


def test_the_end_of_an_upload_is_told_as_it_is():
    """After the clamp, not as it was asked for."""
    with pytest.warns(UserWarning, match="seven days at most"):
        instruction = far().upload_request("a", timedelta(days=30))

    assert instruction.expires_at.timestamp() == life_of(instruction.url)[1]


def test_exactly_seven_days_are_no_reason_to_warn():
    """Rounding makes them a little less: the service would take no more."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = far().link_to("a", "download", timedelta(days=7))
        rounded = far(link_rounding=3600).link_to("a", "download", timedelta(days=7))

    assert query_of(exact)["X-Amz-Expires"] == query_of(rounded)["X-Amz-Expires"] == str(MAX_EXPIRES)


@pytest.mark.parametrize("rounding", [60, 900, 3600])
@pytest.mark.parametrize("life", [7200, 7201, 100_000.5])
def test_links_of_one_window_are_one_text(rounding, life):
    """So that caches hit, however long the links are to live; the next window has another."""
    begin = 1_900_000_800 - 1_900_000_800 % rounding
    storage, texts = far(), []

    for moment in (begin, begin + rounding * 0.25, begin + rounding - 1, begin + rounding + 1):
        at(storage, lambda moment=moment: moment, rounding)
        texts.append(storage.link_to("a", "download", datetime.fromtimestamp(moment + life, UTC)))

    assert len(set(texts[:3])) == 1
    assert texts[3] != texts[0]


@settings(max_examples=count(100, 2_000), deadline=None)
@given(
    now=st.floats(1_900_000_000, 1_900_100_000),
    rounding=st.integers(0, 86_400),
    life=st.floats(0.001, MAX_EXPIRES),
)
def test_a_rounded_link_lives_as_long_as_asked(now, rounding, life):
    """And no longer than two windows more; only the seven days of S3 cut it short."""
    until = datetime.fromtimestamp(now + life, UTC)
    storage = at(SHARED, lambda: now, rounding)

    start, end = life_of(storage.link_to("a", "download", until))

    assert now - 1 - rounding < start <= now
    assert until.timestamp() <= end or end - start == MAX_EXPIRES
    assert end < until.timestamp() + 2 + 2 * rounding


SHARED = far()
BEGIN = int(time.time())


@pytest.fixture(autouse=True)
def _begin_now(monkeypatch):
    """Count from the beginning of each test: a run may last longer than the credentials made here."""
    monkeypatch.setitem(globals(), "BEGIN", int(time.time()))


def _temporary(life, refreshed=()):
    """A session whose credentials end in so many seconds, and are then replaced by the next of *refreshed*."""
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
        metadata("FIRST", life),
        refresh_using=lambda: metadata("NEXT", next(following)),
        method="by-hand",
        advisory_timeout=0,
        mandatory_timeout=0,
    )
    return boto3.session.Session(botocore_session=session, region_name="eu-central-1")


def test_a_link_ends_with_the_credentials_that_signed_it():
    """What was asked for is more than the service would honour; the instruction says so."""
    storage = S3Storage("a-bucket", session=_temporary(600))

    instruction = storage.upload_request("a", HOUR)
    form = storage.create_upload_form("a", HOUR, max_size=10)

    assert life_of(instruction.url)[1] == BEGIN + 600
    assert instruction.expires_at.timestamp() == form.expires_at.timestamp() == BEGIN + 600
    assert query_of(instruction.url)["X-Amz-Security-Token"] == "token of FIRST"
    assert form.fields["x-amz-security-token"] == "token of FIRST"
    assert life_of(storage.link_to("a", "download", timedelta(seconds=60)))[1] < BEGIN + 600


def test_credentials_that_have_run_out_are_renewed_before_they_sign():
    """The first link after an idle night lives as long as was asked for."""
    storage = S3Storage("a-bucket", session=_temporary(-10, [7200]))

    url = storage.link_to("a", "download", HOUR)

    assert query_of(url)["X-Amz-Security-Token"] == "token of NEXT"
    assert life_of(url)[1] >= BEGIN + 3600


def test_new_credentials_sign_the_next_link():
    """They change by the hour in a process that lives for weeks."""
    session = _temporary(600, [7200])
    storage = S3Storage("a-bucket", session=session)
    before = query_of(storage.link_to("a", "download", HOUR))
    session.get_credentials()._expiry_time = datetime.fromtimestamp(BEGIN - 1, UTC)

    after = query_of(storage.link_to("a", "download", HOUR))

    assert [query["X-Amz-Credential"].split("/")[0] for query in (before, after)] == ["FIRST", "NEXT"]


def test_credentials_at_their_very_end_sign_for_a_second():
    """A link must live at all; the service refuses it by itself."""
    session = _temporary(600)
    storage = at(S3Storage("a-bucket", session=session), lambda: BEGIN + 600.5)

    url = storage.link_to("a", "download", HOUR)

    assert query_of(url)["X-Amz-Expires"] == "1"


# -- who signs, and for where --------------------------------------------------------------------------------------


def test_links_are_signed_by_whom_they_are_said_to_be(rgw_cluster):
    """A leaked link names somebody who may do little; what that user may not do, no link does."""
    server = rgw_cluster.server
    bucket = server.make_bucket()
    signer = rgw_cluster.limited_user(bucket, "s3:PutObject")
    keys = {"access_key": signer.access_key, "secret_key": signer.secret_key}
    storage = make_storage(server, bucket=bucket, link_credentials=keys)
    storage.write("secret", b"for nobody")

    upload = storage.upload_request("a", HOUR)
    stored = follow(upload, BODY)
    read = send(storage.link_to("secret", "download", HOUR), "GET")
    removed = send(storage.link_to("secret", "remove", HOUR), "DELETE")

    assert (stored.status, read.status, removed.status) == (200, 403, 403)
    assert storage.read("secret") == b"for nobody"
    assert query_of(upload.url)["X-Amz-Credential"].startswith(f"{signer.access_key}/")
    assert server.access_key not in upload.url


@pytest.mark.parametrize("name", SERVERS)
def test_an_upload_link_of_a_modest_signer_copies_nothing(request, name):
    """Ceph obeys headers that were not signed: there the signer must be one who may read nothing."""
    server = signer = request.getfixturevalue(name)
    bucket = server.make_bucket()
    if name == "rgw":
        signer = request.getfixturevalue("rgw_cluster").limited_user(bucket, "s3:PutObject")
    keys = {"access_key": signer.access_key, "secret_key": signer.secret_key}
    storage = make_storage(server, bucket=bucket, link_credentials=keys)
    storage.write("secret", b"for nobody")
    upload = storage.upload_request("a", HOUR)

    answer = send(upload.url, "PUT", {**upload.headers, "x-amz-copy-source": f"{bucket}/secret"}, b"")

    assert answer.status == 403
    assert [entry.name for entry in storage.list()] == ["secret"]


def test_a_token_of_the_signer_is_in_the_link():
    """Temporary credentials for links alone work too."""
    keys = {"access_key": "SIGNER", "secret_key": "another secret", "token": "a/token="}

    url = far(link_credentials=keys).link_to("a", "download", HOUR)

    assert query_of(url)["X-Amz-Credential"].startswith("SIGNER/")
    assert query_of(url)["X-Amz-Security-Token"] == "a/token="
    assert "AKIDEXAMPLE" not in url


def test_links_lead_where_browsers_find_the_service(server):
    """The app may know it by another name than the world does; the signature is for the world's."""
    outside = server.http.replace("127.0.0.1", "localhost")
    storage = make_storage(server, link_endpoint_url=outside)
    storage.write("a", BODY)

    url = storage.link_to("a", "download", HOUR)
    answer = send(url, "GET")

    assert url.startswith(f"{outside}/{storage.bucket}/a?")
    assert (answer.status, answer.body) == (200, BODY)


def test_a_client_of_the_apps_own_signs_too(server):
    """With its address and its credentials."""
    client = server.client()
    storage = S3Storage(server.make_bucket(), client=client, preset=server.preset)
    storage.write("a", BODY)

    answer = send(storage.link_to("a", "download", HOUR), "GET")

    client.close()
    assert (answer.status, answer.body) == (200, BODY)


def test_a_link_leads_to_the_address_of_the_storage(s3):
    """By https where that is how the app comes in."""
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
def test_the_port_of_the_scheme_is_not_signed(endpoint_url, host):
    """Browsers leave it out of the header that the signature covers."""
    url = far(endpoint_url=endpoint_url, addressing_style="path").link_to("a", "download", HOUR)

    assert url.startswith(f"{endpoint_url}/a-bucket/a?")
    assert http.client.HTTPConnection(urlsplit(endpoint_url).netloc).host == "s3.example.com"
    assert host in urlsplit(url).netloc


# -- the same as boto3's -------------------------------------------------------------------------------------------


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
FAR = {(region, style): far(aws_region=region, addressing_style=style) for region, style in ADDRESSES}
LINK_CONSTRAINTS = {
    "download": {"content_type": "ResponseContentType", "cache_control": "ResponseCacheControl"},
    "upload": {"content_type": "ContentType", "cache_control": "CacheControl", "content_encoding": "ContentEncoding"},
    "remove": {},
}
VERBS = {"download": "get_object", "upload": "put_object", "remove": "delete_object"}


def _boto3(region, style):
    """boto3's own client for the same place."""
    return boto3.client(
        "s3",
        region_name=region,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="a secret that nobody may see",
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_a_link_is_the_one_that_boto3_makes(address):
    """Byte for byte: downloads, uploads and removals, in several regions, with the bucket in the host or the path."""
    boto, storage = _boto3(*address), FAR[address]

    @settings(max_examples=count(60, 2_000), deadline=None)
    @given(
        path=paths,
        operation=st.sampled_from(sorted(VERBS)),
        life=st.integers(60, MAX_EXPIRES),
        terms=st.fixed_dictionaries(
            {}, optional={"content_type": words, "cache_control": words, "content_encoding": st.just("gzip")}
        ),
    )
    def compare(path, operation, life, terms):
        known = LINK_CONSTRAINTS[operation]
        terms = {name: value for name, value in terms.items() if name in known}
        if operation == "upload":
            terms.setdefault("content_type", "application/octet-stream")
        always = {"ResponseContentDisposition": "attachment"} if operation == "download" else {}
        # The order of boto3's parameters is that of its link.
        parameters = dict(sorted({**always, **{known[name]: value for name, value in terms.items()}}.items()))
        theirs = boto.generate_presigned_url(VERBS[operation], {"Bucket": "a-bucket", "Key": path, **parameters}, life)
        moment = life_of(theirs)[0]
        until = datetime.fromtimestamp(moment + life, UTC)
        at(storage, lambda: moment)

        ours = storage.link_to(path, operation, until, **terms)

        assert ours == theirs
        assert storage.links_to([path], operation, until, **terms) == [theirs]

    compare()


def test_no_secret_is_in_a_link():
    """Nor in what a log prints of the storage or of an instruction."""
    storage = far()

    instruction = storage.upload_request("a", HOUR)

    assert "nobody" not in unquote(instruction.url) + repr(instruction) + repr(storage)
    assert parse_qs(urlsplit(instruction.url).query)["X-Amz-SignedHeaders"] == ["content-type;host"]


def test_rounding_never_ends_a_link_before_its_time(s3):
    """Where rounding and the seven days of S3 do not go together, the seven days win."""
    storage = make_storage(s3, link_rounding=86_400)
    expire = timedelta(days=6, hours=23)

    query = parse_qs(urlsplit(storage.link_to("a", "download", expire)).query)

    made = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert made + timedelta(seconds=int(query["X-Amz-Expires"][0])) >= datetime.now(UTC) + expire - timedelta(minutes=1)


@pytest.mark.parametrize("rounding", [0.5, timedelta(days=2), 86_401, -1, "often"])
def test_a_rounding_that_is_none_is_refused(s3, rounding):
    """Half seconds would be nothing, and weeks would make every link live for weeks."""
    with pytest.raises(ConfigurationError, match="link_rounding"):
        make_storage(s3, bucket="never-asked", link_rounding=rounding)


def test_forms_and_steps_are_announced_and_checked_like_links(s3):
    """Whoever audits hears of them, and none holds a line end."""
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
    with pytest.raises(ValueError, match="form"):
        storage.upload_request("link", HOUR, content_type="image/")
