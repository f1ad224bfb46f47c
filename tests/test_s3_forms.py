"""Upload forms and signed multipart requests: the service enforces what was signed."""

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
def storages():
    """One storage on each server, shared by the module: creating one takes longer than most tests."""
    return {}


def empty_storage(storages, server, **arguments):
    """Return the storage on a server, without files and unfinished uploads."""
    name = server.name, *arguments
    storage = storages.get(name) or storages.setdefault(name, make_storage(server, **arguments))
    server.empty_bucket(storage.bucket)
    return storage


@pytest.fixture(params=variants("localstack", "rgw"))
def storage(request, storages):
    """An empty storage on each server that supports forms."""
    return empty_storage(storages, request.getfixturevalue(request.param), prefix="below")


@pytest.fixture
def strict(rgw, storages):
    """An empty storage on Ceph, which also verifies the signatures of forms."""
    return empty_storage(storages, rgw)


def aws_storage(**arguments):
    """Return a storage of AWS; no request is sent."""
    return S3Storage("a-bucket", "eu-central-1", "AKIDEXAMPLE", "a secret not for the logs", **arguments)


def policy_of(form):
    """Return the policy of a form."""
    return json.loads(base64.b64decode(form.fields["policy"]))


# -- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "status", "code"), [(1, 400, "EntityTooSmall"), (2, 204, ""), (5, 204, ""), (6, 400, "EntityTooLarge")]
)
def test_a_form_enforces_its_size_limits(storage, size, status, code):
    """The limits are inclusive; nothing else is stored."""
    form = storage.create_upload_form(PATH, HOUR, min_size=2, max_size=5)

    response = follow(form, b"x" * size)

    assert (response.status, response.code) == (status, code)
    assert storage.exists(PATH) is (status == 204)


@pytest.mark.parametrize("content_type", [None, "image/png"])
def test_a_form_enforces_its_content_type(storage, content_type):
    """The default is application/octet-stream, whatever the client declares."""
    form = storage.create_upload_form(PATH, HOUR, max_size=5, content_type=content_type)

    right = follow(form, b"bytes")
    wrong = follow(form, b"other", Content_Type="text/html")

    assert (right.status, wrong.status) == (204, 403)
    assert storage.read(PATH) == b"bytes"
    assert storage.stat(PATH).content_type == (content_type or "application/octet-stream")


def test_a_content_type_prefix_lets_the_client_choose_the_rest(storage):
    """Any image type is accepted, no other type and not a missing one."""
    form = storage.create_upload_form(PATH, HOUR, max_size=5, content_type="image/")

    untyped = follow(form, b"page")
    page = follow(form, b"page", Content_Type="text/html")
    stored_before = storage.exists(PATH)
    picture = follow(form, b"image", Content_Type="image/webp")

    assert (untyped.status, page.status, picture.status) == (403, 403, 204)
    assert stored_before is False
    assert storage.stat(PATH).content_type == "image/webp"
    assert "Content-Type" not in form.fields


def test_a_form_redirects_to_its_signed_address(storage):
    """S3 appends the name of the object; without the field, or with another address, it refuses."""
    done = "https://www.example.com/done"
    form = storage.create_upload_form("a", HOUR, max_size=5, redirect_to=done)
    other = {**form.fields, "success_action_redirect": "https://evil.example.com/"}

    refused = post(other, form.url, b"bytes")
    stored_before = storage.exists("a")
    response = follow(form, b"bytes")

    assert (refused.status, stored_before, response.status) == (403, False, 303)
    assert response.headers["Location"].startswith(done)
    assert storage.read("a") == b"bytes"


@pytest.mark.parametrize("size", [0, 4, 5])
def test_an_upload_with_max_size_is_a_form(storage, size):
    """A signed PUT enforces one exact size only, a form a range."""
    form = storage.upload_request(PATH, HOUR, max_size=4, content_type="text/x-mine")

    response = follow(form, b"x" * size)

    assert form.method == "POST"
    assert response.status == (204 if size <= 4 else 400)
    assert storage.exists(PATH) is (size <= 4)


