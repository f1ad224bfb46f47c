"""Forms for browsers and uploads in parts by signed requests: what the policy says is what the service takes."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flask_storage import LinkRequest, S3Storage, ShareLinkOperation
from flask_storage.backends.s3.multipart import MIN_PART
from flask_storage.backends.s3.presign import S3Presigner
from flask_storage.errors import UnsupportedOperationError
from tests.plain_client import follow, post, send
from tests.s3_storages import make_storage
from tests.variants import variants

pytest_plugins = ["tests.services.s3"]

HOUR = timedelta(hours=1)
PATH = "in/caf\u00e9 +&=\u4e2d.png"
STEPS = ["create", "part", "complete", "abort", "list"]


@pytest.fixture(scope="module")
def places():
    """A storage on each server, kept for the whole module: making one takes longer than most tests."""
    return {}


def emptied(places, server, **arguments):
    """The storage on a server, without files and unfinished uploads."""
    name = server.name, *arguments
    made = places.get(name) or places.setdefault(name, make_storage(server, **arguments))
    server.empty_bucket(made.bucket)
    return made


@pytest.fixture(params=variants("localstack", "rgw"))
def storage(request, places):
    """An empty storage on each server that takes forms."""
    return emptied(places, request.getfixturevalue(request.param), prefix="below")


@pytest.fixture
def strict(rgw, places):
    """An empty storage on the server that checks the signature of a form too."""
    return emptied(places, rgw)


def far(**arguments):
    """A storage of AWS, which nothing is asked of."""
    return S3Storage("a-bucket", "eu-central-1", "AKIDEXAMPLE", "a secret that nobody may see", **arguments)


def policy_of(form):
    """What the form's policy says."""
    return json.loads(base64.b64decode(form.fields["policy"]))


# -- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "status", "code"), [(1, 400, "EntityTooSmall"), (2, 204, ""), (5, 204, ""), (6, 400, "EntityTooLarge")]
)
def test_a_form_takes_sizes_within_its_limits(storage, size, status, code):
    """Both ends included; of anything else nothing is stored."""
    form = storage.create_upload_form(PATH, HOUR, min_size=2, max_size=5)

    answer = follow(form, b"x" * size)

    assert (answer.status, answer.code) == (status, code)
    assert storage.exists(PATH) is (status == 204)


@pytest.mark.parametrize("content_type", [None, "image/png"])
def test_a_form_stores_the_type_that_it_names(storage, content_type):
    """Not what the file claims to be in the form; without a type it is bytes without a meaning."""
    form = storage.create_upload_form(PATH, HOUR, max_size=5, content_type=content_type)

    right = follow(form, b"bytes")
    wrong = follow(form, b"other", Content_Type="text/html")

    assert (right.status, wrong.status) == (204, 403)
    assert storage.read(PATH) == b"bytes"
    assert storage.stat(PATH).content_type == (content_type or "application/octet-stream")


def test_a_beginning_of_a_type_leaves_the_rest_to_the_browser(storage):
    """Any picture, but nothing else, and not no type at all."""
    form = storage.create_upload_form(PATH, HOUR, max_size=5, content_type="image/")

    nothing = follow(form, b"page")
    page = follow(form, b"page", Content_Type="text/html")
    nothing_yet = storage.exists(PATH)
    picture = follow(form, b"image", Content_Type="image/webp")

    assert (nothing.status, page.status, picture.status) == (403, 403, 204)
    assert nothing_yet is False
    assert storage.stat(PATH).content_type == "image/webp"
    assert "Content-Type" not in form.fields


@pytest.mark.parametrize("size", [0, 4, 5])
def test_an_upload_with_a_largest_size_is_a_form(storage, size):
    """A PUT can bind one size alone, a form a range."""
    form = storage.upload_request(PATH, HOUR, max_size=4, content_type="text/x-mine")

    answer = follow(form, b"x" * size)

    assert form.method == "POST"
    assert answer.status == (204 if size <= 4 else 400)
    assert storage.exists(PATH) is (size <= 4)