def test_a_form_stores_headers_of_the_request_and_the_profile(localstack):
    """Encoding and caching of the request, and the storage settings of the profile."""
    storage = make_storage(localstack, storage_class="STANDARD_IA", acl="private", server_side_encryption="AES256")
    form = storage.upload_request("a", HOUR, max_size=9, cache_control="no-cache", content_encoding="gzip")

    response = follow(form, b"x")

    head = storage.client.head_object(Bucket=storage.bucket, Key="a")
    assert response.status == 204
    assert (head["CacheControl"], head["ContentEncoding"]) == ("no-cache", "gzip")
    assert (head["StorageClass"], head["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")


def test_every_modified_form_is_rejected(strict):
    """Each field removed, shortened, lengthened or changed, and additional fields."""
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

    responses = {name: post(fields, form.url, b"bytes").status for name, fields in changed.items()}

    assert {name: status for name, status in responses.items() if status not in (400, 403)} == {}
    assert len(responses) >= 35
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
def test_a_modified_policy_is_rejected(strict, change):
    """It is well-formed and would allow more, but its signature is wrong."""
    form = strict.create_upload_form("a", HOUR, max_size=5)
    policy = policy_of(form)
    change(policy)

    encoded = base64.b64encode(json.dumps(policy).encode()).decode()
    response = post({**form.fields, "policy": encoded}, form.url, b"bytes and more")

    assert response.status == 403
    assert strict.list() == []


@pytest.mark.parametrize("key", ["b", "a/b", "../a", "${filename}", ""])
def test_the_client_cannot_choose_the_key_of_a_form(storage, key):
    """The key is signed; neither another key nor the name of the file replaces it."""
    form = storage.create_upload_form("a", HOUR, max_size=5)

    response = follow(form, b"bytes", key=key)

    assert response.status in (400, 403, 500)  # LocalStack responds to a missing key with 500
    assert storage.list() == []


@pytest.mark.parametrize(
    ("path", "content_type"), [("in/${filename}", None), ("in/${FileName}.png", None), ("a", "image/${filename}")]
)
def test_the_uploader_cannot_choose_a_value_of_a_form(path, content_type):
    """The service would replace `${filename}` by the name of the uploaded file, in every field."""
    storage = aws_storage()

    with pytest.raises(UnsupportedOperationError, match="the uploader would choose"):
        storage.create_upload_form(path, HOUR, max_size=5, content_type=content_type)
    with pytest.raises(UnsupportedOperationError, match="a link of the app could"):
        storage.upload_request(path, HOUR, max_size=5, content_type=content_type)


def test_a_form_whose_prefix_is_a_placeholder_is_refused():
    """The prefix of a profile is part of the key."""
    with pytest.raises(UnsupportedOperationError, match="the uploader would choose"):
        aws_storage(prefix="${filename}").create_upload_form("a", HOUR, max_size=5)


def test_a_form_is_valid_for_one_bucket(strict, rgw):
    """Another bucket of the same owner rejects it."""
    other = make_storage(rgw)
    form = strict.create_upload_form("a", HOUR, max_size=5)

    response = post(form.fields, form.url.replace(strict.bucket, other.bucket), b"bytes")

    assert response.status == 403
    assert strict.list() == other.list() == []


def test_an_expired_form_is_rejected(storage):
    """It expired five seconds ago."""
    presigner = S3Presigner(storage._gateway, storage._clients, clock=lambda: time.time() - 100)
    end = datetime.now(UTC) - timedelta(seconds=5)
    form = presigner.form("a", LinkRequest(operations=ShareLinkOperation.upload, expires_at=end, max_size=5))

    response = follow(form, b"bytes")

    assert response.status == 403
    assert storage.list() == []


def test_the_policy_and_the_form_have_the_same_expiry():
    """The service reads the policy, the application the form."""
    before = datetime.now(UTC)

    form = aws_storage().create_upload_form("a", HOUR, max_size=5)

    expiration = datetime.strptime(policy_of(form)["expiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert form.expires_at == expiration
    assert before + HOUR <= expiration <= datetime.now(UTC) + HOUR + timedelta(seconds=1)


def test_a_form_above_seven_days_is_reduced_with_a_warning():
    """As with links."""
    with pytest.warns(UserWarning, match="seven days at most"):
        form = aws_storage().create_upload_form("a", timedelta(days=9), max_size=5)

    assert form.expires_at <= datetime.now(UTC) + timedelta(days=7, seconds=1)


@pytest.mark.parametrize(("min_size", "max_size"), [(-1, 5), (6, 5), (0, -1)])
def test_contradicting_size_limits_are_rejected(min_size, max_size):
    """Such a form would accept no file."""
    with pytest.raises(ValueError, match=r"(min|max)_size"):
        aws_storage().create_upload_form("a", HOUR, min_size=min_size, max_size=max_size)


@pytest.mark.parametrize("constraints", [{"size": 4}, {"checksum": f"md5:{'0' * 32}"}, {"exclusive": True}])
def test_constraints_that_a_form_cannot_enforce_are_rejected(constraints):
    """A policy has no condition for them."""
    with pytest.raises(UnsupportedOperationError, match="enforce max_size together with"):
        aws_storage().upload_request("a", HOUR, max_size=5, **constraints)


def test_a_header_that_forms_of_the_service_lose_is_rejected(strict):
    """Ceph accepts the field and does not store it; a link stores the header."""
    with pytest.raises(UnsupportedOperationError, match="ignores cache_control and content_encoding of a form"):
        strict.upload_request("a", HOUR, max_size=5, cache_control="no-cache")


def test_link_to_rejects_max_size():
    """It needs a form, and link_to returns a URL only."""
    with pytest.raises(UnsupportedOperationError, match="max_size"):
        aws_storage().link_to("a", "upload", HOUR, max_size=5)


@pytest.mark.parametrize(
    "arguments", [{"preset": "r2", "endpoint_url": "https://r2.example.com"}, {"customer_key": b"k" * 32}]
)
def test_a_form_that_s3_cannot_sign_needs_an_app(arguments):
    """For a service without forms, and with a customer-provided key."""
    with pytest.raises(UnsupportedOperationError, match=r"a link of the app could, but .* belongs to no app"):
        aws_storage(**arguments).create_upload_form("a", HOUR, max_size=5)


# -- multipart uploads ------------------------------------------------------------------------------------------------


def send_step(storage, step, body=None, **arguments):
    """Send one signed request of a multipart upload with a plain HTTP client."""
    request = storage.multipart_request(PATH, step, HOUR, **arguments)
    return send(request.url, request.method, request.headers, body)


def completion(etags):
    """Return the body that completes an upload."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in etags.items()
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()


def test_a_plain_client_sends_a_multipart_upload(storage):
    """With signed requests only; the file has its content type, and is not visible before completion."""
    contents = {1: b"a" * MIN_PART, 2: b"the rest"}
    upload_id = send_step(storage, "create", b"", content_type="video/x-mine").element("UploadId")

    etags = {
        number: send_step(storage, "part", content, upload_id=upload_id, number=number, size=len(content)).headers[
            "ETag"
        ]
        for number, content in contents.items()
    }
    listed = send_step(storage, "list", upload_id=upload_id)
    stored_before = storage.exists(PATH)
    completed = send_step(storage, "complete", completion(etags), upload_id=upload_id)

    assert listed.status == 200
    assert listed.body.count(b"<PartNumber>") == 2
    assert stored_before is False
    assert completed.status == 200
    assert storage.read(PATH) == contents[1] + contents[2]
    assert storage.stat(PATH).content_type == "video/x-mine"


@pytest.mark.parametrize("by", [-1, 1])
def test_a_part_of_another_size_is_rejected(storage, by):
    """The length is always signed."""
    upload_id = send_step(storage, "create", b"").element("UploadId")

    response = send_step(storage, "part", b"x" * (100 + by), upload_id=upload_id, number=1, size=100)

    assert response.status == 403
    assert storage.multipart.list_parts(PATH, upload_id) == []


def test_a_signed_part_request_is_valid_for_that_part_only(storage):
    """Not for another number or upload, and not to complete or abort the upload."""
    upload_id = send_step(storage, "create", b"").element("UploadId")
    other_id = send_step(storage, "create", b"").element("UploadId")
    url = storage.multipart_request(PATH, "part", HOUR, upload_id=upload_id, number=1, size=1).url

    responses = [
        send(url.replace("partNumber=1", "partNumber=2"), "PUT", {}, b"x"),
        send(url.replace("partNumber=1&", ""), "POST", {}, completion({1: "a"})),
        send(url.replace("partNumber=1&", ""), "DELETE"),
        send(url, "DELETE"),
        send(url, "GET"),
    ]
    swapped = storage.multipart_request(PATH, "part", HOUR, upload_id=other_id, number=1, size=1).url
    mixed = swapped.partition("&X-Amz-Algorithm")[0] + url[url.index("&X-Amz-Algorithm") :]
    responses.append(send(mixed, "PUT", {}, b"x"))

    assert {response.status for response in responses} == {403}
    assert {upload.upload_id for upload in storage.multipart.list_uploads()} == {upload_id, other_id}
    assert [*storage.multipart.list_parts(PATH, upload_id), *storage.multipart.list_parts(PATH, other_id)] == []


def test_a_multipart_upload_is_aborted_by_a_signed_request(storage):
    """Nothing of it is left."""
    upload_id = send_step(storage, "create", b"").element("UploadId")
    send_step(storage, "part", b"x", upload_id=upload_id, number=1, size=1)

    response = send_step(storage, "abort", upload_id=upload_id)

    assert response.status == 204
    assert list(storage.multipart.list_uploads()) == []
    assert storage.list() == []


def test_storage_settings_of_the_profile_are_signed_when_an_upload_is_created(localstack):
    """So that the client can neither leave them out nor change them."""
    storage = make_storage(localstack, storage_class="STANDARD_IA", cache_control="no-cache")
    create = storage.multipart_request("a", "create", HOUR)

    responses = {
        name: send(create.url, "POST", {key: value for key, value in create.headers.items() if key != name}, b"").status
        for name in create.headers
    }

    assert create.headers == {
        "Content-Type": "application/octet-stream",
        "x-amz-storage-class": "STANDARD_IA",
        "Cache-Control": "no-cache",
    }
    assert set(responses.values()) == {403}
    assert send(create.url, "POST", create.headers, b"").status == 200


@pytest.mark.parametrize("step", STEPS)
def test_a_step_has_the_requested_expiry(step):
    """Only the step that creates the upload has headers."""
    needed: dict[str, Any] = {} if step == "create" else {"upload_id": "id/+="}
    needed |= {"number": 10_000, "size": 1} if step == "part" else {}
    before = datetime.now(UTC)

    request = aws_storage().multipart_request("a", step, HOUR, **needed)

    assert before + HOUR <= request.expires_at <= datetime.now(UTC) + HOUR + timedelta(seconds=1)
    assert bool(request.headers) is (step == "create")
    assert ("uploadId=id%2F%2B%3D" in request.url) is (step != "create")


@pytest.mark.parametrize(
    ("step", "arguments", "message"),
    [
        ("begin", {}, "step must be one of create, part, complete, abort, list"),
        ("create", {"upload_id": "1"}, "accepts neither"),
        ("create", {"number": 1}, "accepts neither"),
        ("create", {"size": 1}, "size only for the step 'part'"),
        ("part", {}, "accepts number and upload_id"),
        ("part", {"upload_id": "1"}, "accepts number and upload_id"),
        ("part", {"upload_id": "", "number": 1}, "accepts number and upload_id"),
        ("part", {"upload_id": "1", "number": 0}, "accepts number and upload_id"),
        ("part", {"upload_id": "1", "number": -1}, "number must be a part number from 1 to 10000"),
        ("part", {"upload_id": "1", "number": 10_001}, "number must be a part number from 1 to 10000"),
        ("part", {"upload_id": "1", "number": 1, "size": -1}, "whole number"),
        ("part", {"upload_id": "1", "number": 1}, "the step 'part' needs a size"),
        (
            "part",
            {"upload_id": "1", "number": 1, "content_type": "a/b"},
            "content_type is only for the step 'create'",
        ),
        ("complete", {}, "accepts upload_id"),
        ("complete", {"upload_id": "1", "number": 1}, "accepts upload_id"),
        ("complete", {"upload_id": "1", "size": 1}, "size only for the step 'part'"),
        ("abort", {"upload_id": "1", "content_type": "a/b"}, "content_type is only for the step 'create'"),
    ],
)
def test_a_step_with_wrong_arguments_is_rejected(step, arguments, message):
    """The response of the service would reach the browser only, and late."""
    with pytest.raises(ValueError, match=message):
        aws_storage().multipart_request("a", step, HOUR, **arguments)


def test_multipart_requests_with_a_customer_key_are_rejected():
    """The client would need the key."""
    with pytest.raises(UnsupportedOperationError, match="sign a link"):
        aws_storage(customer_key=b"k" * 32).multipart_request("a", "create", HOUR)