def test_a_form_keeps_the_headers_of_the_link(localstack):
    """Encoding and caching, and what the profile stores everything with."""
    storage = make_storage(localstack, storage_class="STANDARD_IA", acl="private", server_side_encryption="AES256")
    form = storage.upload_request("a", HOUR, max_size=9, cache_control="no-cache", content_encoding="gzip")

    answer = follow(form, b"x")

    kept = storage.client.head_object(Bucket=storage.bucket, Key="a")
    assert answer.status == 204
    assert (kept["CacheControl"], kept["ContentEncoding"]) == ("no-cache", "gzip")
    assert (kept["StorageClass"], kept["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")


def test_no_changed_form_is_taken(strict):
    """Each field left out, cut, lengthened or changed in one place, and fields that nobody signed."""
    form = strict.create_upload_form("a", HOUR, max_size=5, content_type="image/png")
    cases = {}
    for name, value in form.fields.items():
        rest = {key: text for key, text in form.fields.items() if key != name}
        cases[f"no {name}"] = rest
        cases[f"short {name}"] = {**rest, name: value[:-1]}
        cases[f"long {name}"] = {**rest, name: f"{value}A"}
        middle = len(value) // 2
        cases[f"changed {name}"] = {**rest, name: value[:middle] + "0" + value[middle + 1 :]}
        cases[f"changed {name} end"] = {**rest, name: value[:-1] + ("1" if value[-1] != "1" else "2")}
    for name, value in {
        "acl": "public-read",
        "x-amz-meta-a": "b",
        "x-amz-storage-class": "STANDARD",
        "success_action_redirect": "https://example.com/",
        "Content-Encoding": "gzip",
    }.items():
        cases[f"with {name}"] = {**form.fields, name: value}
    changed = {name: fields for name, fields in cases.items() if fields != form.fields}

    answers = {name: post(fields, form.url, b"bytes").status for name, fields in changed.items()}

    # A digest in base64 says the same with another last letter.
    assert {name: status for name, status in answers.items() if status not in (400, 403)} == {}
    assert len(answers) >= 35
    assert strict.list() == []
    assert follow(form, b"bytes").status == 204


@pytest.mark.parametrize(
    "change",
    [
        lambda policy: policy["conditions"].clear(),
        lambda policy: policy["conditions"].remove(["content-length-range", 0, 5]),
        lambda policy: policy.update(expiration="2099-01-01T00:00:00Z"),
        lambda policy: policy["conditions"].append({"acl": "public-read"}),
    ],
)
def test_a_policy_of_somebody_elses_is_refused(strict, change):
    """It is well-formed and would allow more, but nobody signed it."""
    form = strict.create_upload_form("a", HOUR, max_size=5)
    policy = policy_of(form)
    change(policy)

    written = base64.b64encode(json.dumps(policy).encode()).decode()
    answer = post({**form.fields, "policy": written}, form.url, b"bytes and more")

    assert answer.status == 403
    assert strict.list() == []


@pytest.mark.parametrize("key", ["b", "a/b", "../a", "${filename}", ""])
def test_the_name_of_the_file_is_not_the_browsers_to_choose(storage, key):
    """The key is signed, and neither another nor the name of the sent file takes its place."""
    form = storage.create_upload_form("a", HOUR, max_size=5)

    answer = follow(form, b"bytes", key=key)

    assert answer.status in (400, 403, 500)  # LocalStack stumbles over no key at all
    assert storage.list() == []


def test_a_form_is_for_its_own_bucket(strict, rgw):
    """Another one of the same owner takes nothing by it."""
    other = make_storage(rgw)
    form = strict.create_upload_form("a", HOUR, max_size=5)

    answer = post(form.fields, form.url.replace(strict.bucket, other.bucket), b"bytes")

    assert answer.status == 403
    assert strict.list() == other.list() == []


def test_a_form_that_has_expired_is_refused(storage):
    """It was good until five seconds ago."""
    links = S3Presigner(storage._gateway, storage._clients, clock=lambda: time.time() - 100)
    end = datetime.now(UTC) - timedelta(seconds=5)
    form = links.form("a", LinkRequest(operations=ShareLinkOperation.upload, expires_at=end, max_size=5))

    answer = follow(form, b"bytes")

    assert answer.status == 403
    assert storage.list() == []


def test_a_form_ends_when_it_says():
    """The policy, which the service reads, says the same as the instruction, which the app reads."""
    before = datetime.now(UTC)

    form = far().create_upload_form("a", HOUR, max_size=5)

    told = datetime.strptime(policy_of(form)["expiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert form.expires_at == told
    assert before + HOUR <= told <= datetime.now(UTC) + HOUR + timedelta(seconds=1)


def test_a_form_of_more_than_seven_days_is_cut_and_a_warning():
    """As with links: the credentials of a form are dated."""
    with pytest.warns(UserWarning, match="seven days at most"):
        form = far().create_upload_form("a", timedelta(days=9), max_size=5)

    assert form.expires_at <= datetime.now(UTC) + timedelta(days=7, seconds=1)


@pytest.mark.parametrize(("least", "most"), [(-1, 5), (6, 5), (0, -1)])
def test_limits_that_contradict_each_other_are_refused(least, most):
    """No file could be uploaded by such a form."""
    with pytest.raises(ValueError, match=r"(min|max)_size"):
        far().create_upload_form("a", HOUR, min_size=least, max_size=most)


@pytest.mark.parametrize("terms", [{"size": 4}, {"checksum": f"md5:{'0' * 32}"}, {"exclusive": True}])
def test_a_form_binds_nothing_that_only_a_put_can(terms):
    """The policy has no word for it."""
    with pytest.raises(UnsupportedOperationError, match="bind max_size together with"):
        far().upload_request("a", HOUR, max_size=5, **terms)


def test_a_header_that_a_form_would_lose_is_refused(strict):
    """Ceph takes the field and stores nothing of it; a link keeps the header."""
    with pytest.raises(UnsupportedOperationError, match="use a link with a size"):
        strict.upload_request("a", HOUR, max_size=5, cache_control="no-cache")


def test_a_link_of_one_piece_binds_no_largest_size():
    """That takes a form, and link_to gives a URL alone."""
    with pytest.raises(UnsupportedOperationError, match="max_size"):
        far().link_to("a", "upload", HOUR, max_size=5)


@pytest.mark.parametrize(
    "arguments", [{"preset": "r2", "endpoint_url": "https://r2.example.com"}, {"customer_key": b"k" * 32}]
)
def test_where_there_are_no_forms_the_error_says_what_else(arguments):
    """A service without them, and a key that a browser must not have."""
    with pytest.raises(UnsupportedOperationError, match="use upload_request"):
        far(**arguments).create_upload_form("a", HOUR, max_size=5)


# -- uploads in parts ------------------------------------------------------------------------------------------------


def ask(storage, step, body=None, **arguments):
    """Make one signed request of an upload in parts, with a plain client."""
    instruction = storage.multipart_request(PATH, step, HOUR, **arguments)
    return send(instruction.url, instruction.method, instruction.headers, body)


def completion(etags):
    """The body that ends an upload."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in etags.items()
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()


def test_a_plain_client_uploads_in_parts(storage):
    """Begun, sent, listed and ended by signed requests alone; the file is there with its type, and nothing else is."""
    contents = {1: b"a" * MIN_PART, 2: b"the rest"}
    upload_id = ask(storage, "create", b"", content_type="video/x-mine").element("UploadId")

    etags = {
        number: ask(storage, "part", content, upload_id=upload_id, number=number, size=len(content)).headers["ETag"]
        for number, content in contents.items()
    }
    listed = ask(storage, "list", upload_id=upload_id)
    nothing_yet = storage.exists(PATH)
    ended = ask(storage, "complete", completion(etags), upload_id=upload_id)

    assert listed.status == 200
    assert listed.body.count(b"<PartNumber>") == 2
    assert nothing_yet is False
    assert ended.status == 200
    assert storage.read(PATH) == contents[1] + contents[2]
    assert storage.stat(PATH).content_type == "video/x-mine"


@pytest.mark.parametrize("by", [-1, 1])
def test_a_part_of_another_size_is_refused(storage, by):
    """Where the size was signed; without one any is taken."""
    upload_id = ask(storage, "create", b"").element("UploadId")

    bound = ask(storage, "part", b"x" * (100 + by), upload_id=upload_id, number=1, size=100)
    free = ask(storage, "part", b"x" * (100 + by), upload_id=upload_id, number=1)
    parts = ask(storage, "list", upload_id=upload_id)

    assert (bound.status, free.status) == (403, 200)
    assert parts.element("Size") == str(100 + by)


def test_a_request_for_one_part_is_good_for_that_part(storage):
    """Not for another number, not for another upload, not to end or to abort the upload."""
    upload_id = ask(storage, "create", b"").element("UploadId")
    other_id = ask(storage, "create", b"").element("UploadId")
    url = storage.multipart_request(PATH, "part", HOUR, upload_id=upload_id, number=1).url

    answers = [
        send(url.replace("partNumber=1", "partNumber=2"), "PUT", {}, b"x"),
        send(url.replace("partNumber=1&", ""), "POST", {}, completion({1: "a"})),
        send(url.replace("partNumber=1&", ""), "DELETE"),
        send(url, "DELETE"),
        send(url, "GET"),
    ]
    swapped = storage.multipart_request(PATH, "part", HOUR, upload_id=other_id, number=1).url
    mixed = swapped.partition("&X-Amz-Algorithm")[0] + url[url.index("&X-Amz-Algorithm") :]
    answers.append(send(mixed, "PUT", {}, b"x"))

    assert {answer.status for answer in answers} == {403}
    assert {upload.upload_id for upload in storage.multipart.list_uploads()} == {upload_id, other_id}
    assert [*storage.multipart.list_parts(PATH, upload_id), *storage.multipart.list_parts(PATH, other_id)] == []


def test_an_upload_in_parts_is_given_up(storage):
    """Nothing of it stays behind."""
    upload_id = ask(storage, "create", b"").element("UploadId")
    ask(storage, "part", b"x", upload_id=upload_id, number=1)

    answer = ask(storage, "abort", upload_id=upload_id)

    assert answer.status == 204
    assert list(storage.multipart.list_uploads()) == []
    assert storage.list() == []


def test_what_the_profile_stores_with_is_sent_when_an_upload_begins(localstack):
    """And is signed, so that it can be neither left out nor changed."""
    storage = make_storage(localstack, storage_class="STANDARD_IA", cache_control="no-cache")
    begin = storage.multipart_request("a", "create", HOUR)

    answers = {
        name: send(begin.url, "POST", {key: value for key, value in begin.headers.items() if key != name}, b"").status
        for name in begin.headers
    }

    assert begin.headers == {
        "Content-Type": "application/octet-stream",
        "x-amz-storage-class": "STANDARD_IA",
        "Cache-Control": "no-cache",
    }
    assert set(answers.values()) == {403}
    assert send(begin.url, "POST", begin.headers, b"").status == 200


@pytest.mark.parametrize("step", STEPS)
def test_a_step_tells_until_when_it_is_good(step):
    """As it was asked for, and no header to be sent but at the beginning."""
    needed: dict[str, Any] = {} if step == "create" else {"upload_id": "id/+="}
    needed |= {"number": 10_000} if step == "part" else {}
    before = datetime.now(UTC)

    request = far().multipart_request("a", step, HOUR, **needed)

    assert before + HOUR <= request.expires_at <= datetime.now(UTC) + HOUR + timedelta(seconds=1)
    assert bool(request.headers) is (step == "create")
    assert ("uploadId=id%2F%2B%3D" in request.url) is (step != "create")


@pytest.mark.parametrize(
    ("step", "arguments", "message"),
    [
        ("begin", {}, "the steps of an upload in parts are create, part, complete, abort, list"),
        ("create", {"upload_id": "1"}, "takes neither"),
        ("create", {"number": 1}, "takes neither"),
        ("create", {"size": 1}, "size of a part"),
        ("part", {}, "takes number and upload_id"),
        ("part", {"upload_id": "1"}, "takes number and upload_id"),
        ("part", {"upload_id": "", "number": 1}, "takes number and upload_id"),
        ("part", {"upload_id": "1", "number": 0}, "takes number and upload_id"),
        ("part", {"upload_id": "1", "number": -1}, "numbered from 1 to 10000"),
        ("part", {"upload_id": "1", "number": 10_001}, "numbered from 1 to 10000"),
        ("part", {"upload_id": "1", "number": 1, "size": -1}, "whole number"),
        ("part", {"upload_id": "1", "number": 1, "content_type": "a/b"}, "content_type is said when"),
        ("complete", {}, "takes upload_id"),
        ("complete", {"upload_id": "1", "number": 1}, "takes upload_id"),
        ("complete", {"upload_id": "1", "size": 1}, "size of a part"),
        ("abort", {"upload_id": "1", "content_type": "a/b"}, "content_type is said when"),
    ],
)
def test_a_step_that_misses_something_is_refused(step, arguments, message):
    """The service's own answer would reach the browser only, and late."""
    with pytest.raises(ValueError, match=message):
        far().multipart_request("a", step, HOUR, **arguments)


def test_a_customers_own_key_signs_no_part():
    """Whoever had the request would need the key as well."""
    with pytest.raises(UnsupportedOperationError, match="sign a link"):
        far(customer_key=b"k" * 32).multipart_request("a", "create", HOUR)
